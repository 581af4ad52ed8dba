"""TACoS (Regneri et al. 2013; splits of Gao et al. 2017): moments of cooking videos, 48 to 1,402 seconds long.

Source: the user's files, `{train,val,test}.json` of microsoft/2D-TAN (`{"s30-d52.avi": {"fps": …, "num_frames": …,
"timestamps": [[first, last], …] in frames, "sentences": […]}}`), or the JSONL form of Moment-DETR,
`tacos_{split}_momentdetr_format.jsonl` or `{split}.jsonl`, in seconds. 9,790 / 4,436 / 4,001 queries of 75 / 27 / 25
videos; queries are called `s30-d52_0` in both. Features: SlowFast (2,304) and CLIP ViT-B/32 (512), one row every 2 s,
by `s30-d52` or `s30-d52.avi`; C3D fc6 (4,096) of 2D-TAN needs its own `clip_length`. Text: `{qid}.npz`. Float16.
"""

import dataclasses
import pathlib

from vlr_jax import annotations, moments, queries, timed

COUNTS = {"train": (9790,), "val": (4436,), "test": (4001,)}
FORM = '{"s30-d52.avi": {"fps": n, "num_frames": n, "timestamps": [[first, last], …], "sentences": [text, …]}, …}'


def _clock(about: dict) -> tuple[float, float]:
    """(duration in seconds, frames a second)."""
    return about["num_frames"] / about["fps"], about["fps"]


def _plain(video: moments.Video) -> moments.Video:
    """A video without the ending of its file, and its queries likewise."""
    name = video.name.removesuffix(".avi")
    own = [dataclasses.replace(query, name=f"{name}_{i}") for i, query in enumerate(video.queries)]
    return dataclasses.replace(video, name=name, source=name, queries=own)


def read(folder: pathlib.Path, defects: queries.Defects, *, subset: bool) -> moments.Splits:
    """The annotations of a folder; raises ValueError as `annotations` and `queries` tell."""
    splits = {}
    for split in COUNTS:
        names = (f"{split}.json", f"tacos_{split}_momentdetr_format.jsonl", f"{split}.jsonl")
        path = annotations.find(folder, names, optional=subset)
        if path is None:
            continue
        if path.suffix == ".jsonl":
            splits[split] = queries.from_lines(path, split, defects)
        else:
            splits[split] = list(map(_plain, queries.from_timestamps(path, _clock, FORM)))
    queries.expect(COUNTS, splits, subset)
    return {split: queries.tidy(videos, split, defects) for split, videos in splits.items()}


FILES = ("train.json*", "val.json*", "test.json*", "tacos_*_momentdetr_format.jsonl")
Builder = timed.builder("tacos", timed.Set(read, FILES, clip_length=2.0))
