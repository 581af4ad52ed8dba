"""QD-DETR: words enter the clips before anything else does (Moon et al., CVPR 2023; github.com/wjun0830/QD-DETR).

Text-to-video layers, an encoder over the clips and a global token, a decoder of anchors; saliency is learned from true
and from wrong texts. Without the mask by which the official code lets the padding of one video change another's result
(`layers/detr.py`). Text as token ids, through word vectors and a GRU, is no paper's: their texts are CLIP's states.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import grounding
from vlr_jax.types import Moments


class Model(nn.Module):
    """QD-DETR; sizes default to the official ones on QVHighlights.

    Attributes:
        visual_dim, vocabulary, text_dim, dim, word_dim, gru_dim, text_positions, tef: `layers.grounding.Inputs`.
        projection_layers, input_dropout: of its projections.
        t2v_layers, encoder_layers, decoder_layers: numbers of layers.
        queries: M.
        heads, hidden, dropout: of every layer.
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
    t2v_layers: int = 2
    encoder_layers: int = 2
    decoder_layers: int = 2
    projection_layers: int = 2
    dropout: float = 0.1
    input_dropout: float = 0.5
    word_dim: int = 300
    gru_dim: int = 256
    text_positions: int = 0
    tef: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        layer = dict(heads=self.heads, hidden=self.hidden, dropout=self.dropout, dtype=self.dtype)
        self.inputs = grounding.inputs_of(self)
        nn.share_scope(
            self, self.inputs
        )  # `words` and `gru` are named as in `models/two_tower.py`, which may fill them
        self.interaction = grounding.Interaction(self.t2v_layers, **layer)
        self.overview = grounding.Overview()
        self.encoder = grounding.Encoder(self.encoder_layers, activation="prelu", **layer)
        self.answer = grounding.Answer(self.decoder_layers, self.queries, **layer)

    def __call__(self, batch: dict[str, Array], *, train: bool = False) -> Moments:
        """A batch of the view `moments`; `saliency_negative` only in training with `negative_where`."""
        tokens = self.inputs(batch, train=train)
        clips = self.interaction(tokens, train=train)
        memory = self.encoder(*self.overview(clips, tokens.position, tokens.visual_mask), train=train)
        rest = (tokens.position, tokens.visual_mask, len(batch["visual"]))
        return Moments(**self.answer(memory[:, 1:], memory[:, 0], *rest, train=train))
