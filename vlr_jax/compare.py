"""Two runs side by side on one page: `python -m vlr_jax.compare runs/A runs/B --output compare.html`.

Reads the files of the runs alone; pictures are shown where the prepared data still are where the runs found them.
"""

import argparse
import os
import pathlib
import sys
import types
from typing import NamedTuple

from vlr_jax import curves, files, page, page_retrieval, pipeline, report
from vlr_jax import text as texts

LOWER_IS_BETTER = ("medR", "meanR")


class Run(NamedTuple):
    """A run's folder, its shortest name that tells it from the other, and what its files hold."""

    folder: pathlib.Path
    name: str
    config: dict
    result: dict
    lines: list[dict]


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and writes the page; 0, or 2 with one line on stderr where the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m vlr_jax.compare", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs=2, metavar="RUN", help="the workdirs of two runs, finished or not")
    parser.add_argument("--output", default="compare.html", help="the page; default compare.html")
    options = parser.parse_args(arguments)
    try:
        runs = read(*options.runs)
        path = write(*runs, options.output)
    except (ValueError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    print(table(*runs))
    print(f"page: {path}")
    return 0


def read(a: str | os.PathLike, b: str | os.PathLike) -> tuple[Run, Run]:
    """Two runs from their workdirs.

    Raises:
        ValueError: a folder holds nothing of a run, or one of its files cannot be read, or both are one, or the runs
            are of different tasks.
    """
    folders = [pathlib.Path(folder).resolve() for folder in (a, b)]
    if folders[0] == folders[1]:
        raise ValueError(f"{a} and {b} are the same run; name two")
    parts = 1
    while folders[0].parts[-parts:] == folders[1].parts[-parts:]:
        parts += 1
    runs = tuple(Run(folder, "/".join(folder.parts[-parts:]), *page.read(folder)) for folder in folders)
    tasks = [_task(run) for run in runs]
    if tasks[0] != tasks[1]:
        raise ValueError(
            f"{runs[0].name} is a run of task {tasks[0]}, {runs[1].name} of task {tasks[1]}: they measure different "
            "things and have no number in common; name two runs of one task"
        )
    return runs


def _task(run: Run) -> str:
    """What its config says, or where that is not there what was evaluated."""
    kinds = [report.part(found).NAME for found in run.result.get("evals", {}).values()]
    return run.config.get("task") or ("moment" if "moment" in kinds else "retrieval")


def write(a: Run, b: Run, output: str | os.PathLike) -> pathlib.Path:
    """Writes the page that shows both runs.

    Raises:
        OSError: it cannot be written.
    """
    both, warned, evaluations = pairs(a, b), warnings(a, b), []
    for names in both:
        evaluations.append(_numbers(a, b, names) | (_queries(a, b, names) if comparable(a, b, names) else {}))
    different, equal = _configs(a, b)
    html = page.render(
        "compare.html.jinja",
        runs=[
            {"letter": letter, "name": run.name, "on_test": page.selected_on_test(run.result)}
            for letter, run in (("A", a), ("B", b))
        ],
        facts=_facts(a, b),
        warnings=warned,
        evaluations=evaluations,
        different=different,
        equal=equal,
        curves=[
            {
                "title": title,
                "image": page.data_uri("image/svg+xml", curves.draw(series, {}, dashes=True)),
                "head": head,
            }
            for title, series, head in curves.overlays({"A": a.lines, "B": b.lines})
        ],
        notes=_notes(a, b),
        shades=page.legend(),
    )
    return files.write(output, html)


def pairs(a: Run, b: Run) -> list[tuple[str, str]]:
    """Evaluations of both runs that belong together: those of one name, then those of the same ids and metrics."""
    left, right = (run.result.get("evals", {}) for run in (a, b))
    found = [(name, name) for name in left if name in right and report.part(left[name]) is report.part(right[name])]
    for name in (name for name in left if name not in right):
        others = (other for other in right if other not in left and other not in {two for _, two in found})
        found += [(name, other) for other in others if _kin(left[name], right[other])][:1]
    return found


def _kin(one: dict, two: dict) -> bool:
    return (
        bool(one.get("ids")) and one["ids"] == two.get("ids") and not one["metrics"].keys().isdisjoint(two["metrics"])
    )


def comparable(a: Run, b: Run, names: tuple[str, str]) -> bool:
    """Both evaluations ranked the same candidates under the same protocol."""
    one, two = (run.result["evals"][name] for run, name in zip((a, b), names, strict=True))
    return one.get("ids") == two.get("ids") and one.get("protocol") == two.get("protocol")


def compares(a: Run, b: Run, names: tuple[str, str], metric: str) -> bool:
    """A metric of two evaluations is of the same candidates, and of the same grades or judgments if it is of any."""
    if not comparable(a, b, names):
        return False
    one, two = (run.result["evals"][name].get("judgments") or {} for run, name in zip((a, b), names, strict=True))
    judged = [kind for kind in {**one, **two} if f"{kind}_" in metric]
    if judged:
        return all(one.get(kind) == two.get(kind) for kind in judged)
    return not _graded(metric) or len(set(_grades(a, b, names))) == 1


def _graded(metric: str) -> bool:
    return "NDCG" in metric or metric.endswith("tau")


def _grades(a: Run, b: Run, names: tuple[str, str]) -> list[str]:
    """What the graded relevance of two evaluations is, in words."""
    return [
        page_retrieval.grades(name, run.result["evals"][name], run.config)
        for run, name in zip((a, b), names, strict=True)
    ]


def warnings(a: Run, b: Run) -> list[str]:
    """Why numbers of the two runs should not be held against each other; empty where nothing is known against it."""
    found = []
    for letter, run in (("A", a), ("B", b)):
        if not run.result:
            found.append(f"{letter} has no result yet: it is not finished")
        if page.selected_on_test(run.result):
            found.append(f"{letter} is selected on test, by {page.selected_on(run.result)}: its numbers are too good")
    chosen = [page.selected_on(run.result) for run in (a, b)]
    if chosen[0] != chosen[1] and all(chosen):
        found.append(f"the checkpoints were picked in different ways: A by {chosen[0]}, B by {chosen[1]}")
    both = pairs(a, b)
    for letter, run, at in (("A", a, 0), ("B", b, 1)):
        alone = [name for name in run.result.get("evals", {}) if name not in {names[at] for names in both}]
        if alone and a.result and b.result:
            found.append(f"only {letter} has the evaluation {', '.join(alone)}")
    for names in both:
        found += [f"{' and '.join(dict.fromkeys(names))}: {words}" for words in _differences(a, b, names)]
    return found


def _differences(a: Run, b: Run, names: tuple[str, str]) -> list[str]:
    """What differs in how two evaluations measured."""
    one, two = (run.result["evals"][name] for run, name in zip((a, b), names, strict=True))
    asked = [run.config.get("evals", {}).get(name, {}) for run, name in zip((a, b), names, strict=True)]
    found = []
    if one.get("ids") != two.get("ids"):
        sizes = [f"{e.get('visuals', 0):,} visuals, {e.get('texts', 0):,} texts" for e in (one, two)]
        found.append(f"other candidates (A {sizes[0]}; B {sizes[1]}; ids differ), so the numbers are not comparable")
    if one.get("protocol") != two.get("protocol"):
        words = f"protocol {one.get('protocol')} in A, {two.get('protocol')} in B"
        found.append(f"{words}, so the numbers are not comparable")
    splits = [
        (run.config.get("data", {}) | e.get("data", {})).get("split") for run, e in zip((a, b), asked, strict=True)
    ]
    if splits[0] != splits[1]:
        found.append(f"split {splits[0]} in A, {splits[1]} in B")
    grades, judged = _grades(a, b, names), [e.get("judgments") or {} for e in (one, two)]
    if grades[0] != grades[1] and not any(judged) and any(map(_graded, one["metrics"])):
        found.append(f"NDCG and tau are of other grades: {grades[0]} in A, {grades[1]} in B")
    for kind in (kind for kind in {**judged[0], **judged[1]} if judged[0].get(kind) != judged[1].get(kind)):
        words = [", ".join(f"{n:,} {what}" for what, n in j.get(kind, {}).items()) or "none" for j in judged]
        found.append(f"other judgments, {kind}: {words[0]} in A; {words[1]} in B")
    for letter, e in (("A", one), ("B", two)):
        if not e.get("finite", True):
            found.append(f"embeddings or scores of {letter} are not numbers")
    return found


def difference(one: float | None, two: float | None, metric: str) -> dict:
    """`two − one` for the page: its words, and whether two is `better`, `worse` or the `same`, in words and a mark."""
    if page.number(one, metric) == "–" or page.number(two, metric) == "–":
        return {"text": "–", "kind": "same", "mark": ""}
    places = page.decimals(metric) if not (metric.endswith("medR") and one == int(one) and two == int(two)) else 0
    value = round(two - one, places)
    kind = "same" if not value else "better" if (value < 0) == metric.endswith(LOWER_IS_BETTER) else "worse"
    text = f"{value:+,.{places}f}".replace("-", "−") if value else f"{0:.{places}f}"
    return {"text": text, "kind": kind, "mark": {"better": "▲", "worse": "▼", "same": ""}[kind]}


def _numbers(a: Run, b: Run, names: tuple[str, str]) -> dict:
    """The tiles and the table of two evaluations."""
    one, two = (run.result["evals"][name] for run, name in zip((a, b), names, strict=True))

    def row(key):
        left, right = one["metrics"].get(key), two["metrics"].get(key)
        change = difference(left, right if compares(a, b, names, key) else None, key)
        return {"a": page.number(left, key), "b": page.number(right, key), "difference": change}

    return {
        "name": " and ".join(dict.fromkeys(names)),
        "comparable": comparable(a, b, names),
        **_part(a, names).numbers(one, two, row),
    }


def _part(a: Run, names: tuple[str, str]) -> types.ModuleType:
    """Who shows a pair of evaluations; those of other kinds are no pair."""
    return report.part(a.result["evals"][names[0]])


def _facts(a: Run, b: Run) -> list[tuple[str, str, str]]:
    one, two = (page.facts(run.config, run.result, run.lines) for run in (a, b))
    return [(key, one.get(key, "–"), two.get(key, "–")) for key in {**one, **two}]


def _configs(a: Run, b: Run) -> tuple[list[tuple[str, str, str]], int]:
    """Keys of the configs that differ with both values, and the number of those that do not."""
    one, two = (dict(page.flat(run.config)) if run.config else {} for run in (a, b))
    keys = list({**one, **two})
    different = [(key, one.get(key, "–"), two.get(key, "–")) for key in keys if one.get(key) != two.get(key)]
    return different, len(keys) - len(different)


def _notes(a: Run, b: Run) -> list[str]:
    """What to know when curves of the two are read together."""
    found, batch = [], [run.config.get("batch_size") for run in (a, b)]
    if a.config.get("losses") != b.config.get("losses"):
        found.append("the losses are different functions: their values do not compare")
    if batch[0] != batch[1] and all(batch):
        found.append(f"a step is {batch[0]} pairs in A and {batch[1]} in B")
    return found


def _queries(a: Run, b: Run, names: tuple[str, str]) -> dict:
    """The queries that both runs kept, the sample first, with what each found; whether there are pictures."""
    part, found = _part(a, names), [run.result["evals"][name] for run, name in zip((a, b), names, strict=True)]

    def kept(examples):
        ordered = sorted(examples or [], key=lambda e: (e.get("direction", "t2v") != "t2v", e["kind"] != "sample"))
        return {part.key(example): example for example in reversed(ordered)}

    one, two = (kept(e.get("examples")) for e in found)
    common = [key for key in reversed(one) if key in two]
    pictures = (_pictures(a, names[0]) or _pictures(b, names[1])) if common else None
    runs = {letter: (name, e, run.config) for letter, name, e, run in zip("AB", names, found, (a, b), strict=True)}
    pairs_of = [(one[key], two[key]) for key in common]
    shown = part.same(pairs_of, runs, pictures or page.Pictures(lambda i: None, lambda i: ()))
    return {"part": part.NAME, "pictured": pictures is not None or not common, **shown}


def _pictures(run: Run, name: str) -> page.Pictures | None:
    """The pictures of an evaluation's visuals; None where the data are gone, or are others than evaluated."""
    try:
        tokenizer = texts.from_json((run.folder / "tokenizer.json").read_text(encoding="utf-8"))
        split = pipeline.open_split(run.config["data"] | run.config["evals"][name].get("data", {}), tokenizer)
    except (OSError, ValueError, KeyError):
        return None
    if split.ids_hash != run.result["evals"][name].get("ids"):
        return None
    return page.Pictures(split.thumbs, split.frames)


def table(a: Run, b: Run) -> str:
    """Both results as text."""
    rows = [f"A  {a.name}", f"B  {b.name}", *(f"WARNING: {words}" for words in warnings(a, b))]
    for names in pairs(a, b):
        numbers = [run.result["evals"][name]["metrics"] for run, name in zip((a, b), names, strict=True)]
        rows += [
            "",
            f"{' and '.join(dict.fromkeys(names)):22}" + "".join(f"{title:>10}" for title in ("A", "B", "B − A")),
        ]
        for metric in {**numbers[0], **numbers[1]}:
            values = [found.get(metric) for found in numbers]
            change = difference(values[0], values[1] if compares(a, b, names, metric) else None, metric)["text"]
            rows.append(f"{metric:22}" + "".join(f"{page.number(v, metric):>10}" for v in values) + f"{change:>10}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
