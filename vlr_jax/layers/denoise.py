"""Context-aware dynamic denoisement (CDD) of CDNet: self-attention whose keys and values are re-sampled in time.

CDNet (arXiv 2408.07600) learns a group of query-relevant offsets, by which video context is re-sampled, so that clips
attend to what matters. No code is public, and of the paper no equation was at hand: this is INFERRED from "Vision
Transformer with Deformable Attention" (Xia et al., CVPR 2022; github.com/LeapLabTHU/DAT), of which it is the form in
one dimension, with offsets that depend on the sentence. Positions are in clips, 0 = the first one's middle.

With offsets of zero, stride 1 and γ = 0, as everything starts (but for a stride), `Denoise` is QD-DETR's encoder layer,
whose parameters have the same names here.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.detr import XAVIER, ZEROS, FeedForward, attend, dropout, sine_at, split
from vlr_jax.layers.drop import Dropout
from vlr_jax.layers.product import Dense, uniform
from vlr_jax.layers.transformer import norm

LEAST = 1e-4  # added to an alignment level before its logarithm


def resample(x: Array, position: Array, length: Array) -> Array:
    """x at positions between its clips, by linear interpolation, every group of channels at its own.

    As `torch.nn.functional.grid_sample` with align_corners and padding "border". A position has a gradient through the
    weights of its two neighbours alone; none where it is not inside.

    Args:
        x: `[B, F, G, C]`.
        position: `[B, G, N]`, of any size; what is outside is taken to the first or the last real clip.
        length: `[B]`, number of real clips, which come first.

    Returns:
        `[B, N, G, C]`.
    """
    last = jnp.maximum(length - 1, 0)[:, None, None]
    position = inside(position, last).swapaxes(1, 2)[..., None]  # [B, N, G, 1]
    below = jnp.floor(position)
    share = position - jax.lax.stop_gradient(below)
    low = below.astype(jnp.int32)
    high = jnp.minimum(low + 1, last[..., None].astype(jnp.int32))
    low, high = (jnp.take_along_axis(x, place, axis=1) for place in (low, high))
    return (1 - share) * low + share * high


def inside(position: Array, last: Array) -> Array:
    """`position` taken to [0, last], with no gradient from there on (`jnp.clip` has half of one on the edge)."""
    return jnp.where(position <= 0, 0.0, jnp.where(position >= last, last.astype(position.dtype), position))


def references(count: int, stride: int) -> Array:
    """The middles of `count` stretches of `stride` clips, `[count]` float32: (n + ½) · stride - ½."""
    return (jnp.arange(count, dtype=jnp.float32) + 0.5) * stride - 0.5


def depthwise(x: Array, kernel: Array, stride: int = 1) -> Array:
    """A filter for each channel along time: `x [B, F, …, C]`, `kernel [K, C]`, K odd → `[B, ⌈F / stride⌉, …, C]`.

    Beyond either end are zeros; result n is centred on clip n · stride.
    """
    taps, frames = len(kernel), x.shape[1]
    x = jnp.pad(x, [(0, 0), (taps // 2, taps // 2)] + [(0, 0)] * (x.ndim - 2))
    return sum(kernel[k] * x[:, k : k + frames : stride] for k in range(taps))


class Offsets(nn.Module):
    """How far from its reference point each group of channels looks, in clips.

    A filter along time, normalisation, GELU and a linear map to one number, shared by all groups (as DAT), of queries
    modulated by the sentence: q (1 + tanh(s W_s)) + s W_c. The last map and both of these start at zero.

    Attributes:
        groups: G, they divide the width. stride: clips for each offset. kernel: of the filter, odd.
        offset_range: offsets lie within ± this.
        dtype: of the inputs of the matrix products; all else is in at least float32.
    """

    groups: int
    stride: int
    kernel: int
    offset_range: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query: Array, sentence: Array, mask: Array) -> Array:
        """`[B, F, D]`, `[B, D]`, bool `[B, F]` → `[B, G, N]`, N = ⌈F / stride⌉."""
        zero = lambda size, name: Dense(size, dtype=self.dtype, start=ZEROS, use_bias=False, name=name)
        scale, shift = (zero(query.shape[-1], name)(sentence)[:, None] for name in ("modulate", "shift"))
        x = jnp.where(mask[..., None], query * (1 + jnp.tanh(scale)) + shift, 0)
        x = x.reshape(*mask.shape, self.groups, -1)  # [B, F, G, D / G]
        start = uniform(self.kernel**-0.5)
        kernel = self.param("kernel", start, (self.kernel, x.shape[-1]))
        x = depthwise(x, kernel, self.stride) + self.param("bias", start, x.shape[-1:])
        x = nn.gelu(norm(name="norm")(x), approximate=False)
        return self.offset_range * jnp.tanh(zero(1, "out")(x)[..., 0].swapaxes(1, 2))


class Denoise(nn.Module):
    """QD-DETR's encoder layer over [global token; clips], the clips' keys and values re-sampled.

    Every clip attends to the N re-sampled clips and to the global token, which itself attends to the clips as they are.
    To the logits of re-sampled clip n it adds γ log(ã_n + 1e-4), ã_n the mean over groups of the alignment level at n,
    γ learned from 0: how strongly what the sentence doesn't speak of is left out. A key's position code is that of its
    groups' mean position (which of the groups' is INFERRED like all else).

    Attributes:
        heads, hidden, activation, dropout: as `layers.detr.EncoderLayer`.
        groups, stride, kernel: as `Offsets`.
        offset_range: in clips; 0 = no offsets, nor a network for them.
        relative_bias: a learned table of biases for each head, interpolated at the distance from a clip to a mean
            position, for distances up to this many clips (beyond, as there); 0 = none.
        dtype: of the inputs of the matrix products; positions, logits and the rest are in at least float32.

    Raises:
        ValueError: at `init` or `apply`: groups or heads don't divide the width, or a size that is not possible.
    """

    heads: int
    hidden: int
    activation: str = "prelu"
    dropout: float = 0.1
    groups: int = 4
    stride: int = 1
    kernel: int = 5
    offset_range: float = 5.0
    relative_bias: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, position: Array, mask: Array, sentence: Array, alignment: Array | None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        """One layer; the global token is the first of the S = 1 + F elements, and clips behind the mask come last.

        Args:
            x, position: `[B, S, D]`, the position codes those of `layers.detr.sine`.
            mask: bool `[B, S]`.
            sentence: `[B, D]`.
            alignment: `[B, F]` in [0, 1]; None = no γ.

        Returns:
            `[B, S, D]`; and `offsets` and `positions`, `[B, G, N]` in clips.
        """
        self._check(x.shape[-1])
        drop = Dropout(self.dropout, deterministic=not train)
        attention = Resampled(
            self.heads, self.dropout, self.groups, self.stride, self.kernel, self.offset_range, self.relative_bias,
            self.dtype, name="attention",
        )  # fmt: skip
        forward = FeedForward(self.hidden, self.activation, self.dropout, self.dtype, name="forward")
        mixed, found = attention(x, position, mask, sentence, alignment, train=train)
        x = norm(name="norm_1")(x + drop(mixed))
        return norm(name="norm_2")(x + drop(forward(x, train=train))), found

    def _check(self, width: int) -> None:
        if self.groups < 1 or width % self.groups:
            raise ValueError(f"{self.groups} groups can't share a width of {width}: it must be a multiple")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; expected an odd number of clips")
        if self.stride < 1 or self.offset_range < 0 or self.relative_bias < 0:
            found = f"{self.stride}, {self.offset_range} and {self.relative_bias}"
            raise ValueError(f"expected stride ≥ 1, offset_range ≥ 0 and relative_bias ≥ 0; found {found}")


class DenoisingEncoder(nn.Module):
    """`layers` of `Denoise`, whose fields `options` are: `{"heads": …}`."""

    layers: int
    options: dict[str, Any]

    @nn.compact
    def __call__(
        self, x: Array, position: Array, mask: Array, sentence: Array, alignment: Array | None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        """As `Denoise`; offsets and positions are the last layer's."""
        found = {}
        for i in range(self.layers):
            layer = Denoise(**self.options, name=f"layer_{i}")
            x, found = layer(x, position, mask, sentence, alignment, train=train)
        return x, found


