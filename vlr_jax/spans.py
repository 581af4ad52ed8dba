"""Temporal spans: (centre, width) ↔ (start, end), IoU and generalised IoU of intervals.

jnp, float32 or wider, differentiable and free of NaN for any input, so that matcher, losses and evaluation in a step
share it. All spans but those of `cxw_to_xx` are (start, end) in any one unit. Ends before starts count as the signed
lengths that they are; (centre, width) with width ≥ 0 never gives any. Equal to `span_utils.py` of Moment-DETR (Lei et
al. 2021, 2107.09609) wherever that is finite. The hull IoU of the evaluation scripts, in NumPy, is in `suppression`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Spans = Float[Array | np.ndarray, "... 2"]


def cxw_to_xx(spans: Spans) -> Float[Array, "... 2"]:
    """(centre, width) → (start, end)."""
    centre, width = _parts(spans)
    return jnp.stack([centre - 0.5 * width, centre + 0.5 * width], axis=-1)


def xx_to_cxw(spans: Spans) -> Float[Array, "... 2"]:
    """(start, end) → (centre, width)."""
    start, end = _parts(spans)
    return jnp.stack([0.5 * (start + end), end - start], axis=-1)


def paired_overlap(a: Spans, b: Spans) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Lengths of intersection and union of span i of `a` with span i of `b`; the leading axes broadcast."""
    (a_start, a_end), (b_start, b_end) = _parts(a), _parts(b)
    intersection = _positive(jnp.minimum(a_end, b_end) - jnp.maximum(a_start, b_start))
    return intersection, (a_end - a_start) + (b_end - b_start) - intersection


def paired_iou(a: Spans, b: Spans) -> Float[Array, "..."]:
    """|a ∩ b| / |a ∪ b| of pairs, in [0, 1]; 0 where the union has no length."""
    return _ratio(*paired_overlap(a, b))


def paired_generalised_iou(a: Spans, b: Spans) -> Float[Array, "..."]:
    """IoU − (|hull| − |union|) / |hull| of pairs, in (−1, 1] (Rezatofighi et al. 2019, 1902.09630).

    The second part is 0 where the hull has no length, that is for two equal points: 0 / 0 in the official code.
    """
    (a_start, a_end), (b_start, b_end) = _parts(a), _parts(b)
    intersection, union = paired_overlap(a, b)
    hull = _positive(jnp.maximum(a_end, b_end) - jnp.minimum(a_start, b_start))
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def overlap(
    a: Float[Array | np.ndarray, "... n 2"], b: Float[Array | np.ndarray, "... m 2"]
) -> tuple[Float[Array, "... n m"], Float[Array, "... n m"]]:
    """`paired_overlap` of every span of `a` with every span of `b`."""
    return paired_overlap(*_crossed(a, b))


def iou(a: Float[Array | np.ndarray, "... n 2"], b: Float[Array | np.ndarray, "... m 2"]) -> Float[Array, "... n m"]:
    """`paired_iou` of every span of `a` with every span of `b`."""
    return paired_iou(*_crossed(a, b))


def generalised_iou(
    a: Float[Array | np.ndarray, "... n 2"], b: Float[Array | np.ndarray, "... m 2"]
) -> Float[Array, "... n m"]:
    """`paired_generalised_iou` of every span of `a` with every span of `b`."""
    return paired_generalised_iou(*_crossed(a, b))


def _parts(spans):
    """The two columns, in float32 or wider."""
    spans = jnp.asarray(spans)
    spans = spans.astype(jnp.promote_types(spans.dtype, jnp.float32))
    return spans[..., 0], spans[..., 1]


def _crossed(a, b):
    return jnp.asarray(a)[..., :, None, :], jnp.asarray(b)[..., None, :, :]


def _positive(x):
    """max(x, 0) with gradient 1 at 0, as torch's clamp: spans that only touch may still move towards each other."""
    return jnp.where(x >= 0, x, 0)


def _ratio(part, whole):
    """part / whole, and 0 with zero gradient where the whole has no length."""
    real = whole > 0
    return jnp.where(real, part / jnp.where(real, whole, 1), 0)
