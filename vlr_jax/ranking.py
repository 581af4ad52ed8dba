"""What losses and metrics share: who is positive, safe reductions, and ranks that ties cannot flatter.

A block of scores is `[V, T]`; `axis` is the axis of the candidates, the other one holds the queries.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Real

# Stands in for "no candidate" before a non-linearity: finite, so that no gradient meets inf - inf.
NEG = -1e9

# A knob of a loss: a plain number, or a traced scalar such as a learned temperature.
Number = float | int | Float[Array, ""]


def positives(relevance: Real[Array, "v t"], where: Bool[Array, "v t"] | None = None) -> Bool[Array, "v t"]:
    """True pairs: relevance exactly 1.0 (the invariant of `relevance.py`), where valid."""
    positive = relevance >= 1.0
    return positive if where is None else positive & where


def negatives(relevance: Real[Array, "v t"], where: Bool[Array, "v t"] | None = None) -> Bool[Array, "v t"]:
    """Valid candidates that are not positives."""
    negative = relevance < 1.0
    return negative if where is None else negative & where


def masked_mean(values: Array, where: Array, axis: int) -> Array:
    """Mean of `values` over the entries where `where`; 0, with zero gradient, where there are none."""
    return jnp.sum(jnp.where(where, values, 0.0), axis=axis) / jnp.maximum(_count(where, axis), 1)


def _count(where: Array, axis: int) -> Array:
    """How many are True, as float32 (exact to 16 million): on CPU the compiler sums floats faster than integers."""
    return jnp.sum(where, axis=axis, dtype=jnp.float32)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def first_max(values: Array, axis: int) -> Array:
    """Maximum along `axis` whose gradient goes to the first maximal entry only; NaN if any entry is.

    `jnp.max` splits the gradient among equal maxima; the official losses (torch) send it to one. The place of that
    entry is itself a minimum, not an argmax (on CPU six times slower), and the entry is taken out by a masked sum, not
    by indexing: on a sharded axis both are partial results, a gather moves the block.
    """
    return jnp.max(values, axis=axis)


@first_max.defjvp
def _(axis, primals, tangents):
    (values,), (slopes,) = primals, tangents
    largest = first_max(values, axis)
    place = jax.lax.broadcasted_iota(jnp.int32, values.shape, axis % values.ndim)
    beaten = values < jnp.expand_dims(largest, axis)
    first = jnp.min(jnp.where(beaten, values.shape[axis], place), axis=axis, keepdims=True)
    return largest, jnp.sum(jnp.where(place == first, slopes, 0.0), axis=axis)


def soft_max(values: Array, temperature: Number, axis: int) -> Array:
    """The smooth maximum τ · log sum exp(values / τ) along `axis`; the values are finite, as NEG is."""
    # Whatever is subtracted comes back in, so that its gradient is none.
    largest = jax.lax.stop_gradient(jnp.max(values, axis=axis))
    powers = jnp.exp((values - jnp.expand_dims(largest, axis)) / temperature)
    return largest + temperature * jnp.log(jnp.sum(powers, axis=axis))


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), as `jax.nn.softplus` is, in half the time: losses use it on whole blocks."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _(primals, tangents):
    return softplus(*primals), jax.nn.sigmoid(*primals) * tangents[0]


def listwise(loss: Callable) -> Callable:
    """Marks a loss that sorts candidates: `terms.py` lays out those of a query on one device, at the price of a move.

    All other losses only reduce over candidates, which may then be split over devices.
    """
    loss.listwise = True
    return loss


def hinge(x: Array) -> Array:
    """max(x, 0) with gradient 1 at exactly 0, as torch's clamp has; NaN stays NaN."""
    return jnp.where(x < 0, 0.0, x)


