"""layers/product.py: the product's values, gradients and dtypes, and the layer beside nn.Dense."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax.layers.product import Dense, product, turned

rng = np.random.default_rng(0)
A, B, D = (rng.normal(size=shape).astype(np.float32) for shape in ((7, 5), (5, 3), (7, 3)))


@pytest.mark.parametrize("dtype, atol", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.06)])
def test_product(dtype, atol):
    """Sums and results are float32; each gradient has the dtype of what it is of."""
    value, back = jax.vjp(product, A, jnp.asarray(B, dtype))
    d_a, d_b = back(D)
    assert value.dtype == d_a.dtype == jnp.float32 and d_b.dtype == dtype
    for found, expected in ((value, A @ B), (d_a, D @ B.T), (d_b, A.T @ D)):
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=atol)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_turned(rows, devices, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(rng.normal(size=(rows, 4)), dtype)
        assert (turned(x) == x.T).all() and turned(x).shape == (4, rows)


def test_no_activations_travel():
    """Rows split over devices: the gradient adds up the weight's parts and moves nothing else."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    layer, x = Dense(4, dtype=jnp.bfloat16), jnp.zeros((8, 3, 6), jnp.bfloat16)
    params = jax.device_put(layer.init(jax.random.key(0), x), NamedSharding(mesh, P()))
    gradient = jax.jit(jax.grad(lambda params, x: jnp.sum(layer.apply(params, x) ** 2), (0, 1)))
    compiled = gradient.lower(params, jax.device_put(x, NamedSharding(mesh, P("data")))).compile().as_text()
    assert "all-reduce" in compiled
    for moved in ("collective-permute", "all-gather", "all-to-all"):
        assert moved not in compiled


def test_dense_is_nn_dense():
    """The same parameters from the same key, with the same starts, and the same result on any leading axes."""
    x, zeros = rng.normal(size=(2, 3, 5)).astype(np.float32), nn.initializers.zeros
    ours, theirs = Dense(4, start=nn.initializers.lecun_normal(), bias_start=zeros), nn.Dense(4)
    params = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), x))
    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=1e-6)
    start = Dense(400).init(jax.random.key(0), x)["params"]  # torch's: uniform within 1 / sqrt(5)
    assert all(0.44 < np.abs(start[name]).max() <= 5**-0.5 for name in ("kernel", "bias"))
