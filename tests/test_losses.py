"""The contract of a loss, checked on every file of `losses/`: add a file and these tests run on it."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import losses
from vlr_jax.resolve import choices, resolve

NAMES = choices("losses")
V, T = 5, 7
QUERIES = {1: V, 0: T}
rng = np.random.default_rng(0)
SCORES = rng.uniform(-1, 1, (V, T)).astype(np.float32)
GRADES = rng.uniform(0, 0.95, (V, T)).astype(np.float32)
GRADES[np.arange(V), np.arange(V)] = 1.0
GRADES[1, 4] = GRADES[3, 6] = 1.0  # several positives
EVERYWHERE = np.ones((V, T), bool)


@functools.cache
def compiled(name, axis):
    """(scores, relevance, where) → values and the gradient of their sum, compiled once per shape."""

    def total(scores, relevance, where):
        values = resolve("losses", name)(scores, relevance, where=where, axis=axis)
        return values.sum(), values

    @jax.jit
    def function(*arguments):
        grads, values = jax.grad(total, has_aux=True)(*arguments)
        return values, grads

    return function


def run(name, axis, *arguments):
    """`compiled`, as numpy."""
    return tuple(np.asarray(a) for a in compiled(name, axis)(*arguments))


def test_every_file_is_exported():
    assert sorted(losses.__all__) == NAMES
    for name in NAMES:
        assert getattr(losses, name) is getattr(importlib.import_module(f"vlr_jax.losses.{name}"), name)


@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_one_finite_float32_a_query(self, name, axis):
        values, grads = run(name, axis, SCORES, GRADES, EVERYWHERE)
        assert values.shape == (QUERIES[axis],) and values.dtype == jnp.float32
        assert np.isfinite(values).all() and np.isfinite(grads).all() and np.abs(grads).max() > 0
        assert np.all(values >= 0)
        loss = resolve("losses", name)
        half = jax.eval_shape(functools.partial(loss, axis=axis), jnp.asarray(SCORES, jnp.bfloat16), GRADES)
        assert half.dtype == jnp.float32 and half.shape == values.shape

    def test_directions_are_one_thing(self, name, axis):
        if axis == 1:  # the same numbers as the other axis of the transposed block
            values, grads = run(name, 1, SCORES, GRADES, EVERYWHERE)
            other, other_grads = run(name, 0, SCORES.T, GRADES.T, EVERYWHERE.T)
            np.testing.assert_allclose(values, other, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(grads, other_grads.T, rtol=1e-5, atol=1e-6)

    def test_vmap(self, name, axis):
        stack = [np.stack([a, a[:, ::-1] if a is SCORES else a]) for a in (SCORES, GRADES, EVERYWHERE)]
        values, _ = jax.vmap(compiled(name, axis))(*stack)
        for i in range(2):
            single, _ = run(name, axis, *(a[i] for a in stack))
            np.testing.assert_allclose(values[i], single, rtol=1e-5, atol=1e-6)

    def test_order_of_candidates_is_nothing(self, name, axis):
        order = np.random.default_rng(1).permutation(SCORES.shape[axis])
        values, grads = run(name, axis, SCORES, GRADES, EVERYWHERE)
        moved = run(name, axis, *(np.take(a, order, axis) for a in (SCORES, GRADES, EVERYWHERE)))
        np.testing.assert_allclose(moved[0], values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moved[1], np.take(grads, order, axis), rtol=1e-5, atol=1e-6)

    def test_invalid_is_as_if_deleted(self, name, axis):
        out = [0, 2]
        where, garbage = EVERYWHERE.copy(), SCORES.copy()
        index = (slice(None), out) if axis == 1 else (out, slice(None))
        where[index], garbage[index] = False, 1e4
        values, grads = run(name, axis, garbage, GRADES, where)
        kept = [np.delete(a, out, axis) for a in (SCORES, GRADES, EVERYWHERE)]
        expected, expected_grads = run(name, axis, *kept)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.delete(grads, out, axis), expected_grads, rtol=1e-5, atol=1e-6)
        assert np.all(grads[index] == 0)

    def test_nothing_to_rank_is_exactly_zero(self, name, axis):
        for grades, where in ((GRADES, ~EVERYWHERE), (np.zeros_like(GRADES), EVERYWHERE)):
            values, grads = run(name, axis, SCORES, grades, where)
            assert np.all(values == 0) and np.all(grads == 0)

    def test_extremes_have_finite_gradients(self, name, axis):
        sign = np.where(np.random.default_rng(2).random((V, T)) < 0.5, -1e4, 1e4).astype(np.float32)
        duplicates = np.repeat(SCORES[:, :1], T, axis=1)
        for scores in (sign, np.full_like(SCORES, 0.5), np.full_like(SCORES, -1e4), duplicates):
            for grades in (GRADES, np.ones_like(GRADES)):
                values, grads = run(name, axis, scores, grades, EVERYWHERE)
                assert np.isfinite(values).all() and np.isfinite(grads).all()