class Resampled(nn.Module):
    """The attention of `Denoise`, with the parameters of `layers.detr.Attention` beside its own; all else as there."""

    heads: int
    dropout: float
    groups: int
    stride: int
    kernel: int
    offset_range: float
    relative_bias: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, position: Array, mask: Array, sentence: Array, alignment: Array | None, *, train: bool
    ) -> tuple[Array, dict[str, Array]]:
        width, real = x.shape[-1], mask[:, 1:]
        start = uniform((1.5 / width) ** 0.5)
        dense = lambda x, name: Dense(width, dtype=self.dtype, start=start, bias_start=ZEROS, name=name)(x)
        places = x + position
        query = dense(places, "query")
        offsets, points = self._points(query[:, 1:], sentence, real)
        length = jnp.sum(real, axis=1)
        count = points.shape[-1]
        clips = x[:, 1:].reshape(*real.shape, self.groups, -1)
        sampled = resample(clips, points, length).reshape(len(x), count, width)
        middle = jnp.mean(points, axis=1)  # [B, N]
        codes = sine_at(middle, length, width)
        # Of the three parts, the first and the last are for the global token, the first two for the clips.
        together = lambda first, own: jnp.concatenate([first[:, :1], own, first[:, 1:]], axis=1)
        keys, values = dense(together(places, sampled + codes), "key"), dense(together(x, sampled), "value")
        query, keys, values = (split(part, self.heads, self.dtype) for part in (query, keys, values))
        plain = lambda part: jnp.concatenate([part[:, :1], part[:, 1 + count :]], axis=1)
        drop = dropout(self.dropout, train)
        seen = jnp.concatenate([mask[:, :1], references(count, self.stride) <= length[:, None] - 1], axis=1)
        bias = self._bias(alignment, points, middle, length, real.shape[1])
        mixed = jnp.concatenate([
            attend(query[:, :1], plain(keys), plain(values), mask, None, drop),
            attend(query[:, 1:], keys[:, : 1 + count], values[:, : 1 + count], seen, bias, drop),
        ], axis=1)  # fmt: skip
        mixed = Dense(width, dtype=self.dtype, start=XAVIER, bias_start=ZEROS, name="out")(mixed)
        return mixed, {"offsets": offsets, "positions": points}

    def _points(self, query: Array, sentence: Array, mask: Array) -> tuple[Array, Array]:
        """Offsets, and positions inside the video, `[B, G, N]`."""
        frames = mask.shape[1]
        reference = references(-(-frames // self.stride), self.stride)
        if self.offset_range:
            network = Offsets(self.groups, self.stride, self.kernel, self.offset_range, self.dtype, name="offsets")
            offsets = network(query, sentence, mask)
        else:
            offsets = jnp.zeros((len(mask), self.groups, len(reference)), jnp.float32)
        last = jnp.maximum(jnp.sum(mask, axis=1) - 1, 0)[:, None, None]
        return offsets, inside(reference + offsets, last)

    def _bias(self, alignment: Array | None, points: Array, middle: Array, length: Array, frames: int) -> Array | None:
        """What is added to the logits of the clips (`[B, heads or 1, F or 1, 1 + N]`), 0 for the global token."""
        bias = None
        if alignment is not None:
            strength = self.param("strength", ZEROS, ())
            levels = jnp.broadcast_to(alignment[..., None, None], (*alignment.shape, self.groups, 1))
            level = jnp.mean(resample(levels, points, length)[..., 0], axis=2)  # [B, N]
            bias = strength * jnp.log(level + LEAST)[:, None, None]
        if self.relative_bias:
            table = self.param("relative", ZEROS, (2 * self.relative_bias + 1, self.heads))
            distance = jnp.arange(frames)[:, None] - middle[:, None]  # [B, F, N]
            found = jnp.moveaxis(interpolate(table, distance + self.relative_bias), -1, 1)  # [B, heads, F, N]
            bias = found if bias is None else bias + found
        return None if bias is None else jnp.pad(bias, [(0, 0)] * 3 + [(1, 0)])


def interpolate(table: Array, place: Array) -> Array:
    """Rows of `table [R, C]` at places `[...]` between them → `[..., C]`; outside, the first or the last one."""
    place = inside(place, jnp.asarray(len(table) - 1))
    low = jax.lax.stop_gradient(jnp.floor(place))
    share, low = (place - low)[..., None], low.astype(jnp.int32)
    return (1 - share) * table[low] + share * table[jnp.minimum(low + 1, len(table) - 1)]
