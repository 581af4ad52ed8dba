"""CDNet: cross-modal context denoising network for video moment retrieval (arXiv 2408.07600).

QD-DETR (`models/qd_detr.py`), in which words enter a clip as far as it is aligned with the text (QSD, `layers/
disentangle.py`), and clips attend to context that is re-sampled by offsets which depend on the query (CDD,
`layers/denoise.py`). No code is public and no equation was at hand. What is the paper's: these two parts, alignment
levels from a global and a fine-grained correlation, contrastive losses of both levels, a group of query-relevant
offsets, Hungarian matching. All formulas, QD-DETR as what they are built on, and its depth are INFERRED.

Without both parts, and with them where every clip is aligned and nothing was learned yet, this is QD-DETR.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import grounding, pooling
from vlr_jax.layers.denoise import DenoisingEncoder
from vlr_jax.layers.disentangle import (
    Disentangle,
    Levels,
    WeightedPool,
    alignment_entropy,
    best_clip,
    fine_contrast,
    global_scores,
    relevant_clips,
)
from vlr_jax.layers.grounding import Tokens
from vlr_jax.types import Encoded, Moments


class Model(nn.Module):
    """CDNet; sizes default to QD-DETR's official ones on QVHighlights, all others are INFERRED.

    Attributes:
        visual_dim, vocabulary, text_dim, dim, word_dim, gru_dim, text_positions, tef: `layers.grounding.Inputs`.
        projection_layers, input_dropout: of its projections.
        t2v_layers, encoder_layers, decoder_layers: numbers of layers.
        queries: M.
        heads, hidden, dropout: of every layer.
        disentangle: QSD: alignment levels gate the words, and there are scores and regularisers to train them by.
        denoise: CDD in place of the encoder's plain layers.
        alignment_weight, scale, word_temperature, project: of QSD, `layers.disentangle.Disentangle`.
        fine_temperature: τ of the regulariser `fine`. (That of the global contrast is its loss's, in config.losses.)
        groups, stride, kernel, offset_range, relative_bias: of CDD, `layers.denoise.Denoise`. Offsets are in clips.
        dtype: of the inputs of the matrix products; the rest is float32.

    Raises:
        ValueError: at `init` or `apply`: heads or groups don't divide `dim`; as the layers named; or the corpus stage
            (`encode_visual`, `encode_text`) of a model without `disentangle`.
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
    disentangle: bool = True
    denoise: bool = True
    alignment_weight: float | None = 0.5
    scale: float = 10.0
    word_temperature: float = 0.1
    project: bool = True
    fine_temperature: float = 0.07
    groups: int = 4
    stride: int = 1
    kernel: int = 5
    offset_range: float = 5.0
    relative_bias: int = 0
    dtype: Any = jnp.float32

    def setup(self):
        layer = dict(heads=self.heads, hidden=self.hidden, dropout=self.dropout, dtype=self.dtype)
        self.inputs = grounding.inputs_of(self)
        nn.share_scope(self, self.inputs)  # so that `words` and `gru` are named as in `models/two_tower.py`
        if self.disentangle or self.denoise:
            self.sentence = WeightedPool()
        if self.disentangle:
            self.levels = Disentangle(
                self.dim, self.alignment_weight, self.scale, self.word_temperature, self.project, self.dtype
            )
        self.interaction = grounding.Interaction(self.t2v_layers, **layer)
        self.overview = grounding.Overview()
        if self.denoise:
            names = ("groups", "stride", "kernel", "offset_range", "relative_bias")
            options = {name: getattr(self, name) for name in names}
            self.encoder = DenoisingEncoder(self.encoder_layers, layer | options)
        else:
            self.encoder = grounding.Encoder(self.encoder_layers, activation="prelu", **layer)
        self.answer = grounding.Answer(self.decoder_layers, self.queries, **layer)

    def __call__(self, batch: dict[str, Array], *, train: bool = False) -> Moments:
        """A batch of the view `moments`; labels are read in training, and for scores and regularisers alone.

        `scores["sim"]`: cosine of the mean of a row's relevant clips with every sentence. `regularisers`: `fine`,
        relevant clips against the others of their video; `alignment`, cross-entropy of alignment and relevance.
        `extra`: `alignment` `[B, F]`; `offsets` and `positions` of the last layer, `[B, G, N]` in clips.
        """
        tokens, rows = self.inputs(batch, train=train), len(batch["visual"])
        sentence = self.sentence(tokens.text, tokens.text_mask) if self.disentangle or self.denoise else None
        found, extra, gate = {}, {}, None
        if self.disentangle:
            texts = (tokens.text, tokens.text_mask, sentence)
            levels = self.levels(tokens.visual, tokens.visual_mask, *texts)
            gate = levels.alignment
            extra["alignment"] = grounding.apart(gate, rows)[0]
            if train and ("saliency" in batch or "spans" in batch):
                found = self._contrast(levels, batch)
        clips = self.interaction(tokens, gate, train=train)
        memory, points = self._encode(clips, tokens, sentence, gate, train)
        extra |= {name: grounding.apart(value, rows)[0] for name, value in points.items()}
        rest = (tokens.position, tokens.visual_mask, rows)
        answer = self.answer(memory[:, 1:], memory[:, 0], *rest, train=train)
        return Moments(**answer, **found, extra=extra)

    def _encode(self, clips: Array, tokens: Tokens, sentence: Array | None, gate: Array | None, train: bool):
        joined = self.overview(clips, tokens.position, tokens.visual_mask)
        if self.denoise:
            return self.encoder(*joined, sentence, gate, train=train)
        return self.encoder(*joined, train=train), {}

    def _contrast(self, levels: Levels, batch: dict[str, Array]) -> dict[str, dict[str, Array]]:
        """What trains the levels; of the batch's pairs, without the negative texts beside them."""
        levels = jax.tree.map(lambda x: grounding.apart(x, len(batch["visual"]))[0], levels)
        mask, valid = batch["visual_mask"], batch["valid"]
        positive = relevant_clips(batch)
        mean = lambda x: jnp.sum(jnp.where(valid, x, 0)) / jnp.maximum(jnp.sum(valid), 1)
        return dict(
            scores={"sim": global_scores(levels, positive)},
            regularisers={
                "fine": mean(fine_contrast(levels.fine, positive, mask, self.fine_temperature)),
                "alignment": mean(alignment_entropy(levels.logits, positive, mask)),
            },
        )

    def encode_visual(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """For search in a corpus: `tokens [B, F, D]`, clips projected and of unit length; `pooled` is their mean."""
        self._searchable()
        clips, mask = self.inputs.clips(batch, train=train)
        tokens = jnp.where(mask[..., None], pooling.l2_normalise(self.levels.clips(clips)), 0)
        return Encoded(pooling.l2_normalise(pooling.masked_mean(tokens, mask)), tokens, mask)

    def encode_text(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """For search in a corpus: `pooled [B, D]`, the sentence projected and of unit length."""
        self._searchable()
        words = self.inputs.sentences(batch["text"], batch["text_mask"], train=train)
        return Encoded(self.levels.sentence(self.sentence(words, batch["text_mask"])))

    def _searchable(self) -> None:
        if not self.disentangle:
            raise ValueError(
                "model.disentangle is False: cdnet then learns no cosine of clips and sentences to rank by"
            )

    def similarity(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """`sim [V, T]`: the largest cosine of a video's clips with the sentence, in at least float32."""
        return {"sim": best_clip(visual.tokens, visual.mask, text.pooled)}

    def regularisers(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """None of the corpus stage; those that train are in `Moments`."""
        return {}

    def temperature(self) -> None:
        """None is learned."""
        return None
