"""The procedural world at length: stories and their windows are exact, clips show them, and difficulty is real."""

import functools
import itertools
import subprocess
import sys

import numpy as np
import pytest

from vlr_jax import grammar, narration, reel, stories, world

SHARP = {"blur": 0.0, "jitter": 0.0}
PLAIN = {"background": 0.5, "clutter": 2, "noise": 0.15}
DIM = 64


@functools.cache
def make(index, split="test", seed=0, clips=60, queries=3):
    return stories.story(world.random_stream(seed, split, index, "graph"), clips=clips, queries=queries)


def ask(index, synonyms=3):
    return stories.ask(make(index), world.random_stream(0, "test", index, "captions"), synonyms=synonyms)


def look(index, *, blur=1.0, jitter=0.5, **options):
    cover = reel.coverage(make(index), blur=blur, jitter=jitter)
    stream = world.random_stream(0, "test", index, "regions")
    return reel.features(make(index), cover, stream, dim=DIM, seed=0, **{**PLAIN, **options})


@functools.cache
def inverse():
    return np.linalg.pinv(reel._projection(DIM, 0))


def evidence(index, **options):
    """What the clips show, read back from features: `[F, len(VALUES)]`."""
    return look(index, **options).astype(np.float32) @ inverse()


def inside(story, values):
    """Which clips have their middle in a window, by brute force."""
    middles = [2 * i + 1 for i in range(story.clips)]
    return np.array([any(start <= m < end for start, end in story.windows(values)) for m in middles])


def localize(index, *, threshold, **options):
    """An oracle of words and features: of each query the IoU of the best run of clips that show enough of its values
    with the best window; clips that show more than `threshold` speak for their run, the more the better."""
    shown, found = evidence(index, **options), []
    for values in make(index).queries:
        excess = shown[:, [reel.VALUES.index(value) for value in values]].mean(1) - threshold
        edges = np.flatnonzero(np.diff([0, *(excess > 0).astype(int), 0])).reshape(-1, 2)
        first, last = max(edges.tolist(), key=lambda run: excess[slice(*run)].sum(), default=(0, 0))
        start, end = 2.0 * first, 2.0 * last
        overlaps = [
            max(0.0, min(end, e) - max(start, s)) / (max(end, e) - min(start, s))
            for s, e in make(index).windows(values)
        ]
        found.append(max(overlaps))
    return found


def recall(at, count=100, threshold=5 / 6, **options):
    """R1 at an IoU, in percent, of the oracle."""
    best = [iou for index in range(count) for iou in localize(index, threshold=threshold, **options)]
    return 100 * np.mean(np.array(best) >= at)


# ---- the graph ----


@pytest.mark.parametrize("clips, queries", [(60, 3), (12, 1), (60, 5), (31, 2), (200, 12)])
def test_events_tile_the_video_and_none_that_are_asked_for_touch(clips, queries):
    for index in range(60):
        story = make(index, clips=clips, queries=queries)
        assert len(set(story.queries)) == len(story.queries) == queries and story.duration() == 2 * clips
        assert story.events[0].start == 0 and story.events[-1].end == story.duration()
        assert len(story.events) == clips // 6
        for event, after in itertools.pairwise(story.events):
            assert event.end == after.start and event.values != after.values and (event.rank or after.rank)
        for event in story.events:
            assert event.end - event.start >= 2 * stories.SHORTEST - 1e-6
            assert (event.values in story.queries) == (event.rank == 0)
            assert all(value in row for value, row in zip(event.values, stories.KINDS.values(), strict=True))
        for values in story.queries:
            windows = story.windows(values)
            assert 1 <= len(windows) <= max(stories.TIMES) and windows == sorted(windows)
            assert windows == [(e.start, e.end) for e in story.events if e.values == values]


def test_what_is_not_asked_for_is_a_near_miss():
    differing = []
    for index in range(100):
        story = make(index)
        for event in story.events:
            if event.rank:
                away = [[a != b for a, b in zip(event.values, asked, strict=True)] for asked in story.queries]
                assert min(map(sum, away)) == 1
                differing.append(min(away, key=sum).index(True))
    assert min(np.bincount(differing)) > 0.2 * len(differing)  # colour, shape and action alike


def test_windows_are_of_all_lengths_and_numbers():
    windows = [make(index).windows(values) for index in range(200) for values in make(index).queries]
    lengths = np.array([end - start for row in windows for start, end in row])
    assert (lengths <= 10).mean() > 0.3 and ((lengths > 10) & (lengths < 30)).mean() > 0.3 and (lengths > 30).any()
    assert set(map(len, windows)) == {1, 2, 3}
    starts = np.array([row[0][0] for row in windows if len(row) == 1])
    assert np.histogram(starts, 4, (0, 120))[0].min() > 20  # anywhere


