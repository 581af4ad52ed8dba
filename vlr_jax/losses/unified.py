"""The unified loss: triplet with hard negatives and InfoNCE are its two ends (Li et al. 2022, arXiv 2209.13869)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def unified(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    margin: ranking.Number = 0.2,
    temperature: ranking.Number = 0.01,
) -> Float[Array, " q"]:
    """A soft hardest negative and a soft hinge: l = mean_p τ softplus((τ log sum_n exp((s_n + m) / τ) - s_p) / τ).

    p runs over a query's positives (relevance 1), n over its negatives. τ → 0 gives `triplet_hard`, m = 0 gives
    τ · `info_nce`. Li et al., "Unified Loss of Pair Similarity Optimization for Vision-Language Retrieval",
    arXiv 2209.13869. The official code's stray term exp(-1 / τ) inside the logarithm is left out (< 5e-6).

    Args:
        scores: `[V, T]`.
        relevance: `[V, T]`, exactly 1.0 on true pairs.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        margin: m, by how much a positive has to win.
        temperature: τ, the softness of both the maximum and the hinge.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores, where)
    positive = ranking.positives(relevance, where)
    negative = ranking.negatives(relevance, where)
    logits = jnp.where(positive, scores, scores + margin) / temperature
    return temperature * ranking.contrast(logits, positive, negative, axis)
