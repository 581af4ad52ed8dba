"""Discordant pairs: candidates that scores order against their relevance, counted without any pair in memory.

For a query, j is better than k where r_j - r_k > gap, and the pair is discordant where yet s_j ≤ s_k. What a sum of
s_k - s_j over discordant pairs needs is only in how many of them each candidate is, and on which side. So: order the
candidates by relevance, then pass through them from the lowest score up, with one bit for each, at its place in the
order by relevance, set once it was passed. The set bits before a place are counted 32 at a time. Exact.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vlr_jax import ranking, sorting


@struct.dataclass
class Discordance:
    """Counts over the pairs of every query, without gradient.

    Attributes:
        too_high: `[Q, C]`, how many better candidates do not score more than this one.
        too_low: `[Q, C]`, how many worse candidates do not score less than this one.
        pairs: `[Q]`, the pairs of a better and a worse candidate, discordant or not.
    """

    too_high: Int[Array, "q c"]
    too_low: Int[Array, "q c"]
    pairs: Float[Array, " q"]


def discordance(
    scores: Float[Array, "q c"], relevance: Float[Array, "q c"], where: Bool[Array, "q c"], gap: ranking.Number = 0.0
) -> Discordance:
    """The discordant pairs of the valid candidates. Time O(C log C) and C² / 32 words a query; memory O(C).

    Args:
        gap: at least 0; j is better than k where r_k - r_j + gap < 0, in this order of operations.

    Raises:
        ValueError: a negative gap, if it is a plain number.
    """
    scores, relevance = jax.lax.stop_gradient((scores, relevance))
    by_relevance, better = _graded(relevance, where, gap)
    valid = sorting.take(where, by_relevance)
    # The worse ones than place i are from place `not_worse` on: those with more than i better ones.
    not_worse = jnp.cumsum(_histogram(better, valid), axis=1)
    # Equal scores in the order of relevance: the better of two is passed first, and the pair counts as discordant.
    by_score = sorting.order(jnp.where(valid, sorting.take(scores, by_relevance), jnp.inf))
    before, below = (sorting.take(x, by_score) for x in (better, not_worse))
    passed_better, passed_not_worse = _passed(by_score, before, below)
    passed = jax.lax.broadcasted_iota(jnp.int32, by_score.shape, 1)
    passed_worse = passed - passed_not_worse
    too_low = jnp.sum(valid, axis=1, keepdims=True) - below - passed_worse
    counts = jnp.where(sorting.take(valid, by_score), jnp.stack([passed_better, too_low]), 0)
    too_high, too_low = jax.vmap(sorting.put, (0, None))(counts, sorting.take(by_relevance, by_score))
    return Discordance(too_high, too_low, _total(better, valid, scores.dtype))


def pairs(relevance: Float[Array, "q c"], where: Bool[Array, "q c"], gap: ranking.Number = 0.0) -> Float[Array, " q"]:
    """`discordance(...).pairs`, which needs no scores."""
    relevance = jax.lax.stop_gradient(relevance)
    by_relevance, better = _graded(relevance, where, gap)
    return _total(better, sorting.take(where, by_relevance), relevance.dtype)


def _graded(relevance, where, gap) -> tuple[Int[Array, "q c"], Int[Array, "q c"]]:
    """The order of the candidates, best first and invalid last, and how many are better than each, in that order."""
    if isinstance(gap, (int, float)) and gap < 0:
        raise ValueError(f"gap is {gap}; it must be at least 0, or candidates would be better than themselves")
    by_relevance = sorting.order(jnp.where(where, -relevance, jnp.inf))
    grades = sorting.take(jnp.where(where, relevance, -jnp.inf), by_relevance)
    better = sorting.count_first(lambda at: (grades - sorting.take(grades, at)) + gap < 0, grades.shape)
    return by_relevance, better


def _histogram(values, where) -> Int[Array, "q c"]:
    count = jax.vmap(lambda v, w: jnp.zeros_like(v).at[v].add(w, mode="promise_in_bounds"))
    return count(values, where.astype(values.dtype))


def _total(better, valid, dtype) -> Float[Array, " q"]:
    return jnp.sum(jnp.where(valid, better, 0).astype(dtype), axis=1)


def _passed(place, *limits) -> list[Int[Array, "q c"]]:
    """For every candidate in turn, how many passed before it have a place below its limit, for each of `limits`."""
    words = -(-place.shape[1] // 32)
    start = 32 * jnp.arange(words, dtype=jnp.int32)[:, None]

    def step(bits, now):
        place, limits = now  # [Q] each
        counts = []
        for limit in limits:
            inside = jnp.clip(limit - start, 0, 32).astype(jnp.uint32)  # [W, Q], bits of the word below the limit
            # A shift by all 32 bits is not defined.
            below = jnp.where(inside == 32, ~jnp.uint32(0), (jnp.uint32(1) << (inside & 31)) - 1)
            counts.append(jnp.sum(jax.lax.population_count(bits & below), axis=0, dtype=jnp.uint32).astype(jnp.int32))
        own = jnp.where(start == (place & ~31), jnp.uint32(1) << (place & 31).astype(jnp.uint32), jnp.uint32(0))
        return bits | own, counts

    nothing = jnp.zeros((words, place.shape[0]), jnp.uint32)
    _, counts = jax.lax.scan(step, nothing, (place.T, [limit.T for limit in limits]))
    return [count.T for count in counts]
