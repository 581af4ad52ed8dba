"""What pages show of an evaluation of moments: numbers by length of the moments, and timelines of example texts."""

import math
import re
from collections.abc import Callable

from vlr_jax import moment_protocols, page, timelines

NAME = "moment"  # of its template
KINDS = {
    "best": ("Best", "whose first window fits a true one best, one a video"),
    "worst": ("Worst", "whose first window fits a true one worst, one a video"),
    "sample": ("Sample", "spread over the split, the same for every model"),
}
TILES = {
    "MR-full-R1@0.5": ("R1@0.5", "first windows with IoU ≥ 0.5"),
    "MR-full-R1@0.7": ("R1@0.7", "first windows with IoU ≥ 0.7"),
    "MR-full-mAP": ("mAP", "all windows, over IoU 0.5 to 0.95"),
    "MR-full-mIoU": ("mIoU", "first windows, mean"),
    "HL-min-VeryGood-Hit1": ("highlight HIT@1", "highest clips that are Very Good"),
}
LEVELS = {"VeryGood": "Very Good"}
HIGHLIGHTS = {"mAP": "mAP", "Hit1": "HIT@1"}
RANGES = ("full", "short", "middle", "long")
SUFFIX = "-key"  # that UniVTG's script hangs on names of its short list
GOOD = 0.5  # IoU from which a window counts as right


def holds(found: dict) -> bool:
    """An evaluation is one of moments: it has the official short list of one."""
    return "brief" in found


def results(name: str, found: dict) -> dict:
    """One evaluation → tiles, the short list by length range and threshold, highlights, the full list, and notes."""
    metrics = found["metrics"]
    tiles = [
        {"what": what, "value": page.number(metrics[key], key), "share": f"{min(max(metrics[key], 0), 100):.1f}",
         "beside": words}
        for key, (what, words) in TILES.items() if math.isfinite(_number(metrics, key))
    ]  # fmt: skip
    brief = [key.removesuffix(SUFFIX) for key in found["brief"]]
    wanted, ranges = _columns(brief), _ranges([*brief, *metrics])
    cell = lambda key: {"key": key, "value": page.number(metrics.get(key), key), "brief": key in brief}
    return {
        "tiles": tiles,
        "columns": wanted,
        "ranges": [(*_length(r, found), [cell(f"MR-{r}-{column}") for column in wanted]) for r in ranges],
        "levels": [
            (LEVELS.get(level, level), "", [cell(f"HL-min-{level}-{key}") for key in HIGHLIGHTS])
            for level in _levels(metrics)
        ],
        "headings": list(HIGHLIGHTS.values()),
        "full": _full(metrics, cell),
        "notes": _notes(found),
    }


def _number(metrics: dict, key: str) -> float:
    return math.nan if metrics.get(key) is None else metrics[key]


def _parts(key: str) -> tuple[str, str]:
    """`MR-short-mAP@0.5` → ("short", "mAP@0.5"); of other metrics empty."""
    found = re.fullmatch(r"MR-([^-]+)-(.+)", key)
    return (found[1], found[2]) if found else ("", "")


def _columns(keys) -> list[str]:
    """The measures of a short list, such as `R1@0.5`, in its order."""
    return list(dict.fromkeys(what for _, what in map(_parts, keys) if what))


def _ranges(keys) -> list[str]:
    """The length ranges that there are, all lengths first."""
    names = dict.fromkeys(part for part, _ in map(_parts, keys) if part)
    return sorted(names, key=lambda r: RANGES.index(r) if r in RANGES else len(RANGES))


def _levels(metrics) -> list[str]:
    return list(dict.fromkeys(found[1] for key in metrics if (found := re.fullmatch(r"HL-min-([^-]+)-\w+", key))))


def _length(name: str, found: dict) -> tuple[str, str]:
    """A length range and its seconds."""
    protocol = moment_protocols.PROTOCOLS.get(found.get("protocol"))
    for part, above, most in protocol.ranges if protocol else ():
        if part == name and math.isfinite(above):
            return name, f"over {above:g} s" if math.isinf(most) else f"{above:g}–{most:g} s"
    return name, ""


def _full(metrics: dict, cell: Callable[[str], dict]) -> dict:
    """Every metric in a row of thresholds: `columns`, and `rows` of (name, "", cells)."""
    rows: dict[str, dict[str, str]] = {}
    for key in metrics:
        name, _, threshold = key.partition("@")
        rows.setdefault(name, {})[threshold] = key
    columns = sorted({threshold for row in rows.values() for threshold in row})
    empty = {"key": None, "value": "", "brief": False}
    return {
        "count": len(metrics),
        "columns": [f"@{threshold}" if threshold else "" for threshold in columns],
        "rows": [
            (name, "", [cell(row[threshold]) if threshold in row else empty for threshold in columns])
            for name, row in sorted(rows.items())
        ],
    }


def _notes(found: dict) -> list[tuple[str, str, str | None]]:
    """(name, value, more on hovering) of what was measured and what to know of it."""
    ids, protocol = found.get("ids"), moment_protocols.PROTOCOLS.get(found.get("protocol"))
    count = lambda key: f"{found[key]:,}" if found.get(key) else None
    scale, offset = found.get("calibration") or (None, None)
    notes = [
        ("protocol", found.get("protocol"), protocol and protocol.about),
        ("videos", count("visuals"), None),
        ("texts", count("texts"), None),
        ("without windows, not evaluated", count("unlabelled"), None),
        ("truncated texts", count("truncated"), None),
        *((what, f"{n:,}", None) for what, n in (found.get("notes") or {}).items()),
        (
            "P(relevant)",
            scale and f"σ({scale:.3g} · saliency {offset:+.3g})".replace("-", "−"),
            "fitted on this split's clips",
        ),
        ("finite", None if found.get("finite", True) else "NO: windows, scores or saliency are not numbers", None),
        ("ids", ids[:12] if ids else None, ids),
    ]
    return [note for note in notes if note[1] is not None]


