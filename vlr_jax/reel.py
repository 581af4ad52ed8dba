"""What a camera makes of a story of the procedural world: a feature and a share of evidence for every clip.

A clip's evidence is one number for each value of `stories.KINDS`: how much of the clip's time the value is to be seen.
Two things keep the evidence of an event from its exact window: it comes and goes gradually (`blur`), and each kind of
it comes and goes at a time of its own (`jitter`). Where no event is, bits of evidence that belong to nothing drift by
(`clutter`).
"""

import functools
import itertools
import math

import numpy as np

from vlr_jax import stories, world

VALUES = tuple(itertools.chain(*stories.KINDS.values()))  # the columns of a clip's evidence
PERIOD = 6  # clips in which a bit of clutter gives way to the next
FAINTEST, STRONGEST = 0.4, 0.9  # bit of clutter; the evidence of an event is 1
MOST_JITTER = stories.SHORTEST / 2  # clips; with more, evidence might end before it starts
VERY_GOOD = 4  # the highest grade of saliency, from 0
ANNOTATORS = 3  # as QVHighlights has; here they agree


@functools.lru_cache(maxsize=4)
def _projection(dim: int, seed: int) -> np.ndarray:
    """Fixed random directions `[len(VALUES), dim]`, the same for all splits; at right angles where there is room. The
    numbers of a sum of one of each kind have variance 1."""
    rng = np.random.default_rng([seed, len(world.SPLITS), 2])  # no scene and no other kind shares the stream
    rows = rng.standard_normal((len(VALUES), dim))
    if dim >= len(rows):
        rows = np.linalg.qr(rows.T)[0].T * math.sqrt(dim)
    return (rows / math.sqrt(len(stories.KINDS))).astype(np.float32)


def _risen(time: np.ndarray, blur: float) -> np.ndarray:
    """The integral up to `time` of what rises from 0 to 1 in `blur` around 0."""
    rising = np.clip(time + blur / 2, 0, blur)
    return (rising**2 / (2 * blur) if blur else 0.0) + np.maximum(time - blur / 2, 0)


def coverage(story: stories.Story, *, blur: float, jitter: float) -> np.ndarray:
    """How much of each clip's time the evidence of each event is there.

    Args:
        story: the graph.
        blur: clips in which evidence fades in, and out, half of them on either side of the border. An event shorter
            than that never shows in full.
        jitter: clips, at most `MOST_JITTER`, by which each kind of evidence of an event may start and end too early or
            too late.

    Returns:
        float64 `[E, 3, F]` in [0, 1]: event, kind, clip. With `jitter` 0, the sum over events is 1 but at the ends of
        the video, where half of what fades lies outside.
    """
    at = np.array([(event.start, event.end) for event in story.events]) / stories.CLIP_LENGTH
    at = at[:, None] + jitter * np.array([event.shifts for event in story.events])  # [E, 3, 2]
    edges = np.arange(story.clips + 1)
    before = _risen(edges - at[..., :1], blur) - _risen(edges - at[..., 1:], blur)
    return np.clip(np.diff(before, axis=-1), 0, 1)  # rounding


def features(
    story: stories.Story,
    cover: np.ndarray,
    rng: np.random.Generator,
    *,
    background: float,
    clutter: int,
    noise: float,
    dim: int,
    seed: int,
) -> np.ndarray:
    """Clip features: a projection of the evidence, plus noise.

    Args:
        story: the graph.
        cover: its `coverage`.
        rng: its stream "regions".
        background: in [0, 1], the share of the events that nobody asks for, all near misses, that are shown.
        clutter: bits of evidence that drift by where no event is shown, each at its own pace a value of any kind.
        noise: standard deviation of the gaussian noise on every number; those of an event have about 1.
        dim: width D.
        seed: of the projection.

    Returns:
        float16 `[F, D]`.
    """
    drift = rng.spawn(1)[0]  # numbers of its own: noise and clutter leave each other as they are
    shown = [event.rank <= background for event in story.events]
    cover, values = cover[shown], [event.values for event in story.shown(background)]
    evidence = [
        cover[:, k].T @ np.array([[own[k] == value for value in row] for own in values], np.float64)
        for k, row in enumerate(stories.KINDS.values())
    ]
    free = np.maximum(1 - cover.mean(1).sum(0), 0)
    evidence = np.concatenate(evidence, axis=1) + free[:, None] * _drift(drift, story.clips, clutter)
    clean = evidence.astype(np.float32) @ _projection(dim, seed)
    return (clean + noise * rng.standard_normal(clean.shape, np.float32)).astype(np.float16)


def _drift(rng: np.random.Generator, clips: int, clutter: int) -> np.ndarray:
    """Evidence `[F, len(VALUES)]` of `clutter` bits, each of which turns into another every `PERIOD` clips."""
    evidence, clip = np.zeros((clips, len(VALUES))), np.arange(clips)
    for _ in range(clutter):
        place = clip / PERIOD + rng.random()
        turns = int(place[-1]) + 2
        values, strengths = rng.integers(len(VALUES), size=turns), rng.uniform(FAINTEST, STRONGEST, turns)
        last = place.astype(int)
        part = place - last
        evidence[clip, values[last]] += (1 - part) * strengths[last]
        evidence[clip, values[last + 1]] += part * strengths[last + 1]
    return evidence


def saliency(
    story: stories.Story, cover: np.ndarray, values: tuple[str, str, str]
) -> tuple[list[int], list[list[float]]]:
    """How much of something asked for is to be seen in the clips of its windows.

    Args:
        story: the graph.
        cover: its `coverage`.
        values: one of `story.queries`.

    Returns:
        the clips whose middle is in a window; of each of them `ANNOTATORS` times the share of the evidence that is
        there, as the nearest grade from 0 to `VERY_GOOD`.
    """
    middles = (np.arange(story.clips) + 0.5) * stories.CLIP_LENGTH
    inside = np.zeros(story.clips, bool)
    for start, end in story.windows(values):
        inside |= (start <= middles) & (middles < end)
    asked = [event.values == values for event in story.events]
    grades = np.floor(VERY_GOOD * cover[asked].mean(1).sum(0)[inside] + 0.5)
    return np.flatnonzero(inside).tolist(), [[grade] * ANNOTATORS for grade in grades.tolist()]
