"""IoU of windows in NumPy, and non-maximum suppression of a query's windows.

Windows are rows (start, end, score), float64, in seconds. Two different IoUs are in use in the field, equal wherever
two windows overlap: the true one, and that of the hull, which divides by max end − min start.
"""

import numpy as np
from jaxtyping import Float

Windows = Float[np.ndarray, "n 3"]


def iou(a: Float[np.ndarray, "... 2"], b: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "..."]:
    """|a ∩ b| / |a ∪ b| of pairs, broadcast; 0 where the union has no length (0 / 0 in the official codes)."""
    inter = _intersection(a, b)
    return _ratio(inter, (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - inter)


def hull_iou(a: Float[np.ndarray, "... 2"], b: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "..."]:
    """|a ∩ b| / (max end − min start) of pairs, broadcast; 0 where the hull has no length.

    `iou` to the last bits or so where the two overlap. Those bits decide at a threshold, so each protocol uses the one
    that its script does.
    """
    return _ratio(_intersection(a, b), np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0]))


def temporal_nms(windows: Windows, threshold: float, most: int = 10) -> Float[np.ndarray, "kept 3"]:
    """Greedy suppression as `temporal_nms` of Moment-DETR: by score (stable), what has hull IoU > threshold goes.

    Args:
        windows: a single one is returned as it is.
        threshold: in [0, 1].
        most: stop when so many are kept.
    """
    if len(windows) == 1:
        return windows
    return _greedy(windows[np.argsort(-windows[:, 2], kind="stable")], hull_iou, threshold, most)


def listed_nms(windows: Float[np.ndarray, "n c"], threshold: float, most: int | None = None) -> np.ndarray:
    """Greedy suppression as `nms` of 2D-TAN: in the order listed, what has true IoU > threshold goes.

    The rows are (start, end) and anything more. `most=None` keeps all that survive.
    """
    return _greedy(windows, iou, threshold, len(windows) if most is None else most)


def soft_nms(windows: Windows, decay: str, *, threshold: float = 0.5, sigma: float = 0.5) -> Windows:
    """Soft-NMS (Bodla et al. 2017, 1704.04503) as in UMT and R2-Tuning: all windows stay, overlapping scores fall.

    The best of those left is taken, time and again, and the rest decay by their IoU with it.

    Args:
        windows: any order; equal scores are taken in the order listed, NaN last.
        decay: `linear` multiplies by 1 − IoU, `gaussian` by exp(−IoU² / sigma), `normal` by 0 where IoU ≥ threshold.
        threshold: of `normal`.
        sigma: of `gaussian`.

    Returns:
        the windows in the order taken, with the decayed scores, which do not rise.

    Raises:
        ValueError: another decay.
    """
    factors = {
        "linear": lambda overlap: 1.0 - overlap,
        "gaussian": lambda overlap: np.exp(-(overlap**2) / sigma),
        "normal": lambda overlap: np.where(overlap >= threshold, 0.0, 1.0),
    }
    if decay not in factors:
        raise ValueError(f"no decay {decay!r} of soft-NMS; decays: {', '.join(factors)}")
    left, taken = np.array(windows, float), []
    while len(left):
        best = np.argsort(-left[:, 2], kind="stable")[0]
        taken.append(left[best])
        left = np.delete(left, best, axis=0)
        left[:, 2] *= factors[decay](iou(taken[-1][None, :2], left[:, :2]))
    return np.stack(taken) if taken else left


def _greedy(windows, overlap, threshold, most):
    """Keeps the first, drops what overlaps it by more than the threshold, and so on."""
    kept = []
    while len(windows) and len(kept) < most:
        first, rest = windows[0], windows[1:]
        kept.append(first)
        windows = rest[overlap(first[None, :2], rest[:, :2]) <= threshold]
    return np.stack(kept) if kept else windows[:0]


def _intersection(a, b):
    return np.maximum(np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0]), 0.0)


def _ratio(part, whole):
    real = whole > 0
    return np.where(real, part / np.where(real, whole, 1.0), 0.0)
