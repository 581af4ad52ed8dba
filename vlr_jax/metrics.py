"""Retrieval metrics: from positions of the positives, from graded relevance, and what chance or an oracle would reach.

Positions are 1-based and pessimistic (`search.rank_all`): ties and NaN count against the model. `positions` is int
`[Q, P]`, each query's positives from best to worst, 0 where it has fewer than P; queries without a positive are left
out of every mean. R@K, mAP@R and R-Precision are in percent; NDCG and tau are not. On the host in float64, except
`ndcg_at`, which is jnp and runs inside jit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

Positions = Int[np.ndarray, "q p"]
RECALLS = (1, 5, 10)


def ranks(positions: Positions) -> Int[np.ndarray, " answered"]:
    """Rank of the best positive of every query that has one."""
    return positions[positions[:, 0] > 0, 0]


def recall_at(ranks: Int[np.ndarray, " q"], k: int) -> float:
    """R@K: percentage of queries whose best positive is among the first k (a hit rate, not a recall over positives)."""
    return 100.0 * int(np.count_nonzero(ranks <= k)) / len(ranks)


def median_rank(ranks: Int[np.ndarray, " q"]) -> float:
    """floor(median of 0-based ranks) + 1, the field's convention: an even number of queries is rounded down."""
    return float(np.floor(np.median(ranks - 1)) + 1)


def mean_rank(ranks: Int[np.ndarray, " q"]) -> float:
    """Mean of the 1-based ranks."""
    return float(np.mean(ranks - 1) + 1)


def r_precision(positions: Positions) -> float:
    """Percentage of a query's R positives that are among its first R, averaged over queries."""
    positions, owned = _answered(positions)
    hits = (positions > 0) & (positions <= owned[:, None])
    return float(100.0 * np.mean(hits.sum(1) / owned))


def map_at_r(positions: Positions) -> float:
    """mAP@R = mean_q (1/R) Σ_{i=1..R} precision(i) · [i-th is positive], percent (Musgrave et al. 2020, 2003.08505)."""
    positions, owned = _answered(positions)
    hits = (positions > 0) & (positions <= owned[:, None])
    precision = np.arange(1, positions.shape[1] + 1) / np.maximum(
        positions, 1
    )  # the j-th positive stands at positions[j]
    return float(100.0 * np.mean(np.where(hits, precision, 0.0).sum(1) / owned))


def retrieval(positions: Positions) -> dict[str, float]:
    """R@1, R@5, R@10, medR, meanR; mAP@R and R-Precision where some query has several positives.

    Raises:
        ValueError: no query has a positive.
    """
    best = ranks(positions)
    if not len(best):
        raise ValueError("no query has a positive, so nothing can be measured")
    values = {f"R@{k}": recall_at(best, k) for k in RECALLS} | {"medR": median_rank(best), "meanR": mean_rank(best)}
    if positions.shape[1] > 1:
        values |= {"mAP@R": map_at_r(positions), "R-Precision": r_precision(positions)}
    return values


def both_directions(v2t: dict[str, float], t2v: dict[str, float]) -> dict[str, float]:
    """Names `v2t_R@1`, `t2v_R@1`, …, and `rsum`, the sum of the six R@K."""
    values = {f"v2t_{k}": v for k, v in v2t.items()} | {f"t2v_{k}": v for k, v in t2v.items()}
    return values | {"rsum": sum(side[f"R@{k}"] for side in (v2t, t2v) for k in RECALLS)}


def mean(results: list[dict[str, float]]) -> dict[str, float]:
    """Every metric averaged over folds, as the five folds of COCO 1K are."""
    return {name: float(np.mean([r[name] for r in results])) for name in results[0]}


def ndcg_at(
    scores: Float[Array | np.ndarray, "v t"],
    relevance: Float[Array | np.ndarray, "v t"],
    *,
    k: int = 10,
    where: Bool[Array | np.ndarray, "v t"] | None = None,
    axis: int = -1,
) -> Float[Array, " q"]:
    """NDCG@k = DCG@k / ideal DCG@k, DCG@k = Σ_{i≤k} (2^rel_i − 1) / log2(1 + i), the ideal sorted by relevance.

    Järvelin & Kekäläinen 2002, gains of Burges et al. 2005. Equal scores are ordered by ascending relevance (against
    the model) and NaN comes last. No sort of the candidates: what is tied with the k-th score fills the places that are
    left with its least relevant.

    Args:
        scores, relevance: candidates along `axis`, queries along the other one.
        k: cut-off; no more than the candidates there are.
        where: valid candidates.

    Returns:
        one value in [0, 1] a query; 0 where nothing is relevant.
    """
    scores, relevance = (jnp.moveaxis(jnp.asarray(x), axis, -1) for x in (scores, relevance))
    valid = jnp.ones(scores.shape, bool) if where is None else jnp.moveaxis(jnp.asarray(where), axis, -1)
    k = min(k, scores.shape[-1])
    lowest = jnp.finfo(scores.dtype).min
    scores = jnp.where(jnp.isnan(scores), lowest, jnp.maximum(scores, lowest))
    scores = jnp.where(valid, scores, -jnp.inf)
    gains = jnp.where(valid, jnp.exp2(relevance) - 1.0, 0.0)

    top, at = jax.lax.top_k(scores, k)
    last = top[:, -1:]  # the score of place k, perhaps shared
    ahead = top > last
    # Places 1..k hold the candidates above `last`, then the least relevant of those at `last`.
    tied = -jax.lax.top_k(jnp.where(scores == last, -gains, -jnp.inf), k)[0]
    keys = -jnp.concatenate([jnp.where(ahead, top, -jnp.inf), jnp.where(jnp.isfinite(tied), last, -jnp.inf)], axis=-1)
    found = jnp.concatenate([jnp.take_along_axis(gains, at, axis=-1), tied], axis=-1)
    _, found = jax.lax.sort((keys, found), num_keys=2)

    discount = 1.0 / jnp.log2(jnp.arange(k, dtype=gains.dtype) + 2.0)
    ideal = jnp.sum(jax.lax.top_k(gains, k)[0] * discount, axis=-1)
    return jnp.where(ideal > 0, jnp.sum(found[:, :k] * discount, axis=-1) / jnp.where(ideal > 0, ideal, 1.0), 0.0)


