"""triplet_hard: official numbers, the formula in Python floats, and an example by hand."""

import functools

import jax.numpy as jnp
import pytest

from vlr_jax.losses import triplet_hard


def test_golden_sum_and_mean_form(check_golden):
    def both(s, margin):
        loss = functools.partial(triplet_hard, s, jnp.eye(len(s)), margin=margin)
        return loss(axis=1), loss(axis=0)

    assert check_golden("vsepp_contrastive", r"m([\d.]+)_hn", lambda s, m: sum(x.sum() for x in both(s, m))) == 32
    assert check_golden("triplet_hn_mean", r"m([\d.]+)", lambda s, m: sum(x.mean() for x in both(s, m)) / 2) == 32


def test_formula(check_twin):
    def formula(positives, negatives):
        return sum(max(max(negatives, default=-1e9) - p + 0.3, 0) for p in positives) / len(positives)

    check_twin(functools.partial(triplet_hard, margin=0.3), formula)


def test_by_hand():
    scores = jnp.array([[0.9, 0.8, 0.1], [0.5, 0.2, 0.6], [0.0, 0.1, 0.9]])
    assert triplet_hard(scores, jnp.eye(3), axis=1).tolist() == pytest.approx([0.1, 0.6, 0.0], abs=1e-6)
    assert triplet_hard(scores, jnp.eye(3), axis=0).tolist() == pytest.approx([0.0, 0.8, 0.0], abs=1e-6)


def test_nan_is_not_hidden():
    scores = jnp.array([[0.9, jnp.nan], [0.5, 0.2]])
    assert jnp.isnan(triplet_hard(scores, jnp.eye(2))[0])