def examples(name: str, found: dict, config: dict, pictures: page.Pictures) -> dict:
    """An evaluation's example texts as groups best, worst, sample, and which further rows their timelines have."""
    groups = []
    for kind, (title, explanation) in KINDS.items():
        shown = [
            _example({"": (example, config)}, pictures, f"{_slug(name)}-{kind}-{example['text']}")
            for example in found["examples"]
            if example["kind"] == kind
        ]
        if shown:
            groups.append({"title": title, "explanation": explanation, "examples": shown})
    return {"groups": groups, "rows": _rows(found["examples"])}


def numbers(one: dict, two: dict, row: Callable[[str], dict]) -> dict:
    """Two evaluations → tiles and tables of both; `row(metric)` are its values in words, and how they differ."""
    every = {**one["metrics"], **two["metrics"]}
    brief = [key.removesuffix(SUFFIX) for found in (one, two) for key in found["brief"]]
    wanted, levels = _columns(brief), _levels(every)
    by_length = [(" ".join(_length(r, one)), [row(f"MR-{r}-{what}") for what in wanted]) for r in _ranges(every)]
    tables = [{"columns": wanted, "groups": by_length}]
    if levels:
        graded = [
            (LEVELS.get(level, level), [row(f"HL-min-{level}-{what}") for what in HIGHLIGHTS]) for level in levels
        ]
        tables.append({"columns": [f"highlight {words}" for words in HIGHLIGHTS.values()], "groups": graded})
    return {
        "tiles": [{"what": what} | row(key) for key, (what, _) in TILES.items() if key in every],
        "tables": tables,
        "further": [],
        "folded": [{"what": key} | row(key) for key in every],
    }


def key(example: dict) -> tuple:
    """What tells whether examples of two runs are the same text."""
    return example["text"], example["query"], example["vid"]


def same(both: list[tuple[dict, dict]], runs: dict[str, tuple[str, dict, dict]], pictures: page.Pictures) -> dict:
    """Pairs of examples of the same texts, and which further rows their timelines have.

    Args:
        both: what each run found for a text.
        runs: letter → (evaluation's name, its result, config).
        pictures: of the split.
    """
    configs, slug = [config for _, _, config in runs.values()], _slug(runs["A"][0])
    shown = [
        _example(dict(zip(runs, zip(pair, configs, strict=True), strict=True)), pictures, f"{slug}-{pair[0]['text']}")
        for pair in both
    ]
    groups = [{"title": "Text in its video", "examples": shown}] if shown else []
    return {"groups": groups, "rows": _rows([example for pair in both for example in pair])}


def _example(found: dict[str, tuple[dict, dict]], pictures: page.Pictures, id: str) -> dict:
    """One text of a page, by each run's letter its example and config; "" where there is one run alone."""
    examples = {letter: example for letter, (example, _) in found.items()}
    first = next(iter(examples.values()))
    stride = {letter: config.get("model", {}).get("stride", 1) for letter, (_, config) in found.items()}
    picture = timelines.draw(examples, frames=pictures.frames(first["visual"]), stride=stride)
    for frame in (picture["frames"] or {}).get("shown", ()):
        frame["href"] = page.picture(frame.pop("jpeg"))
    return {
        "id": id,
        "query": first["query"],
        "video": first["vid"],
        "seconds": timelines.clock(first["duration"], first["duration"]),
        "image": None if picture["frames"] else page.picture(pictures.thumb(first["visual"])),
        "ious": [(letter, f"{e['iou']:.2f}", e["iou"] >= GOOD) for letter, e in examples.items()],
        "looks": [(m["letter"], m["offsets"]) for m in picture["models"] if m["offsets"]],
        "picture": picture,
        "words": _words(examples),
    }


def _words(examples: dict[str, dict]) -> str:
    """What a picture shows, for who does not see it."""
    span = lambda window: f"{window[0]:.1f} to {window[1]:.1f} s"
    first = next(iter(examples.values()))
    parts = [f"True: {', '.join(map(span, first['truth']))}."]
    for letter, example in examples.items():
        told = [f"{span(window)} (score {window[2]:.2f})" for window in example["windows"]]
        best = max(range(len(example["saliency"])), key=example["saliency"].__getitem__)
        at = timelines.clock((best + 0.5) * example["clip_length"], first["duration"])
        parts.append(f"Predicted{' by ' + letter if letter else ''}: {', '.join(told) or 'none'}. "
                     f"Saliency is highest at {at} of {first['duration']:g} s.")  # fmt: skip
    return " ".join(parts)


def _rows(found: list[dict]) -> list[str]:
    """The further rows that timelines of these examples have."""
    kinds = {kind for example in found for kind in example.get("extra") or {}}
    return [
        *(kind for kind in ("offsets", "alignment") if kind in kinds),
        *(["shown"] if any(e.get("shown") for e in found) else []),
    ]


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)
