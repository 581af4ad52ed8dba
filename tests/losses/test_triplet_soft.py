"""triplet_soft: reference numbers, the formula in Python floats, and the loss at its end."""

import functools
import math

import jax.numpy as jnp
import numpy as np

from vlr_jax.losses import triplet_hard, triplet_soft


def test_reference(check_golden):
    def total(s, margin, temperature):
        loss = functools.partial(triplet_soft, s, jnp.eye(len(s)), margin=margin, temperature=temperature)
        return (loss(axis=1).mean() + loss(axis=0).mean()) / 2

    assert check_golden("inferred_bcls_vlc", r"tripletSN_m([\d.]+)_tau([\d.]+)", total) == 12


def test_formula(check_twin):
    def formula(positives, negatives):
        soft = 0.1 * math.log(sum(math.exp((n + 0.2) / 0.1) for n in negatives)) if negatives else -1e9
        return sum(max(soft - p, 0) for p in positives) / len(positives)

    check_twin(functools.partial(triplet_soft, temperature=0.1), formula)


def test_limit(block):
    scores, relevance, where = (jnp.asarray(a) for a in block)
    for axis in (1, 0):
        hard = triplet_hard(scores, relevance, where=where, axis=axis)
        soft = triplet_soft(scores, relevance, where=where, axis=axis, temperature=1e-5)
        np.testing.assert_allclose(soft, hard, atol=1e-4)
