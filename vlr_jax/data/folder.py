"""Your own data: a JSONL file beside pictures, videos or precomputed features (docs/datasets.md has the form).

Source: the user's files. Counts, feature shape and dtype are whatever they hold: features become float16 `[R, D]`;
without features, pictures become one JPEG frame with a shorter side of at most `image_size`, videos some (`recipe`).
All is checked before anything is written, but for the inside of videos: those are decoded once, when they are written.
A broken item is left out, counted and written down (`quarantine`), never filled with zeros.
"""

import collections
import math
import pathlib

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from vlr_jax import features as feature_files
from vlr_jax import jsonl, own, raw, video, visuals, workers
from vlr_jax import media as media_files

SHOWN = 50  # problems listed in one error


def _place(problem: dict) -> int:
    return problem["line"] or 0


class Builder(tfds.core.GeneratorBasedBuilder):
    """Own data → records.

    After construction: `quarantine` (broken items as `{"line", "media", "reason"}`), `notes` (what else to tell),
    `fact_names` (`"key=value"` of all attributes, or None), `counts` (visuals of each split) and `recipe` (how videos
    are decoded; None without any) are known. A video that turns out broken when it is decoded leaves `counts` and joins
    the `quarantine` then.
    """

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")
    ADDED = {  # options that folders made before them don't name
        "fps": 1.0, "most_frames": 64, "policy": "seconds", "text_features": None, "clip_length": None,
        "normalise": "l2",
    }  # fmt: skip

    def __init__(
        self, *, source=None, captions=None, features=None, media=None, image_size: int = 224, fps: float = 1.0,
        most_frames: int = 64, policy: str = "seconds", text_features=None, clip_length: float | None = None,
        normalise: str = "l2", strict: bool = False, progress: bool = False, **tfds_arguments,
    ):  # fmt: skip
        """Checks everything.

        Args:
            source: the folder of the JSONL file, or the file. A folder without any is a gallery: all its pictures and
                videos, split `gallery`, no texts.
            captions: the file's name, if it is neither `captions.jsonl` nor the folder's only `.jsonl`.
            features: precomputed features (`vlr_jax.features.open_features`); several with commas between are joined
                along their width (`vlr_jax.features.join`), those of clips as `vlr_jax.backbones` tells; None: the
                pictures and videos themselves.
            media: a folder or tar files (a glob, or several with commas); None: the source folder.
            image_size: without features, larger images are made so small that their shorter side has so many pixels.
            fps, most_frames, policy: of videos and animated pictures, as `fps`, `most`, `policy` of `video.at_rate`.
            text_features, clip_length, normalise: of data with moments, see `timed.Clips` and `own.moment_data`.
            strict: a broken item is an error.
            progress: show a bar while checking.
            **tfds_arguments: for tensorflow-datasets.

        Raises:
            ValueError: one error with all problems and their line numbers: media that stand twice, and with `strict`
                every broken item; or nothing usable at all; or files that are missing or of no known form.
        """
        self._lines, feature_paths, places = own.files(source, captions, features, media)
        self._made = video.recipe(fps=fps, most_frames=most_frames, image_size=image_size, policy=policy)
        named = dict(source=source, captions=captions, features=features, media=media, text_features=text_features)
        self._sources = self.find_sources(**named)
        self._strict, self._where = strict, self._lines or source
        self._media = media_files.open_media(places)
        items, broken, errors, found = self._read(places)
        asked = (features, own.folder(source), text_features, clip_length, normalise)
        self._features, told = own.opened(items, feature_paths, *asked)
        timed = isinstance(self._features, own.Timed)
        self._videos: dict[str, video.Info] = {}  # by name
        items, unseen = self._check_visuals(items, errors, progress)
        self.recipe = self._made if self._videos else None
        self.quarantine = sorted(broken + unseen, key=_place)
        self._raise(errors, strict, usable=bool(items))
        self._items = items
        self.counts = dict(collections.Counter(item.split for item in items))
        left = {what: n for what, n in found.items() if n and not (timed and what in jsonl.OF_MOMENTS)}
        self.notes = [f"{n} × {what}: left out of the records" for what, n in sorted(left.items())] + told
        self.notes += self._features.notes() if self._features else []
        self.fact_names = jsonl.fact_names(items)
        self._thumbs = self._features is None or any(self._pictured(item) for item in items)
        self._windows = not timed and any(any(item.windows) or not math.isnan(item.duration) for item in items)
        super().__init__(**tfds_arguments)

    def _read(self, places: list[pathlib.Path]):
        """(items with their splits, broken ones, errors, what else was found) as `jsonl.read`; or a gallery's items."""
        if self._lines is not None:
            items, broken, errors, found = jsonl.read(self._lines)
            items, unsplit = jsonl.assign_splits(items)
            return items, broken + unsplit, errors, found
        if items := jsonl.gallery(self._media.names(visuals.SUFFIXES)):
            return items, [], [], {}
        where = ", ".join(map(str, places))
        raise ValueError(f"{self._where} has no .jsonl file, and {where} neither a picture nor a video")

    @classmethod
    def find_sources(
        cls, *, source=None, captions=None, features=None, media=None, text_features=None, **_
    ) -> list[pathlib.Path]:
        """The raw files that go in, found without reading them."""
        lines, found, places = own.files(source, captions, features, media)
        found = (found or []) + (raw.find(text_features, own.folder(source), "features") if text_features else [])
        files = [lines] if lines else []
        for place in found:
            files += raw.below(place, feature_files.SUFFIXES)
        for place in places:
            files += raw.below(place, visuals.SUFFIXES if features is None else media_files.IMAGES)
        return files

    @property
    def moments(self) -> dict | None:
        """Of prepared.json: None where the data have none."""
        return self._features.about if self._features else None

    def sources(self) -> list[pathlib.Path]:
        """The raw files that went in."""
        return self._sources

    def texts(self, split: str) -> list[list[str]]:
        """The texts of each visual of a split."""
        return [item.texts for item in self._items if item.split == split]

    def _pictured(self, item: jsonl.Item) -> bool:
        return pathlib.PurePosixPath(item.media).suffix.lower() not in media_files.VIDEOS and item.media in self._media

    def _seen(self, item: jsonl.Item) -> str | tuple[int, ...]:
        """Looks at an item's visual: why it cannot be stored, or the widths of its features (none: pictures, videos).

        Of videos the container is read and kept in mind, and the duration taken from it where none is given.
        """
        try:
            if self._features is not None:
                return self._features.seen(item)
            info = visuals.look(self._media, item.media, self._made["image_size"])
            if info is None:
                return ()
            self._videos[item.media] = info
            if math.isnan(item.duration):
                item.duration = info.duration
            if late := [start for start, _ in sum(item.windows, []) if start >= info.duration]:
                raise ValueError(f"a window starts at {late[0]:g} s, the video ends at {info.duration:.2f} s")
            return ()
        except ValueError as error:
            return str(error)

    def _problem(self, item: jsonl.Item, reason: str) -> dict:
        return {"line": self._lines and item.line, "media": item.media, "reason": reason}

    def _check_visuals(self, items: list, errors: list[str], progress: bool) -> tuple[list[jsonl.Item], list[dict]]:
        """Looks at every visual: (items that can be stored, broken ones); without a common width adds to `errors`."""
        widths, reasons = {}, {}
        if self._features:
            self._features.settle(items)
        looked = map(self._seen, items) if self._features else workers.in_order(self._seen, items)
        bar = tqdm.tqdm(looked, "checking", len(items), unit="visual", disable=not progress, leave=False)
        for item, seen in zip(items, bar, strict=True):
            if isinstance(seen, str):
                reasons[item.line] = seen
            elif seen:
                widths[item.line] = seen
        if widths:
            self._features.widths, wrong, unlike = own.common_width(widths)
            reasons |= wrong
            errors += unlike
        broken = [self._problem(item, reasons[item.line]) for item in items if item.line in reasons]
        return [item for item in items if item.line not in reasons], broken

    def _raise(self, errors: list[str], strict: bool, usable: bool) -> None:
        """One error with all that must not pass; nothing if all is well."""
        problems = list(errors)
        if strict or not usable:
            lines = (p["line"] and f"line {p['line']}" for p in self.quarantine)
            told = zip(lines, self.quarantine, strict=True)
            problems += [": ".join(filter(None, (line, p["media"], p["reason"]))) for line, p in told]
        if usable and not problems:
            return
        head = f"{self._where}: {len(problems)} problems" + ("" if usable else "; no line is usable")
        more = [f"… and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise ValueError("\n  ".join([head, *problems[:SHOWN], *more]))

    def _info(self) -> tfds.core.DatasetInfo:
        kinds = tfds.features
        record = {"name": kinds.Text(), "text": kinds.Sequence(kinds.Text())}
        if self._features is None:
            record["frames"] = kinds.Sequence(kinds.Tensor(shape=(), dtype=np.object_))
        else:
            record |= self._features.form()
        if self._thumbs:
            record["thumb"] = kinds.Tensor(shape=(), dtype=np.object_)
        if self.fact_names is not None:
            n = len(self.fact_names)
            record["visual_facts"] = kinds.Tensor(shape=(n,), dtype=np.bool_, encoding="bytes")
            record["text_facts"] = kinds.Tensor(shape=(None, n), dtype=np.bool_, encoding="bytes")
        if self._windows:
            record["windows"] = kinds.Tensor(shape=(None, 2), dtype=np.float32, encoding="bytes")
            record["n_windows"] = kinds.Tensor(shape=(None,), dtype=np.int32, encoding="bytes")
            record["duration"] = kinds.Tensor(shape=(), dtype=np.float32)
        return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(record), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split: str):
        items = [item for item in self._items if item.split == split]
        fields = self._featured(split, items) if self._features else self._framed(split, items)
        for key, (item, visual) in enumerate(fields):
            yield key, {"name": item.media, "text": item.texts} | visual | self._extras(item)

    def _featured(self, split: str, items: list[jsonl.Item]):
        """(item, its features and small picture) of a split."""
        undecodable = 0
        for item in items:
            visual = self._features.fields(item)
            if self._thumbs:
                try:
                    visual["thumb"] = self._thumb(item) if self._pictured(item) else b""
                except ValueError:
                    undecodable += 1
                    visual["thumb"] = b""
            yield item, visual
        if undecodable:
            self.notes.append(f"{undecodable} × image of {split} that cannot be decoded: features kept, no thumbnail")

    def _thumb(self, item: jsonl.Item) -> bytes:
        return media_files.thumbnail(visuals.picture(self._media, item.media, self._made["image_size"]))

    def _decoded(self, item: jsonl.Item) -> dict | str:
        """An item's JPEG frames and small picture, or why there are none."""
        try:
            return visuals.fields(self._media, item.media, self._made, self._videos.get(item.media))
        except ValueError as error:
            return str(error)

    def _framed(self, split: str, items: list[jsonl.Item]):
        """(item, its frames and small picture) of a split; what breaks now is quarantined.

        Raises:
            ValueError: nothing is left of the split; or with `strict` the first that is broken.
        """
        for item, visual in zip(items, workers.in_order(self._decoded, items), strict=True):
            if isinstance(visual, dict):
                yield item, visual
                continue
            self.quarantine.append(self._problem(item, visual))
            self.quarantine.sort(key=_place)
            self._items = [other for other in self._items if other is not item]
            self.counts[split] -= 1
            self._raise([], self._strict, usable=bool(self.counts[split]))

    def _extras(self, item: jsonl.Item) -> dict[str, np.ndarray]:
        """Facts and moments of a record, where the dataset has them."""
        extras = {}
        if self.fact_names is not None:
            facts = np.array([name in item.facts for name in self.fact_names])
            extras |= {"visual_facts": facts, "text_facts": np.tile(facts, (len(item.texts), 1))}
        if self._windows:
            extras["windows"] = np.array(sum(item.windows, []), np.float32).reshape(-1, 2)
            extras["n_windows"] = np.array([len(windows) for windows in item.windows], np.int32)
            extras["duration"] = np.float32(item.duration)
        return extras
