"""Captions of the procedural world in time: a grammar of events, with synonyms, paraphrase and partial mention.

As in `grammar.py`, a caption is made in two steps: choose what to tell of the video (its facts are then known exactly),
then choose the words. Every caption is lower-case words from `words()`, without punctuation. The order of the events
is told or not; where it is not, the order of the clauses says nothing about it.
"""

import itertools

import numpy as np

from vlr_jax import grammar, motion, world
from vlr_jax.world import pick

# The first phrase is the plain one; the option `synonyms` says how many of each row are in use.
VERBS = {
    "moves left": ("moves left", "goes left", "slides to the left"),
    "moves right": ("moves right", "goes right", "slides to the right"),
    "moves up": ("moves up", "goes up", "rises"),
    "moves down": ("moves down", "goes down", "sinks"),
    "spins": ("spins", "rotates", "whirls"),
    "grows": ("grows", "swells", "expands"),
    "shrinks": ("shrinks", "contracts", "dwindles"),
    "blinks": ("blinks", "flashes", "flickers"),
    "changes colour": ("changes colour", "is repainted", "gets another colour"),
    "swaps": ("swaps places with", "trades places with", "exchanges places with"),
    "meets": ("meets", "bumps into", "comes up to"),
}
TURNS = ("turns {}", "becomes {}", "changes to {}")
FRAMES = ("{}", "{}", "{}", "we see how {}", "the video shows how {}", "here {}", "in this clip {}")
THEN = ("{a} and then {b}", "{a} then {b}", "{a} before {b}", "first {a} and later {b}", "{b} after {a}")
CHAIN = ("then", "and then", "and later", "after that")
BESIDES = ("{a} and {b}", "{a} and also {b}")
IDLE = ("there is {}", "{} is there", "{} is in view")
MOST_TOLD = 3  # clauses of one caption
SPREAD = 4.0  # how alike captions are in the share they tell: a beta distribution with this sum of parameters
ORDER = 0.7  # share of the captions with events one after another that tell their order


def captions(
    video: motion.Video, rng: np.random.Generator, *, count: int, mention: float, synonyms: int
) -> list[tuple[str, set[str]]]:
    """Different captions of one video, each with the facts that it says.

    Args:
        video: the graph.
        rng: its stream "captions". Caption i does not depend on `count`.
        count: how many captions.
        mention: in (0, 1], the mean share of what happens that a caption tells. Each caption draws its own share, which
            is the probability that an event is told (at least 1, at most `MOST_TOLD`) and that a told object's colour
            is; its shape is with (1 + share) / 2, and an object that is in no told event with half the share.
        synonyms: 1 to 3, how many words for each idea are in use.

    Returns:
        `count` pairs (caption, facts), no two captions equal; the facts are true in the video and among `motion.FACTS`.
    """
    found: dict[str, set[str]] = {}
    tries = 0
    while len(found) < count:
        share = rng.beta(SPREAD * mention, SPREAD * (1 - mention)) if mention < 1 else 1.0
        # Each repetition makes the next attempt tell a little more, so that enough different captions exist.
        text, said = _caption(video, rng, min(1.0, share + 0.02 * (tries - len(found))), synonyms)
        found.setdefault(text, said)
        tries += 1
    return list(found.items())


def words() -> list[str]:
    """Every word that a caption can hold, sorted."""
    ideas = (*itertools.chain.from_iterable(motion.ATTRIBUTES.values()), "object")
    rows = [grammar.SYNONYMS[idea] for idea in ideas]
    templates = [*itertools.chain.from_iterable((*rows, *VERBS.values())), *TURNS, *FRAMES, *THEN, *CHAIN, *BESIDES]
    templates += [*IDLE, "a an one in and"]
    return sorted({word for template in templates for word in template.split() if "{" not in word})


def _caption(video: motion.Video, rng: np.random.Generator, share: float, synonyms: int) -> tuple[str, set[str]]:
    events, idle = _choose(video, rng, share)
    said: set[str] = set()

    def describe(i: int) -> tuple[str, dict[str, str]]:
        told = _attributes(video.things[i], rng, share)
        said.update(world.thing_facts(told))
        return grammar.noun_phrase(told, rng, synonyms), told

    clauses = []
    for event in events:
        phrases, told = zip(*map(describe, event.who()), strict=True)
        said |= motion.event_facts(event, dict(zip(event.who(), told, strict=True)))
        verb = pick(rng, VERBS[event.action][:synonyms])
        if event.turns and rng.random() < share:
            said.add(motion.turns_fact(event.turns))
            verb = pick(rng, TURNS[:synonyms]).format(pick(rng, grammar.SYNONYMS[event.turns][:synonyms]))
        clauses.append(" ".join([phrases[0], verb, *phrases[1:]]))
    if _in_a_row(events) and rng.random() < ORDER:
        said |= {motion.order_fact(a.action, b.action) for a, b in itertools.combinations(events, 2)}
        clauses = [_sequence(clauses, rng)]
    clauses += [pick(rng, IDLE).format(describe(i)[0]) for i in idle]
    clauses = [clauses[i] for i in rng.permutation(len(clauses))]
    text = clauses[0]
    for clause in clauses[1:]:
        text = pick(rng, BESIDES).format(a=text, b=clause)
    return pick(rng, FRAMES).format(text), said


def _choose(video: motion.Video, rng: np.random.Generator, share: float) -> tuple[list[motion.Event], list[int]]:
    """What to tell: events, at least one, by their start; and objects that are in none of those."""
    order = [int(i) for i in rng.permutation(len(video.events))]
    chosen = [i for i in order if rng.random() < share][:MOST_TOLD] or order[:1]
    events = [video.events[i] for i in sorted(chosen)]
    acting = {i for event in events for i in event.who()}
    others = [int(i) for i in rng.permutation(len(video.things)) if i not in acting and rng.random() < share / 2]
    return events, others[: MOST_TOLD - len(events)]


def _attributes(thing: world.Thing, rng: np.random.Generator, share: float) -> dict[str, str]:
    """What is told of an object as it is at first; nothing for "an object"."""
    likely = {name: (1 + share) / 2 if name == "shape" else share for name in motion.ATTRIBUTES}
    return {name: getattr(thing, name) for name, chance in likely.items() if rng.random() < chance}


def _in_a_row(events: list[motion.Event]) -> bool:
    """Several events, one after another."""
    return len(events) > 1 and all(a.end <= b.start for a, b in itertools.pairwise(events))


def _sequence(clauses: list[str], rng: np.random.Generator) -> str:
    """Clauses in the order in which they happen, in words that say so."""
    if len(clauses) == 2:
        return pick(rng, THEN).format(a=clauses[0], b=clauses[1])
    text = clauses[0]
    for clause in clauses[1:]:
        text = f"{text} {pick(rng, CHAIN)} {clause}"
    return text
