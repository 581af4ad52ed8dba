"""info_nce: the cross-entropy of a softmax with one positive, reference numbers, the formula in Python floats."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from vlr_jax.losses import info_nce


def test_is_log_softmax_with_one_positive(block):
    scores = jnp.asarray(block[0][:5, :5])
    for axis in (0, 1):
        expected = -jnp.diagonal(jax.nn.log_softmax(scores / 0.05, axis=axis))
        np.testing.assert_allclose(info_nce(scores, jnp.eye(5), axis=axis), expected, rtol=1e-5, atol=1e-6)


def test_reference(check_golden):
    def total(s, temperature):
        return sum(info_nce(s, jnp.eye(len(s)), axis=axis, temperature=temperature).mean() for axis in (0, 1)) / 2

    assert check_golden("inferred_bcls_vlc", r"vlc_tau([\d.]+)", total) == 12


def test_formula(check_twin):
    def formula(positives, negatives):
        ratios = [sum(math.exp((n - p) / 0.1) for n in negatives) for p in positives]
        return sum(math.log1p(ratio) for ratio in ratios) / len(positives)

    check_twin(functools.partial(info_nce, temperature=0.1), formula)


def test_learned_temperature_has_the_slope_of_the_formula(block):
    scores = jnp.asarray(block[0][:5, :5])
    slope = jax.grad(lambda t: info_nce(scores, jnp.eye(5), temperature=t).mean())
    plain = jax.grad(lambda t: -jnp.diagonal(jax.nn.log_softmax(scores / t, axis=1)).mean())
    np.testing.assert_allclose(slope(jnp.float32(0.3)), plain(jnp.float32(0.3)), rtol=1e-5)
