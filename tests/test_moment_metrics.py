"""The official evaluations of moments: goldens of five scripts in every key, plain twins, limits, real files."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from vlr_jax import highlights, moment_metrics, moment_protocols, predictions, suppression

GOLDEN = pathlib.Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "moment_cases.json").read_text())
METRICS = json.loads((GOLDEN / "moment_metrics.json").read_text())
QVH = sorted(name[len("qvh_case_") : -len("_metrics")] for name in METRICS if name.startswith("qvh_case_"))
SCRIPTS = sorted(name for name in METRICS if name.startswith("mr_") and name != "mr_metrics_2dtan_eval")
THRESHOLDS = moment_protocols.steps(0.5)


@pytest.fixture(scope="module")
def archive():
    with np.load(GOLDEN / "moment_predictions.npz", allow_pickle=False) as found:
        return dict(found)


def entries(archive, case: str) -> list[dict]:
    """The JSON objects of a case, as the archive's script took them apart."""
    parts = {key.removeprefix(f"{case}/"): value for key, value in archive.items() if key.startswith(f"{case}/")}
    found = [{"qid": qid} for qid in parts["qid"].tolist()]
    for entry, duration in zip(found, parts.get("duration", np.array([])).tolist(), strict=False):
        entry["duration"] = duration
    for name in (name.removeprefix("n_") for name in parts if name.startswith("n_")):
        rows = parts[name] if name in parts else parts[f"{name}_e4"] / 10_000
        rows = rows.astype(int) if name == "relevant_clip_ids" else rows
        for entry, part in zip(found, np.split(rows, np.cumsum(parts[f"n_{name}"])[:-1]), strict=True):
            entry[name] = part.tolist()
    return found


def same(found: dict, expected: dict) -> None:
    """Equal in values, names and order."""
    assert found == expected
    assert json.dumps(found) == json.dumps(expected)


def silent(line: str) -> None:
    """No warning is of interest."""


@pytest.mark.parametrize("case", QVH)
def test_goldens_of_qvhighlights(archive, case):
    truth = entries(archive, "qvh_gt")
    partial = case == "partial"
    truth = truth[20:] if partial else truth
    found = moment_metrics.evaluate(entries(archive, case), truth, lenient=partial, warn=silent)
    same(found, METRICS[f"qvh_case_{case}_metrics"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_goldens_of_the_other_scripts(archive, name):
    _, data, _, script, _ = name.split("_")
    protocol = "eatr_charades" if (script, data) == ("eatr", "charades") else script
    same(moment_metrics.evaluate(entries(archive, data), entries(archive, f"{data}_gt"), protocol), METRICS[name])


@pytest.mark.parametrize("case", METRICS["mr_metrics_2dtan_eval"])
def test_goldens_of_2d_tan(archive, case):
    data, nms = case.split("_nms")
    protocol = dataclasses.replace(moment_protocols.PROTOCOLS["2dtan_tacos"], nms=float(nms))
    brief = moment_metrics.evaluate(entries(archive, data), entries(archive, f"{data}_gt"), protocol)["brief"]
    golden = METRICS["mr_metrics_2dtan_eval"][case]
    for threshold, row in zip(golden["tiou"], golden["table"], strict=True):
        for k, value in zip(golden["recall"], row, strict=True):
            assert brief[f"MR-full-R{k}@{threshold}"] == float(f"{100 * value:.2f}")
    assert brief["MR-full-mIoU"] == float(f"{100 * golden['miou_top3']:.2f}")


def test_real_predictions_of_the_validation_set(shared_data):
    folder = shared_data / "qvhighlights"
    truth = predictions.read(folder / "highlight_val_release.jsonl", "ground truth")
    for name, metrics in (
        ("inference_hl_val_test_code_preds", "inference_hl_val_test_code_preds_metrics"),
        ("sample_val_preds", "sample_val_preds_metrics_raw"),
    ):
        warned = []
        predicted = predictions.read(folder / "preds" / f"{name}.jsonl", "predictions")
        found = moment_metrics.evaluate(predicted, truth, warn=warned.append)
        same(found, json.loads((folder / "preds" / f"{metrics}.json").read_text()))
        assert len(warned) == 1 and "padded with 0 (13)" in warned[0]


def twin_ap(truth, windows, threshold):
    """AP of a query in plain Python: the wording of the protocol, one window after another."""
    hits, taken = [], set()
    for start, end, _ in sorted(windows, key=lambda row: -row[2]):
        best, place = -1.0, None
        for i, (a, b) in enumerate(truth):
            inter = max(0.0, min(end, b) - max(start, a))
            union = (end - start) + (b - a) - inter
            iou = inter / union if union > 0 else 0.0
            if i not in taken and iou >= best:
                best, place = iou, i
        hits.append(best >= threshold)
        if hits[-1]:
            taken.add(place)
    precisions = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precisions[k:]) for k, hit in enumerate(hits) if hit) / len(truth)


