"""Multi-level encoding of a sequence: all of it, its course, and its short pieces, side by side.

Dual Encoding: Dong et al., "Dual Encoding for Zero-Example Video Retrieval", CVPR 2019, in the form of the official
code, for frames and for words. Global: a mean of the frames, or a bag of words. Temporal: the mean over the states of a
GRU that reads both ways. Local: convolutions over those states, and the maximum of each filter over time.

Padding is inert, which in the official code it is not: there the GRU of the frames reads the zeros behind a video, and
filters see windows of nothing but padding. Its numbers come from the layers here with all-ones masks on zeroed padding.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import pooling
from vlr_jax.layers.batch_norm import BatchNorm
from vlr_jax.layers.gru import GRU
from vlr_jax.layers.product import Dense, product, uniform


class BiGRU(nn.Module):
    """`x [N, S, C]`, `mask [N, S]` → states of both directions side by side, `[N, S, 2H]`, 0 where masked.

    Attributes:
        size: H, of each direction.
        dtype: of the matrix products.
    """

    size: int
    dtype: Any = jnp.float32

    def setup(self):
        self.forward = GRU(self.size, dtype=self.dtype)
        self.reverse = GRU(self.size, reverse=True, dtype=self.dtype)

    def __call__(self, x: Array, mask: Array) -> Array:
        states = jnp.concatenate([self.forward(x, mask)[0], self.reverse(x, mask)[0]], axis=-1)
        return jnp.where(mask[..., None], states, 0)


class Convolutions(nn.Module):
    """Filters over time and the maximum of each: `x [N, S, C]`, zero where masked, `mask [N, S]` → `[N, K · filters]`.

    A filter of size k gives max_t relu(b + Σ_i w_i · x_{t + i}) over all windows of k steps that touch a real one, also
    those that reach over either end. An empty row gives 0.

    All steps meet all taps of all filters in one matrix product; the windows are sums of shifted slices of it.

    Attributes:
        kernels: sizes k, K of them.
        filters: of each size.
        dtype: of the matrix product.
    """

    kernels: Sequence[int]
    filters: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        size = x.shape[-1]
        weights, biases = [], []
        for k in self.kernels:  # [k, C, filters] each, started as torch starts a convolution
            start = uniform((k * size) ** -0.5)
            weights.append(self.param(f"kernel_{k}", start, (k, size, self.filters)))
            biases.append(self.param(f"bias_{k}", start, (self.filters,)))
        taps = jnp.concatenate([jnp.moveaxis(w, 0, 1).reshape(size, -1) for w in weights], axis=1).astype(self.dtype)
        y = product(x.reshape(-1, size), taps).reshape(*mask.shape, -1)  # [N, S, Σk · filters]
        found, first = [], 0
        for k, bias in zip(self.kernels, biases, strict=True):
            sums, real = bias.astype(y.dtype), False
            for i in range(k):  # the step under tap i of the window that ends at t is t - (k - 1) + i
                ends = (k - 1 - i, i)
                tap = y[..., first + i * self.filters : first + (i + 1) * self.filters]
                sums = sums + jnp.pad(tap, ((0, 0), ends, (0, 0)))  # [N, S + k - 1, filters]
                real = real | jnp.pad(mask, ((0, 0), ends))
            found.append(nn.relu(pooling.masked_max(sums, real)))
            first += k * self.filters
        return jnp.concatenate(found, axis=1)


class Levels(nn.Module):
    """The temporal and the local level of a sequence side by side: `[N, 2H + K · filters]`.

    Attributes:
        gru: H, width of the GRU's states in each direction.
        kernels, filters: of `Convolutions`.
        dropout: on each level.
        dtype: of the matrix products.
    """

    gru: int
    kernels: Sequence[int]
    filters: int
    dropout: float = 0.2
    dtype: Any = jnp.float32

    def setup(self):
        self.course = BiGRU(self.gru, dtype=self.dtype)
        self.pieces = Convolutions(tuple(self.kernels), self.filters, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, x: Array, mask: Array, *, train: bool) -> Array:
        """`x [N, S, C]`, `mask [N, S]`."""
        states = self.course(x, mask)  # [N, S, 2H]
        parts = pooling.masked_mean(states, mask), self.pieces(states, mask)
        return jnp.concatenate([self.drop(part, deterministic=not train) for part in parts], axis=1)


class Common(nn.Module):
    """Into the common space: linear map, batch normalisation, dropout. `[N, C]` → `[N, dim]`, not normalised.

    Attributes:
        dim: of the common space.
        bag: number of words of a bag of words that is one of the levels; 0 = none. The bag, a vector of counts as wide
            as the vocabulary, is never made: its part of the linear map is the sum of the rows of `words [bag, dim]`.
        dropout: after the normalisation.
        dtype: of the matrix product.
    """

    dim: int
    bag: int = 0
    dropout: float = 0.2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, counts: Array | None, *, train: bool, words: tuple[Array, Array] | None = None):
        """Map the levels `x [N, C]`.

        Args:
            x: the levels, side by side.
            counts: bool `[N]`, the rows that enter the batch statistics; unused unless `train`.
            train: batch statistics and dropout.
            words: where `bag`: the words as ids int32 `[N, L]` and bool mask `[N, L]`.
        """
        start = uniform((6 / (x.shape[-1] + self.bag + self.dim)) ** 0.5)  # Xavier, as the official code
        y = Dense(self.dim, dtype=self.dtype, start=start, bias_start=nn.initializers.zeros, name="linear")(x)
        if self.bag:
            ids, mask = words
            rows = jnp.take(self.param("words", start, (self.bag, self.dim)), ids, axis=0)  # [N, L, dim]
            y = y + jnp.sum(jnp.where(mask[..., None], rows, 0), axis=1).astype(y.dtype)
        y = BatchNorm(name="norm")(y, counts, train=train)
        return nn.Dropout(self.dropout, deterministic=not train)(y)
