"""The score matrix `[V, T]` one tile at a time, and the encodings that it comes from.

`blocks` makes the tiles from encodings, `matrix` from an array made elsewhere; everything that ranks or searches reads
scores through them, so nothing ever needs the whole matrix. Every tile has one shape: one compilation, and a pair has
the same bits whenever its tile is computed. Scores are float32; the precision of the products is the model's
`similarity` to choose (full float32 there).
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from vlr_jax.types import Encoded

BLOCK = (512, 2560)  # the fastest on two cores for 5,000 × 25,000 at D = 1024 (benchmarks/evaluation.py)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """A score matrix `[V, T]` of which only one tile exists at a time.

    Attributes:
        shape: (V, T).
        block: (v, t), the shape of every tile. The last tile of a side is padded; what padding scores is undefined.
        tile: `tile(i, j)` → `[v, t]` scores on the devices, rows over the mesh's `data` axis.
        mesh: the devices.
    """

    shape: tuple[int, int]
    block: tuple[int, int]
    tile: Callable[[int, int], jax.Array]
    mesh: Mesh

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tiles down and across."""
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])

    def span(self, side: int, index: int) -> slice:
        """The real visuals (side 0) or texts (side 1) of a tile."""
        return slice(index * self.block[side], min((index + 1) * self.block[side], self.shape[side]))

    def __iter__(self) -> Iterator[tuple[slice, slice, jax.Array]]:
        """(visuals, texts, padded tile) in row-major order."""
        for i, j in np.ndindex(*self.grid):
            yield self.span(0, i), self.span(1, j), self.tile(i, j)


def blocks(similarity, variables, visual: Encoded, text: Encoded, *, block=BLOCK, mesh: Mesh | None = None) -> Tiles:
    """Tiles of `similarity(variables, visual, text)["sim"]`.

    Args:
        similarity: pure function from `Task.predict()`; compiled once per function, mesh and tile shape.
        variables: its first argument, on the devices of the mesh.
        visual, text: leading axes V and T; numpy leaves stay on the host, only one block a side is on the devices.
        block: the largest tile. Sides are balanced, so that 5000 visuals in blocks of at most 1024 are 5 × 1000.
        mesh: needs a `data` axis; one device where not given.

    Raises:
        ValueError: at the first tile, if `sim` is not a float32 matrix of its shape.
    """
    mesh = mesh or one_device()
    shape = len(visual.pooled), len(text.pooled)
    block = _balanced(shape, block, mesh)
    run = _similarity(similarity, mesh)
    # One block a side is kept: both loop orders (rows outside, columns outside) then move the outer side only once.
    rows = functools.lru_cache(1)(lambda i: put(_cut(visual, i, block[0]), mesh, P("data")))
    columns = functools.lru_cache(1)(lambda j: put(_cut(text, j, block[1]), mesh, P()))
    return Tiles(shape, block, lambda i, j: run(variables, rows(i), columns(j)), mesh)


def matrix(scores: np.ndarray, *, block=BLOCK, mesh: Mesh | None = None) -> Tiles:
    """Tiles of a `[V, T]` array (memory-mapped or not), in its own precision where jax has 64 bits enabled."""
    mesh = mesh or one_device()
    v, t = block = _balanced(scores.shape, block, mesh)

    def tile(i: int, j: int) -> jax.Array:
        part = np.asarray(scores[i * v : (i + 1) * v, j * t : (j + 1) * t])
        part = part.astype(np.result_type(part.dtype, np.float32), copy=False)
        return put(np.pad(part, ((0, v - part.shape[0]), (0, t - part.shape[1]))), mesh, P("data"))

    return Tiles(scores.shape, block, tile, mesh)


