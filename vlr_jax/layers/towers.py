"""Both towers of the CLIP4Clip family: frames and texts → tokens of one space (Luo et al., arXiv 2104.08860).

CLIP on every frame and on the text, or what stands in for either: precomputed features through a linear map, a GRU that
reads both ways. Over the frames a transformer where one is wanted (`seqTransf` of github.com/ArrowLuo/CLIP4Clip).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import pooling
from vlr_jax.layers.clip import Clip, line
from vlr_jax.layers.gru import GRU
from vlr_jax.layers.product import Dense, uniform
from vlr_jax.layers.transformer import Transformer

TEXTS = ("clip", "gru")
NOT_SIZES = ("vocabulary", "dim", "remat", "attention", "dtype", "parent", "name")  # what else a Clip is told
DIM, POSITIONS, KEPT = 512, 77, 20  # of CLIP ViT-B; KEPT as `Clip.kept_positions`


class Towers(nn.Module):
    """Modules are `clip`, `temporal`, `visual_projection`, `words`, `gru_forward`, `gru_reverse`, `text_projection`.

    Attributes:
        vocabulary: number of token ids; that of the tokenizer, whatever `clip_sizes` says.
        visual_dim: width of precomputed features; None = uint8 frames, through CLIP.
        text: "clip" or "gru".
        dim: D; None = that of `clip_sizes`, or 512.
        clip_sizes: fields of `layers.clip.Clip`; None = ViT-B/32.
        word_dim: width of a word vector and of the states ("gru").
        temporal_layers: blocks of the temporal transformer; 0 = none.
        temperature_start: first value of the learned temperature where there is no CLIP, which has one of its own.
        visual_dropout, text_dropout: on precomputed features; on word vectors and what leaves the GRU ("gru").
        remat: compute transformer blocks again in the backward pass.
        attention: `layers.transformer.Transformer.attention`.
        dtype: of the inputs of the matrix products; the rest is at least float32.

    Raises:
        ValueError: at `init` or `apply`, for an unknown `text`, an unknown key of `clip_sizes`, a `dim` that is not
            CLIP's, or visuals that are not what `visual_dim` says.
    """

    vocabulary: int
    visual_dim: int | None = None
    text: str = "clip"
    dim: int | None = None
    clip_sizes: dict | None = None
    word_dim: int = 300
    temporal_layers: int = 0
    temperature_start: float = 0.07
    visual_dropout: float = 0.0
    text_dropout: float = 0.0
    remat: bool = False
    attention: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        sizes, shared = dict(self.clip_sizes or {}), dict(remat=self.remat, attention=self.attention, dtype=self.dtype)
        known = [name for name in Clip.__dataclass_fields__ if name not in NOT_SIZES]
        if self.text not in TEXTS:
            raise ValueError(f"model.text is {self.text!r}; it can be: {', '.join(TEXTS)}")
        if unknown := sorted(set(sizes) - {*known, "vocabulary", "dim"}):
            raise ValueError(f"model.clip_sizes has {', '.join(unknown)}; clip has: {', '.join(known)}, dim")
        if None not in (self.dim, of_clip := sizes.get("dim")) and self.dim != of_clip:
            raise ValueError(f"model.dim is {self.dim}, but CLIP's (clip_sizes) is {of_clip}; leave model.dim away")
        width = self.dim or of_clip or DIM
        self.has_clip = self.text == "clip" or self.visual_dim is None
        if self.has_clip:
            fields = {name: value for name, value in sizes.items() if name in known}
            self.clip = Clip(**fields, vocabulary=self.vocabulary, dim=width, **shared)
        else:
            start = float(self.temperature_start)
            self.log_temperature = self.param("log_temperature", lambda _: jnp.log(jnp.float32(start)))
        if self.visual_dim is not None:
            square = self.visual_dim == width  # features that are in the space already stay what they are
            start = (lambda _, shape, dtype=jnp.float32: jnp.eye(*shape, dtype=dtype)) if square else None
            self.visual_projection = Dense(width, dtype=self.dtype, start=start, bias_start=nn.initializers.zeros)
        if self.text == "gru":
            self.words = nn.Embed(self.vocabulary, self.word_dim, dtype=self.dtype, embedding_init=uniform(0.1))
            self.gru_forward = GRU(self.word_dim, dtype=self.dtype)
            self.gru_reverse = GRU(self.word_dim, reverse=True, dtype=self.dtype)
            self.text_projection = Dense(width, dtype=self.dtype, bias_start=nn.initializers.zeros)
        self.drop_visual, self.drop_text = nn.Dropout(self.visual_dropout), nn.Dropout(self.text_dropout)
        if self.temporal_layers:
            fields = {name: sizes[name] for name in ("activation", "eps", "positions") if name in sizes}
            self.temporal = Temporal(self.temporal_layers, **fields, **shared)

    def frames(self, batch: dict[str, Array], *, train: bool) -> tuple[Array, Array]:
        """A batch's visuals → a token a frame, `[B, F, D]`, zero behind the mask, and the mask `[B, F]`.

        `visual` `[B, F, H, W, 3]` as `Clip.image` takes it, or float `[B, F, visual_dim]`, or float
        `[B, F, R, visual_dim]`, of which the mean over the real regions is taken; `visual_mask` without the axes of a
        frame or vector. In training padding rows (`valid`) have no real frame.
        """
        x, mask = batch["visual"], batch["visual_mask"]
        dim, count = self.visual_dim, x.ndim
        if (count != 5) if dim is None else (count not in (3, 4) or x.shape[-1] != dim):
            wanted = "uint8 frames [B, F, H, W, 3]" if dim is None else f"features [B, F, {dim}] or [B, F, R, {dim}]"
            raise ValueError(f"model.visual_dim={dim} wants {wanted}; got {x.dtype} {x.shape}")
        if dim is None:
            x = self.clip.image(x.reshape(-1, *x.shape[2:]))[0].reshape(*mask.shape, -1)
        else:
            if count == 4:
                x = pooling.masked_mean(x.reshape(-1, *x.shape[2:]), mask.reshape(-1, mask.shape[-1]))
                x, mask = x.reshape(*mask.shape[:2], dim), jnp.any(mask, axis=-1)
            x = self.visual_projection(self.drop_visual(x.astype(self.dtype), deterministic=not train))
        if train:
            mask = mask & batch["valid"][:, None]
        if self.temporal_layers:
            x = self.temporal(x, mask)
        return jnp.where(mask[..., None], x, 0), mask

    def texts(self, batch: dict[str, Array], *, train: bool) -> tuple[Array, Array, Array]:
        """A batch's texts → the vector of each `[B, D]`, its tokens `[B, L, D]`, zero behind the mask, and the mask."""
        mask = batch["text_mask"]
        if self.text == "clip":
            sentence, x = self.clip.text(batch["text"], mask)
        else:
            x = self.drop_text(self.words(batch["text"]), deterministic=not train)  # [B, L, E]
            x = (self.gru_forward(x, mask)[0] + self.gru_reverse(x, mask)[0]) / 2
            x = self.text_projection(self.drop_text(x, deterministic=not train))  # [B, L, D]
            sentence = pooling.masked_mean(x, mask)
        if train:
            mask = mask & batch["valid"][:, None]
        return sentence, jnp.where(mask[..., None], x, 0), mask

    def temperature(self) -> Array:
        """The learned temperature, CLIP's where there is one."""
        return self.clip.temperature() if self.has_clip else jnp.exp(self.log_temperature)


class Temporal(nn.Module):
    """Self-attention over frames, added to what came in; may start from CLIP's text blocks (`config.init`).

    Attributes:
        layers: number of blocks.
        heads: None = one for every 64 of the width.
        positions: frames that have a position vector of their own; more frames stretch those behind the first 20.
        activation, eps, remat, attention, dtype: `layers.transformer.Transformer`.
    """

    layers: int = 4
    heads: int | None = None
    positions: int = POSITIONS
    activation: str = "quick_gelu"
    eps: float = 1e-5
    remat: bool = False
    attention: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        """`x [N, F, D]`, bool `mask [N, F]` → `[N, F, D]`; frames behind the mask reach no other."""
        width = x.shape[-1]
        places = self.param("positions", nn.initializers.normal(0.01), (self.positions, width))
        fields = dict(activation=self.activation, eps=self.eps, remat=self.remat, attention=self.attention)
        blocks = Transformer(self.layers, self.heads or max(1, width // 64), **fields, dtype=self.dtype, name="blocks")
        return x + blocks(x + line(places, x.shape[1], KEPT).astype(x.dtype), mask=mask).astype(x.dtype)
