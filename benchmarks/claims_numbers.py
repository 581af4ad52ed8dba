"""The pure parts of the claims: a run's name in the cache, steps to convergence, plateaus, and verdicts. numpy only."""

import hashlib
import itertools
import json
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

HOLDS, PART, NOISE, FAILS = "holds", "holds in part", "within noise", "does not hold"
UNKNOWN = "not checked"
PATIENCE = 8  # logged points in a row, as `log.CollapseGuard` waits for
ALLOWED = 0.01  # of a value may be lost where a claim says that none is
# What a config says about the place and the pace of a run, not about its numbers.
ELSEWHERE = ("log_every", "save_every", "keep", "threads")
PLACES = ("root", "source")
FILES = ("captions", "features", "media", "expert", "crowdflower")


def digest(config: dict) -> str:
    """The name of a run's row in the cache: 16 hex digits of the complete config, paths and the like left out.

    Two configs that differ only in where their data lie, or in how often they log, have one name.
    """
    return hashlib.sha256(json.dumps(placeless(config), sort_keys=True).encode()).hexdigest()[:16]


def placeless(config: dict) -> dict:
    """A config without the places of its files and the pace of its log."""
    content = {key: value for key, value in config.items() if key not in ELSEWHERE}
    content["data"] = {key: value for key, value in config["data"].items() if key not in PLACES}
    options = dict(content["data"].get("options") or {})
    content["data"]["options"] = {key: _name(value) if key in FILES else value for key, value in options.items()}
    content["evals"] = {
        name: {key: _name(value) if key in FILES else value for key, value in options.items()}
        | {"data": {key: value for key, value in options.get("data", {}).items() if key not in PLACES}}
        for name, options in config["evals"].items()
    }
    return content


def _name(path):
    return path.rpartition("/")[2] if isinstance(path, str) else path


def steps_to(steps: Sequence[float], values: Sequence[float], share: float = 0.95) -> float:
    """The step at which `values` first reach `share` of their own largest, linear between measurements, 0 at step 0.

    Raises:
        ValueError: no values, or none above 0.
    """
    if len(values) != len(steps) or not values or max(values) <= 0:
        raise ValueError(f"expected as many positive values as steps, got {len(values)} for {len(steps)} steps")
    wanted, before = share * max(values), (0.0, 0.0)
    for step, value in zip(steps, values, strict=True):
        if value >= wanted:
            return before[0] + (step - before[0]) * (wanted - before[1]) / (value - before[1])
        before = (step, value)
    raise AssertionError("the largest value reaches any share of itself")


def on_plateau(
    loss: Sequence[float], spread: Sequence[float], margin: float = 0.2, patience: int = PATIENCE
) -> list[bool]:
    """For every logged step, whether all similarities are equal and the loss is the margin, `patience` steps in a row.

    The rule of `log.CollapseGuard`; here of the whole loss, since rows keep no other.
    """
    stuck = [abs(one - margin) <= 0.02 * margin and s < 0.02 for one, s in zip(loss, spread, strict=True)]
    groups = [(flag, len(list(group))) for flag, group in itertools.groupby(stuck)]
    return [flag and size >= patience for flag, size in groups for _ in range(size)]


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over seeds (n − 1); the latter NaN for one seed."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan


class Verdict(NamedTuple):
    """`word` is HOLDS, FAILS or NOISE; `difference` the mean over paired seeds, above 0 where ours is better; `noise`
    what it is compared with; `base` the mean of theirs."""

    word: str
    difference: float
    noise: float
    agreeing: int
    seeds: int
    base: float

    def sentence(self, unit: str = "") -> str:
        """For the document: `better by 91.6 steps (noise 22; 3 of 3 seeds agree)`."""
        kind = "worse" if self.difference < 0 else "better"
        size = f"{abs(self.difference):.4g}{f' {unit}' if unit else ''}"
        return f"{kind} by {size} (noise {self.noise:.2g}; {self.agreeing} of {self.seeds} seeds agree)"


def better(ours: dict[int, float], theirs: dict[int, float]) -> Verdict:
    """Is the first larger? Both are values by seed; paired over the seeds of both.

    The noise is the pooled standard deviation over seeds. It holds if the mean difference is above the noise and every
    seed says so; it does not hold if the same is true of the opposite; all else is within noise.

    Raises:
        ValueError: fewer than two seeds in common.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if len(seeds) < 2:
        raise ValueError(f"a verdict needs two seeds at least, there are {len(seeds)} in common")
    a, b = [ours[s] for s in seeds], [theirs[s] for s in seeds]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, noise = statistics.fmean(differences), math.sqrt((statistics.variance(a) + statistics.variance(b)) / 2)
    agreeing = sum(d * mean > 0 for d in differences)
    clear = abs(mean) > noise and agreeing == len(seeds)
    word = (HOLDS if mean > 0 else FAILS) if clear else NOISE
    return Verdict(word, mean, noise, agreeing, len(seeds), statistics.fmean(b))


def no_worse(ours: dict[int, float], theirs: dict[int, float], allowed: float = ALLOWED) -> Verdict:
    """Is the first at most `allowed` of the second's value smaller?

    It holds if the mean difference is above that line by more than the noise, does not hold if it is below it by more,
    and is within noise otherwise.
    """
    verdict = better(ours, theirs)
    room = verdict.difference + allowed * abs(verdict.base)
    word = HOLDS if room > verdict.noise else FAILS if room < -verdict.noise else NOISE
    return verdict._replace(word=word)


def lowered(word: str, vetoes: Sequence[str]) -> str:
    """A check's word under its vetoes: what holds does not hold if one of them fails, and holds in part if one of them
    cannot be told. Nothing is raised by them."""
    if word != HOLDS:
        return word
    return FAILS if FAILS in vetoes else PART if NOISE in vetoes else word


def overall(words: Sequence[str]) -> tuple[str, str]:
    """Of a claim with several checks: one word, and how many of them say what."""
    if not words:
        return UNKNOWN, "no runs"
    kinds = (HOLDS, PART, NOISE, FAILS)
    counts = {word: sum(w == word for w in words) for word in kinds}
    some = counts[HOLDS] + counts[PART]
    word = HOLDS if counts[HOLDS] == len(words) else PART if some else FAILS if counts[FAILS] else NOISE
    said = ", ".join(f"{kind} {counts[kind]}" for kind in kinds if counts[kind])
    return word, f"{len(words)} check{'s' if len(words) > 1 else ''}: {said}"
