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
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jinja2

import vlr_jax
from vlr_jax import log

# Of grade 0 to grade 1: always darker, so that the order is seen in grey and by the colour-blind (ColorBrewer YlGnBu).
SHADES = ("#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58")


class Pictures(NamedTuple):
    """What of the visuals of an evaluation's split can be shown.

    Attributes:
        thumb: position of a visual → JPEG or PNG bytes; None or empty where there is no picture.
        frames: position of a visual → JPEG or PNG bytes, evenly spread over the video; none where none were kept.
    """

    thumb: Callable[[int], bytes | None]
    frames: Callable[[int], Sequence[bytes]]


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


def number(value, metric: str) -> str:
    """A metric's value in as many places as it deserves; a dash for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    whole = metric.endswith("medR") and value == int(value)
    return f"{value:,.{0 if whole else decimals(metric)}f}"


def decimals(metric: str) -> int:
    """3 for what lies in [−1, 1], 2 for moments as in their official evaluation, 1 for other percentages and ranks."""
    if metric.startswith(("MR-", "HL-")):
        return 2
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
