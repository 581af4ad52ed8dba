"""What the pages of `report.py` and `compare.py` share: templates, numbers, pictures, and how grades are coloured.

A page asks for nothing from outside: pictures and curves are inlined, markup and style are in `*.html.jinja`.
"""

import base64
import datetime
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable

import jinja2

import vlr_jax
from vlr_jax import log

DIRECTIONS = {"t2v": "text → visual", "v2t": "visual → text"}
COLUMNS = ("R@1", "R@5", "R@10", "medR", "meanR", "NDCG", "tau", "mAP@R", "R-Precision")
PERCENT = ("R@", "mAP@R", "R-Precision")
# Of grade 0 to grade 1: always darker, so that the order is seen in grey and by the colour-blind (ColorBrewer YlGnBu).
SHADES = ("#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58")
GRADES = {
    "facts": "the share of the text's facts that are true in the visual",
    "caption": "how close the text is to the visual's own captions, from 0 to 1",
    "caption_cosine": "the best cosine of the text with the visual's own captions",
}


def read(workdir: str | os.PathLike) -> tuple[dict, dict, list[dict]]:
    """`config.json`, `result.json` and the lines of `metrics.jsonl` of a run, empty where it has none yet.

    Raises:
        ValueError: the folder holds nothing of a run, or one of its files cannot be read.
    """
    folder = pathlib.Path(workdir)
    config, result, lines = _load(folder / "config.json"), _load(folder / "result.json"), log.read(folder)
    if not (config or result or lines):
        raise ValueError(f"{folder} holds no run: it has none of config.json, metrics.jsonl, result.json")
    return config, result, lines


def _load(path: pathlib.Path) -> dict:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error


def render(template: str, **values) -> str:
    """A template of this folder with its values, and with what every page says of itself."""
    written = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
    return _templates().get_template(template).render(version=vlr_jax.__version__, written=written, **values)


@functools.cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    # Names, queries and config values come from anywhere: autoescape keeps them text.
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def facts(config: dict, result: dict, lines: list[dict]) -> dict[str, str]:
    """What a run is, in a few words each; what is not known is left out."""
    step = lines[-1]["step"] if lines else result.get("step", 0)
    total = config.get("steps")
    rates = sorted(line["train/steps_per_second"] for line in lines if line.get("train/steps_per_second"))
    data, losses = config.get("data", {}), config.get("losses", {})
    found = {
        "step": f"{step:,} of {total:,}" if total else f"{step:,}",
        "training time": log.duration(lines[-1]["time"]) if lines else None,
        "speed": f"{(rates[(len(rates) - 1) // 2] + rates[len(rates) // 2]) / 2:.3g} steps/s" if rates else None,
        "model": config.get("model", {}).get("name"),
        "losses": ", ".join(dict.fromkeys(term.get("name", key) for key, term in losses.items())),
        "data": data.get("name"),
        "batch": config.get("batch_size"),
        "seed": config.get("seed"),
        "checkpoint": f"step {result['step']:,}" if "step" in result else None,
        "selected on": selected_on(result),
    }
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def selected_on(result: dict) -> str:
    """By what the checkpoint was picked, without the words of `selected_on_test`; empty where it is not known."""
    return result.get("selected_on", "").removeprefix("selected on test: ")


def selected_on_test(result: dict) -> bool:
    """The checkpoint was picked on a test split, which no page leaves unsaid."""
    return result.get("selected_on", "").startswith("selected on test")


