"""Predicted moments of a whole split into the official metrics, against an evaluation in the official per-query way.

    python benchmarks/moment_evaluation.py --predictions P.jsonl --ground_truth highlight_val_release.jsonl [--rounds 5]

Ours: `moment_metrics.evaluate`, checks included, all queries at once. Theirs, written here in NumPy in the way of
Moment-DETR's `standalone_eval`: for each length range a deep copy of what it keeps; for each query, threshold and
window a loop over the true windows; for each query, annotator and level a precision-recall curve. The official code
starts eight worker processes for each of its four mAP and three highlight calls; `--workers` 1 does without, which is
faster where there are few cores. Both start from the objects of the two files and must agree in every number. Every
round runs all, one after the other; medians over rounds; the ratios are printed last.
"""

import argparse
import copy
import multiprocessing
import os
import statistics
import time

import numpy as np

from vlr_jax import moment_metrics, predictions

THRESHOLDS = [float(f"{t:.2f}") for t in np.linspace(0.5, 0.95, 10)]
RANGES = {"short": (0, 10), "middle": (10, 30), "long": (30, 150), "full": (0, 150)}


def mapped(function, arguments: list, workers: int) -> list:
    """The function of each, by so many processes, fifty at a time."""
    if workers == 1:
        return list(map(function, arguments))
    with multiprocessing.Pool(workers) as pool:
        return list(pool.imap_unordered(function, arguments, chunksize=50))


def cross_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """True IoU of all pairs."""
    inter = np.clip(np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0]), 0, None)
    return inter / ((a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - inter)


def query_precision(pair) -> np.ndarray:
    """AP of one query at every threshold."""
    windows, truth = pair
    windows = sorted(windows, key=lambda row: -row[2])
    hits = np.zeros((len(THRESHOLDS), len(windows)))
    taken = np.full((len(THRESHOLDS), len(truth)), -1)
    for place, window in enumerate(windows):
        overlaps = cross_iou(np.array([window[:2]]), np.array(truth, float))[0]
        order = overlaps.argsort()[::-1]
        for t, threshold in enumerate(THRESHOLDS):
            for j in order:
                if overlaps[j] < threshold:
                    break
                if taken[t, j] < 0:
                    hits[t, place], taken[t, j] = 1, place
                    break
    found = np.cumsum(hits, axis=1)
    recall, precision = found / len(truth), found / np.arange(1, len(windows) + 1)
    aps = np.zeros(len(THRESHOLDS))
    for t in range(len(THRESHOLDS)):
        p, r = np.hstack([[0], precision[t], [0]]), np.hstack([[0], recall[t], [1]])
        for i in range(len(p) - 1)[::-1]:
            p[i] = max(p[i], p[i + 1])
        new = np.where(r[1:] != r[:-1])[0] + 1
        aps[t] = np.sum((r[new] - r[new - 1]) * p[new])
    return aps


def first_recall(predicted: list[dict], truth: list[dict]) -> dict[str, float]:
    """R@1, query by query."""
    first, best = {entry["qid"]: entry["pred_relevant_windows"][0][:2] for entry in predicted}, {}
    for entry in truth:
        overlaps = cross_iou(np.array([first[entry["qid"]]]), np.array(entry["relevant_windows"]))[0]
        best[entry["qid"]] = entry["relevant_windows"][np.argmax(overlaps)]
    a, b = (np.array([which[qid] for qid in first]).astype(float) for which in (first, best))
    inter = np.maximum(0, np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0]))
    iou = inter / (np.maximum(a[:, 1], b[:, 1]) - np.minimum(a[:, 0], b[:, 0]))
    return {str(t): float(f"{np.mean(iou >= t) * 100:.2f}") for t in THRESHOLDS}


def in_range(predicted: list[dict], truth: list[dict], low: float, high: float) -> tuple[list[dict], list[dict]]:
    """Copies of what has true windows of this length."""
    if (low, high) == RANGES["full"]:
        return predicted, truth
    kept = []
    for entry in truth:
        windows = [w for w in entry["relevant_windows"] if low < w[1] - w[0] <= high]
        if windows:
            entry = copy.deepcopy(entry)
            entry["relevant_windows"] = windows
            kept.append(entry)
    qids = {entry["qid"] for entry in kept}
    return [copy.deepcopy(entry) for entry in predicted if entry["qid"] in qids], kept


