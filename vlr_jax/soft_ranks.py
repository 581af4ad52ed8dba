"""Soft ranks, 1 + sum_k σ((s_k - s_j) / τ), in O(C log C) a query and without any pair in memory.

The smooth rank of Smooth-NDCG (arXiv 2305.16566, after Qin et al. 2010) sums the logistic function over all pairs of
candidates. For x ≤ 0 and z = e^x, σ(x) = z / (1 + z), and 1 / (1 + z) on [0, 1] is a polynomial to any precision: its
Chebyshev series falls by 5.8 a degree. So σ is a sum of a few exponentials e^{mx}. Over sorted scores, in units of τ,
the sum of one is a recurrence, A_j = (A_{j-1} + w_{j-1}) e^{-m (s_j - s_{j-1})}, stable since it only decays, and
σ(x) = 1 - σ(-x) gives the other side. Derivatives of σ are polynomials in z too (z d/dz), so gradients are sums of the
same kind. Relative error of σ before rounding: 3e-10 with float32's polynomial, 5e-15 with float64's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vlr_jax import ranking, sorting


def soft_ranks(
    scores: Float[Array, "q c"], where: Bool[Array, "q c"], temperature: ranking.Number
) -> Float[Array, "q c"]:
    """The soft rank of every valid candidate among the valid ones: 1 + sum_{k≠j} σ((s_k - s_j) / τ).

    Differentiable in scores and temperature, any number of times, in reverse mode. Entries that are not valid hold
    nothing of use.
    """
    scores = jnp.where(where, scores, 0)
    ordered, place = sorting.ascending(jax.lax.stop_gradient(scores))
    weights = where.astype(scores.dtype)[None]
    sharpness = 1 / jnp.asarray(temperature, scores.dtype)
    # A candidate's own σ(0) = 1/2 is in the sum.
    return 0.5 + _kernel_sums(0, scores, weights, sharpness, jax.lax.stop_gradient(ordered), place)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_sums(
    derivative: int,
    scores: Float[Array, "q c"],
    weights: Float[Array, "n q c"],
    sharpness: Float[Array, ""],
    ordered: Float[Array, "q c"],
    place: Int[Array, "q c"],
) -> Float[Array, "n q c"]:
    """y_j = sum_k w_k φ(β (s_k - s_j)), φ the derivative of σ of that order, k = j included, for N sets of weights.

    `ordered` and `place` are `sorting.ascending(scores)`; what depends on them depends on scores alone.
    """
    table = _table(scores.dtype) * np.arange(1, len(_table(scores.dtype)) + 1.0) ** derivative
    # Equal scores share a place, and their weights are added there.
    add = jax.vmap(lambda w, p: jnp.zeros_like(w).at[p].add(w, mode="promise_in_bounds"))
    weights = jnp.moveaxis(add(jnp.moveaxis(weights, 0, 2), place), 0, 2)  # [C, N, Q]
    ordered = ordered.T
    decay = jnp.exp(-sharpness * jnp.diff(ordered, axis=0, prepend=ordered[:1]))[:, None]  # [C, 1, Q], from the last

    def decayed(sums, factor):
        power, new = factor, []
        for part in sums:
            new.append(part * power)
            power *= factor
        return new

    def combined(sums):
        return sum(float(coefficient) * part for coefficient, part in zip(table, sums, strict=True))

    def rise(sums, row):
        factor, weight = row
        sums = decayed(sums, factor)
        return [part + weight for part in sums], combined(sums)

    def fall(carry, row):
        sums, above = carry
        factor, weight, below = row
        higher = combined(sums)
        if derivative == 0:
            higher = above - higher  # σ(x) = 1 - σ(-x)
        elif derivative % 2 == 0:
            higher = -higher
        sums = decayed([part + weight for part in sums], factor)
        return (sums, above + weight), below + higher + at_zero * weight

    at_zero = float(table.sum()) if derivative % 2 else 0.5 * (derivative == 0)
    nothing = jnp.zeros(weights.shape[1:], scores.dtype)
    start = [nothing] * len(table)
    _, below = jax.lax.scan(rise, start, (decay, weights))  # from the lowest score up
    _, sums = jax.lax.scan(fall, (start, nothing), (decay, weights, below), reverse=True)
    pick = jax.vmap(lambda y, p: y.at[p].get(mode="promise_in_bounds"))
    return jnp.moveaxis(pick(jnp.moveaxis(sums, 2, 0), place), 2, 0)


def _forward(derivative, scores, weights, sharpness, ordered, place):
    sums = _kernel_sums(derivative, scores, weights, sharpness, ordered, place)
    return sums, (scores, weights, sharpness, ordered, place)


def _backward(derivative, saved, grads):
    scores, weights, sharpness, ordered, place = saved
    sets, sign = len(weights), (-1.0) ** derivative
    # φ' is odd where φ is even and the other way round: pairs seen from the other end differ by a sign.
    slopes = _kernel_sums(derivative + 1, scores, jnp.concatenate([grads, weights]), sharpness, ordered, place)
    slope = jnp.sum(sign * weights * slopes[:sets] - grads * slopes[sets:], 0)
    to_weights = -sign * _kernel_sums(derivative, scores, grads, sharpness, ordered, place)
    if derivative == 0:
        to_weights += jnp.sum(grads, axis=2, keepdims=True)
    # The slopes of a row add up to nothing, so scores may count from anywhere: from where less is lost to rounding.
    size = jax.lax.stop_gradient(jnp.abs(slope))
    total = jnp.sum(size, 1, keepdims=True)
    middle = jax.lax.stop_gradient(jnp.sum(size * scores, 1, keepdims=True) / jnp.where(total > 0, total, 1))
    return sharpness * slope, to_weights, jnp.sum((scores - middle) * slope), jnp.zeros_like(ordered), None


_kernel_sums.defvjp(_forward, _backward)


@functools.cache
def _table(dtype) -> np.ndarray:
    """Coefficients of z, z², … in z / (1 + z) on [0, 1]."""
    degree = 20 if dtype == jnp.float64 else 12
    series = np.polynomial.Chebyshev.interpolate(lambda z: 1 / (1 + z), degree, domain=[0, 1])
    return series.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef
