"""Highlight detection as QVHighlights measures it: HIT@1 and mAP of clip saliency for annotators' grades ≥ 2, 3, 4.

In NumPy, float64, all queries at once; equal to `eval_highlight` of Moment-DETR (Lei et al. 2021, 2107.09609). Clips
are padded: `scores` [Q, C], `grades` [Q, C, A] of A annotators, `n_clips` [Q] real ones.
"""

import numpy as np
from jaxtyping import Float, Int

LEVELS = {
    "Fair": 2.0,
    "Good": 3.0,
    "VeryGood": 4.0,
}  # the least grade of a positive clip, of 0 (Very Bad) to 4 (Very Good)


def average_precision(
    scores: Float[np.ndarray, "q c"],
    grades: Float[np.ndarray, "q c a"],
    n_clips: Int[np.ndarray, " q"],
    levels: tuple[float, ...],
) -> Float[np.ndarray, "level q a"]:
    """Interpolated AP of every query and annotator, the clips of grade ≥ level being positive, for each level.

    A cut-off stands behind every distinct score, so equal scores are one. Precision at a cut-off is the best at it or
    at any lower one; AP is its plain mean over the cut-offs that add a positive (not weighted by how many they add, as
    the official `get_ap` has it). 0 where nothing is positive: those queries count.
    """
    valid = np.arange(scores.shape[1]) < n_clips[:, None]
    order = np.argsort(np.where(valid, -scores, np.inf), axis=1)  # clips that are not there come last
    ranked = np.take_along_axis(scores, order, axis=1)
    cut = valid.copy()  # the last of its group of equals
    cut[:, :-1] &= ranked[:, 1:] != ranked[:, :-1]
    cut[np.arange(len(scores)), n_clips - 1] = True
    places = np.where(cut, np.arange(1.0, scores.shape[1] + 1), np.inf)[:, None]  # precision is 0 but at a cut-off
    ranked = np.take_along_axis(np.where(valid[:, :, None], grades, -np.inf), order[:, :, None], axis=1)
    ranked = np.ascontiguousarray(ranked.transpose(0, 2, 1))  # [Q, A, C]
    found_precisions = []
    for level in levels:
        found = np.cumsum(ranked >= level, axis=2, dtype=np.int32)
        best = np.maximum.accumulate((found / places)[:, :, ::-1], axis=2)[:, :, ::-1]
        before = np.maximum.accumulate(np.where(cut[:, None], found, 0), axis=2)  # found up to the last cut-off
        adds = before > 0
        adds[:, :, 1:] = before[:, :, 1:] > before[:, :, :-1]
        found_precisions.append(np.where(adds, best, 0.0).sum(2) / np.maximum(adds.sum(2), 1))
    return np.stack(found_precisions)


def hit_at_one(
    top: Int[np.ndarray, " q"], grades: Float[np.ndarray, "q c a"], n_clips: Int[np.ndarray, " q"], level: float
) -> np.ndarray:
    """Whether the clip of highest saliency has grade ≥ level from any annotator; bool `[Q]`.

    Args:
        top: its place in the predicted list, which may be longer than the video; −1 or beyond the video is a miss.
    """
    inside = (top >= 0) & (top < n_clips)
    chosen = grades[np.arange(len(grades)), np.where(inside, top, 0)]
    return inside & (chosen >= level).any(axis=1)


def measure(
    scores: Float[np.ndarray, "q c"],
    top: Int[np.ndarray, " q"],
    grades: Float[np.ndarray, "q c a"],
    n_clips: Int[np.ndarray, " q"],
) -> dict[str, dict[str, float]]:
    """`{"HL-min-Fair": {"HL-mAP": …, "HL-Hit1": …}, …}` in [0, 1]: means over queries (and annotators), not rounded."""
    precisions = average_precision(scores, grades, n_clips, tuple(LEVELS.values()))
    return {
        f"HL-min-{name}": {
            "HL-mAP": float(np.mean(precision)),
            "HL-Hit1": float(np.mean(hit_at_one(top, grades, n_clips, level).astype(float))),
        }
        for (name, level), precision in zip(LEVELS.items(), precisions, strict=True)
    }
