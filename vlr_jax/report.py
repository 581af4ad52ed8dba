"""The report of a run: one static page with its configuration, curves, results, and what chosen queries found.

Reads what the run left in its workdir (`config.json`, `metrics.jsonl`, `result.json`), also while training goes on.
"""

import math
import os
import pathlib
from collections.abc import Callable

from vlr_jax import curves, files, page

KINDS = {
    "best": ("Best", "whose right answer ranks highest"),
    "worst": ("Worst", "whose right answer ranks lowest"),
    "sample": ("Sample", "spread over the split, the same for every model"),
}


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
    config, result, lines = page.read(folder)
    evals = result.get("evals", {})
    html = page.render(
        "report.html.jinja",
        head=_head(folder.name, config, result, lines),
        config=_groups(config),
        splits=[_split(name, found) for name, found in evals.items()],
        result_step=f"{result['step']:,}" if "step" in result else None,
        curves=[
            {"title": title, "image": page.data_uri("image/svg+xml", curves.draw(series, reference))}
            for title, series, reference in curves.charts(lines, evals)
        ],
        queries=[_queries(name, found, config, thumbs) for name, found in evals.items() if found.get("examples")],
        opened=list(evals)[-1:],
        shades=page.legend(),
    )
    return files.write(folder / "report.html", html)


def _head(title: str, config: dict, result: dict, lines: list[dict]) -> dict:
    step, total = lines[-1]["step"] if lines else result.get("step", 0), config.get("steps")
    return {
        "title": title,
        "step": f"{step:,}",
        "state": ("finished" if step >= total else "unfinished") if total else None,
        "warning": "selected on test" if page.selected_on_test(result) else None,
        "facts": list(page.facts(config, result, lines).items()),
    }


def _groups(config: dict) -> list[tuple[str, list[tuple[str, str]]]]:
    """Config → (heading, [(dotted key, value)]); plain values first, under `run`."""
    plain = [entry for key, value in config.items() if not isinstance(value, dict) for entry in page.flat(value, key)]
    groups = [(key, list(page.flat(value))) for key, value in config.items() if isinstance(value, dict) and value]
    return ([("run", plain)] if plain else []) + groups


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
        beside = [
            f"{who} {page.number(rival[key], key)}" for who, rival in rivals.items() if rival.get(key) is not None
        ]
        if oracle:
            beside.insert(0, f"{100 * value / oracle:.0f} % of")
        share = max(0.0, min(100.0, 100 * value / (oracle or most)))
        text = ", ".join(beside).replace("% of, ", "% of ")
        tiles.append(
            {"what": what, "value": page.number(value, key), "unit": unit, "share": f"{share:.1f}", "beside": text}
        )
    ordered = page.columns(metrics)
    directions = []
    for direction, label in page.DIRECTIONS.items():
        rows = [
            (who, [page.number(numbers.get(f"{direction}_{column}"), column) for column in ordered])
            for who, numbers in {"model": metrics, **rivals}.items()
            if any(f"{direction}_{column}" in numbers for column in ordered)
        ]
        if rows:
            directions.append((label, rows))
    ids, tied = found.get("ids"), found.get("tied") or {}
    notes = [
        *((key, found.get(key), None) for key in ("protocol", "gallery")),
        ("visuals", f"{found['visuals']:,}" if "visuals" in found else None, None),
        ("texts", f"{found['texts']:,}" if "texts" in found else None, None),
        *(
            (f"tied queries, {page.DIRECTIONS.get(way, way)}", f"{100 * share:.3g} %", None)
            for way, share in tied.items()
        ),
        ("truncated texts", f"{found['truncated']:,}" if found.get("truncated") else None, None),
        ("finite", None if found.get("finite", True) else "NO: embeddings or scores are not numbers", None),
        ("ids", ids[:12] if ids else None, ids),
    ]
    notes = [note for note in notes if note[1] is not None]
    return {
        "name": name,
        "tiles": tiles,
        "columns": [page.heading(column) for column in ordered],
        "directions": directions,
        "further": [
            (key, [page.number(numbers.get(key), key) for numbers in (metrics, *rivals.values())])
            for key in page.further(metrics)
        ],
        "rivals": list(rivals),
        "notes": notes,
    }


def _queries(name: str, found: dict, config: dict, thumbs) -> dict:
    """An evaluation's example queries as groups direction × (best, worst, sample), and what their grades mean."""
    groups = []
    for direction, label in page.DIRECTIONS.items():
        for kind, (title, explanation) in KINDS.items():
            shown = [
                page.query(example, lambda position: thumbs(name, position))
                for example in found["examples"]
                if (example["kind"], example["direction"]) == (kind, direction)
            ]
            if shown:
                groups.append({"title": f"{title}, {label}", "explanation": explanation, "examples": shown})
    return {"name": name, "groups": groups, "meaning": page.meaning(name, found, config)}
