"""How a model's scores agree with people: Flickr8k's Expert and CrowdFlower grades, and CxC's similarities.

Correlations are over judged pairs, all queries together, as the field reports them (CLIPScore, 2104.08718): Expert with
every rating an observation of its own (a pair's score is repeated for its three raters) and without captions judged
against the image they were written for; CrowdFlower with the share of yes, all pairs. NDCG is per query over its judged
candidates, by the mean grade. NaN scores count as equal and last.
"""

import csv
import pathlib
import re
from typing import NamedTuple

import numpy as np

from vlr_jax import metrics

SAMPLES = 1000  # bootstrap samples of CxC


class Rows(NamedTuple):
    """A file of judgments: N image names, N caption ids `image#k`, and float `[N, R]` grades of R raters in [0, 1]."""

    visuals: list[str]
    captions: list[str]
    grades: np.ndarray


class Judged(NamedTuple):
    """Judgments of a split: places of visuals and texts, int64 `[N]`; float `[N, R]` grades; and the rows left out.

    `own` rows are captions judged against their own image, `unknown` rows are about images or captions of other splits.
    """

    visuals: np.ndarray
    texts: np.ndarray
    grades: np.ndarray
    own: int
    unknown: int


def read_expert(path) -> Rows:
    """`ExpertAnnotations.txt`: image, caption id, three ratings 1 to 4; a grade is (rating − 1) / 3."""
    rows = _read(path, "image, caption#k and three ratings 1 to 4")
    ratings = np.array([row[2:5] for row in rows], float)
    if not np.isin(ratings, (1, 2, 3, 4)).all():
        raise ValueError(f"{path} holds ratings other than 1, 2, 3 and 4")
    return Rows([row[0] for row in rows], [row[1] for row in rows], (ratings - 1) / 3)


def read_crowdflower(path) -> Rows:
    """`CrowdFlowerAnnotations.txt`: image, caption id, share of yes, yes, no; the grade is the share."""
    rows = _read(path, "image, caption#k, share of yes, number of yes, number of no")
    yes, no = np.array([row[3:5] for row in rows], float).T
    if np.any(yes + no <= 0) or np.any(np.abs(yes / (yes + no) - [float(row[2]) for row in rows]) > 1e-5):
        raise ValueError(f"{path} holds shares of yes that are not those of its counts")
    return Rows([row[0] for row in rows], [row[1] for row in rows], (yes / (yes + no))[:, None])


# Reader, and whether a caption judged against its own image counts.
KINDS = {"expert": (read_expert, False), "crowdflower": (read_crowdflower, True)}


def _read(path, form: str) -> list[list[str]]:
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"no file {path}")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        wrong = not rows or any(len(row) != 5 or "#" not in row[1] or not [float(x) for x in row[2:]] for row in rows)
    except ValueError:
        wrong = True
    if wrong:
        raise ValueError(f"{path} is not a file of judgments: expected lines of {form}, separated by tabs")
    return rows


def locate(rows: Rows, names: list[str], text_visual: np.ndarray, *, own: bool, partial: bool = False) -> Judged:
    """Judgments as places in a split.

    Args:
        rows: from a reader.
        names: the image of each visual.
        text_visual: int `[T]`, the visual of each text; caption `image#k` is the k-th text of that visual, from 0.
        own: keep captions judged against the image they were written for.
        partial: leave out rows about what the split does not have, rather than refuse them.

    Raises:
        ValueError: rows about other images or captions, a pair twice, or nothing left.
    """
    place = {name: i for i, name in enumerate(names)}
    count = np.bincount(text_visual, minlength=len(names))
    order = np.argsort(text_visual, kind="stable")
    first, found = np.cumsum(count) - count, []
    for image, caption in zip(rows.visuals, rows.captions, strict=True):
        source, _, k = caption.rpartition("#")
        visual, writer = place.get(image, -1), place.get(source, -1)
        there = writer >= 0 and k.isdecimal() and int(k) < count[writer]
        found.append((visual, order[first[writer] + int(k)] if there else -1, visual == writer))
    visuals, texts, mine = np.array(found, np.int64).T
    known = (visuals >= 0) & (texts >= 0)
    if not known.all() and not partial:
        row = int(np.flatnonzero(~known)[0])
        raise ValueError(
            f"{np.count_nonzero(~known):,} of {len(known):,} judgments are about images or captions that the "
            f"{len(names):,} visuals here do not have, the first: {rows.visuals[row]} with {rows.captions[row]}; "
            "expected the split that was judged, or partial=True"
        )
    kept = known & (own | (mine == 0))
    if not kept.any():
        raise ValueError(f"none of {len(known):,} judgments is about the {len(names):,} visuals here")
    if len(np.unique(np.stack([visuals, texts])[:, kept], axis=1).T) < kept.sum():
        raise ValueError("a pair of image and caption is judged in two rows")
    left = int(np.count_nonzero(known & ~kept))
    return Judged(visuals[kept], texts[kept], rows.grades[kept], left, int(np.count_nonzero(~known)))


