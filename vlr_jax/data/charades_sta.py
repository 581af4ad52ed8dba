"""Charades-STA (Gao et al. 2017): moments of half-minute videos of people at home.

Source: the user's files, `charades_sta_{train,test}.txt` (`VID start end##sentence` a line) with the durations, column
`length` of `Charades_v1_{train,test}.csv` or `charades_v1_{train,test}_durations.csv`; or the JSONL form of
Moment-DETR, `charades_sta_{train,test}_tvr_format.jsonl`. 12,408 lines of train, 4 of which have no length inside their
video and are left out, as everywhere (12,404 in the JSONL), and 3,720 of test; 5,336 and 1,334 videos. Queries are
numbered as in the JSONL, those of test from 12,404: text features are `qid{qid}.npz`, for whole files. There is no
official val: the field selects on test. `held_out` of the videos of train become `dev` (default none). Features:
SlowFast (2,304) and CLIP ViT-B/32 (512), one row a second; VGG rgb (4,096), `clip_length=0.16666666666666666`. Float16.
"""

import dataclasses
import pathlib

from vlr_jax import annotations, moments, queries, timed

COUNTS = {"train": (12408, 12404), "test": (3720,)}
FIRST = {"train": 0, "test": 12404}  # the id of the first query
FORM = "VID start end##sentence"


def _durations(path: pathlib.Path) -> dict[str, float]:
    rows = annotations.table(path, ("id", "length"))
    try:
        return {row["id"]: float(row["length"]) for row in rows}
    except ValueError as error:
        raise ValueError(f"{path}: a length is no number: {error}") from error


def _lines(path: pathlib.Path, durations: dict[str, float]) -> list[moments.Video]:
    """The videos of the txt file; queries are not yet called by their official numbers, see `_numbered`.

    Raises:
        ValueError: a line of another form, or of a video without a duration.
    """
    videos: dict[str, moments.Video] = {}
    for n, line in enumerate(annotations.text(path).split("\n"), start=1):
        if not line.strip():
            continue
        head, sign, sentence = line.partition("##")
        try:
            name, start, end = head.split()
            window = float(start), float(end)
        except ValueError:
            sign = ""
        if not sign or not all(map(queries.number, window)):
            raise ValueError(f"{path}, line {n}: expected {FORM}, found {line[:80]!r}")
        if not durations.get(name, 0) > 0:
            raise ValueError(f"{path}, line {n}: the csv files have no length of {name}, or none above 0")
        video = videos.setdefault(name, moments.Video(name, durations[name], [], name))
        video.queries.append(moments.Query(str(n), sentence, [window]))
    return list(videos.values())


def _numbered(videos: list[moments.Video], first: int) -> list[moments.Video]:
    """Queries called by their place among those that are kept."""
    order = sorted(int(query.name) for video in videos for query in video.queries)
    number = {str(line): str(place) for place, line in enumerate(order, start=first)}

    def renamed(video):
        return [dataclasses.replace(query, name=number[query.name]) for query in video.queries]

    return [dataclasses.replace(video, queries=renamed(video)) for video in videos]


def _split(
    folder: pathlib.Path, split: str, defects: queries.Defects, subset: bool
) -> tuple[list[moments.Video], list[moments.Video]] | None:
    """(all videos, those that are left, without defects); None where the files are absent and `subset` allows it."""
    lines = annotations.find(folder, (f"charades_sta_{split}_tvr_format.jsonl",), optional=True)
    text = annotations.find(folder, (f"charades_sta_{split}.txt",), optional=subset or lines is not None)
    if text is None:
        videos = lines and queries.from_lines(lines, split, defects)
        return videos and (videos, queries.tidy(videos, split, defects))
    names = (f"Charades_v1_{split}.csv", f"charades_v1_{split}_durations.csv")
    csv = annotations.find(folder, names, optional=lines is not None)
    if csv is None:
        videos = queries.from_lines(lines, split, defects)
        return videos, queries.tidy(videos, split, defects)
    videos = _lines(text, _durations(csv))
    return videos, _numbered(queries.tidy(videos, split, defects), FIRST[split])


def read(
    folder: pathlib.Path, defects: queries.Defects, *, subset: bool, held_out: float = 0.0, held_out_seed: int = 0
) -> moments.Splits:
    """The annotations of a folder; raises ValueError as `annotations` and `queries` tell."""
    found = {split: _split(folder, split, defects, subset) for split in COUNTS}
    queries.expect(COUNTS, {split: both[0] for split, both in found.items() if both}, subset)
    splits = {split: both[1] for split, both in found.items() if both}
    if "train" in splits:
        splits |= annotations.hold_out(splits["train"], held_out, held_out_seed)
    return splits


FILES = ("charades_sta_*.txt", "charades_sta_*_tvr_format.jsonl", "*harades_v1_*.csv")
Builder = timed.builder("charades_sta", timed.Set(read, FILES, clip_length=1.0))
