"""Video files into JPEG records, and records into batches, against plain loops over the same libraries.

    python benchmarks/video.py [--rounds 7] [--videos FOLDER] [--parts decode,workers,read]

decode: `video.at_rate` (the container read to its end first, every frame decoded and checked, one a second made small)
against the loop that people write with PyAV: decode every frame, turn one a second into an array, make it small with
Pillow. Frames decoded a second of processor time, so one core's; libav has one thread in both. workers: `video.stored`
of many files by one worker, two threads, two processes. read: frames a second through `pipeline.Split.visual`, against
a loop that decodes and resizes the same JPEG files with Pillow. Every round runs all sides, one after the other;
medians over rounds, and of the rounds' ratios. On generated videos, and on `--videos FOLDER`. Training steps are
measured by `video_steps.py`.
"""

import argparse
import concurrent.futures
import io
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time

import av
import numpy as np
from PIL import Image

from vlr_jax import media, pipeline, prepare, text, video, workers

SIZES = {"240p": (320, 240), "360p": (640, 360), "720p": (1280, 720)}  # pixels of the generated videos
SECONDS, RATE, SIDE = 12, 30, 224
FRAME_SIZE = 224  # of batches


def generate(path: pathlib.Path, width: int, height: int, seed: int = 0) -> pathlib.Path:
    """An H.264 video in the form that clips of the field have: B-frames, key frames up to 250 apart, moving texture."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 255, (height // 8 + 64, width // 8 + 64, 3), np.uint8)
    texture = np.asarray(Image.fromarray(texture).resize((width + 512, height + 512), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "26"}
        for i in range(SECONDS * RATE):
            x, y = int(200 + 190 * np.sin(i / 40)), int(200 + 190 * np.cos(i / 31))
            image = np.ascontiguousarray(texture[y : y + height, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return path


def plain(path: pathlib.Path) -> list[np.ndarray]:
    """The loop that people write: no check, by the count of frames."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = round(float(stream.average_rate))
        for i, frame in enumerate(container.decode(stream)):
            if i % step == 0:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                scale = SIDE / min(image.size)
                size = [round(side * scale) for side in image.size]
                frames.append(np.array(image.resize(size, Image.Resampling.BICUBIC) if scale < 1 else image))
    return frames


def ours(path: pathlib.Path) -> list[np.ndarray]:
    """The same frames, and the certainty that the file is whole."""
    return video.at_rate(path, fps=1.0, most=None, shorter=SIDE)


def timed(function, *arguments, clock=time.process_time) -> float:
    """Seconds of one call."""
    start = clock()
    function(*arguments)
    return clock() - start


def told(name: str, unit: str, amount: float, sides: dict[str, list[float]]) -> None:
    """One line: amount a second of each side, by its median, and the first side's rate over each other's."""
    rates = ", ".join(f"{side} {amount / statistics.median(times):,.0f}" for side, times in sides.items())
    (_, first), *others = sides.items()
    ratios = (
        f"{statistics.median(b / a for a, b in zip(first, times, strict=True)):.2f} × {side}" for side, times in others
    )
    print(f"  {name}: {unit}: {rates}; {', '.join(ratios)}", flush=True)


def decode(groups: dict[str, list[pathlib.Path]], rounds: int) -> None:
    """Prints frames decoded a second of processor time."""
    print("decode and sample, frames a second of one core")
    for name, paths in groups.items():
        frames = sum(video.probe(path).frames for path in paths)
        sides = {"ours": [], "a plain loop": []}
        for function in (ours, plain):  # warm
            [function(path) for path in paths]
        for _ in range(rounds):
            for side, function in zip(sides.values(), (ours, plain), strict=True):
                side.append(sum(timed(function, path) for path in paths))
        told(f"{name} ({len(paths)} files, {frames} frames)", "frames/s", frames, sides)


def _stored(path: pathlib.Path) -> int:
    return len(video.stored(path, video.recipe(fps=1.0, most_frames=64, image_size=SIDE))["frames"])


