"""Captions of the procedural world: a grammar with synonyms, paraphrase and partial mention (no jax, no TensorFlow).

A caption is made in two steps: choose what to tell of the scene (its facts are then known exactly), then choose the
words. Every caption is lower-case words from `words()`, without punctuation.
"""

import itertools

import numpy as np

from vlr_jax import world
from vlr_jax.world import pick

# The first word is the plain one; the option `synonyms` says how many of each row are in use.
SYNONYMS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge", "pyramid"),
    "star": ("star", "asterisk", "sparkle"),
    "cross": ("cross", "plus", "crossing"),
    "hexagon": ("hexagon", "honeycomb", "nut"),
    "ring": ("ring", "hoop", "donut"),
    "heart": ("heart", "valentine", "sweetheart"),
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine", "amber"),
    "yellow": ("yellow", "golden", "lemon"),
    "green": ("green", "emerald", "lime"),
    "blue": ("blue", "azure", "navy"),
    "purple": ("purple", "violet", "lilac"),
    "pink": ("pink", "rose", "salmon"),
    "black": ("black", "dark", "charcoal"),
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "average", "middling"),
    "large": ("large", "big", "huge"),
    "plain": ("plain", "solid", "unpatterned"),
    "striped": ("striped", "lined", "banded"),
    "dotted": ("dotted", "spotted", "speckled"),
    "object": ("object", "thing", "shape"),
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses"}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
TEXTURE_AFTER = {"plain": "without pattern", "striped": "with stripes", "dotted": "with dots"}
JOINTS = ("and", "with", "together with", "along with", "as well as")
FRAMES = ("{}", "there is {}", "a picture of {}", "we see {}", "the image shows {}", "{} can be seen", "here is {}")
COUNT_FRAMES = ("{count} {objects} with {rest}", "among {count} {objects} {rest}", "{rest} among {count} {objects}")
# {a} stands in the relation to {b}. Phrases go into FRAMES, sentences stand alone.
RELATION_PHRASES = {
    "left of": ("{a} left of {b}", "{a} to the left of {b}", "{b} right of {a}", "{b} to the right of {a}"),
    "above": ("{a} above {b}", "{a} over {b}", "{b} below {a}", "{b} under {a}"),
}
RELATION_SENTENCES = {
    "left of": ("{a} is left of {b}", "{b} is on the right of {a}", "left of {b} is {a}", "to the right of {a} is {b}"),
    "above": ("{a} is above {b}", "{b} is below {a}", "above {b} is {a}", "under {a} is {b}", "{a} is higher than {b}"),
}
MOST_TOLD = 3  # objects of one caption
SPREAD = 2.0  # how alike captions are in the share they tell: a beta distribution with this sum of parameters
RELATE = 0.35  # share of the captions with two told shapes that also say how two of them stand to each other
COUNT = 0.06  # share of the captions that say how many objects there are
PAIR = 0.2  # share of the captions that sum up two objects of one shape, where there are exactly two


def captions(
    scene: world.Scene, rng: np.random.Generator, *, count: int, mention: float, synonyms: int
) -> list[tuple[str, set[str]]]:
    """Different captions of one scene, each with the facts that it says.

    Args:
        scene: the graph.
        rng: its stream "captions". Caption i does not depend on `count`.
        count: how many captions.
        mention: in (0, 1], the mean share of the scene that a caption tells. Some captions tell much and some little:
            each draws its own share, which is the probability that an object is told of (at least 1, at most
            `MOST_TOLD`) and that a told object's size, texture and colour are; its shape is with (1 + share) / 2.
        synonyms: 1 to 3, how many words for each idea are in use.

    Returns:
        `count` pairs (caption, facts), no two captions equal; the facts are true in the scene and among `world.FACTS`.
    """
    found: dict[str, set[str]] = {}
    tries = 0
    while len(found) < count:
        share = rng.beta(SPREAD * mention, SPREAD * (1 - mention)) if mention < 1 else 1.0
        # Each repetition makes the next attempt tell a little more, so that enough different captions exist.
        text, said = _caption(scene, rng, min(1.0, share + 0.02 * (tries - len(found))), synonyms)
        found.setdefault(text, said)
        tries += 1
    return list(found.items())


def words() -> list[str]:
    """Every word that a caption can hold, sorted."""
    singular = set(itertools.chain.from_iterable(SYNONYMS.values()))
    nouns = itertools.chain.from_iterable(SYNONYMS[name] for name in (*world.SHAPES, "object"))
    templates = [*FRAMES, *COUNT_FRAMES, *JOINTS, *TEXTURE_AFTER.values(), "a an one in"]
    for table in (RELATION_PHRASES, RELATION_SENTENCES):
        templates += itertools.chain.from_iterable(table.values())
    plain = {word for template in templates for word in template.split() if "{" not in word}
    return sorted(singular | {_plural(noun) for noun in nouns} | plain | set(NUMBERS.values()))


