"""Losses of clips' saliency: QD-DETR's three (Moon et al., CVPR 2023), the first of which is Moment-DETR's.

Scores come at any scale, everything is float32 or wider, and what is masked takes part in nothing. Each loss is one
number, and 0 where there is nothing that it could be of.
"""

import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax import ranking

MARGIN, TEMPERATURE = 0.2, 0.5
LEVELS, DIVISOR = 11, 12  # labels go to 12, as three annotators give up to 4; the official sum is over 11 of 12 levels


def margin(scores: Array, pairs: Array, where: Array) -> Array:
    """2 · mean of max(0, 0.2 + score of the worse clip - score of the better one), over all pairs.

    Args:
        scores: `[B, F]`.
        pairs: int `[B, P, 2]`, (better, worse) clip; negative = no pair.
        where: bool `[B]`, the rows that count.
    """
    scores = ranking.as_float(scores)
    real = jnp.all(pairs >= 0, axis=-1) & where[:, None]
    flat = jnp.where(real[..., None], pairs, 0).reshape(len(pairs), -1)
    found = jnp.take_along_axis(scores, flat, axis=1).reshape(pairs.shape)
    short = jax.nn.relu(MARGIN + found[..., 1] - found[..., 0])
    return 2 * ranking.masked_mean(short.reshape(-1), real.reshape(-1), 0)


def rank(scores: Array, negative: Array, labels: Array, mask: Array, negative_mask: Array, where: Array) -> Array:
    """Rank-contrastive: for r = 1 … 11, clips of label ≥ r against all others, their own and those of a wrong text.

    Of each level the cross entropy of softmax(scores / 0.5) with the uniform distribution over such clips, 0 where a
    row has none; the mean over rows of the levels' sum, over 12. All levels share one softmax, so a clip's weight is
    the sum over its levels of 1 / their number of clips.

    Args:
        scores, negative: `[B, F]`, of the clips beside the true text and beside a wrong one.
        labels: `[B, F]`, how well a clip shows what the text says.
        mask, negative_mask: bool `[B, F]`, the clips that count in either.
        where: bool `[B]`, the rows that count.
    """
    both = jnp.concatenate([ranking.as_float(scores), ranking.as_float(negative)], axis=1)
    counts = jnp.concatenate([mask, negative_mask], axis=1)
    log_share = jax.nn.log_softmax(jnp.where(counts, both / TEMPERATURE, ranking.NEG), axis=1)[:, : scores.shape[1]]
    reached = (labels[..., None] >= jnp.arange(1, LEVELS + 1)) & mask[..., None]  # [B, F, 11]
    members = jnp.sum(reached, axis=1, keepdims=True, dtype=jnp.float32)
    weight = jnp.sum(reached / jnp.maximum(members, 1), axis=-1)
    of_row = -jnp.sum(jnp.where(mask, weight * log_share, 0.0), axis=1) / DIVISOR
    return ranking.masked_mean(of_row, where, 0)


def wrong(negative: Array, mask: Array, where: Array) -> Array:
    """Mean over rows of Σ softplus(score) over their clips, beside a wrong text.

    That is -log(1 - sigmoid), which overflows as written in the official code.

    Args:
        negative: `[B, F]`. mask: bool `[B, F]`. where: bool `[B]`, rows whose text is indeed a wrong one.
    """
    of_row = jnp.sum(jnp.where(mask, jax.nn.softplus(ranking.as_float(negative)), 0.0), axis=1)
    return ranking.masked_mean(of_row, where, 0)
