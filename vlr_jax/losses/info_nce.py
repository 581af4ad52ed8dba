"""InfoNCE, the vision-language contrastive loss (van den Oord et al. 2018, arXiv 1807.03748)."""

from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def info_nce(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    temperature: ranking.Number = 0.05,
) -> Float[Array, " q"]:
    """Cross-entropy of a positive among the negatives: l = mean_p softplus((τ log sum_n exp(s_n / τ) - s_p) / τ).

    With one positive p this is -log softmax(s / τ)_p. p runs over a query's positives (relevance 1), n over its
    negatives. Van den Oord, Li and Vinyals, arXiv 1807.03748; as image-text loss ("VLC") arXiv 2103.00020.

    Args:
        scores: `[V, T]`, not yet divided by the temperature.
        relevance: `[V, T]`, exactly 1.0 on true pairs.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        temperature: τ; may be a learned scalar.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores, where)
    positive = ranking.positives(relevance, where)
    negative = ranking.negatives(relevance, where)
    return ranking.contrast(scores / temperature, positive, negative, axis)
