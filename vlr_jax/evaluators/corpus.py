"""Moments of texts in all videos of a split: the right video and the right window, by the two stages of `corpus.py`.

A hit is a window of IoU ≥ m with a positive one of the same video. Positives of a text are its own windows; and where
it is known which picture is on screen when (`shown` of the records), every time that a picture which its own windows
show is on screen, in any video: one that covers half of an own window or more. Keys are ours: `VCMR-R10@0.7`.
"""

import collections
import functools
import math
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from vlr_jax import answers, corpus, suppression

RECALLS, THRESHOLDS = (1, 5, 10, 100), (0.5, 0.7)
COVERED = 0.5  # of a window, from which on a picture is what the window shows


class Evaluator:
    """Evaluates on one split.

    Args:
        predict: from `Task.predict()`: `moments`; and for stage 1, unless a run is named, `encode_visual`,
            `encode_text`, `similarity`.
        split: from `pipeline.open_split`, of data with moments.
        mesh: devices.
        stage1: a retrieval run's folder, whose index has the same videos; None: the moment model itself.
        top_n: N, the videos that are looked into.
        temperature: τ of stage 1; None: what its model learned, else `corpus.TEMPERATURE`.
        processing: a name of `answers.PROCESSING`, what windows go through before they are measured.
        batch_size: rows at once.
        progress: show progress bars.

    Raises:
        ValueError: unknown processing, no stage 1, one without the videos, N below 1, a split without moments.
    """

    def __init__(
        self,
        predict: dict,
        *,
        split,
        mesh: Mesh,
        stage1: str | None = None,
        top_n: int = 10,
        temperature: float | None = None,
        processing: str = "exact",
        batch_size: int = 32,
        progress: bool = False,
    ):
        if not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1:
            raise ValueError(f"top_n is {top_n!r}; expected a whole number of at least 1, the videos to look into")
        self.predict, self.split, self.mesh, self.stage1 = predict, split, mesh, stage1
        self.top_n, self.temperature = min(top_n, split.n_visuals), temperature
        self.processing = answers.processing_of("none", processing)
        self.batch_size, self.progress = batch_size, progress
        self.texts = split.ids("moments")
        if stage1 is None:
            corpus.check_stage1(predict)
        else:
            self._indexed  # noqa: B018  a run that does not fit is refused now
        self.positives = positives(split, self.texts)

    def names(self) -> list[str]:
        """The metrics that `run` gives; `VR-R10` is the share of texts with a right video among the best ten."""
        recalls = [f"VCMR-R{k}@{m}" for m in THRESHOLDS for k in RECALLS]
        return recalls + [f"VR-R{n}" for n in dict.fromkeys((1, self.top_n))]

    def run(self, variables) -> Iterator[tuple[str, float]]:
        """(name, value) of every metric, in percent."""
        yield from self.result(variables)["metrics"].items()

    def result(self, variables) -> dict:
        """All of it, as JSON values.

        `metrics`; `oracle`, what a stage 2 that makes no mistake would have with these candidates; `chance` of a random
        order of the videos (of windows it is not known); `stage1`, by what videos were ranked; `positives`, right
        windows and videos of a text on average; `finite`, whether every window and score was; the rest as in others.
        """
        with jax.set_mesh(self.mesh):
            options = dict(mesh=self.mesh, progress=self.progress)
            found = self._candidates(variables)
            ranks = np.full((len(self.texts), len(THRESHOLDS)), np.inf)
            moments, finite = self.predict["moments"], True
            options |= dict(numbers=self.texts, batch_size=self.batch_size)
            for row, hits in enumerate(corpus.rank(moments, variables, self.split, found, **options)):
                finite &= bool(np.isfinite(hits.scores).all() and np.isfinite(hits.windows).all())
                ranks[row] = self._first_right(hits, self.positives[row])
        right = np.array([np.isin(row, list(own)) for row, own in zip(found.visuals, self.positives, strict=True)])
        return self._summary(ranks, right) | {"finite": finite}

    def _summary(self, ranks: np.ndarray, right: np.ndarray) -> dict:
        """From the ranks of the first right windows `[T, thresholds]`, and which candidates are right `[T, N]`."""
        share = lambda which: float(100 * np.mean(which, dtype=np.float64))
        metrics = {f"VCMR-R{k}@{m}": share(ranks[:, i] <= k) for i, m in enumerate(THRESHOLDS) for k in RECALLS}
        reachable, sizes = share(right.any(axis=1)), dict.fromkeys((1, self.top_n))
        counts = np.array([len(own) for own in self.positives])
        return {
            "metrics": metrics | {f"VR-R{n}": share(right[:, :n].any(axis=1)) for n in sizes},
            "oracle": dict.fromkeys(metrics, reachable),
            "chance": {f"VR-R{n}": float(100 * np.mean(_by_chance(self.split.n_visuals, counts, n))) for n in sizes},
            "protocol": f"corpus, the best {self.top_n} videos looked into",
            "stage1": self.stage1 or "the model itself",
            "visuals": self.split.n_visuals,
            "texts": len(self.texts),
            "positives": {
                "windows": float(np.mean([sum(map(len, own.values())) for own in self.positives])),
                "videos": float(counts.mean()),
            },
            "ids": self.split.ids_hash,
            "truncated": self.split.truncated,
            "examples": [],
        }

    @functools.cached_property
    def _indexed(self) -> corpus.Candidates:
        """Of another run, which training does not change."""
        with jax.set_mesh(self.mesh):
            return self._best(corpus.opened_stage1(self.stage1, self.split.names, self.mesh, self.temperature))

    def _candidates(self, variables) -> corpus.Candidates:
        if self.stage1 is not None:
            return self._indexed
        options = dict(mesh=self.mesh, temperature=self.temperature, progress=self.progress)
        return self._best(corpus.own_stage1(self.predict, variables, self.split, self.batch_size, **options))

    def _best(self, stage: corpus.Stage1) -> corpus.Candidates:
        text = corpus.encode_texts(stage, self.split, self.batch_size, mesh=self.mesh, progress=self.progress)
        text = jax.tree.map(lambda leaf: leaf[self.texts], text)
        return corpus.candidates(stage, text, self.top_n, mesh=self.mesh)

    def _first_right(self, hits: corpus.Hits, own: dict[int, np.ndarray]) -> list[float]:
        """At each threshold the place of the first window that is right, from 1; infinite where none is."""
        overlap, at = np.zeros(len(hits.scores)), self.split.timeline
        for visual, windows in own.items():
            there = np.flatnonzero(hits.visuals == visual)
            if len(there):
                seconds, clip = float(at.covered[visual]), float(at.clip_lengths[visual])
                made = answers.process(hits.windows[there], self.processing, duration=seconds, clip_length=clip)
                overlap[there] = suppression.iou(made[:, None], windows[None]).max(axis=1)
        places = [np.flatnonzero(overlap >= m) for m in THRESHOLDS]
        return [found[0] + 1 if len(found) else math.inf for found in places]


