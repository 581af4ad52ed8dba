"""A set of vectors → one vector: masked maximum and mean; L2 normalisation and the cosine of every pair."""

import jax
import jax.numpy as jnp
from jax import Array


def masked_max(x: Array, mask: Array) -> Array:
    """Maximum of each channel over the real elements: `x [B, S, D]`, `mask [B, S]` → `[B, D]`; 0 for an empty set."""
    low = jnp.finfo(x.dtype).min
    best = jnp.max(jnp.where(mask[..., None], x, low), axis=1)
    return jnp.where(jnp.any(mask, axis=1)[:, None], best, 0)


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean over the real elements: `x [B, S, D]`, `mask [B, S]` → `[B, D]`; 0 for an empty set."""
    count = jnp.sum(mask, axis=1, dtype=x.dtype)[:, None]
    return jnp.sum(jnp.where(mask[..., None], x, 0), axis=1) / jnp.maximum(count, 1)


def l2_normalise(x: Array) -> Array:
    """x / (‖x‖ + 1e-8) along the last axis, in at least float32; 0, with a finite gradient, for a zero vector."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    # The root's slope at 0 is infinite: look away from it before taking the root.
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return x / (norm + 1e-8)


def cosine(visual: Array, text: Array) -> Array:
    """Dot product of every pair, `[V, D]`, `[T, D]` → `[V, T]`, in at least float32 whatever they are stored as."""
    dtype = jnp.promote_types(visual.dtype, jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("vd,td->vt", visual.astype(dtype), text.astype(dtype), precision=highest)
