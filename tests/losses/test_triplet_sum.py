"""triplet_sum: official numbers, the formula in Python floats, and an example by hand."""

import jax.numpy as jnp
import pytest

from vlr_jax.losses import triplet_sum


def test_golden(check_golden):
    def total(s, margin):
        return sum(triplet_sum(s, jnp.eye(len(s)), margin=margin, axis=axis).sum() for axis in (0, 1))

    assert check_golden("vsepp_contrastive", r"m([\d.]+)_sum", total) == 32


def test_formula(check_twin):
    def formula(positives, negatives):
        return sum(max(n - max(positives) + 0.2, 0) for n in negatives)

    check_twin(triplet_sum, formula)


def test_by_hand():
    scores = jnp.array([[0.9, 0.8, 0.75], [0.5, 0.2, 0.6], [0.0, 0.1, 0.9]])
    assert triplet_sum(scores, jnp.eye(3), axis=1).tolist() == pytest.approx([0.15, 1.1, 0.0], abs=1e-6)