def strips(tiles: Tiles, *, axis: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(queries, their complete rows `[q, C]` on the host), block by block, for metrics that need every candidate."""
    replicate = _replicator(tiles.mesh)
    for query in range(tiles.grid[1 - axis]):
        span, parts = tiles.span(1 - axis, query), []
        for candidate in range(tiles.grid[axis]):
            i, j = (candidate, query) if axis == 0 else (query, candidate)
            part = jax.device_get(replicate(tiles.tile(i, j)))
            part = part[
                : tiles.span(0, i).stop - tiles.span(0, i).start, : tiles.span(1, j).stop - tiles.span(1, j).start
            ]
            parts.append(part.T if axis == 0 else part)
        yield span, np.concatenate(parts, axis=1)


def encode_all(
    encode, variables, batches, *, mesh: Mesh | None = None, progress: str | None = None, total: int | None = None
) -> Encoded:
    """Encodes batches (dicts of numpy, one fixed shape, `valid` rows) → one `Encoded` on the host, padding removed.

    Args:
        encode: pure function (variables, batch) → Encoded; compiled once per function and mesh.
        batches: rows a multiple of the mesh's `data` axis.
        progress: the words beside a progress bar; None for none.
        total: the number of batches, where it is known, for the bar.

    Raises:
        ValueError: no batch at all, or none with a valid row.
    """
    mesh = mesh or one_device()
    run, parts = _encoder(encode, mesh), []
    for batch in tqdm(batches, desc=progress, total=total, unit="batch", disable=progress is None, leave=False):
        encoded, valid = jax.device_get(run(variables, put(batch, mesh, P("data")))), np.asarray(batch["valid"])
        parts.append(jax.tree.map(operator.itemgetter(valid), encoded))
    if not sum(len(part.pooled) for part in parts):
        raise ValueError("nothing to encode: expected at least one batch with a valid row")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def encode_split(
    predict: dict, variables, split, view: str, batch_size: int, *, mesh: Mesh | None = None, progress: bool = False
) -> Encoded:
    """`encode_all` of one side of a split.

    Args:
        predict: from `Task.predict()`: `encode_visual`, `encode_text`.
        split: from `pipeline.open_split`.
        view: "visuals" or "texts".
        batch_size: rows at once, a multiple of the mesh's `data` axis.
        progress: show a progress bar.
    """
    encode = predict["encode_visual" if view == "visuals" else "encode_text"]
    words, total = f"encoding {view}" if progress else None, -(-getattr(split, f"n_{view}") // batch_size)
    return encode_all(encode, variables, split.epoch(view, batch_size), mesh=mesh, progress=words, total=total)


def finite(encoded: Encoded) -> bool:
    """Whether every number of the encodings is one."""
    return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(encoded) if leaf.dtype.kind != "b")


@functools.lru_cache(16)
def _similarity(similarity, mesh: Mesh):
    def sim(variables, visual, text):
        scores, shape = similarity(variables, visual, text)["sim"], (len(visual.pooled), len(text.pooled))
        if scores.shape != shape or scores.dtype not in (np.float32, np.float64):  # fewer bits would make ties
            raise ValueError(f"similarity gives {scores.dtype} {scores.shape}; expected float32 {shape}")
        return scores

    return jax.jit(sim, out_shardings=NamedSharding(mesh, P("data")))


@functools.lru_cache(16)
def _encoder(encode, mesh: Mesh):
    return jax.jit(encode, out_shardings=NamedSharding(mesh, P()))


@functools.lru_cache(16)
def _replicator(mesh: Mesh):
    return jax.jit(lambda tile: tile, out_shardings=NamedSharding(mesh, P()))


def one_device() -> Mesh:
    """The mesh of the first device alone."""
    return jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


def put(tree, mesh: Mesh, spec: P):
    """A tree of host arrays on the devices; every process holds all of it."""
    return jax.device_put(tree, NamedSharding(mesh, spec))


def _balanced(shape, block, mesh: Mesh) -> tuple[int, int]:
    """The tile that covers `shape` in as few steps as `block` allows, with the least padding; rows fit the mesh."""
    v, t = (-(-n // max(1, -(-n // size))) for n, size in zip(shape, block, strict=True))
    devices = mesh.shape["data"]
    return max(1, -(-v // devices)) * devices, max(1, t)


def _cut(encoded: Encoded, index: int, size: int) -> Encoded:
    """Rows `[index · size, (index + 1) · size)` of every leaf, filled with zeros beyond the end."""

    def part(leaf):
        rows = np.asarray(leaf[index * size : (index + 1) * size])
        return np.pad(rows, [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1)) if len(rows) < size else rows

    return jax.tree.map(part, encoded)
