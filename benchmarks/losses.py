"""Our losses beside the direct PyTorch formulation of each paper: time and peak memory, forward and backward, on a CPU.

    pip install -e .[benchmark]
    python benchmarks/losses.py pairwise [--size 1024]   every pairwise loss
    python benchmarks/losses.py listwise [--size 512]    smooth_ndcg and kendall
    python benchmarks/losses.py growth                   as B doubles from 128 to 4096; --plot PATH draws it

From one [B, B] matrix of scores and one of relevance to the mean over queries and both directions and its gradient to
the scores. Ours: `jax.jit(jax.value_and_grad(...))` of `vlr_jax.losses.<name>` along axes 1 and 0. The other: PyTorch
eager, `torch_losses.py`. Values and gradients are compared first; where they differ, no number is printed.

Time: the two in turns within one process, bursts of at least `--burst` seconds, the median over pairs of torch's time /
ours: above 1, ours is faster. Compilation and the first call are not in it. Memory: each in a process of its own, the
highest resident memory above what it was with the inputs made and the libraries imported and awake (one gradient of
x², which maps their code). Ours counts compilation too; beside it, as "compiled", what the calls add after it. In
`growth` the times are of those processes as well: the median of some calls after a first one, from B = 2048 up of one
call (after compilation). What does not fit the machine or would outlast `--patience` is extrapolated with the last
measured exponent and marked with ~.

Environment: the times of `pairwise` and `listwise` are with ALLOCATOR, as in launch/local.sh, for both. The processes
that measure memory (so all of `growth`) have glibc's own settings: with ALLOCATOR the gaps of its one heap would count,
twice of what torch's arrays take. XLA takes the cores of the process (`taskset` narrows it), torch `--threads`.
OMP_WAIT_POLICY=PASSIVE lets torch's threads sleep while they wait: set it where others use the cores too, or torch
loses most of its time spinning and the ratio flatters us.
"""

import argparse
import math
import os
import pathlib
import platform
import statistics
import sys
import time

from loss_costs import ALLOCATOR, FEW, SIDES, compare, inputs, measure

GROWTH = ["smooth_ndcg", "kendall", "unified", "kendall_window"]


def burst(function, seconds) -> float:
    """Mean time of a call, over calls that fill `seconds`; after a pause in which the other side's threads go idle."""
    time.sleep(0.1)
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < seconds:
        function()
        calls += 1
    return (time.perf_counter() - start) / calls


def clock(seconds) -> str:
    """A time with at least three digits."""
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms")
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def shrunk(ours, torch) -> str:
    """Torch's peak memory / ours: with our compilation, and in brackets once compiled."""
    return f"{torch['peak'] / max(ours['peak'], 1):.1f} ({torch['peak'] / max(ours['running'], 1):.1f})"


def alternate(name, options) -> tuple[list[float], list[float]]:
    """Times of ours and of torch's in turns, in this process, after both were compared (which also warms them up)."""
    ours, torch = (SIDES[side](name, *inputs(options.size, options.spread), options.threads) for side in SIDES)
    ours.compile()
    compare(name, ours(), torch())
    times = [(burst(ours, options.burst), burst(torch, options.burst)) for _ in range(options.pairs)]
    return [a for a, _ in times], [b for _, b in times]


