"""Triplet loss summed over all negatives (VSE0: Kiros et al. 2014, arXiv 1411.2539; Faghri et al., BMVC 2018)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def triplet_sum(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    margin: ranking.Number = 0.2,
) -> Float[Array, " q"]:
    """Every negative within the margin pays: l = sum_n [s_n - max_p s_p + margin]_+.

    p runs over a query's positives (relevance 1), n over its negatives. Kiros et al., arXiv 1411.2539; the "sum of
    hinges" that Faghri et al., "VSE++", BMVC 2018, compare with, and the warm-up of their loss with hard negatives.

    Args:
        scores: `[V, T]`.
        relevance: `[V, T]`, exactly 1.0 on true pairs.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        margin: by how much the best positive has to win.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores)
    positive = ranking.positives(relevance, where)
    # A query without a positive has nothing that its negatives could be compared with.
    negative = ranking.negatives(relevance, where) & jnp.any(positive, axis=axis, keepdims=True)
    best = jnp.expand_dims(ranking.first_max(jnp.where(positive, scores, ranking.NEG), axis), axis)
    # Margin first, as the official code adds: in float32 the order decides who sits exactly on the hinge.
    cost = ranking.hinge(jnp.where(negative, (scores + margin) - best, ranking.NEG))
    return jnp.sum(cost, axis=axis)
