"""Layers of DETR on a timeline: Moment-DETR (Lei et al., NeurIPS 2021), QD-DETR (Moon et al., CVPR 2023).

Ports of github.com/jayleicn/moment_detr and github.com/wjun0830/QD-DETR: positions along the clips, attention with
PyTorch's starting values, the encoder layers of both, and the two decoders. One thing of QD-DETR is not ported: the
three-dimensional mask of its text-to-video layer, laid out for other heads and rows than it reaches, through which the
padding of one video changed what came out for another; the mask of the real tokens is all that is needed.

Everything between matrix products is float32.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.drop import Dropout
from vlr_jax.layers.product import Dense, uniform
from vlr_jax.layers.transformer import norm

XAVIER = nn.initializers.xavier_uniform()
ZEROS = nn.initializers.zeros
WAVES = 10_000.0  # the longest wave of a position code, in turns of the circle
EDGE = 1e-3  # `inverse_sigmoid` treats values nearer to 0 or 1 as this near


def tef(mask: Array) -> Array:
    """Where the clips lie: bool `mask [B, F]` → `[B, F, 2]` float32, (i / n, (i + 1) / n) of n; zero behind the mask.

    The temporal endpoint feature that both models append to the visual features.
    """
    place = jnp.cumsum(mask, axis=1, dtype=jnp.float32)[..., None]
    ends = jnp.concatenate([place - 1, place], axis=-1) / jnp.maximum(place[:, -1:], 1.0)
    return jnp.where(mask[..., None], ends, 0.0)


def sine(mask: Array, dim: int) -> Array:
    """Position codes of clips: bool `mask [B, F]` → `[B, F, dim]`; what is behind the mask has the last clip's."""
    place = jnp.cumsum(mask, axis=1, dtype=jnp.float32)
    return sine_at(place - 1, place[:, -1], dim)


def sine_at(position: Array, lengths: Array, dim: int) -> Array:
    """The same code at any place: `position [B, N]` in clips, 0 = the first, of `lengths [B]` → `[B, N, dim]`."""
    turns = (position + 1) / (lengths[:, None] + 1e-6)
    return waves(turns, dim)


def waves(turns: Array, dim: int) -> Array:
    """Sines and cosines in turn of 2π · `turns [...]`, slower along `[..., dim]`."""
    speed = WAVES ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    angle = (turns * (2 * math.pi))[..., None] * speed
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(*turns.shape, -1)[..., :dim]


def inverse_sigmoid(x: Array) -> Array:
    """log(x / (1 - x)) for x in [0, 1], finite."""
    return jnp.log(jnp.maximum(x, EDGE) / jnp.maximum(1 - x, EDGE))