def table(options):
    """One line of Markdown per form: time by turns, memory by processes of their own."""
    print(f"B = {options.size}, spread of the scores {options.spread:g}, {options.pairs} pairs\n")
    print("| loss | ours | torch | **torch / ours** (least–most) | ours, peak MB (compiled) | torch, peak MB | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    ratios = {}
    for name in options.names:
        ours, torch = alternate(name, options)
        pairs = [b / a for a, b in zip(ours, torch, strict=True)]
        a, b = (measure(side, name, options.size, options) for side in SIDES)
        compare(name, a["result"], b["result"])
        ratios[name] = statistics.median(pairs), b["peak"] / max(a["peak"], 1)
        span = f"**{ratios[name][0]:.2f}** ({min(pairs):.2f}–{max(pairs):.2f})"
        times = f"{clock(statistics.median(ours))} | {clock(statistics.median(torch))} | {span}"
        sizes = f"{a['peak']:.0f} ({a['running']:.0f}) | {b['peak']:.0f} | {shrunk(a, b)}"
        print(f"| `{name}` | {times} | {sizes} |", flush=True)
    for kind, place in (("time", 0), ("memory", 1)):
        least = min(ratios, key=lambda name: ratios[name][place])
        print(f"{'' if place else chr(10)}least ratio of {kind}: {ratios[least][place]:.2f} ({least})")


def exponent(rows, key) -> float:
    """e of B^e between the last two of `rows`, whose B doubles; NaN where there are not two."""
    last = [row[key] if key == "seconds" else max(row[key], 1) for row in rows[-2:]]
    return math.log2(last[1] / last[0]) if len(last) > 1 else math.nan


def overall(rows) -> float:
    """The exponent that fits the times of all measured sizes best."""
    points = [(math.log(row["size"]), math.log(row["seconds"])) for row in rows if not row["guess"]]
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else math.nan


def extrapolated(rows) -> dict:
    """The row after `rows` at twice the size, by the last measured exponents."""
    measured = [row for row in rows if not row["guess"]]
    grown = {key: rows[-1][key] * 2 ** exponent(measured, key) for key in ("seconds", "peak", "running")}
    return grown | {"size": 2 * rows[-1]["size"], "guess": True}


def feasible(rows, options) -> bool:
    """Whether the next size fits the free memory and the patience, judged by the sizes before."""
    if len(rows) < 2:
        return True
    with open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    following = extrapolated(rows)
    calls = 1 if following["size"] >= FEW else 4
    return following["peak"] < 0.8 * free and calls * following["seconds"] < options.patience


def grow(name, options) -> dict[str, list[dict]]:
    """Both sides over all sizes; where both are measured they are compared."""
    rows = {side: [] for side in SIDES}
    size = options.smallest
    while size <= options.largest:
        results = {}
        for side, found in rows.items():
            if not any(row["guess"] for row in found) and feasible(found, options):
                print(f"{name}, B={size}, {side} …", file=sys.stderr)
                row = measure(side, name, size, options)
                results[side] = row.pop("result")
                found.append(row | {"size": size, "guess": False})
            else:
                found.append(extrapolated(found))
        if len(results) == len(SIDES):
            compare(name, *results.values())
        size *= 2
    return rows


def show(name, rows):
    """The growth of one loss as a table in Markdown; the exponents are from the size before."""
    columns = ["B", "ours", "exponent", "ours, peak MB (compiled)", "torch", "exponent", "torch, peak MB"]
    columns += ["torch / ours, time", "memory (compiled)"]
    print(f"\n`{name}`\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for i, (a, b) in enumerate(zip(rows["ours"], rows["torch"], strict=True)):
        peaks = {"ours": f"{a['peak']:.0f} ({a['running']:.0f})", "torch": f"{b['peak']:.0f}"}
        cells = []
        for side, row in (("ours", a), ("torch", b)):
            mark, power = "~" * row["guess"], exponent(rows[side][: i + 1], "seconds")
            cells += [f"{mark}{clock(row['seconds'])}", "" if math.isnan(power) else f"{mark}{power:.2f}"]
            cells.append(mark + peaks[side])
        mark = "~" * (a["guess"] or b["guess"])
        cells.append(f"{mark}{b['seconds'] / a['seconds']:.1f}")
        cells.append(mark + shrunk(a, b))
        print(f"| {a['size']} | " + " | ".join(cells) + " |")
    fits = ", ".join(f"{side} B^{overall(found):.2f}" for side, found in rows.items())
    print(f"\nTime over all measured sizes, least squares: {fits}")


def plot(found, path):
    """Time and memory over B, both logarithmic; torch dashed, what is extrapolated hollow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    keys = {
        "seconds": "seconds, forward + backward, both directions",
        "peak": "peak MB above the libraries and inputs; ours with compilation",
    }
    for axes, (key, title) in zip(panels, keys.items(), strict=True):
        for i, (name, rows) in enumerate(found.items()):
            for side, line in (("ours", "-"), ("torch", "--")):
                look = dict(color=f"C{i}", linestyle=line, linewidth=1.6, label=f"{name}, {side}")
                axes.plot([row["size"] for row in rows[side]], [row[key] for row in rows[side]], **look)
                for guess, face in ((False, f"C{i}"), (True, "white")):
                    points = [(row["size"], row[key]) for row in rows[side] if row["guess"] == guess]
                    if points:
                        axes.scatter(*zip(*points, strict=True), color=f"C{i}", facecolor=face, s=18, zorder=3)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(lambda size, _: f"{size:.0f}")
        axes.set_xlabel("B (queries, and candidates of each)")
        axes.set_title(title, fontsize=10)
        axes.grid(color="#e2e8f0", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    print(f"\n{path}: hollow = extrapolated")


def machine(options):
    """Everything that the numbers depend on."""
    from importlib.metadata import version

    with open("/proc/cpuinfo") as lines:
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    model = models[0] if models else platform.machine()
    print(f"{model}, {cores} cores, load average {os.getloadavg()[0]:.2f}; {options.threads} threads for torch")
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "torch", "numpy"))
    print(f"Python {platform.python_version()}, {versions}")
    names = ("XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", *ALLOCATOR)
    print(", ".join(f"{name}={os.environ.get(name, '')}" for name in names), flush=True)


def main():
    """Runs one of the modes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["pairwise", "listwise", "growth"])
    parser.add_argument("--size", type=int, help="B of pairwise (1024) and listwise (512)")
    parser.add_argument("--names", nargs="+", help="only these; default: all of the mode")
    parser.add_argument("--pairs", type=int, help="pairs of timed bursts (pairwise 7, listwise 3)")
    parser.add_argument("--burst", type=float, default=0.5, help="seconds of a burst at least, one call at least")
    parser.add_argument("--spread", type=float, default=0.15, help="of the scores; small = a collapsed network")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch")
    parser.add_argument("--smallest", type=int, default=128, help="growth: first B")
    parser.add_argument("--largest", type=int, default=4096, help="growth: last B")
    parser.add_argument("--patience", type=float, default=600, help="growth: seconds for the calls of one process")
    parser.add_argument("--plot", type=pathlib.Path, help="growth: also draw it to this picture")
    options = parser.parse_args()
    if not ALLOCATOR.items() <= os.environ.items():  # read by glibc when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    import torch_losses

    machine(options)
    if options.mode == "growth":
        found = {name: grow(name, options) for name in options.names or GROWTH}
        for name, rows in found.items():
            show(name, rows)
        if options.plot:
            plot(found, options.plot)
    else:
        listwise = options.mode == "listwise"
        options.names = options.names or list(torch_losses.LISTWISE if listwise else torch_losses.PAIRWISE)
        options.size = options.size or (512 if listwise else 1024)
        options.pairs = options.pairs or (3 if listwise else 7)
        table(options)
    print(f"load average at the end {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
