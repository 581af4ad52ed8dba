"""What pages show of an evaluation of retrieval: numbers by direction, and what example queries retrieved."""

import math
from collections.abc import Callable, Iterable

from vlr_jax import page

NAME = "retrieval"  # of its template
DIRECTIONS = {"t2v": "text → visual", "v2t": "visual → text"}
COLUMNS = ("R@1", "R@5", "R@10", "medR", "meanR", "NDCG", "tau", "mAP@R", "R-Precision")
PERCENT = ("R@", "mAP@R", "R-Precision")
GRADES = {
    "facts": "the share of the text's facts that are true in the visual",
    "caption": "how close the text is to the visual's own captions, from 0 to 1",
    "caption_cosine": "the best cosine of the text with the visual's own captions",
}
KINDS = {
    "best": ("Best", "whose right answer ranks highest"),
    "worst": ("Worst", "whose right answer ranks lowest"),
    "sample": ("Sample", "spread over the split, the same for every model"),
}

TILES = {"t2v_R@1": "text → visual, R@1 %", "v2t_R@1": "visual → text, R@1 %", "rsum": "rsum, all recalls together"}


def results(name: str, found: dict) -> dict:
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
    ordered = columns(metrics)
    directions = []
    for direction, label in DIRECTIONS.items():
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
        *((f"tied queries, {DIRECTIONS.get(way, way)}", f"{100 * share:.3g} %", None) for way, share in tied.items()),
        ("truncated texts", f"{found['truncated']:,}" if found.get("truncated") else None, None),
        ("finite", None if found.get("finite", True) else "NO: embeddings or scores are not numbers", None),
        ("ids", ids[:12] if ids else None, ids),
    ]
    notes = [note for note in notes if note[1] is not None]
    return {
        "name": name,
        "tiles": tiles,
        "columns": [heading(column) for column in ordered],
        "directions": directions,
        "further": [
            (key, [page.number(numbers.get(key), key) for numbers in (metrics, *rivals.values())])
            for key in further(metrics)
        ],
        "rivals": list(rivals),
        "notes": notes,
    }


def examples(name: str, found: dict, config: dict, pictures: page.Pictures) -> dict:
    """An evaluation's example queries as groups direction × (best, worst, sample), and what their grades mean."""
    groups = []
    for direction, label in DIRECTIONS.items():
        for kind, (title, explanation) in KINDS.items():
            shown = [
                query(example, pictures.thumb)
                for example in found["examples"]
                if (example["kind"], example["direction"]) == (kind, direction)
            ]
            if shown:
                groups.append({"title": f"{title}, {label}", "explanation": explanation, "examples": shown})
    return {"groups": groups, "meaning": meaning(name, found, config)}


def numbers(one: dict, two: dict, row: Callable[[str], dict]) -> dict:
    """Two evaluations → tiles and tables of both; `row(metric)` are its values in words, and how they differ."""
    every = {**one["metrics"], **two["metrics"]}
    ordered = columns(every)
    groups = [
        (label, [row(f"{direction}_{column}") for column in ordered])
        for direction, label in DIRECTIONS.items()
        if any(f"{direction}_{column}" in every for column in ordered)
    ]
    return {
        "tiles": [{"what": what} | row(key) for key, what in TILES.items() if key in every],
        "tables": [{"columns": [heading(column) for column in ordered], "groups": groups}] if groups else [],
        "further": [{"what": key} | row(key) for key in further(every)],
        "folded": [],
    }


def key(example: dict) -> tuple:
    """What tells whether examples of two runs are the same query."""
    return example["direction"], example.get("text"), example.get("visual"), example["query"]


def same(both: list[tuple[dict, dict]], runs: dict[str, tuple[str, dict, dict]], pictures: page.Pictures) -> dict:
    """Pairs of examples of the same queries as groups by direction, and what their grades mean.

    Args:
        both: what each run retrieved for a query.
        runs: letter → (evaluation's name, what was found, config).
        pictures: of the split.
    """
    groups = []
    for direction, label in DIRECTIONS.items():
        shown = [
            {letter: query(example, pictures.thumb) for letter, example in zip("ab", pair, strict=True)}
            for pair in both
            if pair[0]["direction"] == direction
        ]
        if shown:
            groups.append({"title": label, "examples": shown})
    return {"groups": groups, "meaning": meaning(*runs["A"])}


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
        return page.picture(thumbs(item["visual"])) if item.get("visual") is not None else None

    def item(one):
        grade = one.get("grade")
        colours = page.shade(grade) if grade is not None else None
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
