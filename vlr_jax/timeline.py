"""Moments of a prepared split: what is said of which seconds, and how that becomes the labels of a training row.

Windows are (start, end) in seconds of the video; a batch has them as fractions of what its clips cover. Labels follow
the official code of Moment-DETR (jayleicn/moment_detr) where people graded the clips, and of CG-DETR
(wjun0830/CGDETR) where there are windows alone.
"""

import numpy as np

from vlr_jax import reading

MOST_WINDOWS = 5  # of a text in training; of more, so many are drawn at random
PAIRS = 2  # of clips, whose saliency is compared
ROUNDING = 1e-4  # clips: their length is stored as float32, and a window that ends with a clip should do so


class Timeline:
    """The moments of a split, all of them in memory.

    Args:
        index: of the split, from `<split>.index.npz`.
        prepared: the content of prepared.json.
        data: config.data: `buckets`, the numbers of clips that videos are padded to; None: the most of the split.
        owner: int `[T]`, the visual of each text.

    Attributes:
        clips: int `[V]`, rows of features. clip_lengths: `[V]` seconds of one. covered: `[V]` seconds of all.
        durations: `[V]` seconds, as annotated. windows: of each text float `[n, 2]` seconds.
        annotated: int, the texts that have windows. text_names: of each text its id in the dataset.
        sources: int32 `[V]`, equal for parts of one uncut video.
        buckets: numbers of clips, rising.
        backbones: of prepared.json, the features by name, in order.
        n_states: int `[T]`, the precomputed states of each text's tokens; 0 without.

    Raises:
        ValueError: `buckets` are no rising whole numbers.
    """

    def __init__(self, index, prepared: dict, data: dict, owner: np.ndarray):
        self.owner, self.about = owner, prepared["moments"]
        self.backbones = self.about["backbones"]
        self.clips, self.clip_lengths = index["lengths"].astype(int), index["clip_lengths"].astype(float)
        self.durations, self.covered = index["durations"].astype(float), self.clips * self.clip_lengths
        self.windows = _parts(index["windows"].astype(float), index["n_windows"])
        self.text_names, self.source_names = index["text_names"].tolist(), index["sources"].tolist()
        self.n_states = index["n_text_features"] if "n_text_features" in index else np.zeros(len(owner), int)
        self.sources = np.unique(index["sources"], return_inverse=True)[1].astype(np.int32)
        self.annotated = np.flatnonzero(index["n_windows"] > 0)
        self.most = min(MOST_WINDOWS, max(1, int(index["n_windows"].max(initial=1))))
        self._graded = None
        if "saliency_clips" in index:
            parts = (_parts(index[key], index["n_saliency"]) for key in ("saliency_clips", "saliency_scores"))
            self._graded = list(zip(*parts, strict=True))
        self._shown = None
        if "shown" in index:
            parts = (_parts(index[key], index["n_shown"]) for key in ("shown", "shown_keys"))
            self._shown = list(zip(*parts, strict=True))
        self.buckets = _buckets(data.get("buckets"), int(self.clips.max()))

    def bucket(self, visual: int) -> int:
        """The clips that a video is padded to; beyond the largest bucket, that one."""
        return self.buckets[min(int(np.searchsorted(self.buckets, self.clips[visual])), len(self.buckets) - 1)]

    def check_fits(self, texts: np.ndarray) -> None:
        """Raises ValueError if a video of these texts has more clips than the largest bucket: labels need it whole."""
        clips, most = self.clips[self.owner[texts]], self.buckets[-1]
        if clips.max() > most:
            raise ValueError(
                f"{int((clips > most).sum()):,} of {len(texts):,} texts to train on are of videos longer than {most} "
                f"clips, the last of config.data.buckets; the longest has {int(clips.max())}"
            )

    def graded(self, t: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Of text t the clips that people graded, int `[C]`, and the grades `[C, A]` of A people; None without."""
        if self._graded is None or not len(self._graded[t][0]):
            return None
        return self._graded[t]

    def shown(self, visual: int) -> tuple[np.ndarray, list[str]] | None:
        """Of a video, which seconds `[S, 2]` show what, by name; None where that is not known."""
        return None if self._shown is None else (self._shown[visual][0], self._shown[visual][1].tolist())

    def relevant(self, t: int) -> np.ndarray:
        """Which clips of its video show what text t says, bool `[F]`: those that people graded, or those in windows."""
        n, found = int(self.clips[self.owner[t]]), self.graded(t)
        clips = _inside(self.windows[t], n, self.clip_lengths[self.owner[t]]) if found is None else found[0]
        return np.isin(np.arange(n), clips)

    def truth(self, t: int) -> dict:
        """What is known of text t, as a line of a ground-truth file of QVHighlights (without its words)."""
        visual, graded = int(self.owner[t]), self.graded(t)
        known = {"qid": self.text_names[t], "duration": float(self.durations[visual])}
        known |= {"relevant_windows": self.windows[t].tolist()}
        if graded is not None:
            known |= {"relevant_clip_ids": graded[0].tolist(), "saliency_scores": graded[1].astype(float).tolist()}
        return known

    def labels(self, t: int, length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """`spans`, `spans_mask`, `saliency` and `saliency_pairs` of text t, for a video padded to `length` clips.

        Features may end a little before the annotation: a window that begins behind them is their last clip.

        Raises:
            ValueError: the text has no window, or its video is longer than `length`.
        """
        visual, windows = self.owner[t], self.windows[t]
        n, clip = int(self.clips[visual]), self.clip_lengths[visual]
        if n > length or not len(windows):
            raise ValueError(f"text {self.text_names[t]}: {n} clips of {length} at most, {len(windows)} windows")
        kept = windows
        if len(windows) > self.most:
            kept = windows[np.sort(rng.choice(len(windows), self.most, replace=False))]
        spans, covered = np.zeros((self.most, 2), np.float32), self.covered[visual]
        kept = np.where(kept[:, :1] < covered, kept, [covered - clip, covered])
        spans[: len(kept)] = np.clip(kept / covered, 0.0, 1.0)
        graded, saliency = self.graded(t), np.zeros(length, np.float32)
        if graded is None:
            inside = _inside(windows, n, clip)
            saliency[inside] = 1
            pairs = _pairs_of_windows(inside, n, rng)
        else:
            clips, grades = graded
            there = clips < n
            saliency[clips[there]] = grades[there].sum(1)
            pairs = _pairs_of_grades(clips[there], saliency, n, rng)
        labels = {"spans": spans, "spans_mask": np.arange(self.most) < len(kept)}
        return labels | {"saliency": saliency, "saliency_pairs": pairs}


def row(split, t: int, length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Row t of the view `moments` of a `split.Split`: text t, its video padded to `length` clips, and its labels."""
    visual = int(split.text_visual[t])
    record = split.record(visual)
    return (
        piece(split.timeline, record, visual, 0, length) | split.text(t, record) | split.timeline.labels(t, length, rng)
    )


def states(record: dict, place: int) -> np.ndarray:
    """The states of the tokens, float16 `[L, D]`, of the text at `place` of a record."""
    return _parts(record["text_features"], record["n_text_features"])[place]


def piece(timeline: Timeline, record: dict, visual: int, start: int, length: int) -> dict[str, np.ndarray]:
    """The keys of a row that say what is seen: at most `length` clips of a video from clip `start` on, padded to that.

    `duration` are the seconds of these clips.
    """
    features, mask = reading.pad(record["visual"][start : start + length], length)
    seconds = np.float32(mask.sum() * timeline.clip_lengths[visual])
    return {"visual": features, "visual_mask": mask, "source_id": timeline.sources[visual], "duration": seconds}


def _parts(rows: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Rows that stand flat, one owner after the other → those of each."""
    return np.split(rows, np.cumsum(counts)[:-1])


def _buckets(asked, most: int) -> tuple[int, ...]:
    """`config.data.buckets`, or one for all; those that no video needs are left out."""
    if asked is None:
        return (most,)
    whole = isinstance(asked, (list, tuple)) and all(type(size) is int and size > 0 for size in asked)
    if not whole or not asked or list(asked) != sorted(set(asked)):
        raise ValueError(
            f"config.data.buckets is {asked!r}; expected rising numbers of clips such as (75, 150), or None"
        )
    needed = int(np.searchsorted(asked, most))
    return tuple(asked[: needed + 1])


def _inside(windows: np.ndarray, n: int, clip: float) -> np.ndarray:
    """The clips of windows: from that of the start to the one before that of the end, at least one each, in order."""
    found = [np.zeros(0, int)]
    for start, end in windows:
        first, behind = (int(second / clip + ROUNDING) for second in (start, end))
        last = max(0, min(behind, n) - 1)
        found.append(np.arange(min(first, last), last + 1))
    return np.unique(np.concatenate(found))


def _pairs_of_windows(inside: np.ndarray, n: int, rng) -> np.ndarray:
    """Pairs of random clips inside and outside; none where fewer than two are outside."""
    outside = np.setdiff1d(np.arange(n), inside)
    if len(outside) < PAIRS:
        return np.full((PAIRS, 2), -1, np.int32)
    better = rng.choice(inside, PAIRS, replace=len(inside) < PAIRS)
    return np.stack([better, rng.choice(outside, PAIRS, replace=False)], 1).astype(np.int32)


def _pairs_of_grades(relevant: np.ndarray, saliency: np.ndarray, n: int, rng) -> np.ndarray:
    """The best and the worst of the relevant clips; and a random relevant one beside a random other one.

    The first pair again where all clips are relevant; none where no clip is.
    """
    if not len(relevant):
        return np.full((PAIRS, 2), -1, np.int32)
    order = relevant[np.argsort(saliency[relevant], kind="stable")]
    hard, outside = (order[-1], order[0]), np.setdiff1d(np.arange(n), relevant)
    easy = (rng.choice(relevant), rng.choice(outside)) if len(outside) else hard
    return np.array([hard, easy], np.int32)