def positive_gaps(
    scores: Float[Array, "v t"], level: Float[Array, " q"], positive: Bool[Array, "v t"], axis: int
) -> Float[Array, "v t"]:
    """By how much each query's `level` (of its negatives) exceeds each of its positives; 0 where not `positive`."""
    return jnp.where(positive, jnp.expand_dims(level, axis) - scores, 0.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def contrast(
    logits: Float[Array, "v t"], positive: Bool[Array, "v t"], negative: Bool[Array, "v t"], axis: int
) -> Float[Array, " q"]:
    """Mean over each query's positives of softplus(log sum_n exp(z_n) - z_p), with z the logits; 0 without a positive.

    A third of the time of what autodiff makes of it: where no query has two positives the softplus is taken once a
    query, not for the whole block, and the gradient of both terms comes from the same powers.
    """
    return _contrast_parts(logits, positive, negative, axis)[0]


@contrast.defjvp
def _(axis, primals, tangents):
    logits, positive, negative = primals
    value, largest, total, pull = _contrast_parts(*primals, axis)
    largest, total, pull = (jnp.expand_dims(x, axis) for x in (largest, total, pull))
    powers = _powers(logits, largest)
    count = jnp.maximum(jnp.expand_dims(_count(positive, axis), axis), 1)
    own = jnp.where(positive, total / (total + powers), 0.0)  # the sigmoid of the gap
    slopes = jnp.where(negative, powers * (pull / jnp.where(total > 0, total, 1.0)), -own / count)
    return value, jnp.sum(slopes * tangents[0], axis=axis)


def _contrast_parts(logits: Array, positive: Array, negative: Array, axis: int) -> tuple[Array, Array, Array, Array]:
    """`contrast`, the largest negative m, the sum of exp(z_n - m), and the mean sigmoid of the gaps."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.where(negative, logits, NEG), axis=axis))
    powers = _powers(logits, jnp.expand_dims(largest, axis))
    total = jnp.sum(jnp.where(negative, powers, 0.0), axis=axis)
    level = largest + jnp.log(jnp.where(total > 0, total, 1.0))
    count = _count(positive, axis)

    def one(logits):
        own = jnp.sum(jnp.where(positive, logits, 0.0), axis=axis)
        gap = jnp.where(count > 0, level - own, NEG)
        return softplus(gap), total / (total + _powers(own, largest)) * (count > 0)

    def several(logits):
        gaps = positive_gaps(logits, level, positive, axis)
        pulls = jnp.expand_dims(total, axis) / (jnp.expand_dims(total, axis) + powers)
        return masked_mean(softplus(gaps), positive, axis), masked_mean(pulls, positive, axis)

    value, pull = jax.lax.cond(jnp.any(count > 1), several, one, logits)
    return value, largest, total, pull


def _powers(logits: Array, largest: Array) -> Array:
    """exp(z - m), at most e^80: a positive as far above the negatives as that costs nothing."""
    return jnp.exp(jnp.minimum(logits - largest, 80.0))


def best_positive(scores: Float[Array, "v t"], positive: Bool[Array, "v t"], axis: int) -> Float[Array, " q"]:
    """The highest score among each query's positives; NEG where it has none. NaN if any positive's score is NaN."""
    return jnp.max(jnp.where(positive, scores, NEG), axis=axis)


def ranks(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
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


def has_positive(relevance: Real[Array, "v t"], where: Bool[Array, "v t"] | None, axis: int) -> Bool[Array, " q"]:
    """Queries with at least one valid positive."""
    return jnp.any(positives(relevance, where), axis=axis)


def as_float(scores: Array, where: Array | None = None) -> Array:
    """Scores in at least float32: losses of half-precision towers are computed in float32, float64 stays.

    0 where not `where`: what stands there, NaN too, must not reach the gradient of a temperature.
    """
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return scores if where is None else jnp.where(where, scores, 0)


def candidates_last(axis: int, where: Bool[Array, "v t"] | None, *blocks: Array) -> list[Array]:
    """For losses that sort: the blocks, in at least float32, and where they count, as `[Q, C]` each."""
    where = jnp.ones(blocks[0].shape, bool) if where is None else where
    return [jnp.moveaxis(block, axis, -1) for block in (*map(as_float, blocks), where)]
