"""Places in timelines: seconds, windows, saliency, offsets, frames; what is padding or beyond the end is not shown."""

import numpy as np
import pytest

from vlr_jax import media, timelines
from vlr_jax.layers import denoise
from vlr_jax.timelines import LEFT, RIGHT, WIDTH, Axis


def example(clips=12, clip_length=2.0, groups=2, padded=16, stride=1, seed=0, **changes) -> dict:
    """An entry of `examples`, of a video that was padded from `clips` to `padded` clips."""
    rng = np.random.default_rng(seed)
    truth = [[2.0, 6.0], [18.0, 24.0]]
    middles = (np.arange(clips) + 0.5) * clip_length
    relevant = [any(start <= at <= end for start, end in truth) for at in middles]
    offsets = rng.normal(0, 2, (groups, -(-padded // stride))).round(4)
    return {
        "kind": "sample",
        "text": 3,
        "visual": 7,
        "query": "a <u>dog</u> & a cat",
        "vid": "<b>v</b>",
        "iou": 0.6,
        "duration": clips * clip_length,
        "clip_length": clip_length,
        "truth": truth,
        "shown": [[0.0, 8.0, "a <i>dog</i> runs over a field"], [8.0, 10.0, "cat"], [10.0, 10.5, "bird"]],
        "windows": [[2.0, 8.0, 0.9], [12.0, 62.0, 0.25], [16.0, 16.0, 0.0]],
        "saliency": rng.normal(size=clips).round(4).tolist(),
        "relevant": relevant,
        "extra": {"offsets": offsets.tolist(), "alignment": rng.uniform(size=padded).round(4).tolist()},
    } | changes


def test_axis():
    axis = Axis(example())
    assert (axis(0), axis(24), axis(12)) == (LEFT, WIDTH - RIGHT, (LEFT + WIDTH - RIGHT) / 2)
    assert axis(-3) == axis(0) and axis(62) == axis(24)
    assert Axis(example(truth=[[20.0, 30.0]])).end == 30.0  # what is true is never cut
    for window in ((12.0, 62.0), (24.0, 24.0), (50.0, 62.0), (3.0, 3.0)):
        bar = axis.bar(*window)
        assert LEFT <= bar["x"] and bar["width"] >= timelines.SHORTEST
        assert bar["x"] + bar["width"] <= WIDTH - RIGHT + 0.01


@pytest.mark.parametrize("end", [2.0, 24.0, 48.0, 150.0, 599.0, 3000.0, 10800.0, 200000.0])
def test_marks_are_few_and_whole_steps(end):
    axis = Axis({"duration": end, "truth": []})
    marks = axis.marks()
    assert 3 <= len(marks) <= 13 and marks[0]["x"] == LEFT and marks[-1]["x"] <= WIDTH - RIGHT
    assert len({mark["words"] for mark in marks}) == len(marks)
    assert np.ptp(np.diff([mark["x"] for mark in marks])) < 0.02


def test_clock():
    assert [timelines.clock(12.5, 24), timelines.clock(12.0, 24)] == ["12.5", "12"]
    assert [timelines.clock(62, 700), timelines.clock(3725, 10800)] == ["1:02", "1:02:05"]


def test_runs():
    flags = np.random.default_rng(0).random(200) < 0.5
    rebuilt = np.zeros(200, bool)
    found = timelines.runs(flags)
    for start, end in found:
        assert not rebuilt[max(0, start - 1) : end + 1].any()  # runs do not touch
        rebuilt[start:end] = True
    assert np.array_equal(rebuilt, flags)
    assert timelines.runs([]) == [] and timelines.runs([True] * 3) == [(0, 3)]


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_positions_are_the_models_own(stride):
    clips, padded = 11, 16
    offsets = np.random.default_rng(1).normal(0, 4, (3, -(-padded // stride)))
    points, places = timelines.positions(offsets, clips, stride)
    reference = np.asarray(denoise.references(offsets.shape[1], stride))
    seen = reference <= clips - 1  # as the keys that clips attend to
    assert np.allclose(points, reference[seen])
    expected = np.asarray(denoise.inside((reference + offsets).astype(np.float32), np.float32(clips - 1)))[:, seen]
    assert np.allclose(places, expected, atol=1e-5)


def test_lines_say_where_context_comes_from():
    relevant = [False, False, True, False]
    one = example(clips=4, relevant=relevant, truth=[[4.0, 6.0]], duration=8.0)
    axis = Axis(one)
    found = timelines.lines(axis, one, np.array([[2.0, 1.0, 0.25, -9.0]]), 1)
    middle = lambda clip: axis(2 * clip + 1)
    assert found["moved"] == [(middle(0), middle(2)), (middle(1), middle(2)), (middle(3), middle(0))]
    assert found["still"] == [(middle(2), middle(2.25))]
    assert (found["share"], found["plain"], found["mean"]) == ("75", "25", f"{(2 + 1 + 0.25 + 3) / 4:.1f}")
    long = example(clips=900, groups=4, padded=900)
    many = timelines.lines(Axis(long), long, np.array(long["extra"]["offsets"]), 1)
    assert 200 <= len(many["still"]) + len(many["moved"]) <= timelines.MOST_LINES


def test_saliency_lies_in_its_panel_and_marks_the_best_clip():
    one = example()
    axis = Axis(one)
    found = timelines.saliency(axis, one, 100.0, 60.0)
    x, y = np.array([point.split(",") for point in found["points"].split()], float).T
    values = np.array(one["saliency"])
    assert np.allclose(x, [axis(2 * i + 1) for i in range(12)])
    assert np.allclose(y, 156 - 52 * (values - values.min()) / np.ptp(values), atol=0.01)
    assert found["best"]["x"] == x[values.argmax()] and found["best"]["y"] == 104
    assert found["relevant"] == [axis.bar(2.0, 6.0), axis.bar(18.0, 24.0)]
    flat = timelines.saliency(axis, example(saliency=[0.5] * 12), 100.0, 60.0)
    assert {point.split(",")[1] for point in flat["points"].split()} == {"130.0"}
    long = example(clips=5400)
    assert len(timelines.saliency(Axis(long), long, 0.0, 60.0)["points"].split()) <= 400


@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_not_drawn(stride):
    """A video padded to its own length and to a longer one have one picture."""
    short = example(padded=12, stride=stride)
    long = short | {"extra": {}}
    for key in ("offsets", "alignment"):
        few = np.array(short["extra"][key])
        many = np.full((*few.shape[:-1], 64 // (stride if key == "offsets" else 1)), 0.75)
        many[..., : few.shape[-1]] = few
        long["extra"][key] = many.tolist()
    assert timelines.draw({"": short}, stride={"": stride}) == timelines.draw({"": long}, stride={"": stride})


def heights(picture) -> list[tuple[float, float]]:
    """From, to of every row of a picture, in the order of the page."""
    rows = [(picture[key]["y"], picture[key]["y"] + h) for key, h in (("frames", 58), ("events", 16)) if picture[key]]
    rows.append((picture["truth"]["y"], picture["truth"]["y"] + 13))
    for model in picture["models"]:
        parts = [*model["windows"], *(model[key] for key in ("saliency", "offsets", "alignment") if model[key])]
        rows += [(part["y"], part["y"] + part["height"]) for part in parts]
    return [*rows, (picture["axis"], picture["height"])]


def test_rows_do_not_overlap_and_models_stand_below_one_another():
    plain = example(extra={}, shown=[], seed=1, windows=[])
    jpegs = [media.encode_jpeg(np.zeros((30, 40, 3), np.uint8))]
    for examples, frames in (({"": example()}, jpegs), ({"A": example(), "B": plain}, ()), ({"": plain}, ())):
        picture = timelines.draw(examples, frames=frames)
        rows = heights(picture)
        assert all(end <= start for (_, end), (start, _) in zip(rows, rows[1:], strict=False)), rows
        assert [model["letter"] for model in picture["models"]] == list(examples)
    assert picture["events"] is picture["frames"] is picture["models"][0]["offsets"] is None


def test_scores_are_opacity_and_the_first_window_is_large():
    windows = timelines.draw({"": example()})["models"][0]["windows"]
    assert [bar["score"] for bar in windows] == ["0.90", "0.25", "0.00"]
    assert [bar["opacity"] for bar in windows] == [0.925, 0.438, 0.25]
    assert windows[0]["height"] > windows[1]["height"] == windows[2]["height"]
    assert windows[1]["seconds"] == "12.0–62.0 s"  # what is drawn ends with the video, what is told does not


def test_names_of_events_are_cut_to_their_bars():
    bars = timelines.draw({"": example()})["events"]["bars"]
    assert [bar["words"] for bar in bars] == ["a <i>dog</i> runs over a field", "cat", ""]
    cramped = timelines.draw({"": example(shown=[[0.0, 2.0, "a dog that runs over a field"]])})["events"]["bars"][0]
    assert cramped["words"] == "a dog that…" and len(cramped["words"]) * timelines.LETTER < cramped["width"]
    crowd = example(shown=[[0.0, 1.0, "x"]] * (timelines.MOST_EVENTS + 1))
    assert timelines.draw({"": crowd})["events"] is None


@pytest.mark.parametrize("count", [1, 3, 8, 20, 40])
def test_frames_stand_at_their_times(count):
    rng = np.random.default_rng(0)
    frames = [media.encode_jpeg(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)) for _ in range(count)]
    axis = Axis(example())
    found = timelines.strip(axis, frames)
    assert len(found) == min(count, timelines.FRAMES)
    for frame in found:
        assert max(media.size(frame["jpeg"])) <= 160 and len(frame["jpeg"]) < 10_000
        assert LEFT <= frame["x"] and frame["x"] + frame["width"] <= WIDTH - RIGHT
    left = [frame["x"] for frame in found]
    assert np.all(np.diff(left) >= found[0]["width"])
    for frame in found:  # no further from its time than half the time between two frames
        off = abs(axis(float(frame["at"])) - (frame["x"] + frame["width"] / 2))
        assert off <= (WIDTH - LEFT - RIGHT) / count / 2 + 3
    assert timelines.strip(axis, ()) == []
