"""layers/product.py: the product's values, gradients and dtypes, and the layer beside nn.Dense."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_turned(rows):
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(rng.normal(size=(rows, 4)), dtype)
        assert (turned(x) == x.T).all() and turned(x).shape == (4, rows)


def test_dense_is_nn_dense():
    """The same parameters from the same key, with the same starts, and the same result on any leading axes."""
    x, zeros = rng.normal(size=(2, 3, 5)).astype(np.float32), nn.initializers.zeros
    ours, theirs = Dense(4, start=nn.initializers.lecun_normal(), bias_start=zeros), nn.Dense(4)
    params = ours.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), x))
    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=1e-6)
    start = Dense(400).init(jax.random.key(0), x)["params"]  # torch's: uniform within 1 / sqrt(5)
    assert all(0.44 < np.abs(start[name]).max() <= 5**-0.5 for name in ("kernel", "bias"))
