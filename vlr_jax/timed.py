"""A set of videos with moments as the field has it on disk → the builder of its records, from features of clips.

As in `clips.py` nothing is left out in silence: videos without features are `missing`, those whose features do not fit
each other or the annotated duration are quarantined with the reason, and a clip length that is wrong for most videos is
an error that names the likely right one.
"""

import collections
import dataclasses
import inspect
import math
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import annotations, backbones, moments, queries, raw, workers
from vlr_jax import features as feature_files

TRIED = 64  # videos whose features are looked at before anything is written


@dataclasses.dataclass(frozen=True)
class Set:
    """What is known of a set.

    Attributes:
        read: `(folder, defects, *, subset, …)` → the splits; its further keyword arguments are options of the builder.
        files: names or globs of its annotations.
        clip_length: seconds of one row of the usual features; None: each video's duration / rows.
    """

    read: Callable[..., moments.Splits]
    files: tuple[str, ...]
    clip_length: float | None


class Clips:
    """The features of a set's videos and texts, and the seconds of their rows.

    Args:
        features, normalise: `NAME=PATH,NAME=PATH,…` and the recipes, of `backbones.Backbones`.
        folder: where they are looked for first.
        text_features: a place with token features, by `qid{qid}` or `{qid}`; None: texts enter as words.
        clip_length: seconds of a row; None: each video's duration / rows.

    Raises:
        ValueError: files are missing or of no known form; a clip length that is none.
    """

    def __init__(self, features: str, folder: pathlib.Path, text_features, clip_length, normalise: str):
        if clip_length is not None and not (queries.number(clip_length) and clip_length > 0):
            raise ValueError(f"clip_length is seconds above 0, or null for duration / rows; got {clip_length!r}")
        self.clip_length, self.visual = clip_length, backbones.Backbones(features, folder, normalise)
        self.text = text_features and backbones.Backbone(
            "text", text_features, folder, self.visual.text_recipe, feature_files.TEXT_ARRAYS
        )

    def keys(self, video: moments.Video) -> tuple[list[str | None], list[str]]:
        """(the keys of its features, the names of the backbones that have none of it)."""
        return self.visual.find((video.name, *video.called))

    def rows(self, video: moments.Video) -> np.ndarray:
        """Features float16 `[F, D]`; raises ValueError where there are none, or none that can be used."""
        keys, absent = self.keys(video)
        if absent:
            raise ValueError(f"no features of {' and '.join(absent)}")
        return self.visual.read(keys)

    def texts(self, video: moments.Video) -> list[np.ndarray] | None:
        """Token features float16 `[L, Dt]` of each query; None where texts enter as words.

        Raises:
            ValueError: a query has none.
        """
        return self.text and [self._tokens(query) for query in video.queries]

    def _tokens(self, query: moments.Query) -> np.ndarray:
        key = self.text.key((f"qid{query.name}", query.name))
        if key is None:
            raise ValueError(f"no text features of query {query.name}: neither qid{query.name} nor {query.name}")
        return self.text.read(key)

    def length(self, rows: int, duration: float) -> float:
        """Seconds of a row of a video.

        Args:
            rows: of its features. duration: in seconds; NaN where it is unknown.

        Raises:
            ValueError: its rows do not make up its duration; or neither that nor the clip length is known.
        """
        if math.isnan(duration):
            if self.clip_length is None:
                raise ValueError("has no duration: give one, or the clip length (--option clip_length=SECONDS)")
            return self.clip_length
        if self.clip_length is None:
            return duration / rows
        if not backbones.covers(rows, self.clip_length, duration):
            raise ValueError(backbones.uncovered(rows, self.clip_length, duration))
        return self.clip_length

    def settle(self, videos: list[moments.Video], where: str) -> str | None:
        """Learns the widths of all features from some videos, and refuses a wrong clip length.

        Args:
            videos: all of them; the duration may be NaN.
            where: for the error.

        Returns:
            why nothing can be used, if nothing could be read of any of them; else None.

        Raises:
            ValueError: the clip length is wrong for most.
        """
        rows, durations, reason = [], [], "there are none"
        for place in np.unique(np.linspace(0, len(videos) - 1, TRIED).astype(int)) if videos else ():
            try:
                rows.append(len(self.rows(videos[place])))
                durations.append(videos[place].duration)
                self.texts(videos[place])
            except ValueError as error:
                reason = f"{videos[place].name}: {error}"
        everything = [*self.visual.all, *([self.text] if self.text else [])]
        for one in everything:
            one.settle()
        known = [pair for pair in zip(rows, durations, strict=True) if not math.isnan(pair[1])]
        if known and self.clip_length is not None:
            backbones.check_clip_length(*map(list, zip(*known, strict=True)), self.clip_length, where)
        without = [str(one) for one in everything if one.dim is None]
        return f"nothing can be read of {' and '.join(without)}; the last reason: {reason}" if without else None

    def form(self) -> dict:
        """The fields of a record that `read` gives beside those of `moments`, for tensorflow-datasets."""
        width = sum(one.dim for one in self.visual.all)
        return {"visual": tfds.features.Tensor(shape=(None, width), dtype=np.float16, encoding="bytes")}

    def about(self) -> dict:
        """For prepared.json."""
        text = self.text and {"dim": self.text.dim, "normalise": self.text.recipe}
        return {"clip_length": self.clip_length, "backbones": self.visual.about(), "text_features": text or None}

    def sources(self) -> list[pathlib.Path]:
        """All files of features."""
        places = [place for one in [*self.visual.all, *([self.text] if self.text else [])] for place in one.places]
        return [path for place in places for path in feature_files.files(place)]


