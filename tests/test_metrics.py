"""Metrics against their definitions, written out in loops; expectations under ties against drawn orders."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import metrics


def random_positions(rng, queries=30, candidates=20, most=4):
    """Positions of 1 to `most` positives among the candidates, padded with 0; the last query has none."""
    positions = np.zeros((queries, most), np.int64)
    for row in positions[:-1]:
        n = rng.integers(1, most + 1)
        row[:n] = np.sort(rng.choice(candidates, n, replace=False)) + 1
    return positions


def test_rank_metrics():
    ranks = np.array([1, 1, 2, 6, 11, 30])
    assert metrics.recall_at(ranks, 1) == 100 * 2 / 6
    assert metrics.recall_at(ranks, 10) == 100 * 4 / 6
    assert metrics.median_rank(ranks) == 4.0  # 0-based 1 and 5: mean 3, + 1
    assert metrics.median_rank(np.array([1, 2])) == 1.0  # 0-based 0 and 1: mean 0.5, rounded down
    assert metrics.mean_rank(ranks) == pytest.approx(51 / 6)


def test_precisions_by_definition():
    positions = random_positions(np.random.default_rng(0))
    precisions, r_precisions = [], []
    for row in positions:
        held = [int(p) for p in row if p]
        if held:
            hits = [place for place in range(1, len(held) + 1) if place in held]
            precisions.append(sum(sum(h <= place for h in held) / place for place in hits) / len(held))
            r_precisions.append(len(hits) / len(held))
    assert len(precisions) == len(positions) - 1  # a query without a positive counts nowhere
    assert metrics.map_at_r(positions) == pytest.approx(100 * np.mean(precisions))
    assert metrics.r_precision(positions) == pytest.approx(100 * np.mean(r_precisions))


def test_retrieval_names():
    single, several = np.array([[1], [3]]), np.array([[1, 2], [3, 0]])
    assert list(metrics.retrieval(single)) == ["R@1", "R@5", "R@10", "medR", "meanR"]
    both = metrics.both_directions(metrics.retrieval(several), metrics.retrieval(single))
    assert both["rsum"] == 50 + 100 + 100 + 50 + 100 + 100
    assert {"v2t_mAP@R", "v2t_R-Precision", "t2v_meanR"} <= set(both) and "t2v_mAP@R" not in both
    assert metrics.mean([{"a": 1.0}, {"a": 2.0}]) == {"a": 1.5}
    with pytest.raises(ValueError, match="no query has a positive"):
        metrics.retrieval(np.zeros((3, 1), np.int64))


def ndcg(scores, relevance, where, k):
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = sorted(np.flatnonzero(where), key=lambda c: (-scores[c], relevance[c]))
    ideal = sorted(relevance[where], reverse=True)

    def dcg(grades):
        return sum((2**g - 1) / math.log2(2 + place) for place, g in enumerate(grades[:k]))

    return dcg(relevance[order]) / dcg(ideal) if len(ideal) and ideal[0] > 0 else 0.0


@pytest.mark.parametrize("k", [1, 5, 30])
def test_ndcg(k):
    rng = np.random.default_rng(k)
    scores = rng.integers(0, 6, (12, 20)).astype(np.float32)  # many ties
    scores[rng.random(scores.shape) < 0.1] = np.nan
    scores[0], scores[1], scores[2, 3] = 0.0, np.nan, -np.inf
    relevance = (rng.integers(0, 5, scores.shape) / 4).astype(np.float32)
    relevance[3] = 0.0
    where = rng.random(scores.shape) < 0.8
    where[4, 2:] = False  # fewer candidates than k
    expected = [ndcg(*row, k) for row in zip(scores, relevance, where, strict=True)]
    found = jax.jit(metrics.ndcg_at, static_argnames=("k", "axis"))(scores, relevance, k=k, where=where, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    other = metrics.ndcg_at(jnp.asarray(scores.T), jnp.asarray(relevance.T), k=k, where=jnp.asarray(where.T), axis=0)
    np.testing.assert_allclose(other, expected, atol=1e-6)
    assert found[3] == 0.0


def tau_b(scores, relevance):
    scores = np.where(np.isnan(scores), -np.inf, scores)
    signs = [
        (np.sign(scores[i] - scores[j]) if scores[i] != scores[j] else 0.0, np.sign(relevance[i] - relevance[j]))
        for i, j in itertools.combinations(range(len(scores)), 2)
    ]
    both = sum(a * b for a, b in signs)
    by_score, by_relevance = (sum(s != 0 for s in side) for side in zip(*signs, strict=True))
    return np.nan if not by_relevance else both / math.sqrt(by_score * by_relevance) if by_score else 0.0


@pytest.mark.parametrize(("levels", "grades"), [(1000, 1000), (5, 4), (3, 40), (2, 2)])
def test_kendall_tau(levels, grades):
    rng = np.random.default_rng(levels + grades)
    scores = (rng.integers(-levels, levels, (15, 17)) / 7).astype(np.float32)
    relevance = (rng.integers(0, grades, scores.shape) / grades).astype(np.float32)
    scores[0], scores[1], scores[2, :4], scores[3, :2] = 1.0, np.nan, np.nan, [-0.0, 0.0]
    relevance[4] = 0.5
    expected = [tau_b(*row) for row in zip(scores, relevance, strict=True)]
    np.testing.assert_allclose(metrics.kendall_tau(scores, relevance), expected, atol=1e-12)
    assert metrics.kendall_tau(relevance[5:], relevance[5:]) == pytest.approx(1.0)


def test_kendall_tau_in_several_strips():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((5, 2**15)).astype(np.float32)  # two rows at once
    relevance = np.round(scores + rng.standard_normal(scores.shape), 1).astype(np.float32)
    found = metrics.kendall_tau(scores, relevance)
    assert found[3] == metrics.kendall_tau(scores[3:4], relevance[3:4])[0]
    from scipy.stats import kendalltau

    assert found[4] == pytest.approx(kendalltau(scores[4], relevance[4]).statistic, abs=1e-12)


@functools.cache
def drawn(draws=4000):
    """Positives on levels with many equals, and `retrieval` and NDCG@5 averaged over random orders of equals."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 4, (6, 15)).astype(np.float32)
    owned = np.zeros(levels.shape, bool)
    for row in owned:
        row[rng.choice(15, rng.integers(1, 4), replace=False)] = True
    grades = np.where(owned, 1.0, rng.integers(0, 3, levels.shape) / 4).astype(np.float32)
    better, tied = np.zeros((6, 3), np.int64), np.zeros((6, 3), np.int64)
    for q in range(6):
        for p, level in enumerate(sorted(levels[q, owned[q]], reverse=True)):
            better[q, p], tied[q, p] = (levels[q] > level).sum(), (levels[q] == level).sum()
    results, ranks, ndcgs = [], [], []
    for _ in range(draws):
        order = np.argsort(-(levels + rng.random(levels.shape) / 2), axis=1)
        positions = np.zeros((6, 3), np.int64)
        for q in range(6):
            held = np.flatnonzero(owned[q, order[q]]) + 1
            positions[q, : len(held)] = held
        results.append(metrics.retrieval(positions))
        ranks.append(positions[:, 0])
        ndcgs.append([ndcg(np.arange(15, 0, -1.0), grades[q, order[q]], np.ones(15, bool), 5) for q in range(6)])
    return levels, owned, grades, better, tied, results, np.array(ranks), np.mean(ndcgs, axis=0)


