"""The report of a run: one static page with its configuration, curves, results and best and worst queries.

Reads what the run left in its workdir (`config.json`, `metrics.jsonl`, `result.json`), also while training goes on.
The page asks for nothing from outside: curves and thumbnails are inlined. Its markup is in `report.html.jinja`.
"""

import base64
import datetime
import json
import math
import os
import pathlib
import statistics
from collections.abc import Callable, Iterable

import jinja2

import vlr_jax
from vlr_jax import curves, files, log

DIRECTIONS = {"t2v": "text → visual", "v2t": "visual → text"}
COLUMNS = ("R@1", "R@5", "R@10", "medR", "meanR", "NDCG", "tau", "mAP@R", "R-Precision")
PERCENT = ("R@", "mAP@R", "R-Precision")


def write(workdir: str | os.PathLike, *, thumbs: Callable[[str, int], bytes | None]) -> pathlib.Path:
    """Write `report.html` into the workdir; a section for which the run has nothing yet is left out.

    Args:
        workdir: of a run, finished or not.
        thumbs: `(evaluation's name, position of a visual in its split)` → JPEG or PNG bytes; None or empty where there
            is no picture, then the visual's name is shown.

    Returns:
        The page's path. A page that was there is replaced in one move.

    Raises:
        ValueError: the folder holds nothing of a run, or one of its files cannot be read.
        OSError: the page cannot be written.
    """
    folder = pathlib.Path(workdir).resolve()
    config, result, lines = _load(folder / "config.json"), _load(folder / "result.json"), log.read(folder)
    if not (config or result or lines):
        raise ValueError(f"{folder} holds no run: it has none of config.json, metrics.jsonl, result.json")
    evals = result.get("evals", {})
    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    # Names, queries and config values come from anywhere: autoescape keeps them text.
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    html = page.get_template("report.html.jinja").render(
        head=_head(folder.name, config, result, lines),
        config=_groups(config),
        splits=[_split(name, found) for name, found in evals.items()],
        result_step=f"{result['step']:,}" if "step" in result else None,
        curves=[
            {"title": title, "image": _data_uri("image/svg+xml", curves.draw(series, reference))}
            for title, series, reference in curves.charts(lines, evals)
        ],
        examples=[group for name, found in evals.items() for group in _examples(name, found, thumbs)],
        version=vlr_jax.__version__,
        written=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    )
    return files.write(folder / "report.html", html)


def _load(path: pathlib.Path) -> dict:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error


def _head(title: str, config: dict, result: dict, lines: list[dict]) -> dict:
    step = lines[-1]["step"] if lines else result.get("step", 0)
    total = config.get("steps")
    rates = [line["train/steps_per_second"] for line in lines if line.get("train/steps_per_second")]
    data, losses = config.get("data", {}), config.get("losses", {})
    facts = {
        "step": f"{step:,} of {total:,}" if total else f"{step:,}",
        "training time": log.duration(lines[-1]["time"]) if lines else None,
        "speed": f"{statistics.median(rates):.3g} steps/s" if rates else None,
        "model": config.get("model", {}).get("name"),
        "losses": ", ".join(dict.fromkeys(term.get("name", key) for key, term in losses.items())),
        "data": data.get("name"),
        "batch": config.get("batch_size"),
        "seed": config.get("seed"),
    }
    state = ("finished" if step >= total else "unfinished") if total else None
    return {
        "title": title,
        "step": f"{step:,}",
        "state": state,
        "facts": [(name, value) for name, value in facts.items() if value not in (None, "")],
    }


