"""Memory and time of finding moments in a video of three hours: 5,400 clips of 2 s, through pieces of 75 clips.

    python benchmarks/long_video.py [--clips 75 600 5400] [--batch 8] [--whole]

QD-DETR at its official size on QVHighlights (2,816 features, hidden 256, 10 queries), parameters drawn at random: what
is found means nothing, what it costs does. Each length is a process of its own, whose peak resident memory (VmHWM) is
read before and after; `--whole` looks at each video in one piece for comparison, which needs memory by its square.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np

CLIP, WIDTH, PIECE, WORDS = 2.0, 2816, 75, 32


def peak() -> float:
    """MiB of resident memory at most so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


class Video:
    """One video as a `split.Split` with moments; its record is made when it is read."""

    def __init__(self, clips: int, piece: int):
        from vlr_jax.timeline import Timeline

        index = {
            "lengths": np.array([clips]), "clip_lengths": np.array([CLIP]), "durations": np.array([clips * CLIP]),
            "windows": np.zeros((0, 2)), "n_windows": np.zeros(1, int), "text_names": np.array(["q"]),
            "sources": np.array(["s"]),
        }  # fmt: skip
        about = {"moments": {"backbones": [], "annotators": 0}}
        self.timeline = Timeline(index, about, {"buckets": [piece]}, np.zeros(1, int))
        self.clips = clips

    def record(self, visual: int) -> dict:
        return {"visual": np.random.default_rng(0).standard_normal((self.clips, WIDTH), np.float32).astype(np.float16)}

    def text(self, t: int, record=None) -> dict:
        return {"text": np.full(WORDS, t + 4, np.int32), "text_mask": np.arange(WORDS) < 9}


def measure(clips: int, piece: int, batch: int, queries: int) -> dict:
    """Seconds, pieces and MiB of one length, in this process."""
    import jax
    from absl import flags

    from vlr_jax import config, localize, pieces, tiles, train

    flags.FLAGS(sys.argv[:1])  # grain reads absl's flags
    nothing = dict(name="-", root="-", split="-")
    plan = dict(data=nothing, text=dict(name="words", length=WORDS), task="moment", model=dict(name="qd_detr"),
                losses={}, optim=dict(name="adam", lr=1.0), batch_size=batch, steps=1)  # fmt: skip
    task = train.make_task(config.complete(plan), dict(visual_dim=WIDTH, vocabulary=5000))
    video = Video(clips, piece)
    row = dict(visual=np.zeros((1, 4, WIDTH), np.float16), visual_mask=np.ones((1, 4), bool))
    row |= {key: value[None] for key, value in video.text(0).items()} | {"duration": np.ones(1, np.float32)}
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0), row))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(leaf.dtype), shapes)
    mesh, moments = tiles.one_device(), task.predict()["moments"]
    variables = jax.device_put(variables)

    def run():
        pairs = [(0, t) for t in range(queries)]
        start = time.perf_counter()
        found = list(localize.locate(moments, variables, video, pairs, batch_size=batch, mesh=mesh))
        assert len(found) == queries and len(found[0].saliency) == clips
        return time.perf_counter() - start

    before = peak()
    first, again = run(), run()
    count = len(pieces.starts(clips, piece))
    return dict(clips=clips, piece=piece, pieces=count, first=first, again=again, before=before, peak=peak())


def main() -> None:
    """One line a length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[75, 600, 5400])
    parser.add_argument("--batch", type=int, default=8, help="pieces at once")
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--whole", action="store_true", help="each video in one piece as well")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.batch, options.queries)))
        return
    print(f"{'clips':>6} {'piece':>6} {'pieces':>6} {'1st s':>7} {'2nd s':>7} {'MiB before':>10} {'MiB peak':>9}")
    for clips in options.clips:
        for piece in (PIECE, *([clips] if options.whole and clips > PIECE else [])):
            own = ["--one", str(clips), str(piece), "--batch", str(options.batch), "--queries", str(options.queries)]
            done = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True)
            if done.returncode:
                print(f"{clips:6d} {piece:6d}   failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            r = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{clips:6d} {piece:6d} {r['pieces']:6d} {r['first']:7.1f} {r['again']:7.1f} {r['before']:10.0f} "
                f"{r['peak']:9.0f}"
            )


if __name__ == "__main__":
    main()
