"""InfoNCE with a margin that grows with the positive's difficulty (ProTA's adaptive contrastive loss)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def adaptive_contrastive(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    margin: ranking.Number = 0.2,
    temperature: ranking.Number = 0.01,
) -> Float[Array, " q"]:
    """Hard positives have to win by more: l = mean_p softplus((τ log sum_n exp(s_n / τ) - (s_p - m_p)) / τ).

    m_p = margin · clip(1 - s_p, 0, 1), a constant to the gradient. p runs over a query's positives (relevance 1), n
    over its negatives. Margin 0 gives `info_nce`. ProTA (probabilistic token aggregation for text-video retrieval, ICME
    2024, arXiv 2404.12216). INFERRED: the form of the margin is not the paper's text; no code is public.

    Args:
        scores: `[V, T]`, not yet divided by the temperature.
        relevance: `[V, T]`, exactly 1.0 on true pairs.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        margin: the margin of a positive that scores 0 or less.
        temperature: τ; may be a learned scalar.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores, where)
    positive = ranking.positives(relevance, where)
    negative = ranking.negatives(relevance, where)
    margins = jax.lax.stop_gradient(margin * jnp.clip(1 - scores, 0, 1))
    logits = jnp.where(positive, scores - margins, scores) / temperature
    return ranking.contrast(logits, positive, negative, axis)
