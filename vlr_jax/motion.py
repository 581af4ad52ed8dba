"""The procedural world in time: scene graphs whose objects act, their facts and region features frame by frame.

A `Video` has objects that are on stage for a while and events, in which one object does something (`ALONE`) or two do
(`TOGETHER`), one event after another or two at once. Everything else is read off that graph, as in `world.py`: `facts`,
`state` (what an object looks like at a moment); region features and pictures in `film.py`, captions in `narration.py`.
Video `index` of a split depends on (seed, split, index) alone, never on how many there are or how hard they are made.
"""

import dataclasses
import itertools
import math

import numpy as np

from vlr_jax import world
from vlr_jax.world import pick

ALONE = (
    "moves left", "moves right", "moves up", "moves down", "spins", "grows", "shrinks", "blinks", "changes colour",
)  # fmt: skip
TOGETHER = ("swaps", "meets")
ACTIONS = (*ALONE, *TOGETHER)
# What captions tell of an object. Few values: most videos have all of them, and are told apart by who does what.
ATTRIBUTES = {"colour": ("red", "yellow", "green", "blue"), "shape": ("circle", "square", "triangle", "star")}
TEXTURE = "striped"  # of every object: the others don't show that a circle spins
SLOTS = (2, 3)  # drawn from these: how many times of a video something new happens
JITTER = 0.05  # how much the borders between those times move, in parts of one of them
AT_ONCE = 0.6  # share of those times at which a second object does something too
PAIRED = 0.15  # share of those times at which two objects do something together
STAY = 0.5  # probability that an object is on stage in the time before and after that of its event
ON_STAGE = 3  # objects at any moment
STEP = 0.22  # of the picture: how far an object moves
FEWEST_FRAMES = 3  # with fewer an event may fall between two frames


@dataclasses.dataclass(frozen=True)
class Event:
    """`actor` (and `other`, for `TOGETHER`) does `action` from `start` to `end`, fractions of the video; `turns` is the
    new colour where the action is to change it."""

    action: str
    actor: int
    start: float
    end: float
    other: int | None = None
    turns: str | None = None

    def who(self) -> tuple[int, ...]:
        """The objects that take part."""
        return (self.actor,) if self.other is None else (self.actor, self.other)


@dataclasses.dataclass(frozen=True)
class Video:
    """A scene graph in time: objects as they are at first, when each is on stage, and events ordered by their start."""

    things: tuple[world.Thing, ...]
    stage: tuple[tuple[float, float], ...]
    events: tuple[Event, ...]
    ground: tuple[int, int, int]

    def event_of(self, i: int) -> Event | None:
        """What object i does; every object takes part in one event at most."""
        return next((event for event in self.events if i in event.who()), None)

    def on_stage(self, moment: float) -> list[int]:
        """The objects that are there at a moment, a fraction of the video."""
        return [i for i, (enters, leaves) in enumerate(self.stage) if enters <= moment < leaves]


@dataclasses.dataclass(frozen=True)
class State:
    """What an object is like at one moment.

    Attributes:
        x, y: its centre, as fractions of the picture.
        size, colour: weights of their values; two are positive while it changes.
        turn: degrees.
        hidden: it blinks and is not to be seen just now.
        action: what it is doing, or None.
    """

    x: float
    y: float
    size: dict[str, float]
    colour: dict[str, float]
    turn: float
    hidden: bool
    action: str | None


# ---- the graph ----


def video(rng: np.random.Generator) -> Video:
    """A random video: 2 or 3 times at which one object acts, or two; `ON_STAGE` objects at any moment."""
    slots = pick(rng, SLOTS)
    borders = [0.0, *((k + rng.uniform(-JITTER, JITTER)) / slots for k in range(1, slots)), 1.0]
    events, stays = [], []  # of each object the first and the last slot that it is on stage
    for k in range(slots):
        together = rng.random() < PAIRED
        kinds = [pick(rng, TOGETHER if together else ALONE)]
        if not together and rng.random() < AT_ONCE:
            kinds.append(pick(rng, ALONE))
        for action in kinds:
            actors = [len(stays) + i for i in range(2 if together else 1)]
            events.append(Event(action, actors[0], borders[k], borders[k + 1], actors[1] if together else None))
            stays += [[k, k] for _ in actors]
    crowd = [sum(first <= k <= last for first, last in stays) for k in range(slots)]
    for i in rng.permutation(len(stays)):
        for end, k in ((0, stays[i][0] - 1), (1, stays[i][1] + 1)):
            if 0 <= k < slots and crowd[k] < ON_STAGE and rng.random() < STAY:
                stays[i][end] = k
                crowd[k] += 1
    for k in range(slots):  # idle objects
        stays += [[k, k]] * (ON_STAGE - crowd[k])
    return _cast(rng, events, stays, borders)


def _cast(rng: np.random.Generator, events: list[Event], stays: list, borders: list[float]) -> Video:
    """Attributes and places for the objects of events."""
    cells = rng.permutation(world.GRID**2)
    doing = {i: event.action for event in events for i in event.who()}
    things = []
    for i in range(len(stays)):
        looks = {name: pick(rng, values) for name, values in ATTRIBUTES.items()}
        sizes = {"grows": ("small", "medium"), "shrinks": ("medium", "large")}.get(doing.get(i), tuple(world.SIZES))
        looks["size"] = pick(rng, sizes)  # is never told
        reach, (x, y) = world.SIZES[looks["size"]], [(c + 0.5) / world.GRID for c in divmod(cells[i], world.GRID)]
        dx, dy = _way(doing.get(i))
        x = min(max(x, reach - min(dx, 0)), 1 - reach - max(dx, 0))
        y = min(max(y, reach - min(dy, 0)), 1 - reach - max(dy, 0))
        things.append(world.Thing(**looks, texture=TEXTURE, x=float(x), y=float(y)))
    for k, event in enumerate(events):
        if event.action == "changes colour":
            others = [colour for colour in ATTRIBUTES["colour"] if colour != things[event.actor].colour]
            events[k] = dataclasses.replace(event, turns=pick(rng, others))
    ground = tuple(int(c) for c in rng.integers(212, 248, size=3))
    stage = tuple((borders[first], borders[last + 1]) for first, last in stays)
    return Video(tuple(things), stage, tuple(events), ground)


