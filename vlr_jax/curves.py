"""The curves of a run's report: which metrics belong in one chart, and each chart as an SVG picture."""

import io
import math
from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

POINTS = 400  # of a curve in the page; longer ones are thinned out
COLOURS = ("#2563eb", "#ea580c", "#059669", "#7c3aed", "#db2777", "#0891b2", "#a16207", "#475569")
MOMENTS = ("R1@0.3", "R1@0.5", "R1@0.7", "mAP", "mIoU")  # of all lengths
HEADS = ("MR-full-mAP", "MR-full-R1@0.5", "MR-full-R1@0.7", "MR-full-mIoU", "HL-min-VeryGood-Hit1")
LEVEL, HIGHLIGHTS = "VeryGood", {"mAP": "mAP", "Hit1": "HIT@1"}
INK, SOFT, LINE = "#0f172a", "#64748b", "#e2e8f0"
STYLE = {
    "font.size": 9,
    "svg.hashsalt": "vlr_jax",  # the same numbers give the same bytes
    "text.color": INK,
    "axes.edgecolor": "#cbd5e1",
    "xtick.color": "#cbd5e1",
    "ytick.color": "#cbd5e1",
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "axes.labelcolor": SOFT,
}

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # label → (steps, values)


def charts(lines: list[dict], evals: dict) -> Iterable[tuple[str, Series, dict[str, float]]]:
    """The charts that a run has numbers for, the most important first.

    Args:
        lines: of `metrics.jsonl`, as `log.read` gives them. Nulls are left out.
        evals: evaluation's name → its result, for the oracle's rsum as a reference; may be empty.

    Yields:
        title; curves of at least two points by label; horizontal reference lines by label.
    """
    found: dict[str, Series] = {}
    for name, points in _gather(lines).items():
        title, label = place(name)
        if title:
            found.setdefault(title, {})[label] = points
    first = ("Training loss", "rsum", "recall", "moments", "highlights", "Learning rate")
    place_of = lambda title: next((i for i, part in enumerate(first) if part in title), len(first))
    for title in sorted(found, key=place_of):
        oracles = {f"oracle, {name}": (evals.get(name, {}).get("oracle") or {}).get("rsum") for name in found[title]}
        yield (
            title,
            found[title],
            {label: value for label, value in oracles.items() if value} if "rsum" in title else {},
        )


def overlays(runs: dict[str, list[dict]]) -> Iterable[tuple[str, Series, bool]]:
    """The charts that several runs have in common, one for each metric.

    Args:
        runs: label → lines of its `metrics.jsonl`.

    Yields:
        title; a curve of each run by its label; whether it is among the first that one wants to see.
    """
    gathered = {label: _gather(lines) for label, lines in runs.items()}
    first, *others = gathered.values()
    rooms = ("train/loss", "rsum", "R@1", *HEADS, "NDCG", "tau", "train/lr", "train/grad_norm")
    rank = lambda name: next((i for i, part in enumerate(rooms) if name.endswith(part) or f"_{part}@" in name), None)
    common = [name for name in first if place(name)[0] and all(name in other for other in others)]
    for name in sorted(common, key=lambda name: len(rooms) if rank(name) is None else rank(name)):
        head = rank(name) is not None and not name.startswith("train/batch/")
        series = {label: points[name] for label, points in gathered.items()}
        yield " · ".join(part for part in place(name) if part), series, head


def _gather(lines: list[dict]) -> Series:
    """Metric → its curve, of those with at least two points."""
    gathered: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if "/" in name and isinstance(value, int | float) and math.isfinite(value):
                gathered.setdefault(name, []).append((line["step"], value))
    parts = {name: zip(*points, strict=True) for name, points in gathered.items() if len(points) > 1}
    return {name: (np.array(steps), np.array(values, float)) for name, (steps, values) in parts.items()}


def place(name: str) -> tuple[str | None, str]:
    """A metric's name → (title of its chart, label in it); no title for what the report tells elsewhere.

    The label is empty where the title says it all.
    """
    room, _, rest = name.partition("/")
    if room == "train":
        head, _, label = rest.partition("/")
        if rest == "steps_per_second":
            return None, ""
        if head == "loss":
            return _of_loss(label)
        if head in ("lr", "learning_rate"):
            return "Learning rate", label
        if head.endswith("norm"):
            whole = {"grad_norm": "gradients", "update_norm": "updates", "param_norm": "parameters"}
            return "Norms", whole.get(rest, rest)
        if head == "embedding_grad":
            return "Norms of the gradient on the embeddings", label
        if head == "batch":
            return _of_batch(label)
        return f"In training: {head.replace('_', ' ')}", label.replace("_", " ", 1)
    if rest == "rsum":
        return "Sum of recalls (rsum)", room
    if rest.startswith(("MR-", "HL-")):
        return _of_moments(room, rest)
    direction, _, metric = rest.partition("_")
    if direction not in ("t2v", "v2t"):
        return f"{room}: further numbers", rest
    for title, starts in (
        ("recall, %", ("R@",)),
        ("graded relevance", ("NDCG", "tau")),
        ("several right answers, %", ("mAP@R", "R-Precision")),
    ):
        if metric.startswith(starts):
            return f"{room}: {title}", f"{direction} {metric}"
    return None, ""


