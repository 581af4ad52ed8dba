"""Plots of the claims, one function each: rows by configuration and seed → a PNG."""

import math

import claims_checks as checks
import claims_numbers as numbers
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = {
    "hard": "#c2410c",
    "selhn": "#2563eb",
    "unified": "#0f766e",
    "info_nce": "#7c3aed",
    "soft": "#0891b2",
    "bcls": "#65a30d",
}
NAMES = {
    "hard": "Triplet-HN",
    "selhn": "SelHN",
    "unified": "Unified",
    "info_nce": "VLC",
    "soft": "Triplet-SN",
    "bcls": "BCLS",
}


def _panels(rows: int, columns: int, width: float = 3.4, height: float = 2.7):
    figure = Figure(figsize=(width * columns, height * rows + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _tidy(axes, title="", y="", x="step"):
    axes.set_title(title, fontsize=9)
    axes.set_ylabel(y, fontsize=8)
    axes.set_xlabel(x, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(color="#e2e8f0", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _band(axes, runs: dict, series, **look):
    """Mean over seeds, and least to most as a band."""
    curves = [series(row) for row in runs.values()]
    steps = curves[0][0]
    columns = list(zip(*[values for _, values in curves], strict=True))
    axes.plot(steps, [sum(c) / len(c) for c in columns], linewidth=1.5, **look)
    axes.fill_between(
        steps, [min(c) for c in columns], [max(c) for c in columns], color=look["color"], alpha=0.18, linewidth=0
    )


def _logged(name: str):
    return lambda row: (row["curves"]["step"], row["curves"][name])


def gradients(rows: dict, starts, path) -> None:
    """Loss and the gradients that reach the encodings, Triplet-HN beside SelHN, a column for each start."""
    lines = {"loss": "loss", "embedding_grad/visual": "gradient norm at visuals"}
    lines |= {"embedding_grad/text": "gradient norm at texts", "dev/rsum": "rsum on val"}
    figure, panels = _panels(len(lines), len(starts), height=2.0)
    for column, start in enumerate(starts):
        for axes, (name, label) in zip(panels[:, column], lines.items(), strict=True):
            for loss in ("hard", "selhn"):
                if runs := rows.get(f"scenes/{loss}/{column}"):
                    series = (
                        (lambda row: (row["dev"]["step"], row["dev"]["rsum"])) if name == "dev/rsum" else _logged(name)
                    )
                    _band(axes, runs, series, color=COLOURS[loss], label=f"{NAMES[loss]}, n = {len(runs)}")
            if name == "loss":
                axes.axhline(0.2, color="#64748b", linewidth=0.8, linestyle=":")
                axes.set_ylim(0.12, 0.3)
                absent = [NAMES[loss] for loss in ("hard", "selhn") if f"scenes/{loss}/{column}" not in rows]
                axes.legend(fontsize=7, frameon=False, title=f"{', '.join(absent)} not run" if absent else None,
                            title_fontsize=7)  # fmt: skip
            elif name != "dev/rsum":
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            else:
                axes.set_ylim(0, 600)
            if name != "dev/rsum":
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            _tidy(axes, str(start) if name == "loss" else "", label if column == 0 else "")
    figure.suptitle("Scenes, whole training: mean and range over seeds; dotted: the margin", fontsize=10)
    figure.savefig(path, dpi=110)


def convergence(rows: dict, panels: list[tuple[str, list[str]]], path) -> None:
    """rsum on dev over steps; `panels` are (title, keys of rows)."""
    figure, places = _panels(1, len(panels), width=4.2, height=3.2)
    for axes, (title, keys) in zip(places[0], panels, strict=True):
        for key in keys:
            if runs := rows.get(key):
                loss = key.split("/")[1]
                series = lambda row: (row["dev"]["step"], row["dev"]["rsum"])
                late, known = sum(map(checks.rising, runs.values())), [checks.steps95(row) for row in runs.values()]
                label = NAMES[loss] + (f" (still rising: {late} of {len(runs)})" if late else "")
                _band(axes, runs, series, color=COLOURS[loss], label=label)
                if None not in known:
                    to = numbers.mean_std(known)[0]
                    axes.axvline(to, color=COLOURS[loss], linewidth=0.9, linestyle=":")
        seeds = {len(rows[key]) for key in keys if key in rows}
        _tidy(axes, f"{title}, n = {', '.join(map(str, sorted(seeds)))}", "rsum on the selection split")
        if seeds:
            axes.legend(fontsize=8, frameon=False)
    words = "Mean and range over seeds; dotted: steps to 95 % of a run's own best (a lower bound where it still rises)"
    figure.suptitle(words, fontsize=9)
    figure.savefig(path, dpi=110)


def differences(panels: list[tuple[str, str, list[tuple[str, list[float], float]]]], path) -> None:
    """Paired differences by seed, right of 0 is better; `panels`: (title, unit, lines of (label, differences, noise)).

    The grey bar is the noise of the verdict, the pooled standard deviation over seeds.
    """
    if not panels:
        return
    height = 0.9 + 0.38 * max(len(lines) for _, _, lines in panels)
    figure, places = _panels(-(-len(panels) // 2), min(len(panels), 2), width=4.8, height=height)
    for axes, (title, unit, lines) in zip(places.flat, panels, strict=False):
        for place, (_, values, noise) in enumerate(reversed(lines)):
            if math.isfinite(noise):
                axes.barh(place, 2 * noise, left=-noise, color="#cbd5e1", height=0.6)
            axes.plot(values, [place] * len(values), "o", color="#1d4ed8", markersize=4)
        axes.axvline(0, color="#334155", linewidth=0.8)
        axes.set_yticks(range(len(lines)), [label for label, _, _ in reversed(lines)])
        _tidy(axes, title, "", f"difference{f', points of {unit}' if unit else ''}")
    for axes in places.flat[len(panels) :]:
        axes.set_visible(False)
    words = "Flickr8k testA: one point a seed, right of 0 is better; grey: the noise (pooled standard deviation)"
    figure.suptitle(words, fontsize=9)
    figure.savefig(path, dpi=110)


def levels(panels: list[tuple[str, list[tuple[str, list[list[float]]]]]], names, path, metric: str = "rsum") -> bool:
    """A metric over levels of a difficulty, a panel each: mean over seeds and their range; False where nothing is."""
    if not panels:
        return False
    figure, places = _panels(1, len(panels), width=4.6, height=3.2)
    colours = ("#2563eb", "#c2410c", "#0f766e", "#7c3aed")
    for axes, (title, lines) in zip(places.flat, panels, strict=True):
        for colour, (label, seeds) in zip(colours, lines, strict=False):
            columns, steps = list(zip(*seeds, strict=True)), range(len(names))
            axes.plot(steps, [sum(c) / len(c) for c in columns], "o-", color=colour, label=label, linewidth=1.5)
            low, high = ([pick(c) for c in columns] for pick in (min, max))
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set_xticks(range(len(names)), names)
        _tidy(axes, f"{title}, n = {len(lines[0][1])}", metric, "level of the test, trained at the middle one")
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)
    return True
