"""Annotations of moments as the field has them on disk → videos with their queries; their defects mended and counted.

Two forms: the JSONL lines of QVHighlights and Moment-DETR (one query a line), and the JSON of 2D-TAN (one object a
video). What a set's own files look like is in `data/NAME.py`. A defect is counted by what it is and what was done, and
told; what no rule covers is an error with the file and the line.
"""

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Callable

from vlr_jax import annotations
from vlr_jax.moments import Query, Splits, Video

Defects = collections.Counter
LINE = '{"qid": …, "query": text, "vid": id, "duration": seconds, "relevant_windows": [[start, end], …]}'


def number(value) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _pairs(value, where: str) -> list[tuple[float, float]]:
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(map(number, pair)) for pair in value
    ):
        raise ValueError(f"{where}: expected windows [[start, end], …], found {json.dumps(value)[:60]}")
    return [(start, end) for start, end in value]


def _ratings(value: dict, where: str) -> tuple[list[int], list[list[float]]]:
    """`relevant_clip_ids` and `saliency_scores` of a line, where it has them."""
    clips, scores = value.get("relevant_clip_ids") or [], value.get("saliency_scores") or []
    rows = [row if isinstance(row, list) else [row] for row in scores] if isinstance(scores, list) else [[None]]
    good = isinstance(clips, list) and all(isinstance(i, int) and i >= 0 for i in clips)
    if not good or len(set(clips)) < len(clips) or not all(row and all(map(number, row)) for row in rows):
        raise ValueError(f"{where}: expected relevant_clip_ids [i, …], each once, and saliency_scores [[a, b, c], …]")
    if rows and len(rows) != len(clips):
        raise ValueError(f"{where}: {len(clips)} relevant_clip_ids and {len(rows)} saliency_scores; they must pair up")
    return (clips, rows) if rows else ([], [])


def _line(value, where: str) -> tuple[str, float, Query]:
    """(video, duration, query) of a line."""
    if not isinstance(value, dict) or not {"qid", "query", "vid", "duration"} <= value.keys():
        raise ValueError(f"{where}: expected {LINE}, found {json.dumps(value)[:80]}")
    name, text, video, duration = (value[key] for key in ("qid", "query", "vid", "duration"))
    if not isinstance(text, str) or not isinstance(video, str) or not isinstance(name, (str, int)):
        raise ValueError(f"{where}: expected {LINE}, found {json.dumps(value)[:80]}")
    if not number(duration) or duration <= 0:
        raise ValueError(f"{where}: duration must be seconds above 0, found {json.dumps(duration)[:40]}")
    windows = _pairs(value.get("relevant_windows") or [], where)
    return video, duration, Query(str(name), text, windows, *_ratings(value, where))


def from_lines(path: pathlib.Path, split: str, defects: Defects, *, source: Callable[[str], str] = str) -> list[Video]:
    """The videos of a JSONL file, in the order of their first lines; windows and ratings may be absent, as in a test.

    Args:
        path: the file. split: its name, for `defects`. defects: what is mended is counted here.
        source: video → the uncut video that it was taken from.

    Raises:
        ValueError: a line of another form; two durations of a video; an id of a query that stands there twice, unless
            the lines are equal: then the later one is left out.
    """
    videos: dict[str, Video] = {}
    seen: dict[str, tuple[int, tuple]] = {}
    for n, line in enumerate(annotations.text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {n}"
        try:
            found = _line(json.loads(line), where)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: no JSON: {error}") from error
        name, duration, query = found
        first, before = seen.setdefault(query.name, (n, found))
        if before != found:
            raise ValueError(f"{where}: the qid {query.name} is there already, in line {first}, with something else")
        if first != n:
            defects[f"{split}: queries that stand there twice, the later ones left out"] += 1
            continue
        video = videos.setdefault(name, Video(name, duration, [], source(name)))
        if video.duration != duration:
            raise ValueError(f"{where}: {name} has a duration of {duration} s, in an earlier line {video.duration} s")
        video.queries.append(query)
    if not videos:
        raise ValueError(f"{path} has no line; expected {LINE}")
    return list(videos.values())


def from_timestamps(
    path: pathlib.Path, clock: Callable[[dict], tuple[float, float]], form: str, *, called=lambda name: ()
) -> list[Video]:
    """The videos of a JSON file `{name: {"timestamps": [[a, b], …], "sentences": [text, …], …}, …}`.

    A query is called by its video and its place there, from 0: `s30-d52_0`.

    Args:
        path: the file.
        clock: what stands of a video → its duration in seconds, and how many units of its timestamps are a second.
        form: what the file should look like, for the error.
        called: name → `Video.called`.

    Raises:
        ValueError: no such file, or not as many timestamps as sentences.
    """
    videos = []
    for name, about in annotations.load(path, dict, form).items():
        where = f"{path}, {name}"
        try:
            duration, unit = clock(about)
            sentences, times = about["sentences"], _pairs(about["timestamps"], where)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"{where}: expected {form}, found {json.dumps(about)[:80]}: {error!r}") from error
        if not number(duration) or duration <= 0 or not isinstance(sentences, list):
            raise ValueError(f"{where}: expected {form}, with a duration above 0; found {json.dumps(about)[:80]}")
        if len(sentences) != len(times) or not all(isinstance(sentence, str) for sentence in sentences):
            raise ValueError(f"{where}: {len(times)} timestamps and {len(sentences)} sentences; each needs the other")
        queries = [
            Query(f"{name}_{i}", sentence, [(start / unit, end / unit)])
            for i, (sentence, (start, end)) in enumerate(zip(sentences, times, strict=True))
        ]
        videos.append(Video(name, duration, queries, name, called(name)))
    return videos