def _groups(config: dict) -> list[tuple[str, list[tuple[str, str]]]]:
    """Config → (heading, [(dotted key, value)]); plain values first, under `run`."""

    def flat(value, key: str) -> Iterable[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from flat(inner, f"{key}.{name}" if key else name)
        else:
            yield key, value if isinstance(value, str) else json.dumps(value)

    plain = [entry for key, value in config.items() if not isinstance(value, dict) for entry in flat(value, key)]
    groups = [(key, list(flat(value, ""))) for key, value in config.items() if isinstance(value, dict) and value]
    return ([("run", plain)] if plain else []) + groups


def _number(value, metric: str) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if metric.startswith(("NDCG", "tau")):
        return f"{value:.3f}"
    return f"{value:,.0f}" if metric == "medR" and value == int(value) else f"{value:,.1f}"


def _split(name: str, found: dict) -> dict:
    """One evaluation → tiles of its headline numbers, the table beside oracle and chance, and notes."""
    rivals = {who: found[who] for who in ("oracle", "chance") if found.get(who)}
    metrics = found["metrics"]
    tiles = []
    for key, what, unit, most in (
        ("t2v_R@1", "text → visual, R@1", "%", 100),
        ("v2t_R@1", "visual → text, R@1", "%", 100),
        ("rsum", "rsum, all recalls together", "", 600),
    ):
        value = metrics.get(key)
        if value is None or not math.isfinite(value):
            continue
        oracle = rivals.get("oracle", {}).get(key)
        beside = [f"{who} {_number(rival[key], key)}" for who, rival in rivals.items() if rival.get(key) is not None]
        if oracle:
            beside.insert(0, f"{100 * value / oracle:.0f} % of")
        share = max(0.0, min(100.0, 100 * value / (oracle or most)))
        text = ", ".join(beside).replace("% of, ", "% of ")
        tiles.append(
            {"what": what, "value": _number(value, key), "unit": unit, "share": f"{share:.1f}", "beside": text}
        )
    names = dict.fromkeys(key[4:] for key in metrics if key[:4] in ("t2v_", "v2t_"))
    order = {column: i for i, column in enumerate(COLUMNS)}
    ordered = sorted(names, key=lambda n: order.get("NDCG" if n.startswith("NDCG@") else n, len(COLUMNS)))
    directions = []
    for direction, label in DIRECTIONS.items():
        rows = [
            (who, [_number(numbers.get(f"{direction}_{column}"), column) for column in ordered])
            for who, numbers in {"model": metrics, **rivals}.items()
            if any(f"{direction}_{column}" in numbers for column in ordered)
        ]
        if rows:
            directions.append((label, rows))
    ids, tied = found.get("ids"), found.get("tied") or {}
    notes = [
        ("protocol", found.get("protocol"), None),
        ("visuals", f"{found['visuals']:,}" if "visuals" in found else None, None),
        ("texts", f"{found['texts']:,}" if "texts" in found else None, None),
        *((f"tied queries, {DIRECTIONS.get(way, way)}", f"{100 * share:.3g} %", None) for way, share in tied.items()),
        ("truncated texts", f"{found['truncated']:,}" if found.get("truncated") else None, None),
        ("finite", None if found.get("finite", True) else "NO: embeddings or scores are not numbers", None),
        ("ids", ids[:12] if ids else None, ids),
    ]
    columns = [
        {"tau": "τ", "R-Precision": "R-Prec"}.get(n, n) + (" %" if n.startswith(PERCENT) else "") for n in ordered
    ]
    notes = [note for note in notes if note[1] is not None]
    return {"name": name, "tiles": tiles, "columns": columns, "directions": directions, "notes": notes}


def _examples(name: str, found: dict, thumbs) -> Iterable[dict]:
    """An evaluation's example queries as groups (best, worst) × direction."""

    def picture(position) -> str | None:
        data = thumbs(name, position) if position is not None else None
        if not data:
            return None
        return _data_uri("image/png" if data.startswith(b"\x89PNG") else "image/jpeg", data)

    shown = {
        "best": ("Best queries", "whose right answer ranks highest"),
        "worst": ("Worst queries", "whose right answer ranks lowest"),
    }
    for kind, (title, explanation) in shown.items():
        for direction, label in DIRECTIONS.items():
            chosen = [e for e in found.get("examples") or [] if (e["kind"], e["direction"]) == (kind, direction)]
            examples = [
                {
                    "query": example["query"],
                    "image": picture(example.get("visual")),
                    "rank": example["rank"],
                    "rank_text": f"{example['rank']:,}",
                    "texts": direction == "v2t",
                    "found": [
                        {
                            "name": item.get("name", ""),
                            "image": picture(item.get("visual")) if direction == "t2v" else None,
                            "score": f"{item['score']:.3f}",
                            "right": item["right"],
                        }
                        for item in example["retrieved"]
                    ],
                }
                for example in chosen
            ]
            if examples:
                yield {"title": f"{title} on {name}, {label}", "explanation": explanation, "examples": examples}


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
