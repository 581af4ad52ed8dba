"""Moments of texts in videos of any length.

A model looks at no more clips at once than the largest of `config.data.buckets`. A longer video is gone through in
pieces of that length, each half a piece after the one before; what is found in them is put together (`pieces.py`), the
saliency of a clip is the mean of its pieces'. A video that fits is one piece, and nothing of that happens to it. In
memory are a few batches and records, however long a video is.
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

from vlr_jax import batching, pieces, sharding, timeline

TEXTS = 256  # of the split, kept while they are looked for in videos that are not theirs


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
    text: Callable[[int], dict] | None = None,
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
        text: number of a text → `text`, `text_mask`; None: the texts of the split.
        batch_size: rows at once, raised to a multiple of the data axis.
        mesh: devices; rows are split over its `data` axis. Every process has all rows and all answers.
        threads: that read.
        progress: show a bar.
    """
    rows, run = sharding.rows(batch_size, mesh), _compiled(moments, mesh)
    groups = _pieces(split.timeline, pairs)
    planned = [group[i : i + rows] for group in groups for i in range(0, len(group), rows)]
    record = functools.lru_cache(maxsize=4 * threads)(split.record)
    said = _said(split, text)

    def build(i: int) -> dict[str, np.ndarray]:
        made = []
        for place, start, length in planned[i]:
            visual, t = pairs[place]
            whole = record(visual)
            row = timeline.piece(split.timeline, whole, visual, start, length)
            row |= said(t, visual, whole) | {"visual_id": np.int32(visual), "text_id": np.int32(t)}
            made.append(row | {"valid": np.bool_(True)})
        made += [made[0] | {"valid": np.bool_(False)}] * (rows - len(made))
        return batching.stack(made)

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    batches = grain.MapDataset.range(len(planned)).map(build).to_iter_dataset(options)
    over = NamedSharding(mesh, P("data"))
    at, waiting = None, []  # place in `pairs`, and the answers so far, of what is being gone through
    with tqdm.tqdm(None, "localizing", len(pairs), unit="text", disable=not progress, leave=False) as bar:
        for group, batch in zip(planned, batches, strict=True):
            found = jax.device_get(run(variables, jax.device_put(batch, over)))
            for i, (place, start, _) in enumerate(group):
                if waiting and at != place:
                    yield _whole(split.timeline, pairs[at], waiting)
                    waiting, _ = [], bar.update()
                at = place
                waiting.append((start, jax.tree.map(lambda array, i=i: np.array(array[i]), found)))
        if waiting:
            yield _whole(split.timeline, pairs[at], waiting)
            bar.update()


def _said(split, text: Callable | None) -> Callable[[int, int, dict], dict[str, np.ndarray]]:
    """(text, visual, its record) → `text`, `text_mask`; precomputed states of tokens are in the text's own record."""
    elsewhere = text or functools.lru_cache(maxsize=TEXTS)(split.text)

    def said(t: int, visual: int, record: dict) -> dict[str, np.ndarray]:
        own = text is None and visual == split.timeline.owner[t]
        row = split.text(t, record) if own else elsewhere(t)
        return {key: row[key] for key in ("text", "text_mask")}

    return said


@functools.lru_cache(maxsize=8)
def _compiled(moments: Callable, mesh):
    """`moments` with its rows over the data axis, and all of the answer on every host."""
    return jax.jit(moments, out_shardings=NamedSharding(mesh, P()))


def _pieces(at: timeline.Timeline, pairs: list[tuple[int, int]]) -> list[list[tuple[int, int, int]]]:
    """(place in `pairs`, first clip, padded length) of every piece, in groups of one padded length."""
    groups: dict[int, list] = {}
    for place, (visual, _) in enumerate(pairs):
        length, n = at.bucket(visual), int(at.clips[visual])
        groups.setdefault(length, []).extend((place, start, length) for start in pieces.starts(n, length))
    return [groups[length] for length in sorted(groups)]


def _whole(at: timeline.Timeline, pair: tuple[int, int], answers: list[tuple[int, dict]]) -> Found:
    """What the pieces of a video found, together; of each its first clip and its answer."""
    visual, text = pair
    n, clip = int(at.clips[visual]), float(at.clip_lengths[visual])
    found, total, times = [], np.zeros(n), np.zeros(n)
    for start, answer in answers:
        own = min(n - start, len(answer["saliency"]))
        seconds = answer["windows"].astype(np.float64) * (own * clip) + start * clip
        windows = np.concatenate([seconds, answer["scores"][:, None]], axis=1)
        found.append(pieces.Piece(start * clip, (start + own) * clip, windows))
        total[start : start + own] += answer["saliency"][:own]
        times[start : start + own] += 1
    one = len(answers) == 1
    windows, extra = (found[0].windows, answers[0][1]["extra"]) if one else (pieces.join(found, clip), {})
    return Found(visual, text, windows, (total / times).astype(np.float32), extra)
