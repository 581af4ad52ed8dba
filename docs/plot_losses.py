"""Draws docs/losses.png: every loss of `vlr_jax.losses` and its gradient by a negative's score, against the gap.

python docs/plot_losses.py

The query's positive scores -gap / 2 and the moved negative gap / 2; what else is in the list does not move. A loss
without an entry in PANELS stops the drawing.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from vlr_jax import losses  # noqa: E402

GAPS = jnp.linspace(-1, 1, 2001)
VALUE, GRADIENT = "#1f4e8c", "#c25a00"
# Exported, but no losses.
BESIDE = {"kendall_pairs"}


class Curve(NamedTuple):
    """A setting: its knobs, the candidates that stay as (score, relevance), the relevance of the moved negative."""

    label: str
    knobs: dict[str, Any]
    others: tuple[tuple[float, float], ...] = ()
    grade: float = 0.0


EASY = ((-0.9, 0.0),) * 3
SECOND = ((0.1, 0.0),)
GRADED = ((0.3, 0.7), (-0.1, 0.5), (-0.2, 0.2))
# Loss → what the thick and the thin lines show.
PANELS = {
    "adaptive_contrastive": (
        Curve("margin = 0.2, τ = 0.05", dict(temperature=0.05)),
        Curve("τ = 0.1", dict(temperature=0.1)),
    ),
    "adaptive_margin": (
        Curve("margin = 0.2, τ = 0.05, α = 0.18, relevance 0", {}),
        Curve("relevance 0.8", {}, grade=0.8),
    ),
    "info_nce": (Curve("τ = 0.05", {}), Curve("τ = 0.1", dict(temperature=0.1))),
    "kendall": (Curve("five candidates, gap = 0.3", {}, GRADED), Curve("gap = 0.6", dict(gap=0.6), GRADED)),
    "kendall_window": (
        Curve("five candidates, window = 2", dict(window=2), GRADED),
        Curve("hard = False", dict(window=2, hard=False), GRADED),
    ),
    "selhn": (Curve("three easy negatives, ε = 0.1", dict(threshold=0.1), EASY), Curve("ε = 0.01", {}, EASY)),
    "sigmoid": (Curve("τ = 0.1, b = -10", {}), Curve("b = 0", dict(bias=0.0))),
    "smooth_ndcg": (Curve("five candidates, τ = 0.01", {}, GRADED), Curve("τ = 0.1", dict(temperature=0.1), GRADED)),
    "triplet_hard": (Curve("margin = 0.2", {}), Curve("a second negative at 0.1", {}, SECOND)),
    "triplet_soft": (
        Curve("margin = 0.2, τ = 0.01", {}),
        Curve("τ = 0.1, a second negative at 0.1", dict(temperature=0.1), SECOND),
    ),
    "triplet_sum": (Curve("margin = 0.2", {}), Curve("a second negative at 0.1", {}, SECOND)),
    "unified": (Curve("margin = 0.2, τ = 0.01", {}), Curve("τ = 0.1", dict(temperature=0.1))),
}  # fmt: skip


def trace(name: str, curve: Curve):
    """Value and gradient by the negative's score at every gap: each gap is a query of one block."""
    fixed, grades = zip(*curve.others, strict=True) if curve.others else ((), ())
    rows = [-GAPS / 2, GAPS / 2, *(jnp.full_like(GAPS, score) for score in fixed)]
    relevance = jnp.broadcast_to(jnp.array([1.0, curve.grade, *grades]), (len(GAPS), len(rows)))
    values, pull = jax.vjp(lambda s: getattr(losses, name)(s, relevance, **curve.knobs), jnp.stack(rows, 1))
    return values, pull(jnp.ones_like(values))[0][:, 1]


def draw(axes, name: str) -> None:
    slopes = axes.twinx()
    for width, curve in zip((2.0, 0.9), PANELS[name], strict=True):
        values, gradient = trace(name, curve)
        axes.plot(GAPS, values, color=VALUE, linewidth=width, label=curve.label)
        slopes.plot(GAPS, gradient, color=GRADIENT, linewidth=width, linestyle=(0, (3, 1.5)))
    for side, color in ((axes, VALUE), (slopes, GRADIENT)):
        side.tick_params(axis="y", labelcolor=color, labelsize=8)
        low, high = side.get_ylim()
        side.set_ylim(min(low, -0.05 * high), 1.3 * high)  # room for the legend
    axes.set_title(name, fontsize=11, fontweight="bold")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(loc="upper left", fontsize=7.5, edgecolor="none", handlelength=1.6)


def main() -> None:
    names = [name for name in losses.__all__ if name not in BESIDE]
    if set(names) != set(PANELS):
        raise SystemExit(f"losses without a panel, or panels without a loss: {sorted(set(names) ^ set(PANELS))}")
    columns = 3
    figure, grid = pyplot.subplots(-(-len(names) // columns), columns, figsize=(12, 12.5), sharex=True)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        draw(axes, name)
    figure.supxlabel("similarity gap: score of the negative - score of the positive", fontsize=10)
    figure.suptitle("Value (solid, left) and gradient by the negative's score (dashed, right)", fontsize=12)
    figure.tight_layout(w_pad=1.5, h_pad=1.2)
    path = pathlib.Path(__file__).parent / "losses.png"
    figure.savefig(path, dpi=85)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
