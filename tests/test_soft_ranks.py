"""Soft ranks beside the sum over all pairs, in float64: values, slopes, curvature; ties, spread, collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.soft_ranks import soft_ranks

rng = np.random.default_rng(0)
WHERE = rng.random((3, 20)) < 0.8
CASES = {
    "spread": rng.uniform(-1, 1, (3, 20)),
    "ties": rng.uniform(-1, 1, (3, 20)).round(1),
    "collapsed": np.full((3, 20), 0.3),
    "near": 0.3 + 1e-7 * rng.normal(size=(3, 20)),
    "far": rng.uniform(-1e4, 1e4, (3, 20)),
}


def pairwise(scores, where, temperature):
    difference = (scores[:, None, :] - scores[:, :, None]) / temperature
    return 0.5 + jnp.sum(jnp.where(where[:, None, :], jax.nn.sigmoid(difference), 0), -1)


def both(scores, temperature, weights, dtype):
    """Ranks, and the gradients of a weighted sum of them, of the two ways."""
    results = []
    for function in (soft_ranks, pairwise):

        def total(s, t, function=function):
            ranks = jnp.where(WHERE, function(s, jnp.asarray(WHERE), t), 0)
            return jnp.sum(weights * ranks), ranks

        grads, ranks = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(scores, jnp.asarray(temperature, dtype))
        results.append((ranks, *grads))
    return results


@pytest.mark.parametrize("name", CASES)
def test_float64(name):
    with jax.enable_x64(True):
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 20)))
        for temperature in (0.01, 0.3):
            ours, theirs = both(jnp.asarray(CASES[name]), temperature, weights, jnp.float64)
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11 / temperature)


@pytest.mark.parametrize("name", CASES)
def test_float32(name):
    with jax.enable_x64(True):
        theirs = both(jnp.asarray(CASES[name], jnp.float32).astype(jnp.float64), 0.01, 1.0, jnp.float64)[1]
    ours = both(jnp.asarray(CASES[name], jnp.float32), 0.01, 1.0, jnp.float32)[0]
    np.testing.assert_allclose(ours[0], theirs[0], rtol=2e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=2e-5, atol=2e-4)  # slopes are of the size 1 / τ = 100


def test_curvature():
    with jax.enable_x64(True):
        scores = jnp.asarray(CASES["spread"])
        product = lambda f: jax.jit(jax.grad(lambda s: jnp.sum(jax.grad(lambda s: f(s).sum() ** 2)(s) * scores**2)))
        ours = product(lambda s: soft_ranks(s, jnp.asarray(WHERE), 0.3) * WHERE)(scores)
        theirs = product(lambda s: pairwise(s, jnp.asarray(WHERE), 0.3) * WHERE)(scores)
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9)


def test_second_derivatives_of_far_scores_are_finite():
    """By temperature too, a row of which nothing is valid included."""
    where = jnp.asarray(WHERE).at[1].set(False)
    total = lambda s, t: jnp.sum(jnp.where(where, soft_ranks(s, where, t), 0) ** 2)
    twice = jax.jit(jax.grad(lambda s, t: sum(jnp.sum(g) for g in jax.grad(total, (0, 1))(s, t)), (0, 1)))
    for scores in (CASES["far"], CASES["near"]):
        grads = twice(jnp.asarray(scores, jnp.float32), jnp.float32(0.01))
        assert all(jnp.isfinite(grad).all() for grad in grads)