def load(files: dict, names: list[str], text_visual: np.ndarray, *, partial: bool = False) -> dict[str, Judged]:
    """Reads the files of judgments by their kind, `expert` or `crowdflower`, as places in a split (`locate`)."""
    if not files:
        raise ValueError(f"no file of judgments; give {' or '.join(KINDS)}")
    found = {}
    for kind, path in files.items():
        reader, own = KINDS[kind]
        found[kind] = locate(reader(path), names, text_visual, own=own, partial=partial)
    return found


def counts(judged: Judged) -> dict[str, int]:
    """How many rows of a file are `used`, and left out as `own` or `unknown`."""
    return {"used": len(judged.texts), "own": judged.own, "unknown": judged.unknown}


def measure(name: str, scores: np.ndarray, judged: Judged) -> dict[str, float]:
    """Agreement of scores `[N]` with grades `[N, R]`.

    Returns:
        `{name}_tau_b`, `{name}_tau_c`, `{name}_spearman` in [−1, 1], 0 if all scores are equal; `v2t_{name}_NDCG` (a
        visual's judged texts), `t2v_{name}_NDCG` (a text's judged visuals) in [0, 1], and `{name}_NDCG`, their mean.

    Raises:
        ValueError: all grades are equal.
    """
    raters, grades = judged.grades.shape[1], judged.grades.ravel()
    if (grades == grades[0]).all():
        raise ValueError(f"all {len(grades):,} grades of {name} are equal: no order can agree with them")
    levels = _levels(scores)
    repeated = np.repeat(levels, raters)
    row, graded = repeated[None].astype(np.float32), grades[None]  # levels are below 2²⁴: exact
    values = {
        f"{name}_tau_b": float(metrics.kendall_tau(row, graded)[0]),
        f"{name}_tau_c": float(metrics.kendall_tau_c(row, graded)[0]),
        f"{name}_spearman": spearman(repeated, grades),
    }
    return values | _ndcgs(name, judged, lambda queries, gains: ndcg(queries, levels, gains))


def chance(name: str, judged: Judged) -> dict[str, float]:
    """`measure` in expectation over random orders."""
    none = {f"{name}_{kind}": 0.0 for kind in ("tau_b", "tau_c", "spearman")}
    return none | _ndcgs(name, judged, lambda queries, gains: ndcg(queries, None, gains))


def _ndcgs(name: str, judged: Judged, value) -> dict[str, float]:
    gains = np.exp2(judged.grades.mean(1)) - 1
    found = {d: value(queries, gains) for d, queries in (("v2t", judged.visuals), ("t2v", judged.texts))}
    each = {f"{d}_{name}_NDCG": float(v.mean()) if len(v) else 0.0 for d, v in found.items()}
    return each | {f"{name}_NDCG": sum(each.values()) / 2}


def ndcg(queries: np.ndarray, scores: np.ndarray | None, gains: np.ndarray) -> np.ndarray:
    """NDCG without cut-off of every query whose candidates differ in gain: any order of the others is right.

    DCG = Σ gain / log₂(1 + place); equal scores are ordered by ascending gain (against the model).

    Args:
        queries: int `[N]`, the query of each judged pair.
        scores: `[N]`, no NaN; None for the expectation over random orders.
        gains: `[N]`, not negative, 2^grade − 1 (Burges et al. 2005).
    """
    _, queries, sizes = np.unique(queries, return_inverse=True, return_counts=True)
    discounts = 1 / np.log2(np.arange(len(gains)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 2)

    def dcg(order):
        return np.bincount(queries[order], gains[order] * discounts)

    ideal = dcg(np.lexsort((-gains, queries)))
    if scores is None:
        reached = np.bincount(queries, gains) / sizes * np.bincount(np.sort(queries), discounts)
    else:
        reached = dcg(np.lexsort((gains, -scores, queries)))
    differ = np.full(len(sizes), -np.inf), np.full(len(sizes), np.inf)
    np.maximum.at(differ[0], queries, gains)
    np.minimum.at(differ[1], queries, gains)
    differ = differ[0] > differ[1]
    return reached[differ] / ideal[differ]


def spearman(scores: np.ndarray, grades: np.ndarray) -> float:
    """Spearman's rho of `[N]` values: Pearson's r of mid-ranks; 0 where either is constant. NaN is lowest."""
    return _rho(_levels(scores), _levels(grades))


def _rho(*levels: np.ndarray) -> float:
    """`spearman` of whole numbers, 0 or more."""
    ranks = []
    for values in levels:
        counts = np.bincount(values)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[values] - (len(values) + 1) / 2)
    a, b = ranks
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _levels(scores: np.ndarray) -> np.ndarray:
    """Scores as whole numbers of the same order, equal where equal; NaN as the lowest."""
    return np.unique(np.where(np.isnan(scores), -np.inf, scores), return_inverse=True)[1]


