"""Own data: where their files lie, and what their features become in records.

`Joined` are features for retrieval, side by side as they are; `Timed` those of clips, of named backbones, with the
moments of the texts. Both do the same for `data/folder.py`: `settle`, look at an item (`seen`), say the `form` of its
part of a record, make the `fields`.
"""

import collections
import dataclasses
import math
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import backbones, jsonl, moments, raw, timed
from vlr_jax import features as feature_files


def folder(source) -> pathlib.Path:
    """The folder of the data: the source, or that of the file."""
    return pathlib.Path(source) if pathlib.Path(source).is_dir() else pathlib.Path(source).parent


def files(source, captions, features, media):
    """(the JSONL file, or None for a gallery; the places of features, or None; media folder or tar files)."""
    if source is None:
        raise ValueError("The dataset 'folder' needs a source: a folder with a .jsonl file or media, or that file")
    source = pathlib.Path(source)
    if not source.exists():
        raise ValueError(f"The source {source} does not exist")
    place = folder(source)
    if source.is_file():
        lines = source
    elif captions is not None:
        lines = raw.one(captions, place, "captions")
    else:
        there = sorted(place.glob("*.jsonl"))
        lines = place / "captions.jsonl"
        if lines not in there and (len(there) > 1 or features is not None and not there):
            names = ", ".join(path.name for path in there) or "none"
            raise ValueError(f"{place} has no captions.jsonl; name one with captions=…; its .jsonl files: {names}")
        lines = lines if lines in there else there[0] if there else None
    if features is not None:
        features = [path for part in str(features).split(",") for path in _places(part, place)]
    return lines, features, raw.media(media, place)


def _places(part: str, place: pathlib.Path) -> list[pathlib.Path]:
    """Of a part of `--features`: with a name all that the glob fits, without one the only place."""
    if backbones.is_named(part):
        return raw.find(part.split("=", 1)[1], place, "features")
    return [raw.one(part, place, "features")]


def moment_data(items: list[jsonl.Item], features, text_features, clip_length) -> tuple[bool, list[str]]:
    """(whether own data become records of moments, what is told if not).

    They do where it is asked for, by a name of features, text features or a clip length; and where a line has windows
    or saliency and every line a duration.

    Raises:
        ValueError: it is asked for, and there are no features.
    """
    given = {"text_features": text_features, "clip_length": clip_length}
    asked = [name for name, value in given.items() if value is not None]
    if features is None:
        if asked:
            raise ValueError(f"{' and '.join(asked)} belong to features of clips: --features NAME=PATH,…; got none")
        return False, []
    if asked or any(map(backbones.is_named, str(features).split(","))):
        return True, []
    if not any(any(item.windows) or any(item.saliency) for item in items):
        return False, []
    without = sum(math.isnan(item.duration) for item in items)
    why = f"{without} lines have no duration and no clip_length is given"
    return not without, [f"windows are kept, but these are no data for moment retrieval: {why}"] if without else []


def common_width(widths: dict[int, tuple[int, ...]]) -> tuple[tuple[int, ...], dict[int, str], list[str]]:
    """What most lines have: (the widths, why the other lines are refused, errors if most have nothing in common).

    Args:
        widths: line → the widths of its features, of every file.
    """

    def total(some):
        return " + ".join(map(str, some))

    counts = collections.Counter(widths.values()).most_common()
    common, n = counts[0]
    if 2 * n <= len(widths):
        found = ", ".join(f"{total(width)} ({times} ×)" for width, times in counts[:10])
        return common, {}, [f"features have no common width; found {found}"]
    most = f"{n} of {len(widths)} have {total(common)}"
    wrong = {line: width for line, width in widths.items() if width != common}
    return common, {line: f"features have {total(width)} numbers a row, {most}" for line, width in wrong.items()}, []


class Joined:
    """Features for retrieval: of every file, joined along their width.

    Args:
        paths: of the files, in order.
    """

    about = None  # no moments

    def __init__(self, paths: list[pathlib.Path]):
        self._paths, self._all = paths, [feature_files.open_features(path) for path in paths]
        self.widths: tuple[int, ...] = ()

    def settle(self, items: list[jsonl.Item]) -> None:
        """Nothing has to be known before the items are looked at."""

    def _parts(self, item: jsonl.Item) -> list[np.ndarray]:
        return [feature_files.half(feature_files.find(features, item.media)) for features in self._all]

    def seen(self, item: jsonl.Item) -> tuple[int, ...]:
        """The widths of an item's features, of every file.

        Raises:
            ValueError: a file has none, they are not finite float16 numbers, or cannot be joined.
        """
        parts = self._parts(item)
        feature_files.join(parts)
        return tuple(part.shape[1] for part in parts)

    def notes(self) -> list[str]:
        """What was joined."""
        if len(self._paths) < 2:
            return []
        parts = zip(self._paths, self.widths, strict=True)
        return [f"features joined: {' + '.join(f'{path.name} ({width})' for path, width in parts)}"]

    def form(self) -> dict:
        """The fields of a record, for tensorflow-datasets."""
        # As raw bytes a record is written 10 × and read 2 × faster than as a list of numbers.
        shape = (None, sum(self.widths))
        return {"visual": tfds.features.Tensor(shape=shape, dtype=np.float16, encoding="bytes")}

    def fields(self, item: jsonl.Item) -> dict:
        """The fields of an item: `visual` float16 `[R, D]`."""
        return {"visual": feature_files.join(self._parts(item))}


