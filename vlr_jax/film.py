"""What a detector and a camera make of a video of the procedural world: region features and pictures, frame by frame.

What is to be seen of an object is spread over one or several part regions (`DEALT`); each shows some of it. The parts
of an object form a chain: at each joint a part's end is the next part's start. Joints are numbered anew in each frame,
no number stands at two joints, and that is all that tells which parts belong together. So what an object looks like and
what it does can only be brought together along the chain; the mean over regions mixes up whose action it is.
"""

import functools
import math

import numpy as np
from PIL import Image

from vlr_jax import motion, world

# What a part can show of an object; "place" is x and y from -1 to 1.
KINDS = {**motion.ATTRIBUTES, "size": tuple(world.SIZES), "place": "xy", "motion": motion.ACTIONS}
# The parts of an object by their number, from the first to the last: its look is at one end, what it does at the other.
DEALT = {
    1: (("shape", "colour", "size", "place", "motion"),),
    2: (("shape", "colour", "size"), ("place", "motion")),
    3: (("shape", "colour"), ("size", "place"), ("motion",)),
    4: (("shape", "colour"), ("size",), ("place",), ("motion",)),
    5: (("shape",), ("colour",), ("size",), ("place",), ("motion",)),
}
FRAGMENTS = DEALT[4]  # what a distractor shows is one of these
MOTION = 2.0  # length of what is seen of an action; of all else it is 1
JOINTS = 16  # numbers for joints
_STARTS = dict(
    zip(
        (*KINDS, "start", "end", "all"), np.cumsum([0, *map(len, KINDS.values()), JOINTS, JOINTS]).tolist(), strict=True
    )
)

# ---- region features ----


@functools.lru_cache(maxsize=4)
def _projection(dim: int, seed: int) -> np.ndarray:
    """Fixed random directions `[_STARTS["all"], dim]`, the same for all splits; at right angles where there is room."""
    rng = np.random.default_rng([seed, len(world.SPLITS), 1])  # no scene and no still world shares the stream
    rows = rng.standard_normal((_STARTS["all"], dim))
    if dim >= len(rows):
        rows = np.linalg.qr(rows.T)[0].T * math.sqrt(dim)
    return (rows / math.sqrt(5)).astype(np.float32)


