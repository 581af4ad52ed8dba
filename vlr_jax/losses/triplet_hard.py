"""Triplet loss with the hardest negative (VSE++, Faghri et al., BMVC 2018, arXiv 1707.05612)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def triplet_hard(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    margin: ranking.Number = 0.2,
) -> Float[Array, " q"]:
    """Only the negative that scores highest pays: l = mean_p [max_n s_n - s_p + margin]_+.

    p runs over a query's positives (relevance 1), n over its negatives. Faghri et al., "VSE++", BMVC 2018. The batch
    sum of both directions is the official form, `reduce="sum"` in `terms.py`; mean is the one of arXiv 2305.16566.

    Args:
        scores: `[V, T]`.
        relevance: `[V, T]`, exactly 1.0 on true pairs.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        margin: by how much a positive has to win.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores)
    positive = ranking.positives(relevance, where)
    negative = ranking.negatives(relevance, where)
    hardest = ranking.first_max(jnp.where(negative, scores, ranking.NEG), axis)
    gap = ranking.positive_gaps(scores, hardest + margin, positive, axis)
    return ranking.masked_mean(ranking.hinge(gap), positive, axis)
