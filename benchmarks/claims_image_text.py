"""What the abstracts of the image-text papers claim, checked by small runs: docs/claims.md and its plots.

    python benchmarks/claims_image_text.py --flickr8k FOLDER [--rows 'runs/*']    runs what is missing, then writes
    python benchmarks/claims_image_text.py --flickr8k FOLDER --list               only says what would run, how long
    python benchmarks/claims_image_text.py --flickr8k FOLDER --document           runs nothing, writes from the cache

FOLDER holds captions.jsonl, features_grid3x3_pca256.npz and the two files of judgments of testA (docs/datasets.md);
without it the claims that need no photographs are checked and the document says so. `--rows`: folders of finished runs,
as those of README's table; they are read, not run again.

A run is one JSON file in --cache, named by a hash of its config; what is there is not run again, so an interrupted call
goes on where it was. A run that does not stay finite has a row that says so, and is not repeated. A change of the
library's code does not change the hash: remove the folder to measure anew. Seeds share one compiled step through jax's
persistent compilation cache (in --cache as well).
`--setting smoke` is a minute and means nothing; `--full` is for a GPU: larger models, longer runs, five seeds.
"""

import argparse
import json
import os
import pathlib
import platform
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
    """Makes the prepared folder of a config where it is not there."""
    from vlr_jax import prepare

    data = config["data"]
    lines = data["options"].get("captions")
    if lines and not pathlib.Path(lines).exists():
        size = int(pathlib.Path(lines).stem.rpartition("-")[2])
        plans.flickr_lines(pathlib.Path(data["source"]) / "captions.jsonl", size, pathlib.Path(lines))
    prepare.prepare(data["name"], data["root"], source=data.get("source"), options=data["options"], progress=False)


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


def timing(cache: pathlib.Path, size: int, only_read: bool = False) -> dict | None:
    """Milliseconds of a loss with its gradient in both directions at B = `size`: the median of bursts in turns."""
    path = cache / f"timing-{size}.json"
    if (found := read_row(path)) or only_read:
        return found
    import jax
    import numpy as np

    from vlr_jax import files, losses

    rng = np.random.default_rng(0)
    scores = jax.device_put((0.15 * rng.normal(size=(size, size))).astype(np.float32))
    grades = np.minimum(rng.random((size, size)), 0.9).astype(np.float32)
    np.fill_diagonal(grades, 1.0)
    grades, calls = jax.device_put(grades), {}
    for name in ("triplet_hard", "triplet_soft", "kendall_window", "kendall", "smooth_ndcg"):
        loss = getattr(losses, name)
        both = lambda s, r, loss=loss: sum(loss(s, r, axis=axis).mean() for axis in (1, 0)) / 2
        calls[name] = jax.jit(jax.value_and_grad(both))
        jax.block_until_ready(calls[name](scores, grades))
    seconds = {name: [] for name in calls}
    for _ in range(9):
        for name, call in calls.items():
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < 0.1:
                jax.block_until_ready(call(scores, grades))
                count += 1
            seconds[name].append((time.perf_counter() - start) / count)
    found = {"size": size, "ms": {name: 1e3 * statistics.median(values) for name, values in seconds.items()}}
    files.write(path, json.dumps(found))
    return found


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


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flickr8k", type=pathlib.Path, help="folder of Flickr8k; without it only the scenes")
    parser.add_argument("--rows", nargs="*", default=[], help="folders (or globs) of finished runs to read")
    parser.add_argument("--document", action="store_true", help="run nothing, write from the rows that are cached")
    parser.add_argument("--list", action="store_true", help="only list the runs and the estimated time")
    parser.add_argument("--setting", choices=plans.SETTINGS, default="quick")
    parser.add_argument("--full", action="store_true", help="the same as --setting full")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("runs/claims"), help="rows, one JSON each")
    parser.add_argument(
        "--data", type=pathlib.Path, default=pathlib.Path("data"), help="gets prepared folders claims-*"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("docs"), help="gets claims.md and claims_*.png"
    )
    parser.add_argument("--only", default="", help="only configurations whose key begins so, such as scenes/")
    options = parser.parse_args()
    options.setting = plans.SETTINGS["full" if options.full else options.setting]
    if options.flickr8k and not (options.flickr8k / "captions.jsonl").exists():
        parser.error(f"{options.flickr8k} has no captions.jsonl")
    return options


def main():
    """Lists, runs what is missing, writes."""
    options = arguments()
    if not ALLOCATOR.items() <= os.environ.items() and not options.list:  # read by glibc when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    plan = plans.plan(options.setting, options.data, options.flickr8k)
    todo = told([c for c in plan if c.key.startswith(options.only)], options.setting.seeds, options.cache)
    if options.list:
        return
    if options.document:
        todo = []
    import claims_report
    import claims_reused
    import jax
    from absl import flags, logging

    flags.FLAGS(sys.argv[:1])  # grain reads absl flags
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str((options.cache / "xla").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        for place, (configuration, seed) in enumerate(todo, 1):
            print(f"[{place}/{len(todo)}] {configuration.title}, seed {seed}", flush=True)
            row = run(configuration, seed, options.cache)
            words = row.get("failed") or f"rsum {row['metrics']['test/rsum']:.1f}"
            print(f"    {words} in {row['seconds']:.0f} s", flush=True)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where this one was")
    rows, failed = cached(plan, options.setting.seeds, options.cache)
    reused = claims_reused.read(options.rows, options.flickr8k, options.cache)
    timings = [timing(options.cache, size, options.document) for size in (128, 512)]
    machine = f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    path = claims_report.write(rows, failed, reused, list(filter(None, timings)), options, plan, machine)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
