"""Columns of the claims' tables, comparisons with computed verdicts, and the verdict of every part of a claim."""

from collections.abc import Callable
from typing import NamedTuple

import claims_numbers as numbers

CONVERGENCE, RISING = "steps to 95 %", "still rising at the end (seeds)"
CLAIM, VETO, SHOWN = "claim", "veto", "shown"  # kinds of checks


class Column(NamedTuple):
    """`number` of a row, None where it has none; `sign` −1: less is better; `unit` behind a difference."""

    number: Callable[[dict], float | None]
    digits: int
    unit: str = ""
    sign: int = 1


COLUMNS = {
    "rsum": Column(lambda row: row["metrics"]["test/rsum"], 1, "points of rsum"),
    CONVERGENCE: Column(lambda row: steps95(row), 0, "steps", -1),
    RISING: Column(lambda row: rising(row), 0),
    "NDCG@10, facts": Column(lambda row: both(row, "test", "NDCG@10"), 4, "NDCG"),
    "tau, facts": Column(lambda row: both(row, "test", "tau"), 4, "tau"),
    "NDCG@10, pseudo": Column(lambda row: both(row, "test", "NDCG@10"), 4, "NDCG"),
    "expert tau-c": Column(lambda row: row["metrics"].get("human/expert_tau_c"), 4, "tau-c"),
    "crowd tau-b": Column(lambda row: row["metrics"].get("human/crowdflower_tau_b"), 4, "tau-b"),
    "human NDCG": Column(lambda row: row["metrics"].get("human/expert_NDCG"), 4, "NDCG"),
    "on the plateau, %": Column(lambda row: 100 * share(plateau(row)), 0, "% of the logged steps", -1),
    "gradient at visuals": Column(lambda row: early(row, "embedding_grad/visual"), 3, "in norm"),
    "gradient at texts": Column(lambda row: early(row, "embedding_grad/text"), 3, "in norm"),
    "of all parameters": Column(lambda row: early(row, "grad_norm"), 3, "in norm"),
    "final rsum on val": Column(lambda row: row["dev"]["rsum"][-1], 1, "points of rsum"),
}
JUDGED = ["expert tau-c", "crowd tau-b", "human NDCG"]
SCENES = ["rsum", CONVERGENCE, RISING, "NDCG@10, facts", "tau, facts"]
PEOPLE = ["rsum", CONVERGENCE, RISING, "NDCG@10, pseudo", *JUDGED]
README = ["rsum", RISING, *JUDGED]
GRADIENTS = ["on the plateau, %", "gradient at visuals", "gradient at texts", "of all parameters", "rsum", "tau, facts"]


class Check(NamedTuple):
    """A comparison and its verdict.

    `part` of the claim it is evidence of. A VETO only lowers what holds, in its `part` ("" for all of the claim) and in
    its `group` ("" for all of them); what is SHOWN is no evidence.
    """

    part: str
    text: str
    word: str
    sentence: str
    values: list[float] = []
    noise: float = 0.0
    kind: str = CLAIM
    group: str = ""


class Claim(NamedTuple):
    """What one claim came to: `parts` by name, with what to say of one that has no check."""

    parts: dict[str, str]
    checks: list[Check]
    text: str


def both(row, evaluation: str, metric: str) -> float:
    """Mean of a metric over the two directions."""
    return sum(row["metrics"][f"{evaluation}/{d}_{metric}"] for d in ("v2t", "t2v")) / 2


def steps95(row) -> float | None:
    """Steps to 95 % of a run's own best rsum on its selection split; None where it never found anything."""
    return numbers.steps_to(row["dev"]["step"], row["dev"]["rsum"]) if max(row["dev"]["rsum"]) > 0 else None


def rising(row) -> bool:
    """The best evaluation is the last one: the run might have gone further, and its convergence is not known."""
    return row["best_step"] == row["dev"]["step"][-1]


def plateau(row) -> list[bool]:
    """Of the logged steps, which are on the plateau."""
    return numbers.on_plateau(row["curves"]["loss"], row["curves"]["batch/spread"])


def share(flags: list[bool]) -> float:
    """How many of the flags are set, 0 to 1."""
    return sum(flags) / len(flags)


