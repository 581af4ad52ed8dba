"""The procedural world in time: facts are what the graph says, captions say facts, regions share out what is seen."""

import functools
import inspect
import itertools
import subprocess
import sys

import numpy as np
import pytest

from vlr_jax import film, grammar, motion, narration, world
from vlr_jax.data.scenes import Builder

DEFAULTS = {name: p.default for name, p in inspect.signature(Builder.__init__).parameters.items()}
VALUES = {value for row in motion.ATTRIBUTES.values() for value in row}


@functools.cache
def make(index, split="test", seed=0):
    return motion.video(world.random_stream(seed, split, index, "graph"))


@functools.cache
def true(index):
    return motion.facts(make(index))


def tell(index, split="test", seed=0, **options):
    o = {"count": 5, "mention": DEFAULTS["mention"], "synonyms": 3, **options}
    return narration.captions(make(index, split, seed), world.random_stream(seed, split, index, "captions"), **o)


def look(index, split="test", seed=0, **options):
    o = {"length": 6, "spread": 3, "dim": 64, "noise": 0.15, "clutter": 2, "seed": seed, **options}
    return film.regions(make(index, split, seed), world.random_stream(seed, split, index, "regions"), **o)


@functools.cache
def inverse():
    return np.linalg.pinv(film._projection(64, 0))


def codes(index, **options):
    """What the regions of each frame show, read back from features without noise: a list of `[R, all]`."""
    features, counts, _ = look(index, noise=0.0, **options)
    read = features.astype(np.float32) @ inverse()
    return np.split(read, np.cumsum(counts)[:-1])


def holds(fact, video):
    """An independent reading of a fact's name in the graph."""
    if " before " in fact:
        first, then = fact.split(" before ")
        return any(a.action == first and b.action == then and a.end <= b.start
                   for a, b in itertools.permutations(video.events, 2))  # fmt: skip
    action = next((action for action in motion.ACTIONS if fact.split(" ", 1)[-1] == action), None)
    first, last = fact.split()[0], fact.split()[-1]
    doing = [(event, [video.things[i] for i in event.who()]) for event in video.events]
    if fact in motion.ACTIONS:
        return any(event.action == fact for event, _ in doing)
    if action:
        return any(event.action == action and first in (t.colour, t.shape) for event, who in doing for t in who)
    if first == "turns":
        return any(event.turns == last for event in video.events)
    if len(fact.split()) == 3:
        return any([event.action, *sorted(t.shape for t in who)] == [fact.split()[1], first, last]
                   for event, who in doing)  # fmt: skip
    looks = [{t.colour, t.shape} for t in video.things]
    looks += [{event.turns, who[0].shape} for event, who in doing if event.turns]
    return any(seen >= set(fact.split()) for seen in looks)


def oracle(count=120, keep=None, **options):
    """Expected t2v R@1, in percent, of ranking by the share of the text's facts that are true; `keep`: these facts."""
    keep = np.ones(len(motion.FACTS), bool) if keep is None else keep
    visual = np.stack([motion.fact_vector(true(i)) for i in range(count)])[:, keep].astype(np.float32)
    told = [(i, said) for i in range(count) for _, said in tell(i, **options)]
    text = np.stack([motion.fact_vector(said) for _, said in told])[:, keep].astype(np.float32)
    match = visual @ text.T  # [V, T], whole numbers
    own = match[[i for i, _ in told], np.arange(len(told))]
    return 100 * np.mean(((match > own).sum(0) == 0) / (match == own).sum(0))


def test_facts_are_what_the_graph_says():
    assert len(set(motion.FACTS)) == len(motion.FACTS) == 268
    for index in range(40):
        video = make(index)
        found = motion.facts(video)
        assert found == {fact for fact in motion.FACTS if holds(fact, video)}
        assert {name for name, t in zip(motion.FACTS, motion.fact_vector(found), strict=True) if t} == found


def test_videos():
    for index in range(100):
        video = make(index)
        for moment in motion.moments(12):
            assert len(video.on_stage(moment)) == motion.ON_STAGE
        acting = [i for event in video.events for i in event.who()]
        assert len(acting) == len(set(acting))  # an object does one thing
        starts = sorted({event.start for event in video.events})
        assert 2 <= len(starts) <= 3 and [event.start for event in video.events] == sorted(
            e.start for e in video.events
        )
        for event in video.events:
            assert (event.turns is not None) == (event.action == "changes colour")
            for i in event.who():
                enters, leaves = video.stage[i]
                assert enters <= event.start < event.end <= leaves
                # Whatever the number of frames, each event is seen in one.
                for length in range(motion.FEWEST_FRAMES, 9):
                    assert any(motion.state(video, i, m).action == event.action for m in motion.moments(length))


