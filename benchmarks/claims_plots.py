"""Plots of the claims, one function each: rows by configuration and seed → a PNG."""

import math

import claims_numbers as numbers
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

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


def gradients(rows: dict, rates, path) -> None:
    """Loss and the gradients that reach the encodings, Triplet-HN beside SelHN, a column for each learning rate."""
    lines = {"loss": "loss", "embedding_grad/visual": "gradient at visuals", "embedding_grad/text": "gradient at texts"}
    lines |= {"dev/rsum": "rsum on val"}
    figure, panels = _panels(len(lines), len(rates), height=2.0)
    for column, lr in enumerate(rates):
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
                axes.legend(fontsize=7, frameon=False)
            elif name != "dev/rsum":
                axes.set_yscale("log")
                axes.yaxis.set_minor_formatter(NullFormatter())
            if name != "dev/rsum":
                axes.set_xscale("log")
            _tidy(axes, f"learning rate {lr:g}" if name == "loss" else "", label if column == 0 else "")
    figure.suptitle("Scenes: from the start of training; mean and range over seeds; dotted: the margin", fontsize=10)
    figure.savefig(path, dpi=110)


def convergence(rows: dict, panels: list[tuple[str, list[str]]], path) -> None:
    """rsum on dev over steps; `panels` are (title, keys of rows)."""
    figure, places = _panels(1, len(panels), width=4.2, height=3.2)
    for axes, (title, keys) in zip(places[0], panels, strict=True):
        for key in keys:
            if runs := rows.get(key):
                loss = key.split("/")[1]
                series = lambda row: (row["dev"]["step"], row["dev"]["rsum"])
                _band(axes, runs, series, color=COLOURS[loss], label=NAMES[loss])
                to = numbers.mean_std([numbers.steps_to(*series(row)) for row in runs.values()])[0]
                axes.axvline(to, color=COLOURS[loss], linewidth=0.9, linestyle=":")
        seeds = {len(rows[key]) for key in keys if key in rows}
        _tidy(axes, f"{title}, n = {', '.join(map(str, sorted(seeds)))}", "rsum on the selection split")
        if seeds:
            axes.legend(fontsize=8, frameon=False)
    figure.suptitle("Dotted: 95 % of a run's own best, mean over seeds", fontsize=9)
    figure.savefig(path, dpi=110)


def differences(panels: list[tuple[str, list[tuple[str, list[float], float]]]], path) -> None:
    """Paired differences by seed; `panels` are (title, lines of (label, differences, noise)). Right of 0 is better.

    The grey bar is the noise of the verdict, the pooled standard deviation over seeds.
    """
    height = 0.7 + 0.25 * max(len(lines) for _, lines in panels)
    figure, places = _panels(-(-len(panels) // 2), 2, width=4.6, height=height)
    for axes, (title, lines) in zip(places.flat, panels, strict=False):
        for place, (_, values, noise) in enumerate(reversed(lines)):
            if math.isfinite(noise):
                axes.barh(place, 2 * noise, left=-noise, color="#cbd5e1", height=0.6)
            axes.plot(values, [place] * len(values), "o", color="#1d4ed8", markersize=4)
        axes.axvline(0, color="#334155", linewidth=0.8)
        axes.set_yticks(range(len(lines)), [label for label, _, _ in reversed(lines)])
        _tidy(axes, title, "", "difference, one point a seed")
    figure.savefig(path, dpi=110)