def _windows(query: Query, duration: float, split: str, defects: Defects, swap: bool) -> list[tuple[float, float]]:
    """The windows of a query, inside its video and forwards; those that are nothing left out."""
    made = []
    for start, end in query.windows:
        if start > end and swap:
            defects[f"{split}: windows that ended before they started, turned round"] += 1
            start, end = end, start
        if start < 0:
            defects[f"{split}: windows that started before 0 s, cut there"] += 1
            start = 0.0
        if end > duration:
            defects[f"{split}: windows that ended after their video, cut at its end"] += 1
            end = duration
        if start >= end:
            defects[f"{split}: windows without length inside their video, left out"] += 1
        else:
            made.append((start, end))
    return made


def _tidy(query: Query, video: Video, split: str, defects: Defects, swap: bool) -> Query | None:
    """A query without its defects; None where nothing is left of it."""
    text = " ".join(query.text.split())
    if text != query.text:
        defects[f"{split}: texts with spaces at an end or several in a row, made single"] += 1
    if not any(map(str.isalnum, text)):
        if split != "train":
            raise ValueError(f"{split}: the text of query {query.name} has neither letter nor digit: {query.text!r}")
        defects[f"{split}: queries without a letter or digit, left out"] += 1
        return None
    windows = _windows(query, video.duration, split, defects, swap)
    if query.windows and not windows:
        defects[f"{split}: queries of which no window was left, left out"] += 1
        return None
    if not query.windows:
        defects[f"{split}: queries without a window, kept as such"] += 1
    return dataclasses.replace(query, text=text, windows=windows)


def tidy(videos: list[Video], split: str, defects: Defects, *, swap: bool = False) -> list[Video]:
    """The videos of a split with texts of single spaces and windows inside their videos; all changes are counted.

    Args:
        videos: of a split. split: its name.
        defects: what is mended is counted here.
        swap: windows that run backwards are turned round; otherwise they are left out.

    Raises:
        ValueError: a text without letter or digit, unless in `train`.
    """
    made = []
    for video in videos:
        queries = [_tidy(query, video, split, defects, swap) for query in video.queries]
        kept = [query for query in queries if query is not None]
        if kept:
            made.append(dataclasses.replace(video, queries=kept))
        else:
            defects[f"{split}: videos of which no query was left, left out"] += 1
    return made


def expect(counts: dict[str, tuple[int, ...]], splits: Splits, subset: bool) -> None:
    """Raises ValueError where splits have other numbers of queries than they may have; names all of them."""
    found = {split: sum(len(video.queries) for video in videos) for split, videos in splits.items()}
    wrong = [
        f"{split} has {found.get(split, 0):,} queries, expected {' or '.join(f'{n:,}' for n in numbers)}"
        for split, numbers in counts.items()
        if found.get(split, 0) not in numbers
    ]
    if wrong and not subset:
        raise ValueError(f"{'; '.join(wrong)}; {annotations.SUBSET}")


def apart(splits: Splits, notes: list[str]) -> None:
    """Refuses a training split that shares a source video with another; notes what other splits share.

    Raises:
        ValueError: it does, by which a model would be selected or measured on what it was trained on.
    """
    sources = {split: {video.source for video in videos} for split, videos in splits.items()}
    names = list(splits)
    for a, b in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
        shared = sources[a] & sources[b]
        if shared and "train" in (a, b):
            raise ValueError(f"{len(shared)} videos of {b} are in {a} too, such as {min(shared)}")
        if shared:
            notes.append(f"{a} and {b} share {len(shared):,} videos")