def test_actions_change_what_they_say():
    start_end = {}
    for index in range(200):
        video = make(index)
        for event in video.events:
            start_end.setdefault(event.action, []).append(
                [[motion.state(video, i, moment) for i in event.who()] for moment in (event.start, event.end)]
            )
    assert set(start_end) == set(motion.ACTIONS)

    def change(action, what):
        return np.array([what(last[0]) - what(first[0]) for first, last in start_end[action]])

    radius = lambda state: sum(w * world.SIZES[name] for name, w in state.size.items())  # noqa: E731
    for action, dx, dy in (("moves left", -1, 0), ("moves right", 1, 0), ("moves up", 0, -1), ("moves down", 0, 1)):
        np.testing.assert_allclose(change(action, lambda s: s.x), dx * motion.STEP, atol=1e-6)
        np.testing.assert_allclose(change(action, lambda s: s.y), dy * motion.STEP, atol=1e-6)
    assert (change("grows", radius) > 0.03).all() and (change("shrinks", radius) < -0.03).all()
    assert (change("spins", lambda s: s.turn) == 270).all()
    assert all(max(a.colour, key=a.colour.get) != max(b.colour, key=b.colour.get)
               for (a,), (b,) in start_end["changes colour"])  # fmt: skip
    for (a, b), (c, d) in start_end["swaps"]:
        np.testing.assert_allclose((a.x, a.y, b.x, b.y), (d.x, d.y, c.x, c.y), atol=1e-6)
    for _, (c, d) in start_end["meets"]:
        assert np.hypot(c.x - d.x, c.y - d.y) < radius(c) + radius(d) + 1e-6 or radius(c) + radius(d) > 0.3


