"""Files of moments: every defect is an error that names line and qid, or is done as documented and counted."""

import copy
import json

import numpy as np
import pytest

from vlr_jax import moment_metrics, predictions

NAN = float("nan")


def truth():
    """Three queries of 8 s with saliency."""
    return [
        {
            "qid": qid,
            "query": "a dog",
            "vid": "v",
            "duration": 8,
            "relevant_windows": [[0, 2]],
            "relevant_clip_ids": [0],
            "saliency_scores": [[4, 4, 4]],
        }
        for qid in (1, 2, 3)
    ]


def predicted():
    """All three found."""
    return [
        {
            "qid": qid,
            "query": "a dog",
            "vid": "v",
            "pred_relevant_windows": [[0, 2, 0.9], [4, 6, 0.1]],
            "pred_saliency_scores": [3.0, 1.0, 0.0, 0.0],
        }
        for qid in (1, 2, 3)
    ]


def changed(entries, i, **values):
    """A copy with keys of entry i changed; None removes a key."""
    entries = copy.deepcopy(entries)
    entries[i] |= values
    entries[i] = {key: value for key, value in entries[i].items() if value is not None}
    return entries


def brief(a, b, **options):
    """Short results and the warnings."""
    warned = []
    return moment_metrics.evaluate(a, b, warn=warned.append, **options)["brief"], warned


WINDOW = "pred_relevant_windows"
# what is wrong, the prediction or truth, what the error says, and then R1@0.5 and mAP if lenient
DEFECTS = {
    "empty": (changed(predicted(), 1, **{WINDOW: []}), truth(), "line 2 (qid 2): no window", 66.67, 66.67),
    "nan start": (
        changed(predicted(), 1, **{WINDOW: [[NAN, 2, 1], [0, 2, 0.5]]}),
        truth(),
        "line 2 (qid 2): [nan, 2.0, 1.0]: start and end must be finite",
        66.67,
        83.33,
    ),
    "end before start": (
        changed(predicted(), 2, **{WINDOW: [[2, 0, 1]]}),
        truth(),
        "line 3 (qid 3): [2.0, 0.0, 1.0]: end < start",
        66.67,
        66.67,
    ),
    "nan score": (
        changed(predicted(), 0, **{WINDOW: [[0, 2, NAN], [4, 6, 0.1]]}),
        truth(),
        "line 1 (qid 1): [0.0, 2.0, nan]: the score is NaN",
        100.0,
        83.33,
    ),
    "twice": (
        [*predicted(), {**predicted()[0], WINDOW: [[4, 6, 1]]}],
        truth(),
        "predictions line 4 (qid 1): is there already, in line 1",
        66.67,
        66.67,
    ),
    "not asked": (predicted(), truth()[:2], "line 3 (qid 3): a qid that the ground truth does not have", 100.0, 100.0),
    "not predicted": (predicted()[1:], truth(), "ground truth line 1 (qid 1): a query without", 100.0, 100.0),
    "truth without length": (
        predicted(),
        changed(truth(), 0, relevant_windows=[[2, 2], [0, 2]]),
        "ground truth line 1 (qid 1): [2.0, 2.0]: a true window needs start < end",
        100.0,
        100.0,
    ),
    "no truth": (
        predicted(),
        changed(truth(), 0, relevant_windows=[]),
        "ground truth line 1 (qid 1): a query needs a true window",
        100.0,
        100.0,
    ),
    "truth twice": (predicted(), [*truth(), truth()[0]], "ground truth line 4 (qid 1)", 100.0, 100.0),
    "no saliency": (
        changed(predicted(), 0, pred_saliency_scores=None),
        truth(),
        "predictions line 1 (qid 1): no pred_saliency_scores",
        100.0,
        100.0,
    ),
    "nan saliency": (
        changed(predicted(), 0, pred_saliency_scores=[NAN, 1, 0, 0]),
        truth(),
        "predictions line 1 (qid 1): the saliency has NaN",
        100.0,
        100.0,
    ),
    "clip beyond": (
        predicted(),
        changed(truth(), 0, relevant_clip_ids=[0, 4], saliency_scores=[[4, 4, 4], [4, 4, 4]]),
        "ground truth line 1 (qid 1): 4 of 4: a relevant clip beyond",
        100.0,
        100.0,
    ),
}


def test_without_defects():
    found, warned = brief(predicted(), truth())
    assert set(found.values()) == {100.0, None} and not warned


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_are_errors_or_counted(name):
    a, b, message, recall, precision = DEFECTS[name]
    with pytest.raises(ValueError) as error:
        brief(a, b)
    assert message in str(error.value) and "Lenient evaluation would go on" in str(error.value)
    found, warned = brief(a, b, lenient=True)
    assert warned and all(line.startswith("WARNING: ") and line.endswith(" (1)") for line in warned)
    assert (found["MR-full-R1@0.5"], found["MR-full-mAP"]) == (recall, precision)


def test_lenient_saliency():
    for name, hits, precision in (
        ("no saliency", 66.67, 75.0),
        ("nan saliency", 66.67, 75.0),
        ("clip beyond", 100, 100),
    ):
        a, b, *_ = DEFECTS[name]
        found, _ = brief(a, b, lenient=True)
        assert (found["HL-min-VeryGood-Hit1"], found["HL-min-VeryGood-mAP"]) == (hits, precision), name


