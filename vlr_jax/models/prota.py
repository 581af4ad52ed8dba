"""ProTA: text-video retrieval by probabilistic token aggregation (ICME 2024, arXiv 2404.12216).

Tokens of the text and frames of the video, compared in a low-dimensional space (cosines), a high-dimensional one
(Gaussian kernels), and as Gaussians by their 2-Wasserstein distance; in each every token picks its partial partners by
a softmax. No code is public. What is the paper's: these three, the softmax over the similarities times λ, a KL term, a
contrastive loss with an adaptive margin (`losses/adaptive_contrastive.py`). All else is INFERRED, and marked so below.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import pooling
from vlr_jax.layers.interaction import Space, TokenWeights, equal_weights, interact
from vlr_jax.layers.product import Dense
from vlr_jax.layers.towers import Towers
from vlr_jax.types import Encoded

WEIGHTS = ("softmax", "uniform")
DISTRIBUTIONS = ("wasserstein", "affine")
LOG_VARIANCE = -10.0, 5.0  # INFERRED bounds


class Model(nn.Module):
    """The model; sizes default to CLIP ViT-B/32.

    Attributes:
        vocabulary: number of token ids.
        visual_dim: width of precomputed features of frames (or of their regions, whose mean is taken), which a linear
            map takes to D; None = uint8 frames, through CLIP.
        temporal_layers: blocks of the transformer over the frames, added to them as in CLIP4Clip (number and addition
            INFERRED); 0 = none.
        low, high, probabilistic: which of the three similarities there are; the score is their mean (INFERRED).
        sharpness: λ (INFERRED value); 0 = mean, None = maximum.
        weights: of a set's tokens: "softmax" of a small network, as DRL (INFERRED), or "uniform".
        kernels: K, and
        kernel_scale: σ₀²: variances of the kernels σ₀² 2^(k − ⌊K / 2⌋) (INFERRED). A number, since what is measured on
            a block would make a pair's score depend on which others are in it.
        project_high: the tokens enter the kernels through a linear map of their own, at first the identity (INFERRED;
            without, this similarity is a function of the cosines alone).
        distribution: similarity of two Gaussians: "wasserstein", 1 − W² / 2; "affine", b − a W² with learned a, b,
            at first 1 / 2 and 1 (both INFERRED).
        prior_variance: of the KL term's prior; None = 1 / D, at which a token's own length is 1 (INFERRED).
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
        ValueError: at `init` or `apply`, for an unknown choice, no similarity at all, or visuals that are not what
            `visual_dim` says.
    """

    vocabulary: int
    visual_dim: int | None = None
    temporal_layers: int = 4
    low: bool = True
    high: bool = True
    probabilistic: bool = True
    sharpness: float | None = 100.0
    weights: str = "softmax"
    kernels: int = 5
    kernel_scale: float = 1.0
    project_high: bool = True
    distribution: str = "wasserstein"
    prior_variance: float | None = None
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
        for name, choices in (("weights", WEIGHTS), ("distribution", DISTRIBUTIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"model.{name} is {getattr(self, name)!r}; prota has: {', '.join(choices)}")
        if not (self.low or self.high or self.probabilistic):
            raise ValueError("model.low, high and probabilistic are all False; prota needs at least one of them")
        for name, least in (("kernels", 1), ("sharpness", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"model.{name} is {value!r}; expected at least {least}")
        self.towers = Towers(
            self.vocabulary, self.visual_dim, self.text, self.dim, self.clip_sizes, self.word_dim, self.temporal_layers,
            self.temperature_start, self.visual_dropout, self.text_dropout, self.remat, self.attention, self.dtype,
        )  # fmt: skip
        nn.share_scope(self, self.towers)  # so that CLIP is `clip`, not `towers/clip`
        if self.weights == "softmax":
            self.visual_weights, self.text_weights = TokenWeights(dtype=self.dtype), TokenWeights(dtype=self.dtype)
        if self.high and self.project_high:
            self.visual_high, self.text_high = Identity(dtype=self.dtype), Identity(dtype=self.dtype)
        if self.probabilistic:
            heads = [Spread(self.prior_variance, dtype=self.dtype) for _ in range(2)]
            self.visual_spread, self.text_spread = heads
        if self.probabilistic and self.distribution == "affine":
            self.log_slope = self.param("log_slope", nn.initializers.constant(jnp.log(0.5)), ())
            self.offset = self.param("offset", nn.initializers.ones, ())

    def encode_visual(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`visual` uint8 `[B, F, H, W, 3]` or float `[B, F(, R), visual_dim]`; tokens are the frames', `[B, F, D]`."""
        tokens, mask = self.towers.frames(batch, train=train)
        pooled = pooling.l2_normalise(pooling.masked_mean(pooling.l2_normalise(tokens), mask))
        return Encoded(pooled=pooled, tokens=tokens, mask=mask, extra=self._extra("visual", tokens, mask))

    def encode_text(self, batch: dict[str, Array], *, train: bool = False) -> Encoded:
        """`text` int32 `[B, L]` with `text_mask [B, L]`."""
        sentence, tokens, mask = self.towers.texts(batch, train=train)
        pooled = pooling.l2_normalise(sentence)
        return Encoded(pooled=pooled, tokens=tokens, mask=mask, extra=self._extra("text", tokens, mask))

    def _extra(self, side: str, tokens: Array, mask: Array) -> dict[str, Array]:
        """What the similarity needs beside the tokens: weights `[B, S]`, tokens' `high [B, S, D]` and `log_var`."""
        found = {}
        if self.weights == "softmax":
            found["weights"] = getattr(self, f"{side}_weights")(tokens, mask)
        if self.high and self.project_high:
            found["high"] = getattr(self, f"{side}_high")(tokens)
        if self.probabilistic:
            found["log_var"] = getattr(self, f"{side}_spread")(tokens)
        return found

    def similarity(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """`low`, `high` and `probabilistic`, as far as there are, and `sim`, their mean: `[V, T]`, at least float32."""
        sides = visual, text
        unit = [pooling.l2_normalise(side.tokens) for side in sides]
        products, spaces = [], {}
        if self.low or (self.probabilistic and self.distribution == "wasserstein"):
            products.append(unit)
        if self.low:
            spaces["low"] = Space((0,))
        if self.high:
            spaces["high"] = Space((len(products),), self.kernels, self.kernel_scale)
            products.append([pooling.l2_normalise(side.extra.get("high", side.tokens)) for side in sides])
        if self.probabilistic:
            log_var = [side.extra["log_var"] for side in sides]
            first = () if self.distribution == "affine" else (0,)
            spaces["probabilistic"] = Space((*first, len(products)))
            products.append(self._affine(unit, log_var) if self.distribution == "affine" else spread_product(log_var))
        tokens = [tuple(product[k].astype(self.dtype) for product in products) for k in range(2)]
        weights = [side.extra.get("weights", equal_weights(side.mask)) for side in sides]
        scores = interact(
            *tokens, visual_weights=weights[0], text_weights=weights[1], visual_mask=visual.mask, text_mask=text.mask,
            sharpness=self.sharpness, spaces=tuple(spaces.values()),
        )  # fmt: skip
        return {"sim": sum(scores) / len(scores)} | dict(zip(spaces, scores, strict=True))

    def _affine(self, unit: list[Array], log_var: list[Array]) -> list[Array]:
        """Of a visual's and a text's tokens, vectors whose dot product is b − a W² = b − 2 a + 2 a (1 − W² / 2)."""
        visual, text = (jnp.concatenate(parts, -1) for parts in zip(unit, spread_product(log_var), strict=True))
        slope = 2 * jnp.exp(self.log_slope)
        one = jnp.ones((), visual.dtype)
        visual = jnp.concatenate([visual, jnp.broadcast_to(one, (*visual.shape[:2], 1))], -1)
        text = jnp.concatenate([slope * text, jnp.broadcast_to(self.offset - slope, (*text.shape[:2], 1))], -1)
        return [visual, text]

    def regularisers(self, visual: Encoded, text: Encoded) -> dict[str, Array]:
        """`kl`: mean over both sides of the mean over the real tokens of KL(N(μ, σ²) ‖ N(0, prior variance))."""
        if not self.probabilistic:
            return {}
        return {"kl": sum(divergence(side, self.prior_variance) for side in (visual, text)) / 2}

    def temperature(self) -> Array:
        """The learned temperature, CLIP's where there is one."""
        return self.towers.temperature()


def spread_product(log_var: list[Array]) -> list[Array]:
    """Log variances `[N, S, D]` of either side → vectors whose dot product is −½ ‖σ_i − σ_j‖², `[N, S, D + 2]` each.

    Added to the cosine of unit means it is 1 − ½ W², W the 2-Wasserstein distance of Gaussians of diagonal covariance.
    """
    found = []
    for k, values in enumerate(log_var):
        deviation = jnp.exp(values / 2)
        half = -0.5 * jnp.sum(deviation**2, axis=-1, keepdims=True)
        pair = (jnp.ones_like(half), half) if k else (half, jnp.ones_like(half))
        found.append(jnp.concatenate([deviation, *pair], axis=-1))
    return found


def divergence(side: Encoded, prior_variance: float | None) -> Array:
    """Mean over the real tokens of Σ_d ½ (σ² / p + μ² / p − 1 − log(σ² / p)), p the prior's variance, None = 1 / D."""
    mean, log_var = pooling.l2_normalise(side.tokens), side.extra["log_var"].astype(jnp.float32)
    prior = 1 / mean.shape[-1] if prior_variance is None else prior_variance
    each = 0.5 * jnp.sum((jnp.exp(log_var) + mean**2) / prior - 1 - log_var + jnp.log(prior), axis=-1)  # [N, S]
    return jnp.sum(jnp.where(side.mask, each, 0)) / jnp.maximum(jnp.sum(side.mask), 1)


class Spread(nn.Module):
    """A token's log variance, `[N, S, D]` → same: two linear maps and a GELU between them (INFERRED), bounded.

    Starts at e⁻² times `prior_variance` (None = 1 / D), so that tokens begin as near points.
    """

    prior_variance: float | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        width, start = tokens.shape[-1], nn.initializers.normal(0.02)
        begin = nn.initializers.constant(jnp.log(self.prior_variance or 1 / width) - 2)
        x = Dense(width, dtype=self.dtype, start=start, bias_start=nn.initializers.zeros, name="hidden")(tokens)
        x = Dense(width, dtype=self.dtype, start=start, bias_start=begin, name="out")(nn.gelu(x, approximate=False))
        return jnp.clip(x, *LOG_VARIANCE)


class Identity(nn.Module):
    """A linear map `[N, S, D]` → same without bias that starts as the identity."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        start = lambda _, shape, dtype=jnp.float32: jnp.eye(*shape, dtype=dtype)
        return Dense(tokens.shape[-1], dtype=self.dtype, start=start, use_bias=False, name="map")(tokens)
