"""Dropping in training: single numbers; whole elements, regions of a picture or words of a caption, as VSE∞ and RVSE++.

Elements take one uniform number each. The element with the largest one is never dropped, so nothing becomes empty;
where any element stays, that is one of those that stay anyway.
"""

import flax.linen as nn
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


class Dropout(nn.Module):
    """`nn.Dropout` whose random numbers are hashes of the elements' places and of two words of the key.

    On a CPU `jax.random` takes 9 ns for a number, in all two fifths of a small model's gradients; this takes less than
    1, inside the loop around it, and does not depend on how an array is split over devices.

    Attributes:
        rate: share of elements that become 0, in [0, 1); the others are divided by 1 - rate.
        deterministic: leave all as it is; here or in the call.

    Raises:
        ValueError: at `init` or `apply`, for another rate.
    """

    rate: float
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool | None = None) -> Array:
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout: the rate is {self.rate}; expected a number from 0 to below 1")
        if nn.merge_param("deterministic", self.deterministic, deterministic) or self.rate == 0:
            return x
        words = jax.random.bits(self.make_rng("dropout"), (2,))
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        # One round would give every key the same numbers in another order.
        number = _scrambled(_scrambled(place ^ words[0]) + words[1])
        return jnp.where(number >= jnp.uint32(int(self.rate * 2**32)), x / (1 - self.rate), 0)


def _scrambled(x: Array) -> Array:
    """uint32 → uint32, one to one, every bit depending on all: `lowbias32` (github.com/skeeto/hash-prospector)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
