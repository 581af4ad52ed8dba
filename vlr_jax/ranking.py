"""What losses and metrics share: who is positive, safe reductions, and ranks that ties cannot flatter.

A block of scores is `[V, T]`; `axis` is the axis of the candidates, the other one holds the queries.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Stands in for "no candidate" before a non-linearity: finite, so that no gradient meets inf - inf.
NEG = -1e9

# A knob of a loss: a plain number, or a traced scalar such as a learned temperature.
Number = float | int | Float[Array, ""]


def positives(relevance: Float[Array, "v t"], where: Bool[Array, "v t"] | None = None) -> Bool[Array, "v t"]:
    """True pairs: relevance exactly 1.0 (the invariant of `relevance.py`), where valid."""
    positive = relevance >= 1.0
    return positive if where is None else positive & where


def negatives(relevance: Float[Array, "v t"], where: Bool[Array, "v t"] | None = None) -> Bool[Array, "v t"]:
    """Valid candidates that are not positives."""
    negative = relevance < 1.0
    return negative if where is None else negative & where


def masked_mean(values: Array, where: Array, axis: int) -> Array:
    """Mean of `values` over the entries where `where`; 0, with zero gradient, where there are none."""
    count = jnp.sum(where, axis=axis)
    return jnp.sum(jnp.where(where, values, 0.0), axis=axis) / jnp.maximum(count, 1)


def first_max(values: Array, axis: int) -> Array:
    """Maximum along `axis` whose gradient goes to the first maximal entry only; NaN if any entry is.

    `jnp.max` splits the gradient among equal maxima; the official losses (torch) send it to one. The entry is
    taken out by a masked sum, not by indexing: on a sharded axis that is a partial result, a gather moves the block.
    """
    first = jnp.expand_dims(jnp.argmax(values, axis=axis), axis)
    place = jax.lax.broadcasted_iota(first.dtype, values.shape, axis % values.ndim)
    return jnp.sum(jnp.where(place == first, values, 0.0), axis=axis)


def soft_max(values: Array, temperature: Number, axis: int) -> Array:
    """The smooth maximum τ · log sum exp(values / τ) along `axis`."""
    return temperature * jax.nn.logsumexp(values / temperature, axis=axis)


def hinge(x: Array) -> Array:
    """max(x, 0) with gradient 1 at exactly 0, as torch's clamp has; NaN stays NaN."""
    return jnp.where(x < 0, 0.0, x)


def positive_gaps(
    scores: Float[Array, "v t"], level: Float[Array, " q"], positive: Bool[Array, "v t"], axis: int
) -> Float[Array, "v t"]:
    """By how much each query's `level` (of its negatives) exceeds each of its positives; 0 where not `positive`."""
    return jnp.where(positive, jnp.expand_dims(level, axis) - scores, 0.0)


def best_positive(scores: Float[Array, "v t"], positive: Bool[Array, "v t"], axis: int) -> Float[Array, " q"]:
    """The highest score among each query's positives; NEG where it has none. NaN if any positive's score is NaN."""
    return jnp.max(jnp.where(positive, scores, NEG), axis=axis)


def ranks(
    scores: Float[Array, "v t"],
    relevance: Float[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
) -> Int[Array, " q"]:
    """Rank of each query's best positive: 1 + the negatives that do not score strictly less.

    Ties and NaN count against the model, so a collapsed or diverged network ranks last. A query without a positive
    gets 1 + its number of negatives.
    """
    best = jnp.expand_dims(best_positive(scores, positives(relevance, where), axis), axis)
    ahead = negatives(relevance, where) & ~(scores < best)
    return 1 + jnp.sum(ahead, axis=axis, dtype=jnp.int32)


def has_positive(relevance: Float[Array, "v t"], where: Bool[Array, "v t"] | None, axis: int) -> Bool[Array, " q"]:
    """Queries with at least one valid positive."""
    return jnp.any(positives(relevance, where), axis=axis)


def as_float(scores: Array) -> Array:
    """Scores in at least float32: losses of half-precision towers are computed in float32, float64 stays."""
    return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