class Timed:
    """Features of clips, and the moments of the texts.

    Args:
        items: all of them.
        features, text_features, clip_length, normalise: of `timed.Clips`. place: the folder of the data.

    Raises:
        ValueError: as `timed.Clips`; the ids of texts or the numbers of annotators do not fit.
    """

    def __init__(self, items: list[jsonl.Item], features, place: pathlib.Path, text_features, clip_length, normalise):
        if repeated := jsonl.repeated_ids(items):
            raise ValueError("\n  ".join([f"{len(repeated)} ids of texts stand there twice", *repeated[:20]]))
        self._clips = timed.Clips(features, place, text_features, clip_length, normalise)
        self._annotators = moments.annotators(list(map(_video, items)))
        self._shown = any(item.shown for item in items)
        self._unmarked = collections.Counter(
            item.split for item in items for windows in item.windows if not windows
        )  # fmt: skip
        self.widths: tuple[int, ...] = ()

    def settle(self, items: list[jsonl.Item]) -> None:
        """Learns the widths, and refuses a clip length that is wrong for most items (`timed.Clips.settle`)."""
        self._clips.settle(list(map(_video, items)), "the features")

    def seen(self, item: jsonl.Item) -> tuple[int, ...]:
        """The widths of an item's features.

        Raises:
            ValueError: of a backbone or text there are none, or they do not fit each other, the duration, the windows
                or the saliency.
        """
        video = _video(item)
        rows = len(self._clips.rows(video))
        length, duration = self._clips.length(rows, item.duration), item.duration
        duration = rows * length if math.isnan(duration) else duration
        if late := [start for start, _ in sum(item.windows, []) if start >= duration]:
            raise ValueError(f"a window starts at {late[0]:g} s, the features end at {duration:g} s")
        for place, saliency in enumerate(item.saliency, start=1):
            if saliency and abs(len(saliency) - rows) > backbones.ROWS:
                raise ValueError(f"text {place}: saliency of {len(saliency)} clips, the features have {rows} rows")
        self._clips.texts(video)
        return tuple(one["dim"] for one in self._clips.visual.about())

    def notes(self) -> list[str]:
        """Nothing that prepared.json does not say of the moments."""
        return []

    def form(self) -> dict:
        """The fields of a record, for tensorflow-datasets."""
        dim = self._clips.text.dim if self._clips.text else None
        return self._clips.form() | moments.form(annotators=self._annotators, text_dim=dim, shown=self._shown)

    def fields(self, item: jsonl.Item) -> dict:
        """The fields of an item: `visual` float16 `[F, D]`, and those of `moments`."""
        video = _video(item)
        visual, texts = self._clips.rows(video), self._clips.texts(video)
        length = self._clips.length(len(visual), item.duration)
        if math.isnan(item.duration):
            video = dataclasses.replace(video, duration=len(visual) * length)
        more = {"annotators": self._annotators, "texts": texts, "shown": self._shown}
        return {"visual": visual} | moments.fields(video, length, **more)

    def sources(self) -> list[pathlib.Path]:
        """The files of all features."""
        return self._clips.sources()

    @property
    def about(self) -> dict:
        """Of prepared.json."""
        reason = "queries without a window, kept as such"
        defects = {f"{split}: {reason}": n for split, n in sorted(self._unmarked.items(), key=str)}
        return {"annotators": self._annotators, **self._clips.about(), "defects": defects}


def opened(items: list[jsonl.Item], paths, features, place: pathlib.Path, text_features, clip_length, normalise):
    """(`Timed`, `Joined` or, without features, None; what is to be told).

    Args:
        items: all of them.
        paths: the places of `features`, or None.
        features, text_features, clip_length, normalise: as they were asked for. place: the folder of the data.

    Raises:
        ValueError: as `moment_data`, `Timed` and `features.open_features`.
    """
    with_moments, told = moment_data(items, features, text_features, clip_length)
    if with_moments:
        return Timed(items, features, place, text_features, clip_length, normalise), told
    return (Joined(paths) if paths else None), told


def _video(item: jsonl.Item) -> moments.Video:
    """An item as a video with queries; of its saliency the clips that anyone gave something other than 0."""
    asked = []
    for name, text, windows, saliency in zip(item.ids, item.texts, item.windows, item.saliency, strict=True):
        rated = [(place, row) for place, row in enumerate(saliency) if any(row)]
        pairs = [(start, end) for start, end in windows]
        asked.append(moments.Query(name, text, pairs, [i for i, _ in rated], [row for _, row in rated]))
    plain = str(pathlib.PurePosixPath(item.media).with_suffix(""))
    source = item.media if item.source is None else item.source
    return moments.Video(item.media, item.duration, asked, source, (plain,), item.shown)
