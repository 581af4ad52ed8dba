"""Features of clips from several backbones, each with a name and a recipe, side by side in one fixed order.

    --features clip=clip_features,slowfast=slowfast_features

What a model was trained on is this list of names, widths and recipes (`about`, in prepared.json); `finding.fits`
refuses another one, so that backbones are never swapped or left as they are where they were normalised.
"""

import collections
import pathlib
from collections.abc import Iterable

import numpy as np

from vlr_jax import features as feature_files
from vlr_jax import media, raw

ROWS = 2  # by so many rows backbones of a video may differ in length: each counts the last clip in its own way
SHARE = 0.05  # of the duration, by which rows × clip length may miss it; or by two clips, if that is more
EPSILON = 1e-5
USUAL = (1 / 6, 0.25, 1 / 3, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 8, 10)  # seconds of a clip


def l2(rows: np.ndarray) -> np.ndarray:
    """`x / (‖x‖₂ + 1e-5)` along the last axis, float32, as Moment-DETR and all after it normalise features."""
    rows = np.asarray(rows, np.float32)
    return rows / (np.linalg.norm(rows, axis=-1, keepdims=True) + np.float32(EPSILON))


RECIPES = {"l2": l2, "none": lambda rows: np.asarray(rows, np.float32)}


def normalise(rows: np.ndarray, recipe: str) -> np.ndarray:
    """Rows of one backbone `[…, D]` as they are stored, before float16.

    Raises:
        ValueError: an unknown recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(
            f"normalise is {recipe!r}; expected {' or '.join(RECIPES)}, or NAME=RECIPE with commas between"
        )
    return RECIPES[recipe](rows)


def is_named(part: str) -> bool:
    """Whether a part of `--features` is `name=path`; with a slash before the `=` it is a path."""
    name, sign, _ = part.partition("=")
    return bool(sign and name) and "/" not in name


def named(features: str) -> dict[str, str]:
    """`--features` as name → path or glob, in order; a path without a name is called by its stem.

    Raises:
        ValueError: a name stands twice, or nothing stands somewhere.
    """
    found = {}
    for part in str(features).split(","):
        name, path = part.split("=", 1) if is_named(part) else (pathlib.PurePath(part).stem, part)
        if not name or not path:
            raise ValueError(f"features {features!r}: expected NAME=PATH,NAME=PATH,…, found {part!r}")
        if name in found:
            raise ValueError(f"features {features!r}: {name} stands there twice; name them apart: NAME=PATH,NAME=PATH")
        found[name] = path
    return found


def recipes(names: Iterable[str], asked: str) -> dict[str, str]:
    """The recipe of each name.

    Args:
        names: of the backbones, and `text`.
        asked: one recipe for all, or `name=recipe` with commas between; those without one get `l2`.

    Raises:
        ValueError: an unknown recipe or name.
    """
    names, asked = list(names), str(asked)
    own = dict(part.partition("=")[::2] for part in asked.split(",")) if "=" in asked else dict.fromkeys(names, asked)
    if unknown := own.keys() - set(names):
        raise ValueError(f"normalise={asked!r} names {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    made = dict.fromkeys(names, "l2") | own
    for recipe in made.values():
        normalise(np.ones((1, 1)), recipe)
    return made


class Backbone:
    """The features of one name, from one place or several that a glob fits.

    Args:
        name, pattern: of `named`. folder: where it is looked for first. recipe: of `RECIPES`.
        arrays: as in `features.open_features`.

    Attributes:
        dim: the width: that of most that were read before `settle`; None until something was.

    Raises:
        ValueError: nothing there, of no known form, or a key in two places.
    """

    def __init__(self, name: str, pattern, folder: pathlib.Path, recipe: str, arrays=feature_files.ARRAYS):
        self.name, self.recipe, self.dim = name, recipe, None
        self._widths: collections.Counter | None = collections.Counter()
        self.places = raw.find(pattern, folder, f"features {name}:")
        self._at: dict[str, object] = {}
        for opened in (feature_files.open_features(place, arrays) for place in self.places):
            if both := self._at.keys() & opened.keys():
                raise ValueError(f"features {name}: {min(both)!r} stands in two of {', '.join(map(str, self.places))}")
            self._at |= dict.fromkeys(opened.keys(), opened)

    def __str__(self) -> str:
        where = ", ".join(map(str, self.places))
        return f"{self.name} ({where}: {len(self._at):,} features, such as {next(iter(self._at), '-')})"

    def about(self) -> dict:
        """For prepared.json."""
        return {"name": self.name, "dim": self.dim, "normalise": self.recipe}

    def key(self, keys: Iterable[str]) -> str | None:
        """The first of the keys, alone or with the ending of a video, under which there is something; else None."""
        tried = (key + ending for key in keys for ending in ("", *sorted(media.VIDEOS)))
        return next((key for key in tried if key in self._at), None)

    def read(self, key: str) -> np.ndarray:
        """Features by their recipe, float16 `[R, D]`.

        Raises:
            ValueError: not finite numbers `(R, D)`, of another width, or beyond float16.
        """
        try:
            rows = np.asarray(self._at[key][key], np.float32)
            stored = feature_files.half(normalise(rows, self.recipe))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        if self._widths is not None:
            self._widths[rows.shape[1]] += 1
            return stored
        self.dim = self.dim or rows.shape[1]
        if rows.shape[1] != self.dim:
            raise ValueError(f"{self.name}: features have {rows.shape[1]} numbers a row, most have {self.dim}")
        return stored

    def settle(self) -> None:
        """From now on all that is read must have the width that most had so far."""
        if self._widths:
            self.dim = self._widths.most_common(1)[0][0]
        self._widths = None


class Backbones:
    """All backbones of a set of videos.

    Args:
        features: `--features`. folder: where they are looked for first. normalise: see `recipes`.

    Attributes:
        text_recipe: what `normalise` says of the features of texts.

    Raises:
        ValueError: as `named`, `recipes` and `Backbone`.
    """

    def __init__(self, features: str, folder: pathlib.Path, normalise: str = "l2"):
        places = named(features)
        made = recipes([*places, "text"], normalise)
        self.text_recipe = made["text"]
        self.all = [Backbone(name, path, folder, made[name]) for name, path in places.items()]

    def __str__(self) -> str:
        return " and ".join(map(str, self.all))

    def about(self) -> list[dict]:
        """Names, widths and recipes in order, for prepared.json."""
        return [backbone.about() for backbone in self.all]

    def find(self, keys: tuple[str, ...]) -> tuple[list[str | None], list[str]]:
        """(the key in each backbone, the names of those that have none)."""
        found = [backbone.key(keys) for backbone in self.all]
        return found, [one.name for one, key in zip(self.all, found, strict=True) if key is None]

    def read(self, keys: list[str]) -> np.ndarray:
        """The backbones of a video side by side, float16 `[F, D_1 + D_2 + …]`.

        Raises:
            ValueError: as `Backbone.read` and `join`.
        """
        parts = [backbone.read(key) for backbone, key in zip(self.all, keys, strict=True)]
        return join(parts, [backbone.name for backbone in self.all])


def join(parts: list[np.ndarray], names: list[str]) -> np.ndarray:
    """Features of one video, `[F_i, D_i]`, side by side, cut to the shortest.

    Raises:
        ValueError: they differ by more than `ROWS` rows.
    """
    lengths = [len(part) for part in parts]
    if max(lengths) - min(lengths) > ROWS:
        found = ", ".join(f"{name} {n}" for name, n in zip(names, lengths, strict=True))
        raise ValueError(f"backbones have different numbers of rows: {found}; at most {ROWS} may be cut off")
    return np.concatenate([part[: min(lengths)] for part in parts], axis=1)


def covers(rows: int, clip_length: float, duration: float) -> bool:
    """Whether so many clips make up a video of that duration: within 5 %, or two clips."""
    return abs(rows * clip_length - duration) <= max(2 * clip_length, SHARE * duration)


def uncovered(rows: int, clip_length: float, duration: float) -> str:
    """Why a video is refused that `covers` does not accept."""
    return (
        f"{rows} rows of clip_length {clip_length:g} s make {rows * clip_length:g} s, the video is annotated with "
        f"{duration:g} s"
    )


def check_clip_length(rows: list[int], durations: list[float], clip_length: float, where: str) -> None:
    """Refuses a clip length that is wrong for most videos.

    Args:
        rows: of each video. durations: in seconds. clip_length: of one row, in seconds. where: for the error.

    Raises:
        ValueError: fewer than half of the videos are covered; names the clip length that is likely right.
    """

    def uncovering(length):
        return [pair for pair in zip(rows, durations, strict=True) if not covers(pair[0], length, pair[1])]

    wrong = uncovering(clip_length)
    if 2 * len(wrong) <= len(rows):
        return
    median = float(np.median(np.asarray(durations) / np.asarray(rows)))
    likely = min(USUAL, key=lambda length: abs(length / median - 1))
    likely = median if 2 * len(uncovering(likely)) > len(rows) else likely
    raise ValueError(
        f"{where}: clip_length={clip_length:g} is wrong for {len(wrong)} of {len(rows)} videos: "
        f"{uncovered(wrong[0][0], clip_length, wrong[0][1])}. Likely right: --option clip_length={likely:.6g} (the "
        f"median of duration / rows is {median:.4g} s); clip_length=null takes duration / rows of each video"
    )
