"""QVHighlights (Lei, Berg, Bansal 2021): moments and highlights of 150-second pieces of YouTube videos.

Source: the user's files of jayleicn/moment_detr. `highlight_{train,val,test}_release.jsonl`, or with the labels of test
`highlight_test_with_gt.jsonl`: 7,218 / 1,550 / 1,542 queries of 7,100 / 1,519 / 1,529 videos; of a relevant clip of 2 s
three annotators say from 0 (Very Bad) to 4 (Very Good) how salient it is. A video `ID_START_END` is cut from `ID`, its
source. Features, usual order: SlowFast (R50 8x8, Kinetics-400; 2,304) and CLIP ViT-B/32 (512), `{vid}.npz['features']`
of one row every 2 s; text: CLIP's token states `qid{qid}.npz['last_hidden_state']` `[L, 512]`. Stored as float16.
"""

import pathlib

from vlr_jax import annotations, moments, queries, timed

COUNTS = {"train": (7218,), "val": (1550,), "test": (1542,)}
FILES = {split: (f"highlight_{split}_release.jsonl",) for split in ("train", "val")}
FILES |= {"test": ("highlight_test_with_gt.jsonl", "highlight_test_release.jsonl")}


def source(name: str) -> str:
    """The uncut video: the name without its last two fields, start and end (an id may have `_` in it)."""
    return name.rsplit("_", 2)[0]


def read(folder: pathlib.Path, defects: queries.Defects, *, subset: bool) -> moments.Splits:
    """The annotations of a folder; raises ValueError as `annotations` and `queries` tell."""
    splits = {}
    for split, names in FILES.items():
        if path := annotations.find(folder, names, optional=subset):
            splits[split] = queries.from_lines(path, split, defects, source=source)
    queries.expect(COUNTS, splits, subset)
    return {split: queries.tidy(videos, split, defects) for split, videos in splits.items()}


Builder = timed.builder("qvhighlights", timed.Set(read, ("highlight_*.jsonl",), clip_length=2.0))
