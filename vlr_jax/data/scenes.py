"""The embedded default dataset: pictures or videos, features and captions of the procedural world.

Source: none, it is generated. Splits `train`, `val`, `test` with exactly the numbers of scenes asked for (default 6000,
500, 500), 5 captions each. Facts are known exactly for every visual and every caption.

Images (`vlr_jax.world`): region features are float16 `[R, 64]` with R from 4 to 8 (2 to 6 objects and 2 distractors), a
fixed projection of the objects' attributes plus noise; pictures are 96 × 96 JPEG, their thumbnails at most 128 × 128.
K = 332 facts.

Videos (`vlr_jax.motion`): region features are float16 `[sum R, 64]`, frame after frame, and `regions` int32 `[F]` says
how many each of the F = 8 frames has: of the 3 objects that are on stage `spread` parts each, and 2 distractors.
Pictures are the F frames. K = 268 facts.

Moments (`vlr_jax.stories`): features are float16 `[60, 64]`, a row for each clip of 2 s of a long video; the texts are
3 queries, with exact `windows` in seconds and the `saliency_scores` of their clips. What is shown when, asked for or
not, is in `shown` and `shown_key`. The only picture is the thumbnail. K = 249 facts.
"""

import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import film, grammar, moments, motion, narration, reel, stories, world

# Whole numbers and the range in which they make sense; the other options are checked apart.
LIMITS = {
    "train": (0, 10**7),
    "val": (0, 10**7),
    "test": (0, 10**7),
    "captions": (1, 20),
    "synonyms": (1, 3),
    "clutter": (0, 1000),
    "regions": (world.MOST, 1000),
    "spread": (min(film.DEALT), max(film.DEALT)),
    "length": (motion.FEWEST_FRAMES, 1000),
    "feature_dim": (1, 10**5),
    "size": (16, 4096),
    "clips": (stories.FEWEST_CLIPS, stories.MOST_CLIPS),
    "queries": (1, stories.MOST_QUERIES),
    "seed": (0, 2**63 - 1),
}
MOMENTS = {"annotators": reel.ANNOTATORS, "shown": True}  # what is known of them
THUMB = 128  # pixels; a picture that is not larger is its own thumbnail
RANGES = {  # of the other numbers: in words, and as a test
    "mention": ("in (0, 1]", lambda value: 0 < value <= 1),
    "noise": ("in [0, 100]", lambda value: 0 <= value <= 100),
    "background": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "blur": ("in [0, 20] clips", lambda value: 0 <= value <= 20),
    "jitter": (f"in [0, {reel.MOST_JITTER}] clips", lambda value: 0 <= value <= reel.MOST_JITTER),
}
STILL = {"spread": 1, "length": 8}  # options of videos alone, at the defaults, which say nothing for the other kinds
LONG = {"clips": 60, "queries": 3, "background": 0.5, "blur": 1.0, "jitter": 0.5}  # and those of moments alone
# What is not for a kind. A frame of a video has as many regions as there are; a query says all that is asked for.
FOREIGN = {
    "images": STILL | LONG,
    "videos": {"regions": 8, **LONG},
    "moments": {"captions": 5, "mention": 0.7, "regions": 8, **STILL},
}


def check_options(options: dict) -> None:
    """Raises ValueError for an option that has no sense, and says what is valid."""
    kind = options["kind"]
    if kind not in world.KINDS:
        raise ValueError(f"scenes has no kind {kind!r}; it has: {', '.join(world.KINDS)}")
    for name, default in FOREIGN[kind].items():
        if options[name] != default:
            others = " or ".join(repr(other) for other in world.KINDS if name not in FOREIGN[other])
            raise ValueError(f"scenes: {name}={options[name]!r} is for kind={others}, not for {kind}")
    for name, (low, high) in LIMITS.items():
        value = options[name]
        if name == "size" and value == 0 and not isinstance(value, bool):
            continue  # no pictures
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"scenes: {name} must be a whole number from {low} to {high}, not {value!r}")
    for name, (range_, valid) in RANGES.items():
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not valid(value):
            raise ValueError(f"scenes: {name} must be {range_}, not {value!r}")
    if (most := stories.most_asked(options["clips"])) < options["queries"]:
        raise ValueError(f"scenes: {options['clips']} clips have room for at most {most} queries")
    if not any(options[split] for split in world.SPLITS):
        raise ValueError(f"scenes: at least one of {', '.join(world.SPLITS)} must be more than 0")


