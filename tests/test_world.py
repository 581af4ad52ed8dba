"""The procedural world: deterministic, facts are what the graph says, captions say facts, difficulty is real."""

import inspect
import itertools
import subprocess
import sys

import numpy as np
import pytest

from vlr_jax import grammar, world
from vlr_jax.data.scenes import Builder

DEFAULTS = {name: p.default for name, p in inspect.signature(Builder.__init__).parameters.items()}


def make(index, split="test", seed=0):
    return world.scene(world.random_stream(seed, split, index, "graph"))


def tell(index, split="test", seed=0, **options):
    o = {
        "count": DEFAULTS["captions"],
        "mention": DEFAULTS["mention"],
        "synonyms": DEFAULTS["synonyms"],
        **options,
    }
    return grammar.captions(make(index, split, seed), world.random_stream(seed, split, index, "captions"), **o)


def look(index, split="test", seed=0, **options):
    o = {
        "dim": 64,
        "noise": DEFAULTS["noise"],
        "clutter": DEFAULTS["clutter"],
        "most": 8,
        "seed": seed,
        **options,
    }
    return world.regions(make(index, split, seed), world.random_stream(seed, split, index, "regions"), **o)


def oracle(count=500, **options):
    """Expected t2v R@1, in percent, of ranking by the share of the text's facts that are true, ties at random."""
    visual = np.stack([world.fact_vector(world.facts(make(i))) for i in range(count)]).astype(np.float32)
    told = [(i, said) for i in range(count) for _, said in tell(i, **options)]
    text = np.stack([world.fact_vector(said) for _, said in told]).astype(np.float32)
    true = visual @ text.T  # [V, T], whole numbers
    own = true[[i for i, _ in told], np.arange(len(told))]
    better, tied = (true > own).sum(0), (true == own).sum(0)
    return 100 * np.mean((better == 0) / tied)


def holds(fact, scene):
    """An independent reading of a fact's name in the graph."""
    things, words = scene.things, fact.split()
    if words[-1] == "objects":
        return len(things) == int(words[0])
    if words[:2] == ["two", "of"]:
        return sum(thing.shape == words[2] for thing in things) == 2
    if "left" in words:
        return any(a.shape == words[0] and b.shape == words[-1] and b.x > a.x + 0.1 for a in things for b in things)
    if "above" in words:
        return any(a.shape == words[0] and b.shape == words[-1] and b.y > a.y + 0.1 for a in things for b in things)
    return any({t.size, t.texture, t.colour, t.shape} >= set(words) for t in things)


def test_facts_are_what_the_graph_says():
    assert len(set(world.FACTS)) == len(world.FACTS) == 332
    for index in range(60):
        scene = make(index)
        true = world.facts(scene)
        assert true == {fact for fact in world.FACTS if holds(fact, scene)}
        assert [name for name, t in zip(world.FACTS, world.fact_vector(true), strict=True) if t] == [
            name for name in world.FACTS if name in true
        ]


def test_relations_are_strict_orders_told_from_one_end():
    for index in range(30):
        held = set(make(index).relations())
        assert not any((j, relation, i) in held for i, relation, j in held)


def test_scenes_stay_in_the_picture_and_apart():
    for index in range(200):
        things = make(index).things
        assert world.FEWEST <= len(things) <= world.MOST
        for a, b in itertools.combinations(things, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) > 0.12
        boxes = np.array([thing.box() for thing in things])
        assert boxes.min() >= 0 and boxes.max() <= 1


