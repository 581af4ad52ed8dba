"""Moments of a split: labels beside the official ones, batches of few lengths, and what does not fit is refused."""

import json
import pathlib

import numpy as np
import pytest

from vlr_jax import backbones, buckets, reading, timeline

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "timeline.json").read_text())


def made(n, clip, windows, *, clips=None, grades=None, annotators=3, **data) -> timeline.Timeline:
    """One video of n clips with one text."""
    index = {
        "lengths": np.array([n]), "clip_lengths": np.array([clip], np.float32), "durations": np.array([n * clip]),
        "windows": np.array(windows, np.float32).reshape(-1, 2), "n_windows": np.array([len(windows)]),
        "text_names": np.array(["q"]), "sources": np.array(["s"]),
    }  # fmt: skip
    if clips is not None:
        index |= {"saliency_clips": np.array(clips), "saliency_scores": np.array(grades, np.float32)}
        index |= {"n_saliency": np.array([len(clips)])}
    about = {"moments": {"backbones": [], "annotators": annotators}}
    return timeline.Timeline(index, about, data, np.zeros(1, int))


@pytest.mark.parametrize("case", GOLDEN["graded"])
def test_labels_of_grades_are_the_official_ones(case):
    n, graded = case["ctx_l"], case["saliency_scores"]
    at = made(n, case["duration"] / n, case["relevant_windows"], clips=case["relevant_clip_ids"], grades=graded)
    found = at.labels(0, n, np.random.default_rng(0))
    np.testing.assert_allclose(found["saliency"], case["score_array"])
    wanted = np.array(case["span_labels_cxw"])
    spans = found["spans"][found["spans_mask"]]
    if len(case["relevant_windows"]) <= timeline.MOST_WINDOWS:
        cxw = np.stack([spans.mean(1), spans[:, 1] - spans[:, 0]], 1)
        np.testing.assert_allclose(cxw, wanted, atol=1e-6)
    else:
        assert len(spans) == timeline.MOST_WINDOWS
    (better, worse), (inside, outside) = found["saliency_pairs"]
    score = found["saliency"]  # which of equal clips is taken is up to a sort
    assert score[better] == score[case["pos"][0]] and score[worse] == score[case["neg"][0]]
    relevant = set(case["relevant_clip_ids"])
    assert inside in relevant and (outside not in relevant or relevant == set(range(n)))


@pytest.mark.parametrize("case", GOLDEN["windows"])
def test_labels_of_windows_are_the_official_ones(case):
    n = case["ctx_l"]
    at = made(n, case["duration"] / n, [case["window"]])
    found = at.labels(0, n, np.random.default_rng(1))
    inside = np.flatnonzero(found["saliency"])
    assert (inside.min(), inside.max()) == (case["first"], case["last"])
    assert set(inside) == set(range(case["first"], case["last"] + 1))
    pairs = found["saliency_pairs"]
    if n - len(inside) < timeline.PAIRS:
        assert (pairs == -1).all()
    else:
        assert set(pairs[:, 0]) <= set(inside) and not set(pairs[:, 1]) & set(inside)
        assert len(set(pairs[:, 1])) == timeline.PAIRS


