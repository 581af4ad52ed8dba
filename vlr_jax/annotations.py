"""Annotations of video sets as the field has them on disk: lists of ids, csv, TSV, JSON → videos with their texts.

Never a pickle: loading one runs whatever code it holds. What a set's own files look like is in `data/NAME.py`.
"""

import csv
import dataclasses
import io
import json
import pathlib

import numpy as np

SUBSET = "a part of the data needs --option subset=true"


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video of a set.

    Attributes:
        name: its id in the set.
        texts: all of its texts, in the order of the file.
        called: how its file or its features may be called instead of `name`, with or without an ending.
    """

    name: str
    texts: list[str]
    called: tuple[str, ...] = ()


Splits = dict[str, list[Clip]]


def find(folder: pathlib.Path, names: tuple[str, ...], *, optional: bool = False) -> pathlib.Path | None:
    """The first of the files that a folder has.

    Raises:
        ValueError: it has none, unless that is `optional` (then None): says what was looked for and what there is.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if optional:
        return None
    there = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".csv", ".txt", ".pkl"))
    found = ", ".join(there[:12]) + (", …" if len(there) > 12 else "") or "none"
    raise ValueError(f"{folder} lacks {' or '.join(names)}; its lists and annotations: {found}; {SUBSET}")


def text(path: pathlib.Path) -> str:
    """A text file.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def once(ids: list[str], path: pathlib.Path) -> list[str]:
    """The ids themselves.

    Raises:
        ValueError: there are none, or one stands there twice.
    """
    if not ids:
        raise ValueError(f"{path} names no video")
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise ValueError(f"{path}: {len(ids) - len(set(ids))} ids stand there twice, such as {twice}")
    return ids


def ids(path: pathlib.Path) -> list[str]:
    """One id a line; blank lines are skipped."""
    return once([line.strip() for line in text(path).split("\n") if line.strip()], path)


def table(path: pathlib.Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a csv file with a header, by these columns; others are not looked at.

    Raises:
        ValueError: no csv, a column is absent, or a row has fewer.
    """
    reader = csv.DictReader(io.StringIO(text(path), newline=""))  # captions may hold what splitlines takes for an end
    try:
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path}: no column {', '.join(missing)}; its columns: {reader.fieldnames}")
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{path}, after line {reader.line_num}: no csv: {error}") from error
    for row in rows:
        if any(not row[name] for name in columns):
            raise ValueError(f"{path}: a row lacks {' or '.join(columns)}: {row}")
    return rows


def load(path: pathlib.Path, kind: type, form: str):
    """What a JSON file holds.

    Args:
        path: the file. kind: list or dict. form: for the error, what it should look like.

    Raises:
        ValueError: no JSON, or of another kind, or empty.
    """
    try:
        found = json.loads(text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, kind) or not found:
        raise ValueError(f"{path}: expected {form}, found {type(found).__name__} with {len(str(found))} characters")
    return found


def clips(names: list[str], texts: dict[str, list[str]], path: pathlib.Path, called=lambda name: ()) -> list[Clip]:
    """The clips of a split.

    Args:
        names: of its videos, in order.
        texts: of each video.
        path: of the texts, for the error.
        called: name → `Clip.called`.

    Raises:
        ValueError: a video has no texts, or something else for one.
    """
    without = [name for name in names if not texts.get(name)]
    if without:
        raise ValueError(f"{path} has no text of {len(without)} of {len(names)} videos, such as {without[0]}")
    for name in names:
        if wrong := [one for one in texts[name] if not isinstance(one, str)]:
            raise ValueError(
                f"{path}: a text of {name} is {str(wrong[0])[:40]!r}, {type(wrong[0]).__name__}; expected a string"
            )
    return [Clip(name, texts[name], called(name)) for name in names]


def expect(counts: dict[str, tuple[int, ...]], found: dict[str, int], subset: bool) -> None:
    """Raises ValueError where splits have other numbers of videos than they may have; names all of them."""
    wrong = [
        f"{split} has {found.get(split, 0):,} videos, expected {' or '.join(f'{n:,}' for n in numbers)}"
        for split, numbers in counts.items()
        if found.get(split, 0) not in numbers
    ]
    if wrong and not subset:
        raise ValueError(f"{'; '.join(wrong)}; {SUBSET}")


def hold_out(train: list[Clip], share: float, seed: int) -> Splits:
    """`train` without a share of its videos, and those as `dev`, both in the order of the file.

    Which ones depends on their names and the seed alone, not on the order.

    Raises:
        ValueError: the share is not in [0, 1), or leaves no video on one of the sides.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise ValueError(f"held_out is the share of train that becomes dev, at least 0 and below 1; got {share!r}")
    if share == 0:
        return {"train": train}
    n = round(share * len(train))
    if not 0 < n < len(train):
        raise ValueError(f"held_out={share} of {len(train)} videos of train is {n} videos; choose another share")
    names = sorted(clip.name for clip in train)
    held = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:n]}
    kept = [clip for clip in train if clip.name not in held]
    return {"train": kept, "dev": [clip for clip in train if clip.name in held]}


def tidy(splits: Splits, notes: list[str]) -> Splits:
    """Texts with single spaces; of `train`, those without a letter or digit are left out and noted.

    Raises:
        ValueError: such a text elsewhere, where leaving it out would change a protocol; or a name twice in a split, or
            in two of them, by which a model would be selected or measured on what it was trained on.
    """
    made, seen = {}, {}
    for split, clips_ in splits.items():
        once([clip.name for clip in clips_], pathlib.Path(f"the split {split}"))
        if both := [clip.name for clip in clips_ if clip.name in seen]:
            raise ValueError(f"{len(both)} videos of {split} are in {seen[both[0]]} too, such as {both[0]}")
        seen |= {clip.name: split for clip in clips_}
        cleaned, empty = [], []
        for clip in clips_:
            texts = [" ".join(one.split()) for one in clip.texts]
            good = [one for one in texts if any(map(str.isalnum, one))]
            empty += [clip.name] * (len(texts) - len(good))
            if good:
                cleaned.append(dataclasses.replace(clip, texts=good))
        if empty and split != "train":
            raise ValueError(f"{split}: {len(empty)} texts have neither letter nor digit, the first of {empty[0]}")
        if empty:
            videos = len(clips_) - len(cleaned)
            left = f", and {videos} videos that have no other" if videos else ""
            notes.append(f"train: {len(empty)} texts without a letter or digit are left out{left}")
        made[split] = cleaned
    return made
