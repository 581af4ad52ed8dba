"""MS-COCO captions (Lin et al. 2014; Chen et al. 2015) on Karpathy's split, from the layouts of `vlr_jax.precomputed`.

Source: the user's files. 113,287 train (with restval), 5,000 dev (the first 1,000 are kept, as the field evaluates)
and 5,000 test images, whose split is called `testall` as in the field; SCAN's `test`, the first 1,000 of them, is not
stored again. Five captions each, in Karpathy's JSON of train up to seven. Features become float16 `[R, D]` (36 × 2048
for the usual regions), images one JPEG. Visuals are called by their COCO image id where that is known.
"""

import tensorflow_datasets as tfds

from vlr_jax import precomputed

RELEASE = precomputed.Release(
    folder="coco_precomp",
    karpathy="dataset_coco.json",
    counts={"train": (113287,), "dev": (5000, 1000), "testall": (5000,)},
    karpathy_splits={"train": "train", "restval": "train", "val": "dev", "test": "testall"},
    named="id",
)


class Builder(tfds.core.GeneratorBasedBuilder):
    """MS-COCO → records.

    Args:
        source: a folder with `{split}_caps.txt` (or with `precomp/` or `coco_precomp/`), or with
            `dataset_coco.json`; or such a JSON.
        features, media, dev, subset: `precomputed.read` tells.
        image_size: without features, larger images are made so small that their shorter side has so many pixels.
        **tfds_arguments: data_dir, file_format.

    Raises:
        ValueError: files are missing, or not what they should be; says what was expected and what was found.
    """

    name = "coco"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        source=None,
        features=None,
        media=None,
        image_size: int = 224,
        dev: int = 1000,
        subset: bool = False,
        **tfds_arguments,
    ):
        self._splits, self._media, self.notes = precomputed.read(
            RELEASE, source=source, features=features, media=media, dev=dev, subset=subset
        )
        self._image_size = image_size
        self.counts = {split: len(made.names) for split, made in self._splits.items()}
        self.quarantine: list[dict] = []
        self.fact_names = None
        super().__init__(**tfds_arguments)

    @classmethod
    def find_sources(cls, **options) -> list:
        """The raw files that go in, found without reading them."""
        return precomputed.sources(RELEASE, **options)

    def texts(self, split: str) -> list[list[str]]:
        """The texts of each visual of a split."""
        return self._splits[split].texts

    def _info(self) -> tfds.core.DatasetInfo:
        features = precomputed.record_features(self._splits, self._media)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager) -> dict:
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str):
        return precomputed.records(self._splits[split], self._media, self._image_size)
