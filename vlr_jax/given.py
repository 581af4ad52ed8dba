"""Scores made elsewhere, read from files: a matrix `[V, T]`, or the embeddings whose cosines they are."""

import contextlib
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vlr_jax import tiles
from vlr_jax.types import Encoded

ROWS = 256  # of a memory-mapped file at once


class Given(NamedTuple):
    """A matrix of scores `[V, T]` and None, or embeddings `[V, D]` and `[T, D]`.

    Embeddings are compared by cosine: their rows are L2-normalised first, in float32.
    """

    visual: np.ndarray
    text: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(V, T)."""
        return self.visual.shape if self.text is None else (len(self.visual), len(self.text))

    def tiles(self, visuals: np.ndarray, texts: np.ndarray) -> tiles.Tiles:
        """The scores of consecutive visuals and some texts."""
        rows = self.visual[visuals[0] : visuals[-1] + 1]
        if self.text is not None:
            return tiles.blocks(_cosine, {}, Encoded(rows), Encoded(_some(self.text, texts)))
        return tiles.matrix(rows if len(texts) == self.shape[1] else rows[:, texts])

    def scores_of(self, visuals: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Scores `[N]` of the pairs (visual, text)."""
        if self.text is None:
            return np.asarray(self.visual[visuals, texts])
        return cosines(self.visual, self.text, visuals, texts)

    def missing(self) -> tuple[int, int]:
        """How many of all scores are NaN, and how many infinite; an infinite embedding has no direction: NaN."""
        if self.text is None:
            nan = infinite = 0
            for start in range(0, len(self.visual), ROWS):
                part = self.visual[start : start + ROWS]
                odd = part[~np.isfinite(part)]
                nan, infinite = nan + int(np.isnan(odd).sum()), infinite + int(np.isinf(odd).sum())
            return nan, infinite
        without = [int(np.isnan(side).any(1).sum()) for side in self]
        return without[0] * self.shape[1] + (self.shape[0] - without[0]) * without[1], 0

    def exact(self):
        """A context in which scores that differ only in float64 do not become ties."""
        wide = self.text is None and self.visual.dtype == np.float64
        return jax.enable_x64(True) if wide else contextlib.nullcontext()


def read(scores: str | None = None, visual: str | None = None, text: str | None = None) -> Given:
    """Opens `scores`, or `visual` and `text`.

    Args:
        scores: `.npy` (memory-mapped) or `.npz` with one floating array `[V, T]`.
        visual, text: the same with `[V, D]` and `[T, D]`.

    Raises:
        ValueError: none or both given, missing or unreadable files, wrong shapes or types.
    """
    if (scores is None) != (visual is not None) or (visual is None) != (text is None):
        raise ValueError("expected a matrix (--scores), or embeddings (--visual and --text), and not both")
    if scores is not None:
        return Given(_floats(scores, "[visuals, texts]"))
    sides = [_floats(path, f"[{what}, dimensions]") for path, what in ((visual, "visuals"), (text, "texts"))]
    if sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"{visual} has {sides[0].shape[1]} dimensions and {text} has {sides[1].shape[1]}")
    return Given(*(unit(side) for side in sides))


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float32; zeros stay zeros."""
    rows = np.array(rows, np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return rows


def cosines(a: np.ndarray, b: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Inner products `[N]` of some pairs of unit vectors, block by block."""
    spans = [slice(i, i + 64 * ROWS) for i in range(0, len(rows), 64 * ROWS)]
    return np.concatenate([np.einsum("nd,nd->n", a[rows[s]], b[columns[s]]) for s in spans])


def load(path: str) -> np.ndarray:
    """One array from a `.npy` (memory-mapped) or an `.npz`, without pickled objects.

    Raises:
        ValueError: no such file, or one that can't be read so.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f"no file {file}")
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                raise ValueError(f"it holds {', '.join(loaded.files) or 'nothing'}, expected one array")
            return loaded[loaded.files[0]]
    except Exception as error:  # numpy raises many kinds on damaged files
        raise ValueError(f"{file} can't be read as .npy or .npz without pickled objects: {error}") from error


def names(path: str) -> list[str]:
    """One name or id a row: a text file with one a line, or an array of strings or integers."""
    if pathlib.Path(path).suffix in (".npy", ".npz"):
        found = load(path)
        if found.ndim != 1 or found.dtype.kind not in "iuU":
            raise ValueError(f"{path} holds {found.dtype} {found.shape}; expected names or integer ids, one a row")
        return [str(name) for name in found.tolist()]
    if not pathlib.Path(path).is_file():
        raise ValueError(f"no file {path}")
    return [line.strip() for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def _floats(path: str, form: str) -> np.ndarray:
    array = load(path)
    if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
        raise ValueError(f"{path} holds {array.dtype} {array.shape}; expected floats {form}")
    return array


def _some(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    return rows if len(places) == len(rows) else rows[places]


def _cosine(_, visual: Encoded, text: Encoded) -> dict[str, jax.Array]:
    return {"sim": jnp.einsum("vd,td->vt", visual.pooled, text.pooled, precision="highest")}
