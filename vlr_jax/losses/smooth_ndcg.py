"""Smooth-NDCG of Listwise ITR (Li et al. 2023, arXiv 2305.16566): the ranking measure itself, made differentiable."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking, sorting
from vlr_jax.soft_ranks import soft_ranks


@ranking.listwise
def smooth_ndcg(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    temperature: ranking.Number = 0.01,
    ideal: str = "shared",
) -> Float[Array, " q"]:
    """One minus NDCG with soft ranks: l = 1 - sum_j (2^r_j - 1) / log2(1 + π_j) / IDCG.

    π_j = 1 + sum_{k≠j} σ((s_k - s_j) / τ), where the official code counts k with s_k > s_j. Li et al., "Integrating
    Listwise Ranking into Pairwise-based Image-Text Retrieval", arXiv 2305.16566. All candidates are graded; positives
    are those of relevance 1. O(C log C) a query in time, O(C) in memory (`soft_ranks.py`).

    Args:
        scores: `[V, T]`.
        relevance: `[V, T]` in [0, 1]; constant.
        where: `[V, T]`, False = not a candidate; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        temperature: τ; towards 0 the loss becomes 1 - NDCG.
        ideal: ranks in IDCG. "shared": equal relevances share the best of their ranks, as in the official code, so that
            the loss stays above 0 where there are some. "sorted": ranks 1, 2, 3 …, as in `metrics.ndcg_at`.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query whose valid candidates are all equally relevant.

    Raises:
        ValueError: `ideal` is neither.
    """
    if ideal not in ("shared", "sorted"):
        raise ValueError(f"ideal is {ideal!r}; choose shared or sorted")
    scores, relevance, where = ranking.candidates_last(axis, where, scores, jax.lax.stop_gradient(relevance))
    ranks = soft_ranks(scores, where, temperature)
    gain = jnp.where(where, jnp.exp2(relevance) - 1, 0)
    dcg = jnp.sum(gain / jnp.log2(1 + jnp.where(where, ranks, 1)), axis=1)

    ordered, place = sorting.ascending(jnp.where(where, -relevance, jnp.inf))  # the most relevant first
    if ideal == "sorted":
        gain, place = jnp.exp2(jnp.where(jnp.isinf(ordered), 0, -ordered)) - 1, jnp.arange(gain.shape[1])
    best = jnp.sum(gain / jnp.log2(2.0 + place.astype(gain.dtype)), axis=1)
    least = jnp.max(jnp.where(jnp.isinf(ordered), -jnp.inf, ordered), axis=1)
    gradable = (ordered[:, 0] < least) & (best > 0)
    return jnp.where(gradable, 1 - dcg / jnp.where(gradable, best, 1), 0)
