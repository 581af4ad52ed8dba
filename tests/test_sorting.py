"""Sorting by integers beside NumPy, with everything that a float can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import sorting

rng = np.random.default_rng(0)
VALUES = rng.normal(size=(5, 37)).round(1)
VALUES[0, :5] = [0.0, -0.0, np.inf, -np.inf, -1e30]
VALUES[1] = 0.5
INDEX = np.argsort(rng.random(VALUES.shape), axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ascending_and_order(dtype):
    with jax.enable_x64(dtype is np.float64):
        values = jnp.asarray(VALUES, dtype)
        ordered, place = jax.jit(sorting.ascending)(values)
        assert ordered.dtype == dtype
        np.testing.assert_array_equal(ordered, np.sort(values, axis=1))
        smaller = (np.asarray(values)[:, None, :] < np.asarray(values)[:, :, None]).sum(-1)
        np.testing.assert_array_equal(place, smaller)
        np.testing.assert_array_equal(sorting.order(values), np.argsort(values, axis=1, kind="stable"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_comes_last(sign, dtype):
    with jax.enable_x64(dtype is np.float64):
        values = jnp.asarray(np.array([[np.copysign(np.nan, sign), 1, np.inf, -1]], dtype))
        ordered, place = jax.jit(sorting.ascending)(values)
        assert sorting.order(values).tolist() == [[3, 1, 2, 0]] and place.tolist() == [[3, 1, 2, 0]]
        np.testing.assert_array_equal(ordered, [[-1, 1, np.inf, np.nan]])


def test_order_of_long_rows():
    values = jnp.asarray(rng.random((1, 2**16 + 3)).round(3), jnp.float32)
    np.testing.assert_array_equal(sorting.order(values), np.argsort(values, axis=1, kind="stable"))


@pytest.mark.parametrize("candidates", [1, 2, 7, 8, 9])
def test_count_first(candidates):
    limits = jnp.arange(candidates + 1, dtype=jnp.int32)[:, None] * jnp.ones((1, candidates), jnp.int32)
    counts = sorting.count_first(lambda at: at < limits, limits.shape)
    np.testing.assert_array_equal(counts, limits)


def test_put_undoes_take():
    rows, index = jnp.asarray(VALUES), jnp.asarray(INDEX, jnp.int32)
    np.testing.assert_array_equal(sorting.put(sorting.take(rows, index), index), rows)


def test_a_constant_is_not_sorted_by_the_compiler():
    values = jnp.asarray(VALUES, jnp.float32)
    assert "sort(" in jax.jit(lambda: sorting.ascending(values)).lower().compile().as_text()
