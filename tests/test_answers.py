"""Post-processing: goldens of the official code, its order of steps by hand, a line that the evaluation reads."""

import json
import pathlib

import numpy as np
import pytest

from vlr_jax import answers, moment_metrics

CASES = json.loads((pathlib.Path(__file__).parent / "golden" / "moment_cases.json").read_text())
SETTINGS = {
    "qvh_default": (answers.PROCESSING["qvhighlights"], 2.0),
    "full_center": (answers.Processing(limit=150.0, shortest=2.0, longest=70.0), 2.0),
    "len_left": (answers.Processing(limit=150.0, shortest=4.0, longest=20.0, keep="left"), 2.0),
    "len_right": (answers.Processing(limit=150.0, shortest=4.0, longest=20.0, keep="right"), 2.0),
    "charades_1s": (answers.PROCESSING["charades_sta"], 1.0),
}
ABOUT = dict(qid=7, query="a dog", vid="v")


def one(windows, scores, **options):
    """The windows of a line, from seconds of a video of 10 s."""
    options = dict(duration=10.0, clip_length=2.0) | options
    windows = np.array(windows, np.float32) / options["duration"]
    return answers.line(windows, np.array(scores, np.float32), **options, **ABOUT)["pred_relevant_windows"]


def test_goldens_cover_every_setting():
    assert set(SETTINGS) == set(CASES["postprocess_cases"]["outputs"])


@pytest.mark.parametrize("name", SETTINGS)
def test_goldens_of_the_postprocessor(name):
    processing, clip_length = SETTINGS[name]
    rows = np.array(CASES["postprocess_cases"]["inputs"])
    expected = np.array(CASES["postprocess_cases"]["outputs"][name])
    found = answers.process(rows[..., :2], processing, duration=150.0, clip_length=clip_length)
    np.testing.assert_array_equal(found, expected[..., :2])
    options = dict(duration=150.0, clip_length=clip_length, processing=processing)
    for row, wanted in zip(rows, expected, strict=True):  # which a whole line sorts as well
        line = answers.line(row[:, :2] / 150, row[:, 2], **options, **ABOUT)
        order = np.argsort(-row[:, 2].astype(np.float32), kind="stable")
        assert line["pred_relevant_windows"] == wanted[order].tolist()


def test_sorted_by_score_before_rounding_and_stable():
    scores = [0.5, 0.90001, 0.90002, 0.5]  # the middle two are equal to four decimals, but were not when sorted
    found = one([[0, 2], [2, 4], [4, 6], [6, 8]], scores)
    assert found == [[4, 6, 0.9], [2, 4, 0.9], [0, 2, 0.5], [6, 8, 0.5]]


def test_a_score_that_is_nan_comes_last():
    found = one([[0, 2], [2, 4], [4, 6]], [0.1, np.nan, 0.2])
    assert [row[:2] for row in found] == [[4, 6], [0, 2], [2, 4]] and np.isnan(found[-1][2])


def test_clipped_first_then_rounded_half_to_even():
    # −5 would round to −4; 3 and 5 are 1.5 and 2.5 clips: both 2.
    assert one([[-5, 3], [3, 5], [9, 99]], [3, 2, 1], processing=answers.Processing()) == [
        [0, 4, 3],
        [4, 4, 2],
        [8, 10, 1],
    ]
    # The limit of QVHighlights is 150 s whatever the duration.
    assert one([[9, 99]], [1]) == [[8, 100, 1]]


def test_exact_boundaries_and_other_clip_lengths():
    assert one([[1.23456, 3.3]], [1], processing=answers.PROCESSING["exact"]) == [[1.2346, 3.3, 1]]
    found = one([[1.3, 3.3]], [1], clip_length=1 / 6, processing=answers.PROCESSING["charades_sta_vgg"])
    np.testing.assert_allclose(found, [[8 / 6, 20 / 6, 1]])
    with pytest.raises(ValueError, match="clip length"):
        one([[0, 1]], [1], clip_length=0.0)
    with pytest.raises(ValueError, match="left, center or right"):
        answers.Processing(keep="middle")


def test_suppression_comes_last():
    """Before rounding the two overlap by 0.68, after it by all."""
    windows, scores = [[1.1, 4.9], [1.6, 4.2]], [2, 1]
    assert one(windows, scores, processing=answers.Processing(nms=0.9)) == [[2, 4, 2]]
    assert len(one(windows, scores, processing=answers.Processing(nms=0.9, clips=False))) == 2


def test_an_evaluation_names_its_processing():
    assert answers.processing_of("tacos") is answers.PROCESSING["tacos"]
    assert answers.processing_of("cgdetr") is answers.PROCESSING["exact"]
    assert answers.processing_of("tacos", "charades_sta_vgg").limit == 360
    assert answers.processing_of("qvhighlights", nms=0.7) == answers.Processing(limit=150.0, nms=0.7)
    with pytest.raises(ValueError, match="processing 'qvh' of an evaluation; there is: qvhighlights, "):
        answers.processing_of("none", "qvh")
    with pytest.raises(ValueError, match="nms 1.5 .* from 0 to 1"):
        answers.processing_of("none", nms=1.5)


def test_a_line_is_what_the_evaluation_reads():
    saliency = np.linspace(-1, 1, 5).astype(np.float32)
    windows = np.array([[0.5, 0.9], [0.0, 0.2]], np.float32)
    found = answers.line(windows, np.array([0.3, 0.8], np.float32), saliency, duration=10.0, clip_length=2.0, **ABOUT)
    assert json.loads(json.dumps(found)) == found
    assert list(found) == ["qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"]
    np.testing.assert_array_equal(np.float32(found["pred_saliency_scores"]), saliency)
    truth = {"qid": 7, "duration": 10, "relevant_windows": [[0, 2]], "relevant_clip_ids": [4], "saliency_scores": [[4]]}
    brief = moment_metrics.evaluate([found], [truth])["brief"]
    assert brief["MR-full-R1@0.7"] == 100 and brief["HL-min-VeryGood-Hit1"] == 100
    assert "pred_saliency_scores" not in answers.line(windows, np.zeros(2), duration=10.0, clip_length=2.0, **ABOUT)
    half = answers.line(windows, np.zeros(2), saliency.astype(np.float16) / 3, duration=10.0, clip_length=2.0, **ABOUT)
    np.testing.assert_array_equal(np.float16(half["pred_saliency_scores"]), half["pred_saliency_scores"])
