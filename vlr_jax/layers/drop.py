"""Dropping whole elements in training: regions of a picture, words of a caption, as VSE∞ and RVSE++ train.

Both take one uniform number an element. The element with the largest one is never dropped, so nothing becomes empty;
where any element stays, that is one of those that stay anyway.
"""

import jax
import jax.numpy as jnp
from jax import Array

MASKED, REPLACED = 0.5, 0.1  # of the words selected; the rest is deleted


def drop_elements(rng: Array, mask: Array, rate: float) -> Array:
    """The mask of the elements that stay: each real one is dropped with probability `rate`, never all of a row.

    Args:
        rng: key. mask: bool `[B, S]`, the real elements. rate: in [0, 1).
    """
    draw = jnp.where(mask, jax.random.uniform(rng, mask.shape), -1.0)
    return mask & ((draw >= rate) | (draw == jnp.max(draw, axis=1, keepdims=True)))


def drop_words(
    rng: Array, tokens: Array, mask: Array, rate: float, *, mask_word: int, vocabulary: int, protected: Array
) -> tuple[Array, Array]:
    """Captions with words masked, replaced and deleted; what stays moves up, in its order.

    With probability `rate` a word is selected: half of those become `mask_word`, a tenth any word of the vocabulary,
    the rest (40 %) are deleted.

    Args:
        rng: key.
        tokens, mask: int32, bool `[B, L]`, real tokens first.
        rate: in [0, 1).
        mask_word: id of the word that stands for a masked one.
        vocabulary: random words are ids below this.
        protected: bool `[B, L]`, tokens left as they are.

    Returns:
        tokens, mask as given; at least one token of every row that had one.
    """
    draws, words = jax.random.split(rng)
    draw = jnp.where(mask & ~protected, jax.random.uniform(draws, mask.shape), 1.0)
    draw = jnp.where(mask, draw, -1.0)
    edges = jnp.cumsum(jnp.array([1 - MASKED - REPLACED, MASKED, REPLACED])) * rate
    deleted = mask & (draw < edges[0]) & (draw < jnp.max(draw, axis=1, keepdims=True))
    masked = (draw >= edges[0]) & (draw < edges[1])
    replaced = (draw >= edges[1]) & (draw < edges[2])
    tokens = jnp.where(masked, mask_word, tokens)
    tokens = jnp.where(replaced, jax.random.randint(words, tokens.shape, 0, vocabulary, tokens.dtype), tokens)
    # Sorting the places, those of what is deleted behind all others.
    length = tokens.shape[1]
    place = jnp.arange(length) + length * (deleted | ~mask)
    tokens = jnp.take_along_axis(tokens, jnp.sort(place, axis=1) % length, axis=1)
    return tokens, jnp.arange(length) < jnp.sum(mask & ~deleted, axis=1, keepdims=True)