def regions(
    video: motion.Video,
    rng: np.random.Generator,
    *,
    length: int,
    spread: int,
    dim: int,
    noise: float,
    clutter: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Region features of each frame, as a detector would give them: no order, no tracks, some nonsense.

    Args:
        video: the graph.
        rng: its stream "regions".
        length: F, frames, at the middles of equal parts of the video.
        spread: part regions of an object, 1 to 5, see `DEALT`.
        dim: width D of the features.
        noise: standard deviation of the gaussian noise on every number; the clean numbers have about 1.
        clutter: distractors in each frame: one kind of evidence of an object that is not there, with joints that fit no
            object's. They make no fact true.
        seed: of the projection from evidence to features.

    Returns:
        float16 `[sum R, D]`, frame after frame, in random order within each; int32 `[F]`, the regions R of each frame;
        float32 `[sum R, 4]`, boxes (x0, y0, x1, y1 as fractions), the parts of an object side by side in its own.
    """
    rows, boxes, counts = [], [], []
    for moment in motion.moments(length):
        numbers = rng.permutation(JOINTS).tolist()
        found = []
        for i in video.on_stage(moment):
            found += _parts(video.things[i].shape, motion.state(video, i, moment), spread, numbers)
        found += [_fragment(rng, numbers) for _ in range(clutter)]
        order = rng.permutation(len(found))
        rows += [found[i][0] for i in order]
        boxes += [found[i][1] for i in order]
        counts.append(len(found))
    features = np.stack(rows) @ _projection(dim, seed)
    features = features + noise * rng.standard_normal(features.shape, np.float32)
    return features.astype(np.float16), np.array(counts, np.int32), np.array(boxes, np.float32)


def _evidence(shape: str, now: motion.State) -> dict[str, dict[str, float]]:
    """Of each kind the weights of its values."""
    place = {"x": 2 * now.x - 1, "y": 2 * now.y - 1}
    acts = {now.action: MOTION} if now.action else {}
    return {"shape": {shape: 1.0}, "colour": now.colour, "size": now.size, "place": place, "motion": acts}


def _row(evidence: dict, shown: tuple[str, ...], start: int | None, end: int | None) -> np.ndarray:
    """The code `[_STARTS["all"]]` of one region: the kinds of evidence it shows, and the numbers of its joints."""
    row = np.zeros(_STARTS["all"], np.float32)
    for name in shown:
        for value, weight in evidence[name].items():
            row[_STARTS[name] + KINDS[name].index(value)] = weight
    for name, number in (("start", start), ("end", end)):
        if number is not None:
            row[_STARTS[name] + number] = 1
    return row


def _parts(shape: str, now: motion.State, spread: int, numbers: list[int]) -> list:
    """(code, box) of each part of an object; takes the numbers of its joints off `numbers`."""
    evidence = _evidence(shape, now)
    joints = [None, *(numbers.pop() for _ in range(spread - 1)), None]
    x0, y0, x1, y1 = _box(now)
    edges = [x0 + (x1 - x0) * p / spread for p in range(spread + 1)]
    return [
        (_row(evidence, shown, joints[p], joints[p + 1]), (edges[p], y0, edges[p + 1], y1))
        for p, shown in enumerate(DEALT[spread])
    ]


def _fragment(rng: np.random.Generator, numbers: list[int]) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """A distractor: one kind of evidence of some object that is not there; `numbers` are those of no object's joint."""
    value = {name: {world.pick(rng, KINDS[name]): 1.0} for name in ("shape", "colour", "size")}
    x, y = rng.uniform(-1, 1, 2)
    evidence = value | {"place": {"x": x, "y": y}, "motion": {world.pick(rng, motion.ACTIONS): MOTION}}
    (x0, x1), (y0, y1) = np.sort(rng.uniform(size=(2, 2)), axis=1)
    return _row(evidence, world.pick(rng, FRAGMENTS), *(world.pick(rng, numbers) for _ in "se")), (x0, y0, x1, y1)


def _box(now: motion.State) -> tuple[float, float, float, float]:
    r = sum(weight * world.SIZES[name] for name, weight in now.size.items())
    return now.x - r, now.y - r, now.x + r, now.y + r


# ---- pixels ----


def render(video: motion.Video, moment: float, pixels: int) -> Image.Image:
    """The picture at a moment (a fraction of the video), RGB, `pixels` × `pixels`."""
    picture = Image.new("RGB", (pixels, pixels), video.ground)
    for i in video.on_stage(moment):
        now = motion.state(video, i, moment)
        if not now.hidden:
            thing = _drawn(video.things[i], now, pixels)
            picture.paste(
                thing, (round(now.x * pixels - thing.width / 2), round(now.y * pixels - thing.height / 2)), thing
            )
    return picture


def _drawn(thing: world.Thing, now: motion.State, pixels: int) -> Image.Image:
    """One object on transparent ground, RGBA: as in a still picture, then mixed, scaled and turned."""
    size = max(now.size, key=world.SIZES.get)
    looks = [world.sprite(size, thing.texture, colour, thing.shape, pixels) for colour in now.colour]
    drawn = looks[0] if len(looks) == 1 else Image.blend(*looks, list(now.colour.values())[1])
    x0, _, x1, _ = _box(now)
    scale = (x1 - x0) / 2 / world.SIZES[size]
    if scale < 1:
        drawn = drawn.resize((max(1, round(drawn.width * scale)),) * 2, Image.Resampling.BILINEAR)
    return drawn.rotate(now.turn, Image.Resampling.BILINEAR) if now.turn else drawn
