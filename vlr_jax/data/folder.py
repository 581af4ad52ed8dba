"""Your own data: a JSONL file beside images or precomputed features (docs/datasets.md has the form and an example).

Source: the user's files. Counts, feature shape and dtype are whatever they hold: features become float16 `[R, D]`;
without features, images become one JPEG frame with a shorter side of at most `image_size`. Everything is checked before
anything is written. A broken item is left out, counted and written down (`quarantine`), never filled with zeros.
"""

import collections
import math
import pathlib

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from vlr_jax import features as feature_files
from vlr_jax import jsonl, raw
from vlr_jax import media as media_files

MOST_FACTS = 4096
SHOWN = 50  # problems listed in one error
JPEG_QUALITY = 92


def _fact_names(items: list[jsonl.Item]) -> list[str] | None:
    """All facts of all items in alphabetical order; None if there are none.

    Raises:
        ValueError: more than `MOST_FACTS`, as attributes that differ for every visual make.
    """
    facts = sorted(set().union(*(item.facts for item in items)))
    if len(facts) > MOST_FACTS:
        keys = collections.Counter(fact.partition("=")[0] for fact in facts).most_common(5)
        most = ", ".join(f"{key} ({n} values)" for key, n in keys)
        raise ValueError(f"attributes make {len(facts)} facts, {MOST_FACTS} are possible; most come from: {most}")
    return facts or None


def _files(source, captions, features, media) -> tuple[pathlib.Path, list[pathlib.Path] | None, list[pathlib.Path]]:
    """(the JSONL file, the features to join or None, media folder or tar files)."""
    if source is None:
        raise ValueError("The dataset 'folder' needs a source: a folder with a .jsonl file, or that file")
    source = pathlib.Path(source)
    if not source.exists():
        raise ValueError(f"The source {source} does not exist")
    folder = source if source.is_dir() else source.parent
    if source.is_file():
        lines = source
    elif captions is not None:
        lines = raw.one(captions, folder, "captions")
    else:
        there = sorted(folder.glob("*.jsonl"))
        lines = folder / "captions.jsonl"
        if lines not in there and len(there) != 1:
            names = ", ".join(path.name for path in there) or "none"
            raise ValueError(f"{folder} has no captions.jsonl; name one with captions=…; its .jsonl files: {names}")
        lines = lines if lines in there else there[0]
    if features is not None:
        features = [raw.one(part, folder, "features") for part in str(features).split(",")]
    return lines, features, raw.media(media, folder)


def _sum(widths: tuple[int, ...]) -> str:
    return " + ".join(map(str, widths))