def test_expected_metrics_against_drawn_orders():
    _, _, _, better, tied, results, ranks, _ = drawn()
    found, average = metrics.expected(better, tied), metrics.mean(results)
    assert found.keys() == average.keys()
    for name in set(found) - {"medR", "meanR"}:
        assert found[name] == pytest.approx(average[name], abs=1.5), name
    assert found["meanR"] == pytest.approx(average["meanR"], abs=0.05)
    assert found["medR"] == np.percentile(ranks, 50, method="inverted_cdf")


def test_expected_under_ties_is_exact():
    # One better, then 2 negatives and 2 positives in random order: P(a positive in the first 2) = 1/2.
    args = np.array([1]), np.array([2]), np.array([2])
    chances = [float(metrics.expected_under_ties(*args, k)[0]) for k in range(7)]
    np.testing.assert_allclose(chances, [0, 0, 1 / 2, 5 / 6, 1, 1, 1])


def test_expected_without_ties_is_retrieval():
    positions = random_positions(np.random.default_rng(3))[:-1]
    assert len(positions) % 2  # one query in the middle: both medians agree
    found = metrics.expected(np.maximum(positions - 1, 0), (positions > 0).astype(np.int64))
    assert found == pytest.approx(metrics.retrieval(positions))


def test_chance():
    values = metrics.chance(1000, np.full(10, 5))
    assert values["R@1"] == pytest.approx(0.5)
    assert values["R@10"] == pytest.approx(100 * (1 - math.comb(995, 10) / math.comb(1000, 10)))
    assert values["meanR"] == pytest.approx(1001 / 6)
    assert values["R-Precision"] == pytest.approx(0.5)
    single = metrics.chance(1000, np.ones(3, np.int64))
    assert single == pytest.approx({"R@1": 0.1, "R@5": 0.5, "R@10": 1.0, "medR": 500.0, "meanR": 500.5})


def test_expected_ndcg_against_drawn_orders():
    levels, _, grades, _, _, _, _, average = drawn()
    np.testing.assert_allclose(metrics.expected_ndcg_at(levels, grades, 5), average, atol=0.02)
    distinct = np.random.default_rng(1).permuted(np.tile(np.arange(15, dtype=np.float32), (6, 1)), axis=1)
    exact = [ndcg(s, g, np.ones(15, bool), 5) for s, g in zip(distinct, grades, strict=True)]
    np.testing.assert_allclose(metrics.expected_ndcg_at(distinct, grades, 5), exact, atol=1e-9)
