"""Dropout by hashed places: rate, mean, gradient, and numbers that have nothing to do with each other."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax.layers.drop import Dropout

SHAPE = (8, 40, 64)


def kept(seed, rate=0.1, shape=SHAPE):
    """Which ones stay, bool."""
    return np.asarray(Dropout(rate).apply({}, jnp.ones(shape), deterministic=False, rngs=rngs(seed))) > 0


def rngs(seed):
    return {"dropout": jax.random.key(seed, impl="rbg")}


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75])
def test_rate_and_scale(rate):
    x = jnp.arange(1.0, 1 + np.prod(SHAPE)).reshape(SHAPE)
    y = Dropout(rate, deterministic=False).apply({}, x, rngs=rngs(0))
    stays = np.asarray(y) != 0
    np.testing.assert_allclose(np.asarray(y)[stays], (np.asarray(x) / (1 - rate))[stays], rtol=1e-6)
    spread = (rate * (1 - rate) / x.size) ** 0.5
    for seed in range(5):
        assert abs(kept(seed, rate).mean() - (1 - rate)) < 4 * spread


def test_nothing_to_drop():
    x = jnp.ones(SHAPE)
    assert Dropout(0.5).apply({}, x, deterministic=True) is x
    assert Dropout(0.0).apply({}, x, deterministic=False) is x
    for rate in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match="from 0 to below 1"):
            Dropout(rate).apply({}, x, deterministic=True)


def test_independent():
    """Of any axis' neighbours, of other keys and of other places in a model, pairs agree as often as chance has it."""
    masks = np.stack([kept(seed, 0.5) for seed in range(32)]) * 2.0 - 1  # [32, ...SHAPE]

    def correlation(a, b):  # in standard deviations of independent numbers
        return np.abs((a * b).sum()) / a.size**0.5

    for axis in range(1, 4):
        for step in (1, 2, 3, 4, 8, 16, 32):
            if step < masks.shape[axis]:
                size = masks.shape[axis] - step
                both = (np.take(masks, np.arange(size) + offset, axis) for offset in (0, step))
                assert correlation(*both) < 4.5, (axis, step)
    flat = masks.reshape(len(masks), -1)
    between = (flat @ flat.T)[np.triu_indices(len(flat), 1)] / flat.shape[1] ** 0.5
    assert np.abs(between).max() < 4.5 and 0.8 < between.std() < 1.2
    # How often each place stays over the keys is spread as independent draws would be.
    assert 0.9 < flat.sum(0).var() / len(flat) < 1.1

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            drop = Dropout(0.5, deterministic=False)
            return drop(x), drop(x), Dropout(0.5, deterministic=False)(x)

    a, b, c = (np.asarray(y) - 1 for y in Two().apply({}, jnp.ones(SHAPE), rngs=rngs(0)))
    assert max(correlation(a, b), correlation(a, c), correlation(b, c)) < 4.5


def test_differentiated_and_split_over_devices():
    x = jax.random.normal(jax.random.key(0), SHAPE)
    drop = lambda x: Dropout(0.1).apply({}, x, deterministic=False, rngs=rngs(3))
    grad = jax.jit(jax.grad(lambda x: drop(x).sum()))(x)
    np.testing.assert_allclose(grad, kept(3) / 0.9, rtol=1e-6)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.jit(drop)(jax.device_put(x, NamedSharding(mesh, P("data"))))
    np.testing.assert_array_equal(split, jax.jit(drop)(x))
    assert drop(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
