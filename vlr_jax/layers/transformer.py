"""The pre-norm transformer of CLIP (Radford et al., ICML 2021; `ResidualAttentionBlock` of openai/CLIP).

Shared by both towers of `layers/clip.py` and by whatever stands on top of them and starts from their blocks.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.product import Dense


@jax.custom_vjp
def quick_gelu(x: Array) -> Array:
    """x · σ(1.702 x), the activation of OpenAI's weights; not close enough to GELU to stand in for it.

    The backward pass keeps x alone: one array less of the widest that a transformer has.
    """
    return x * jax.nn.sigmoid(1.702 * x)


def _quick_gelu_backward(x, d):
    x, d = jax.lax.optimization_barrier((x, d))  # otherwise XLA finds the same sigmoid forward, and keeps it
    gate = jax.nn.sigmoid(1.702 * x)
    return (d * gate * (1 + 1.702 * x * (1 - gate)),)


quick_gelu.defvjp(lambda x: (quick_gelu(x), x), _quick_gelu_backward)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": lambda x: nn.gelu(x, approximate=False)}


class Transformer(nn.Module):
    """Blocks `block_0` … one after the other; no positions and no norm before or after, as each user has its own.

    Attributes:
        layers, heads: number of blocks, heads of each; heads divide the width of the input.
        hidden: width inside the feed-forward part; None = four times the input's.
        eps: of the layer normalisations.
        activation: a key of `ACTIVATIONS`.
        remat: keep only what enters each block and compute the block again in the backward pass.
        attention: None = products written out here; else the `implementation` of `jax.nn.dot_product_attention`:
            "cudnn" = flash attention on NVIDIA GPUs, for a 16-bit dtype, "xla".
        dtype: of the inputs of the matrix products, and of the result; sums, norms, softmax and parameters are at least
            float32.

    Raises:
        ValueError: at `init` or `apply`: heads don't divide the width, or an unknown activation.
    """

    layers: int
    heads: int
    hidden: int | None = None
    eps: float = 1e-5
    activation: str = "quick_gelu"
    remat: bool = False
    attention: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, mask: Array | None = None, causal: bool = False) -> Array:
        """`x [N, S, C]` → `[N, S, C]`.

        Args:
            mask: bool `[N, S]`, the elements that may be attended; None = all. A row of False gives finite numbers.
            causal: an element attends none that comes after it. What stands behind the last real element then changes
                no real one, with a mask or without.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"transformer: {self.heads} heads can't share a width of {width}: it must be a multiple")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"transformer: no activation {self.activation!r}; there is {', '.join(ACTIVATIONS)}")
        fields = dict(
            heads=self.heads, hidden=self.hidden or 4 * width, eps=self.eps, activation=self.activation, causal=causal
        )
        # The two projections into the residual stream start smaller the more of them there are (as openai/CLIP).
        fields |= dict(out_std=(2 * self.layers * width) ** -0.5, attention=self.attention, dtype=self.dtype)
        block = nn.remat(Block) if self.remat else Block
        x = x.astype(self.dtype)
        for i in range(self.layers):
            x = block(**fields, name=f"block_{i}")(x, mask)
        return x


class Block(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x): `[N, S, C]` → same. Fields as `Transformer`'s."""

    heads: int
    hidden: int
    out_std: float
    eps: float = 1e-5
    activation: str = "quick_gelu"
    causal: bool = False
    attention: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> Array:
        width = x.shape[-1]
        y = norm(self.eps, "norm_1")(x).astype(self.dtype)
        # [N, S, heads, C / heads]
        split = lambda name: (
            self._dense(width, name, width**-0.5)(y).astype(self.dtype).reshape(*x.shape[:2], self.heads, -1)
        )
        y = attend(split("query"), split("key"), split("value"), mask, self.causal, self.attention)
        y = self._dense(width, "out", self.out_std)(y.reshape(x.shape))
        x = (x + y).astype(self.dtype)
        y = norm(self.eps, "norm_2")(x).astype(self.dtype)
        y = ACTIVATIONS[self.activation](self._dense(self.hidden, "widen", (2 * width) ** -0.5)(y))
        y = self._dense(width, "narrow", self.out_std)(y.astype(self.dtype))
        return (x + y).astype(self.dtype)

    def _dense(self, size: int, name: str, std: float) -> Dense:
        start = nn.initializers.normal(std)
        return Dense(size, dtype=self.dtype, start=start, bias_start=nn.initializers.zeros, name=name)


class Norm(nn.Module):
    """Layer normalisation in at least float32, whatever comes in: `nn.LayerNorm` with a backward pass written out.

    That needs two sums a row and no array but the input. The variance is from differences, which a large mean does not
    spoil.

    Attributes:
        eps: added to the variance.
    """

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return _normalise(x.astype(jnp.promote_types(x.dtype, jnp.float32)), scale, bias, self.eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x, scale, bias, eps):
    return _normalise_forward(x, scale, bias, eps)[0]


def _normalise_forward(x, scale, bias, eps):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True) + eps)
    return (x - mean) * inverse * scale + bias, (x, scale, mean, inverse)


def _normalise_backward(eps, saved, d):
    x, scale, mean, inverse = saved
    unit, of_unit, rows = (x - mean) * inverse, d * scale, tuple(range(x.ndim - 1))
    along = jnp.mean(of_unit * unit, axis=-1, keepdims=True)
    d_x = inverse * (of_unit - jnp.mean(of_unit, axis=-1, keepdims=True) - unit * along)
    return d_x, jnp.sum(d * unit, axis=rows), jnp.sum(d, axis=rows)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def norm(eps: float = 1e-5, name: str | None = None) -> Norm:
    """The layer normalisation of CLIP."""
    return Norm(eps, name=name)


def attend(query: Array, key: Array, value: Array, mask: Array | None, causal: bool, how: str | None = None) -> Array:
    """Scaled dot-product attention, `[N, S, heads, D]` each → the same; softmax in at least float32.

    On two CPU cores the products written out take 0.65-0.8 of the time of `jax.nn.dot_product_attention`, forward and
    backward (ViT-B/32's and B/16's shapes, also CLIP's text), so that serves only where it has a kernel of its own.

    Args:
        mask: bool `[N, S]`, the keys that may be attended, or None.
        causal: key j only for queries i ≥ j.
        how: None, or `implementation` of `jax.nn.dot_product_attention`.
    """
    mask = None if mask is None else mask[:, None, None, :]
    if how is not None:
        return jax.nn.dot_product_attention(query, key, value, mask=mask, is_causal=causal, implementation=how)
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))  # [N, heads, S, D]
    scores = _scores(query * query.shape[-1] ** -0.5, key)
    if causal:
        earlier = jnp.tri(query.shape[2], dtype=bool)
        mask = earlier if mask is None else mask & earlier
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.matmul(weights, value).swapaxes(1, 2)


@jax.custom_vjp
def _scores(query: Array, key: Array) -> Array:
    """`[N, heads, S, D]` each → `[N, heads, S, S]`: sums and result at least float32, backward in the inputs' dtype."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    return jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=wide)


def _scores_forward(query, key):
    return _scores(query, key), (query, key)


def _scores_backward(saved, d):
    query, key = saved
    d = d.astype(query.dtype)  # otherwise XLA widens the other side of the product, which matrix units are slower at
    return jnp.matmul(d, key), jnp.matmul(d.swapaxes(2, 3), query)


_scores.defvjp(_scores_forward, _scores_backward)
