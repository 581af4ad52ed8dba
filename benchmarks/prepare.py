"""Preparing region features of the field's shape: a `train_ims.npy` `[N, 36, 2048]` float32 → the prepared folder.

    python benchmarks/prepare.py [--dir FOLDER] [--images 7300] [--read]

Writes a synthetic SCAN folder under DIR (7,300 images are 2.15 GB, 29,000 are 8.6 GB), prepares it in a process of its
own, prints times, MB of source a second and the process's peak resident memory (Linux: `VmHWM`, in which pages of
mapped files count), and removes all of it. A tiny preparation goes first, to compare with. `--read` also measures
random batches, from the records and from the memory-mapped source.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

REGIONS, WIDTH, EACH = 36, 2048, 5


def make(folder: pathlib.Path, images: int, seed: int = 0) -> int:
    """Writes the three splits; train is written block by block. Returns the bytes of features."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    total = 0
    for split, n in (("train", images), ("dev", 2), ("test", 2)):
        lines = (f"a dog number {i} runs {k} ." for i in range(n) for k in range(EACH))
        (folder / f"{split}_caps.txt").write_text("".join(f"{line}\n" for line in lines))
        array = np.lib.format.open_memmap(folder / f"{split}_ims.npy", "w+", np.float32, (n, REGIONS, WIDTH))
        # like the regions of a detector: after a ReLU, half zeros
        block = np.maximum(rng.standard_normal((min(n, 256), REGIONS, WIDTH), dtype=np.float32), 0)
        for start in range(0, n, len(block)):
            array[start : start + len(block)] = np.roll(block, start, axis=2)[: n - start]
            array.flush()
        total += array.nbytes
        del array
    return total


def measured(source: pathlib.Path, root: pathlib.Path) -> dict:
    """One preparation in this process: seconds, of that hashing, and peak memory in KiB before and after."""
    from vlr_jax import prepare

    def peak():  # not ru_maxrss, which a process inherits from the one that started it
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

    spent = []
    digests = prepare._digests

    def timed(*arguments):
        start = time.perf_counter()
        result = digests(*arguments)
        spent.append(time.perf_counter() - start)
        return result

    prepare._digests = timed
    before, start, busy = peak(), time.perf_counter(), time.process_time()
    prepare.prepare("flickr30k", root, source=source, options={"subset": True}, progress=False)
    first, busy = time.perf_counter() - start, time.process_time() - busy
    after, start = peak(), time.perf_counter()
    prepare.prepare("flickr30k", root, source=source, options={"subset": True}, progress=False)
    return dict(
        seconds=first, busy=busy, hashing=spent[0], again=time.perf_counter() - start, before=before, after=after
    )


def reading(source: pathlib.Path, root: pathlib.Path, batch: int = 128, batches: int = 20) -> dict[str, float]:
    """Milliseconds a random batch `[128, 36, 2048]` float16, medians; the source is float32 and converted."""
    from vlr_jax import pipeline, text

    words = text.Words.build(json.loads((root / "words.json").read_text())["counts"], length=12)
    split = pipeline.open_split({"root": str(root), "split": "train"}, words)
    mapped = np.load(source / "train_ims.npy", mmap_mode="r")
    half = source / "half.npy"
    np.save(half, mapped[: 8 * batch].astype(np.float16))
    mapped_half = np.load(half, mmap_mode="r")
    rng = np.random.default_rng(0)
    readers = {
        "records float16": (lambda ids: np.stack([split.visual(int(i))["visual"] for i in ids]), split.n_visuals),
        "mapped float32": (lambda ids: mapped[ids].astype(np.float16), len(mapped)),
        "mapped float16": (lambda ids: mapped_half[ids], len(mapped_half)),
    }
    times = {name: [] for name in readers}
    for _ in range(batches):
        for name, (read, n) in readers.items():
            ids = rng.permutation(n)[:batch]
            start = time.perf_counter()
            read(ids)
            times[name].append(time.perf_counter() - start)
    train = split.train(batch_size=batch, seed=0)
    next(train)
    start = time.perf_counter()
    for _ in range(batches):
        next(train)
    return {name: 1e3 * float(np.median(t)) for name, t in times.items()} | {
        "the pipeline": 1e3 * (time.perf_counter() - start) / batches
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--images", type=int, default=7300)
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measured(*map(pathlib.Path, asked.child))))
        return
    work = pathlib.Path(tempfile.mkdtemp(prefix="prepare-", dir=asked.dir))
    try:
        for name, images in (("warm", 2), ("full", asked.images)):
            source, root = work / name, work / f"{name}-root"
            size = make(source, images)
            os.sync()
            command = [sys.executable, __file__, "--child", str(source), str(root)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            speed, processor = (size / 1e6 / result[key] for key in ("seconds", "busy"))
            print(
                f"{images} images, {size / 1e9:.2f} GB: {result['seconds']:.1f} s ({speed:.0f} MB/s; a second of "
                f"processor {processor:.0f} MB), of that hashing {result['hashing']:.1f} s; again "
                f"{result['again']:.1f} s; peak memory {result['after'] / 1024:.0f} MiB "
                f"({result['before'] / 1024:.0f} before)"
            )
        if asked.read:
            for name, ms in reading(source, root).items():
                print(f"  a batch of 128 x 36 x 2048 from {name}: {ms:.0f} ms")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
