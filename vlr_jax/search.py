"""Ranking and search over tiles: `rank_all` counts who is ahead of the positives, `top_k` keeps the best.

Axis 1 ranks texts for each visual (v2t), axis 0 ranks visuals for each text (t2v), as everywhere in the library.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from vlr_jax.tiles import Tiles, put


class Ranking(NamedTuple):
    """Where the positives of every query stand.

    Attributes:
        positions: int64 `[Q, P]`, 1-based, of each query's positives from best to worst; 0 where it has fewer than P.
        tied: bool `[Q]`, some negative scores exactly as the best positive.
        best: `[Q]` score of the best positive; NaN if any positive's is, −inf where there is none.
    """

    positions: np.ndarray
    tied: np.ndarray
    best: np.ndarray


def positives_of(text_visual: np.ndarray, n_visuals: int) -> np.ndarray:
    """Texts of each visual, int `[V, P]` padded with −1, from the visuals of each text, int `[T]` or `[T, P']`."""
    texts, visuals = _pairs(text_visual)
    return _ragged(visuals, texts, np.arange(len(texts)), n_visuals, -1)


def rank_all(tiles: Tiles, text_visual: np.ndarray, *, progress: str | None = None) -> tuple[Ranking, Ranking]:
    """Positions of all positives in both directions, by counting: no sort, no score matrix.

    position of a query's j-th best positive = j + Σ_{negatives} ¬(s < s⁺_j): ties and NaN count against the model, and
    a query with a NaN among its positives' scores has them all last (`ranking.ranks` says the same of the best one).
    Pass 1 reads the positives' scores from the tiles that hold one; pass 2 computes every tile once, for both
    directions. Both passes run the same compiled tile, so a pair has the same bits in both.

    Args:
        tiles: `tiles.blocks` or `tiles.matrix`.
        text_visual: int `[T]`, the visual of each text, or `[T, P]` padded with −1 where texts have several.
        progress: the words beside a progress bar; None for none.

    Returns:
        v2t with Q = V, t2v with Q = T.

    Raises:
        ValueError: `text_visual` does not fit the tiles.
    """
    n_visuals, n_texts = tiles.shape
    texts, visuals = _pairs(text_visual)
    if len(text_visual) != n_texts or not 0 <= visuals.max(initial=-1) < n_visuals:
        raise ValueError(
            f"text_visual names the visuals of {len(text_visual)} texts, the last of them {visuals.max(initial=-1)}; "
            f"expected {n_texts} texts and at least one visual, all below {n_visuals}"
        )
    bar = tqdm(desc=progress, disable=progress is None, leave=False, total=int(np.prod(tiles.grid)))
    scores = _positive_scores(tiles, visuals, texts)
    sides = [_Side(tiles, 0, visuals, scores), _Side(tiles, 1, texts, scores)]
    count, waiting = _counter(tiles.mesh), None
    for (i, j), (rows, columns, tile) in zip(np.ndindex(*tiles.grid), tiles, strict=True):
        sizes = np.array([rows.stop - rows.start, columns.stop - columns.start], np.int32)
        counted = count(tile, put(sizes, tiles.mesh, P()), sides[0].block(i), sides[1].block(j))
        if waiting:  # read one tile behind, so that the device has the next one meanwhile, but never more than that
            _add(sides, *waiting)
        waiting = rows, columns, counted
        bar.update()
    _add(sides, *waiting)
    bar.close()
    return sides[0].ranking(), sides[1].ranking()


class _Side:
    """One direction of `rank_all`: its thresholds, the positives' scores from best to worst, and its counts."""

    def __init__(self, tiles: Tiles, side: int, queries: np.ndarray, scores: np.ndarray):
        n = tiles.shape[side]
        spoiled = np.zeros(n, bool)
        spoiled[queries[np.isnan(scores)]] = True
        order = np.where(spoiled[queries], np.nan, scores)
        self.levels = _ragged(queries, order, -order, n, -np.inf)  # [Q, P]
        self.owned = np.bincount(queries, minlength=n)
        self.ahead, self.equal = np.zeros(self.levels.shape, np.int64), np.zeros(n, np.int64)
        self.tiles, self.side = tiles, side
        self.block = functools.lru_cache(tiles.grid[side])(self._block)

    def _block(self, index: int):
        """Thresholds `[q, P]` of a block of queries, padded, and how many of the P are in use there."""
        span, size = self.tiles.span(self.side, index), self.tiles.block[self.side]
        levels = np.pad(self.levels[span], ((0, size - (span.stop - span.start)), (0, 0)))
        return put((levels, np.int32(self.owned[span].max())), self.tiles.mesh, P())

    def ranking(self) -> Ranking:
        """Takes the positives out of the counts."""
        used = np.arange(self.levels.shape[1]) < self.owned[:, None]
        ahead, equal = self.ahead.copy(), self.equal.copy()
        for p in range(self.levels.shape[1]):
            ahead -= used[:, p, None] & ~(self.levels[:, p, None] < self.levels)
            equal -= used[:, p] & (self.levels[:, p] == self.levels[:, 0])
        positions = np.where(used, ahead + np.arange(1, self.levels.shape[1] + 1), 0)
        return Ranking(positions, (equal > 0) & (self.owned > 0), self.levels[:, 0])


