"""The own-data form: one JSON object a line, one line a visual with its texts. Read, and checked line by line.

`{"media": "a.jpg", "split": "train", "texts": ["a caption", {"text": "a query", "id": "q7", "windows": [[104, 132]],
"saliency": [0, 2, …]}], "duration": 150.0, "source": "a", "shown": [[0, 9.5, "b.jpg"]], "attributes": {"colour":
["red", "white"]}}`; docs/datasets.md tells what each key means.
The private functions check one part each and raise ValueError with the reason.
"""

import collections
import dataclasses
import json
import math
import pathlib
import re

KEYS = frozenset({"media", "split", "texts", "duration", "attributes", "source", "shown"})
TEXT_KEYS = frozenset({"text", "windows", "saliency", "id"})
OF_MOMENTS = ("saliency", "source", "shown", "id of a text")  # what only records of moments keep
MOST_FACTS = 4096


@dataclasses.dataclass
class Item:
    """A line that reads well."""

    line: int
    media: str
    split: str | None
    texts: list[str]
    windows: list[list[list[float]]]  # of each text: [start, end] in seconds
    duration: float  # seconds; NaN if not given
    facts: set[str]  # "key=value" of the attributes
    ids: list[str] = dataclasses.field(default_factory=list)  # of each text: given, or LINE_PLACE, both from 1
    saliency: list[list[list[float]]] = dataclasses.field(default_factory=list)  # of each text: [clips, annotators]
    source: str | None = None  # the uncut video
    shown: list[tuple[float, float, str]] = dataclasses.field(default_factory=list)  # start, end, picture


def _number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a text, found {json.dumps(value)[:40]}")
    value.encode()  # a lone surrogate, which JSON allows, raises UnicodeEncodeError, a ValueError
    return value


def _windows(value, duration: float, what: str) -> list[list[float]]:
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_number, pair)) for pair in value
    ):
        raise ValueError(f"{what}: windows must be [[start, end], …] in seconds")
    for start, end in value:
        if not 0 <= start < end:
            raise ValueError(f"{what}: window [{start}, {end}] must have 0 ≤ start < end")
        if end > duration:  # never, where the duration is unknown (NaN)
            raise ValueError(f"{what}: window [{start}, {end}] ends after the duration of {duration:g} s")
    return value


def _saliency(value, what: str) -> list[list[float]]:
    """Of each clip what every annotator gave; a single number is that of one annotator."""
    rows = [row if isinstance(row, list) else [row] for row in value] if isinstance(value, list) else [[None]]
    if not all(row and all(map(_number, row)) for row in rows):
        raise ValueError(f"{what}: saliency must be a list of numbers, or of lists of numbers")
    return rows


def _id(value: dict, default: str, what: str) -> str:
    """The id of a text: a text, or a whole number as text."""
    given = value.get("id", default)
    given = str(given) if isinstance(given, int) and not isinstance(given, bool) else _plain(given, f"{what}: id")
    if not given:
        raise ValueError(f"{what}: id is empty")
    return given


def _text(value, duration: float, default: str, what: str, found: collections.Counter) -> tuple:
    """(a caption, its windows, its id, its saliency)."""
    value = value if isinstance(value, dict) else {"text": value}
    text = _plain(value.get("text"), what)
    if not any(map(str.isalnum, text)):
        raise ValueError(f"{what} is empty: it has neither a letter nor a digit")
    saliency = _saliency(value.get("saliency", []), what)
    found["saliency"] += bool(saliency)
    found["id of a text"] += "id" in value
    found.update(f"unknown key {key!r} of a text" for key in value.keys() - TEXT_KEYS)
    return text, _windows(value.get("windows", []), duration, what), _id(value, default, what), saliency


def _shown(value, duration: float) -> list[tuple[float, float, str]]:
    """Which picture is on screen when."""
    if not isinstance(value, list) or not all(isinstance(one, list) and len(one) == 3 for one in value):
        raise ValueError('shown must be [[start, end, "picture"], …]')
    _windows([one[:2] for one in value], duration, "shown")
    return [(start, end, _plain(key, "a picture in shown")) for start, end, key in value]


def _facts(attributes) -> set[str]:
    if not isinstance(attributes, dict):
        raise ValueError("attributes must be an object of names and values")
    facts = set()
    for key, values in attributes.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, bool) or _number(value):
                value = json.dumps(value)
            facts.add(f"{_plain(key, 'an attribute name')}={_plain(value, f'attribute {key!r}')}")
    return facts