def test_deterministic_and_seeds_differ():
    assert make(3) == make.__wrapped__(3) and tell(3) == tell(3) and tell(3, count=8)[:5] == tell(3)
    for a, b in zip(look(3), look(3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert make(3) != make(3, seed=1) and make(3) != make(3, split="train") and make(3) != make(4)
    assert film.render(make(3), 0.4, 48).tobytes() == film.render(make(3), 0.4, 48).tobytes()


@pytest.mark.parametrize("mention", [0.05, DEFAULTS["mention"], 1.0])
def test_captions_say_only_what_is_true(mention):
    vocabulary = set(narration.words())
    for index in range(60):
        told = tell(index, mention=mention)
        assert len({text for text, _ in told}) == 5
        for text, said in told:
            assert said and said <= true(index)
            assert set(text.split()) <= vocabulary and text == " ".join(text.lower().split())


def test_said_facts_are_read_in_the_words():
    """Words → facts, independently of how captions are made."""
    meaning = {word: name for name in VALUES for word in grammar.SYNONYMS[name]}
    for index in range(100):
        for text, said in tell(index):
            read = {meaning[word] for word in text.split() if word in meaning}
            assert read == {f for f in said if f in VALUES} | {f.split()[1] for f in said if f.startswith("turns ")}
            acts = {name for name, row in narration.VERBS.items() if any(f" {verb} " in f" {text} " for verb in row)}
            turned = any(f.startswith("turns ") for f in said)
            assert acts | ({"changes colour"} if turned else set()) == {f for f in said if f in motion.ACTIONS}
            tells_order = any(f" {word} " in f" {text} " for word in ("then", "later", "before", "after"))
            assert tells_order == any(" before " in f for f in said)


def test_the_order_told_is_the_order_of_events():
    verb = {name: row[0] for name, row in narration.VERBS.items()}
    seen = 0
    for index in range(150):
        for text, said in tell(index, synonyms=1):
            orders = [fact.split(" before ") for fact in said if " before " in fact]
            if len(orders) == 1 and len(set(orders[0])) == 2 and "turns" not in text:
                first, then = (f" {text} ".find(f" {verb[action]} ") for action in orders[0])
                assert (first < then) != (" after " in text and "after that" not in text), text
                seen += 1
    assert seen > 50


def test_enough_different_captions_in_the_narrowest_language():
    for index in range(5):
        assert len(dict(tell(index, count=20, mention=1.0, synonyms=1))) == 20


def test_vocabulary():
    words = narration.words()
    said = {word for index in range(300) for text, _ in tell(index, "train") for word in text.split()}
    assert words == sorted(set(words)) and said == set(words)  # every word of the language is spoken


def test_mention_sets_the_ambiguity_and_bindings_carry_information():
    assert oracle(mention=0.3) + 15 < oracle(mention=0.6) < oracle(mention=0.9) - 10
    bound = np.array([any(name.endswith(f" {action}") for action in motion.ACTIONS) and " before " not in name
                      for name in motion.FACTS])  # fmt: skip
    assert oracle(mention=0.6, keep=~bound) + 10 < oracle(mention=0.6)  # whose action it is


@pytest.mark.parametrize("spread", list(film.DEALT))
def test_spread_deals_out_what_an_object_shows(spread):
    """Every part shows its kinds of evidence alone; the chain of joints leads from the look to what is done."""
    starts, video = film._STARTS, make(1)
    look_at, motion_at = slice(0, starts["size"]), slice(starts["motion"], starts["start"])
    for moment, frame in zip(motion.moments(6), codes(1, spread=spread, clutter=0), strict=True):
        assert len(frame) == motion.ON_STAGE * spread
        ends = frame[:, starts["end"] :] > 0.5
        begins = frame[:, starts["start"] : starts["end"]] > 0.5
        follows = ends.astype(int) @ begins.T.astype(int)  # [i, j]: j is the next part after i
        assert follows.sum() == motion.ON_STAGE * (spread - 1) and follows.sum(1).max(initial=0) <= 1
        whole = []
        for i in np.flatnonzero(~begins.any(1)) if spread > 1 else range(len(frame)):
            total = frame[i, : starts["start"]].copy()
            for _ in range(spread - 1):
                i = int(follows[i].argmax())
                total += frame[i, : starts["start"]]
            whole.append(total)
        expected = [
            film._row(
                film._evidence(video.things[i].shape, motion.state(video, i, moment)), tuple(film.KINDS), None, None
            )
            for i in video.on_stage(moment)
        ]
        for row in expected:
            assert min(np.abs(row[: starts["start"]] - total).max() for total in whole) < 0.05
        both = (frame[:, look_at] > 0.5).any(1) & (frame[:, motion_at] > 0.5).any(1)
        assert both.any() == (spread == 1 and (np.array(expected)[:, motion_at] > 0.5).any())


def test_clutter_and_noise_make_regions_harder():
    starts = film._STARTS
    for index in range(4):
        plain, cluttered = look(index, clutter=0)[1], look(index, clutter=7)[1]
        np.testing.assert_array_equal(plain + 7, cluttered)
        for frame in codes(index, clutter=7):
            fragments = (frame[:, starts["start"] : starts["end"]] > 0.5).any(1)
            assert fragments.sum() >= 7
    # The mean of a frame's regions knows less of what is there, the more clutter there is.
    share = [np.mean([np.abs(frame[:, : starts["size"]].sum(0)).max() / len(frame) for frame in codes(0, clutter=c)])
             for c in (0, 4, 8)]  # fmt: skip
    assert share[0] > share[1] > share[2]
    change = [np.std(look(0, noise=noise)[0].astype(float) - look(0, noise=0.0)[0]) for noise in (0.1, 0.5)]
    np.testing.assert_allclose(change, (0.1, 0.5), rtol=0.15)
    assert 0.5 < np.std(np.concatenate([look(i, noise=0.0)[0] for i in range(8)]).astype(float)) < 1.5


def test_the_mean_of_the_regions_does_not_know_whose_action_it_is():
    """Two videos that differ in who acts alone: equal means where evidence is spread, different regions together."""
    video = next(v for v in map(make, range(100)) if v.events[0].action == "spins")
    i = video.events[0].actor
    j = next(j for j in video.on_stage(0.05) if motion.state(video, j, 0.05).action is None)
    things = list(video.things)
    for a, b in ((i, j), (j, i)):
        things[a] = world.Thing(**{n: getattr(video.things[b], n) for n in ("size", "texture", "colour", "shape")},
                                x=video.things[a].x, y=video.things[a].y)  # fmt: skip
    other = motion.Video(tuple(things), video.stage, video.events, video.ground)
    assert motion.facts(video) != motion.facts(other)
    frames = []
    for v in (video, other):
        rows = [film._parts(v.things[k].shape, motion.state(v, k, 0.05), 4, list(range(16))) for k in v.on_stage(0.05)]
        frames.append(np.stack([row for parts in rows for row, _ in parts])[:, : film._STARTS["start"]])
    np.testing.assert_allclose(frames[0].mean(0), frames[1].mean(0), atol=1e-6)
    assert np.abs(frames[0] - frames[1]).max() > 0.5


def test_shapes_and_boxes():
    features, counts, boxes = look(0, spread=2, clutter=3)
    assert features.dtype == np.float16 and counts.dtype == np.int32 and boxes.dtype == np.float32
    assert features.shape == (counts.sum(), 64) and boxes.shape == (counts.sum(), 4)
    np.testing.assert_array_equal(counts, [9] * 6)
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_pictures_show_who_is_on_stage():
    for index in range(6):
        video = make(index)
        for moment in motion.moments(4):
            pixels = np.asarray(film.render(video, moment, 120), int)
            assert pixels.shape == (120, 120, 3)
            ground = np.abs(pixels - np.array(video.ground)).max(-1) < 3
            for i in video.on_stage(moment):
                now = motion.state(video, i, moment)
                at = min(int(now.y * 120), 119), min(int(now.x * 120), 119)
                assert now.hidden or not ground[at]
            seen = sum(np.pi * (sum(w * world.SIZES[n] for n, w in motion.state(video, i, moment).size.items())) ** 2
                       for i in video.on_stage(moment))  # fmt: skip
            assert (~ground).mean() < 1.2 * seen + 0.01


def test_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys, vlr_jax.film, vlr_jax.motion, vlr_jax.narration; "
        "print(sorted({'jax', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