def flat(value, key: str = "") -> Iterable[tuple[str, str]]:
    """A config as (dotted key, value in words); a list is one value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value if isinstance(value, str) else json.dumps(value)


def columns(metrics: Iterable[str]) -> list[str]:
    """The metrics that exist per direction, without it, in the order of a table."""
    names = dict.fromkeys(key[4:] for key in metrics if key[:4] in ("t2v_", "v2t_"))
    order = {column: i for i, column in enumerate(COLUMNS)}
    return sorted(names, key=lambda n: order.get("NDCG" if n.startswith("NDCG@") else n, len(COLUMNS)))


def further(metrics: Iterable[str]) -> list[str]:
    """The metrics that belong to no direction, but for rsum, which stands by itself."""
    return [name for name in metrics if name[:4] not in ("t2v_", "v2t_") and name != "rsum"]


def heading(column: str) -> str:
    """A metric over its column."""
    words = {"tau": "τ", "R-Precision": "R-Prec"}.get(column, column.replace("_", " "))
    return words + (" %" if column.rpartition("_")[2].startswith(PERCENT) else "")


def number(value, metric: str) -> str:
    """A metric's value in as many places as it deserves; a dash for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    if decimals(metric) == 3:
        return f"{value:.3f}"
    return f"{value:,.0f}" if metric.endswith("medR") and value == int(value) else f"{value:,.1f}"


def decimals(metric: str) -> int:
    """3 for what lies in [−1, 1], 1 for percentages and ranks."""
    return 3 if any(part in metric for part in ("NDCG", "tau", "spearman")) else 1


def picture(data: bytes | None) -> str | None:
    """JPEG or PNG bytes as a data URI; None where there are none."""
    if not data:
        return None
    return data_uri("image/png" if data.startswith(b"\x89PNG") else "image/jpeg", data)


def data_uri(kind: str, data: bytes) -> str:
    """The bytes in the page itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shade(grade: float) -> tuple[str, str]:
    """The colour of a grade in [0, 1] and that of the words on it, black or white."""
    place = min(max(grade, 0.0), 1.0) * (len(SHADES) - 1)
    low = min(int(place), len(SHADES) - 2)
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in SHADES[low : low + 2]]
    mixed = [round(a + (place - low) * (b - a)) for a, b in zip(*ends, strict=True)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in (part / 255 for part in mixed)]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # At this luminance black and white are equally readable, in the contrast of WCAG 2.
    return "#" + "".join(f"{part:02x}" for part in mixed), "#000000" if light > 0.179 else "#ffffff"


def legend() -> list[tuple[str, str, str]]:
    """(grade, its colour, that of words on it) from 0 to 1."""
    return [(f"{grade / 5:.1f}", *shade(grade / 5)) for grade in range(6)]


def grades(name: str, found: dict, config: dict) -> str:
    """What an evaluation's graded relevance is, in a word or two: `facts`, `caption by tfidf:256`."""
    relevance = found.get("relevance") or {}
    kind = relevance.get("name") or config.get("evals", {}).get(name, {}).get("relevance", "facts")
    encoder = (relevance.get("origin") or {}).get("encoder")
    return f"{kind} by {encoder}" if encoder else kind


def meaning(name: str, found: dict, config: dict) -> str | None:
    """What the grades of an evaluation's examples say; None where they have none."""
    if not any("grade" in item for example in found.get("examples") or [] for item in example["retrieved"]):
        return None
    kind, _, encoder = grades(name, found, config).partition(" by ")
    words = GRADES.get(kind, f"relevance {kind}")
    return f"{words}, by sentence vectors of {encoder}" if encoder else words


def query(example: dict, thumbs: Callable[[int], bytes | None]) -> dict:
    """One of a result's `examples` for the page: the query, the rank of its right answer, and what was retrieved."""
    texts = example["direction"] == "v2t"

    def image(item):
        return picture(thumbs(item["visual"])) if item.get("visual") is not None else None

    def item(one):
        grade = one.get("grade")
        colours = shade(grade) if grade is not None else None
        return {
            "name": one.get("name", ""),
            "image": None if texts else image(one),
            "score": f"{one['score']:.3f}",
            "right": one["right"],
            "grade": None if grade is None else f"{grade:.2f}" if one["right"] else _below_one(grade),
            "colours": colours,
        }

    return {
        "query": example["query"],
        "image": image(example),
        "rank": example["rank"],
        "rank_text": f"{example['rank']:,}",
        "texts": texts,
        "found": [item(one) for one in example["retrieved"]],
    }


def _below_one(grade: float) -> str:
    """Two places, but 1.00 is for true pairs alone: the grade of any other is below it, be it ever so close."""
    return f"{min(grade, 0.99):.2f}"