def test_normalisation_and_padding_are_the_official_ones():
    given, wanted = (np.array(GOLDEN["l2norm"][key], np.float32) for key in "xy")
    np.testing.assert_allclose(backbones.l2(given), wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(backbones.l2(np.zeros((2, 3))), np.zeros((2, 3)))
    for i, (rows, mask) in enumerate(zip(GOLDEN["pad"]["padded"], GOLDEN["pad"]["mask"], strict=True)):
        found = reading.pad(np.array(GOLDEN["pad"][f"s{i}"]), len(mask))
        np.testing.assert_array_equal(found[0], rows)
        np.testing.assert_array_equal(found[1], np.array(mask) > 0)


def test_all_clips_relevant_and_none():
    rng = np.random.default_rng(0)
    assert (made(4, 2.0, [[0, 8]]).labels(0, 4, rng)["saliency_pairs"] == -1).all()
    graded = made(3, 2.0, [[0, 6]], clips=[0, 1, 2], grades=[[4, 4, 4], [1, 0, 1], [2, 2, 2]]).labels(0, 5, rng)
    assert graded["saliency_pairs"].tolist() == [[0, 1], [0, 1]]
    assert graded["saliency"].tolist() == [12, 2, 6, 0, 0]
    beyond = made(2, 2.0, [[0, 6]], clips=[2], grades=[[4, 4, 4]]).labels(0, 2, rng)  # features end early
    assert (beyond["saliency_pairs"] == -1).all() and not beyond["saliency"].any()
    assert beyond["spans"][0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="4 clips of 3"):
        made(4, 2.0, [[0, 8]]).labels(0, 3, rng)


def test_a_window_behind_the_features_is_their_last_clip():
    """Features may end up to 5 % before the annotation: what is said there has no length of zero to be matched with."""
    found = made(20, 2.0, [[41, 42], [4, 8], [39, 44]]).labels(0, 24, np.random.default_rng(0))
    np.testing.assert_allclose(found["spans"], [[0.95, 1], [0.1, 0.2], [39 / 40, 1]])
    assert np.flatnonzero(found["saliency"]).tolist() == [2, 3, 19]
    assert not made(3, 2.0, []).relevant(0).any()  # of a text without windows nothing is known to be


def test_many_windows_are_drawn_anew_and_annotations_stay():
    windows = [[4 * i, 4 * i + 2] for i in range(9)]
    at = made(20, 2.0, windows)
    drawn = [at.labels(0, 20, np.random.default_rng(seed))["spans"] for seed in range(6)]
    assert len({d.tobytes() for d in drawn}) > 1 and at.windows[0].tolist() == windows
    for spans in drawn:
        assert (np.diff(spans[:, 0]) > 0).all() and {round(s * 40) for s in spans[:, 0]} <= {w[0] for w in windows}
    assert at.labels(0, 20, np.random.default_rng(0))["saliency"].sum() == 9  # of all windows, not of the drawn ones


def test_buckets():
    at = made(90, 2.0, [[0, 8]], buckets=[75, 150, 300])
    assert at.buckets == (75, 150) and at.bucket(0) == 150
    assert made(400, 2.0, [[0, 8]], buckets=[75, 150]).bucket(0) == 150  # longer: in pieces
    assert made(40, 2.0, [[0, 8]]).buckets == (40,)
    for bad in ([150, 75], [0], [], 75, [1.5]):
        with pytest.raises(ValueError, match="config.data.buckets"):
            made(40, 2.0, [[0, 8]], buckets=bad)


def test_a_plan_has_every_row_at_most_once_in_the_least_bucket_that_fits():
    rng = np.random.default_rng(0)
    lengths = rng.choice([10, 20, 40], 103, p=[0.5, 0.3, 0.2])
    batches = buckets.Batches(lengths, 8, seed=3)
    epochs = []
    for epoch in range(3):
        planned = [batches[epoch * batches.per_epoch + i] for i in range(batches.per_epoch)]
        rows = np.concatenate([rows for _, rows, _ in planned])
        assert len(planned) == 103 // 8 and len(set(rows)) == len(rows)
        assert all(number == epoch for _, _, number in planned)
        for length, part, _ in planned:
            assert len(part) == 8 and (lengths[part] <= length).all()
        carried = sum((lengths[part] < length).sum() for length, part, _ in planned)
        assert carried <= 2 * 7  # no more than what filled no batch of its own
        epochs.append(rows)
    assert not np.array_equal(epochs[0], epochs[1])
    again = buckets.Batches(lengths, 8, seed=3)
    assert np.array_equal(again[2 * again.per_epoch + 1][1], batches[2 * batches.per_epoch + 1][1])