def kendall_tau(scores: Float32[np.ndarray, "q c"], relevance: Float[np.ndarray, "q c"]) -> Float[np.ndarray, " q"]:
    """Kendall's tau-b of scores and graded relevance, per row: (C − D) / √((N − ties_s)(N − ties_r)), N = c(c−1)/2.

    O(c log c) a row (Knight 1966: sort by score, then count the inversions of relevance), without pairs in memory. NaN
    scores count as equal and last. 0 where all scores are equal; NaN where all relevances are, since no order could be
    right.
    """
    agreement, pairs, tied_score, tied_grade = _agreement(scores, relevance)
    scale = np.sqrt((pairs - tied_score).astype(float)) * np.sqrt((pairs - tied_grade).astype(float))
    return np.where(tied_grade == pairs, np.nan, agreement / np.where(scale > 0, scale, 1.0))


def kendall_tau_c(scores: Float32[np.ndarray, "q c"], relevance: Float[np.ndarray, "q c"]) -> Float[np.ndarray, " q"]:
    """Kendall's tau-c (Stuart 1953) per row: 2 (C − D) / (c² (m − 1) / m), m = the fewer of distinct scores and grades.

    For a scale of few grades, where tau-b cannot reach 1. NaN and rows of equals as in `kendall_tau`.
    """
    agreement, pairs, _, tied_grade = _agreement(scores, relevance)
    order = _order_preserving(scores)
    fewer = np.array([min(len(np.unique(s)), len(np.unique(r))) for s, r in zip(order, relevance, strict=True)])
    scale = scores.shape[1] ** 2 * (fewer - 1) / fewer
    return np.where(tied_grade == pairs, np.nan, 2 * agreement / np.where(scale > 0, scale, 1.0))


def expected_under_ties(
    better: Int[np.ndarray, " q"], tied_negatives: Int[np.ndarray, " q"], tied_positives: Int[np.ndarray, " q"], k: int
) -> Float[np.ndarray, " q"]:
    """P(best positive within the first k) when its group of equals, after `better` candidates, is ordered at random.

    1 − C(n, m) / C(n + p, m): none of the p positives is among the m = k − better places that the group fills.
    """
    n, p = tied_negatives, tied_positives
    places = np.clip(k - better, 0, n + p)
    missed = np.ones(len(n))
    for i in range(1, int(p.max(initial=0)) + 1):  # C(n, m) / C(n + p, m) = Π_{i=1..p} (n − m + i) / (n + i)
        missed *= np.where(i <= p, np.clip((n - places + i) / (n + i), 0.0, None), 1.0)
    return 1.0 - missed


def expected(better: Positions, tied: Positions) -> dict[str, float]:
    """What `retrieval` returns, in expectation over random orders of equals.

    medR is the median of the distribution of ranks over queries and orders. The rest are exact means.

    Args:
        better: candidates of any kind that score strictly more than each positive of the query, best positive first.
        tied: candidates of any kind that score the same, itself included; 0 where the query has fewer positives.
    """
    better, tied = (x[tied[:, 0] > 0] for x in (better, tied))
    used = tied > 0
    first, owned = better[:, 0], used.sum(1)
    p = (used & (better == first[:, None])).sum(1)
    n = tied[:, 0] - p

    def within(k: int) -> float:
        return float(np.mean(expected_under_ties(first, n, p, k)))

    low, high = 1, int((first + n).max()) + 1  # the smallest k with P(rank ≤ k) ≥ 1/2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if within(middle) >= 0.5 else (middle + 1, high)
    values = {f"R@{k}": 100.0 * within(k) for k in RECALLS}
    values |= {"medR": float(low), "meanR": float(np.mean(first + (n + p + 1) / (p + 1)))}
    if better.shape[1] > 1:
        places = np.arange(1, better.shape[1] + 1)  # j, within a group; no more than R of them count
        precision, hits = np.zeros(len(better)), np.zeros(len(better))
        for b, size, real in zip(better.T, tied.T, used.T, strict=True):
            size, fill = np.maximum(size, 1), np.clip(owned - b, 0, size)
            ahead = (used & (better < b[:, None])).sum(1)
            others = (used & (better == b[:, None])).sum(1) - 1
            # This positive stands at place j with 1/size; then (j − 1) others/(size − 1) equals before it are positive.
            found = ahead[:, None] + 1 + (places - 1) * (others / np.maximum(size - 1, 1))[:, None]
            at_place = np.where(places <= fill[:, None], found / (b[:, None] + places), 0.0)
            precision += real * at_place.sum(1) / size
            hits += real * fill / size
        values |= {"mAP@R": 100.0 * float(np.mean(precision / owned))}
        values |= {"R-Precision": 100.0 * float(np.mean(hits / owned))}
    return values


