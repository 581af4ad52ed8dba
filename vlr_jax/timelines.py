"""Moments on an axis of seconds: `examples` of a result → places in a picture that `timeline.html.jinja` draws.

One picture has what is true once, and below it what each model said. Lengths are in the units of the SVG; words are
left to the template, which escapes them.
"""

import math
from collections.abc import Sequence

import numpy as np

from vlr_jax import curves, media

WIDTH, LEFT, RIGHT = 1080.0, 78.0, 46.0  # of the picture, of the names of rows, of the numbers behind them
FRAMES = 8  # of a video that are shown
FRAME_HEIGHT = 58.0
MOST_EVENTS, MOST_LINES = 300, 400  # more would be a smear
LETTER = 5.6  # of a name inside a bar, about
SHORTEST = 2.0  # of a window's bar, so that it is seen
STEPS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)  # seconds between marks


class Axis:
    """Seconds → the picture's x. Ends with the video, or with what was found to be true beyond its clips."""

    def __init__(self, example: dict):
        self.end = max([example["duration"], *(end for _, end in example["truth"])])

    def __call__(self, second: float) -> float:
        inside = min(max(float(second), 0.0), self.end) / self.end
        return round(LEFT + inside * (WIDTH - LEFT - RIGHT), 2)

    def bar(self, start: float, end: float, **more) -> dict:
        """A window as `x` and `width`; what lies beyond the axis is cut."""
        left = min(self(start), WIDTH - RIGHT - SHORTEST)
        return {"x": left, "width": round(max(SHORTEST, self(end) - left), 2), **more}

    def marks(self) -> list[dict]:
        """At most 13 of them, at whole steps."""
        step = next((step for step in STEPS if self.end / step <= 12), math.ceil(self.end / 12 / 3600) * 3600)
        return [{"x": self(i * step), "words": clock(i * step, self.end)} for i in range(int(self.end / step) + 1)]


