"""smooth_ndcg: official numbers, the formula in Python floats, and NDCG as the temperature falls."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import metrics, monitors
from vlr_jax.losses import smooth_ndcg, triplet_hard


def official(s, r, margin, temperature, weight, of_texts):
    """The official total, a convex mix of triplet and listwise loss; `of_texts` are the relevances of its t2v part."""
    eye = jnp.eye(len(s), dtype=s.dtype)
    pair = sum(triplet_hard(s, eye, margin=margin, axis=axis).mean() for axis in (1, 0)) / 2
    lists = [smooth_ndcg(s, grades, axis=a, temperature=temperature).mean() for grades, a in ((r, 1), (of_texts, 0))]
    parts = dict(pairwise_loss=pair, listwise_loss=sum(lists) / 2, ndcg_t=1 - lists[0], ndcg_v=1 - lists[1])
    return parts | dict(loss=(1 - weight) * pair + weight * sum(lists) / 2)


def test_golden(check_golden):
    """The official code reads rows of R for texts too, where it should read columns: here it is handed R transposed."""
    total = lambda s, r, m, t, w: official(s, r, m, t, w, r.T)
    case = r"m([\d.]+)_tau([\d.]+)_w([\d.]+)"
    # Of two captions of one picture, rounding decides whether their relevances are equal.
    assert check_golden(r"sndcg(?!/B8_sameimage)", case, total, grades="caption") == 92
    assert check_golden("sndcg(?=/B8_sameimage)", case, total, grades="official") == 14


@pytest.mark.parametrize("source", ["B2", "B8", "B32", "B128"])
def test_golden_ndcg_by_hard_ranks(golden, golden_relevance, source):
    """Of metrics and monitors; inputs without ties, of which the official ranks make nothing else."""

    @jax.jit
    def both(s, r):
        found = {}
        for name, grades, axis in (("t", r, 1), ("v", r.T, 0)):  # rows of R for texts too, as above
            seen, _ = monitors.of_grades(s, grades, jnp.ones(s.shape, bool), name, axis)[f"{name}_NDCG"]
            found[name] = jnp.stack([seen.mean(), metrics.ndcg_at(s, grades, k=len(s), axis=axis).mean()])
        return found

    for kind, rtol in ((jnp.float32, 2e-5), (jnp.float64, 1e-9)):
        with jax.enable_x64(kind is jnp.float64):
            found = both(jnp.asarray(golden[f"{source}/S"], kind), golden_relevance(source, "caption", kind))
        for name, values in found.items():
            np.testing.assert_allclose(values, golden[f"sndcg/{source}/real_ndcg_{name}"], rtol=rtol)


def test_the_gradient_by_relevance_is_none(block):
    scores, relevance, where = (jnp.asarray(a) for a in block)
    slope = jax.jit(jax.grad(lambda r: smooth_ndcg(scores, r, where=where, temperature=0.1).sum()))(relevance)
    assert jnp.all(slope == 0)


def test_same_image_has_one_ideal_rank(golden, golden_relevance):
    with jax.enable_x64(True):
        s, r = jnp.asarray(golden["B8/S"], jnp.float64), golden_relevance("B8_sameimage", "caption", jnp.float64)
        r = jnp.where(r > 1 - 1e-12, 1.0, r)
        value = jax.jit(official)(s, r, 0.2, 0.01, 1.0, r.T)["loss"]
        np.testing.assert_allclose(value, golden["sndcg/B8_sameimage/m0.2_tau0.01_w1.0/f64/loss"], rtol=1e-6)
        shared, single = (jax.jit(functools.partial(smooth_ndcg, ideal=i))(s, r) for i in ("shared", "sorted"))
        assert jnp.all(shared[jnp.array([0, 3])] > single[jnp.array([0, 3])] + 0.01)


def test_texts_are_graded_by_their_own_column(golden, golden_relevance):
    """What the official code would give with the columns: its own formula on both transposed matrices."""
    s, r = jnp.asarray(golden["B8/S"]), golden_relevance("B8", "caption", jnp.float32)
    loss = jax.jit(smooth_ndcg, static_argnames="axis")
    columns = loss(s, r, axis=0)
    np.testing.assert_allclose(columns, loss(s.T, r.T, axis=1), rtol=1e-6)
    assert np.abs(columns - loss(s, r.T, axis=0)).max() > 1e-3


@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("ideal", ["shared", "sorted"])
def test_formula(block, axis, ideal):
    scores, relevance, where = block
    values = smooth_ndcg(
        *map(jnp.asarray, block[:2]), where=jnp.asarray(where), axis=axis, temperature=0.1, ideal=ideal
    )
    for q, value in enumerate(values):
        s, r, w = (np.take(a, q, 1 - axis).astype(float) for a in (scores, relevance, where))
        s, r = s[w == 1].tolist(), r[w == 1].tolist()
        if len(set(r)) < 2:
            assert float(value) == 0
            continue
        ranks = [sum(1 / (1 + math.exp((a - b) / 0.1)) for b in s) + 0.5 for a in s]
        shared = [1 + sum(b > a for b in r) for a in r]
        gains = [2**a - 1 for a in r]
        best = sum(g / math.log2(1 + k) for g, k in zip(gains, shared, strict=True))
        if ideal == "sorted":
            best = sum(g / math.log2(2 + i) for i, g in enumerate(sorted(gains, reverse=True)))
        dcg = sum(g / math.log2(1 + k) for g, k in zip(gains, ranks, strict=True))
        assert float(value) == pytest.approx(1 - dcg / best, rel=1e-4, abs=1e-6)


def test_is_ndcg_at_temperature_zero(block):
    scores, relevance, where = (jnp.asarray(a) for a in block)
    for axis in (1, 0):
        exact = metrics.ndcg_at(scores, relevance, k=scores.shape[axis], where=where, axis=axis)
        soft = smooth_ndcg(scores, relevance, where=where, axis=axis, temperature=1e-5, ideal="sorted")
        graded = jnp.any(jnp.where(where, relevance, 0.5) != 0.5, axis=axis)
        np.testing.assert_allclose(jnp.where(graded, soft, 0), jnp.where(graded, 1 - exact, 0), atol=1e-6)


def test_ideal_is_one_of_two():
    with pytest.raises(ValueError, match="ideal is 'best'; choose shared or sorted"):
        smooth_ndcg(jnp.eye(2), jnp.eye(2), ideal="best")
