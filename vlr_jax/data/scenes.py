"""The embedded default dataset: pictures or videos, region features and captions of the procedural world.

Source: none, it is generated. Splits `train`, `val`, `test` with exactly the numbers of scenes asked for (default 6000,
500, 500), 5 captions each. Facts are known exactly for every visual and every caption.

Images (`vlr_jax.world`): region features are float16 `[R, 64]` with R from 4 to 8 (2 to 6 objects and 2 distractors), a
fixed projection of the objects' attributes plus noise; pictures are 96 × 96 JPEG, their thumbnails at most 128 × 128.
K = 332 facts.

Videos (`vlr_jax.motion`): region features are float16 `[sum R, 64]`, frame after frame, and `regions` int32 `[F]` says
how many each of the F = 8 frames has: of the 3 objects that are on stage `spread` parts each, and 2 distractors.
Pictures are the F frames. K = 268 facts.
"""

import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import film, grammar, motion, narration, world

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
    "seed": (0, 2**63 - 1),
}
THUMB = 128  # pixels; a picture that is not larger is its own thumbnail
STILL = {"spread": 1, "length": 8}  # what options of videos are for images: the defaults, which say nothing
MOVING = {"regions": 8}  # and the other way round: a frame of a video has as many regions as there are


def check_options(options: dict) -> None:
    """Raises ValueError for an option that has no sense, and says what is valid."""
    if options["kind"] not in world.KINDS:
        raise ValueError(f"scenes has no kind {options['kind']!r}; it has: {', '.join(world.KINDS)}")
    still = options["kind"] == "images"
    for name, default in (STILL if still else MOVING).items():
        if options[name] != default:
            other = "videos" if still else "images"
            raise ValueError(f"scenes: {name}={options[name]!r} is for kind={other!r}, not for {options['kind']}")
    for name, (low, high) in LIMITS.items():
        value = options[name]
        if name == "size" and value == 0 and not isinstance(value, bool):
            continue  # no pictures
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"scenes: {name} must be a whole number from {low} to {high}, not {value!r}")
    for name, range_, valid in (
        ("mention", "in (0, 1]", lambda value: 0 < value <= 1),
        ("noise", "in [0, 100]", lambda value: 0 <= value <= 100),
    ):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not valid(value):
            raise ValueError(f"scenes: {name} must be {range_}, not {value!r}")
    if not any(options[split] for split in world.SPLITS):
        raise ValueError(f"scenes: at least one of {', '.join(world.SPLITS)} must be more than 0")


class Builder(tfds.core.GeneratorBasedBuilder):
    """Generates the records; see the module's docstring.

    Args:
        source: must be None; nothing is read.
        kind: "images" or "videos".
        train, val, test: scenes of each split; a split with 0 is left out. Scene i of a split depends on `seed`, the
            split and i alone, so a larger split starts with the scenes of a smaller one.
        captions: texts of each scene, 1 to 20.
        mention: in (0, 1], the mean share of a scene, or of what happens in a video, that a caption tells. Low: more
            scenes fit a caption.
        synonyms: 1 to 3 words in use for each idea.
        noise: standard deviation of the noise on the features, whose numbers have about 1.
        clutter: distractor regions of each image, or of each frame of a video.
        regions: the most regions of an image, at least 6; where it bites, distractors are left out. Frames of videos
            have as many as there are.
        spread: videos: part regions of each object, 1 to 5, among which its attributes and what it does are dealt out.
        length: videos: frames F, at least 3.
        feature_dim: width D of the region features.
        size: pixels of a picture's side; 0 = no pictures, which is made several times faster.
        seed: of everything; another seed is another world (also other features for the same attributes).
        **tfds_arguments: data_dir, file_format.

    Raises:
        ValueError: an option is out of its range.
    """

    name = "scenes"
    VERSION = tfds.core.Version("1.0.0")
    ADDED = STILL  # options that folders made before them don't name
    facts_complete = True  # nothing is in a picture or a caption that the facts do not say
    RELEASE_NOTES = {"1.0.0": "Scenes at rest, and videos."}

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
        seed: int = 0,
        **tfds_arguments,
    ):
        if source is not None:
            raise ValueError(f"scenes are generated and read no source, but got source={source!r}")
        self.options = dict(
            kind=kind, train=train, val=val, test=test, captions=captions, mention=mention, synonyms=synonyms,
            noise=noise, clutter=clutter, regions=regions, spread=spread, length=length, feature_dim=feature_dim,
            size=size, seed=seed,
        )  # fmt: skip
        check_options(self.options)
        self.counts = {split: self.options[split] for split in world.SPLITS}
        self.quarantine: list[dict] = []
        self.world = world if kind == "images" else motion  # both have FACTS, facts, fact_vector
        self.fact_names = list(self.world.FACTS)
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
            "boxes": array(None, 4, dtype=np.float32),
            "visual_facts": array(count, dtype=np.bool_),
            "text_facts": array(None, count, dtype=np.bool_),
        }
        if self.options["kind"] == "videos":
            fields["regions"] = array(None, dtype=np.int32)
        if self.options["size"]:
            jpeg = features.Tensor(shape=(), dtype=np.object_)
            fields |= {"frames": features.Sequence(jpeg), "thumb": jpeg}
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
        return world.scene(rng) if self.options["kind"] == "images" else motion.video(rng)

    def _captions(self, graph, words) -> list:
        tell = grammar.captions if self.options["kind"] == "images" else narration.captions
        o = self.options
        return tell(graph, words, count=o["captions"], mention=o["mention"], synonyms=o["synonyms"])

    def _record(self, split: str, index: int) -> dict:
        """One scene with its captions, in the form of `_info`."""
        rng, words, detector = self._streams(split, index)
        graph = self._graph(rng)
        told = self._captions(graph, words)
        seen = self._still if self.options["kind"] == "images" else self._moving
        return {
            "name": f"{split}-{index:06d}",
            "text": [text for text, _ in told],
            **seen(graph, detector),
            "visual_facts": self.world.fact_vector(self.world.facts(graph)),
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
        moments = motion.moments(o["length"]) if o["size"] else []
        pictures = [film.render(video, moment, o["size"]) for moment in moments]
        return {"visual": visual, "regions": regions, "boxes": boxes, **_encoded(pictures)}


def _encoded(pictures: list) -> dict:
    """The fields `frames` and `thumb` of pictures; the thumbnail is of the middle one."""
    if not pictures:
        return {}
    frames, middle = [world.jpeg(picture) for picture in pictures], len(pictures) // 2
    small = max(pictures[middle].size) <= THUMB
    return {"frames": frames, "thumb": frames[middle] if small else world.jpeg(pictures[middle].resize((THUMB, THUMB)))}
