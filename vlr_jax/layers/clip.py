"""CLIP's two towers (Radford et al., ICML 2021), with the parameters of the published ViT models.

`pretrained/clip.py` reads the parameters and the sizes. An image's vector is that of the class token, a text's that of
its last valid token; nothing is normalised here.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vlr_jax.layers.product import Dense
from vlr_jax.layers.transformer import Transformer, norm

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pixels / 255 that CLIP was trained on, red green blue
STD = (0.26862954, 0.26130258, 0.27577711)


class Clip(nn.Module):
    """Frames and token ids → vectors of one space; sizes default to ViT-B/32. Parts not called have no parameters.

    Attributes:
        image_size: edge of the images that the table of positions is for, pixels; a multiple of `patch`.
        patch: edge of a patch, pixels.
        vision_width, vision_layers, vision_heads: of the image tower.
        text_width, text_layers, text_heads: of the text tower.
        positions: texts up to this length have position vectors of their own.
        kept_positions: longer texts keep so many of the first position vectors and stretch the rest (20 as Long-CLIP,
            arXiv 2403.15378, since later ones were hardly trained); where there are no more than these, all stretch.
        vocabulary: number of token ids.
        dim: D, width of the common space.
        remat: compute each block again in the backward pass instead of keeping what is inside.
        activation: "quick_gelu" (OpenAI's weights) or "gelu".
        eps: of the layer normalisations.
        attention: `layers.transformer.Transformer.attention`.
        dtype: of the inputs of the matrix products; sums, norms, softmax, features and parameters at least float32.
    """

    image_size: int = 224
    patch: int = 32
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    positions: int = 77
    kept_positions: int = 20
    vocabulary: int = 49408
    dim: int = 512
    remat: bool = False
    activation: str = "quick_gelu"
    eps: float = 1e-5
    attention: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        shared = dict(
            dim=self.dim,
            remat=self.remat,
            activation=self.activation,
            eps=self.eps,
            attention=self.attention,
            dtype=self.dtype,
        )
        self.visual = Vision(
            self.image_size, self.patch, self.vision_width, self.vision_layers, self.vision_heads, **shared
        )
        self.words = Text(
            self.positions,
            self.kept_positions,
            self.vocabulary,
            self.text_width,
            self.text_layers,
            self.text_heads,
            **shared,
            name="text",
        )

    def image(self, frames: Array) -> tuple[Array, Array]:
        """Images to their vectors `[N, D]` and those of class token and patches, row by row, `[N, 1 + P, D]`.

        Args:
            frames: `[N, H, W, 3]`, RGB; uint8 pixels, or floats that already are (pixels / 255 − MEAN) / STD. For other
                sizes than `image_size` the table of positions is interpolated.

        Raises:
            ValueError: H or W is no multiple of `patch`.
        """
        return self.visual(frames)

    def text(self, ids: Array, mask: Array) -> tuple[Array, Array]:
        """`ids` int32 `[N, L]`, `mask` bool `[N, L]` (the first ones True) → `[N, D]` and each token's `[N, L, D]`.

        A text's vector is that of its last valid token, for CLIP's own ids the end mark. What stands behind it changes
        nothing before it; the vectors there mean nothing.
        """
        return self.words(ids, mask)

    @nn.compact
    def temperature(self) -> Array:
        """By which similarities are divided: exp of the parameter `log_temperature`, minus CLIP's `logit_scale`."""
        return jnp.exp(self.param("log_temperature", lambda _: jnp.log(jnp.float32(0.07))))


class Vision(nn.Module):
    """The image tower; fields as `Clip`'s."""

    image_size: int
    patch: int
    width: int
    layers: int
    heads: int
    dim: int
    remat: bool = False
    activation: str = "quick_gelu"
    eps: float = 1e-5
    attention: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: Array) -> tuple[Array, Array]:
        """`[N, H, W, 3]` → `[N, D]`, `[N, 1 + P, D]`, as `Clip.image`."""
        count, height, wide, _ = frames.shape
        if height % self.patch or wide % self.patch or self.image_size % self.patch:
            raise ValueError(
                f"clip: frames of {height} x {wide} pixels (image_size {self.image_size}) can't be cut into patches "
                f"of {self.patch} x {self.patch}; expected multiples, as data.frame_size={self.image_size}"
            )
        rows, columns = height // self.patch, wide // self.patch
        x = normalised(frames).reshape(count, rows, self.patch, columns, self.patch, 3).swapaxes(2, 3)
        x = x.reshape(count, rows * columns, -1)  # [N, P, pixels of a patch]
        x = self._linear(self.width, "patches", x.shape[-1] ** -0.5)(x)
        around = nn.initializers.normal(self.width**-0.5)
        first = self.param("class", around, (self.width,)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (count, 1, self.width)), x], axis=1)
        across = self.image_size // self.patch
        places = self.param("places", around, (1 + across**2, self.width))
        x = norm(self.eps, "norm_in")(x + grid(places, across, rows, columns).astype(x.dtype))
        body = Transformer(
            self.layers,
            self.heads,
            eps=self.eps,
            activation=self.activation,
            remat=self.remat,
            attention=self.attention,
            dtype=self.dtype,
            name="blocks",
        )
        x = norm(self.eps, "norm")(body(x))
        project = self._linear(self.dim, "project", self.width**-0.5)
        # The class token apart, so that what nobody reads of the other tokens is never computed.
        return project(x[:, 0]), project(x)

    def _linear(self, size: int, name: str, std: float) -> Dense:
        return Dense(size, dtype=self.dtype, start=nn.initializers.normal(std), use_bias=False, name=name)


