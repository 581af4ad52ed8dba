"""Runs of the claims: each trained once, kept as one row in a cache, listed before it begins."""

import json
import os
import pathlib
import shutil
import statistics
import sys
import time

import claims_numbers as numbers
import claims_plan as plans

# XLA allocates the scratch memory of every step anew; glibc would give it back to the system and fault it in again.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_ARENA_MAX": "1"}
CURVES = ("loss", "embedding_grad/visual", "embedding_grad/text", "grad_norm", "batch/spread")


def read_row(path: pathlib.Path) -> dict | None:
    """A cached row (`failed` in it where the run did); None if there is none. Rows are written whole or not at all."""
    return json.loads(path.read_text()) if path.exists() else None


def row_of(result: dict, lines: list[dict]) -> dict:
    """What a row keeps of a run: final metrics, curves over the logged steps, rsum on dev over the evaluated ones."""
    trained = [line for line in lines if "train/loss" in line]
    watched = [line for line in lines if "dev/rsum" in line]
    return {
        "best_step": result["step"],
        "steps": result["steps"],
        "selected_on": result.get("selected_on"),
        "metrics": {
            f"{name}/{key}": value for name, one in result["evals"].items() for key, value in one["metrics"].items()
        },
        "ids": {name: one["ids"] for name, one in result["evals"].items()},
        "curves": {"step": [x["step"] for x in trained]}
        | {key: [x.get(f"train/{key}") for x in trained] for key in CURVES},
        "dev": {"step": [x["step"] for x in watched], "rsum": [x["dev/rsum"] for x in watched]},
    }


def ready(config: dict) -> None:
    """Makes the prepared folders of a config where they are not there: that of training, those of its evaluations."""
    from vlr_jax import prepare

    data = config["data"]
    lines = data["options"].get("captions")  # of scenes a number
    if isinstance(lines, str) and not pathlib.Path(lines).exists():
        size = int(pathlib.Path(lines).stem.rpartition("-")[2])
        plans.flickr_lines(pathlib.Path(data["source"]) / "captions.jsonl", size, pathlib.Path(lines))
    needed = [data, *(data | evaluation["data"] for evaluation in config["evals"].values())]
    for one in {one["root"]: one for one in needed}.values():
        prepare.prepare(one["name"], one["root"], source=one.get("source"), options=one["options"], progress=False)


def run(configuration: plans.Configuration, seed: int, cache: pathlib.Path) -> dict:
    """Trains one run and keeps its row, `failed` where it did not stay finite: a finding, not an error.

    Raises:
        KeyboardInterrupt: it was asked to stop; the same command continues it.
    """
    import jax

    from vlr_jax import files, log, train

    config = plans.seeded(configuration.config, seed)
    name = numbers.digest(config)
    ready(config)
    workdir, start = cache / "workdirs" / name, time.perf_counter()
    try:
        result = train.train(config, str(workdir))
        if result is None:
            raise KeyboardInterrupt
        row = row_of(result, log.read(workdir))
    except FloatingPointError as error:
        row = {"failed": str(error)}
    device = jax.devices()[0]
    row |= {
        "key": configuration.key,
        "title": configuration.title,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "device": f"{device.platform} {device.device_kind}, {len(os.sched_getaffinity(0))} cores",
        "config": config,
    }
    files.write(cache / f"{name}.json", json.dumps(row))
    shutil.rmtree(workdir)
    return row


def told(plan: list, seeds: int, cache: pathlib.Path) -> list[tuple]:
    """Prints the runs with their estimated times; those that are to do, as (configuration, seed)."""
    rows = {
        (c.key, s): read_row(cache / f"{numbers.digest(plans.seeded(c.config, s))}.json")
        for c in plan
        for s in range(seeds)
    }
    todo, total = [], 0.0
    print(f"{len(plan) * seeds} runs: {len(plan)} configurations x {seeds} seeds")
    for c in plan:
        known = [rows[c.key, s]["seconds"] for s in range(seeds) if rows[c.key, s]]
        missing = [s for s in range(seeds) if not rows[c.key, s]]
        each = statistics.fmean(known) if known else c.seconds
        total += each * len(missing)
        todo += [(c, s) for s in missing]
        state = f"seeds {', '.join(map(str, missing))} to do, about {each:.0f} s each" if missing else "done"
        failed = [str(s) for s in range(seeds) if (rows[c.key, s] or {}).get("failed")]
        state += f"; seeds {', '.join(failed)} did not stay finite" if failed else ""
        print(f"  {c.title:58} {c.config['steps']:5} steps  {state}")
    print(f"to do: {len(todo)} runs, about {total / 60:.0f} min on two quiet cores (quick setting)", flush=True)
    return todo


def cached(plan: list, seeds: int, cache: pathlib.Path) -> tuple[dict, list[dict]]:
    """Key → seed → row of what is cached, and the rows of runs that did not stay finite."""
    rows, failed = {}, []
    for c in plan:
        for seed in range(seeds):
            row = read_row(cache / f"{numbers.digest(plans.seeded(c.config, seed))}.json")
            if row and "failed" in row:
                failed.append(row)
            elif row:
                rows.setdefault(c.key, {})[seed] = row
    return rows, failed


def begin(listing: bool) -> None:
    """Starts the process again with the allocator's settings, which glibc reads at the start, unless it only lists."""
    if not ALLOCATOR.items() <= os.environ.items() and not listing:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)


def missing(todo: list[tuple], cache: pathlib.Path, shown: str) -> None:
    """Runs (configuration, seed) after (configuration, seed); `shown` is the metric to print of each."""
    import jax
    from absl import flags, logging

    flags.FLAGS(sys.argv[:1])  # grain reads absl flags
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str((cache / "xla").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        for place, (configuration, seed) in enumerate(todo, 1):
            print(f"[{place}/{len(todo)}] {configuration.title}, seed {seed}", flush=True)
            row = run(configuration, seed, cache)
            words = row.get("failed") or f"{shown} {row['metrics'][shown]:.1f}"
            print(f"    {words} in {row['seconds']:.0f} s", flush=True)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where this one was")
