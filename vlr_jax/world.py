"""The procedural world: scene graphs with exact ground truth, their facts, region features, pictures (numpy, Pillow).

A `Scene` is a graph: objects with shape, colour, size, texture and position, and the spatial relations that follow
from the positions. Everything else is read off the graph: `facts` (what is true), `regions` (what a detector would
hand to a model), `render` (pixels) and, in `grammar.py`, captions. Scene `index` of a split depends on
(seed, split, index) alone, never on how many scenes there are or how hard they are made.

The kind `images` is a scene at rest, and all that is in this file. The kind `videos`, in `motion.py`, `film.py` and
`narration.py`, is a world of its own that is made in the same way, with the same objects; so is the kind `moments`, of
long videos, in `stories.py` and `reel.py`.
"""

import dataclasses
import functools
import io
import itertools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

KINDS = ("images", "videos", "moments")
SPLITS = ("train", "val", "test")
STREAMS = ("graph", "captions", "regions")  # independent random numbers, so that one option leaves the rest as it is

SHAPES = ("circle", "square", "triangle", "star", "cross", "hexagon", "ring", "heart")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 205, 40),
    "green": (46, 150, 70),
    "blue": (40, 95, 200),
    "purple": (125, 60, 170),
    "pink": (240, 120, 175),
    "black": (45, 45, 50),
}
SIZES = {"small": 0.07, "medium": 0.11, "large": 0.155}  # radius as a fraction of the picture
TEXTURES = ("plain", "striped", "dotted")
ATTRIBUTES = {"size": tuple(SIZES), "texture": TEXTURES, "colour": tuple(COLOURS), "shape": SHAPES}
RELATIONS = ("left of", "above")  # "right of" and "below" are the same facts told from the other end
FEWEST, MOST = 2, 6  # objects of a scene
COUNTS = (2, 2, 2, 2, 3, 3, 3, 4, 5, 6)  # drawn from these: few objects are common
GRID = 3  # objects stand in different cells of a GRID x GRID board, shaken, so that they never hide each other
GAP = 0.1  # of the picture: centres closer than this along an axis have no relation along it


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object: a value of each of `ATTRIBUTES`, and its centre as fractions of the picture (y grows downwards)."""

    size: str
    texture: str
    colour: str
    shape: str
    x: float
    y: float

    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 as fractions of the picture."""
        r = SIZES[self.size]
        return self.x - r, self.y - r, self.x + r, self.y + r


@dataclasses.dataclass(frozen=True)
class Scene:
    """A scene graph: its objects, in no meaningful order, and the colour of the ground they lie on."""

    things: tuple[Thing, ...]
    ground: tuple[int, int, int]

    def relations(self) -> list[tuple[int, str, int]]:
        """All (i, relation, j) that hold: thing i is `relation` thing j."""
        held = []
        for (i, a), (j, b) in itertools.permutations(enumerate(self.things), 2):
            if b.x - a.x > GAP:
                held.append((i, "left of", j))
            if b.y - a.y > GAP:
                held.append((i, "above", j))
        return held


def random_stream(seed: int, split: str, index: int, stream: str) -> np.random.Generator:
    """The random numbers of one scene for one purpose (`STREAMS`)."""
    return np.random.default_rng([seed, SPLITS.index(split), index, STREAMS.index(stream)])


def pick(rng: np.random.Generator, values):
    """One of `values`, all equally likely (several times faster than `rng.choice`)."""
    return values[int(rng.integers(len(values)))]