def test_background_shows_more_of_the_same_story():
    for index in range(20):
        story, before = make(index), set()
        others = sum(event.rank > 0 for event in story.events)
        for background in (0, 0.25, 0.5, 0.75, 1):
            shown = story.shown(background)
            assert before <= set(shown) and [e for e in story.events if not e.rank] == [e for e in shown if not e.rank]
            assert abs(sum(event.rank > 0 for event in shown) - background * others) <= 0.5
            before = set(shown)
        assert before == set(story.events)


def test_windows_are_all_the_times_at_which_a_key_is_shown():
    for index in range(40):
        story = make(index)
        for values, background in itertools.product(story.queries, (0.0, 0.5, 1.0)):
            shown = [(e.start, e.end) for e in story.shown(background) if stories.key(e.values) == stories.key(values)]
            assert shown == story.windows(values)


def test_deterministic_and_seeds_differ():
    assert make(3) == make.__wrapped__(3) and ask(3) == ask(3)
    np.testing.assert_array_equal(look(3), look(3))
    assert len({make(3), make(4), make(3, seed=1), make(3, split="train")}) == 4


def test_facts_are_what_the_shown_events_say():
    assert len(set(stories.FACTS)) == len(stories.FACTS) == 249
    for index in range(20):
        shown = make(index).shown(0.5)
        words = [set(stories.key(event.values).split()) for event in shown]
        expected = {fact for fact in stories.FACTS if any(set(fact.split()) <= said for said in words)}
        # "moves" is in no fact alone, so that the words of a fact are those of its values.
        assert stories.facts(shown) == expected
        assert {f for f, t in zip(stories.FACTS, stories.fact_vector(expected), strict=True) if t} == expected


def test_sentences_say_what_is_asked_for():
    meaning = {word: value for row in list(stories.KINDS.values())[:2] for value in row
               for word in grammar.SYNONYMS[value]}  # fmt: skip
    vocabulary, heard = set(narration.words()), set()
    for index in range(150):
        for (text, said), values in zip(ask(index), make(index).queries, strict=True):
            words = text.split()
            assert {meaning[word] for word in words if word in meaning} == set(values[:2])
            acts = {name for name in stories.KINDS["action"] for verb in narration.VERBS[name]
                    if text.endswith(f" {verb}")}  # fmt: skip
            assert acts == {values[2]} and set(words) <= vocabulary
            assert said == stories.event_facts(values) and stories.key(values) in said
            heard |= set(words)
    assert all(set(grammar.SYNONYMS[value]) <= heard for row in list(stories.KINDS.values())[:2] for value in row)
    plain = {word for index in range(50) for text, _ in ask(index, synonyms=1) for word in text.split()}
    assert not plain & {word for word, value in meaning.items() if word != value}


def test_the_thumbnail_shows_what_is_asked_for():
    for index in range(5):
        scene, story = stories.pictured(make(index)), make(index)
        assert [(thing.colour, thing.shape) for thing in scene.things] == [values[:2] for values in story.queries]
        pixels = np.asarray(world.render(scene, 96), int)
        for thing in scene.things:
            patch = pixels[int(96 * thing.y) - 8 : int(96 * thing.y) + 8, int(96 * thing.x) - 8 : int(96 * thing.x) + 8]
            assert (np.abs(patch - world.COLOURS[thing.colour]).max(-1) < 30).any()
    assert len(stories.pictured(make(0, queries=5)).things) == stories.PICTURED


# ---- clips ----


@pytest.mark.parametrize("blur, jitter", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.5), (2.5, 0.5), (9.0, 1.0)])
def test_coverage_is_the_integral_of_what_fades(blur, jitter):
    """Against sums over many moments of a curve that rises and falls linearly."""
    fine = 400
    time = (np.arange(60 * fine) + 0.5) / fine  # clips
    for index in range(3):
        cover = reel.coverage(make(index), blur=blur, jitter=jitter)
        for event, row in zip(make(index).events, cover, strict=True):
            for shift, own in zip(event.shifts, row, strict=True):
                start, end = event.start / 2 + jitter * shift[0], event.end / 2 + jitter * shift[1]

                def there(border):
                    return np.clip((time - border) / blur + 0.5, 0, 1) if blur else time >= border

                curve = there(start) * 1.0 - there(end)
                np.testing.assert_allclose(own, curve.reshape(60, fine).mean(1), atol=2 / fine)


def test_coverage_of_sharp_events_is_exact():
    for index in range(10):
        cover = reel.coverage(make(index), **SHARP)
        np.testing.assert_allclose(cover.sum(0), 1)
        np.testing.assert_allclose(2 * cover.sum(2), [[e.end - e.start] * 3 for e in make(index).events])
        blurred = reel.coverage(make(index), blur=1.0, jitter=0.0)
        np.testing.assert_allclose(blurred.sum(0)[:, 1:-1], 1)
        np.testing.assert_allclose(blurred.max(2), 1)  # the shortest event shows in full for two clips


