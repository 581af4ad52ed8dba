"""Gated recurrent unit with PyTorch's parameters, shaped for the speed of its backward pass.

Cho et al., EMNLP 2014, in the form of cuDNN and `torch.nn.GRU`: the reset gate is applied after the recurrent product,
and there are two bias vectors. Gates are stored side by side in the order r, z, n.

Two things keep it at the speed of matrix products: the input projection of all steps is one product outside the scan,
and the backward scan only collects the gates' gradients, from which one product makes the recurrent weight's gradient.
Plain differentiation of a scan adds up a `[H, 3H]` gradient at every step.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.product import product, turned


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def recurrence(x_rz: Array, x_n: Array, mask: Array, weight: Array, bias: Array, reverse: bool = False) -> Array:
    """All states of a GRU that starts at zero and stands still where `mask` is False.

    r, z = sigmoid(x_rz + W_rz h + b_rz);  n = tanh(x_n + r * (W_n h + b_n));  h' = (1 - z) * n + z * h

    Args:
        x_rz: `[L, B, 2H]` float32, W_in x + b_in of every step, for the gates r and z.
        x_n: `[L, B, H]` float32, the same for n.
        mask: `[L, B]` bool, the real tokens.
        weight: `[H, 3H]`; its dtype is the one of the products.
        bias: `[3H]` float32.
        reverse: read from the last token to the first.

    Returns:
        `[L, B, H]` states; behind the last real token (in reading order) the last state is repeated.
    """
    return _forward(x_rz, x_n, mask, weight, bias, reverse)[0]


def _forward(x_rz, x_n, mask, weight, bias, reverse):
    size = weight.shape[0]

    def step(h, inputs):
        x_rz, x_n, real = inputs
        u = product(h, weight) + bias  # [B, 3H]
        rz = jax.nn.sigmoid(x_rz + u[:, : 2 * size])
        r, z = rz[:, :size], rz[:, size:]
        n = jnp.tanh(x_n + r * u[:, 2 * size :])
        h = jnp.where(real[:, None], (1 - z) * n + z * h, h)
        return h, (h, rz, n, u[:, 2 * size :])

    _, (states, *gates) = jax.lax.scan(step, jnp.zeros_like(x_n[0]), (x_rz, x_n, mask), reverse=reverse)
    return states, (states, gates, mask, weight)


def _backward(reverse, saved, d_states):
    states, gates, mask, weight = saved
    size, weight_t = weight.shape[0], turned(weight)
    zero = jnp.zeros_like(states[:1])
    before = jnp.concatenate([states[1:], zero] if reverse else [zero, states[:-1]])  # [L, B, H], h of each h'

    def step(d_h, inputs):
        d_state, h, rz, n, u_n, real = inputs
        r, z = rz[:, :size], rz[:, size:]
        d_h = d_h + d_state
        d_new = jnp.where(real[:, None], d_h, 0.0)
        d_n = d_new * (1 - z) * (1 - n * n)
        d_rz = jnp.concatenate([d_n * u_n * r * (1 - r), d_new * (h - n) * z * (1 - z)], axis=1)  # [B, 2H]
        d_u = d_n * r
        d_h = (d_h - d_new) + d_new * z + product(jnp.concatenate([d_rz, d_u], axis=1), weight_t)
        return d_h, (d_rz, d_n, d_u)

    _, (d_rz, d_n, d_u) = jax.lax.scan(step, zero[0], (d_states, before, *gates, mask), reverse=not reverse)
    # Two axes contracted as one: XLA would first transpose a contraction over (l, b).
    h = turned(before.reshape(-1, size).astype(weight.dtype))
    parts = (d_rz.reshape(-1, 2 * size), d_u.reshape(-1, size))
    d_weight = jnp.concatenate([product(h, part.astype(weight.dtype)) for part in parts], axis=1)
    d_bias = jnp.concatenate([jnp.sum(part, axis=0) for part in parts])
    return d_rz, d_n, None, d_weight.astype(weight.dtype), d_bias


recurrence.defvjp(_forward, _backward)


class GRU(nn.Module):
    """One layer, one direction.

    Attributes:
        size: H, the width of the state.
        reverse: read from the last token to the first; padding at the end stays inert.
        dtype: of the matrix products; gates and states are at least float32, parameters float32.
    """

    size: int
    reverse: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> tuple[Array, Array]:
        """`x [B, L, E]`, `mask [B, L]` → states `[B, L, H]` and the state after the last token read `[B, H]`."""
        bound = self.size**-0.5

        def uniform(rng, shape, dtype=jnp.float32):
            return jax.random.uniform(rng, shape, dtype, -bound, bound)

        weight_ih = self.param("weight_ih", uniform, (x.shape[-1], 3 * self.size)).astype(self.dtype)
        weight_hh = self.param("weight_hh", uniform, (self.size, 3 * self.size)).astype(self.dtype)
        bias_ih = self.param("bias_ih", uniform, (3 * self.size,))
        # Two biases, as in torch: their sum is what counts, but under Adam each takes its own full step.
        bias_hh = self.param("bias_hh", uniform, (3 * self.size,))
        # Time first: a scan then reads and writes whole slices. Flat: the backward product needs no transposition.
        flat = jnp.swapaxes(x, 0, 1).reshape(-1, x.shape[-1])  # [L·B, E]
        x_rz, x_n = (
            (product(flat, weight_ih[:, gates]) + bias_ih[gates]).reshape(*mask.T.shape, -1)
            for gates in (slice(2 * self.size), slice(2 * self.size, None))
        )  # [L, B, 2H], [L, B, H]
        states = recurrence(x_rz, x_n, mask.T, weight_hh, bias_hh.astype(x_n.dtype), self.reverse)  # [L, B, H]
        return jnp.swapaxes(states, 0, 1), states[0 if self.reverse else -1]
