"""The pairwise sigmoid loss (SigLIP, Zhai et al., ICCV 2023, arXiv 2303.15343)."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking


def sigmoid(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    temperature: ranking.Number = 0.1,
    bias: ranking.Number = -10.0,
) -> Float[Array, " q"]:
    """A binary cross-entropy for every candidate: l = sum_c softplus(-z_c (s_c / τ + b)).

    z is +1 on a query's positives (relevance 1) and -1 on its negatives. Zhai et al., "Sigmoid Loss for Language Image
    Pre-Training", ICCV 2023, arXiv 2303.15343. Both directions sum the same pairs, so that where V = T and
    every query has a positive their mean, or one of them alone, is the official loss.

    Args:
        scores: `[V, T]`, not yet divided by the temperature.
        relevance: `[V, T]`, exactly 1.0 on true pairs.
        where: `[V, T]`, False = the pair is neither positive nor negative; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        temperature: τ; may be a learned scalar.
        bias: b, low at first because most pairs are negatives; may be a learned scalar.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a positive.
    """
    scores = ranking.as_float(scores, where)
    positive = ranking.positives(relevance, where)
    negative = ranking.negatives(relevance, where)
    logits = scores / temperature + bias
    # Up to here nothing depends on the axis: the compiler makes the costs once for both directions.
    costs = ranking.softplus(jnp.where(positive, -logits, jnp.where(negative, logits, ranking.NEG)))
    return jnp.where(jnp.any(positive, axis=axis), jnp.sum(costs, axis=axis), 0.0)