class Builder(tfds.core.GeneratorBasedBuilder):
    """Generates the records; see the module's docstring.

    Args:
        source: must be None; nothing is read.
        kind: "images", "videos" or "moments". An option that is not for the kind must be left at its default.
        train, val, test: scenes of each split; a split with 0 is left out. Scene i of a split depends on `seed`, the
            split and i alone, so a larger split starts with the scenes of a smaller one.
        captions: texts of each scene, 1 to 20.
        mention: in (0, 1], the mean share of a scene, or of what happens in a video, that a caption tells. Low: more
            scenes fit a caption.
        synonyms: 1 to 3 words in use for each idea.
        noise: standard deviation of the noise on the features, whose numbers have about 1.
        clutter: distractor regions of each image, or of each frame of a video; of long videos, bits of evidence that
            drift by where nothing happens.
        regions: the most regions of an image, at least 6; where it bites, distractors are left out. Frames of videos
            have as many as there are.
        spread: videos: part regions of each object, 1 to 5, among which its attributes and what it does are dealt out.
        length: videos: frames F, at least 3.
        feature_dim: width D of the features.
        size: pixels of a picture's side; 0 = no pictures, which is made several times faster. Moments have a thumbnail
            alone.
        clips: moments: clips F of a video, 2 s each, 12 to 6000.
        queries: moments: texts of each video, 1 to 12, of which 60 clips have room for 5.
        background: moments: in [0, 1], the share of the near misses between what is asked for that are shown.
        blur: moments: clips in which evidence fades in and out, half of them on either side of a window's border.
        jitter: moments: clips, at most 1.5, by which each kind of evidence may come and go too early or too late.
        seed: of everything; another seed is another world (also other features for the same attributes).
        **tfds_arguments: data_dir, file_format.

    Raises:
        ValueError: an option is out of its range.
    """

    name = "scenes"
    VERSION = tfds.core.Version("1.0.0")
    ADDED = STILL | LONG  # options that folders made before them don't name
    facts_complete = True  # nothing is in a picture or a caption that the facts do not say
    RELEASE_NOTES = {"1.0.0": "Scenes at rest, videos, and long videos with moments."}

    def __init__(
        self,
        *,
        source=None,
        kind: str = "images",
        train: int = 6000,
        val: int = 500,
        test: int = 500,
        captions: int = 5,
        mention: float = 0.7,
        synonyms: int = 3,
        noise: float = 0.15,
        clutter: int = 2,
        regions: int = 8,
        spread: int = 1,
        length: int = 8,
        feature_dim: int = 64,
        size: int = 96,
        clips: int = 60,
        queries: int = 3,
        background: float = 0.5,
        blur: float = 1.0,
        jitter: float = 0.5,
        seed: int = 0,
        **tfds_arguments,
    ):
        if source is not None:
            raise ValueError(f"scenes are generated and read no source, but got source={source!r}")
        self.options = dict(
            kind=kind, train=train, val=val, test=test, captions=captions, mention=mention, synonyms=synonyms,
            noise=noise, clutter=clutter, regions=regions, spread=spread, length=length, feature_dim=feature_dim,
            size=size, clips=clips, queries=queries, background=background, blur=blur, jitter=jitter, seed=seed,
        )  # fmt: skip
        check_options(self.options)
        self.counts = {split: self.options[split] for split in world.SPLITS}
        self.quarantine: list[dict] = []
        self.world = {"images": world, "videos": motion, "moments": stories}[kind]  # they have FACTS and fact_vector
        self.fact_names = list(self.world.FACTS)
        if kind == "moments":
            own = {"name": "world", "dim": feature_dim, "normalise": "none"}
            self.moments = {
                "clip_length": stories.CLIP_LENGTH, "annotators": reel.ANNOTATORS, "backbones": [own],
                "text_features": None, "defects": {},
            }  # fmt: skip
        super().__init__(**tfds_arguments)
        self._original_state.update(self.options)  # what a pickled builder is made from again

    def sources(self) -> list:
        """Raw files that went in: none."""
        return []

    def texts(self, split: str) -> list[list[str]]:
        """The texts of each scene of a split, without its picture."""
        streams = (self._streams(split, index) for index in range(self.options[split]))
        return [[text for text, _ in self._captions(self._graph(graph), words)] for graph, words, _ in streams]

    def _info(self) -> tfds.core.DatasetInfo:
        features, count = tfds.features, len(self.fact_names)

        def array(*shape, dtype):
            return features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

        fields = {
            "name": features.Text(),
            "text": features.Sequence(features.Text()),
            "visual": array(None, self.options["feature_dim"], dtype=np.float16),
            "visual_facts": array(count, dtype=np.bool_),
            "text_facts": array(None, count, dtype=np.bool_),
        }
        long = self.options["kind"] == "moments"
        fields |= moments.form(**MOMENTS) if long else {"boxes": array(None, 4, dtype=np.float32)}
        if self.options["kind"] == "videos":
            fields["regions"] = array(None, dtype=np.int32)
        if self.options["size"]:
            jpeg = features.Tensor(shape=(), dtype=np.object_)
            fields |= {"thumb": jpeg} if long else {"frames": features.Sequence(jpeg), "thumb": jpeg}
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, disable_shuffling=True, features=features.FeaturesDict(fields)
        )

    def _split_generators(self, dl_manager) -> dict:
        return {split: self._generate_examples(split) for split in world.SPLITS if self.options[split]}

    def _generate_examples(self, split: str):
        for index in range(self.options[split]):
            yield index, self._record(split, index)

    def _streams(self, split: str, index: int) -> list:
        return [world.random_stream(self.options["seed"], split, index, stream) for stream in world.STREAMS]

    def _graph(self, rng):
        o = self.options
        if o["kind"] == "moments":
            return stories.story(rng, clips=o["clips"], queries=o["queries"])
        return world.scene(rng) if o["kind"] == "images" else motion.video(rng)

    def _captions(self, graph, words) -> list:
        o = self.options
        if o["kind"] == "moments":
            return stories.ask(graph, words, synonyms=o["synonyms"])
        tell = grammar.captions if o["kind"] == "images" else narration.captions
        return tell(graph, words, count=o["captions"], mention=o["mention"], synonyms=o["synonyms"])

    def _record(self, split: str, index: int) -> dict:
        """One scene with its captions, in the form of `_info`."""
        rng, words, detector = self._streams(split, index)
        graph, name = self._graph(rng), f"{split}-{index:06d}"
        told = self._captions(graph, words)
        record = {"name": name, "text": [text for text, _ in told]}
        if self.options["kind"] == "moments":
            record |= self._long(name, graph, told, detector)
            true = stories.facts(graph.shown(self.options["background"]))
        else:
            record |= (self._still if self.options["kind"] == "images" else self._moving)(graph, detector)
            true = self.world.facts(graph)
        return record | {
            "visual_facts": self.world.fact_vector(true),
            "text_facts": np.stack([self.world.fact_vector(said) for _, said in told]),
        }

    def _still(self, scene: world.Scene, detector) -> dict:
        """What is seen of an image."""
        o = self.options
        shared = {"dim": o["feature_dim"], **{name: o[name] for name in ("noise", "clutter", "seed")}}
        visual, boxes = world.regions(scene, detector, most=o["regions"], **shared)
        pictures = [world.render(scene, o["size"])] if o["size"] else []
        return {"visual": visual, "boxes": boxes, **_encoded(pictures)}

    def _moving(self, video: motion.Video, detector) -> dict:
        """What is seen of a video."""
        o = self.options
        shared = {
            "dim": o["feature_dim"],
            **{name: o[name] for name in ("noise", "clutter", "seed", "length", "spread")},
        }
        visual, regions, boxes = film.regions(video, detector, **shared)
        times = motion.moments(o["length"]) if o["size"] else []
        pictures = [film.render(video, moment, o["size"]) for moment in times]
        return {"visual": visual, "regions": regions, "boxes": boxes, **_encoded(pictures)}

    def _long(self, name: str, story: stories.Story, told: list, detector) -> dict:
        """What is seen of a long video, and the moments that its texts ask for."""
        o = self.options
        cover = reel.coverage(story, blur=o["blur"], jitter=o["jitter"])
        shared = {option: o[option] for option in ("background", "clutter", "noise", "seed")}
        queries = [
            moments.Query(f"{name}#{i}", text, story.windows(values), *reel.saliency(story, cover, values))
            for i, (values, (text, _)) in enumerate(zip(story.queries, told, strict=True))
        ]
        shown = [(event.start, event.end, stories.key(event.values)) for event in story.shown(o["background"])]
        video = moments.Video(name, story.duration(), queries, name, shown=shown)
        visual = reel.features(story, cover, detector, dim=o["feature_dim"], **shared)
        record = {"visual": visual, **moments.fields(video, stories.CLIP_LENGTH, **MOMENTS)}
        if o["size"]:
            record["thumb"] = world.jpeg(world.render(stories.pictured(story), min(o["size"], THUMB)))
        return record


def _encoded(pictures: list) -> dict:
    """The fields `frames` and `thumb` of pictures; the thumbnail is of the middle one."""
    if not pictures:
        return {}
    frames, middle = [world.jpeg(picture) for picture in pictures], len(pictures) // 2
    small = max(pictures[middle].size) <= THUMB
    return {"frames": frames, "thumb": frames[middle] if small else world.jpeg(pictures[middle].resize((THUMB, THUMB)))}
