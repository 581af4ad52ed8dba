"""Ranking and search over tiles: `rank_all` counts who is ahead of the positives, `top_k` keeps the best, `scores_of`
reads the scores of some pairs.

Axis 1 ranks texts for each visual (v2t), axis 0 ranks visuals for each text (t2v), as everywhere in the library.
"""

import functools
from collections.abc import Sequence
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
            Positives that are no candidates stand behind all candidates.
        tied: bool `[Q]`, some negative scores exactly as the best positive.
        best: `[Q]` score of the best positive; NaN if any positive's is, −inf where there is none.
    """

    positions: np.ndarray
    tied: np.ndarray
    best: np.ndarray

    def finite(self, candidates: int) -> bool:
        """Whether every query's best positive scores a number (and none of its positives NaN), of so many candidates.

        Queries without a positive, or whose positives are no candidates, say nothing.
        """
        asked = (self.positions[:, 0] > 0) & (self.positions[:, 0] <= candidates)
        return not np.isnan(self.best).any() and bool(np.isfinite(self.best[asked]).all())


class Truth(NamedTuple):
    """Who is right for whom; the two directions need not agree (ECCV Caption has queries of its own in each).

    Attributes:
        v2t, t2v: int64 `[N, 2]`, distinct pairs (visual, text): the positives of visual queries, and of text queries.
            −1 for a positive that is no candidate: it counts as one and is never found.
    """

    v2t: np.ndarray
    t2v: np.ndarray


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
    return rank_each(tiles, [truth_of(text_visual, tiles.shape)], progress=progress)[0]


def truth_of(text_visual: np.ndarray, shape: tuple[int, int]) -> Truth:
    """The same positives in both directions, from the visuals of each text, int `[T]` or `[T, P]` padded with −1.

    Raises:
        ValueError: it does not fit V visuals and T texts, or names no pair.
    """
    texts, visuals = _pairs(text_visual)
    if len(text_visual) != shape[1] or not 0 <= visuals.max(initial=-1) < shape[0]:
        raise ValueError(
            f"text_visual names the visuals of {len(text_visual)} texts, the last of them {visuals.max(initial=-1)}; "
            f"expected {shape[1]} texts and at least one visual, all below {shape[0]}"
        )
    pairs = np.stack([visuals, texts], 1)
    return Truth(pairs, pairs)


def rank_each(tiles: Tiles, truths: Sequence[Truth], *, progress: str | None = None) -> list[tuple[Ranking, Ranking]]:
    """`rank_all` for several ground truths at once: every tile is computed and read once for all of them.

    Counted is who is ahead of each pair that any truth calls positive; what is positive in a truth is then taken out of
    its own counts.

    Raises:
        ValueError: a pair that is not within the tiles, or no pair at all.
    """
    sides = [_Side(tiles, side, [truth[side] for truth in truths]) for side in (0, 1)]
    both = np.unique(np.concatenate([side.codes for side in sides]))
    scores = scores_of(tiles, *np.divmod(both, tiles.shape[1]))
    for side in sides:
        side.compare(scores[np.searchsorted(both, side.codes)])
    bar = tqdm(desc=progress, disable=progress is None, leave=False, total=int(np.prod(tiles.grid)))
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
    return [tuple(side.ranking(n) for side in sides) for n in range(len(truths))]


class _Side:
    """One direction of `rank_each`: the scores of all positives of each query, and who is ahead of them.

    `codes` are the distinct pairs as numbers visual · T + text, in order; `truths` the pairs of each truth among them.
    """

    def __init__(self, tiles: Tiles, side: int, truths: list[np.ndarray]):
        self.tiles, self.side, self.n = tiles, side, tiles.shape[side]
        within, self.outside = [], []
        for pairs in truths:
            queries, others = pairs[:, side], pairs[:, 1 - side]
            limits = queries.min(initial=0) < 0, queries.max(initial=0) >= self.n, others.min(initial=0) < -1
            if any(limits) or others.max(initial=0) >= tiles.shape[1 - side]:
                raise ValueError(f"a positive pair is not among {tiles.shape[0]} visuals and {tiles.shape[1]} texts")
            within.append(pairs[others >= 0] @ np.array([tiles.shape[1], 1]))
            self.outside.append(np.bincount(queries[others < 0], minlength=self.n))
        self.codes = np.unique(np.concatenate(within))
        if not len(self.codes):
            raise ValueError("no positive pair among the candidates, so there is nothing to rank")
        self.truths = [np.searchsorted(self.codes, np.unique(codes)) for codes in within]
        self.queries = np.divmod(self.codes, tiles.shape[1])[side]

    def compare(self, scores: np.ndarray) -> None:
        """Takes the scores of `codes` as the levels `[Q, P]` to count against, and those of the best positives."""
        self.scores = scores
        self.levels = _ragged(self.queries, scores, -scores, self.n, -np.inf)
        self.place = _ragged(self.queries, np.arange(len(scores)), -scores, self.n, -1)
        self.owned = np.bincount(self.queries, minlength=self.n)
        self.best = np.stack([self._of(at)[1][:, 0] for at in self.truths], 1)  # [Q, truths]
        self.ahead, self.equal = np.zeros(self.levels.shape, np.int64), np.zeros(self.best.shape, np.int64)
        self.block = functools.lru_cache(self.tiles.grid[self.side])(self._block)

    def _of(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A truth's pairs `at` in rows `[Q, P]`, best first, −1 for none; and their scores, NaN if any of a row is."""
        queries, scores = self.queries[at], self.scores[at]
        spoiled = np.zeros(self.n, bool)
        spoiled[queries[np.isnan(scores)]] = True
        scores = np.where(spoiled[queries], np.nan, scores)
        return _ragged(queries, at, -scores, self.n, -1), _ragged(queries, scores, -scores, self.n, -np.inf)

    def _block(self, index: int):
        """Levels `[q, P]` and best scores of a block of queries, padded, and how many of the P are in use there."""
        span, size = self.tiles.span(self.side, index), self.tiles.block[self.side]
        pad = ((0, size - (span.stop - span.start)), (0, 0))
        levels, best = (np.pad(table[span], pad) for table in (self.levels, self.best))
        return put((levels, best, np.int32(self.owned[span].max())), self.tiles.mesh, P())

    def ranking(self, number: int) -> Ranking:
        """The ranking by one truth: takes its positives out of the counts."""
        pairs, levels = self._of(self.truths[number])
        used, counts = pairs >= 0, np.empty(len(self.codes), np.int64)
        counts[self.place[self.place >= 0]] = self.ahead[self.place >= 0]
        # All are ahead of the positives of a query that a NaN spoils.
        ahead = np.where(np.isnan(levels), self.tiles.shape[1 - self.side], counts[pairs])
        equal = self.equal[:, number].copy()
        for p in range(levels.shape[1]):
            ahead -= used[:, p, None] & ~(levels[:, p, None] < levels)
            equal -= used[:, p] & (levels[:, p] == levels[:, 0])
        owned = used.sum(1)
        tied, best = (equal > 0) & (owned > 0), levels[:, 0]
        positions = np.where(used, ahead + np.arange(1, levels.shape[1] + 1), 0)
        if self.outside[number].any():
            positions = _append(positions, owned, self.outside[number], self.tiles.shape[1 - self.side])
        return Ranking(positions, tied, best)


