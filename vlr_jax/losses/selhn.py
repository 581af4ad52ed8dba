"""Triplet loss with selectively hard negatives (SelHN, of RVSE++; Li et al., TCSVT 2024, arXiv 2303.00181)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def selhn(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    margin: ranking.Number = 0.2,
    threshold: ranking.Number = 0.01,
) -> Float[Array, " q"]:
    """The hardest negative pays unless its gradient would vanish: l = max_n h_n if δ >= ε, else mean_n h_n.

    h_n = [s_n - max_p s_p + margin]_+ and δ = |max_p s_p - max_n s_n|, a constant to the gradient. Each query decides
    for itself, in each direction. p runs over a query's positives (relevance 1), n over its negatives. Li et al.,
    "Selectively Hard Negative Mining for Alleviating Gradient Vanishing in Image-Text Matching", arXiv 2303.00181.

    Args:
        scores: `[V, T]`.
        relevance: `[V, T]`, exactly 1.0 on true pairs.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        margin: by how much the best positive has to win.
        threshold: ε, the δ from which on a query mines its hardest negative.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores)
    positive = ranking.positives(relevance, where)
    # A query without a positive has nothing that its negatives could be compared with.
    negative = ranking.negatives(relevance, where) & jnp.any(positive, axis=axis, keepdims=True)
    best = ranking.first_max(jnp.where(positive, scores, ranking.NEG), axis)
    hardest = ranking.first_max(jnp.where(negative, scores, ranking.NEG), axis)
    costs = ranking.hinge(jnp.where(negative, scores - jnp.expand_dims(best, axis) + margin, ranking.NEG))
    mean = ranking.masked_mean(costs, negative, axis)
    mines = mines_hardest(scores, relevance, where=where, axis=axis, threshold=threshold)
    return jnp.where(mines, ranking.hinge(hardest - best + margin), mean)


def mines_hardest(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    threshold: ranking.Number = 0.01,
) -> Bool[Array, " q"]:
    """Which queries `selhn` sends to their hardest negative alone; False without a positive or without a negative."""
    scores = jax.lax.stop_gradient(ranking.as_float(scores))
    positive, negative = ranking.positives(relevance, where), ranking.negatives(relevance, where)
    best, hardest = (jnp.max(jnp.where(kind, scores, ranking.NEG), axis=axis) for kind in (positive, negative))
    both = jnp.any(positive, axis=axis) & jnp.any(negative, axis=axis)
    return both & ~(jnp.abs(best - hardest) < threshold)