def curve_precision(pair) -> float:
    """AP of one query's clips for one annotator, from a precision-recall curve."""
    labels, scores = pair
    scores = (list(scores) + [0.0] * (len(labels) - len(scores)))[: len(labels)]
    if len(set(labels)) == 1:
        return float(labels[0])
    labels, scores = np.array(labels), np.array(scores)
    order = np.argsort(scores, kind="mergesort")[::-1]
    ends = np.r_[np.where(np.diff(scores[order]))[0], len(scores) - 1]
    found = np.cumsum(labels[order])[ends]
    precision = np.hstack([(found / (ends + 1))[::-1], 1])
    recall = np.hstack([(found / found[-1])[::-1], 0]).astype(np.float32)
    for i in range(1, len(precision)):
        precision[i] = max(precision[i - 1], precision[i])
    return np.mean(precision[np.where(np.diff(recall))])


def highlights(predicted: list[dict], truth: list[dict], workers: int) -> dict[str, dict]:
    """HIT@1 and mAP for the three levels, query by query."""
    saliency = {entry["qid"]: entry["pred_saliency_scores"] for entry in predicted}
    grades = {}
    for entry in truth:
        grades[entry["qid"]] = np.zeros((int(entry["duration"] / 2), 3))
        grades[entry["qid"]][np.array(entry["relevant_clip_ids"])] = np.array(entry["saliency_scores"])
    result = {}
    for name, level in (("Fair", 2), ("Good", 3), ("VeryGood", 4)):
        labels = {qid: (value >= level).astype(float) for qid, value in grades.items()}
        hits = np.zeros((len(saliency), 3))
        for i, (qid, scores) in enumerate(saliency.items()):
            if (top := np.argmax(scores)) < len(labels[qid]):
                hits[i] = labels[qid][top]
        pairs = [(labels[qid][:, k].tolist(), saliency[qid]) for qid in saliency for k in range(3)]
        precision = np.mean(mapped(curve_precision, pairs, workers))
        hit = np.mean(np.max(hits, 1))
        result[f"HL-min-{name}"] = {"HL-mAP": float(f"{100 * precision:.2f}"), "HL-Hit1": float(f"{100 * hit:.2f}")}
    return result


def theirs(predicted: list[dict], truth: list[dict], workers: int) -> dict:
    """Everything, query by query."""
    result = highlights(predicted, truth, workers)
    for name, (low, high) in RANGES.items():
        chosen, kept = in_range(predicted, truth, low, high)
        by_qid = {entry["qid"]: entry["relevant_windows"] for entry in kept}
        pairs = [(entry["pred_relevant_windows"][:10], by_qid[entry["qid"]]) for entry in chosen]
        each = np.array(mapped(query_precision, pairs, workers)).mean(0)
        values = dict(zip(map(str, THRESHOLDS), each, strict=True)) | {"average": np.mean(each)}
        values = {t: float(f"{100 * value:.2f}") for t, value in values.items()}
        result[name] = {"MR-mAP": values, "MR-R1": first_recall(chosen, kept)}
    return result


def main():
    """Runs and prints; the ratio last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", required=True)
    parser.add_argument("--ground_truth", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 1])
    options = parser.parse_args()
    start = time.perf_counter()
    predicted = predictions.read(options.predictions, "predictions").entries
    truth = predictions.read(options.ground_truth, "ground truth").entries
    reading = time.perf_counter() - start
    count = sum(len(entry["pred_relevant_windows"]) for entry in predicted)
    print(f"{len(truth):,} queries, {count:,} windows, read in {reading:.2f} s")
    print(f"{os.cpu_count()} cores, numpy {np.__version__}; load average at the start {os.getloadavg()[0]:.1f}")
    times = {name: [] for name in ("ours", *options.workers)}
    for _ in range(options.rounds):
        start = time.perf_counter()
        found = moment_metrics.evaluate(predicted, truth, warn=lambda line: None)
        times["ours"].append(time.perf_counter() - start)
        for workers in options.workers:
            start = time.perf_counter()
            expected = theirs(predicted, truth, workers)
            times[workers].append(time.perf_counter() - start)
            other = [name for name, value in expected.items() if found[name] != value]
            if other:
                raise SystemExit(f"the two evaluations differ in {', '.join(other)}")
        print(", ".join(f"{name} {values[-1]:.3f} s" for name, values in times.items()))
    mine = statistics.median(times["ours"])
    print(f"all numbers equal; load average at the end {os.getloadavg()[0]:.1f}; ours, median: {mine:.3f} s")
    for workers in options.workers:
        ratio = statistics.median(b / a for a, b in zip(times["ours"], times[workers], strict=True))
        theirs_median = statistics.median(times[workers])
        print(f"per query, {workers} worker process(es), median: {theirs_median:.2f} s; ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
