"""Moment-DETR: clips and words side by side in one transformer (Lei et al., NeurIPS 2021; jayleicn/moment_detr).

An encoder over all clips and words, a decoder of learned queries, each of which answers with one span. Text as token
ids, through word vectors and a GRU, is no paper's: theirs is CLIP's states.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import grounding
from vlr_jax.layers.decoders import Decoder
from vlr_jax.layers.pooling import l2_normalise
from vlr_jax.layers.product import Dense
from vlr_jax.types import Moments

TEMPERATURE = 0.07  # of the alignment of moments with words


class Model(nn.Module):
    """Moment-DETR; sizes default to the official ones on QVHighlights.

    Attributes:
        visual_dim, vocabulary, text_dim, dim, word_dim, gru_dim, text_positions, tef: `layers.grounding.Inputs`.
        projection_layers, input_dropout: of its projections.
        encoder_layers, decoder_layers: numbers of layers.
        queries: M.
        heads, hidden, dropout: of every layer.
        pre_norm: normalise what enters each part of a layer, not the sum behind it.
        contrastive: width of the space in which moments are aligned with words in training; 0 = they are not. The
            official option has 64, and leaves padding among the words.
        dtype: of the inputs of the matrix products; the rest is float32.

    Raises:
        ValueError: at `init` or `apply`: heads don't divide `dim`, or as `layers.grounding.Inputs`.
    """

    visual_dim: int
    vocabulary: int = 0
    text_dim: int | None = None
    dim: int = 256
    heads: int = 8
    hidden: int = 1024
    queries: int = 10
    encoder_layers: int = 2
    decoder_layers: int = 2
    projection_layers: int = 2
    dropout: float = 0.1
    input_dropout: float = 0.5
    word_dim: int = 300
    gru_dim: int = 256
    text_positions: int = 0
    pre_norm: bool = False
    contrastive: int = 0
    tef: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        layer = dict(heads=self.heads, hidden=self.hidden, dropout=self.dropout, dtype=self.dtype)
        self.inputs = grounding.inputs_of(self)
        nn.share_scope(
            self, self.inputs
        )  # `words` and `gru` are named as in `models/two_tower.py`, which may fill them
        self.encoder = grounding.Encoder(self.encoder_layers, activation="relu", pre_norm=self.pre_norm, **layer)
        self.decoder = Decoder(self.decoder_layers, self.queries, pre_norm=self.pre_norm, **layer)
        self.answer = grounding.Heads(self.dtype)
        self.saliency = Dense(1, dtype=self.dtype)
        if self.contrastive:
            self.align_moments, self.align_words = (Dense(self.contrastive, dtype=self.dtype) for _ in range(2))

    def __call__(self, batch: dict[str, Array], *, train: bool = False) -> Moments:
        """A batch of the view `moments`, whose `negative_where` is not looked at.

        With `contrastive`, `extra["alignment_logits"]` `[K, B, M]`: how much each moment is of its text's words.
        """
        pairs = {name: value for name, value in batch.items() if not name.startswith("negative_")}
        tokens = self.inputs(pairs, train=train)
        count = tokens.visual.shape[1]
        text_position = jnp.zeros_like(tokens.text) if tokens.text_position is None else tokens.text_position
        joined = lambda visual, text: jnp.concatenate([visual, text], axis=1)
        position, mask = joined(tokens.position, text_position), joined(tokens.visual_mask, tokens.text_mask)
        memory = self.encoder(joined(tokens.visual, tokens.text), position, mask, train=train)
        decoded = self.decoder(memory, position, mask, train=train)
        spans, logits = self.answer(decoded)
        saliency = self.saliency(memory[:, :count])[..., 0]
        extra = {}
        if self.contrastive:
            extra["alignment_logits"] = self.alignment(decoded, memory[:, count:], tokens.text_mask)
        return Moments(spans=spans, logits=logits, saliency=saliency, extra=extra)

    def alignment(self, decoded: Array, words: Array, where: Array) -> Array:
        """Σ over the words of cosines / 0.07: `[K, B, M, D]`, `[B, L, D]`, bool `[B, L]` → `[K, B, M]`."""
        moments, words = l2_normalise(self.align_moments(decoded)), l2_normalise(self.align_words(words))
        whole = jnp.sum(jnp.where(where[..., None], words, 0.0), axis=1)  # [B, C]
        return jnp.einsum("kbmc,bc->kbm", moments, whole, precision=jax.lax.Precision.HIGHEST) / TEMPERATURE