def _of_loss(label: str) -> tuple[str, str]:
    """Saliency and the decoder layers before the last one, told by a number at the end, are charts apart."""
    if label.startswith("saliency_"):
        return "Losses of saliency in training", label.removeprefix("saliency_").replace("_", " ")
    name, _, layer = label.rpartition("_")
    if layer.isdecimal():
        return "Losses of earlier decoder layers in training", f"{name.replace('_', ' ')}, {layer}"
    return "Training loss", label.replace("/", ", ") or "total"


def _of_moments(room: str, name: str) -> tuple[str | None, str]:
    """Of the numbers of moments, more than sixty, those that papers report; a table of the report has all."""
    kind, *_, part, metric = name.split("-")
    if kind == "HL":
        return (f"{room}: highlights, {LEVEL}, %", HIGHLIGHTS[metric]) if part == LEVEL else (None, "")
    if part == "full" and metric in MOMENTS:
        return f"{room}: moments, %", metric
    return (f"{room}: moments by length, mAP %", part) if metric == "mAP" else (None, "")


def _of_batch(name: str) -> tuple[str, str]:
    """`place` of a monitor (`monitors.py`): percentages, similarities and measures of graded order are charts apart."""
    labels = {"positive": "right pairs", "negative": "hardest negatives", "spread": "std of all"}
    if name in labels:
        return "Similarities in the batch", labels[name]
    if name.endswith("_delta"):
        return "Right pairs less hardest negatives in the batch", name.removesuffix("_delta")
    label = name.replace("_", " ")
    return "Graded relevance in the batch" if name.endswith(("_NDCG", "_tau")) else "In the batch, %", label


def thin(steps: np.ndarray, values: np.ndarray, limit: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points of a curve: its ends, and the lowest and highest of every stretch, so that spikes stay."""
    if len(steps) <= limit:
        return steps, values
    kept = {0, len(steps) - 1}
    for part in np.array_split(np.arange(len(steps)), limit // 2 - 1):
        kept |= {int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])}
    chosen = np.array(sorted(kept))
    return steps[chosen], values[chosen]


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving mean; at the ends over what there is."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def draw(series: Series, reference: dict[str, float], *, dashes: bool = False) -> bytes:
    """One chart as SVG: noisy curves pale with their moving mean on top, few points with a dot each.

    With `dashes` curves differ by their line too, not by colour alone.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.add_subplot()
        if _by_direction(series):  # a column of the legend per metric, a row per direction
            metrics = list(dict.fromkeys(label[4:] for label in series))
            series = dict(sorted(series.items(), key=lambda item: (metrics.index(item[0][4:]), item[0])))
        looks = _looks(list(series), dashes)
        for label, (steps, values) in series.items():
            colour, line = looks[label]
            look = dict(color=colour, linestyle=line, label=label or "value", linewidth=1.6, solid_capstyle="round")
            if len(steps) <= 40:
                axes.plot(*thin(steps, values), marker="o", markersize=3, **look)
            else:
                axes.plot(*thin(steps, values), color=colour, alpha=0.22, linewidth=0.8)
                axes.plot(*thin(steps, smooth(values, max(3, len(values) // 40))), **look)
        for label, value in reference.items():
            axes.axhline(value, color=SOFT, linestyle=(0, (4, 3)), linewidth=1, label=label)
        everything = np.concatenate([values for _, values in series.values()])
        if everything.min() > 0 and everything.max() > 50 * everything.min():
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            if 0 < everything.max() < 1e-2:
                axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.set_xlabel("step")
        axes.grid(color=LINE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=3)
        if len(series) + len(reference) > 1 or any(series):
            columns = len(series) // 2 if _by_direction(series) and len(series) > 2 else 3
            look = dict(ncols=columns, frameon=False, fontsize=8, handlelength=1.8, columnspacing=1.4)
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), **look)
        out = io.BytesIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return out.getvalue()


def _by_direction(labels: Iterable[str]) -> bool:
    return all(label.startswith(("t2v ", "v2t ")) for label in labels)


def _looks(labels: list[str], dashes: bool) -> dict[str, tuple]:
    """(colour, line) of each label; labels `t2v …`, `v2t …` have a colour per direction and a line per metric."""
    lines = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), "-.")
    if _by_direction(labels):
        kinds = list(dict.fromkeys(label[4:] for label in labels))
        return {x: (COLOURS[x.startswith("v2t")], lines[kinds.index(x[4:]) % len(lines)]) for x in labels}
    line = lambda i: lines[(i if dashes else i // len(COLOURS)) % len(lines)]
    return {x: (COLOURS[i % len(COLOURS)], line(i)) for i, x in enumerate(labels)}
