"""The procedural world at length: videos in which one event follows another, what is asked of them, and exact windows.

A `Story` tiles a video of `clips` clips with events, each an object of some colour and shape that does something. Some
are asked for, by sentences that say all three, and may happen several times; each two of them have one or more between
them that are not: near misses, which differ from what is asked for in one thing only. The option `background` says how
many of these are shown, and where one isn't, nothing happens. What a camera makes of a story is in `reel.py`. Story
`index` of a split depends on (seed, split, index, clips, queries) alone, never on how hard it is made.
"""

import dataclasses
import itertools
import math

import numpy as np

from vlr_jax import grammar, motion, narration, world
from vlr_jax.world import pick

CLIP_LENGTH = 2.0  # seconds
KINDS = {**motion.ATTRIBUTES, "action": motion.ALONE}  # what is told of an event; its values are one of each
SEGMENT = 6  # clips of an event on average
SHORTEST = 3  # clips
UNEVEN = 1.2  # standard deviation of the logarithm of what events last beyond the shortest
TIMES = (1, 1, 1, 2, 2, 3)  # drawn from these: how often what is asked for happens
FEWEST_CLIPS, MOST_CLIPS = 2 * SEGMENT, 6000
MOST_QUERIES = 12  # what is asked for has more near misses than that, so that some are always left
PICTURED = 4  # objects of the thumbnail


@dataclasses.dataclass(frozen=True)
class Event:
    """An object does something once.

    Attributes:
        values: one of each of `KINDS`: colour, shape, action.
        start, end: seconds.
        rank: 0 for an event that is asked for, else in (0, 1): it is shown where `background` is at least this.
        shifts: of each of `KINDS`, from -1 to 1, how much the start and the end of its evidence are off, in parts of
            the option `jitter`.
    """

    values: tuple[str, str, str]
    start: float
    end: float
    rank: float
    shifts: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Story:
    """A long video: its clips, the values that are asked for, all events by their start, and the colour of the ground.

    The events follow one another without gap from 0 to `duration()`; no two that are asked for touch.
    """

    clips: int
    queries: tuple[tuple[str, str, str], ...]
    events: tuple[Event, ...]
    ground: tuple[int, int, int]

    def duration(self) -> float:
        """Seconds."""
        return self.clips * CLIP_LENGTH

    def windows(self, values: tuple[str, str, str]) -> list[tuple[float, float]]:
        """(start, end) in seconds of each time that something asked for happens, in order."""
        return [(event.start, event.end) for event in self.events if not event.rank and event.values == values]

    def shown(self, background: float) -> list[Event]:
        """The events that the video shows."""
        return [event for event in self.events if event.rank <= background]


# ---- the graph ----


def segments(clips: int) -> int:
    """How many events tile a video of so many clips."""
    return clips // SEGMENT


def most_asked(clips: int) -> int:
    """How many events that are asked for fit into so many clips, with another between each two."""
    return (segments(clips) + 1) // 2


def story(rng: np.random.Generator, *, clips: int, queries: int) -> Story:
    """A random story.

    Args:
        rng: its stream "graph".
        clips: `FEWEST_CLIPS` to `MOST_CLIPS`.
        queries: how many different things are asked for, at most `most_asked(clips)` and `MOST_QUERIES`.
    """
    every = list(itertools.product(*KINDS.values()))
    asked = tuple(every[int(i)] for i in rng.choice(len(every), queries, replace=False))
    count, casts = segments(clips), _times(rng, asked, most_asked(clips))
    # Of the places for `casts` with a gap between each two: choose among those without, then open the gaps.
    places = np.sort(rng.choice(count - len(casts) + 1, len(casts), replace=False)) + np.arange(len(casts))
    cast_at, others = dict(zip(places.tolist(), casts, strict=True)), count - len(casts)
    ranks = ((rng.permutation(others) + 0.5) / max(others, 1)).tolist()
    times, shifts = itertools.pairwise(_borders(rng, clips)), rng.uniform(-1, 1, (count, len(KINDS), 2)).tolist()
    events = []
    for place, ((start, end), shift) in enumerate(zip(times, shifts, strict=True)):
        values, rank = cast_at.get(place), 0.0
        if values is None:
            values, rank = _near_miss(rng, asked, events[-1].values if events else None), ranks.pop()
        events.append(Event(values, start, end, rank, tuple(map(tuple, shift))))
    return Story(clips, asked, tuple(events), tuple(rng.integers(212, 248, size=3).tolist()))