def attend(
    query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None = None, drop: Callable | None = None
) -> Array:
    """Scaled dot-product attention over a set: `[B, Q, heads, D]`, `[B, S, heads, D]`, `[B, S, heads, E]`.

    Args:
        mask: bool `[B, S]`, the keys that may be attended; a row of False gives finite numbers.
        bias: added to the scores, of a shape that broadcasts to `[B, heads, Q, S]`.
        drop: applied to the weights.

    Returns:
        `[B, Q, heads · E]`; scores and their softmax are float32.
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    scores = jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=jnp.float32)  # [B, heads, Q, S]
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores, axis=-1)
    if drop is not None:
        weights = drop(weights)
    mixed = jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return mixed.swapaxes(1, 2).reshape(mixed.shape[0], mixed.shape[2], -1)


class Projection(nn.Module):
    """Features → tokens: normalisation, dropout, linear map, ReLU, and again; no ReLU at the end.

    Attributes:
        dim: D. layers: how often. dropout: before each map. dtype: of the inputs of the matrix products.
    """

    dim: int
    layers: int = 2
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """`[..., C]` → `[..., D]`."""
        for i in range(self.layers):
            x = Dropout(self.dropout)(norm(name=f"norm_{i}")(x), deterministic=not train)
            x = Dense(self.dim, dtype=self.dtype, name=f"dense_{i}")(x)
            x = nn.relu(x) if i + 1 < self.layers else x
        return x


class Attention(nn.Module):
    """`torch.nn.MultiheadAttention`: maps `query`, `key`, `value` of the three inputs, and `out`.

    Attributes:
        heads: they divide the width. dropout: on the weights. dtype: of the inputs of the matrix products.

    Raises:
        ValueError: at `init` or `apply`: heads don't divide the width.
    """

    heads: int
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, query: Array, key: Array, value: Array, mask: Array | None, bias: Array | None = None, *, train: bool
    ) -> Array:
        """`[B, Q, D]`, `[B, S, D]`, `[B, S, D]` → `[B, Q, D]`; `mask` and `bias` as in `attend`."""
        width = query.shape[-1]
        start = uniform((1.5 / width) ** 0.5)  # Xavier's for the three maps stacked, as torch has them
        dense = lambda x, name: Dense(width, dtype=self.dtype, start=start, bias_start=ZEROS, name=name)(x)
        inputs = ((query, "query"), (key, "key"), (value, "value"))
        parts = [split(dense(x, name), self.heads, self.dtype) for x, name in inputs]
        drop = dropout(self.dropout, train)
        return Dense(width, dtype=self.dtype, start=XAVIER, bias_start=ZEROS, name="out")(
            attend(*parts, mask, bias, drop)
        )


def split(x: Array, heads: int, dtype: Any) -> Array:
    """`[B, S, D]` → `[B, S, heads, D / heads]` in `dtype`.

    Raises:
        ValueError: heads don't divide the width.
    """
    if x.shape[-1] % heads:
        raise ValueError(f"{heads} heads can't share a width of {x.shape[-1]}: it must be a multiple")
    return x.astype(dtype).reshape(*x.shape[:2], heads, -1)


def dropout(rate: float, train: bool) -> Callable | None:
    """What drops a share `rate` of its argument; None where nothing is dropped. To be called in a compact method."""
    return (lambda x: Dropout(rate)(x, deterministic=False)) if train and rate else None


class FeedForward(nn.Module):
    """Two linear maps (`widen`, `narrow`) with an activation and dropout between: `[..., D]` → `[..., D]`.

    Attributes:
        hidden: width between them.
        activation: "relu", or "prelu": max(x, 0) + slope · min(x, 0), one learned `slope` that starts at 1/4.
        dropout: after the activation.
        dtype: of the inputs of the matrix products.

    Raises:
        ValueError: at `init` or `apply`, for another activation.
    """

    hidden: int
    activation: str = "relu"
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if self.activation not in ("relu", "prelu"):
            raise ValueError(f"feed-forward: no activation {self.activation!r}; there is relu, prelu")
        y = Dense(self.hidden, dtype=self.dtype, start=XAVIER, name="widen")(x)
        slope = self.param("slope", nn.initializers.constant(0.25), ()) if self.activation == "prelu" else 0.0
        y = jnp.where(y >= 0, y, slope * y)
        y = Dropout(self.dropout)(y, deterministic=not train)
        return Dense(x.shape[-1], dtype=self.dtype, start=XAVIER, name="narrow")(y)


class EncoderLayer(nn.Module):
    """Self-attention whose queries and keys have positions, and a feed-forward part; each added to what came in.

    Attributes:
        heads, hidden, activation, dropout: as `Attention`, `FeedForward`; dropout also on what either adds.
        pre_norm: normalise what enters a part, not the sum behind it.
        dtype: of the inputs of the matrix products.
    """

    heads: int
    hidden: int
    activation: str = "relu"
    dropout: float = 0.1
    pre_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, position: Array, mask: Array, *, train: bool) -> Array:
        """`x`, `position` `[B, S, D]`, bool `mask [B, S]` → `[B, S, D]`."""
        attention = Attention(self.heads, self.dropout, self.dtype, name="attention")
        forward = FeedForward(self.hidden, self.activation, self.dropout, self.dtype, name="forward")
        drop = Dropout(self.dropout, deterministic=not train)
        before, after = norms(self.pre_norm, 2)
        y = before[0](x)
        places = y + position
        x = after[0](x + drop(attention(places, places, y, mask, train=train)))
        return after[1](x + drop(forward(before[1](x), train=train)))


def norms(pre_norm: bool, count: int) -> tuple[list[Callable], list[Callable]]:
    """The normalisations before and behind each part of a layer: one of the two lists leaves all as it is."""
    layers, nothing = [norm(name=f"norm_{i + 1}") for i in range(count)], [lambda x: x] * count
    return (layers, nothing) if pre_norm else (nothing, layers)


class TextToVideo(nn.Module):
    """QD-DETR's layer in which every clip attends to the words, and only clips change. Fields as `EncoderLayer`'s."""

    heads: int
    hidden: int
    activation: str = "prelu"
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        video: Array,
        position: Array,
        text: Array,
        text_mask: Array,
        gate: Array | None = None,
        *,
        text_position: Array | None = None,
        train: bool,
    ) -> Array:
        """`video`, `position` `[B, F, D]`, `text`, `text_position` `[B, L, D]`, bool `text_mask [B, L]` → `[B, F, D]`.

        Args:
            gate: `[B, F]`, multiplies what the attention adds to a clip; None = 1.
        """
        drop = Dropout(self.dropout, deterministic=not train)
        key = text if text_position is None else text + text_position
        attention = Attention(self.heads, self.dropout, self.dtype, name="attention")
        mixed = attention(video + position, key, text, text_mask, train=train)
        mixed = mixed if gate is None else mixed * gate[..., None]
        x = video + drop(mixed)  # what is not normalised goes on, as in the official code
        forward = FeedForward(self.hidden, self.activation, self.dropout, self.dtype, name="forward")
        return norm(name="norm_2")(x + drop(forward(norm(name="norm_1")(x), train=train)))


class MLP(nn.Module):
    """Linear maps with ReLU between: `[..., C]` → `[..., out]`.

    Attributes:
        hidden: width between them. out: of the result. layers: number of maps.
        start: of the kernels; None = torch's, as `Dense`.
        last_start: of the last map's kernel and bias; None = as the others'.
        dtype: of the inputs of the matrix products.
    """

    hidden: int
    out: int
    layers: int
    start: Callable | None = None
    last_start: Callable | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.layers - 1):
            x = nn.relu(Dense(self.hidden, dtype=self.dtype, start=self.start, name=f"layer_{i}")(x))
        start, name = self.last_start or self.start, f"layer_{self.layers - 1}"
        return Dense(self.out, dtype=self.dtype, start=start, bias_start=self.last_start, name=name)(x)
