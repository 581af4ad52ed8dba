"""A released dataset in one of the layouts of `precomputed` → the builder of its records."""

import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import features as feature_files
from vlr_jax import media as media_files
from vlr_jax import precomputed

JPEG_QUALITY = 92


def builder(dataset: str, release: precomputed.Release) -> type[tfds.core.GeneratorBasedBuilder]:
    """The `Builder` of a dataset of that name."""

    class Builder(tfds.core.GeneratorBasedBuilder):
        """The files of a release → records.

        Args:
            source: a folder with `{split}_caps.txt` (or with `precomp/` or the release's own folder), or with
                Karpathy's JSON; or such a JSON.
            features, media, dev, subset: `precomputed.read` tells.
            image_size: without features, larger images are made so small that their shorter side has so many pixels.
            **tfds_arguments: data_dir, file_format.

        Raises:
            ValueError: files are missing, or not what they should be; says what was expected and what was found.
        """

        name = dataset
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
                release, source=source, features=features, media=media, dev=dev, subset=subset
            )
            self._image_size = image_size
            self.counts = {split: len(made.names) for split, made in self._splits.items()}
            self.quarantine: list[dict] = []
            self.fact_names = None
            super().__init__(**tfds_arguments)

        @classmethod
        def find_sources(cls, **options) -> list:
            """The raw files that go in, found without reading them."""
            return precomputed.sources(release, **options)

        def texts(self, split: str) -> list[list[str]]:
            """The texts of each visual of a split."""
            return self._splits[split].texts

        def _info(self) -> tfds.core.DatasetInfo:
            features = _record_features(self._splits, self._media)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager) -> dict:
            return {split: self._generate_examples(split) for split in self._splits}

        def _generate_examples(self, split: str):
            return _records(self._splits[split], self._media, self._image_size)

    return Builder


def _record_features(splits: dict[str, precomputed.Split], media) -> tfds.features.FeaturesDict:
    """The form of `_records`."""
    kinds, width = tfds.features, next(iter(splits.values())).width
    form = {"name": kinds.Text(), "text": kinds.Sequence(kinds.Text())}
    if width is None:
        form["frames"] = kinds.Sequence(kinds.Tensor(shape=(), dtype=np.object_))
    else:
        form["visual"] = kinds.Tensor(shape=(None, width), dtype=np.float16, encoding="bytes")
    if media is not None:
        form["thumb"] = kinds.Tensor(shape=(), dtype=np.object_)
    return kinds.FeaturesDict(form)


def _records(split: precomputed.Split, media: media_files.Media | None, image_size: int):
    """The records of a split, each read when it is asked for.

    Raises:
        ValueError: features or picture of a visual cannot be used; with its name and place.
    """
    for i, (name, file, texts) in enumerate(zip(split.names, split.files, split.texts, strict=True)):
        record = {"name": name, "text": texts}
        try:
            if split.features is not None:
                record["visual"] = feature_files.half(split.features(i))
                if record["visual"].shape[1] != split.width:
                    raise ValueError(f"features of width {record['visual'].shape[1]}, the others have {split.width}")
            if media is not None:
                image = media_files.decode(media[file], at_least=image_size)
                if split.features is None:
                    image = media_files.shrink(image, shorter=image_size)
                    record["frames"] = [media_files.encode_jpeg(image, JPEG_QUALITY)]
                record["thumb"] = media_files.thumbnail(image)
        except ValueError as error:
            raise ValueError(f"visual {i} ({name}): {error}") from error
        yield i, record