def positives(split, texts: np.ndarray) -> list[dict[int, np.ndarray]]:
    """Of each of the texts: video → the windows `[n, 2]` in it that are right, in seconds."""
    at, everywhere = split.timeline, collections.defaultdict(list)  # picture → (video, start and end)
    shown = [at.shown(visual) for visual in range(split.n_visuals)]
    for visual, there in enumerate(shown):
        for window, key in zip(*there, strict=True) if there else ():
            everywhere[key].append((visual, window))
    found = []
    for t in texts:
        visual, own = int(split.text_visual[t]), collections.defaultdict(list)
        own[visual] += list(at.windows[t])
        for key in _pictured(at.windows[t], shown[visual]):
            for other, window in everywhere[key]:
                own[other].append(window)
        found.append({video: np.unique(np.stack(windows), axis=0) for video, windows in own.items()})
    return found


def _pictured(windows: np.ndarray, shown: tuple[np.ndarray, list[str]] | None) -> list[str]:
    """The pictures that are on screen in `COVERED` of a window or more, each once."""
    keys = []
    for start, end in windows if shown else ():
        seconds = collections.Counter()
        for (first, last), key in zip(*shown, strict=True):
            seconds[key] += max(0.0, min(end, last) - max(start, first))
        keys += [key for key, length in seconds.items() if length > 0 and length >= COVERED * (end - start)]
    return list(dict.fromkeys(keys))


def _by_chance(videos: int, right: np.ndarray, n: int) -> np.ndarray:
    """The probability that n of so many videos, drawn at random, have one of the right ones among them."""
    missed = [math.comb(videos - r, n) / math.comb(videos, n) for r in right]
    return 1 - np.array(missed)
