"""The contract of a loss, checked on every file of `losses/`: add a file and these tests run on it."""

import functools
import importlib
import inspect

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


# Losses whose second derivative is all there is to their curvature; the others have kinks, or constants in them.
SMOOTH = ("adaptive_contrastive", "adaptive_margin", "info_nce", "sigmoid", "smooth_ndcg", "triplet_soft", "unified")

# A stable sort pairs candidates of equal relevance as they come, so these may only move past unequal ones.
IN_ORDER = {"kendall_window": {1: [5, 1, 0, 4, 3, 2, 6], 0: [3, 1, 0, 4, 2]}}


def total(name, axis):
    """(scores, temperature or None, relevance, where) → the sum of the values, and the values."""

    def function(scores, temperature, relevance, where):
        knobs = {} if temperature is None else dict(temperature=temperature)
        values = resolve("losses", name)(scores, relevance, where=where, axis=axis, **knobs)
        return values.sum(), values

    return function


@functools.cache
def compiled(name, axis):
    """The same → values and the gradients of their sum, compiled once per shape and dtype."""

    @jax.jit
    def function(*arguments):
        grads, values = jax.grad(total(name, axis), (0, 1), has_aux=True)(*arguments)
        return values, *grads

    return function


def temperature_of(name):
    """The default; None where a loss has no temperature."""
    knob = inspect.signature(resolve("losses", name)).parameters.get("temperature")
    return knob and knob.default


def slopes(name, axis, scores, *rest, temperature=None):
    """`compiled`, as numpy: values, the gradient by the scores, that by the temperature or None."""
    found = compiled(name, axis)(scores, temperature or temperature_of(name), *rest)
    return tuple(x if x is None else np.asarray(x) for x in found)


def run(*arguments, **knobs):
    """`slopes` without that by the temperature."""
    return slopes(*arguments, **knobs)[:2]


def test_every_file_is_exported():
    assert losses.__all__ == sorted(losses.__all__) and set(NAMES) <= set(losses.__all__)
    for name in losses.__all__:
        function = getattr(losses, name)
        file = function.__module__.removeprefix("vlr_jax.losses.")
        assert file in NAMES and (file == name or name not in NAMES)
        assert function is getattr(importlib.import_module(f"vlr_jax.losses.{file}"), name)