def _way(action: str | None) -> tuple[float, float]:
    """How far an action takes an object to the right and down."""
    ways = {"moves left": (-STEP, 0.0), "moves right": (STEP, 0.0), "moves up": (0.0, -STEP), "moves down": (0.0, STEP)}
    return ways.get(action, (0.0, 0.0))


def state(film: Video, i: int, moment: float) -> State:
    """Object i at a moment, a fraction of the video."""
    thing, event = film.things[i], film.event_of(i)
    size, colour = {thing.size: 1.0}, {thing.colour: 1.0}
    if event is None:
        return State(thing.x, thing.y, size, colour, 0.0, False, None)
    done = min(max((moment - event.start) / (event.end - event.start), 0.0), 1.0)
    dx, dy = _way(event.action)
    x, y = thing.x + done * dx, thing.y + done * dy
    if event.other is not None:
        mate = film.things[event.actor if i == event.other else event.other]
        # They swap along a straight line, or meet half-way, where the two still stand side by side.
        way = done if event.action == "swaps" else done * _half_way(thing, mate)
        x, y = thing.x + way * (mate.x - thing.x), thing.y + way * (mate.y - thing.y)
    if event.action in ("grows", "shrinks"):
        size = {thing.size: 1 - done, _last_size(thing, event): done}
    if event.turns:
        colour = {thing.colour: 1 - done, event.turns: done}
    return State(
        x,
        y,
        size,
        colour,
        turn=270.0 * done if event.action == "spins" else 0.0,
        hidden=event.action == "blinks" and 0 < done < 1 and int(done * 6) % 2 == 1,
        action=event.action if event.start <= moment < event.end else None,
    )


def _last_size(thing: world.Thing, event: Event) -> str:
    sizes = tuple(world.SIZES)
    return sizes[sizes.index(thing.size) + {"grows": 1, "shrinks": -1}.get(event.action, 0)]


def _half_way(one: world.Thing, other: world.Thing) -> float:
    """The part of the way to each other after which two objects touch."""
    apart = math.hypot(one.x - other.x, one.y - other.y)
    return max(0.0, (apart - world.SIZES[one.size] - world.SIZES[other.size]) / 2 / apart)


def moments(length: int) -> list[float]:
    """The moments of `length` frames: the middles of equal parts."""
    return [(f + 0.5) / length for f in range(length)]


# ---- facts ----


def does_fact(value: str, action: str) -> str:
    """The fact "some object with this value of an attribute takes part in this action"."""
    return f"{value} {action}"


def turns_fact(colour: str) -> str:
    """The fact "some object changes its colour to this one"."""
    return f"turns {colour}"


def order_fact(first: str, then: str) -> str:
    """The fact "some event of this action is over when one of that action starts"."""
    return f"{first} before {then}"


def pair_fact(shape: str, action: str, other: str) -> str:
    """The fact "two objects of these shapes do this with each other", whichever is named first."""
    one, two = sorted((shape, other))
    return f"{one} {action} {two}"


def event_facts(event: Event, told: dict[int, dict[str, str]]) -> set[str]:
    """Facts that an event makes true, of objects with the attributes `told` (by object)."""
    found = {event.action} | {does_fact(value, event.action) for i in event.who() for value in told[i].values()}
    shapes = [told[i]["shape"] for i in event.who() if "shape" in told[i]]
    return found | ({pair_fact(shapes[0], event.action, shapes[1])} if len(shapes) == 2 else set())


def _fact_names() -> tuple[str, ...]:
    values = [value for row in ATTRIBUTES.values() for value in row]
    pairs = [" ".join(pair) for pair in itertools.product(*ATTRIBUTES.values())]
    does = [does_fact(value, action) for value in values for action in ACTIONS]
    turns = [turns_fact(colour) for colour in ATTRIBUTES["colour"]]
    order = [order_fact(a, b) for a in ACTIONS for b in ACTIONS]
    shapes = itertools.combinations_with_replacement(sorted(ATTRIBUTES["shape"]), 2)
    meet = [pair_fact(a, action, b) for a, b in shapes for action in TOGETHER]
    return (*values, *pairs, *ACTIONS, *does, *turns, *order, *meet)


FACTS = _fact_names()  # K names; the columns of every fact array
_POSITION = {name: k for k, name in enumerate(FACTS)}


def facts(film: Video) -> set[str]:
    """All facts true in the video, a subset of `FACTS`; attributes that an object has at its start or its end."""
    true, looks = set(), []
    for thing in film.things:
        looks.append({name: getattr(thing, name) for name in ATTRIBUTES})
        true |= world.thing_facts(looks[-1])
    for event in film.events:
        true |= event_facts(event, dict(enumerate(looks)))
        if event.turns:
            true |= {turns_fact(event.turns)} | world.thing_facts(looks[event.actor] | {"colour": event.turns})
    pairs = itertools.product(film.events, repeat=2)
    return true | {order_fact(a.action, b.action) for a, b in pairs if a.end <= b.start}


def fact_vector(names) -> np.ndarray:
    """Names of facts → bool `[K]`."""
    vector = np.zeros(len(FACTS), bool)
    vector[[_POSITION[name] for name in names]] = True
    return vector