def aps(truth, windows, thresholds=THRESHOLDS):
    """Ours, of one query."""
    listed, truth = np.array([len(windows)]), np.array(truth, float)[None]
    windows, _ = moment_metrics.padded(np.array(windows, float).reshape(-1, 3), listed)
    overlaps = suppression.iou(windows[:, :, None, :2], truth[:, None])
    where = np.ones(truth.shape[:2], bool)
    return moment_metrics.average_precision(overlaps, windows[:, :, 2], listed, where, thresholds)[0]


def test_golden_and_twin_of_average_precision():
    for case in CASES["ap_detection_cases"]:
        assert tuple(case["thresholds"]) == THRESHOLDS
        found = aps(case["gt"], case["pred"])
        np.testing.assert_allclose(found, case["ap"], rtol=0, atol=1e-12)
        twins = [twin_ap(case["gt"], case["pred"], t) for t in THRESHOLDS]
        np.testing.assert_allclose(found, twins, rtol=0, atol=1e-12)


def test_average_precision_of_many_queries_at_once():
    """Padding of windows and true windows changes nothing, and true windows outside a range are as if not there."""
    rng = np.random.default_rng(0)
    counts, n_truth = rng.integers(1, 12, 40), rng.integers(1, 6, 40)
    rows = np.concatenate(
        [np.sort(rng.integers(0, 20, (counts.sum(), 2)), 1), rng.integers(0, 4, (counts.sum(), 1))], 1
    )
    truth = np.sort(rng.integers(0, 20, (n_truth.sum(), 2)), 1) + [0, 1]
    windows, _ = moment_metrics.padded(rows.astype(float), counts)
    padded, real = moment_metrics.padded(truth.astype(float), n_truth)
    where = real & ((padded[:, :, 1] - padded[:, :, 0]) > 3)
    asked = where.any(1)
    overlaps = suppression.iou(windows[:, :, None, :2], padded[:, None])
    arguments = (overlaps, windows[:, :, 2], counts, where)
    found = moment_metrics.average_precision(*(x[asked] for x in arguments), THRESHOLDS)
    parts, truths = np.split(rows, np.cumsum(counts)[:-1]), np.split(truth, np.cumsum(n_truth)[:-1])
    expected = [
        [twin_ap([t for t in b.tolist() if t[1] - t[0] > 3], a.tolist(), threshold) for threshold in THRESHOLDS]
        for a, b, kept in zip(parts, truths, asked, strict=True)
        if kept
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_interpolated_precision_goldens():
    """The goldens give precision and recall; where these come from hits, ours is their interpolated AP."""
    used = 0
    for case in CASES["interp_ap_cases"]:
        recall = np.array([0.0, *case["recall"]])
        gains = np.diff(recall)
        if not gains.any():
            continue
        n_truth = round(1 / gains[gains > 0].min())
        hits = np.round(gains * n_truth).astype(int)
        if set(hits) - {0, 1} or not np.allclose(np.cumsum(hits) / np.arange(1, len(hits) + 1), case["precision"]):
            continue
        truth = [[10 * i, 10 * i + 5] for i in range(n_truth)]
        free = iter(truth)
        windows = [[*(next(free) if hit else (-9, -8)), -i] for i, hit in enumerate(hits)]
        np.testing.assert_allclose(aps(truth, windows, (0.5,)), case["ap"], rtol=0, atol=1e-12)
        used += 1
    assert used >= 5


def twin_highlights(labels, scores):
    """`get_ap` in plain Python: a cut-off behind every distinct score."""
    if not any(labels):
        return 0.0
    points = []  # (recall, precision) from the highest cut-off down
    for cut in sorted(set(scores), reverse=True):
        chosen = [label for label, score in zip(labels, scores, strict=True) if score >= cut]
        points.append((sum(chosen), sum(chosen) / len(chosen)))
    best = [max(precision for _, precision in points[k:]) for k in range(len(points))]
    new = [k for k in range(len(points)) if points[k][0] > (points[k - 1][0] if k else 0)]
    return sum(best[k] for k in new) / len(new)


def test_goldens_and_twin_of_highlights():
    longest = max(len(case["y_true"]) for case in CASES["ap_highlight_cases"]) + 3
    scores, grades = (np.full((len(CASES["ap_highlight_cases"]), longest), 9.0) for _ in range(2))  # padding: the best
    n_clips = []
    for i, case in enumerate(CASES["ap_highlight_cases"]):
        n_clips.append(len(case["y_true"]))
        scores[i, : n_clips[-1]], grades[i, : n_clips[-1]] = case["y_pred"], case["y_true"]
    found = highlights.average_precision(scores, grades[:, :, None], np.array(n_clips), (1.0,))[0, :, 0]
    np.testing.assert_allclose(found, [case["ap"] for case in CASES["ap_highlight_cases"]], rtol=0, atol=1e-12)
    twins = [twin_highlights(case["y_true"], case["y_pred"]) for case in CASES["ap_highlight_cases"]]
    np.testing.assert_allclose(found, twins, rtol=0, atol=1e-12)


def test_suppression_goldens():
    for case in CASES["temporal_nms_cases"]:
        found = suppression.temporal_nms(np.array(case["preds"]), case["nms_thd"], case["max_after_nms"])
        assert found.tolist() == case["out"]
    for case in CASES["nms_2dtan_cases"]:
        most = None if case["top_k"] < 0 else case["top_k"]
        assert suppression.listed_nms(np.array(case["dets"]), case["thresh"], most).tolist() == case["out"]


def test_numpy_iou_goldens():
    with np.load(GOLDEN / "moment_spans.npz", allow_pickle=False) as golden:
        a, b = golden["np_iou/a"], golden["np_iou/b"]
        np.testing.assert_allclose(suppression.iou(a[:, None], b[None]), golden["np_iou/cross_iou"], atol=1e-15)
        np.testing.assert_allclose(suppression.hull_iou(a, b), golden["np_iou/paired_hull_iou"], atol=1e-15)
    point = np.array([3.0, 3.0])
    assert suppression.iou(point, point) == suppression.hull_iou(point, point) == 0


def twin_soft_nms(windows, factor):
    left, taken = [list(row) for row in windows], []
    while left:
        best = max(range(len(left)), key=lambda i: left[i][2])
        taken.append(left.pop(best))
        for row in left:
            inter = max(0.0, min(row[1], taken[-1][1]) - max(row[0], taken[-1][0]))
            row[2] *= factor(inter / (row[1] - row[0] + taken[-1][1] - taken[-1][0] - inter))
    return taken


@pytest.mark.parametrize(
    "decay, factor",
    [
        ("linear", lambda x: 1 - x),
        ("gaussian", lambda x: np.exp(-x * x / 0.5)),
        ("normal", lambda x: 0.0 if x >= 0.5 else 1.0),
    ],
)
def test_soft_suppression(decay, factor):
    rng = np.random.default_rng(3)
    rows = np.concatenate([np.sort(rng.uniform(0, 9, (12, 2)), 1), rng.uniform(size=(12, 1))], axis=1)
    before = rows.copy()
    found = suppression.soft_nms(rows, decay)
    np.testing.assert_allclose(found, twin_soft_nms(rows, factor), atol=1e-12)
    np.testing.assert_array_equal(rows, before)
    assert (np.diff(found[:, 2]) <= 0).all()
    assert suppression.soft_nms(rows[:0], decay).shape == (0, 3)
    with pytest.raises(ValueError, match="linear, gaussian, normal"):
        suppression.soft_nms(rows, "hard")


def query(qid, windows, **more):
    return {"qid": qid, "pred_relevant_windows": windows, **more}


def asked(qid, windows, **more):
    return {"qid": qid, "relevant_windows": windows, **more}


def test_first_listed_window_counts_not_the_best_scored():
    truth = [asked(1, [[0, 8]])]
    brief = moment_metrics.evaluate([query(1, [[50, 60, 0.1], [0, 8, 0.9]])], truth)["brief"]
    assert brief["MR-full-R1@0.5"] == 0 and brief["MR-full-mAP"] == 100


def test_only_ten_windows_as_listed_count():
    ten = [[50 + i, 51 + i, 0.1] for i in range(10)]
    brief = moment_metrics.evaluate([query(1, [*ten, [0, 8, 0.9]])], [asked(1, [[0, 8]])])["brief"]
    assert brief["MR-full-mAP"] == 0


def test_strictness():
    """IoU exactly 0.5: a hit of all scripts but 2D-TAN's."""
    predicted, truth = [query(1, [[0, 10, 1]])], [asked(1, [[0, 5]])]
    assert moment_metrics.evaluate(predicted, truth, "charades_sta")["brief"]["MR-full-R1@0.5"] == 100
    brief = moment_metrics.evaluate(predicted, truth, "2dtan_charades")["brief"]
    assert brief["MR-full-R1@0.5"] == 0 and brief["MR-full-R1@0.3"] == 100 and brief["MR-full-mIoU"] == 50


def test_recall_at_five_takes_any_of_the_first_five_and_any_true_window():
    truth = [asked(1, [[0, 8], [20, 28]])]
    misses = [[50 + i, 51 + i, 0.5] for i in range(4)]
    for windows, value in (([*misses, [20, 28, 0]], 100), ([*misses, [9, 10, 0], [20, 28, 0]], 0)):
        assert moment_metrics.evaluate([query(1, windows)], truth, "tacos")["brief"]["MR-full-R5@0.7"] == value


def test_ranges_without_a_true_window():
    predicted, truth = [query(1, [[0, 20, 1]])], [asked(1, [[0, 20]])]
    for name in ("qvhighlights", "activitynet"):
        result = moment_metrics.evaluate(predicted, truth, name)
        assert result["brief"]["MR-short-mAP"] is None and result["brief"]["MR-middle-mAP"] == 100
        assert json.loads(json.dumps(result)) == result
        flat = moment_metrics.flatten(result)
        assert "MR-short-mAP" not in flat and flat["MR-middle-mAP"] == flat["MR-full-R1@0.95"] == 100
    assert moment_metrics.evaluate(predicted, truth, "cgdetr")["brief"]["MR-short-mAP"] == 0
    assert moment_metrics.evaluate(predicted, truth, "univtg")["brief"]["MR-short-mAP"] == 100


@pytest.mark.parametrize("name", moment_protocols.PROTOCOLS)
def test_names_are_those_of_a_full_result(archive, name):
    """Every protocol on queries of every length, with saliency and without."""
    truth = entries(archive, "qvh_gt")
    predicted = entries(archive, "perturb")
    result = moment_metrics.evaluate(predicted, truth, name)
    flat = moment_metrics.flatten(result)
    assert tuple(flat) == moment_metrics.names(name, saliency=True)
    for key, value in result["brief"].items():
        assert flat[key.removesuffix("-key")] == value
    for entry in predicted:
        del entry["pred_saliency_scores"]
    flat = moment_metrics.flatten(moment_metrics.evaluate(predicted, truth, name))
    assert tuple(flat) == moment_metrics.names(name, saliency=False)
    assert not any(key.startswith("HL") for key in flat)


def test_unknown_protocol():
    with pytest.raises(ValueError, match="qvhighlights, charades_sta"):
        moment_metrics.evaluate([query(1, [[0, 1, 1]])], [asked(1, [[0, 1]])], "qvh")


def test_order_of_the_queries_changes_nothing(archive):
    truth, predicted = entries(archive, "qvh_gt"), entries(archive, "perturb_ties")
    expected = moment_metrics.evaluate(predicted, truth, warn=silent)
    rng = np.random.default_rng(0)
    found = moment_metrics.evaluate(list(rng.permutation(predicted)), list(rng.permutation(truth)), warn=silent)
    assert found == expected


def test_per_query_values_have_the_means_of_the_result(archive):
    checked = predictions.check(entries(archive, "perturb"), entries(archive, "qvh_gt"))
    protocol = moment_protocols.PROTOCOLS["qvhighlights"]
    found = moment_metrics.per_query(checked, protocol)
    result = moment_metrics.measure(checked, protocol)["full"]
    assert found["iou"].shape == found["ap"].shape == (160,)
    assert result["MR-mAP"]["average"] == float(f"{100 * found['ap'].mean():.2f}")
    assert result["MR-R1"]["0.7"] == float(f"{100 * np.mean(found['iou'] >= 0.7):.2f}")


def test_saliency_as_the_official_script_has_it():
    truth = [asked(1, [[0, 2]], duration=8, relevant_clip_ids=[0], saliency_scores=[[4, 0, 0]])]

    def brief(saliency):
        warned = []
        predicted = [query(1, [[0, 2, 1]], pred_saliency_scores=saliency)]
        return moment_metrics.evaluate(predicted, truth, warn=warned.append)["brief"], warned

    # Zeros behind the end outrank a negative score.
    found, warned = brief([-1.0, -2.0])
    assert found["HL-min-Fair-Hit1"] == 100 and warned == [
        "WARNING: saliency lists shorter than the video, padded with 0 (1)"
    ]
    assert found["HL-min-Fair-mAP"] == float(f"{100 / 3 * (1 / 3):.2f}")  # behind two zeros; two annotators count 0
    found, warned = brief([1.0, 0, 0, 0, 5.0])  # the best clip lies beyond the video
    assert found["HL-min-Fair-Hit1"] == 0 and "cut (1)" in warned[0]
    assert found["HL-min-Fair-mAP"] == float(f"{100 / 3:.2f}")
    assert brief([1.0, 1.0, 1.0, 1.0])[0]["HL-min-Good-mAP"] == float(f"{100 / 3 / 4:.2f}")  # all equal: one cut-off
