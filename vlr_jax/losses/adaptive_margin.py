"""InfoNCE with a margin per negative, by language (LG, the language-guided loss of LG_ITM)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def adaptive_margin(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    margin: ranking.Number = 0.2,
    alpha: ranking.Number = 0.18,
    temperature: ranking.Number = 0.05,
) -> Float[Array, " q"]:
    """Nearly relevant negatives may come nearer: l = mean_p softplus((τ log sum_n exp((s_n + M_n) / τ) - s_p) / τ).

    M_n = m where the relevance R_n is below α, else m (1 - R_n) / (1 - α). p runs over a query's positives (relevance
    1), n over its negatives. α = 1 gives `unified` / τ. The loss of github.com/AAA-Zheng/LG_ITM, whose relevance is
    `relevance.caption_cosine` and which sums both directions: a mean with weight 2.

    Args:
        scores: `[V, T]`, not yet divided by the temperature.
        relevance: `[V, T]`, exactly 1.0 on true pairs, graded elsewhere.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        margin: m, by how much a positive has to win over what is irrelevant.
        alpha: α, the relevance from which on the margin shrinks; 1 = it never does.
        temperature: τ; may be a learned scalar.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores, where)
    positive = ranking.positives(relevance, where)
    negative = ranking.negatives(relevance, where)
    grades = ranking.as_float(relevance, where).astype(scores.dtype)
    shrunk = (1 - grades) / jnp.where(alpha < 1, 1 - alpha, 1)  # 0 / 0 is met neither here nor in a gradient
    raised = scores + margin * jnp.where(grades < alpha, 1, shrunk)
    return ranking.contrast(jnp.where(positive, scores, raised) / temperature, positive, negative, axis)
