"""Videos with queries and their moments: one structure for every set, and the fields of its records.

Seconds are kept as they are annotated, in float64 (but for the record's own `duration`; that of the index is): whether
an IoU is at least 0.5 may hang on the last digit. docs/datasets.md has the fields.
"""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

Window = tuple[float, float]  # (start, end) in seconds


@dataclasses.dataclass(frozen=True)
class Query:
    """A text and where in its video it is true.

    Attributes:
        name: its id in the set, unique in a split.
        text: the query.
        windows: in seconds, in the order of the file; empty where unknown.
        clips: the clips that were rated, by their place.
        scores: of each of them what every annotator gave.
    """

    name: str
    text: str
    windows: list[Window]
    clips: list[int] = dataclasses.field(default_factory=list)
    scores: list[list[float]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Video:
    """A video of a set.

    Attributes:
        name: its id in the set.
        duration: in seconds, as annotated.
        queries: in the order of the file.
        source: the uncut video that it was taken from; its own name where it is one.
        called: how its features may be called instead of `name`.
        shown: (start, end, key), which picture is on screen when, in seconds.
    """

    name: str
    duration: float
    queries: list[Query]
    source: str
    called: tuple[str, ...] = ()
    shown: list[tuple[float, float, str]] = dataclasses.field(default_factory=list)


Splits = dict[str, list[Video]]


def annotators(videos: list[Video]) -> int:
    """How many annotators rated clips; 0 where there are no ratings.

    Raises:
        ValueError: not the same number everywhere.
    """
    numbers = {len(row): query.name for video in videos for query in video.queries for row in query.scores}
    if len(numbers) > 1:
        found = " and ".join(f"{n} (query {name})" for n, name in sorted(numbers.items()))
        raise ValueError(f"saliency has {found} annotators; expected one number for all")
    return next(iter(numbers), 0)


def form(*, annotators: int = 0, text_dim: int | None = None, shown: bool = False) -> dict:
    """The fields that moments add to a record, for tensorflow-datasets.

    Args:
        annotators: who rated clips; 0: there are no ratings.
        text_dim: width of precomputed token features; None: there are none.
        shown: whether it is known which picture is on screen when.
    """
    kinds = tfds.features

    def rows(*shape, dtype):
        return kinds.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")

    made = {
        "text_name": kinds.Sequence(kinds.Text()),
        "source": kinds.Text(),
        "duration": kinds.Tensor(shape=(), dtype=np.float32),  # tensorflow-datasets has no wider single number
        "clip_length": kinds.Tensor(shape=(), dtype=np.float32),
        "windows": rows(2, dtype=np.float64),
        "n_windows": rows(dtype=np.int32),
    }
    if annotators:
        made |= {"saliency_clips": rows(dtype=np.int32), "saliency_scores": rows(annotators, dtype=np.float32)}
        made |= {"n_saliency": rows(dtype=np.int32)}
    if text_dim is not None:
        made |= {"text_features": rows(text_dim, dtype=np.float16), "n_text_features": rows(dtype=np.int32)}
    if shown:
        made |= {"shown": rows(2, dtype=np.float64), "shown_key": kinds.Sequence(kinds.Text())}
    return made


def _counts(some) -> np.ndarray:
    return np.array([len(one) for one in some], np.int32)


def fields(
    video: Video, clip_length: float, *, annotators: int = 0, texts: list[np.ndarray] | None = None, shown: bool = False
) -> dict:
    """What `form` declares, of one video.

    Args:
        video: the video.
        clip_length: seconds of one row of its features.
        annotators, shown: as in `form`.
        texts: float16 `[L, Dt]` of each query, where there are precomputed token features.
    """
    queries = video.queries
    made = {
        "text_name": [query.name for query in queries],
        "source": video.source,
        "duration": float(video.duration),
        "clip_length": np.float32(clip_length),
        "windows": np.array(sum((list(query.windows) for query in queries), []), np.float64).reshape(-1, 2),
        "n_windows": _counts(query.windows for query in queries),
    }
    if annotators:
        made |= {
            "saliency_clips": np.array(sum((list(query.clips) for query in queries), []), np.int32),
            "saliency_scores": np.array(sum((list(query.scores) for query in queries), []), np.float32).reshape(
                -1, annotators
            ),
            "n_saliency": _counts(query.clips for query in queries),
        }
    if texts is not None:
        made |= {"text_features": np.concatenate(texts), "n_text_features": _counts(texts)}
    if shown:
        made["shown"] = np.array([(start, end) for start, end, _ in video.shown], np.float64).reshape(-1, 2)
        made["shown_key"] = [key for _, _, key in video.shown]
    return made