def _times(rng: np.random.Generator, asked: tuple, most: int) -> list[tuple[str, str, str]]:
    """Everything that is asked for, as often as it happens, at most `most` in all, in random order."""
    times = [pick(rng, TIMES) for _ in asked]
    while sum(times) > most:
        times[times.index(max(times))] -= 1
    casts = [values for values, count in zip(asked, times, strict=True) for _ in range(count)]
    return [casts[i] for i in rng.permutation(len(casts))]


def _near_miss(rng: np.random.Generator, asked: tuple, last: tuple | None) -> tuple[str, str, str]:
    """Values that differ in one from something asked for: two of three words fit. They are not asked for themselves,
    nor those of the event before, `last`: the two would be one."""
    while True:
        values = list(pick(rng, asked))
        k = int(rng.integers(len(KINDS)))
        values[k] = pick(rng, list(KINDS.values())[k])
        if (found := tuple(values)) not in asked and found != last:
            return found


def _borders(rng: np.random.Generator, clips: int) -> list[float]:
    """Seconds at which one event ends and the next starts, from 0 to the video's duration."""
    count = segments(clips)
    weights = np.exp(UNEVEN * rng.standard_normal(count))
    lengths = SHORTEST + (clips - SHORTEST * count) * weights / weights.sum()
    return [0.0, *(CLIP_LENGTH * np.cumsum(lengths[:-1])).tolist(), clips * CLIP_LENGTH]


# ---- facts ----


def key(values: tuple[str, str, str]) -> str:
    """The one name of an event in all videos, whatever words a query has for it: "red circle spins"."""
    return " ".join(values)


def event_facts(values: tuple[str, str, str]) -> set[str]:
    """Facts that an event makes true: its values, each pair of them bound together, and all three."""
    colour, shape, action = values
    bound = {motion.does_fact(value, action) for value in (colour, shape)}
    return world.thing_facts({"colour": colour, "shape": shape}) | {action, key(values)} | bound


def _fact_names() -> tuple[str, ...]:
    colours, shapes, actions = KINDS.values()
    pairs = itertools.chain(*(itertools.product(a, b) for a, b in itertools.combinations(KINDS.values(), 2)))
    wholes = itertools.product(colours, shapes, actions)
    return (*colours, *shapes, *actions, *map(" ".join, pairs), *map(key, wholes))


FACTS = _fact_names()  # K names; the columns of every fact array
_POSITION = {name: k for k, name in enumerate(FACTS)}


def facts(events: list[Event]) -> set[str]:
    """All facts true in a video that shows these events, a subset of `FACTS`."""
    return set().union(*(event_facts(event.values) for event in events))


def fact_vector(names) -> np.ndarray:
    """Names of facts → bool `[K]`."""
    vector = np.zeros(len(FACTS), bool)
    vector[[_POSITION[name] for name in names]] = True
    return vector


# ---- words and a picture ----


def ask(story: Story, rng: np.random.Generator, *, synonyms: int) -> list[tuple[str, set[str]]]:
    """A sentence for each of `story.queries`, in words of `narration.words()`, with the facts that it says: all.

    Args:
        story: the graph.
        rng: its stream "captions".
        synonyms: 1 to 3, how many words for each idea are in use.
    """
    sentences = []
    for colour, shape, action in story.queries:
        phrase = grammar.noun_phrase({"colour": colour, "shape": shape}, rng, synonyms)
        verb = pick(rng, narration.VERBS[action][:synonyms])
        sentence = pick(rng, narration.FRAMES).format(f"{phrase} {verb}")
        sentences.append((sentence, event_facts((colour, shape, action))))
    return sentences


def pictured(story: Story) -> world.Scene:
    """The objects that are asked for, side by side in a scene at rest, at most `PICTURED`: a thumbnail."""
    objects = [values[:2] for values in story.queries][:PICTURED]
    side = math.ceil(math.sqrt(len(objects)))
    return world.Scene(
        tuple(
            world.Thing("large", motion.TEXTURE, colour, shape, (i % side + 0.5) / side, (i // side + 0.5) / side)
            for i, (colour, shape) in enumerate(objects)
        ),
        story.ground,
    )