@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_one_finite_float32_a_query(self, name, axis):
        values, grads = run(name, axis, SCORES, GRADES, EVERYWHERE)
        assert values.shape == (QUERIES[axis],) and values.dtype == jnp.float32
        assert np.isfinite(values).all() and np.isfinite(grads).all() and np.abs(grads).max() > 0
        assert np.all(values >= 0)

    def test_half_precision_is_computed_in_float32(self, name, axis):
        half = jnp.asarray(SCORES, jnp.bfloat16)
        values, grads = run(name, axis, half, GRADES, EVERYWHERE)
        expected, expected_grads = run(name, axis, half.astype(jnp.float32), GRADES, EVERYWHERE)
        assert values.dtype == jnp.float32 and grads.dtype == jnp.bfloat16
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        np.testing.assert_allclose(grads.astype(np.float32), expected_grads, rtol=0.01, atol=1e-6)

    def test_double_precision_stays(self, name, axis):
        values, grads = run(name, axis, SCORES, GRADES, EVERYWHERE)
        with jax.enable_x64():
            double, double_grads = run(name, axis, SCORES.astype(np.float64), GRADES, EVERYWHERE)
        assert double.dtype == double_grads.dtype == np.float64
        np.testing.assert_allclose(values, double, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(grads, double_grads, rtol=1e-4, atol=1e-5 * max(1, np.abs(grads).max()))

    def test_second_derivative(self, name, axis):
        def product(scores, direction, *rest):
            return (jax.grad(total(name, axis), has_aux=True)(scores, *rest)[0] * direction).sum()

        twice, direction = jax.jit(jax.grad(product)), np.random.default_rng(3).normal(size=SCORES.shape)
        # Positives below 0, where the margin of adaptive_contrastive, a constant to all derivatives, is one indeed.
        unit = np.where(GRADES == 1, -np.abs(SCORES), SCORES)
        one = np.eye(V, T, dtype=bool) | np.roll(np.eye(V, T, dtype=bool), 1, axis)  # one negative a query
        knobs = inspect.signature(resolve("losses", name)).parameters
        lower = knobs["margin"].default if "margin" in knobs else 0.0
        for scale, temperature, where in ((1, 0.1, EVERYWHERE), (0.02, 0.01, EVERYWHERE), (0.02, 0.01, one)):
            # Where softplus bends: negatives by the margin below positives, all of sigmoid's by its bias above 0.
            base = 10 * temperature * (name == "sigmoid") - lower * (GRADES < 1)
            scores, temperature = (scale * unit + base).astype(np.float32), temperature_of(name) and temperature
            found = twice(scores, direction.astype(np.float32), temperature, GRADES, where)
            assert jnp.isfinite(found).all()
            if name in SMOOTH:
                with jax.enable_x64():
                    double, rest = scores.astype(np.float64), (GRADES.astype(np.float64), where)
                    ends = (double + step * direction for step in (1e-6, -1e-6))
                    above, below = (run(name, axis, end, *rest, temperature=temperature)[1] for end in ends)
                expected = (above - below) / 2e-6
                atol = 2e-5 * np.abs(expected).max() + 1e-6 / temperature
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=atol)

    def test_directions_are_one_thing(self, name, axis):
        if axis == 1:  # the same numbers as the other axis of the transposed block
            values, grads = run(name, 1, SCORES, GRADES, EVERYWHERE)
            other, other_grads = run(name, 0, SCORES.T, GRADES.T, EVERYWHERE.T)
            np.testing.assert_allclose(values, other, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(grads, other_grads.T, rtol=1e-5, atol=1e-6)

    def test_vmap(self, name, axis):
        stack = [np.stack([a, a[:, ::-1] if a is SCORES else a]) for a in (SCORES, GRADES, EVERYWHERE)]
        values, *_ = jax.vmap(compiled(name, axis), (0, None, 0, 0))(stack[0], temperature_of(name), *stack[1:])
        for i in range(2):
            single, _ = run(name, axis, *(a[i] for a in stack))
            np.testing.assert_allclose(values[i], single, rtol=1e-5, atol=1e-6)

    def test_order_of_candidates_is_nothing(self, name, axis):
        order = IN_ORDER.get(name, {}).get(axis, np.random.default_rng(1).permutation(SCORES.shape[axis]))
        values, grads = run(name, axis, SCORES, GRADES, EVERYWHERE)
        moved = run(name, axis, *(np.take(a, order, axis) for a in (SCORES, GRADES, EVERYWHERE)))
        np.testing.assert_allclose(moved[0], values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moved[1], np.take(grads, order, axis), rtol=1e-5, atol=1e-6)

    def test_invalid_is_as_if_deleted(self, name, axis):
        out = [0, 2]
        where, garbage, grades = EVERYWHERE.copy(), SCORES.copy(), GRADES.copy()
        index = (slice(None), out) if axis == 1 else (out, slice(None))
        where[index] = False
        kept = [np.delete(a, out, axis) for a in (SCORES, GRADES, EVERYWHERE)]
        expected, expected_grads, expected_slope = slopes(name, axis, *kept)
        for score, grade in ((1e4, 1.0), (np.nan, 0.0), (np.inf, np.nan), (-np.inf, 1.0), (np.nan, np.nan)):
            garbage[index], grades[index] = score, grade
            values, grads, slope = slopes(name, axis, garbage, grades, where)
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(np.delete(grads, out, axis), expected_grads, rtol=1e-5, atol=1e-6)
            assert np.all(grads[index] == 0)
            if slope is not None:
                np.testing.assert_allclose(slope, expected_slope, rtol=1e-4, atol=1e-5)

    def test_relevance_of_any_type(self, name, axis):
        loss = resolve("losses", name)
        eighths = np.floor(8 * GRADES) / 8

        @jax.jit
        def both(whole, coarse):
            return [loss(jnp.asarray(SCORES), r, axis=axis) for r in (whole, coarse)]

        kinds = jnp.asarray(np.floor(GRADES), jnp.int32), jnp.asarray(eighths, jnp.bfloat16)
        for found, grades in zip(both(*kinds), (np.floor(GRADES), eighths), strict=True):
            expected, _ = run(name, axis, SCORES, grades, EVERYWHERE)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def test_nothing_to_rank_is_exactly_zero(self, name, axis):
        # No candidate; or no positive and, for the listwise losses, none that is more relevant than another.
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

    def test_one_candidate(self, name, axis):
        where = np.eye(V, T, dtype=bool)  # the positive of each query alone; then a negative alone
        for only in (where, np.roll(where, 1, axis=axis)):
            values, grads = run(name, axis, SCORES, GRADES, only)
            assert np.isfinite(values).all() and np.isfinite(grads).all() and np.all(grads[~only] == 0)
            # A candidate is nothing to another; only `sigmoid` says something of a pair by itself.
            assert name == "sigmoid" or (np.all(values == 0) and np.all(grads == 0))

    def test_low_temperature(self, name, axis):
        if temperature_of(name) is None:
            pytest.skip("has no temperature")
        sign = np.where(np.random.default_rng(2).random((V, T)) < 0.5, -1, 1).astype(np.float32)
        for scores in (SCORES, sign, 1e4 * sign, np.full_like(SCORES, 0.5)):
            found = slopes(name, axis, scores, GRADES, EVERYWHERE, temperature=0.005)
            assert all(np.isfinite(x).all() for x in found)
