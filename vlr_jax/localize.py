"""Moments of texts in videos of any length.

A model looks at no more clips at once than the largest of `config.data.buckets`. A longer video is gone through in
pieces of that length, each half a piece after the one before; what is found in them is put together: windows that two
pieces found are suppressed, the saliency of a clip is the mean of its pieces'. A video that fits is one piece, and
nothing of that happens to it. In memory are a few batches and records, however long a video is.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import grain
import jax
import numpy as np
import tqdm
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax import batching, sharding, suppression, timeline

SAME = 0.5  # IoU above which windows of two pieces are the same moment
KEPT = 10  # windows of a video in pieces


class Found(NamedTuple):
    """What a model found for one text in one video.

    Attributes:
        visual, text: their numbers.
        windows: `[M, 3]` (start, end, probability), seconds, in the model's order (of a video in pieces: best first).
        saliency: `[F]` of each clip, raw.
        extra: the model's further arrays of this row, of a video in one piece.
    """

    visual: int
    text: int
    windows: np.ndarray
    saliency: np.ndarray
    extra: dict[str, np.ndarray]


def locate(
    moments: Callable,
    variables,
    split,
    pairs: list[tuple[int, int]],
    *,
    text: Callable[[int, dict], dict] | None = None,
    batch_size: int,
    mesh,
    threads: int = 2,
    progress: bool = False,
) -> Iterator[Found]:
    """Finds texts in videos, in the order of `pairs` within each padded length, the shortest videos first.

    Args:
        moments: of `Task.predict()`, compiled here once for each padded length.
        variables: its first argument.
        split: a `split.Split` with moments.
        pairs: (visual, text).
        text: (text, record of the visual) → `text`, `text_mask`; None: the texts of the split.
        batch_size: rows at once, raised to a multiple of the data axis.
        mesh: devices; rows are split over its `data` axis.
        threads: that read.
        progress: show a bar.
    """
    text, rows = text or split.text, sharding.rows(batch_size, mesh)
    run = _compiled(moments, mesh)
    pieces = _pieces(split.timeline, pairs)
    planned = [group[i : i + rows] for group in pieces for i in range(0, len(group), rows)]
    record = functools.lru_cache(maxsize=4 * threads)(split.record)

    def build(i: int) -> dict[str, np.ndarray]:
        made = []
        for place, start, length in planned[i]:
            visual, t = pairs[place]
            whole = record(visual)
            row = timeline.piece(split.timeline, whole, visual, start, length)
            row |= {key: value for key, value in text(t, whole).items() if key in ("text", "text_mask")}
            made.append(row | {"visual_id": np.int32(visual), "text_id": np.int32(t), "valid": np.bool_(True)})
        made += [made[0] | {"valid": np.bool_(False)}] * (rows - len(made))
        return batching.stack(made)

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    batches = grain.MapDataset.range(len(planned)).map(build).to_iter_dataset(options)
    waiting: list[tuple[int, dict]] = []  # pieces of the video that is being gone through
    with tqdm.tqdm(None, "localizing", len(pairs), unit="text", disable=not progress, leave=False) as bar:
        for group, batch in zip(planned, batches, strict=True):
            found = jax.device_get(run(variables, sharding.put(batch, mesh)))
            for i, (place, start, _) in enumerate(group):
                if waiting and waiting[0][0] != place:
                    yield _whole(split.timeline, pairs[waiting[0][0]], waiting)
                    waiting, _ = [], bar.update()
                waiting.append(
                    (place, start, {key: jax.tree.map(lambda a, i=i: a[i], of) for key, of in found.items()})
                )
        if waiting:
            yield _whole(split.timeline, pairs[waiting[0][0]], waiting)
            bar.update()


@functools.lru_cache(maxsize=8)
def _compiled(moments: Callable, mesh):
    """`moments` with its rows over the data axis, and all of the answer on every host."""
    return jax.jit(moments, out_shardings=NamedSharding(mesh, P()))


def _pieces(at: timeline.Timeline, pairs: list[tuple[int, int]]) -> list[list[tuple[int, int, int]]]:
    """(place in `pairs`, first clip, padded length) of every piece, in groups of one padded length."""
    groups: dict[int, list] = {}
    for place, (visual, _) in enumerate(pairs):
        length, n = at.bucket(visual), int(at.clips[visual])
        groups.setdefault(length, []).extend((place, start, length) for start in starts(n, length))
    return [groups[length] for length in sorted(groups)]


def starts(n: int, length: int) -> list[int]:
    """Where the pieces of n clips begin: every half a length, the last one ending with the video."""
    if n <= length:
        return [0]
    return [*range(0, n - length, max(1, length // 2)), n - length]


def _whole(at: timeline.Timeline, pair: tuple[int, int], pieces: list[tuple[int, int, dict]]) -> Found:
    """What the pieces of a video found, together."""
    visual, text = pair
    n, clip = int(at.clips[visual]), float(at.clip_lengths[visual])
    windows, total, times = [], np.zeros(n), np.zeros(n)
    for _, start, found in pieces:
        own = min(n - start, len(found["saliency"]))
        seconds = found["windows"].astype(np.float64) * (own * clip) + start * clip
        windows.append(np.concatenate([seconds, found["scores"][:, None]], axis=1))
        total[start : start + own] += found["saliency"][:own]
        times[start : start + own] += 1
    windows = np.concatenate(windows)
    if len(pieces) > 1:
        windows = suppression.temporal_nms(windows, SAME, KEPT)
    extra = pieces[0][2]["extra"] if len(pieces) == 1 else {}
    return Found(visual, text, windows, (total / times).astype(np.float32), extra)