def test_clips_show_the_values_of_what_happens():
    for index in range(6):
        story, options = make(index), {**SHARP, "noise": 0.0, "clutter": 3}
        read, bare = evidence(index, **options), evidence(index, **{**options, "clutter": 0})
        cover = reel.coverage(story, **SHARP)
        expected = np.zeros_like(bare)
        for event, own in zip(story.events, cover, strict=True):
            if event.rank <= 0.5:
                for k, value in enumerate(event.values):
                    expected[:, reel.VALUES.index(value)] += own[k]
        np.testing.assert_allclose(bare, expected, atol=2e-3)  # float16
        busy = expected.sum(1) / 3
        np.testing.assert_allclose(read[busy > 0.999], expected[busy > 0.999], atol=2e-3)
        drift = read - expected
        assert drift.min() > -4e-3 and drift[busy < 0.5].max() > 0.3
        assert (drift.sum(1) <= 3 * reel.STRONGEST * (1 - busy) + 0.02).all()


def test_options_leave_the_random_numbers_of_others_alone():
    for index in range(3):
        noise = [look(index, noise=n).astype(float) - look(index, noise=0.0) for n in (0.1, 0.8)]
        np.testing.assert_allclose(noise[1], 8 * noise[0], atol=0.05)
        assert abs(noise[1].std() - 0.8) < 0.05
        more = look(index, noise=0.8, clutter=5).astype(float) - look(index, noise=0.0, clutter=5)
        np.testing.assert_allclose(noise[1], more, atol=0.02)
        drift = [evidence(index, clutter=c, noise=0.0, **SHARP) for c in (0, 2, 3)]
        one_more = drift[2] - drift[1]  # the first two go on as they were
        assert one_more.min() > -0.01 and (drift[1] - drift[0]).min() > -0.01


def test_numbers_of_a_clip_have_variance_one():
    clean = np.concatenate([look(i, noise=0.0, clutter=0, background=1.0, **SHARP) for i in range(30)]).astype(float)
    assert 0.8 < clean.var() < 1.1
    assert look(0).dtype == np.float16 and look(0).shape == (60, DIM)


def test_saliency_is_the_share_of_evidence_in_windows():
    for index, (blur, jitter) in itertools.product(range(6), [(0.0, 0.0), (3.0, 1.0)]):
        story = make(index)
        cover = reel.coverage(story, blur=blur, jitter=jitter)
        seen = evidence(index, blur=blur, jitter=jitter, background=0.0, noise=0.0, clutter=0)
        for values in story.queries:
            clips, scores = reel.saliency(story, cover, values)
            assert clips == np.flatnonzero(inside(story, values)).tolist() and np.shape(scores) == (len(clips), 3)
            own = [event.values == values for event in story.events]
            share = cover[own].mean(1).sum(0)[clips]
            np.testing.assert_allclose(scores, 4 * share[:, None] @ np.ones((1, 3)), atol=0.5 + 1e-9)
            assert set(np.ravel(scores)) <= {0, 1, 2, 3, 4} and (np.ptp(scores, axis=1) == 0).all()
            # What the features show of these values is at least that (others may share some).
            assert (seen[clips][:, [reel.VALUES.index(v) for v in values]].mean(1) > share - 5e-3).all()
            if not blur:
                assert min(map(min, scores)) >= 2 and max(map(max, scores)) == 4


def test_three_hours():
    story = make(0, clips=5400)
    cover = reel.coverage(story, blur=1.0, jitter=0.5)
    stream = world.random_stream(0, "test", 0, "regions")
    assert reel.features(story, cover, stream, dim=8, seed=0, **PLAIN).shape == (5400, 8)
    assert sum(len(story.windows(values)) for values in story.queries) <= 9


# ---- difficulty ----


def test_solvable_by_words_and_features():
    easy = {**SHARP, "background": 0.0, "noise": 0.0, "clutter": 0}
    assert recall(0.5, **easy) > 99 and recall(0.7, **easy) > 93
    assert recall(0.5) > 97  # as it comes


def test_each_option_makes_it_harder():
    assert recall(0.7, noise=0.15) > recall(0.7, noise=1.0) + 10 > recall(0.7, noise=2.0) + 30
    assert recall(0.7, blur=0.0) > recall(0.7, blur=2.0) + 10 > recall(0.7, blur=4.0) + 30
    assert recall(0.7, jitter=0.0) > recall(0.7, jitter=1.0) + 10 > recall(0.7, jitter=1.5) + 20


def test_background_misleads_who_does_not_bind_the_words():
    """Half of the evidence is enough for near misses, two of whose three values fit; and sometimes for clutter."""
    half = functools.partial(recall, 0.5, threshold=0.5)
    assert half(background=0.0) > half(background=0.5) + 15 > half(background=1.0) + 25
    assert half(background=0.0, clutter=0) > half(background=0.0, clutter=12) + 5
    assert recall(0.5, background=1.0) > 97  # all three tell


def test_needs_neither_jax_nor_tensorflow():
    code = "import sys, vlr_jax.reel, vlr_jax.stories; print(sorted({'jax', 'tensorflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
