"""Predicted moments and their ground truth: the JSON lines of QVHighlights, read, checked and laid out as arrays.

    prediction    {"qid", "query", "vid", "pred_relevant_windows": [[start, end, score], …],
                   "pred_saliency_scores": [one a clip]}
    ground truth  {"qid", "query", "vid", "duration", "relevant_windows": [[start, end], …],
                   "relevant_clip_ids": [clip, …], "saliency_scores": [[one an annotator], …]}

Seconds; `qid` an integer or a text. Highlights are measured where both files have saliency. Whatever the official
scripts crash on or count in silence is an error here that names line and qid, or, with `lenient`, is done as this table
says and counted:

    ids of one file only                         left out of both, as `match_number=False` does
    a qid twice                                  the last line counts
    no window predicted                          a miss: it stays in every mean
    start or end NaN or infinite, end < start    the window stays in its place and never hits
    a NaN score                                  ranks last
    a ground-truth window without length         left out (also with end < start, or not finite)
    no ground-truth window (left)                the query is left out of both
    no saliency predicted                        a miss for HIT@1, zeros for mAP
    a NaN saliency                               ranks last
    a relevant clip beyond the video             left out

Two things are no error: a predicted window without length, which rounding to clips makes and which never hits, and
saliency for fewer or more clips than the video has, padded with 0 or cut as the official script does. Both are counted.
"""

import collections
import dataclasses
import itertools
import json
import os

import numpy as np
from jaxtyping import Float, Int

QID, WINDOWS, SALIENCY = "qid", "pred_relevant_windows", "pred_saliency_scores"
TRUE_WINDOWS, CLIPS, GRADES = "relevant_windows", "relevant_clip_ids", "saliency_scores"


@dataclasses.dataclass(frozen=True)
class File:
    """JSON lines: what they are, the objects, and the line of each."""

    kind: str
    entries: list[dict]
    lines: list[int]

    def place(self, i: int | np.integer) -> str:
        """Where entry i is, for messages."""
        return f"{self.kind} line {self.lines[i]} (qid {self.entries[i].get(QID)!r})"

    def only(self, chosen: list[int]) -> "File":
        """These entries in this order."""
        return File(self.kind, [self.entries[i] for i in chosen], [self.lines[i] for i in chosen])


@dataclasses.dataclass(frozen=True)
class Saliency:
    """Clip saliency of Q queries: C clips at most, A annotators; padded with 0."""

    scores: Float[np.ndarray, "q c"]
    top: Int[np.ndarray, " q"]  # the best clip in the list as predicted; −1 without any
    grades: Float[np.ndarray, "q c a"]
    n_clips: Int[np.ndarray, " q"]


@dataclasses.dataclass(frozen=True)
class Checked:
    """Predictions and ground truth of the same Q queries, in the order of the ground truth. Windows of all in a row."""

    qids: list
    windows: Float[np.ndarray, "n 3"]  # (start, end, score) as listed; one that can't hit lies at (0, 0)
    n_windows: Int[np.ndarray, " q"]
    truth: Float[np.ndarray, "w 2"]
    n_truth: Int[np.ndarray, " q"]
    saliency: Saliency | None
    notes: dict[str, int]  # what was counted, by what was done


class _Notes(collections.Counter):
    """Counts what is not as it should be, and refuses it unless lenient."""

    def __init__(self, lenient: bool):
        super().__init__()
        self.lenient = lenient

    def tell(self, where, problem: str, remedy: str) -> None:
        """`where`: the place of each, texts.

        Raises:
            ValueError: there is one, and this is not lenient.
        """
        if where and not self.lenient:
            more = f"; {len(where):,} of these" if len(where) > 1 else ""
            raise ValueError(f"{where[0]}: {problem}{more}. Lenient evaluation would go on: {remedy}")
        if where:
            self[f"{problem}: {remedy}"] += len(where)


