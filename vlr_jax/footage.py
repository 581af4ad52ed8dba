"""What can be seen of the videos of a set: raw files, decoded once, or features that were computed elsewhere.

`Videos` and `Features` do the same for `clips.py`: `find` the place of a clip, say the `form` of its part of a record,
`read` the parts of many.
"""

import collections
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import annotations, media, raw, video, workers
from vlr_jax import features as feature_files

Part = tuple[dict | None, str]  # (fields of a record, "") or (None, why there are none)


def _keys(clip: annotations.Clip) -> tuple[str, ...]:
    return (clip.name, *(name for name in clip.called if name))


class Features:
    """Precomputed features of frames `[F, D]`, or of the regions of frames `[F, R, D]`, by the name of the video.

    Args:
        pattern: a place, or a glob that fits several, which then are all of them together; what
            `features.open_features` reads.
        folder: where it is looked for first.

    Raises:
        ValueError: nothing there, of no known form, or a video stands in two places.
    """

    recipe = None

    def __init__(self, pattern, folder: pathlib.Path):
        self._places = raw.find(pattern, folder, "features")
        self._at: dict[str, tuple] = {}
        for opened in map(feature_files.open_features, self._places):
            for key in opened.keys():
                if key in self._at:
                    raise ValueError(f"features of {key!r} stand in two of {', '.join(map(str, self._places))}")
                self._at[key] = (opened, key)
        self._width = self._regions = None

    def __str__(self) -> str:
        return f"{', '.join(map(str, self._places))} ({len(self._at):,} features, such as {next(iter(self._at), '-')})"

    def find(self, clip: annotations.Clip) -> tuple | None:
        """Where the features of a clip are; None for nowhere. Keys may have the ending of a file."""
        for key in _keys(clip):
            for name in (key, *(key + suffix for suffix in sorted(media.VIDEOS))):
                if name in self._at:
                    return self._at[name]
        return None

    def settle(self, places: list[tuple]) -> None:
        """Learns the form of the features from the first that can be read.

        Raises:
            ValueError: none can.
        """
        for place in places:
            try:
                rows, regions = feature_files.rows(*place)
            except ValueError as error:
                reason = error
                continue
            self._width, self._regions = rows.shape[1], regions is not None
            return
        raise ValueError(f"none of the features can be read; the last: {reason}")

    def form(self) -> dict:
        """The fields of a record, for tensorflow-datasets."""
        tensor = tfds.features.Tensor
        form = {"visual": tensor(shape=(None, self._width), dtype=np.float16, encoding="bytes")}
        return form | ({"regions": tensor(shape=(None,), dtype=np.int32, encoding="bytes")} if self._regions else {})

    def read(self, places: list[tuple]) -> Iterator[Part]:
        """The fields of each, in order; features that are not finite or of another form are a reason."""
        for place in places:
            try:
                rows, regions = feature_files.rows(*place)
                if rows.shape[1] != self._width or (regions is not None) != self._regions:
                    kinds = {True: "regions of frames", False: "frames"}
                    raise ValueError(
                        f"features of {kinds[regions is not None]}, {rows.shape[1]} wide; the first are of "
                        f"{kinds[self._regions]}, {self._width} wide"
                    )
                visual = {"visual": feature_files.half(rows)}
                yield visual | ({} if regions is None else {"regions": regions}), ""
            except ValueError as error:
                yield None, str(error)


class Videos:
    """Video files by name, in folders and all below them.

    Args:
        pattern: folders, globs with commas between; None: `folder`.
        folder: where they are looked for first.
        recipe: of `video.recipe`, where wanted with `end`, the seconds of a video that are read.

    Raises:
        ValueError: no such folder.
    """

    def __init__(self, pattern, folder: pathlib.Path, recipe: dict):
        self._places = raw.media(pattern, folder)
        if files := [place for place in self._places if not place.is_dir()]:
            raise ValueError(f"media of a video set are folders of video files; {files[0]} is none")
        self._named: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
        for place in self._places:
            for path in raw.below(place, media.VIDEOS):
                for name in {path.name, path.stem}:
                    self._named[name].append(path)
        self.recipe = recipe

    def __str__(self) -> str:
        n = len({path for paths in self._named.values() for path in paths})
        return f"{', '.join(map(str, self._places))} and below ({n:,} video files)"

    def find(self, clip: annotations.Clip) -> pathlib.Path | None:
        """The file of a clip, called as it is or with an ending; None where there is none.

        Raises:
            ValueError: there are several.
        """
        for key in _keys(clip):
            if found := self._named.get(key):
                if len(found) > 1:
                    raise ValueError(f"several files could be the video {clip.name}: {', '.join(map(str, found[:3]))}")
                return found[0]
        return None

    def settle(self, places: list[pathlib.Path]) -> None:
        """Nothing has to be known of the files."""

    def form(self) -> dict:
        """The fields of a record, for tensorflow-datasets."""
        encoded = tfds.features.Tensor(shape=(), dtype=np.object_)
        return {"frames": tfds.features.Sequence(encoded), "thumb": encoded}

    def read(self, places: list[pathlib.Path]) -> Iterator[Part]:
        """The fields of each, in order, decoded in parallel; a file that cannot be decoded is a reason."""
        return workers.in_order(self._read, places)

    def _read(self, path: pathlib.Path) -> Part:
        try:
            return video.stored(path, self.recipe, end=self.recipe.get("end")), ""
        except (ValueError, OSError) as error:
            return None, str(error)
