"""VSE++: two towers that meet in one dot product (Faghri et al., BMVC 2018; on regions as in arXiv 2305.16566).

Visual: linear map of each region, frame or patch, then the maximum over them. Text: word vectors into a GRU whose last
state is the text. Both are L2-normalised; the score is their cosine. With `visual_dim=None` the visuals are uint8
frames, and a compact patch encoder stands where the region detector stood. Fields that are off by default are no
paper's: they are what small data want.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import pooling
from vlr_jax.layers.elements import elements
from vlr_jax.layers.gru import GRU
from vlr_jax.layers.patches import PatchEncoder
from vlr_jax.layers.product import Dense, uniform
from vlr_jax.types import Encoded

POOLS = {"max": pooling.masked_max, "mean": pooling.masked_mean}
TEXTS = ("gru", "mean", "gru+mean")


def _linear(size: int, dtype, start=None) -> Dense:
    start = start or nn.initializers.lecun_normal()
    return Dense(size, dtype=dtype, start=start, bias_start=nn.initializers.zeros)


class Model(nn.Module):
    """The two-tower model; sizes default to VSE++ on region features.

    Attributes:
        vocabulary: number of words, the unknown word and padding among them.
        visual_dim: width of the precomputed features; None = uint8 frames.
        visual_power: features enter as sign(x)·|x|^power; 0.5 tames the peaks of rectified features (Perronnin et al.,
            ECCV 2010), 1.0 leaves them.
        visual_norm: batch normalisation of the features, dimension by dimension over all real elements.
        dim: D, width of the shared space and of the GRU's state.
        word_dim: width of a word vector.
        visual_hidden: width of a hidden layer before the visual projection; 0 = none.
        pool: "max" or "mean" over the real regions, frames or patches.
        text: "gru" (its last state); "mean" (of the word vectors, times the root of their number, then a linear map);
            "gru+mean" (the sum of two linear maps: of that mean, and of the maximum over the GRU's states).
        gru_dim: width of the GRU's state in "gru+mean".
        patch, patch_dim, patch_layers: of the patch encoder (frames only).
        visual_dropout: on the features and on the hidden layer.
        text_dropout: on the word vectors and on what is pooled from them.
        word_dropout: share of words whose vector is zero, in training.
        temperature_start: first value of a learned temperature; None = the model has none.
        dtype: of features, word vectors and the inputs of the matrix products; the rest is float32 or wider.

    Raises:
        ValueError: at `init` or `apply`, for an unknown `pool` or `text`, or visuals that are not of `visual_dim`.
    """

    vocabulary: int
    visual_dim: int | None = None
    dim: int = 1024
    word_dim: int = 300
    visual_power: float = 1.0
    visual_norm: bool = False
    visual_hidden: int = 0
    pool: str = "max"
    text: str = "gru"
    gru_dim: int = 256
    patch: int = 8
    patch_dim: int = 192
    patch_layers: int = 2
    visual_dropout: float = 0.0
    text_dropout: float = 0.0
    word_dropout: float = 0.0
    temperature_start: float | None = None
    dtype: Any = jnp.float32

    def setup(self):
        if self.pool not in POOLS:
            raise ValueError(f"model.pool is {self.pool!r}; two_tower has: {', '.join(POOLS)}")
        if self.text not in TEXTS:
            raise ValueError(f"model.text is {self.text!r}; two_tower has: {', '.join(TEXTS)}")
        if self.visual_dim is None:
            self.patches = PatchEncoder(self.patch, self.patch_dim, self.patch_layers, dtype=self.dtype)
        if self.visual_norm:
            self.normalise = nn.BatchNorm(momentum=0.99, use_bias=False, use_scale=False, dtype=jnp.float32)
        if self.visual_hidden:
            self.visual_mlp = _linear(self.visual_hidden, self.dtype)
        self.visual_projection = _linear(self.dim, self.dtype, nn.initializers.xavier_uniform())
        self.words = nn.Embed(self.vocabulary, self.word_dim, dtype=self.dtype, embedding_init=uniform(0.1))
        if self.text != "mean":
            self.gru = GRU(self.dim if self.text == "gru" else self.gru_dim, dtype=self.dtype)
        if self.text != "gru":
            self.text_projection = _linear(self.dim, self.dtype)
        if self.text == "gru+mean":
            self.gru_projection = _linear(self.dim, self.dtype)
        self.drop_visual = nn.Dropout(self.visual_dropout)
        self.drop_text = nn.Dropout(self.text_dropout)
        if self.temperature_start is not None:
            start = float(self.temperature_start)
            self.log_temperature = self.param("log_temperature", lambda _: jnp.log(jnp.float32(start)))

    def encode_visual(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`visual` float `[B, ..., visual_dim]`, `visual_mask [B, ...]`; or uint8 `[B, F, H, W, 3]`, `[B, F]`."""
        patches = self.patches if self.visual_dim is None else None
        x, mask = elements(batch, self.visual_dim, patches, self.dtype, self.visual_power)  # [B, S, C]
        if self.visual_norm:
            real = (mask & batch["valid"][:, None])[..., None]
            x = self.normalise(x, use_running_average=not train, mask=real).astype(self.dtype)
        x = self.drop_visual(x, deterministic=not train)
        if self.visual_hidden:
            x = self.drop_visual(nn.gelu(self.visual_mlp(x)), deterministic=not train)
        x = self.visual_projection(x)  # [B, S, D]
        return Encoded(pooled=pooling.l2_normalise(POOLS[self.pool](x, mask)))

    def encode_text(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`text` int32 `[B, L]` with `text_mask [B, L]`."""
        mask = batch["text_mask"]
        x = self.words(batch["text"])  # [B, L, E]
        if train and self.word_dropout:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.word_dropout, mask.shape)
            x = jnp.where(kept[..., None], x, 0)
        x = self.drop_text(x, deterministic=not train)
        if self.text == "gru":
            _, state = self.gru(x, mask)  # [B, D]
            return Encoded(pooled=pooling.l2_normalise(self.drop_text(state, deterministic=not train)))
        # Times the root of their number: as large for a long text as for a short one, and beside the GRU's states.
        count = jnp.sum(mask, axis=1, keepdims=True, dtype=x.dtype)
        words = self.drop_text(pooling.masked_mean(x, mask) * jnp.sqrt(count), deterministic=not train)  # [B, E]
        pooled = self.text_projection(words)  # [B, D]
        if self.text == "gru+mean":
            states, _ = self.gru(x, mask)  # [B, L, H]
            state = self.drop_text(pooling.masked_max(states, mask), deterministic=not train)  # [B, H]
            pooled = pooled + self.gru_projection(state)  # [B, D]
        return Encoded(pooled=pooling.l2_normalise(pooled))

    def similarity(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """Cosine of every pair, `{"sim": [V, T]}`, in at least float32 whatever the encodings are stored as."""
        return {"sim": pooling.cosine(visual.pooled, text.pooled)}

    def regularisers(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """None: the ranking terms are all that VSE++ trains on."""
        return {}

    def temperature(self) -> Array | None:
        """The learned temperature, kept positive as the exponential of its parameter; None if the model has none."""
        return None if self.temperature_start is None else jnp.exp(self.log_temperature)