def _item(line: int, value: dict, found: collections.Counter) -> Item:
    """A line's object, checked.

    Args:
        line: its number, from 1.
        value: the decoded JSON.
        found: what is left out of the records is counted here.
    """
    missing = {"media", "texts"} - value.keys()
    if missing:
        raise ValueError(f"lacks {' and '.join(sorted(missing))}; it has: {', '.join(value) or 'nothing'}")
    if not _plain(value["media"], "media"):
        raise ValueError("media is empty")
    split = value.get("split")
    if split is not None and (not re.fullmatch(r"[A-Za-z0-9_]+", _plain(split, "split")) or split.lower() == "all"):
        raise ValueError(f"split must be letters, digits and _, and not 'all'; found {split!r}")
    duration = value.get("duration", math.nan)
    if "duration" in value and not (_number(duration) and duration > 0):
        raise ValueError(f"duration must be seconds above 0, found {json.dumps(duration)[:40]}")
    if not isinstance(value["texts"], list) or not value["texts"]:
        raise ValueError("texts must be a list with at least one text")
    n = len(value["texts"])
    read = [
        _text(text, duration, f"{line}_{i}", f"text {i} of {n}", found)
        for i, text in enumerate(value["texts"], start=1)
    ]
    texts, windows, ids, saliency = map(list, zip(*read, strict=True))
    found.update(f"unknown key {key!r}" for key in value.keys() - KEYS)
    found.update(key for key in ("source", "shown") if key in value)
    source = _plain(value["source"], "source") if "source" in value else None
    shown, facts = _shown(value.get("shown", []), duration), _facts(value.get("attributes", {}))
    return Item(line, value["media"], split, texts, windows, duration, facts, ids, saliency, source, shown)


def read(captions: pathlib.Path) -> tuple[list[Item], list[dict], list[str], collections.Counter]:
    """All lines of a file, blank ones skipped.

    Returns:
        items: the lines that read well, without or with a split (`assign_splits` comes next).
        broken: the others as `{"line": n, "media": text or None, "reason": text}`.
        repeated: for each media that stands in an earlier line too, a sentence with both line numbers.
        found: what the items hold beside what records keep, by name with its number.
    """
    items, broken, repeated, found, first = [], [], [], collections.Counter(), {}
    with open(captions, "rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            media = None
            try:
                value = json.loads(raw.decode("utf-8-sig"))
                if not isinstance(value, dict):
                    raise ValueError("the line is no JSON object")
                media = value.get("media")
                if isinstance(media, str) and first.setdefault(media, line) != line:
                    repeated.append(f"line {line}: media {media!r} is there already, in line {first[media]}")
                items.append(_item(line, value, found))
            except (ValueError, RecursionError) as error:
                reason = (
                    f"unreadable: {error}" if isinstance(error, (UnicodeError, json.JSONDecodeError)) else str(error)
                )
                broken.append({"line": line, "media": media if isinstance(media, str) else None, "reason": reason})
    return items, broken, repeated, found


def assign_splits(items: list[Item]) -> tuple[list[Item], list[dict]]:
    """Names every item's split: `train` if no line has one; else a line without is broken.

    Returns:
        the items that have a split, and the broken ones as in `read`.
    """
    if all(item.split is None for item in items):
        for item in items:
            item.split = "train"
    broken = [
        {"line": item.line, "media": item.media, "reason": "has no split, while other lines have one"}
        for item in items
        if item.split is None
    ]
    return [item for item in items if item.split is not None], broken


def repeated_ids(items: list[Item]) -> list[str]:
    """For each id of a text that stands in its split already, a sentence with both line numbers."""
    first, repeated = {}, []
    for item in items:
        for id_ in item.ids:
            before = first.setdefault((item.split, id_), item.line)
            if before != item.line or item.ids.count(id_) > 1:
                repeated.append(f"line {item.line}: the id {id_!r} of a text is there already, in line {before}")
    return repeated


def gallery(names: list[str]) -> list[Item]:
    """Media without a JSONL file as items of the split `gallery`, without texts; `line` counts them from 1."""
    return [Item(i, name, "gallery", [], [], math.nan, set()) for i, name in enumerate(names, start=1)]


def fact_names(items: list[Item]) -> list[str] | None:
    """All facts of all items in alphabetical order; None if there are none.

    Raises:
        ValueError: more than `MOST_FACTS`, as attributes that differ for every visual make.
    """
    facts = sorted(set().union(*(item.facts for item in items)))
    if len(facts) > MOST_FACTS:
        keys = collections.Counter(fact.partition("=")[0] for fact in facts).most_common(5)
        most = ", ".join(f"{key} ({n} values)" for key, n in keys)
        raise ValueError(f"attributes make {len(facts)} facts, {MOST_FACTS} are possible; most come from: {most}")
    return facts or None
