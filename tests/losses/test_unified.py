"""unified: official numbers, the formula in Python floats, and the two losses at its ends."""

import functools
import math

import jax.numpy as jnp
import numpy as np

from vlr_jax.losses import info_nce, triplet_hard, unified


def test_golden(check_golden):
    def total(s, margin, temperature):
        """The official code's -1 on the diagonal, which leaves exp(-1 / τ) in its sum, is one more candidate here."""
        size = len(s)
        stray = jnp.diagonal(s) - margin - 1
        knobs = dict(margin=margin, temperature=temperature)
        rows = unified(jnp.column_stack([s, stray]), jnp.eye(size, size + 1), axis=1, **knobs)
        columns = unified(jnp.vstack([s, stray]), jnp.eye(size + 1, size), axis=0, **knobs)[:size]
        return (rows.mean() + columns.mean()) / 2

    # torch's softplus is the identity from 20 up, which is 2e-9 off, as is its slope: 1.
    rounding = lambda size, margin, temperature: (2e-9 * temperature, 2e-9 / size)
    assert check_golden("unified", r"m([\d.]+)_tau([\d.]+)", total, rounding=rounding) == 92


def test_formula(check_twin):
    def formula(positives, negatives):
        ratios = [sum(math.exp((n - p + 0.2) / 0.1) for n in negatives) for p in positives]
        return sum(0.1 * math.log1p(ratio) for ratio in ratios) / len(positives)

    check_twin(functools.partial(unified, temperature=0.1), formula)


def test_limits(block):
    scores, relevance, where = (jnp.asarray(a) for a in block)
    hard = triplet_hard(scores, relevance, where=where)
    np.testing.assert_allclose(unified(scores, relevance, where=where, temperature=1e-5), hard, atol=1e-4)
    nce = info_nce(scores, relevance, where=where, temperature=0.07)
    at_zero = unified(scores, relevance, where=where, margin=0.0, temperature=0.07)
    np.testing.assert_allclose(at_zero, 0.07 * nce, rtol=1e-5, atol=1e-7)
