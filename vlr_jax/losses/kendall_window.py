"""Kendall ranking loss on a sliding window with hard samples (SW-HS, of BCLS; Li et al. 2022, arXiv 2210.11319)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Real

from vlr_jax import ranking, sorting


@ranking.listwise
def kendall_window(
    scores: Float[Array, "v t"],
    relevance: Real[Array, "v t"],
    *,
    where: Bool[Array, "v t"] | None = None,
    axis: int = -1,
    window: int | None = None,
    stride: int = 1,
    hard: bool = True,
    margin: ranking.Number = 0.0,
) -> Float[Array, " q"]:
    """Candidates w places of relevance apart must be scored in that order: l = max_k [s(o_k+w) - s(o_k) + margin]_+.

    o sorts a query's candidates by relevance, highest first, equals in the order they come; k = 0, stride, 2 stride, …
    A pair counts where both its ends are valid and their relevance differs. It costs a sort, not the pairs of
    candidates that `kendall` has. Li et al., arXiv 2210.11319. INFERRED: the paper names "sliding window sampling" and
    "hard sample mining" and no code is public; here a pair is the two ends of a window, which skips the small gaps of
    relevance that are mostly noise.

    Args:
        scores: `[V, T]`.
        relevance: `[V, T]`, graded.
        where: `[V, T]`, False = the candidate is left out before the sorting; None = all count.
        axis: the axis of the candidates; the queries are the other one.
        window: w; None = a quarter of the query's valid candidates, rounded down: no pair if they are fewer than 4.
        stride: every how many places a window starts.
        hard: the pair most out of order pays; False: the mean over the pairs.
        margin: by how much the more relevant one has to win.

    Returns:
        `[Q]`, unreduced; 0, with zero gradient, for a query without a pair.

    Raises:
        ValueError: `window` or `stride` below 1.
    """
    if stride < 1 or (window is not None and window < 1):
        raise ValueError(f"kendall_window needs a window and a stride of at least 1, not {window} and {stride}")
    scores, relevance, where = ranking.candidates_last(axis, where, scores, relevance)
    order = sorting.order(jnp.where(where, -relevance, jnp.inf))
    count = jnp.sum(where, axis=1, keepdims=True)
    start = jax.lax.broadcasted_iota(jnp.int32, where.shape, 1)[:, ::stride]
    end = start + (count // 4 if window is None else window)
    inside, end = end < count, jnp.minimum(end, where.shape[1] - 1)
    first, second = order[:, ::stride], sorting.take(order, end)
    pair = inside & (sorting.take(relevance, second) < sorting.take(relevance, first))

    def violation(scores, first, second, pair):
        return jnp.where(pair, sorting.take(scores, second) - sorting.take(scores, first) + margin, ranking.NEG)

    if hard:  # found without a gradient, so that of `take` has one pair a query to put back, not all
        worst = jnp.argmax(violation(jax.lax.stop_gradient(scores), first, second, pair), axis=1, keepdims=True)
        first, second, pair = (sorting.take(x, worst) for x in (first, second, pair))
    return ranking.masked_mean(ranking.hinge(violation(scores, first, second, pair)), pair, 1)