class Builder(tfds.core.GeneratorBasedBuilder):
    """Own data → records.

    After construction: `quarantine` (broken items as `{"line", "media", "reason"}`), `notes` (what else to tell),
    `fact_names` (`"key=value"` of all attributes, or None) and `counts` (visuals of each split) are known.
    """

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        source=None,
        captions=None,
        features=None,
        media=None,
        image_size: int = 224,
        strict: bool = False,
        progress: bool = False,
        **tfds_arguments,
    ):
        """Checks everything.

        Args:
            source: the folder of the JSONL file, or the file.
            captions: the file's name, if it is neither `captions.jsonl` nor the folder's only `.jsonl`.
            features: precomputed features (`vlr_jax.features.open_features`); several with commas between are joined
                along their width (`vlr_jax.features.join`); None: the images themselves.
            media: a folder or tar files (a glob, or several with commas); None: the source folder.
            image_size: without features, larger images are made so small that their shorter side has so many pixels.
            strict: a broken item is an error.
            progress: show a bar while checking.
            **tfds_arguments: for tensorflow-datasets.

        Raises:
            ValueError: one error with all problems and their line numbers: media that stand twice, and with `strict`
                every broken item; or nothing usable at all; or files that are missing or of no known form.
        """
        self._lines, feature_paths, places = _files(source, captions, features, media)
        self._sources = self.find_sources(source=source, captions=captions, features=features, media=media)
        self._image_size = image_size
        self._media = media_files.open_media(places)
        self._features = feature_paths and [feature_files.open_features(path) for path in feature_paths]
        items, broken, errors, found = jsonl.read(self._lines)
        items, unsplit = jsonl.assign_splits(items)
        items, unseen = self._check_visuals(items, errors, progress)
        self.quarantine = sorted(broken + unsplit + unseen, key=lambda problem: problem["line"])
        self._raise(errors, strict, usable=bool(items))
        self._items = items
        self.counts = dict(collections.Counter(item.split for item in items))
        self.notes = [f"{n} × {what}: left out of the records" for what, n in sorted(found.items()) if n]
        if len(feature_paths or ()) > 1:
            parts = zip(feature_paths, self._widths, strict=True)
            self.notes.append(f"features joined: {' + '.join(f'{path.name} ({width})' for path, width in parts)}")
        self.fact_names = _fact_names(items)
        self._thumbs = self._features is None or any(self._pictured(item) for item in items)
        self._moments = any(any(item.windows) or not math.isnan(item.duration) for item in items)
        super().__init__(**tfds_arguments)

    @classmethod
    def find_sources(cls, *, source=None, captions=None, features=None, media=None, **_) -> list[pathlib.Path]:
        """The raw files that go in, found without reading them."""
        lines, features, places = _files(source, captions, features, media)
        files = [lines]
        for place in features or ():
            files += raw.below(place, feature_files.SUFFIXES)
        for place in places:
            files += raw.below(place, media_files.IMAGES)
        return files

    def sources(self) -> list[pathlib.Path]:
        """The raw files that went in."""
        return self._sources

    def texts(self, split: str) -> list[list[str]]:
        """The texts of each visual of a split."""
        return [item.texts for item in self._items if item.split == split]

    def _pictured(self, item: jsonl.Item) -> bool:
        return pathlib.PurePosixPath(item.media).suffix.lower() not in media_files.VIDEOS and item.media in self._media

    def _parts(self, item: jsonl.Item) -> list[np.ndarray]:
        """An item's features, float16 `[R, D_i]`, of every file.

        Raises:
            ValueError: a file has none, or they are not finite float16 numbers.
        """
        return [feature_files.half(feature_files.find(features, item.media)) for features in self._features]

    def _visual(self, item: jsonl.Item) -> np.ndarray:
        """An item's features as float16 `[R, D]`.

        Raises:
            ValueError: as `_parts` and `features.join`.
        """
        return feature_files.join(self._parts(item))

    def _image(self, item: jsonl.Item) -> np.ndarray:
        """An item's picture, its shorter side at most `image_size`.

        Raises:
            ValueError: missing, undecodable, or a video.
        """
        if pathlib.PurePosixPath(item.media).suffix.lower() in media_files.VIDEOS:
            raise ValueError("video without features: this version does not decode video")
        image = media_files.decode(self._media[item.media], at_least=self._image_size)
        return media_files.shrink(image, shorter=self._image_size)

    def _check_visuals(self, items: list, errors: list[str], progress: bool) -> tuple[list[jsonl.Item], list[dict]]:
        """Looks at every visual: (items that can be stored, broken ones); without a common width adds to `errors`."""
        widths, reasons = {}, {}
        for item in tqdm.tqdm(items, "checking", unit="visual", disable=not progress, leave=False):
            try:
                if self._features is None:
                    self._image(item)
                else:
                    parts = self._parts(item)
                    feature_files.join(parts)
                    widths[item.line] = tuple(part.shape[1] for part in parts)
            except ValueError as error:
                reasons[item.line] = str(error)
        if widths:
            counts = collections.Counter(widths.values()).most_common()
            self._widths, n = counts[0]
            if 2 * n <= len(widths):
                found = ", ".join(f"{_sum(width)} ({times} ×)" for width, times in counts[:10])
                errors.append(f"features have no common width; found {found}")
            else:
                for line, width in widths.items():
                    if width != self._widths:
                        most = f"{n} of {len(widths)} have {_sum(self._widths)}"
                        reasons[line] = f"features have {_sum(width)} numbers a row, {most}"
        broken = [
            {"line": item.line, "media": item.media, "reason": reasons[item.line]}
            for item in items
            if item.line in reasons
        ]
        return [item for item in items if item.line not in reasons], broken

    def _raise(self, errors: list[str], strict: bool, usable: bool) -> None:
        """One error with all that must not pass; nothing if all is well."""
        problems = list(errors)
        if strict or not usable:
            problems += [
                f"line {p['line']}: " + ": ".join(filter(None, (p["media"], p["reason"]))) for p in self.quarantine
            ]
        if usable and not problems:
            return
        head = f"{self._lines}: {len(problems)} problems" + ("" if usable else "; no line is usable")
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise ValueError("\n  ".join([head, *problems[:SHOWN], *more]))

    def _info(self) -> tfds.core.DatasetInfo:
        kinds = tfds.features
        record = {"name": kinds.Text(), "text": kinds.Sequence(kinds.Text())}
        if self._features is None:
            record["frames"] = kinds.Sequence(kinds.Tensor(shape=(), dtype=np.object_))
        else:
            # As raw bytes a record is written 10 × and read 2 × faster than as a list of numbers.
            record["visual"] = kinds.Tensor(shape=(None, sum(self._widths)), dtype=np.float16, encoding="bytes")
        if self._thumbs:
            record["thumb"] = kinds.Tensor(shape=(), dtype=np.object_)
        if self.fact_names is not None:
            n = len(self.fact_names)
            record["visual_facts"] = kinds.Tensor(shape=(n,), dtype=np.bool_, encoding="bytes")
            record["text_facts"] = kinds.Tensor(shape=(None, n), dtype=np.bool_, encoding="bytes")
        if self._moments:
            record["windows"] = kinds.Tensor(shape=(None, 2), dtype=np.float32, encoding="bytes")
            record["n_windows"] = kinds.Tensor(shape=(None,), dtype=np.int32, encoding="bytes")
            record["duration"] = kinds.Tensor(shape=(), dtype=np.float32)
        return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(record), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split: str):
        undecodable = 0
        for key, item in enumerate(item for item in self._items if item.split == split):
            record = {"name": item.media, "text": item.texts}
            if self._features is None:
                image = self._image(item)
                record |= {
                    "frames": [media_files.encode_jpeg(image, JPEG_QUALITY)],
                    "thumb": media_files.thumbnail(image),
                }
            else:
                record["visual"] = self._visual(item)
                if self._thumbs:
                    try:
                        record["thumb"] = media_files.thumbnail(self._image(item)) if self._pictured(item) else b""
                    except ValueError:
                        undecodable += 1
                        record["thumb"] = b""
            yield key, record | self._extras(item)
        if undecodable:
            self.notes.append(f"{undecodable} × image of {split} that cannot be decoded: features kept, no thumbnail")

    def _extras(self, item: jsonl.Item) -> dict[str, np.ndarray]:
        """Facts and moments of a record, where the dataset has them."""
        extras = {}
        if self.fact_names is not None:
            facts = np.array([name in item.facts for name in self.fact_names])
            extras |= {"visual_facts": facts, "text_facts": np.tile(facts, (len(item.texts), 1))}
        if self._moments:
            extras["windows"] = np.array(sum(item.windows, []), np.float32).reshape(-1, 2)
            extras["n_windows"] = np.array([len(windows) for windows in item.windows], np.int32)
            extras["duration"] = np.float32(item.duration)
        return extras