def scene(rng: np.random.Generator) -> Scene:
    """A random scene of `FEWEST` to `MOST` objects (one of `COUNTS`), all attributes independent and equally likely."""
    cells = rng.permutation(GRID * GRID)[: pick(rng, COUNTS)]
    things = []
    for cell in cells:
        attributes = {name: pick(rng, values) for name, values in ATTRIBUTES.items()}
        slack = max(0.5 / GRID - SIZES[attributes["size"]], 0.0)
        dx, dy = rng.uniform(-slack, slack, size=2)
        x, y = (cell % GRID + 0.5) / GRID + dx, (cell // GRID + 0.5) / GRID + dy
        things.append(Thing(**attributes, x=float(x), y=float(y)))
    ground = tuple(int(c) for c in rng.integers(212, 248, size=3))
    return Scene(tuple(things), ground)


# ---- facts ----


def thing_facts(told: dict[str, str]) -> set[str]:
    """Facts that an object with these attributes makes true: each attribute, and each pair of them bound together.

    Args:
        told: attribute → value, all four or only some, e.g. `{"colour": "red", "shape": "circle"}`, which gives
            "red", "circle", "red circle".
    """
    values = [told[name] for name in ATTRIBUTES if name in told]
    return set(values) | {" ".join(pair) for pair in itertools.combinations(values, 2)}


def relation_fact(shape: str, relation: str, other: str) -> str:
    """The fact "some `shape` is `relation` some `other`"."""
    return f"{shape} {relation} {other}"


def two_fact(shape: str) -> str:
    """The fact "exactly two objects have this shape"."""
    return f"two of {shape}"


def count_fact(count: int) -> str:
    """The fact "the scene has this many objects"."""
    return f"{count} objects"


def _fact_names() -> tuple[str, ...]:
    singles = [value for values in ATTRIBUTES.values() for value in values]
    pairs = [f"{a} {b}" for one, other in itertools.combinations(ATTRIBUTES.values(), 2) for a in one for b in other]
    relations = [relation_fact(a, r, b) for r in RELATIONS for a in SHAPES for b in SHAPES]
    counts = [two_fact(shape) for shape in SHAPES] + [count_fact(n) for n in range(FEWEST, MOST + 1)]
    return (*singles, *pairs, *relations, *counts)


FACTS = _fact_names()  # K names; the columns of every fact array
_POSITION = {name: k for k, name in enumerate(FACTS)}


def facts(scene: Scene) -> set[str]:
    """All facts true in the scene, a subset of `FACTS`."""
    true = {count_fact(len(scene.things))}
    for thing in scene.things:
        true |= thing_facts({name: getattr(thing, name) for name in ATTRIBUTES})
    for i, relation, j in scene.relations():
        true.add(relation_fact(scene.things[i].shape, relation, scene.things[j].shape))
    shapes = [thing.shape for thing in scene.things]
    return true | {two_fact(shape) for shape in set(shapes) if shapes.count(shape) == 2}


def fact_vector(names) -> np.ndarray:
    """Names of facts → bool `[K]`."""
    vector = np.zeros(len(FACTS), bool)
    vector[[_POSITION[name] for name in names]] = True
    return vector


# ---- region features ----

_WIDTH = sum(len(values) for values in ATTRIBUTES.values()) + 2  # one-hot attributes, x, y


@functools.lru_cache(maxsize=4)
def _projection(dim: int, seed: int) -> np.ndarray:
    """Fixed random directions `[_WIDTH, dim]`, the same for all splits; entries of a sum of five have variance 1."""
    rng = np.random.default_rng([seed, len(SPLITS)])  # no split has this number: no scene shares the stream
    return (rng.standard_normal((_WIDTH, dim)) / math.sqrt(5)).astype(np.float32)


def _encode(thing: Thing) -> np.ndarray:
    hot = [float(getattr(thing, name) == value) for name, values in ATTRIBUTES.items() for value in values]
    return np.array([*hot, 2 * thing.x - 1, 2 * thing.y - 1], np.float32)


def _clutter(rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """What a detector finds between things: a random mixture of attribute values instead of one of each, any box."""
    soft = [rng.dirichlet(np.ones(len(values))) for values in ATTRIBUTES.values()]
    (x0, x1), (y0, y1) = np.sort(rng.uniform(size=(2, 2)), axis=1)
    return np.concatenate([*soft, [x0 + x1 - 1, y0 + y1 - 1]]).astype(np.float32), (x0, y0, x1, y1)


def regions(
    scene: Scene, rng: np.random.Generator, *, dim: int, noise: float, clutter: int, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Region features of a scene, as a detector would give them: no relations, no order, some nonsense.

    Args:
        scene: the graph.
        rng: its stream "regions".
        dim: width D of the features.
        noise: standard deviation of the gaussian noise on every number; the clean numbers have about 1.
        clutter: distractor regions, which show no object and make no fact true.
        most: upper limit of regions, at least `MOST`; where it bites, distractors are left out, never objects.
        seed: of the projection from attributes to features.

    Returns:
        float16 `[R, D]` and the boxes float32 `[R, 4]` (x0, y0, x1, y1 as fractions), in one random order.
    """
    found = [(_encode(thing), thing.box()) for thing in scene.things]
    found += [_clutter(rng) for _ in range(min(clutter, most - len(found)))]
    codes, boxes = zip(*(found[i] for i in rng.permutation(len(found))), strict=True)
    features = np.stack(codes) @ _projection(dim, seed)
    features = features + noise * rng.standard_normal(features.shape)
    return features.astype(np.float16), np.array(boxes, np.float32)


# ---- pixels ----

_FINE = 4  # drawn this many times larger and averaged down: smooth edges


def _outline(shape: str, centre: float, r: float) -> list[tuple[float, float]]:
    """Corner points of the shapes that are polygons."""

    def around(count, turn=-90.0, radii=(1.0,)):
        angles = [math.radians(turn + 360 * k / count) for k in range(count)]
        return [
            (radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a)) for k, a in enumerate(angles)
        ]

    if shape == "heart":
        turns = [2 * math.pi * k / 60 for k in range(60)]
        points = [
            (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
            for t in turns
        ]
    elif shape == "cross":
        a = 0.34
        arm = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
        points = arm + [(-x, -y) for x, y in arm]
    else:
        points = {
            "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
            "triangle": [(0, -0.95), (1, 0.85), (-1, 0.85)],
            "star": around(10, radii=(1.0, 0.45)),
            "hexagon": around(6, turn=0.0),
        }[shape]
    return [(centre + r * x, centre + r * y) for x, y in points]


@functools.cache
def sprite(size: str, texture: str, colour: str, shape: str, pixels: int) -> Image.Image:
    """One object on transparent ground, RGBA; every look is drawn once a process (576 of them for one picture size)."""
    r = SIZES[size] * pixels * _FINE
    side = 2 * (math.ceil(r / _FINE) + 1) * _FINE
    centre = side / 2
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    if shape in ("circle", "ring"):
        draw.ellipse([centre - r, centre - r, centre + r, centre + r], fill=255)
        if shape == "ring":
            draw.ellipse([centre - 0.45 * r, centre - 0.45 * r, centre + 0.45 * r, centre + 0.45 * r], fill=0)
    else:
        draw.polygon(_outline(shape, centre, r), fill=255)
    full = COLOURS[colour]
    light = tuple(int(c + 0.78 * (255 - c)) for c in full)
    skin = Image.new("RGB", (side, side), full)
    draw = ImageDraw.Draw(skin)
    step = 0.045 * pixels * _FINE  # of the picture, not of the object: textures do not shrink with it
    marks = range(-1, int(side / step) + 2)
    if texture == "striped":
        for k in marks:
            draw.rectangle([0, k * step, side, (k + 0.45) * step], fill=light)
    elif texture == "dotted":
        for row, column in itertools.product(marks, marks):
            x, y, dot = (column + row % 2 / 2) * step, row * step * 0.9, 0.27 * step
            draw.ellipse([x - dot, y - dot, x + dot, y + dot], fill=light)
    rim = mask.filter(ImageFilter.MinFilter(2 * max(1, round(0.007 * pixels * _FINE)) + 1))
    edge = Image.new("RGB", (side, side), tuple(int(0.6 * c) for c in full))
    sprite = Image.composite(skin, edge, rim)
    sprite.putalpha(mask)
    return sprite.reduce(_FINE)


def render(scene: Scene, pixels: int) -> Image.Image:
    """The picture of a scene, RGB, `pixels` × `pixels`."""
    picture = Image.new("RGB", (pixels, pixels), scene.ground)
    for thing in scene.things:
        drawn = sprite(thing.size, thing.texture, thing.colour, thing.shape, pixels)
        corner = (round(thing.x * pixels - drawn.width / 2), round(thing.y * pixels - drawn.height / 2))
        picture.paste(drawn, corner, drawn)
    return picture


def jpeg(picture: Image.Image) -> bytes:
    """JPEG bytes at a quality that shows no traces."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92, subsampling=0)
    return out.getvalue()