def _append(positions: np.ndarray, owned: np.ndarray, more: np.ndarray, candidates: int) -> np.ndarray:
    """`positions` with `more` positives of each query behind all candidates."""
    places = np.arange((owned + more).max())
    positions = np.pad(positions, ((0, 0), (0, len(places) - positions.shape[1])))
    late = (places >= owned[:, None]) & (places < (owned + more)[:, None])
    return np.where(late, candidates + 1 + places - owned[:, None], positions)


def _add(sides, rows: slice, columns: slice, counted) -> None:
    for side, span, (ahead, equal) in zip(sides, (rows, columns), jax.device_get(counted), strict=True):
        side.ahead[span] += ahead[: span.stop - span.start]
        side.equal[span] += equal[: span.stop - span.start]


def scores_of(tiles: Tiles, visuals: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Scores `[N]` of the pairs (visual, text); computes only the tiles that hold one."""
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
    def ahead(tile, levels, best, used, where, axis):
        # One level at a time: a fused compare and sum over the tile each, and as many as the block needs, not P.
        def step(p, counts):
            below = tile < jnp.expand_dims(levels[:, p], axis)
            return counts.at[:, p].set(jnp.sum(where & ~below, axis=axis, dtype=jnp.int32))

        counts = jax.lax.fori_loop(0, used, step, jnp.zeros(levels.shape, jnp.int32))
        equals = (where & (tile == jnp.expand_dims(column, axis)) for column in best.T)
        return counts, jnp.stack([jnp.sum(equal, axis=axis, dtype=jnp.int32) for equal in equals], 1)

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