def chance(candidates: int, positives: Int[np.ndarray, " q"]) -> dict[str, float]:
    """`expected` of a random order of `candidates`, for queries with these numbers of positives."""
    used = np.arange(max(1, int(positives.max(initial=0)))) < positives[:, None]
    return expected(np.zeros(used.shape, np.int64), np.where(used, candidates, 0))


def expected_ndcg_at(
    scores: Float[np.ndarray, "q c"], relevance: Float[np.ndarray, "q c"], k: int = 10
) -> Float[np.ndarray, " q"]:
    """NDCG@k in expectation over random orders of equal scores, for scores of few distinct values (constant: chance).

    Every place of a group of equals holds, on average, the group's mean gain.
    """
    gains, k = np.exp2(relevance.astype(float)) - 1.0, min(k, scores.shape[1])
    discount = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])
    total, filled = np.zeros(len(scores)), np.zeros(len(scores), np.int64)
    for level in np.unique(scores)[::-1]:
        group = scores == level
        size = group.sum(1)
        share = discount[np.minimum(filled + size, k)] - discount[np.minimum(filled, k)]
        total += share * np.where(group, gains, 0.0).sum(1) / np.maximum(size, 1)
        filled += size
        if filled.min() >= k:
            break
    ideal = -np.partition(-gains, k - 1, axis=1)[:, :k]
    ideal = -np.sort(-ideal, axis=1) @ np.diff(discount)
    return np.where(ideal > 0, total / np.where(ideal > 0, ideal, 1.0), 0.0)


def _agreement(scores: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Per row C − D, concordant less discordant pairs; then all pairs, those of equal score, those of equal grade."""
    step = max(1, 2**16 // scores.shape[1])  # rows at once: the temporaries stay in cache
    spans = [slice(i, i + step) for i in range(0, len(scores), step)]
    counts = (np.concatenate(part) for part in zip(*(_pairs(scores[s], relevance[s]) for s in spans), strict=True))
    agreement, tied_score, tied_grade = counts
    return agreement, scores.shape[1] * (scores.shape[1] - 1) // 2, tied_score, tied_grade


def _pairs(scores: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grades = np.searchsorted(np.unique(relevance), relevance)
    # One integer that sorts by score, then by grade: sorting it beats any argsort, and ties make no inversions.
    key = np.sort(_order_preserving(scores) << 32 | grades, axis=1)
    ordered = key & 0xFFFFFFFF
    tied_score, tied_both, tied_grade = map(_equal_pairs, (key >> 32, key, np.sort(grades, axis=1)))
    pairs = scores.shape[1] * (scores.shape[1] - 1) // 2
    return pairs - tied_score - tied_grade + tied_both - 2 * _inversions(ordered), tied_score, tied_grade


def _order_preserving(scores: np.ndarray) -> np.ndarray:
    """float32 → int64 of the same order, NaN as −inf: a float's bits order as an integer does, reversed below zero."""
    scores = np.where(np.isnan(scores), -np.inf, scores).astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    bits = scores.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _equal_pairs(values: np.ndarray) -> np.ndarray:
    """Pairs of equal values in sorted rows: every value closes one with all of its run before it."""
    index, new = np.arange(values.shape[1]), np.ones(values.shape, bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    return (index - np.maximum.accumulate(np.where(new, index, 0), axis=1)).sum(1)


def _inversions(grades: np.ndarray) -> np.ndarray:
    """Pairs i < j with grades[i] > grades[j], per row: bit by bit from the top, within groups equal in higher bits."""
    total, index = np.zeros(len(grades), np.int64), np.arange(grades.shape[1])
    for bit in reversed(range(int(grades.max(initial=0)).bit_length())):
        key = np.sort(grades >> (bit + 1) << 32 | index << 1 | grades >> bit & 1, axis=1)  # groups, in order of place
        group, one = key >> 32, key & 1
        before = np.cumsum(one, 1) - one
        first = np.ones(group.shape, bool)
        first[:, 1:] = group[:, 1:] != group[:, :-1]
        start = np.maximum.accumulate(np.where(first, before, 0), axis=1)  # `before` never falls along a row
        total += ((1 - one) * (before - start)).sum(1)
    return total


def _answered(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positions = positions[positions[:, 0] > 0]
    return positions, (positions > 0).sum(1)
