"""From raw scores to probabilities: p = σ(a·s + b), fitted by maximum likelihood (Platt 1999).

Raw saliency has no scale and is mostly negative; a probability that a clip shows what the text says can be read.
"""

import numpy as np
from jaxtyping import Bool, Float

STEPS, SMALLEST = 50, 1e-10


def fit(scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> tuple[float, float] | None:
    """(a, b) for scores of which `right` are of the one kind, by Newton's method; None where all are of one kind.

    Labels are drawn towards the middle by Platt's 1/(n + 2), so that separable scores have a finite answer; the scale
    may come out negative where scores are worse than none.
    """
    positives, count = int(right.sum()), len(right)
    if positives in (0, count) or not np.isfinite(scores).all():
        return None
    target = np.where(right, (positives + 1) / (positives + 2), 1 / (count - positives + 2))
    mean, deviation = scores.mean(dtype=np.float64), max(float(scores.std(dtype=np.float64)), SMALLEST)
    x = (scores - mean) / deviation  # well conditioned, whatever the scale
    a, b = 0.0, float(np.log(positives / (count - positives)))
    for _ in range(STEPS):
        p = apply(x, (a, b))
        error, weight = p - target, np.maximum(p * (1 - p), SMALLEST)
        gradient = np.array([(error * x).sum(), error.sum()])
        curvature = np.array([[(weight * x * x).sum(), (weight * x).sum()], [(weight * x).sum(), weight.sum()]])
        step = np.linalg.solve(curvature + SMALLEST * np.eye(2), gradient)
        a, b = a - step[0], b - step[1]
        if np.abs(step).max() < 1e-9:
            break
    return float(a / deviation), float(b - a * mean / deviation)


def apply(scores: Float[np.ndarray, "..."], scale: tuple[float, float]) -> Float[np.ndarray, "..."]:
    """Probabilities of scores, in (0, 1); `scale` is (a, b) of `fit`."""
    z = np.clip(np.asarray(scores, np.float64) * scale[0] + scale[1], -500, 500)
    return 1 / (1 + np.exp(-z))