class Text(nn.Module):
    """The text tower; fields as `Clip`'s."""

    positions: int
    kept_positions: int
    vocabulary: int
    width: int
    layers: int
    heads: int
    dim: int
    remat: bool = False
    activation: str = "quick_gelu"
    eps: float = 1e-5
    attention: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids: Array, mask: Array) -> tuple[Array, Array]:
        """`[N, L]`, `[N, L]` → `[N, D]`, `[N, L, D]`, as `Clip.text`."""
        words = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(0.02), name="words")
        places = self.param("places", nn.initializers.normal(0.01), (self.positions, self.width))
        x = words(ids) + line(places, ids.shape[1], self.kept_positions)
        body = Transformer(
            self.layers,
            self.heads,
            eps=self.eps,
            activation=self.activation,
            remat=self.remat,
            attention=self.attention,
            dtype=self.dtype,
            name="blocks",
        )
        x = norm(self.eps, "norm")(body(x, causal=True))
        start = nn.initializers.normal(self.width**-0.5)
        project = Dense(self.dim, dtype=self.dtype, start=start, use_bias=False, name="project")
        last = jnp.maximum(mask.sum(axis=1) - 1, 0)
        sentence = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]  # [N, C]
        return project(sentence), project(x)


def normalised(frames: Array) -> Array:
    """uint8 `[…, 3]` → float32 (pixels / 255 − MEAN) / STD; floats pass as they are."""
    if frames.dtype != jnp.uint8:
        return frames
    return (frames.astype(jnp.float32) / 255 - jnp.float32(MEAN)) / jnp.float32(STD)


def grid(places: Array, across: int, rows: int, columns: int) -> Array:
    """Position vectors of the class token and of `across`² patches → of `rows` x `columns` patches, `[1 + P, C]`.

    Bicubic (Keys, a = −0.5) between the centres of patches, without smoothing; PyTorch's bicubic has a = −0.75.
    """
    if (rows, columns) == (across, across):
        return places
    of_patches = places[1:].reshape(across, across, -1)
    shape = (rows, columns, places.shape[1])
    stretched = jax.image.resize(of_patches, shape, "cubic", antialias=False)
    return jnp.concatenate([places[:1], stretched.reshape(rows * columns, -1)])


def line(places: Array, length: int, kept: int) -> Array:
    """The first `length` position vectors of `places [P, C]`; beyond P the ones after the first `kept` are stretched.

    Linear between neighbours with both ends in place; Long-CLIP puts 4 for 1 and goes on beyond the last in its slope.
    """
    count = len(places)
    if length <= count:
        return places[:length]
    kept = kept if count > kept else 0
    at = kept + np.linspace(0, count - 1 - kept, length - kept)
    below = np.clip(at.astype(int), 0, max(count - 2, 0))
    part = (at - below)[:, None].astype(places.dtype)
    stretched = places[below] * (1 - part) + places[np.minimum(below + 1, count - 1)] * part
    return jnp.concatenate([places[:kept], stretched])
