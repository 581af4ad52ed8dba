"""The embedded default dataset: pictures, region features and captions of the procedural world (`vlr_jax.world`).

Source: none, it is generated. Splits `train`, `val`, `test` with exactly the numbers of scenes asked for (default 6000,
500, 500), 5 captions each. Region features are float16 `[R, 64]` with R from 4 to 8 (2 to 6 objects and 2 distractors),
a fixed projection of the objects' attributes plus noise; pictures are 96 × 96 JPEG, their thumbnails at most 128 × 128.
Facts are the K = 332 of `world.FACTS`, known exactly for every picture and every caption.
"""

import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import grammar, world

# Whole numbers and the range in which they make sense; `kind`, `mention` and `noise` are checked apart.
LIMITS = {
    "train": (0, 10**7),
    "val": (0, 10**7),
    "test": (0, 10**7),
    "captions": (1, 20),
    "synonyms": (1, 3),
    "clutter": (0, 1000),
    "regions": (world.MOST, 1000),
    "feature_dim": (1, 10**5),
    "size": (16, 4096),
    "seed": (0, 2**63 - 1),
}
THUMB = 128  # pixels; a picture that is not larger is its own thumbnail


def check_options(options: dict) -> None:
    """Raises ValueError for an option that has no sense, and says what is valid."""
    if options["kind"] not in world.KINDS:
        raise ValueError(f"scenes has no kind {options['kind']!r}; it has: {', '.join(world.KINDS)}")
    for name, (low, high) in LIMITS.items():
        value = options[name]
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
        kind: "images".
        train, val, test: scenes of each split; a split with 0 is left out. Scene i of a split depends on `seed`, the
            split and i alone, so a larger split starts with the scenes of a smaller one.
        captions: texts of each scene, 1 to 20.
        mention: in (0, 1], the mean share of a scene that a caption tells. Low: more scenes fit a caption.
        synonyms: 1 to 3 words in use for each idea.
        noise: standard deviation of the noise on the features, whose numbers have about 1.
        clutter: distractor regions of each scene.
        regions: the most regions of a scene, at least 6; where it bites, distractors are left out.
        feature_dim: width D of the region features.
        size: pixels of a picture's side.
        seed: of everything; another seed is another world (also other features for the same attributes).
        **tfds_arguments: data_dir, file_format.

    Raises:
        ValueError: an option is out of its range.
    """

    name = "scenes"
    VERSION = tfds.core.Version("1.0.0")
    facts_complete = True  # nothing is in a picture or a caption that the facts do not say
    RELEASE_NOTES = {"1.0.0": "Scenes at rest."}

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
        feature_dim: int = 64,
        size: int = 96,
        seed: int = 0,
        **tfds_arguments,
    ):
        if source is not None:
            raise ValueError(f"scenes are generated and read no source, but got source={source!r}")
        self.options = dict(
            kind=kind, train=train, val=val, test=test, captions=captions, mention=mention, synonyms=synonyms,
            noise=noise, clutter=clutter, regions=regions, feature_dim=feature_dim, size=size, seed=seed,
        )  # fmt: skip
        check_options(self.options)
        self.counts = {split: self.options[split] for split in world.SPLITS}
        self.quarantine: list[dict] = []
        self.fact_names = list(world.FACTS)
        super().__init__(**tfds_arguments)
        self._original_state.update(self.options)  # what a pickled builder is made from again

    def sources(self) -> list:
        """Raw files that went in: none."""
        return []

    def texts(self, split: str) -> list[list[str]]:
        """The texts of each scene of a split, without its picture."""
        streams = (self._streams(split, index) for index in range(self.options[split]))
        return [[text for text, _ in self._captions(world.scene(graph), words)] for graph, words, _ in streams]

    def _info(self) -> tfds.core.DatasetInfo:
        features, count = tfds.features, len(world.FACTS)
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            disable_shuffling=True,
            features=features.FeaturesDict(
                {
                    "name": features.Text(),
                    "text": features.Sequence(features.Text()),
                    "visual": features.Tensor(
                        shape=(None, self.options["feature_dim"]), dtype=np.float16, encoding="bytes"
                    ),
                    "boxes": features.Tensor(shape=(None, 4), dtype=np.float32, encoding="bytes"),
                    "frames": features.Sequence(features.Tensor(shape=(), dtype=np.object_)),
                    "thumb": features.Tensor(shape=(), dtype=np.object_),
                    "visual_facts": features.Tensor(shape=(count,), dtype=np.bool_, encoding="bytes"),
                    "text_facts": features.Tensor(shape=(None, count), dtype=np.bool_, encoding="bytes"),
                }
            ),
        )

    def _split_generators(self, dl_manager) -> dict:
        return {split: self._generate_examples(split) for split in world.SPLITS if self.options[split]}

    def _generate_examples(self, split: str):
        for index in range(self.options[split]):
            yield index, self._record(split, index)

    def _streams(self, split: str, index: int) -> list:
        return [world.random_stream(self.options["seed"], split, index, stream) for stream in world.STREAMS]

    def _captions(self, scene, words) -> list:
        o = self.options
        return grammar.captions(scene, words, count=o["captions"], mention=o["mention"], synonyms=o["synonyms"])

    def _record(self, split: str, index: int) -> dict:
        """One scene with its captions, in the form of `_info`."""
        o = self.options
        graph, words, detector = self._streams(split, index)
        scene = world.scene(graph)
        told = self._captions(scene, words)
        visual, boxes = world.regions(
            scene,
            detector,
            dim=o["feature_dim"],
            noise=o["noise"],
            clutter=o["clutter"],
            most=o["regions"],
            seed=o["seed"],
        )
        picture = world.render(scene, o["size"])
        frame = thumb = world.jpeg(picture)
        if o["size"] > THUMB:
            thumb = world.jpeg(picture.resize((THUMB, THUMB)))
        return {
            "name": f"{split}-{index:06d}",
            "text": [text for text, _ in told],
            "visual": visual,
            "boxes": boxes,
            "frames": [frame],
            "thumb": thumb,
            "visual_facts": world.fact_vector(world.facts(scene)),
            "text_facts": np.stack([world.fact_vector(said) for _, said in told]),
        }