def several(groups: dict[str, list[pathlib.Path]], rounds: int) -> None:
    """Prints videos a second of the clock: threads against processes."""
    print(f"from files to JPEG frames, videos a second of the clock on {os.cpu_count()} cores")
    start = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=start) as pool:
        list(pool.map(_stored, next(iter(groups.values())) * 2))  # warm: imports
        for name, paths in groups.items():
            paths = paths * max(1, 8 // len(paths))
            sides = {
                "2 threads": lambda paths=paths: list(workers.in_order(_stored, paths, 2)),
                "1 thread": lambda paths=paths: list(workers.in_order(_stored, paths, 1)),
                "2 processes": lambda paths=paths: list(pool.map(_stored, paths)),
            }
            times = {side: [] for side in sides}
            for _ in range(rounds):
                for side, function in sides.items():
                    times[side].append(timed(function, clock=time.perf_counter))
            told(name, "videos/s", len(paths), times)


def read(groups: dict[str, list[pathlib.Path]], rounds: int, work: pathlib.Path) -> None:
    """Prints frames a second of processor time out of prepared records."""
    print(f"JPEG records to frames of {FRAME_SIZE} × {FRAME_SIZE}, frames a second of one core")
    for number, (name, paths) in enumerate(groups.items()):
        source, root = work / f"source-{number}", work / f"root-{number}"
        source.mkdir()
        for i, path in enumerate(paths):
            (source / f"{i}{path.suffix}").symlink_to(path.resolve())
        lines = (json.dumps({"media": f"{i}{path.suffix}", "texts": ["a video"]}) for i, path in enumerate(paths))
        (source / "captions.jsonl").write_text("\n".join(lines))
        prepare.prepare("folder", root, source=source, progress=False)
        words = text.Words.build({"video": 1}, length=4)
        split = pipeline.open_split({"root": str(root), "split": "train", "frame_size": FRAME_SIZE}, words)
        stored = [frame for i in range(split.n_visuals) for frame in split.record(i)["frames"]]

        def by_hand(stored=stored):
            for data in stored:
                image = Image.open(io.BytesIO(data)).convert("RGB")
                side = min(image.size)
                left, top = (image.width - side) / 2, (image.height - side) / 2
                box = (left, top, left + side, top + side)
                np.asarray(image.resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BICUBIC, box=box))

        def records(split=split):
            for i in range(split.n_visuals):
                split.visual(i)

        sides = {"the pipeline": [], "a loop over the JPEG files in memory": []}
        for _ in range(rounds):
            for side, function in zip(sides.values(), (records, by_hand), strict=True):
                side.append(timed(function))
        size = " × ".join(map(str, media.size(stored[0])))
        told(f"{name} ({len(stored)} frames of {size}, {len(stored[0]) / 1e3:.0f} kB)", "frames/s", len(stored), sides)


def main() -> None:
    """Runs and prints the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--videos", type=pathlib.Path, help="a folder of videos to measure too")
    parser.add_argument("--parts", default="decode,workers,read")
    asked = parser.parse_args()
    codecs = ".".join(map(str, av.library_versions["libavcodec"]))
    print(f"{os.cpu_count()} cores, PyAV {av.__version__}, libavcodec {codecs}; load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="video-") as folder:
        work = pathlib.Path(folder)
        groups = {name: [generate(work / f"{name}.mp4", *size)] for name, size in SIZES.items()}
        if asked.videos:
            found = sorted(p for p in asked.videos.rglob("*") if p.suffix.lower() in media.VIDEOS)
            for suffix in sorted({p.suffix for p in found}):
                groups[f"{asked.videos.name}, {suffix}"] = [p for p in found if p.suffix == suffix]
        parts = {"decode": decode, "workers": several, "read": lambda *a: read(*a, work)}
        for name in asked.parts.split(","):
            parts[name](groups, asked.rounds)
    print(f"load average at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
