"""CLIP4Clip (Luo et al., arXiv 2104.08860): CLIP on frames and text, with DRL's token interactions as an option.

The text's vector against the mean of the frames' (`meanP`), before it a transformer over the frames (`seqTransf`), or
every token of the text against every frame (TI, WTI; Wang et al., arXiv 2203.07111). Parity with the code of both.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import pooling
from vlr_jax.layers.interaction import TokenWeights, equal_weights, interact
from vlr_jax.layers.towers import Towers
from vlr_jax.types import Encoded

TEMPORAL = ("none", "transformer")
INTERACTIONS = ("mean", "ti", "wti")


class Model(nn.Module):
    """The model; defaults to meanP with CLIP ViT-B/32.

    Attributes:
        vocabulary: number of token ids.
        visual_dim: width of precomputed features of frames (or of their regions, whose mean is taken), which a linear
            map takes to D; None = uint8 frames, through CLIP.
        temporal: "none" (meanP), or "transformer" (seqTransf).
        temporal_layers: its blocks.
        interaction: "mean" (cosine of the text's vector and the frames' mean), "ti" (each token with its best frame and
            the other way round, averaged), "wti" (weighted by what a small network says of each token).
        weight_layers: linear maps of that network; DRL has 1 to 3.
        text: "clip", or "gru" (own word vectors, read both ways, then a linear map; no paper's).
        dim: D; None = that of CLIP.
        clip_sizes: fields of `layers.clip.Clip`, {"image_size": …}; None = ViT-B/32. Read off by `config.init`.
        word_dim: width of word vectors and states ("gru").
        temperature_start: first value of the learned temperature where there is no CLIP, which has one of its own.
        visual_dropout, text_dropout: on precomputed features; on word vectors and the GRU's states. No paper's.
        remat: compute transformer blocks again in the backward pass.
        attention: None, or "cudnn" (flash attention on NVIDIA GPUs, 16-bit dtype).
        dtype: of the inputs of the matrix products; the rest is at least float32.

    Raises:
        ValueError: at `init` or `apply`, for an unknown choice, or visuals that are not what `visual_dim` says.
    """

    vocabulary: int
    visual_dim: int | None = None
    temporal: str = "none"
    temporal_layers: int = 4
    interaction: str = "mean"
    weight_layers: int = 2
    text: str = "clip"
    dim: int | None = None
    clip_sizes: dict | None = None
    word_dim: int = 300
    temperature_start: float = 0.07
    visual_dropout: float = 0.0
    text_dropout: float = 0.0
    remat: bool = False
    attention: str | None = None
    dtype: Any = jnp.float32

    def setup(self):
        for name, choices in (("temporal", TEMPORAL), ("interaction", INTERACTIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"model.{name} is {getattr(self, name)!r}; clip4clip has: {', '.join(choices)}")
        self.towers = Towers(
            self.vocabulary, self.visual_dim, self.text, self.dim, self.clip_sizes, self.word_dim,
            self.temporal_layers if self.temporal == "transformer" else 0, self.temperature_start,
            self.visual_dropout, self.text_dropout, self.remat, self.attention, self.dtype,
        )  # fmt: skip
        nn.share_scope(self, self.towers)  # so that CLIP is `clip`, not `towers/clip`
        if self.interaction == "wti":
            self.visual_weights = TokenWeights(self.weight_layers, dtype=self.dtype)
            self.text_weights = TokenWeights(self.weight_layers, dtype=self.dtype)

    def encode_visual(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`visual` uint8 `[B, F, H, W, 3]` or float `[B, F(, R), visual_dim]`; tokens are the frames', `[B, F, D]`."""
        tokens, mask = self.towers.frames(batch, train=train)
        pooled = pooling.l2_normalise(pooling.masked_mean(pooling.l2_normalise(tokens), mask))
        extra = {"weights": self.visual_weights(tokens, mask)} if self.interaction == "wti" else {}
        return Encoded(pooled=pooled, tokens=tokens, mask=mask, extra=extra)

    def encode_text(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`text` int32 `[B, L]` with `text_mask [B, L]`; tokens only where the interaction has a use for them."""
        sentence, tokens, mask = self.towers.texts(batch, train=train)
        pooled = pooling.l2_normalise(sentence)
        if self.interaction == "mean":
            return Encoded(pooled=pooled)
        extra = {"weights": self.text_weights(tokens, mask)} if self.interaction == "wti" else {}
        return Encoded(pooled=pooled, tokens=tokens, mask=mask, extra=extra)

    def similarity(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """`{"sim": [V, T]}` in at least float32, from −1 to 1."""
        if self.interaction == "mean":
            return {"sim": pooling.cosine(visual.pooled, text.pooled)}
        tokens = [(pooling.l2_normalise(side.tokens).astype(self.dtype),) for side in (visual, text)]
        weights = [side.extra.get("weights", equal_weights(side.mask)) for side in (visual, text)]
        (scores,) = interact(
            *tokens, visual_weights=weights[0], text_weights=weights[1], visual_mask=visual.mask, text_mask=text.mask,
            sharpness=None,
        )  # fmt: skip
        return {"sim": scores}

    def regularisers(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """None."""
        return {}

    def temperature(self) -> Array:
        """The learned temperature, CLIP's where there is one."""
        return self.towers.temperature()
