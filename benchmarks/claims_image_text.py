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
import statistics
import time

import claims_plan as plans
import claims_runs as runs


def timing(cache: pathlib.Path, size: int, only_read: bool = False) -> dict | None:
    """Milliseconds of a loss with its gradient in both directions at B = `size`: the median of bursts in turns."""
    path = cache / f"timing-{size}.json"
    if (found := runs.read_row(path)) or only_read:
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
    runs.begin(options.list)
    plan = plans.plan(options.setting, options.data, options.flickr8k)
    todo = runs.told([c for c in plan if c.key.startswith(options.only)], options.setting.seeds, options.cache)
    if options.list:
        return
    if options.document:
        todo = []
    runs.missing(todo, options.cache, "test/rsum")
    import claims_report
    import claims_reused

    rows, failed = runs.cached(plan, options.setting.seeds, options.cache)
    reused = claims_reused.read(options.rows, options.flickr8k, options.cache)
    timings = [timing(options.cache, size, options.document) for size in (128, 512)]
    machine = f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    path = claims_report.write(rows, failed, reused, list(filter(None, timings)), options, plan, machine)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
