"""Frames → patch features: a compact MLP-Mixer (Tolstikhin et al., NeurIPS 2021), made of matrix products only.

Small enough for two CPU cores; it gives a two-tower model pixels to learn from where no features were extracted.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers.product import Dense


def _linear(size: int, dtype) -> Dense:
    return Dense(size, dtype=dtype, start=nn.initializers.lecun_normal(), bias_start=nn.initializers.zeros)


class MixerBlock(nn.Module):
    """Mix over patches, then over channels; both residual, `[N, P, C]` → `[N, P, C]`."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        patches, channels = x.shape[1:]
        y = jnp.swapaxes(nn.LayerNorm(dtype=self.dtype)(x), 1, 2)  # [N, C, P]
        y = _linear(patches, self.dtype)(nn.gelu(_linear(2 * patches, self.dtype)(y)))
        x = x + jnp.swapaxes(y, 1, 2)  # [N, P, C]
        y = nn.LayerNorm(dtype=self.dtype)(x)
        return x + _linear(channels, self.dtype)(nn.gelu(_linear(2 * channels, self.dtype)(y)))


class PatchEncoder(nn.Module):
    """Every frame by itself into patches of features.

    Attributes:
        size: edge of a patch in pixels; divides height and width.
        channels: C, the width of a patch's feature.
        layers: mixer blocks.
        dtype: of the inputs of the matrix products, and of the result; all between, and parameters, at least float32.
    """

    size: int = 8
    channels: int = 192
    layers: int = 2
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: Array) -> Array:
        """uint8 `[B, F, H, W, 3]` → `[B, F, P, C]`, P = (H / size) · (W / size).

        Raises:
            ValueError: height or width is no multiple of `size`.
        """
        b, f, h, w, _ = frames.shape
        if h % self.size or w % self.size:
            raise ValueError(f"Frames of {h} x {w} pixels cannot be cut into patches of {self.size} x {self.size}.")
        rows, columns = h // self.size, w // self.size
        x = frames.astype(self.dtype) / 127.5 - 1
        x = x.reshape(b * f, rows, self.size, columns, self.size, 3).swapaxes(2, 3)
        x = x.reshape(b * f, rows * columns, self.size * self.size * 3)  # [B·F, P, pixels of a patch]
        x = _linear(self.channels, self.dtype)(x)  # [B·F, P, C]
        place = self.param("place", nn.initializers.normal(0.02), (rows * columns, self.channels))
        x = x + place.astype(x.dtype)
        for _ in range(self.layers):
            x = MixerBlock(dtype=self.dtype)(x)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        return x.reshape(b, f, rows * columns, self.channels)
