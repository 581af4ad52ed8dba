"""COCO test from embeddings in one call: 5K, the five folds of 1K, ECCV Caption and CxC.

    python benchmarks/evaluation_coco.py [--eccv DIR] [--dim 1024]

5,000 × 25,000 embeddings are written as `.npy`, then `vlr_jax.score ranking --protocol coco` runs on them in a process
of its own, so that time and peak memory are those that a user sees: reading, compilation and all. Embeddings are
random, each text near its image. `--eccv` is the data folder of the `eccv_caption` package; without it ground truths of
the published sizes are made up (the same work, other numbers).
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

VISUALS, EACH = 5000, 5
# Queries and positives a query, as in the published files.
MADE_UP = {"eccv": ((1261, 18), (1332, 8)), "cxc": ((5000, 7), (24972, 1))}


def embeddings(folder: pathlib.Path, dim: int) -> None:
    """Two files of unit vectors, each text near its visual."""
    rng = np.random.default_rng(0)
    visual = rng.standard_normal((VISUALS, dim), dtype=np.float32)
    text = visual.repeat(EACH, 0) + 12 * rng.standard_normal((VISUALS * EACH, dim), dtype=np.float32)
    for name, rows in (("visual", visual), ("text", text)):
        np.save(folder / f"{name}.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))


def ground_truth(folder: pathlib.Path) -> None:
    """Files in the form of the `eccv_caption` package with random positives."""
    rng, texts = np.random.default_rng(1), np.arange(VISUALS * EACH)
    np.save(folder / "coco_test_ids.npy", texts)
    content = {"original_caption_to_image": {int(t): [int(t) // EACH] for t in texts}}
    for name, sides in MADE_UP.items():
        counts = ((VISUALS, len(texts), "image_to_caption"), (len(texts), VISUALS, "caption_to_image"))
        for (asked, each), (queries, candidates, kind) in zip(sides, counts, strict=True):
            lists = {int(q): rng.integers(0, candidates, each).tolist() for q in rng.permutation(queries)[:asked]}
            content[f"{name}_{kind}"] = lists
    for name, lists in content.items():
        (folder / f"{name}.json").write_text(json.dumps(lists))


def main():
    """Writes, runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--eccv", help="data folder of the eccv_caption package")
    parser.add_argument("--dim", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        embeddings(folder, options.dim)
        if not options.eccv:
            ground_truth(folder)
        command = [sys.executable, "-m", "vlr_jax.score", "ranking", "--protocol", "coco",
                   "--visual", str(folder / "visual.npy"), "--text", str(folder / "text.npy"),
                   "--eccv", options.eccv or str(folder)]  # fmt: skip
        before, start = os.getloadavg()[0], time.perf_counter()
        subprocess.run(command, check=True)
        seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{VISUALS} visuals × {VISUALS * EACH} texts, D = {options.dim}; {os.cpu_count()} cores, load average "
          f"{before:.1f} before, {os.getloadavg()[0]:.1f} after")  # fmt: skip
    print(f"{seconds:.1f} s in all, {used.ru_utime + used.ru_stime:.1f} s of processor time, "
          f"peak memory {used.ru_maxrss / 1024:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