def clock(second: float, end: float) -> str:
    """A time of a video that ends at `end`, both in seconds: `12.5`, or of ten minutes and more `1:02:05`."""
    if end < 600:
        return f"{second:.1f}".removesuffix(".0")
    minutes, seconds = divmod(round(second), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if end >= 3600 else f"{minutes}:{seconds:02}"


def draw(examples: dict[str, dict], *, frames: Sequence[bytes] = (), stride: dict[str, int] | None = None) -> dict:
    """The picture of one text.

    Args:
        examples: by the model's letter, or "" where there is one alone, what it found for this text: an entry of
            `examples` of a moment evaluation's result.
        frames: JPEG or PNG bytes, evenly spread over the video.
        stride: by letter, clips between the reference points of offsets; 1 where not named.

    Returns:
        `width`, `height`, and from top to bottom `frames`, `events`, `truth`, `models` (a row of each kind for each),
        `marks` of the axis.
    """
    first = next(iter(examples.values()))
    axis, y = Axis(first), 4.0
    picture = {"width": WIDTH, "left": LEFT, "right": WIDTH - RIGHT, "frames": None, "events": None}
    if shown := strip(axis, frames):
        picture["frames"], y = {"y": y, "height": FRAME_HEIGHT, "shown": shown}, y + FRAME_HEIGHT + 8
    if 0 < len(first.get("shown") or []) <= MOST_EVENTS:
        events = [axis.bar(start, end, words=_fitting(axis, start, end, key), name=key, seconds=_seconds(start, end))
                  for start, end, key in first["shown"]]  # fmt: skip
        picture["events"], y = {"y": y, "bars": events}, y + 22
    bars = [axis.bar(start, end, seconds=_seconds(start, end)) for start, end in first["truth"]]
    picture["truth"], y = {"y": y, "bars": bars}, y + 22
    picture["models"] = []
    for letter, example in examples.items():
        model, y = _model(axis, example, y + 8 * bool(picture["models"]), (stride or {}).get(letter, 1))
        picture["models"].append({"letter": letter, **model})
    return picture | {"axis": y, "height": y + 20, "marks": axis.marks()}


def strip(axis: Axis, frames: Sequence[bytes]) -> list[dict]:
    """At most `FRAMES` small pictures side by side, each the frame nearest to the middle of its stretch of the axis."""
    count = min(FRAMES, len(frames))
    width, found = (WIDTH - LEFT - RIGHT) / FRAMES - 3, []
    for i in range(count):
        middle = (i + 0.5) / count
        place = int(middle * len(frames))
        small = media.thumbnail(media.decode(frames[place]), longer=160)
        second = (place + 0.5) / len(frames) * axis.end
        x = axis(middle * axis.end) - width / 2
        found.append({"x": round(x, 2), "width": round(width, 2), "jpeg": small, "at": clock(second, axis.end)})
    return found


def _model(axis: Axis, example: dict, y: float, stride: int) -> tuple[dict, float]:
    """The rows of one model from y on, and where they end."""
    windows = []
    for place, (start, end, score) in enumerate(example["windows"]):
        height = 7 if place else 13
        bar = axis.bar(start, end, seconds=_seconds(start, end), score=f"{score:.2f}")
        windows.append(bar | {"y": y, "height": height, "opacity": round(0.25 + 0.75 * min(max(score, 0), 1), 3)})
        y += height + 4
    found, y = {"windows": windows, "saliency": saliency(axis, example, y + 8, 60.0)}, y + 76
    found |= {"offsets": None, "alignment": None}
    extra, clips = example.get("extra") or {}, len(example["saliency"])
    if "offsets" in extra:
        moved = lines(axis, example, np.array(extra["offsets"], float), stride)
        found["offsets"], y = moved | {"y": y, "height": 36.0}, y + 40
    if "alignment" in extra:
        levels = np.clip(np.array(extra["alignment"], float)[:clips], 0, 1)
        found["alignment"], y = _area(axis, example, levels, y, 28.0), y + 34
    return found, y


def saliency(axis: Axis, example: dict, y: float, height: float) -> dict:
    """The raw curve between its least and its greatest value, the clip of the greatest, and the relevant clips."""
    values, clip = np.array(example["saliency"], float), example["clip_length"]
    low, high = float(values.min()), float(values.max())
    level = lambda value: round(
        y + height - 4 - (height - 8) * ((value - low) / (high - low) if high > low else 0.5), 2
    )
    at, values_at = curves.thin(np.arange(len(values)), values)
    points = " ".join(f"{axis((i + 0.5) * clip)},{level(v)}" for i, v in zip(at, values_at, strict=True))
    best = int(values.argmax())
    return {
        "y": y,
        "height": height,
        "points": points,
        "low": f"{low:.2g}".replace("-", "−"),
        "high": f"{high:.2g}".replace("-", "−"),
        "best": {"x": axis((best + 0.5) * clip), "y": level(high), "at": clock((best + 0.5) * clip, axis.end)},
        "relevant": [axis.bar(start * clip, end * clip) for start, end in runs(example["relevant"])],
    }


def runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """(first, one behind the last) of every unbroken run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def positions(offsets: np.ndarray, clips: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference points `[N]` of a video's own clips, and where offsets `[G, N]` lead from them, `[G, N]`, in clips.

    As `layers.denoise`: the points are the middles of stretches of `stride` clips; outside is the first or last clip.
    """
    points = (np.arange(offsets.shape[1]) + 0.5) * stride - 0.5
    points = points[points <= clips - 1]
    return points, np.clip(points + offsets[:, : len(points)], 0, clips - 1)


def lines(axis: Axis, example: dict, offsets: np.ndarray, stride: int) -> dict:
    """From each reference point to where each group of channels looks: `still` moved by less than half a clip.

    Of more than `MOST_LINES`, every so many points. `share` of the places looked at are in relevant clips, `plain` of
    the reference points.
    """
    clip, relevant = example["clip_length"], np.asarray(example["relevant"], bool)
    points, places = positions(offsets, len(relevant), stride)
    every = max(1, math.ceil(places.size / MOST_LINES))
    paths = {"still": [], "moved": []}
    for row in places[:, ::every]:
        for start, end in zip(points[::every], row, strict=True):
            kind = "moved" if abs(end - start) >= 0.5 else "still"
            paths[kind].append((axis((start + 0.5) * clip), axis((end + 0.5) * clip)))
    inside = lambda where: f"{100 * relevant[np.floor(where + 0.5).astype(int)].mean():.0f}"
    return {**paths, "share": inside(places), "plain": inside(points), "mean": f"{np.abs(places - points).mean():.1f}"}


def _area(axis: Axis, example: dict, levels: np.ndarray, y: float, height: float) -> dict:
    """Levels from 0 to 1 as the outline of an area."""
    clip = example["clip_length"]
    at, levels_at = curves.thin(np.arange(len(levels)), levels)
    outline = [(axis((i + 0.5) * clip), round(y + height * (1 - v), 2)) for i, v in zip(at, levels_at, strict=True)]
    outline = [(axis(0), outline[0][1]), *outline, (axis(len(levels) * clip), outline[-1][1])]
    base = [(axis(len(levels) * clip), y + height), (axis(0), y + height)]
    points = lambda places: " ".join(f"{a},{b}" for a, b in places)
    return {"y": y, "height": height, "line": points(outline), "area": points(outline + base)}


def _seconds(start: float, end: float) -> str:
    return f"{start:.1f}–{end:.1f} s"


def _fitting(axis: Axis, start: float, end: float, words: str) -> str:
    """As much of the words as fits into the window's bar; nothing where that is next to nothing."""
    room = int((axis(end) - axis(start) - 8) / LETTER)
    if len(words) <= room:
        return words
    return f"{words[: room - 1].rstrip()}…" if room >= 6 else ""