def read(path: str | os.PathLike, kind: str) -> File:
    """A file of JSON lines; blank ones are skipped.

    Raises:
        ValueError: an unreadable line.
        OSError: no such file.
    """
    entries, lines = [], []
    with open(path, "rb") as file:
        for line, raw in enumerate(file, start=1):
            try:
                if text := raw.decode("utf-8-sig").strip():
                    entries.append(json.loads(text))
                    lines.append(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{kind} line {line} of {path} is no JSON: {error}") from error
    return File(kind, entries, lines)


def check(
    predictions: File | list[dict], ground_truth: File | list[dict], *, lenient: bool = False, clip_length: float = 2.0
) -> Checked:
    """Compares and lays out predictions and their ground truth.

    Args:
        predictions, ground_truth: as read, or lists of the objects.
        lenient: do as the module's table says where strict evaluation refuses.
        clip_length: seconds of a clip of saliency; a video has int(duration / clip_length).

    Raises:
        ValueError: what the module's table lists, named by line and qid; or what is of no use to anyone: missing keys,
            windows that are not [start, end, score], no query in common.
    """
    notes = _Notes(lenient)
    files = _file(predictions, "predictions"), _file(ground_truth, "ground truth")
    predictions, ground_truth = _same_queries(*(_once(file, notes) for file in files), notes)
    truth, n_truth = _rows(ground_truth, TRUE_WINDOWS, 2)
    owners = np.repeat(np.arange(len(n_truth)), n_truth)
    with np.errstate(invalid="ignore"):
        real = np.isfinite(truth).all(1) & (truth[:, 1] > truth[:, 0])
    places = [f"{ground_truth.place(owners[i])}: {truth[i].tolist()}" for i in np.flatnonzero(~real)]
    notes.tell(places, "a true window needs start < end", "it is left out")
    truth, n_truth = truth[real], np.bincount(owners[real], minlength=len(n_truth))
    kept = np.flatnonzero(n_truth)
    places = [ground_truth.place(i) for i in np.flatnonzero(n_truth == 0)]
    notes.tell(places, "a query needs a true window", "it is left out")
    if not len(kept):
        raise ValueError("no query has both a prediction and a true window, so nothing can be measured")
    predictions, ground_truth = predictions.only(kept.tolist()), ground_truth.only(kept.tolist())
    windows, n_windows = _predicted(predictions, notes)
    saliency = _saliency(predictions, ground_truth, notes, clip_length)
    qids = [entry[QID] for entry in ground_truth.entries]
    return Checked(qids, windows, n_windows, truth, n_truth[kept], saliency, dict(notes))


def whole_clips(durations, clip_length: float) -> np.ndarray:
    """The number of clips of videos, int64, as int(duration / clip_length) has it: a last one that is cut is none.

    But 0.7 s of 0.1 s are 7, not 6.9…, and so where the clip length is float32, for up to 8,000 clips.
    """
    return (np.asarray(durations, float) / clip_length + 1e-3).astype(np.int64)


def _file(source: File | list[dict], kind: str) -> File:
    return source if isinstance(source, File) else File(kind, source, list(range(1, len(source) + 1)))


def _once(file: File, notes: _Notes) -> File:
    """Every qid once, the last line of it."""
    last, repeated = {}, []
    for i, entry in enumerate(file.entries):
        if not isinstance(entry, dict) or QID not in entry:
            raise ValueError(f"{file.kind} line {file.lines[i]}: expected an object with {QID!r}, found {entry!r:.60}")
        if not isinstance(entry[QID], (int, str)):
            raise ValueError(f"{file.kind} line {file.lines[i]}: qid must be an integer or a text: {entry[QID]!r:.60}")
        if (first := last.get(entry[QID])) is not None:
            repeated.append(f"{file.place(i)}: is there already, in line {file.lines[first]}")
        last[entry[QID]] = i
    notes.tell(repeated, "a qid may stand once", "the last line counts")
    return file.only(list(last.values())) if repeated else file


def _same_queries(predictions: File, ground_truth: File, notes: _Notes) -> tuple[File, File]:
    """Both files with the ids that both have, in the order of the ground truth."""
    predicted = {entry[QID]: i for i, entry in enumerate(predictions.entries)}
    asked = {entry[QID]: i for i, entry in enumerate(ground_truth.entries)}
    shared = [qid for qid in asked if qid in predicted]
    if not shared:
        found = ", ".join(f"{next(iter(ids))!r}" if ids else "none" for ids in (predicted, asked))
        raise ValueError(f"predictions and ground truth share no qid; the first of each: {found} (5 is not '5')")
    alone = [predictions.place(i) for qid, i in predicted.items() if qid not in asked]
    notes.tell(alone, "a qid that the ground truth does not have", "it is left out")
    alone = [ground_truth.place(i) for qid, i in asked.items() if qid not in predicted]
    notes.tell(alone, "a query without prediction", "it is left out of every mean")
    return predictions.only([predicted[q] for q in shared]), ground_truth.only([asked[q] for q in shared])


def _rows(file: File, key: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """All rows of a key, float64 `[N, width]`, and how many each entry has.

    Raises:
        ValueError: an entry's value is no list of rows of so many numbers.
    """
    values = [entry.get(key) for entry in file.entries]
    try:
        rows = list(itertools.chain.from_iterable(values))
        if rows and set(map(len, rows)) != {width}:
            raise ValueError
        found = np.fromiter(itertools.chain.from_iterable(rows), np.float64, len(rows) * width).reshape(-1, width)
    except (TypeError, ValueError):
        for i, value in enumerate(values):
            good = isinstance(value, list) and all(isinstance(row, list) and len(row) == width for row in value)
            if not good or not all(isinstance(x, (int, float)) for row in value for x in row):
                form = {2: "[start, end]", 3: "[start, end, score]"}.get(width, f"{width} numbers")
                raise ValueError(f"{file.place(i)}: {key} must be a list of {form}, found {value!r:.60}") from None
        raise
    return found, np.array([len(value) for value in values], np.int64)


def _predicted(file: File, notes: _Notes) -> tuple[np.ndarray, np.ndarray]:
    """Windows as listed, and how many each query has; what can't hit moves to (0, 0), a NaN score to −infinity."""
    windows, counts = _rows(file, WINDOWS, 3)
    owners = np.repeat(np.arange(len(counts)), counts)
    notes.tell([file.place(i) for i in np.flatnonzero(counts == 0)], "no window is predicted", "it counts as a miss")

    def places(bad):
        return [f"{file.place(owners[i])}: {windows[i].tolist()}" for i in np.flatnonzero(bad)]

    unbounded = ~np.isfinite(windows[:, :2]).all(1)
    notes.tell(places(unbounded), "start and end must be finite", "the window never hits")
    reversed_ = ~unbounded & (windows[:, 1] < windows[:, 0])
    notes.tell(places(reversed_), "end < start", "the window never hits")
    nameless = np.isnan(windows[:, 2])
    notes.tell(places(nameless), "the score is NaN", "it ranks last")
    if empty := int(np.count_nonzero(windows[:, 1] == windows[:, 0])):
        notes["predicted windows without length, which never hit"] = empty
    windows[unbounded | reversed_, :2] = 0.0
    windows[nameless, 2] = -np.inf
    return windows, counts


def _saliency(predictions: File, ground_truth: File, notes: _Notes, clip_length: float) -> Saliency | None:
    """None where one of the files has no saliency at all."""
    lacking = [GRADES not in entry for entry in ground_truth.entries]
    absent = [SALIENCY not in entry for entry in predictions.entries]
    if all(lacking) or all(absent):
        return None
    if any(lacking):
        raise ValueError(f"{ground_truth.place(lacking.index(True))}: has no {GRADES}, other lines have")
    grades, n_clips = _grades(ground_truth, notes, clip_length)
    absent = [not entry.get(SALIENCY) for entry in predictions.entries]
    places = [predictions.place(i) for i in np.flatnonzero(absent)]
    notes.tell(places, f"no {SALIENCY}", "a miss for HIT@1, zeros for mAP")
    lists = [entry.get(SALIENCY) or [] for entry in predictions.entries]
    try:
        lengths = np.array(list(map(len, lists)))
        listed = np.full((len(lists), max(1, int(lengths.max()))), -np.inf)
        flat = np.fromiter(itertools.chain.from_iterable(lists), np.float64, int(lengths.sum()))
        listed[np.arange(listed.shape[1]) < lengths[:, None]] = flat
    except (TypeError, ValueError):
        bad = [not isinstance(v, list) or not all(isinstance(x, (int, float)) for x in v) for v in lists]
        raise ValueError(f"{predictions.place(bad.index(True))}: {SALIENCY} must be a list of numbers") from None
    unknown = np.isnan(listed)
    places = [predictions.place(i) for i in np.flatnonzero(unknown.any(1))]
    notes.tell(places, "the saliency has NaN", "those clips rank last")
    listed[unknown] = -np.inf
    short, cut = (lengths < n_clips) & ~np.array(absent), lengths > n_clips
    for which, what in ((short, "shorter than the video, padded with 0"), (cut, "longer than the video, cut")):
        if which.any():
            notes[f"saliency lists {what}"] = int(which.sum())
    scores = np.zeros(grades.shape[:2])
    width = min(scores.shape[1], listed.shape[1])
    inside = np.arange(width) < np.minimum(lengths, n_clips)[:, None]
    scores[:, :width][inside] = listed[:, :width][inside]
    return Saliency(scores, np.where(lengths > 0, listed.argmax(1), -1), grades, n_clips)


def _grades(file: File, notes: _Notes, clip_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Annotators' grades of every clip, 0 where there is none, `[Q, C, A]`; and the number of clips."""
    durations = [entry.get("duration") for entry in file.entries]
    bad = [i for i, d in enumerate(durations) if not isinstance(d, (int, float)) or not clip_length <= d < np.inf]
    if bad:
        raise ValueError(
            f"{file.place(bad[0])}: duration must be at least a clip, {clip_length:g} s: {durations[bad[0]]!r}"
        )
    n_clips = whole_clips(durations, clip_length)
    given = (entry[GRADES] for entry in file.entries if isinstance(entry[GRADES], list))
    annotators = next((len(row) for rows in given for row in rows if isinstance(row, list)), 1)
    rows, counts = _rows(file, GRADES, annotators)
    clips = [entry.get(CLIPS) for entry in file.entries]
    bad = [i for i, c in enumerate(clips) if not isinstance(c, list) or len(c) != counts[i]]
    if bad:
        raise ValueError(f"{file.place(bad[0])}: expected one of {CLIPS} for each of {counts[bad[0]]} {GRADES}")
    clips = np.array(list(itertools.chain.from_iterable(clips)))
    if clips.size and clips.dtype.kind != "i":
        raise ValueError(f"{CLIPS} must be integers, found {clips.dtype}")
    owners = np.repeat(np.arange(len(counts)), counts)
    inside = (clips >= 0) & (clips < n_clips[owners])
    places = [f"{file.place(owners[i])}: {clips[i]} of {n_clips[owners[i]]}" for i in np.flatnonzero(~inside)]
    notes.tell(places, "a relevant clip beyond the video", "it is left out")
    grades = np.zeros((len(counts), int(n_clips.max()), annotators))
    grades[owners[inside], clips[inside].astype(np.int64)] = rows[inside]
    return grades, n_clips