def builder(dataset: str, about: Set) -> type[tfds.core.GeneratorBasedBuilder]:
    """The `Builder` of a dataset of that name."""

    class Builder(tfds.core.GeneratorBasedBuilder):
        """The files of a set → records.

        Args:
            source: the folder of the annotations.
            features, text_features, clip_length, normalise: see `Clips`.
            subset: counts are not asserted, splits may be absent, and those without any video are left out.
            **tfds_arguments: data_dir, file_format; and the options of the set's own reader.

        Raises ValueError where files are missing, or are not what they should be, with what was expected and found.
        """

        name = dataset
        VERSION = tfds.core.Version("1.0.0")

        def __init__(
            self, *, source=None, features=None, text_features=None, clip_length: float | None = about.clip_length,
            normalise: str = "l2", subset: bool = False, **tfds_arguments,
        ):  # fmt: skip
            own = {option: tfds_arguments.pop(option) for option in _own(about) if option in tfds_arguments}
            folder, self._defects = _folder(dataset, source, features), collections.Counter()
            self._clips = Clips(features, folder, text_features, clip_length, normalise)
            splits = about.read(folder, self._defects, subset=subset, **own)
            self._splits, self.missing, self.notes = _usable(dataset, splits, self._clips, subset)
            self._annotators = moments.annotators(sum(self._splits.values(), []))
            self.quarantine, self.fact_names = [], None
            self.counts = {split: len(found) for split, found in self._splits.items()}
            super().__init__(**tfds_arguments)

        @classmethod
        def find_sources(cls, *, source=None, features=None, text_features=None, **_) -> list[pathlib.Path]:
            """The raw files that go in, found without reading them."""
            return _sources(about, _folder(dataset, source, features), features, text_features)

        @property
        def moments(self) -> dict:
            """Of prepared.json; complete when all is written."""
            mended = dict(sorted(self._defects.items()))
            return self._clips.about() | {"annotators": self._annotators, "defects": mended}

        def texts(self, split: str) -> list[list[str]]:
            """The texts of each video of a split."""
            return [[query.text for query in video.queries] for video in self._splits[split]]

        def _info(self) -> tfds.core.DatasetInfo:
            kinds, text = tfds.features, self._clips.text
            form = {"name": kinds.Text(), "text": kinds.Sequence(kinds.Text())} | self._clips.form()
            form |= moments.form(annotators=self._annotators, text_dim=text.dim if text else None)
            return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(form), disable_shuffling=True)

        def _split_generators(self, dl_manager) -> dict:
            return {split: self._generate_examples(split) for split in self._splits}

        def _generate_examples(self, split: str):
            return _records(self, split)

    return _signed(Builder, about)


def _signed(made: type, about: Set) -> type:
    """`prepare` reads a builder's options off its signature, so the reader's own are put there too."""
    *given, rest = inspect.signature(made.__init__).parameters.values()
    made.__init__.__signature__ = inspect.Signature([*given, *_own(about).values(), rest])
    return made


def _own(about: Set) -> dict[str, inspect.Parameter]:
    """The options of a set's own reader."""
    parameters = inspect.signature(about.read).parameters
    return {name: p for name, p in parameters.items() if p.kind == p.KEYWORD_ONLY and name != "subset"}


