"""Triplet loss with soft negatives (Triplet-SN, of BCLS; Li et al. 2022, arXiv 2210.11319)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def triplet_soft(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    margin: ranking.Number = 0.2,
    temperature: ranking.Number = 0.01,
) -> Float[Array, " q"]:
    """A soft hardest negative within a hard hinge: l = mean_p [τ log sum_n exp((s_n + m) / τ) - s_p]_+.

    p runs over a query's positives (relevance 1), n over its negatives. τ → 0 gives `triplet_hard`; with a soft hinge
    it is `unified`. Li et al., arXiv 2210.11319. INFERRED: the paper names "soft negative mining" and no code is
    public; the log-sum-exp is what the same authors' losses of that year (arXiv 2209.13869) have.

    Args:
        scores: `[V, T]`.
        relevance: `[V, T]`, exactly 1.0 on true pairs.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        margin: m, by how much a positive has to win.
        temperature: τ, the softness of the maximum.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores, where)
    positive = ranking.positives(relevance, where)
    negative = ranking.negatives(relevance, where)
    soft_max = ranking.soft_max(jnp.where(negative, scores, ranking.NEG), temperature, axis)
    gap = ranking.positive_gaps(scores, soft_max + margin, positive, axis)
    return ranking.masked_mean(ranking.hinge(gap), positive, axis)