# ---- Crisscrossed Captions: similarities of COCO pairs, also within one modality

SIDES = {"sits": (1, 0), "sis": (0, 0), "sts": (1, 1)}  # of the two columns: 0 for visuals, 1 for texts
CXC = {("caption", "image"): "sits", ("image1", "image2"): "sis", ("caption1", "caption2"): "sts"}


def read_cxc(path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """A csv of CxC: (`sits`, `sis` or `sts`; the ids of the first column; of the second; float `[N]` similarities).

    Raises:
        ValueError: no such file, or other columns.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"no file {path}")
    with open(path, newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        head = next(lines, [])
        kind = CXC.get(tuple(head[:2]))
        if kind is None or head[2:3] != ["agg_score"]:
            raise ValueError(f"{path} has the columns {head}; expected {' or '.join(map(str, CXC))}, then agg_score")
        rows = [line[:3] for line in lines]
    try:
        first, second = ([int(re.search(r"(\d+)(?:\.\w+)?$", row[i])[1]) for row in rows] for i in (0, 1))
        return kind, np.array(first), np.array(second), np.array([float(row[2]) for row in rows])
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{path} has rows that are not two COCO names and a similarity: {error}") from error


def locate_cxc(path, visual_ids, text_ids, *, partial: bool = False) -> tuple[str, list[np.ndarray], np.ndarray, int]:
    """A csv of CxC as places in a split.

    Args:
        visual_ids, text_ids: COCO ids in the order of the data, or names that end in them; None where not known.
        partial: leave out pairs about what the data do not have, rather than refuse them.

    Returns:
        `sits`, `sis` or `sts`; int `[N]` places of both columns; float `[N]` similarities; the number of rows left out.

    Raises:
        ValueError: ids that are needed and not given, names without a number, or pairs about something else.
    """
    kind, *columns, grades = read_cxc(path)
    places = []
    for side, column in zip(SIDES[kind], columns, strict=True):
        if (ids := (visual_ids, text_ids)[side]) is None:
            raise ValueError(f"{path} names COCO ids; the ids of the {('visuals', 'texts')[side]} are needed")
        found = [re.search(r"(\d+)(?:\.\w+)?$", str(name)) for name in ids]
        if not all(found):
            raise ValueError(f"{ids[found.index(None)]!r} does not end in a COCO id")
        numbers = {int(number[1]): i for i, number in enumerate(found)}
        places.append(np.array([numbers.get(number, -1) for number in column.tolist()]))
    here = (places[0] >= 0) & (places[1] >= 0)
    if not here.any() or not (partial or here.all()):
        raise ValueError(
            f"{path}: {np.count_nonzero(~here):,} of {len(here):,} pairs are about images or captions that the data do "
            "not have; CxC's val files are of COCO's Karpathy val split, its test files of test"
        )
    return kind, [side[here] for side in places], grades[here], int(np.count_nonzero(~here))


def bootstrap(queries: np.ndarray, scores: np.ndarray, grades: np.ndarray, *, samples: int = SAMPLES, seed: int = 0):
    """CxC's correlation, (mean, std) of Spearman's rho over bootstrap samples.

    A sample is half of the queries, and for each of them one of its rated items; Parekh et al. 2021 average over 1000.
    INFERRED, since no code was published: halves are drawn without replacement, the query is the csv's first column.

    Args:
        queries: int `[N]`; scores, grades: `[N]`.
    """
    rng, scores, grades = np.random.default_rng(seed), _levels(scores), _levels(grades)
    order = np.argsort(queries, kind="stable")
    _, first, sizes = np.unique(queries[order], return_index=True, return_counts=True)
    if len(sizes) < 4:
        raise ValueError(f"{len(sizes)} queries are too few for samples of half of them")
    found = []
    for _ in range(samples):
        half = rng.permutation(len(sizes))[: len(sizes) // 2]
        rows = order[first[half] + rng.integers(0, sizes[half])]
        found.append(_rho(scores[rows], grades[rows]))
    return float(np.mean(found)), float(np.std(found))