def test_lenient_without_any_saliency_in_lists():
    """All lists are there and empty: misses and zeros, as if one were."""
    a = [entry | {"pred_saliency_scores": []} for entry in predicted()]
    found, warned = brief(a, truth(), lenient=True)
    assert found["HL-min-VeryGood-Hit1"] == 0 and found["HL-min-VeryGood-mAP"] == 25
    assert warned == ["WARNING: no pred_saliency_scores: a miss for HIT@1, zeros for mAP (3)"]


def test_lenient_changes_nothing_where_nothing_is_wrong():
    assert brief(predicted(), truth(), lenient=True) == brief(predicted(), truth())


def test_how_many_of_a_kind():
    a = [{**entry, WINDOW: []} for entry in predicted()]
    with pytest.raises(ValueError, match="no window is predicted; 3 of these"):
        brief(a, truth())


def test_windows_without_length_are_no_error():
    """Rounding to clips makes them; the official script counts them as what they are, misses."""
    found, warned = brief(changed(predicted(), 0, **{WINDOW: [[1, 1, 1], [0, 2, 0.5]]}), truth())
    assert found["MR-full-R1@0.5"] == 66.67
    assert warned == ["WARNING: predicted windows without length, which never hit (1)"]


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "a, b, message",
    [
        (changed(predicted(), 1, qid=None), truth(), "predictions line 2: expected an object with 'qid'"),
        (changed(predicted(), 1, qid=[2]), truth(), "qid must be an integer or a text"),
        (changed(predicted(), 1, **{WINDOW: None}), truth(), "line 2 (qid 2): pred_relevant_windows must be a list of"),
        (changed(predicted(), 1, **{WINDOW: [[0, 2]]}), truth(), "[start, end, score], found [[0, 2]]"),
        (changed(predicted(), 2, **{WINDOW: [[0, 2, "a"]]}), truth(), "predictions line 3 (qid 3)"),
        (predicted(), changed(truth(), 0, relevant_windows=[0, 2]), "ground truth line 1 (qid 1): relevant_windows"),
        ([{**e, "qid": str(e["qid"])} for e in predicted()], truth(), "share no qid; the first of each: '1', 1"),
        (predicted(), changed(truth(), 0, saliency_scores=None), "has no saliency_scores, other lines have"),
        (predicted(), changed(truth(), 0, saliency_scores=[]), "one of relevant_clip_ids for each of 0"),
        (predicted(), changed(truth(), 0, duration=1), "duration must be at least a clip, 2 s: 1"),
        (predicted(), changed(truth(), 0, relevant_clip_ids=[0.5]), "relevant_clip_ids must be integers"),
        (changed(predicted(), 1, pred_saliency_scores=["a"]), truth(), "line 2 (qid 2): pred_saliency_scores must"),
        (changed(predicted(), 1, pred_saliency_scores=3), truth(), "line 2 (qid 2): pred_saliency_scores must"),
        (predicted(), changed(truth(), 0, saliency_scores=[4]), "line 1 (qid 1): saliency_scores must be a list of"),
        (predicted(), changed(truth(), 0, saliency_scores=4), "line 1 (qid 1): saliency_scores must be a list of"),
        ([], truth(), "share no qid"),
    ],
)
def test_what_no_mode_takes(a, b, message, lenient):
    with pytest.raises(ValueError) as error:
        brief(a, b, lenient=lenient)
    assert message in str(error.value)


def test_read(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(["", *map(json.dumps, predicted()), "", ""]), encoding="utf-8-sig")
    found = predictions.read(path, "predictions")
    assert found.entries == predicted() and found.lines == [2, 3, 4]
    path.write_text('{"qid": 1}\n{"qid": \n')
    with pytest.raises(ValueError, match="predictions line 2 of .*p.jsonl is no JSON"):
        predictions.read(path, "predictions")


def test_lines_of_a_file_are_named_as_they_stand(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n\n".join(map(json.dumps, DEFECTS["nan score"][0])))  # NaN, as Python writes it
    with pytest.raises(ValueError, match=r"predictions line 1 \(qid 1\)"):
        predictions.check(predictions.read(path, "predictions"), truth())
    with pytest.raises(ValueError, match=r"predictions line 5 \(qid 3\)"):
        predictions.check(predictions.read(path, "predictions"), truth()[:2])


def test_clips_of_another_length():
    """0.7 s in clips of 0.1 s are seven clips, though 0.7 / 0.1 is less than 7."""
    b = [{**entry, "duration": 0.7, "relevant_windows": [[0, 0.2]], "relevant_clip_ids": [6]} for entry in truth()]
    checked = predictions.check(predicted(), b, clip_length=0.1)
    np.testing.assert_array_equal(checked.saliency.n_clips, 7)
    for length, n in ((0.1, 7), (5 / 3, 3), (1 / 3, 5400)):
        for clip in (length, float(np.float32(length))):  # as records have it
            assert predictions.whole_clips([n * length, n * length - 0.01 * length], clip).tolist() == [n, n - 1]
    assert checked.saliency.grades.shape == (3, 7, 3) and checked.saliency.grades[0, 6, 0] == 4
