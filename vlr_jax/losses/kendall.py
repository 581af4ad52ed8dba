"""The dense Kendall ranking loss of "Image-Text Matching Beyond Binary Supervision", from which BCLS's descends."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import discordance as discordances
from vlr_jax import ranking


@ranking.listwise
def kendall(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    gap: ranking.Number = 0.3,
    pairs: ranking.Number | None = None,
) -> Float[Array, " q"]:
    """Every discordant pair pays its difference: l = sum_{jk: r_j - r_k > gap} [s_k - s_j]_+ / pairs.

    The linear form of Kendall's tau. Li et al., "Image-Text Matching Beyond Binary Supervision" (2023, official code);
    that the loss of BCLS (arXiv 2210.11319) is its kin is INFERRED. The official normaliser is that of the whole batch:
    with `pairs` the mean number of pairs a query, the mean of the values over all queries is the official loss. Exact,
    without any pair in memory: O(C log C) and C² / 32 word steps a query (`discordance.py`).

    Args:
        scores: `[V, T]`.
        relevance: `[V, T]`, any grades; constant. Positives, of relevance 1, take part like all others.
        where: `[V, T]`, False = not a candidate; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        gap: candidates whose relevances differ by no more are not ordered; at least 0.
        pairs: the mean of `kendall_pairs` over all queries of the batch, where these are only some of them; None = over
            those of these queries that have a candidate.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without two candidates further apart than `gap`.

    Raises:
        ValueError: a negative `gap`, if it is a plain number.
    """
    scores, relevance, where = ranking.candidates_last(axis, where, scores, relevance)
    counts = discordances.discordance(scores, relevance, where, gap)
    # Each candidate's own score, as often as it is one too high less as often as it is one too low: linear in scores.
    share = (counts.too_high - counts.too_low).astype(scores.dtype)
    # The shares of a query add up to nothing, so scores may count from their mean: less is lost to rounding.
    middle = jax.lax.stop_gradient(ranking.masked_mean(scores, where, 1))[:, None]
    total = jnp.sum(share * jnp.where(where, scores - middle, 0), axis=1)
    total -= jax.lax.stop_gradient(jnp.minimum(total, 0))  # pairs of equal scores may round below 0
    if pairs is None:
        pairs = ranking.masked_mean(counts.pairs, jnp.any(where, axis=1), 0)
    return jnp.where(pairs > 0, total / jnp.where(pairs > 0, pairs, 1), 0)


def kendall_pairs(
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    gap: ranking.Number = 0.3,
) -> Float[Array, " q"]:
    """How many ordered pairs of candidates differ in relevance by more than `gap`, for each query: `[Q]`."""
    return discordances.pairs(*ranking.candidates_last(axis, where, relevance), gap)
