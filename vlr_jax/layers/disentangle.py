"""Query-guided semantic disentanglement (QSD) of CDNet: how far each clip is what the sentence speaks of.

CDNet (arXiv 2408.07600) estimates alignment levels from a global and a fine-grained correlation of video and text, and
trains them with contrastive losses of both levels. No code is public, and of the paper no equation was at hand: every
formula of this file is INFERRED. The sentence vector is UniVTG's weighted pooling (Lin et al., ICCV 2023; official
code), the rest is in the line of UniVTG and TR-DETR (Sun et al., AAAI 2024).

Of a clip v_i and words t_j of a text with sentence vector s, masked softmaxes throughout:

    s   = Σ_j softmax_j(w · t_j) t_j
    g_i = cos(P_v v_i, P_s s)                                     global correlation
    c_ij = cos(P'_v v_i, P'_t t_j),  f_i = Σ_j softmax_j(c_ij / 0.1) c_ij    fine-grained, a soft maximum over words
    a_i = σ(κ (λ g_i + (1 - λ) f_i) + b)                          alignment level
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax.layers import pooling
from vlr_jax.layers.product import Dense

NEG = -1e30  # added to logits of what is behind a mask


@flax.struct.dataclass
class Levels:
    """What `Disentangle` finds; all in at least float32, and 0 behind the clips' mask.

    Attributes:
        alignment: a, `[B, F]` in [0, 1].
        logits: what the sigmoid of a is of, `[B, F]`.
        fine: f, `[B, F]`.
        clips: P_v v, `[B, F, D]`, not normalised, so that the mean of some is the projection of their mean.
        sentence: P_s s, `[B, D]`, of unit length.
    """

    alignment: Array
    logits: Array
    fine: Array
    clips: Array
    sentence: Array


class WeightedPool(nn.Module):
    """The mean of tokens, weighted by a softmax of their products with one vector (UniVTG, official code)."""

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> Array:
        """`[B, L, D]`, bool `[B, L]` → `[B, D]`, in at least float32; without a real token, the mean of all."""
        tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
        start = nn.initializers.xavier_uniform()
        logits = Dense(1, start=start, use_bias=False, dtype=tokens.dtype, name="weight")(tokens)[..., 0]
        weights = jax.nn.softmax(logits + jnp.where(mask, 0.0, NEG), axis=-1)
        return jnp.sum(weights[..., None] * tokens, axis=1)


class Disentangle(nn.Module):
    """Alignment levels of clips with a sentence, and the vectors that global contrast and corpus search compare.

    Attributes:
        dim: D, width of clips, words and sentence.
        alignment_weight: λ, share of the global correlation; None = learned, from 0.5.
        scale: first value of κ; b starts at 0. Both are learned.
        word_temperature: of the soft maximum over words.
        project: compare linear maps of clips, words and sentence, one each for either level; else these as they are.
        dtype: of the inputs of the maps; cosines and levels are in at least float32.

    Raises:
        ValueError: at `init` or `apply`: `alignment_weight` outside [0, 1], or `word_temperature` not above 0.
    """

    dim: int
    alignment_weight: float | None = 0.5
    scale: float = 10.0
    word_temperature: float = 0.1
    project: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        if self.alignment_weight is not None and not 0 <= self.alignment_weight <= 1:
            raise ValueError(f"alignment_weight is {self.alignment_weight}; expected 0 to 1, or None for a learned one")
        if not self.word_temperature > 0:
            raise ValueError(f"word_temperature is {self.word_temperature}; expected a number above 0")
        if self.project:
            self.clip_map, self.sentence_map, self.clip_word_map, self.word_map = (
                Dense(self.dim, dtype=self.dtype) for _ in range(4)
            )
        self.kappa = self.param("scale", nn.initializers.constant(self.scale), ())
        self.bias = self.param("bias", nn.initializers.zeros, ())
        if self.alignment_weight is None:
            self.balance = self.param("balance", nn.initializers.zeros, ())

    def __call__(self, clips: Array, clip_mask: Array, words: Array, word_mask: Array, sentence: Array) -> Levels:
        """Clips `[B, F, D]` with bool `[B, F]`, words `[B, L, D]` with bool `[B, L]`, s `[B, D]`."""
        projected, sentence = self.clips(clips), self.sentence(sentence)
        level = jnp.einsum("bfd,bd->bf", pooling.l2_normalise(projected), sentence)
        pair = (self.clip_word_map(clips), self.word_map(words)) if self.project else (clips, words)
        fine = soft_maximum(_cosines(*pair), word_mask, self.word_temperature)
        share = jax.nn.sigmoid(self.balance) if self.alignment_weight is None else self.alignment_weight
        logits = self.kappa * (share * level + (1 - share) * fine) + self.bias
        alignment, logits, fine = (jnp.where(clip_mask, x, 0) for x in (jax.nn.sigmoid(logits), logits, fine))
        return Levels(alignment, logits, fine, projected, sentence)

    def clips(self, clips: Array) -> Array:
        """P_v v: `[B, F, D]` → `[B, F, D]`, not normalised; the projection of a mean is the mean of these."""
        return self.clip_map(clips) if self.project else _wide(clips)

    def sentence(self, sentence: Array) -> Array:
        """P_s s, made of unit length: `[B, D]` → `[B, D]`."""
        return pooling.l2_normalise(self.sentence_map(sentence) if self.project else sentence)


def soft_maximum(cosines: Array, word_mask: Array, temperature: float) -> Array:
    """f_i = Σ_j softmax_j(c_ij / τ) c_ij over the real words: `[B, F, L]`, bool `[B, L]` → `[B, F]`."""
    logits = cosines / temperature + jnp.where(word_mask, 0.0, NEG)[:, None]
    return jnp.sum(jax.nn.softmax(logits, axis=-1) * cosines, axis=-1)


def relevant_clips(batch: dict[str, Array]) -> Array:
    """The clips that the text speaks of, bool `[B, F]`; labels, so for training only.

    Those of positive `saliency`; where a row has none (or the batch has no `saliency`), those in a window of `spans`,
    from clip ⌊start⌋ to ⌊end⌋ - 1 and at least one, as CG-DETR labels data of windows.

    Raises:
        ValueError: the batch has neither.
    """
    mask = batch["visual_mask"]
    found = None
    if "spans" in batch:
        length = jnp.sum(mask, axis=1, dtype=jnp.float32)[:, None]
        # 0.3 of ten clips is clip 3, whatever float32 makes of it.
        start, end = (jnp.floor(batch["spans"][..., k] * length + 1e-4) for k in (0, 1))  # [B, G]
        last = jnp.maximum(jnp.minimum(end, length) - 1, 0)
        place = jnp.arange(mask.shape[1])
        inside = (jnp.minimum(start, last)[..., None] <= place) & (place <= last[..., None])  # [B, G, F]
        found = jnp.any(inside & batch["spans_mask"][..., None], axis=1) & mask
    if "saliency" in batch:
        salient = (batch["saliency"] > 0) & mask
        found = salient if found is None else jnp.where(jnp.any(salient, axis=1, keepdims=True), salient, found)
    if found is None:
        raise ValueError(f"CDNet's contrast needs 'saliency' or 'spans' in training; the batch has: {sorted(batch)}")
    return found


def fine_contrast(levels: Array, positive: Array, mask: Array, temperature: float = 0.07) -> Array:
    """Relevant clips against the others of the same video, by f; `[B, F]`, bool `[B, F]` twice → `[B]`.

    l = mean_i -log(e^{f_i / τ} / (e^{f_i / τ} + Σ_j e^{f_j / τ})), i over the relevant clips, j over the others;
    0, with zero gradient, where either are lacking.
    """
    scaled, positive = levels / temperature, positive & mask
    negative = mask & ~positive
    both = jnp.any(positive, axis=1) & jnp.any(negative, axis=1)
    rest = jax.nn.logsumexp(jnp.where(negative, scaled, NEG), axis=1, keepdims=True)
    each = jax.nn.softplus(rest - scaled)
    return jnp.where(both, _mean(each, positive), 0.0)


def global_scores(levels: Levels, positive: Array) -> Array:
    """cos(P_v z_b, P_s s_k), z_b the mean of row b's relevant clips: bool `[B, F]` → `[B, B]` float32, not scaled."""
    moment = pooling.l2_normalise(pooling.masked_mean(levels.clips, positive))
    return pooling.cosine(moment, levels.sentence)


