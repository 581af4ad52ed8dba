"""selhn: official numbers with their ties, the formula in Python floats, and who mines the hardest negative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.losses import selhn, triplet_hard, triplet_sum
from vlr_jax.losses.selhn import mines_hardest


def test_golden(check_golden):
    def total(s, margin, threshold):
        loss = functools.partial(selhn, s, jnp.eye(len(s)), margin=margin, threshold=threshold)
        return (loss(axis=1).mean() + loss(axis=0).mean()) / 2

    assert check_golden("selhn", r"m([\d.]+)_eps([\d.]+)", total) == 92


def test_formula(check_twin):
    def formula(positives, negatives):
        best, costs = max(positives), [max(n - max(positives) + 0.3, 0) for n in negatives]
        if not costs:
            return 0.0
        return sum(costs) / len(costs) if abs(best - max(negatives)) < 0.4 else max(costs)

    check_twin(functools.partial(selhn, margin=0.3, threshold=0.4), formula)


@pytest.mark.parametrize("axis", [1, 0])
def test_both_branches(block, axis):
    scores, relevance = jnp.asarray(block[0][:5, :5]), jnp.eye(5)
    never = selhn(scores, relevance, axis=axis, threshold=1e3)
    np.testing.assert_allclose(never, triplet_sum(scores, relevance, axis=axis) / 4, rtol=1e-6)
    always = selhn(scores, relevance, axis=axis, threshold=0.0)
    np.testing.assert_allclose(always, triplet_hard(scores, relevance, axis=axis), rtol=1e-6)


def test_mines_hardest():
    scores = jnp.array([[0.5, 0.5, 0.1], [0.5, 0.25, 0.1], [0.5, 0.1, 0.3], [jnp.nan, 0.1, 0.0]])
    relevance, where = jnp.zeros((4, 3)).at[:, 0].set(1.0), jnp.ones((4, 3), bool)
    assert mines_hardest(scores, relevance).tolist() == [False, True, True, True]  # NaN stays visible
    assert mines_hardest(scores, relevance, threshold=0.25).tolist() == [False, True, False, True]  # strictly less
    assert mines_hardest(scores, relevance, where=where.at[1, 0].set(False).at[2, 1:].set(False)).tolist()[1:3] == [
        0,
        0,
    ]
    assert mines_hardest(scores.T, relevance.T, axis=0).tolist() == [False, True, True, True]
    assert jnp.isnan(selhn(scores, relevance)[3])


def test_the_choice_has_no_gradient():
    scores = jnp.array([[0.5, 0.4, 0.3]])
    for threshold, expected in ((0.01, [-1, 1, 0]), (0.2, [-0.5, 0.5, 0])):
        slope = jax.grad(lambda s, t=threshold: selhn(s, jnp.eye(1, 3), margin=0.15, threshold=t).sum())(scores)
        assert slope.tolist() == [pytest.approx(expected)]
