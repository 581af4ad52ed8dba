"""Matrix products with inputs in one dtype and sums in at least float32, forward and backward, and a layer of them.

bfloat16 inputs with float32 results are what matrix units do: tensor cores, TPUs, and AMX on processors, where XLA
reaches it for just this form of product, A @ B with both in memory as written: five times the float32 rate.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_vjp
def product(a: Array, b: Array) -> Array:
    """`a [N, K]` @ `b [K, M]` → `[N, M]`: both in the dtype of `b`, the weight; sums and result at least float32."""
    return jnp.matmul(a.astype(b.dtype), b, preferred_element_type=jnp.promote_types(b.dtype, jnp.float32))


def turned(x: Array) -> Array:
    """`x.T` of two dimensions; on a single CPU device written to memory if it is narrow.

    In two pieces, because XLA would make a plain transposition part of the product that it enters, and on CPU take the
    slow path for that. Other backends have no such path, and where rows lie on several devices the pieces would travel.
    """
    if x.dtype.itemsize > 2 or len(x) < 2 or jax.default_backend() != "cpu" or jax.device_count() > 1:
        return x.T
    half = len(x) // 2
    return jnp.concatenate([x[:half].T, x[half:].T], axis=1)


def _forward(a, b):
    return product(a, b), (a, b)


def _backward(saved, d):
    a, b = saved
    d_a = product(d, turned(b)).astype(a.dtype)
    return d_a, product(turned(a.astype(b.dtype)), d.astype(b.dtype)).astype(b.dtype)


product.defvjp(_forward, _backward)


class Dense(nn.Module):
    """A linear map `[..., K]` → `[..., features]`, as `nn.Dense`, with a result of at least float32.

    Attributes:
        features: width of the result.
        dtype: of the product's inputs; parameters are float32.
        start, bias_start: `(key, shape, dtype) → array`; without, torch's: uniform within 1 / √K.
        use_bias: add one.
    """

    features: int
    dtype: Any = jnp.float32
    start: Callable | None = None
    bias_start: Callable | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        kernel = self.param("kernel", self.start or uniform(width**-0.5), (width, self.features))
        # Flat, because XLA transposes the whole activation for the gradient of a product over [B, S, C].
        y = product(x.reshape(-1, width), kernel.astype(self.dtype)).reshape(*x.shape[:-1], self.features)
        if self.use_bias:
            y = y + self.param("bias", self.bias_start or uniform(width**-0.5), (self.features,)).astype(y.dtype)
        return y


def uniform(bound: float) -> Callable:
    """Starts parameters uniformly within ±bound."""
    return lambda rng, shape, dtype=jnp.float32: jax.random.uniform(rng, shape, dtype, -bound, bound)
