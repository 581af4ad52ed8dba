"""The visuals of a batch as a set of elements, regions, frames, or the patches of frames; or as regions of frames."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array


def elements(
    batch: dict[str, Array], dim: int | None, patches: Callable | None, dtype: Any, power: float = 1.0
) -> tuple[Array, Array]:
    """`visual` of a batch → `[B, S, C]` in `dtype`, and the mask of the real ones `[B, S]`.

    Args:
        batch: `visual` float `[B, ..., dim]` and `visual_mask [B, ...]`; or uint8 `[B, F, H, W, 3]` and `[B, F]`.
        dim: width of the features; None = uint8 frames.
        patches: frames → `[B, F, P, C]`; unused for features.
        dtype: of the result.
        power: features enter as sign(x)·|x|^power.

    Raises:
        ValueError: the visuals are not what `dim` says.
    """
    x, mask = _features(batch, dim, patches)
    x = x.reshape(x.shape[0], -1, x.shape[-1]).astype(dtype)  # [B, S, C]
    if power != 1.0:
        x = jnp.sign(x) * jnp.abs(x) ** power
    return x, mask.reshape(x.shape[:2])


def regions(
    batch: dict[str, Array], dim: int | None, patches: Callable | None, dtype: Any, axis: str = "frames"
) -> tuple[Array, Array]:
    """`visual` of a batch → the regions of its frames `[B, F, R, C]` in `dtype`, and their mask `[B, F, R]`.

    Args:
        batch: `visual` float `[B, F, R, dim]` and `visual_mask [B, F, R]`; float `[B, S, dim]` and `[B, S]`; or uint8
            `[B, F, H, W, 3]` and `[B, F]`, whose patches are the regions.
        dim, patches, dtype: as in `elements`.
        axis: what the S of `[B, S, dim]` are: "frames" of one region each, or "regions" of one frame.

    Raises:
        ValueError: the visuals are not what `dim` says, or their mask is not of their shape.
    """
    x, mask = _features(batch, dim, patches)
    if mask.shape != x.shape[:-1] or x.ndim not in (3, 4):
        raise ValueError(
            f"visual {x.shape} with visual_mask {mask.shape}; expected [B, F, R, {dim}] with [B, F, R], or "
            f"[B, S, {dim}] with [B, S]"
        )
    if x.ndim == 3:
        new = {"frames": 2, "regions": 1}[axis]
        x, mask = jnp.expand_dims(x, new), jnp.expand_dims(mask, new)
    return x.astype(dtype), mask


def _features(batch, dim, patches):
    """`visual` and its mask as they are; those of the patches of frames; refused where `dim` says otherwise."""
    x, mask = batch["visual"], batch["visual_mask"]
    if (dim is None) != (x.dtype == jnp.uint8) or dim not in (None, x.shape[-1]):
        wanted = "uint8 frames [B, F, H, W, 3]" if dim is None else f"features of {dim}"
        raise ValueError(f"model.visual_dim={dim} wants {wanted}; got {x.dtype} {x.shape}.")
    if dim is None:
        x = patches(x)  # [B, F, P, C]
        mask = jnp.broadcast_to(mask[..., None], x.shape[:-1])  # [B, F, P]
    return x, mask