def test_deterministic_and_seeds_differ():
    assert [make(i) for i in range(5)] == [make(i) for i in range(5)]
    assert tell(3) == tell(3)
    assert tell(3, count=8)[:5] == tell(3)
    for a, b in zip(look(3), look(3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert make(3) != make(3, seed=1) and make(3) != make(3, split="train") and make(3) != make(4)
    assert world.jpeg(world.render(make(3), 48)) == world.jpeg(world.render(make(3), 48))


@pytest.mark.parametrize("mention", [0.05, DEFAULTS["mention"], 1.0])
def test_captions_say_only_what_is_true(mention):
    vocabulary = set(grammar.words())
    for index in range(100):
        true, told = world.facts(make(index)), tell(index, mention=mention)
        assert len({text for text, _ in told}) == DEFAULTS["captions"]
        for text, said in told:
            assert said and said <= true
            assert set(text.split()) <= vocabulary and text == " ".join(text.lower().split())


def test_said_facts_are_read_in_the_words():
    """Words → facts, independently of how captions are made: every word of an attribute is a fact, and the reverse."""
    meaning = {word: name for name, row in grammar.SYNONYMS.items() if name != "object" for word in row}
    meaning |= {grammar._plural(word): name for word, name in meaning.items() if name in world.SHAPES}
    after = {"stripes": "striped", "dots": "dotted", "pattern": "plain"}
    for index in range(100):
        for text, said in tell(index):
            read = {(meaning | after)[word] for word in text.split() if word in meaning | after}
            singles = {fact for fact in said if " " not in fact} | {f[7:] for f in said if f.startswith("two of ")}
            assert read == singles


@pytest.mark.parametrize("index", range(5))
def test_enough_different_captions_in_the_narrowest_language(index):
    assert len(dict(tell(index, count=20, mention=1.0, synonyms=1))) == 20


def test_vocabulary():
    words = grammar.words()
    assert words == sorted(set(words)) and 100 <= len(words) <= 150
    said = {word for index in range(400) for text, _ in tell(index, "train") for word in text.split()}
    assert said == set(words)  # every word of the language is spoken
    few = {word for index in range(400) for text, _ in tell(index, "train", synonyms=1) for word in text.split()}
    assert few < said and "crimson" not in few


def test_oracle_is_neither_chance_nor_certainty():
    assert 40 < oracle() < 75


def test_mention_sets_the_ambiguity():
    assert oracle(150, mention=0.4) + 20 < oracle(150) < oracle(150, mention=1.0) - 10


def test_relations_carry_information():
    """Hiding the relations of the captions makes scenes harder to tell apart: what reasoning over regions can gain."""
    relational = np.array([" left of " in name or " above " in name for name in world.FACTS])
    visual = np.stack([world.fact_vector(world.facts(make(i))) for i in range(300)])
    text = np.stack([world.fact_vector(said) for i in range(300) for _, said in tell(i)])
    text = text[text[:, relational].any(1)]
    fits = [np.mean(1 / (visual[:, keep].astype(int) @ text[:, keep].T == text[:, keep].sum(1)).sum(0))
            for keep in (relational | True, ~relational)]  # fmt: skip
    assert len(text) > 100 and fits[0] > 1.1 * fits[1]


def test_regions():
    clean, boxes = look(0, noise=0.0, clutter=0)
    scene = make(0)
    assert clean.dtype == np.float16 and clean.shape == (len(scene.things), 64) and boxes.dtype == np.float32
    assert {tuple(np.float32(t.box())) for t in scene.things} == {tuple(box) for box in boxes}
    # The same thing looks the same in any split; the projection is the world's, not the scene's.
    again, _ = world.regions(scene, np.random.default_rng(9), dim=64, noise=0.0, clutter=0, most=8, seed=0)
    np.testing.assert_array_equal(np.sort(clean, axis=0), np.sort(again, axis=0))
    assert 0.5 < np.std(np.concatenate([look(i, noise=0.0)[0] for i in range(50)])) < 1.5


def test_clutter_and_noise_make_regions_harder():
    for index in range(20):
        count = len(make(index).things)
        assert len(look(index, clutter=50, most=60)[0]) == count + 50
        assert len(look(index, clutter=50, most=6)[0]) == 6
    change = [np.std(look(0, noise=noise)[0] - look(0, noise=0.0)[0]) for noise in (0.1, 0.5)]
    np.testing.assert_allclose(change, (0.1, 0.5), rtol=0.15)


def test_pictures_show_the_objects():
    for index in range(10):
        scene = make(index)
        pixels = np.asarray(world.render(scene, 200), int)
        assert pixels.shape == (200, 200, 3)
        np.testing.assert_array_equal(pixels[0, 0], scene.ground)
        for thing in scene.things:
            if thing.texture == "plain" and thing.shape != "ring":
                at = pixels[round(thing.y * 200), round(thing.x * 200)]
                np.testing.assert_allclose(at, world.COLOURS[thing.colour], atol=2)
    looks = itertools.product(*world.ATTRIBUTES.values())
    drawn = {world.render(world.Scene((world.Thing(*look, x=0.5, y=0.5),), (230,) * 3), 48).tobytes() for look in looks}
    assert len(drawn) == 576  # no two looks are the same, even small


def test_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys, vlr_jax.data.scenes, vlr_jax.grammar, vlr_jax.world; "
        "print(sorted({'jax', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