def _add(sides, rows: slice, columns: slice, counted) -> None:
    for side, span, (ahead, equal) in zip(sides, (rows, columns), jax.device_get(counted), strict=True):
        side.ahead[span] += ahead[: span.stop - span.start]
        side.equal[span] += equal[: span.stop - span.start]


def _positive_scores(tiles: Tiles, visuals: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Scores of the pairs (visual, text), `[N]`; computes only the tiles that hold one."""
    (v, t), across = tiles.block, tiles.grid[1]
    where = visuals // v * across + texts // t
    order = np.argsort(where, kind="stable")
    used, starts = np.unique(where[order], return_index=True)
    groups = np.split(order, starts[1:])
    width, gather = max(map(len, groups)), _gatherer(tiles.mesh)
    scores = None
    for index, group in zip(used, groups, strict=True):
        at = np.zeros((2, width), np.int32)
        at[:, : len(group)] = visuals[group] % v, texts[group] % t
        found = jax.device_get(gather(tiles.tile(*divmod(int(index), across)), put(at, tiles.mesh, P())))
        scores = np.empty(len(order), found.dtype) if scores is None else scores
        scores[group] = found[: len(group)]
    return scores


def top_k(tiles: Tiles, k: int, *, axis: int = 0, progress: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates along `axis` of every query, best first; equal scores keep their order, NaN comes last.

    Returns:
        scores `[Q, k]` and positions int32 `[Q, k]`, with k no more than the candidates there are.
    """
    k = min(k, tiles.shape[axis])
    merge, found = _merger(tiles.mesh, k, axis), []
    bar = tqdm(desc=progress, disable=progress is None, leave=False, total=int(np.prod(tiles.grid)))
    for query in range(tiles.grid[1 - axis]):
        state = None
        for candidate in range(tiles.grid[axis]):
            i, j = (candidate, query) if axis == 0 else (query, candidate)
            span = tiles.span(axis, candidate)
            limits = put(np.array([span.start, span.stop], np.int32), tiles.mesh, P())
            tile = tiles.tile(i, j)
            state = merge(tile, limits, jax.block_until_ready(state))  # one tile ahead of the device, not all of them
            bar.update()
        size = tiles.span(1 - axis, query)
        found.append([a[: size.stop - size.start] for a in jax.device_get(state)])
    bar.close()
    scores, ids = (np.concatenate(a) for a in zip(*found, strict=True))
    return scores[:, :k], ids[:, :k]


# What runs on the devices: compiled once per mesh and shape, and kept between evaluations.


@functools.lru_cache(16)
def _counter(mesh: Mesh):
    def ahead(tile, levels, used, where, axis):
        # One level at a time: a fused compare and sum over the tile each, and as many as the block needs, not P.
        def step(p, counts):
            below = tile < jnp.expand_dims(levels[:, p], axis)
            return counts.at[:, p].set(jnp.sum(where & ~below, axis=axis, dtype=jnp.int32))

        counts = jax.lax.fori_loop(0, used, step, jnp.zeros(levels.shape, jnp.int32))
        equal = where & (tile == jnp.expand_dims(levels[:, 0], axis))
        return counts, jnp.sum(equal, axis=axis, dtype=jnp.int32)

    def count(tile, sizes, rows, columns):
        real_row, real_column = (jnp.arange(n) < size for n, size in zip(tile.shape, sizes, strict=True))
        return ahead(tile, *rows, real_column[None, :], 1), ahead(tile, *columns, real_row[:, None], 0)

    return jax.jit(count, out_shardings=NamedSharding(mesh, P()))


@functools.lru_cache(16)
def _gatherer(mesh: Mesh):
    return jax.jit(lambda tile, at: tile[at[0], at[1]], out_shardings=NamedSharding(mesh, P()))


@functools.lru_cache(16)
def _merger(mesh: Mesh, k: int, axis: int):
    def merge(tile, span, state):
        scores = tile if axis == 1 else tile.T
        ids = span[0] + jnp.arange(scores.shape[1], dtype=jnp.int32)
        scores = jnp.where((ids < span[1]) & ~jnp.isnan(scores), scores, -jnp.inf)
        ids = jnp.broadcast_to(ids, scores.shape)
        if state is not None:  # earlier candidates first: lax.top_k keeps the first of equals
            scores, ids = (jnp.concatenate(pair, axis=1) for pair in zip(state, (scores, ids), strict=True))
        scores, at = jax.lax.top_k(scores, min(k, scores.shape[1]))
        return scores, jnp.take_along_axis(ids, at, axis=1)

    return jax.jit(merge, out_shardings=NamedSharding(mesh, P()))


def _pairs(text_visual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(texts, visuals) of all true pairs, each int64 `[N]`."""
    table = np.asarray(text_visual).reshape(len(text_visual), -1)
    texts, column = np.nonzero(table >= 0)
    return texts, table[texts, column].astype(np.int64)


def _ragged(queries, values, keys, n: int, fill) -> np.ndarray:
    """`values` as rows `[n, P]`, one row a query, in the order of `keys`, filled up with `fill`."""
    order, counts = np.lexsort((keys, queries)), np.bincount(queries, minlength=n)
    within = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((n, max(1, counts.max(initial=0))), fill, values.dtype)
    table[queries[order], within] = values[order]
    return table