def _folder(dataset: str, source, features) -> pathlib.Path:
    if source is None or not pathlib.Path(source).is_dir():
        raise ValueError(f"{dataset} needs a source, the folder with its annotations; got {source!r}, which is none")
    if not features:
        raise ValueError(f"{dataset} needs features of its clips: --features NAME=PATH,NAME=PATH,…; got none")
    return pathlib.Path(source)


def _sources(about: Set, folder: pathlib.Path, features: str, text_features) -> list[pathlib.Path]:
    """The annotations and the features; each file once."""
    found = [path for pattern in about.files for path in sorted(folder.glob(pattern))]
    patterns = [*backbones.named(features).values(), *([text_features] if text_features else [])]
    places = [place for pattern in patterns for place in raw.find(pattern, folder, "features")]
    return list(dict.fromkeys([*found, *(path for place in places for path in feature_files.files(place))]))


def _there(splits: moments.Splits, clips: Clips, subset: bool, notes: list[str]) -> tuple[moments.Splits, dict]:
    """(split → the videos that have features of every backbone, split → the names of those that have not).

    Raises:
        ValueError: a whole split has none; with `subset`, all of them.
    """
    found, missing = {}, {}
    for split, videos in splits.items():
        there = [video for video in videos if not clips.keys(video)[1]]
        if there:
            found[split] = there
            without = {video.name for video in videos} - {video.name for video in there}
            missing |= {split: sorted(without)} if without else {}
        elif subset:
            notes.append(f"{split}: left out, none of its {len(videos):,} videos has features of every backbone")
    if not found or len(found) < len(splits) and not subset:
        split, videos = next((split, videos) for split, videos in splits.items() if split not in found)
        _, absent = clips.keys(videos[0])
        raise ValueError(
            f"none of the {len(videos):,} videos of {split} ({videos[0].name}, …) has features of every backbone; "
            f"{videos[0].name} has none of {', '.join(absent)} in {clips.visual}; {annotations.SUBSET}"
        )
    return found, missing


def _usable(dataset: str, splits: moments.Splits, clips: Clips, subset: bool) -> tuple[moments.Splits, dict, list[str]]:
    """(the videos that have features, the names of those that have not, notes), the widths of features learned.

    Raises:
        ValueError: as `queries.apart`, `_there` and `Clips.settle`; or nothing can be read.
    """
    notes = ["subset=true: the numbers of queries were not asserted"] if subset else []
    queries.apart(splits, notes)
    found, missing = _there(splits, clips, subset, notes)
    if nothing := clips.settle(sum(found.values(), []), dataset):
        raise ValueError(f"{dataset}: {nothing}")
    return found, missing, notes


def _part(clips: Clips, annotators: int, video: moments.Video) -> tuple[dict | None, str, int]:
    """(a video's record or None, why there is none, the rows of its features or 0)."""
    rows = 0
    try:
        visual = clips.rows(video)
        rows = len(visual)
        own = moments.fields(
            video, clips.length(rows, video.duration), annotators=annotators, texts=clips.texts(video)
        )  # fmt: skip
        texts = [query.text for query in video.queries]
        return {"name": video.name, "text": texts, "visual": visual} | own, "", rows
    except ValueError as error:
        return None, str(error), rows


def _records(made, split: str):
    """The records of a split; a video that cannot be used is added to `missing` and `quarantine` instead.

    Raises:
        ValueError: the clip length is wrong for most of its videos.
    """
    videos, clips, lengths, late = made._splits[split], made._clips, [], 0
    parts = workers.in_order(lambda video: _part(clips, made._annotators, video), videos)
    for key, (video, (record, reason, rows)) in enumerate(zip(videos, parts, strict=True)):
        lengths += [(rows, video.duration)] if rows else []
        if record is not None:
            late += sum(clip >= rows for query in video.queries for clip in query.clips)
            yield key, record
            continue
        problem = {"line": None, "media": video.name, "reason": f"{split}: {reason}"}
        if problem not in made.quarantine:
            made.quarantine.append(problem)
            made.missing.setdefault(split, []).append(video.name)
    if lengths and clips.clip_length is not None:
        backbones.check_clip_length(*map(list, zip(*lengths, strict=True)), clips.clip_length, f"{made.name}, {split}")
    if late:
        made._defects[f"{split}: rated clips after the last row of the features, kept as annotated"] = late
