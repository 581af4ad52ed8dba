"""RVSE++ and VSE∞: two towers whose sets are pooled by learned weights on sorted values (GPO).

RVSE++: Li et al., "Selectively Hard Negative Mining for Alleviating Gradient Vanishing in Image-Text Matching", arXiv
2303.00181. VSE∞: Chen et al., CVPR 2021. Visual: a linear map of each region plus a small network beside it, then GPO.
Text: word vectors into a GRU that reads both ways, its states averaged (or BERT and a linear map), then GPO. Both are
L2-normalised; the score is their cosine. Fields that are off by default are no paper's: they are what small data want.

A vision tower that learns from pictures (ViT, CLIP) would stand where `PatchEncoder` stands: frames in, elements out.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import drop, pooling
from vlr_jax.layers.batch_norm import BatchNorm
from vlr_jax.layers.bert import Bert
from vlr_jax.layers.elements import elements
from vlr_jax.layers.gpo import GPO
from vlr_jax.layers.gru import GRU
from vlr_jax.layers.patches import PatchEncoder
from vlr_jax.layers.product import Dense, uniform
from vlr_jax.types import Encoded

VISUALS = ("residual", "mlp", "linear")
TEXTS = ("gru", "bert")
NOT_SIZES = ("vocabulary", "dtype", "parent", "name")  # fields of Bert that are not its sizes


class Model(nn.Module):
    """The model; sizes default to RVSE++ on region features, `visual="mlp"` makes it VSE∞.

    Attributes:
        vocabulary: number of words, the unknown word and padding among them.
        visual_dim: width of the precomputed features; None = uint8 frames.
        dim: D, width of the shared space and of the GRU's states.
        word_dim: width of a word vector ("gru").
        visual: with f the linear map and M a network of one hidden layer, D / 2 wide and batch-normalised:
            "residual" (RVSE++) f(x) + M(f(x)); "mlp" (VSE∞) f(x) + M(x); "linear" f(x).
        text: "gru" or "bert".
        region_dropout: share of regions left out of a visual, in training.
        word_dropout: share of words masked, replaced or deleted, in training.
        mask_word: id of the word that stands for a masked one, as text.name='wordpiece' tells it; None = a row of its
            own behind the vocabulary's ("gru"), which "bert" lacks.
        gru_dim: width of the GRU's states, if not D; a linear map then takes them there.
        bert_sizes: fields of `layers.bert.Bert`, `{"dim": 768, …}`; None = BERT-base. Read off by `config.init`.
        patch, patch_dim, patch_layers: of the patch encoder (frames only).
        visual_power: features enter as sign(x)·|x|^power; 1.0 leaves them.
        visual_dropout: on the features and on the hidden layer.
        text_dropout: on the word vectors and on the pooled text.
        temperature_start: first value of a learned temperature; None = the model has none.
        dtype: of features, word vectors and the inputs of the matrix products; the rest is float32 or wider.

    Raises:
        ValueError: at `init` or `apply`, for an unknown `visual` or `text`, an unknown key of `bert_sizes`, "bert" with
            `word_dropout` but no `mask_word`, or visuals that are not of `visual_dim`.
    """

    vocabulary: int
    visual_dim: int | None = None
    dim: int = 1024
    word_dim: int = 300
    visual: str = "residual"
    text: str = "gru"
    region_dropout: float = 0.2
    word_dropout: float = 0.2
    mask_word: int | None = None
    gru_dim: int | None = None
    bert_sizes: dict | None = None
    patch: int = 8
    patch_dim: int = 192
    patch_layers: int = 2
    visual_power: float = 1.0
    visual_dropout: float = 0.0
    text_dropout: float = 0.0
    temperature_start: float | None = None
    dtype: Any = jnp.float32

    def setup(self):
        for name, choices in (("visual", VISUALS), ("text", TEXTS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"model.{name} is {getattr(self, name)!r}; rvse has: {', '.join(choices)}")
        for name in ("region_dropout", "word_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)!r}; expected a share from 0 to below 1")
        if self.mask_word is not None and not 0 <= self.mask_word < self.vocabulary:
            raise ValueError(f"model.mask_word is {self.mask_word!r}; expected an id from 0 to {self.vocabulary - 1}")
        if self.text == "bert" and self.word_dropout and self.mask_word is None:
            raise ValueError(
                "model.text='bert' needs text.name='wordpiece' (its [MASK]), or model.mask_word, for its word_dropout"
            )
        if self.visual_dim is None:
            self.patches = PatchEncoder(self.patch, self.patch_dim, self.patch_layers, dtype=self.dtype)
        self.visual_projection = Dense(
            self.dim, dtype=self.dtype, start=nn.initializers.xavier_uniform(), bias_start=nn.initializers.zeros
        )
        if self.visual != "linear":
            self.mlp_hidden = Dense(self.dim // 2, dtype=self.dtype)
            self.mlp_norm = BatchNorm()
            self.mlp_out = Dense(self.dim, dtype=self.dtype)
        exact = jnp.promote_types(self.dtype, jnp.float32)  # the weights of a few dozen places cost nothing
        self.visual_pool, self.text_pool = GPO(dtype=exact), GPO(dtype=exact)
        if self.text == "gru":
            rows = self.vocabulary + (self.mask_word is None)
            self.words = nn.Embed(rows, self.word_dim, dtype=self.dtype, embedding_init=uniform(0.1))
            self.gru_forward = GRU(self.gru_dim or self.dim, dtype=self.dtype)
            self.gru_reverse = GRU(self.gru_dim or self.dim, reverse=True, dtype=self.dtype)
        else:
            sizes, known = self.bert_sizes or {}, [n for n in Bert.__dataclass_fields__ if n not in NOT_SIZES]
            if unknown := sorted(set(sizes) - set(known)):
                raise ValueError(f"model.bert_sizes has {', '.join(unknown)}; bert has: {', '.join(known)}")
            self.bert = Bert(self.vocabulary, **sizes, dtype=self.dtype)
        if self.text == "bert" or self.gru_dim:
            self.text_projection = Dense(self.dim, dtype=self.dtype)
        self.drop_visual = nn.Dropout(self.visual_dropout)
        self.drop_text = nn.Dropout(self.text_dropout)
        if self.temperature_start is not None:
            start = float(self.temperature_start)
            self.log_temperature = self.param("log_temperature", lambda _: jnp.log(jnp.float32(start)))

    def encode_visual(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`visual` float `[B, ..., visual_dim]`, `visual_mask [B, ...]`; or uint8 `[B, F, H, W, 3]`, `[B, F]`.

        In training also reads `valid [B]`: padding rows stay out of the batch's statistics.
        """
        patches = self.patches if self.visual_dim is None else None
        x, mask = elements(batch, self.visual_dim, patches, self.dtype, self.visual_power)  # [B, S, C]
        if train and self.region_dropout:
            mask = drop.drop_elements(self.make_rng("dropout"), mask, self.region_dropout)
        x = jnp.where(mask[..., None], x, 0)  # the statistics see the padding, as zero regions
        x = self.drop_visual(x, deterministic=not train)
        x = x.reshape(-1, x.shape[-1])  # [B·S, C]
        y = self.visual_projection(x)  # [B·S, D]
        if self.visual != "linear":
            counts = padded_to_longest(mask, batch["valid"]).reshape(-1) if train else None
            hidden = self.mlp_norm(self.mlp_hidden(y if self.visual == "residual" else x), counts, train=train)
            y = y + self.mlp_out(self.drop_visual(nn.relu(hidden), deterministic=not train))
        pooled = self.visual_pool(y.reshape(*mask.shape, self.dim), mask)  # [B, D]
        return Encoded(pooled=pooling.l2_normalise(pooled))

    def encode_text(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`text` int32 `[B, L]` with `text_mask [B, L]`."""
        tokens, mask = batch["text"], batch["text_mask"]
        if train and self.word_dropout:
            tokens, mask = self._drop_words(tokens, mask)
        if self.text == "gru":
            x = self.drop_text(self.words(tokens), deterministic=not train)  # [B, L, E]
            x = (self.gru_forward(x, mask)[0] + self.gru_reverse(x, mask)[0]) / 2  # [B, L, H]
        else:
            x = self.bert(tokens, mask, train=train)  # [B, L, H]
        if self.text == "bert" or self.gru_dim:
            x = self.text_projection(x)
        pooled = self.drop_text(self.text_pool(x, mask), deterministic=not train)  # [B, D]
        return Encoded(pooled=pooling.l2_normalise(pooled))

    def _drop_words(self, tokens, mask):
        """The training's caption; <start> and <end> are words like any other, [CLS] and [SEP] are left alone."""
        place, count = jnp.arange(tokens.shape[1]), jnp.sum(mask, axis=1, keepdims=True)
        marks = (place == 0) | (place == count - 1)
        rows = self.vocabulary + (self.mask_word is None)
        return drop.drop_words(
            self.make_rng("dropout"), tokens, mask, self.word_dropout,
            mask_word=rows - 1 if self.mask_word is None else self.mask_word,
            vocabulary=rows, protected=marks & (self.text == "bert"),
        )  # fmt: skip

    def similarity(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """Cosine of every pair, `{"sim": [V, T]}`, in at least float32."""
        return {"sim": pooling.cosine(visual.pooled, text.pooled)}

    def regularisers(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """None: the ranking terms are all that these models train on."""
        return {}

    def temperature(self) -> Array | None:
        """The learned temperature, kept positive as the exponential of its parameter; None if the model has none."""
        return None if self.temperature_start is None else jnp.exp(self.log_temperature)


def padded_to_longest(mask: Array, valid: Array) -> Array:
    """bool `[B, S]`: the elements that batch statistics count, as the official code pads.

    Every row of `mask [B, S]` has its real elements and as many others as it lacks to the longest row; rows that are
    not `valid [B]` have none.
    """
    count = jnp.sum(mask, axis=1, keepdims=True)
    lacking = jnp.max(jnp.where(valid[:, None], count, 0)) - count
    return valid[:, None] & (mask | (jnp.cumsum(~mask, axis=1) <= lacking))
