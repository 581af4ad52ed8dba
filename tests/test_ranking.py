"""ranking.py beside brute force, and its gradients beside torch's rules for ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import ranking

rng = np.random.default_rng(0)
# Small integers: many exact ties.
SCORES = rng.integers(0, 5, (6, 8)).astype(np.float32)
GRADES = np.where(rng.random((6, 8)) < 0.25, 1.0, 0.5).astype(np.float32)
WHERE = rng.random((6, 8)) < 0.8
GRADES[0] = 0.5  # a query without a positive


def brute_rank(scores, positive, negative):
    best = max(scores[positive], default=ranking.NEG)
    return 1 + sum(not s < best for s in scores[negative])


@pytest.mark.parametrize("axis", [1, 0])
def test_ranks(axis):
    found = ranking.ranks(jnp.asarray(SCORES), jnp.asarray(GRADES), where=jnp.asarray(WHERE), axis=axis)
    for q, rank in enumerate(np.asarray(found)):
        s, g, w = (np.take(a, q, 1 - axis) for a in (SCORES, GRADES, WHERE))
        assert rank == brute_rank(s, w & (g == 1), w & (g < 1))


def test_collapsed_and_nan_rank_last():
    eye = jnp.eye(4)
    for scores in (jnp.ones((4, 4)), jnp.full((4, 4), jnp.nan), jnp.where(eye == 1, jnp.nan, 0.0)):
        for axis in (0, 1):
            assert ranking.ranks(scores, eye, axis=axis).tolist() == [4] * 4


def test_first_max_sends_the_gradient_to_one_entry():
    values = jnp.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    assert ranking.first_max(values, 1).tolist() == [3.0, 2.0]
    assert jax.grad(lambda x: ranking.first_max(x, 1).sum())(values).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert jax.grad(lambda x: ranking.first_max(x, 0).sum())(values).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert jnp.isnan(ranking.first_max(values.at[0, 1].set(jnp.nan), -1)[0])


def test_second_derivatives():
    values = jnp.asarray([[1.0, 3.0, 3.0], [0.5, 0.0, -2.0]])
    twice = jax.jit(jax.hessian(lambda x: (ranking.first_max(x, 1) ** 2).sum()))(values)
    assert (twice != 0).sum() == 2 and twice[0, 1, 0, 1] == twice[1, 0, 1, 0] == 2
    for ours, theirs in (
        (ranking.softplus, jax.nn.softplus),
        (lambda x: ranking.soft_max(x, 0.7, 1), lambda x: 0.7 * jax.nn.logsumexp(x / 0.7, 1)),
    ):
        for derive in (lambda f: f, jax.grad, jax.hessian):
            found, expected = (jax.jit(derive(lambda x, f=f: f(x).sum()))(values) for f in (ours, theirs))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_softplus_far_out():
    x = jnp.asarray([-1e9, -2e6, -100.0, 0.0, 100.0, 2e6])
    assert ranking.softplus(x).tolist() == [0, 0, jnp.exp(-100.0), jnp.log(2.0), 100, 2e6]
    assert jax.vmap(jax.grad(ranking.softplus))(x).tolist() == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert jnp.isnan(ranking.softplus(x * jnp.nan)).all()
    slope = jax.grad(lambda t: ranking.soft_max(jnp.asarray([1.0, 0.5]), t, 0))(0.3)
    expected = jax.grad(lambda t: t * jax.nn.logsumexp(jnp.asarray([1.0, 0.5]) / t))(0.3)
    assert float(slope) == pytest.approx(float(expected), rel=1e-5)


def test_hinge_has_slope_one_at_zero():
    assert ranking.hinge(jnp.array([-1.0, 0.0, 2.0])).tolist() == [0, 0, 2]
    assert jax.vmap(jax.grad(ranking.hinge))(jnp.array([-1.0, 0.0, 2.0])).tolist() == [0, 1, 1]
    assert jnp.isnan(ranking.hinge(jnp.nan * jnp.ones(1)))[0]


def test_masked_mean():
    found = ranking.masked_mean(jnp.asarray(SCORES), jnp.asarray(WHERE & (GRADES == 1)), 1)
    for q in range(6):
        chosen = SCORES[q][WHERE[q] & (GRADES[q] == 1)]
        assert float(found[q]) == pytest.approx(chosen.mean() if len(chosen) else 0.0)


def test_soft_max_is_near_the_maximum_and_above():
    values = jnp.asarray(SCORES)
    np.testing.assert_allclose(ranking.soft_max(values, 1e-4, 1), values.max(1), atol=1e-3)
    expected = [0.5 * np.log(np.exp(row / 0.5).sum()) for row in SCORES.astype(float)]
    np.testing.assert_allclose(ranking.soft_max(values, 0.5, 1), expected, rtol=1e-6)


def test_helpers_agree():
    scores, grades, where = jnp.asarray(SCORES), jnp.asarray(GRADES), jnp.asarray(WHERE)
    positive, negative = ranking.positives(grades, where), ranking.negatives(grades, where)
    assert not (positive & negative).any() and ((positive | negative) == where).all()
    assert (ranking.has_positive(grades, where, 1) == positive.any(1)).all()
    assert float(ranking.best_positive(scores, positive, 1)[0]) == ranking.NEG
    gaps = ranking.positive_gaps(scores, scores.max(1), positive, 1)
    assert (gaps == jnp.where(positive, scores.max(1)[:, None] - scores, 0)).all()
    assert ranking.as_float(scores.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("axis", [1, 0])
def test_contrast(axis, most):
    logits = jnp.asarray(rng.normal(size=(6, 8)), jnp.float32)
    positive = np.zeros((6, 8), bool)
    for q in range(logits.shape[1 - axis] - 1):  # the last query has none
        np.moveaxis(positive, axis, 1)[q, q : q + 1 + q % most] = True
    positive, negative = jnp.asarray(positive), jnp.asarray(~positive & WHERE)

    first = jnp.cumsum(jnp.moveaxis(negative, axis, 1), axis=1) == 1
    alone = negative & jnp.moveaxis(first, 1, axis)  # one negative a query

    def plain(logits, negative):
        level = jax.nn.logsumexp(jnp.where(negative, logits, ranking.NEG), axis=axis)
        gaps = ranking.positive_gaps(logits, level, positive, axis)
        return (ranking.masked_mean(jax.nn.softplus(gaps), positive, axis) ** 2).sum()

    def ours(logits, negative):
        return (ranking.contrast(logits, positive, negative, axis) ** 2).sum()

    for derive in (lambda f: f, jax.grad, jax.hessian):
        found, expected = (jax.jit(derive(f)) for f in (ours, plain))
        for case in ((logits, negative), (logits, alone), (100 * logits, negative), (100 * logits, alone)):
            np.testing.assert_allclose(found(*case), expected(*case), rtol=1e-4, atol=1e-5)
    far = jnp.where(positive, 1e6, -1e6) * jnp.asarray([1.0, -1.0])[:, None, None]  # all won; all lost
    assert ours(far[0], negative) == 0 and jnp.isfinite(ours(far[1], negative))
    for derive in (jax.grad, jax.hessian):
        slopes = jax.jit(derive(ours))
        assert all(jnp.isfinite(slopes(x, only)).all() for x in far for only in (negative, alone))
