"""sigmoid: the sum of binary cross-entropies, the formula in Python floats, and no inf at logits of any size."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from vlr_jax.losses import sigmoid


def test_is_the_sum_of_binary_cross_entropies(block):
    scores, labels = jnp.asarray(block[0][:5, :5]), jnp.eye(5)
    for axis in (0, 1):
        odds = jax.nn.sigmoid(scores / 0.5 - 1)
        expected = -(labels * jnp.log(odds) + (1 - labels) * jnp.log(1 - odds)).sum(axis)
        found = sigmoid(scores, labels, axis=axis, temperature=0.5, bias=-1.0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_formula(check_twin):
    def formula(positives, negatives):
        logits = [-(p / 0.1 - 2) for p in positives] + [n / 0.1 - 2 for n in negatives]
        return sum(math.log1p(math.exp(x)) for x in logits)

    check_twin(functools.partial(sigmoid, bias=-2.0), formula)


def test_learned_temperature_and_bias(block):
    scores, labels = jnp.asarray(block[0][:5, :5]), 2 * jnp.eye(5) - 1

    def official(t, b):
        return -jax.nn.log_sigmoid(labels * (scores / t + b)).sum() / 5

    def ours(t, b):
        return sigmoid(scores, jnp.eye(5), temperature=t, bias=b).mean()

    knobs = jnp.float32(0.1), jnp.float32(-10.0)
    np.testing.assert_allclose(ours(*knobs), official(*knobs), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(ours, (0, 1))(*knobs), jax.grad(official, (0, 1))(*knobs), rtol=1e-5)
