"""The report of a run: one static page with its configuration, curves, results, and what chosen queries found.

Reads what the run left in its workdir (`config.json`, `metrics.jsonl`, `result.json`), also while training goes on.
"""

import functools
import os
import pathlib
import types
from collections.abc import Callable, Sequence

from vlr_jax import curves, files, page, page_moment, page_retrieval


def write(
    workdir: str | os.PathLike,
    *,
    thumbs: Callable[[str, int], bytes | None],
    frames: Callable[[str, int], Sequence[bytes]] = lambda name, position: (),
) -> pathlib.Path:
    """Write `report.html` into the workdir; a section for which the run has nothing yet is left out.

    Args:
        workdir: of a run, finished or not.
        thumbs: `(evaluation's name, position of a visual in its split)` → JPEG or PNG bytes; None or empty where there
            is no picture, then the visual's name is shown.
        frames: the same of a video → encoded frames, evenly spread over it; none where none were kept.

    Returns:
        The page's path. A page that was there is replaced in one move.

    Raises:
        ValueError: the folder holds nothing of a run, or one of its files cannot be read.
        OSError: the page cannot be written.
    """
    folder = pathlib.Path(workdir).resolve()
    config, result, lines = page.read(folder)
    evals = result.get("evals", {})
    pictures = lambda name: page.Pictures(functools.partial(thumbs, name), functools.partial(frames, name))
    html = page.render(
        "report.html.jinja",
        head=_head(folder.name, config, result, lines),
        config=_groups(config),
        splits=[
            {"name": name, "part": part(found).NAME, **part(found).results(name, found)}
            for name, found in evals.items()
        ],
        result_step=f"{result['step']:,}" if "step" in result else None,
        curves=[
            {"title": title, "image": page.data_uri("image/svg+xml", curves.draw(series, reference))}
            for title, series, reference in curves.charts(lines, evals)
        ],
        queries=[
            {"name": name, "part": part(found).NAME, **part(found).examples(name, found, config, pictures(name))}
            for name, found in evals.items()
            if found.get("examples")
        ],
        opened=[name for name, found in evals.items() if found.get("examples")][-1:],
        shades=page.legend(),
    )
    return files.write(folder / "report.html", html)


def part(found: dict) -> types.ModuleType:
    """Who shows an evaluation: `page_moment`, where it has a short list of moment retrieval, or `page_retrieval`."""
    return page_moment if page_moment.holds(found) else page_retrieval


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