def early(row, name: str) -> float:
    """Median of a curve over the first fifth of a run."""
    values = row["curves"][name][: max(len(row["curves"][name]) // 5, 1)]
    return sorted(values)[len(values) // 2]


def cell(runs: list[dict], name: str) -> str:
    """Mean ± standard deviation of a column; `≥` where a run that still rises makes it a lower bound."""
    column = COLUMNS[name]
    values = [column.number(row) for row in runs]
    if any(v is None for v in values):
        return "–"
    if name == RISING:
        return f"{sum(values)} of {len(values)}"
    mean, std = numbers.mean_std(values)
    least = "≥ " if name == CONVERGENCE and any(map(rising, runs)) else ""
    return f"{least}{mean:.{column.digits}f} ± {std:.{column.digits}f}"


def table(rows: dict, named: dict[str, str], columns: list[str]) -> str:
    """One line for each configuration that has rows: mean ± std over seeds."""
    lines = [f"| | n | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for key, title in named.items():
        if runs := list(rows.get(key, {}).values()):
            lines.append(f"| {title} | {len(runs)} | {' | '.join(cell(runs, column) for column in columns)} |")
    return "\n".join(lines)


def check(
    rows: dict, part: str, text: str, ours: str, theirs: str, column: str, *, kind: str = CLAIM, group: str = ""
) -> list[Check]:
    """Is `ours` better than `theirs` by a column? None where fewer than two seeds have rows of both.

    A VETO asks only whether it is worse. Steps to convergence of runs that still rise are censored, and no evidence.
    """
    number, _, unit, sign = COLUMNS[column]
    sides = [{s: number(row) for s, row in rows.get(key, {}).items()} for key in (ours, theirs)]
    sides = [{s: sign * v for s, v in side.items() if v is not None} for side in sides]
    common = sorted(sides[0].keys() & sides[1].keys())
    if len(common) < 2:
        return []
    verdict = (numbers.no_worse if kind == VETO else numbers.better)(*sides)
    word, sentence = verdict.word, verdict.sentence(unit)
    if column == CONVERGENCE and (late := sum(rising(rows[key][s]) for key in (ours, theirs) for s in common)):
        word, sentence = numbers.NOISE, f"{sentence}; censored: {late} of {2 * len(common)} runs still rise at the end"
    if kind == VETO:
        sentence += f"; allowed: {100 * numbers.ALLOWED:g} % of {abs(verdict.base):.1f}"
    return [Check(part, text, word, sentence, [sides[0][s] - sides[1][s] for s in common], verdict.noise, kind, group)]


def verdicts(claim: Claim) -> dict[str, tuple[str, str]]:
    """Part of a claim → its one word, and why."""
    found = {}
    for part, absent in claim.parts.items():
        own = [one for one in claim.checks if one.part == part and one.kind == CLAIM]
        words = [numbers.lowered(one.word, [veto.word for veto in _vetoes(claim, one)]) for one in own]
        word, reason = numbers.overall(words) if own or not absent else (numbers.UNKNOWN, absent)
        changed = sum(word != one.word for word, one in zip(words, own, strict=True))
        found[part] = word, f"{reason}; {changed} lowered by a loss of rsum" if changed else reason
    return found


def _vetoes(claim: Claim, one: Check) -> list[Check]:
    return [
        veto
        for veto in claim.checks
        if veto.kind == VETO and veto.part in ("", one.part) and veto.group in ("", one.group)
    ]


def listed(claim: Claim) -> str:
    """The parts of a claim with their verdicts, each over its checks; then the vetoes and what is only shown."""
    blocks = []
    for part, (word, reason) in verdicts(claim).items():
        own = [one for one in claim.checks if one.part == part and one.kind == CLAIM]
        blocks.append("\n".join([f"**{part}: {word}** ({reason})", *([""] if own else []), *map(_line, own)]))
    for kind, words in ((VETO, "Can only lower what is above:"), (SHOWN, "Only shown, no evidence for a part:")):
        if own := [one for one in claim.checks if one.kind == kind]:
            blocks.append("\n".join([words, "", *map(_line, own)]))
    return "\n\n".join(blocks)


def _line(one: Check) -> str:
    return f"* {one.text}: **{one.word}**: {one.sentence}"


def still_rising(rows: dict, named: dict[str, str]) -> str:
    """The sentence about the runs whose best evaluation is their last; empty where there are none."""
    counts = {title: [rising(row) for row in rows[key].values()] for key, title in named.items() if key in rows}
    some = [f"{title} ({sum(flags)} of {len(flags)} seeds)" for title, flags in counts.items() if any(flags)]
    if not some:
        return ""
    return (
        f"Best at the last evaluation, so still rising at the end, their steps to 95 % a lower bound (≥) and no "
        f"evidence: {'; '.join(some)}."
    )
