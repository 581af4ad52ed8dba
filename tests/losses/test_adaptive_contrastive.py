"""adaptive_contrastive: a reference number, the formula in Python floats, and what its margin does."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from vlr_jax.losses import adaptive_contrastive, info_nce


def test_reference(check_golden):
    def total(s, margin, temperature):
        loss = functools.partial(adaptive_contrastive, s, jnp.eye(len(s)), margin=margin, temperature=temperature)
        return (loss(axis=1).mean() + loss(axis=0).mean()) / 2

    assert check_golden("inferred_prota", r"m([\d.]+)_tau([\d.]+)", total) == 1


def test_formula(check_twin):
    def formula(positives, negatives):
        won = [p - 0.2 * min(max(1 - p, 0), 1) for p in positives]
        return sum(math.log1p(sum(math.exp((n - w) / 0.1) for n in negatives)) for w in won) / len(positives)

    check_twin(functools.partial(adaptive_contrastive, temperature=0.1), formula)


def test_without_margin_it_is_info_nce(block):
    scores, relevance, where = (jnp.asarray(a) for a in block)
    for axis in (1, 0):
        plain = info_nce(scores, relevance, where=where, axis=axis, temperature=0.07)
        found = adaptive_contrastive(scores, relevance, where=where, axis=axis, margin=0.0, temperature=0.07)
        np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_the_margin_is_a_constant_to_the_gradient():
    scores, knobs = jnp.array([[0.5, 0.3, 0.1]]), dict(temperature=0.1)
    slope = jax.grad(lambda s: adaptive_contrastive(s, jnp.eye(1, 3), **knobs).sum())(scores)
    shifted = jax.grad(lambda s: info_nce(s, jnp.eye(1, 3), **knobs).sum())(scores.at[0, 0].add(-0.1))
    np.testing.assert_allclose(slope, shifted, rtol=1e-5)