def _caption(scene: world.Scene, rng: np.random.Generator, share: float, synonyms: int) -> tuple[str, set[str]]:
    told = _choose(scene, rng, share)
    said: set[str] = set()
    pair = _shape_of_two(scene)
    if pair and rng.random() < PAIR:
        # Told singly as well, the two would read like further objects.
        told = {i: attributes for i, attributes in told.items() if scene.things[i].shape != pair}
        said.add(world.two_fact(pair))
    else:
        pair = None
    relation = _choose_relation(scene, told, rng)
    # Who says where things are describes them less: then the relation is news, not decoration.
    for i in (relation[0], relation[2]) if relation else ():
        kept = pick(rng, [name for name in told[i] if name != "shape"] or ["shape"])
        told[i] = {name: value for name, value in told[i].items() if name in ("shape", kept)}
    for attributes in told.values():
        said |= world.thing_facts(attributes)
    phrases = {i: noun_phrase(attributes, rng, synonyms) for i, attributes in told.items()}

    sentence = False
    parts = []
    if relation:
        i, name, j = relation
        said.add(world.relation_fact(scene.things[i].shape, name, scene.things[j].shape))
        sentence = rng.random() < 0.5
        template = pick(rng, (RELATION_SENTENCES if sentence else RELATION_PHRASES)[name])
        parts.append(template.format(a=phrases.pop(i), b=phrases.pop(j)))
    parts += phrases.values()
    if pair:
        parts.append(f"two {_plural(pick(rng, SYNONYMS[pair][:synonyms]))}")
    text = parts[0]
    for part in parts[1:]:
        text = f"{text} {pick(rng, JOINTS)} {part}"
    if sentence:
        return text, said
    if rng.random() < COUNT:
        said.add(world.count_fact(len(scene.things)))
        objects = _plural(pick(rng, SYNONYMS["object"][:synonyms]))
        return pick(rng, COUNT_FRAMES).format(count=NUMBERS[len(scene.things)], objects=objects, rest=text), said
    return pick(rng, FRAMES).format(text), said


def _choose(scene: world.Scene, rng: np.random.Generator, share: float) -> dict[int, dict[str, str]]:
    """What to tell: object → its told attributes, in random order; at least one object, at least one attribute each."""
    order = [int(i) for i in rng.permutation(len(scene.things))]
    chosen = [i for i in order if rng.random() < share][:MOST_TOLD] or order[:1]
    told = {}
    for i in chosen:
        thing = scene.things[i]
        names = [name for name in world.ATTRIBUTES if rng.random() < ((1 + share) / 2 if name == "shape" else share)]
        told[i] = {name: getattr(thing, name) for name in names or ["shape"]}
    return told


def _choose_relation(
    scene: world.Scene, told: dict[int, dict[str, str]], rng: np.random.Generator
) -> tuple[int, str, int] | None:
    """A relation that holds between two objects whose shapes are told, in a share `RELATE` of the captions."""
    if rng.random() >= RELATE:
        return None
    shaped = {i for i, attributes in told.items() if "shape" in attributes}
    held = [(i, name, j) for i, name, j in scene.relations() if i in shaped and j in shaped]
    return pick(rng, held) if held else None


def _shape_of_two(scene: world.Scene) -> str | None:
    """The first shape that exactly two objects have."""
    shapes = [thing.shape for thing in scene.things]
    return next((shape for shape in shapes if shapes.count(shape) == 2), None)


def noun_phrase(attributes: dict[str, str], rng: np.random.Generator, synonyms: int) -> str:
    """Words for one object: "a large red ring", "a striped big thing", "one disc with dots in red", …"""
    said = {name: pick(rng, SYNONYMS[value][:synonyms]) for name, value in attributes.items()}
    before, after = [], []
    for name in ("size", "texture", "colour"):
        if name not in said:
            continue
        if name == "texture" and rng.random() < 0.25:
            after.append(TEXTURE_AFTER[attributes[name]])
        elif name == "colour" and rng.random() < 0.25:
            after.append(f"in {said[name]}")
        else:
            before.append(said[name])
    if len(before) > 1 and rng.random() < 0.3:
        before.reverse()
    noun = said.get("shape") or pick(rng, SYNONYMS["object"][:synonyms])
    phrase = [*before, noun, *after]
    article = "one" if rng.random() < 0.1 else "an" if phrase[0][0] in "aeiou" else "a"
    return " ".join([article, *phrase])


def _plural(noun: str) -> str:
    return PLURALS.get(noun, f"{noun}s")