def best_clip(visual: Array, mask: Array, sentence: Array) -> Array:
    """The largest cosine of any real clip with a sentence, one clip of all videos at a time.

    Args:
        visual: `[V, F, D]` of unit length.
        mask: bool `[V, F]`.
        sentence: `[T, D]` of unit length.

    Returns:
        `[V, T]` in at least float32; -1 for a video without a real clip. Memory: some `[V, T]`.
    """

    def one_more(best, clip):
        x, real = clip
        return jnp.maximum(best, jnp.where(real[:, None], pooling.cosine(x, sentence), -1.0)), None

    lowest = jnp.full((len(visual), len(sentence)), -1.0, jnp.promote_types(visual.dtype, jnp.float32))
    return jax.lax.scan(one_more, lowest, (jnp.swapaxes(visual, 0, 1), mask.T))[0]


def alignment_entropy(logits: Array, positive: Array, mask: Array) -> Array:
    """Mean over the real clips of the binary cross-entropy of a and y, from a's logits; `[B, F]` thrice → `[B]`."""
    return _mean(jax.nn.softplus(logits) - jnp.where(positive, logits, 0.0), mask)


def _mean(values: Array, where: Array) -> Array:
    return jnp.sum(jnp.where(where, values, 0.0), axis=1) / jnp.maximum(jnp.sum(where, axis=1), 1)


def _cosines(clips: Array, words: Array) -> Array:
    """`[B, F, D]`, `[B, L, D]` → `[B, F, L]`."""
    return jnp.matmul(pooling.l2_normalise(clips), pooling.l2_normalise(words).swapaxes(1, 2))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
