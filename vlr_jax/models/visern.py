"""ViSERN: reasoning over the regions of every frame by random walks, and multi-level encoders of frames and of words.

Feng et al., "Exploiting Visual Semantic Reasoning for Video-Text Retrieval", IJCAI 2020. No code is public and the text
could be read only in part. From the paper: a fully connected undirected graph over the regions of a frame, a graph
convolution by a random walk on it, one vector a frame, encoders that use global, temporal and local information on both
sides. INFERRED: everything else; what could be otherwise is a field. The encoders are those of Dual Encoding (Dong et
al., CVPR 2019, official code). The score is a cosine.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import elements, pooling
from vlr_jax.layers.graph import ACTIVATIONS, TRANSITIONS, Reasoning
from vlr_jax.layers.multilevel import Common, Levels
from vlr_jax.layers.patches import PatchEncoder
from vlr_jax.layers.product import Dense, uniform
from vlr_jax.types import Encoded

CHOICES = {
    "reasoning": ("walk", "attention", "mean"),
    "transition": TRANSITIONS,
    "activation": tuple(ACTIVATIONS),
    "aggregation": ("mean", "stationary"),
    "axis": ("frames", "regions"),
}


class Model(nn.Module):
    """The model; its sizes are those of Dual Encoding.

    Attributes:
        vocabulary: number of words, the unknown word and padding among them; also the width of the bag of words.
        visual_dim: width of the precomputed features; None = uint8 frames, whose patches are the regions.
        dim: D, width of the common space.
        region_dim: width that a linear map takes the regions to, in which the graph then reasons; None = no map, their
            own. INFERRED (VSRN has such a map).
        region_norm: L2-normalise every region, after that map (VSRN on COCO). INFERRED.
        axis: what S is where visuals are `[B, S, C]` with a mask `[B, S]`: "frames" of one region each, or "regions"
            of one frame.
        reasoning: "walk" (ViSERN); "attention", the one step of softmax attention of VSRN's kind, whatever
            `transition`, `steps` and `restart` say; "mean", no graph.
        transition: how edges become probabilities, see `layers.graph.transition`: "undirected_exp", "softmax",
            "relu_selfloop", "perron". INFERRED.
        steps: k of the walk's P^k, from 1. INFERRED.
        restart: probability, below 1, with which a step goes anywhere instead. INFERRED.
        tie: one embedding φ = ϕ for both ends of an edge. INFERRED.
        activation: of a layer of reasoning, "relu" or "none". INFERRED.
        layers: of reasoning; each makes its own graph. INFERRED.
        aggregation: of a frame's regions: "mean", or "stationary", each weighted by how often the walk of the last
            layer is there. INFERRED.
        word_dim: width of a word vector.
        visual_gru, text_gru: width of a GRU's states in each direction; None = D / 2 and D / 4.
        visual_kernels, text_kernels: sizes of the filters over time.
        filters: of each size; None = D / 4.
        dropout: on the temporal level, the local level and the common space.
        patch, patch_dim, patch_layers: of the patch encoder (frames only).
        temperature_start: first value of a learned temperature; None = the model has none.
        dtype: of features, word vectors and the inputs of the matrix products; the rest is float32 or wider.

    Raises:
        ValueError: at `init` or `apply`, for a field that is none of its choices or out of its range, or visuals that
            are not of `visual_dim`.
    """

    vocabulary: int
    visual_dim: int | None = None
    dim: int = 2048
    region_dim: int | None = None
    region_norm: bool = False
    axis: str = "frames"
    reasoning: str = "walk"
    transition: str = "undirected_exp"
    steps: int = 2
    restart: float = 0.0
    tie: bool = False
    activation: str = "relu"
    layers: int = 2
    aggregation: str = "mean"
    word_dim: int = 500
    visual_gru: int | None = None
    text_gru: int | None = None
    visual_kernels: Sequence[int] = (2, 3, 4, 5)
    text_kernels: Sequence[int] = (2, 3, 4)
    filters: int | None = None
    dropout: float = 0.2
    patch: int = 8
    patch_dim: int = 192
    patch_layers: int = 2
    temperature_start: float | None = None
    dtype: Any = jnp.float32

    def setup(self):
        self._check()
        if self.visual_dim is None:
            self.patches = PatchEncoder(self.patch, self.patch_dim, self.patch_layers, dtype=self.dtype)
        if self.region_dim:
            self.region_map = Dense(
                self.region_dim, dtype=self.dtype, start=nn.initializers.xavier_uniform(),
                bias_start=nn.initializers.zeros,
            )  # fmt: skip
        graph = dict(kind=self.transition, steps=self.steps, restart=self.restart)
        if self.reasoning == "attention":
            graph = dict(kind="softmax", steps=1, restart=0.0)
        layers = 0 if self.reasoning == "mean" else self.layers
        shared = dict(tie=self.tie, activation=self.activation, dtype=self.dtype)
        self.reason = [Reasoning(**graph, **shared) for _ in range(layers)]
        rest = dict(filters=self.filters or max(self.dim // 4, 1), dropout=self.dropout, dtype=self.dtype)
        self.visual_levels = Levels(self.visual_gru or max(self.dim // 2, 1), tuple(self.visual_kernels), **rest)
        self.text_levels = Levels(self.text_gru or max(self.dim // 4, 1), tuple(self.text_kernels), **rest)
        self.visual_common = Common(self.dim, dropout=self.dropout, dtype=self.dtype)
        self.text_common = Common(self.dim, bag=self.vocabulary, dropout=self.dropout, dtype=self.dtype)
        self.words = nn.Embed(self.vocabulary, self.word_dim, dtype=self.dtype, embedding_init=uniform(0.1))
        if self.temperature_start is not None:
            start = float(self.temperature_start)
            self.log_temperature = self.param("log_temperature", lambda _: jnp.log(jnp.float32(start)))

    def _check(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"model.{name} is {getattr(self, name)!r}; visern has: {', '.join(choices)}")
        if self.steps < 1 or self.layers < 1:
            raise ValueError(f"model.steps={self.steps}, model.layers={self.layers}; expected 1 or more of each")
        if not 0 <= self.restart < 1:
            raise ValueError(f"model.restart is {self.restart!r}; expected a probability from 0 to below 1")
        if self.reasoning == "mean" and self.aggregation == "stationary":
            raise ValueError("model.aggregation='stationary' needs a walk; model.reasoning='mean' has none")
        for name in ("visual_kernels", "text_kernels"):
            sizes = tuple(getattr(self, name))
            if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
                raise ValueError(f"model.{name} is {sizes}; expected filter sizes from 1, each once")

    def encode_frames(self, batch: dict[str, Array]) -> tuple[Array, Array]:
        """Frames after reasoning and aggregation, `[B, F, C]`, and the mask of those with a region, `[B, F]`."""
        patches = self.patches if self.visual_dim is None else None
        x, mask = elements.regions(batch, self.visual_dim, patches, self.dtype, self.axis)  # [B, F, R, C]
        frames = mask.shape[:2]
        mask = mask.reshape(-1, mask.shape[2])  # [B·F, R]: every frame is a graph of its own
        x = x.reshape(*mask.shape, -1)  # [B·F, R, C]
        if self.region_dim:
            x = self.region_map(x)
        if self.region_norm:
            x = pooling.l2_normalise(x)
        # The features may hold anything where masked: also not a number.
        x = jnp.where(mask[..., None], x, 0).astype(jnp.promote_types(self.dtype, jnp.float32))
        for layer in self.reason:
            x, place = layer(x, mask)
        if self.aggregation == "stationary":
            x = jnp.sum(place[..., None] * x, axis=1)
        else:
            x = pooling.masked_mean(x, mask)
        return x.reshape(*frames, -1), jnp.any(mask, axis=1).reshape(frames)

    def encode_visual(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`visual` float `[B, F, R, visual_dim]`, `visual_mask [B, F, R]`; or the forms that `axis` tells of.

        In training also reads `valid [B]`: padding rows stay out of the batch's statistics.
        """
        x, mask = self.encode_frames(batch)
        levels = self.visual_levels(x, mask, train=train), pooling.masked_mean(x, mask)
        return self._common(self.visual_common, levels, batch, train)

    def encode_text(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`text` int32 `[B, L]` with `text_mask [B, L]`; in training also `valid [B]`."""
        ids, mask = batch["text"], batch["text_mask"]
        levels = (self.text_levels(self.words(ids), mask, train=train),)
        return self._common(self.text_common, levels, batch, train, words=(ids, mask))

    def _common(self, common, levels, batch, train, **words) -> Encoded:
        counts = batch["valid"] if train else None
        x = common(jnp.concatenate(levels, axis=1), counts, train=train, **words)
        return Encoded(pooled=pooling.l2_normalise(x))

    def similarity(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """Cosine of every pair, `{"sim": [V, T]}`, in at least float32."""
        return {"sim": pooling.cosine(visual.pooled, text.pooled)}

    def regularisers(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """None: the ranking terms are all that this model trains on."""
        return {}

    def temperature(self) -> Array | None:
        """The learned temperature, kept positive as the exponential of its parameter; None if the model has none."""
        return None if self.temperature_start is None else jnp.exp(self.log_temperature)
