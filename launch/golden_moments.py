"""Makes the numbers that moment evaluation is tested against, tests/golden/moment_*.npz and .json.

    python launch/golden_moments.py --reference FOLDER --out tests/golden

FOLDER holds what the official codes gave (`golden/moment` of the reference values):

* `moment_spans.npz`: span utilities of Moment-DETR and the IoU of its evaluation, keys `<file>/<name>`;
* `moment_cases.json`: small cases of NMS, average precision and post-processing, by file;
* `moment_predictions.npz`: synthetic predictions for real queries, keys `<case>/<name>`, numbers alone: `qid`, windows
  of all queries in a row and how many each has, saliency likewise; `<data>_gt/<name>` their ground truth;
* `moment_metrics.json`: what five official scripts say of them, by file, its order kept.

Numbers of up to four decimals are stored as integers, ten thousand times as large (`<name>_e4`).
"""

import argparse
import itertools
import json
import pathlib

import numpy as np

SPANS = ("span_utils", "np_iou")
CASES = (
    "temporal_nms_cases",
    "nms_2dtan_cases",
    "ap_detection_cases",
    "ap_highlight_cases",
    "interp_ap_cases",
    "postprocess_cases",
)
ROWS = ("relevant_windows", "pred_relevant_windows", "relevant_clip_ids", "saliency_scores", "pred_saliency_scores")


def spans(reference: pathlib.Path) -> dict[str, np.ndarray]:
    """The archives of `SPANS`, each name behind its file's."""
    found = {}
    for name in SPANS:
        with np.load(reference / f"{name}.npz", allow_pickle=False) as archive:
            found |= {f"{name}/{key}": archive[key] for key in archive}
    return found


def numbers(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The numbers of JSON lines: `qid`, `duration`, and of each list its rows and how many every line has.

    Raises:
        ValueError: a number would change.
    """
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    found = {"qid": np.array([entry["qid"] for entry in entries])}
    if "duration" in entries[0]:
        found["duration"] = np.array([entry["duration"] for entry in entries], np.float64)
    for name in ROWS:
        if name not in entries[0]:
            continue
        rows = np.array(list(itertools.chain.from_iterable(entry[name] for entry in entries)), np.float64)
        scaled = np.round(rows * 10_000).astype(np.int32)
        exact = np.array_equal(scaled / 10_000, rows)
        found |= {f"{name}_e4": scaled} if exact else {name: rows}
        found[f"n_{name}"] = np.array([len(entry[name]) for entry in entries], np.int16)
    return found


def evaluations(reference: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Predictions with their ground truth, and what the scripts say."""
    files = {"qvh_gt": "qvh_subset_gt.jsonl"}
    for kind in ("qvh_case_*_preds", "mr_*_preds", "mr_*_gt"):
        for path in sorted(reference.glob(f"{kind}.jsonl")):
            files[path.stem.removeprefix("qvh_case_").removeprefix("mr_").removesuffix("_preds")] = path.name
    arrays = {f"{k}/{name}": v for k, file in files.items() for name, v in numbers(reference / file).items()}
    metrics = [*sorted(reference.glob("qvh_case_*_metrics.json")), *sorted(reference.glob("mr_*metrics_*_eval.json"))]
    return arrays, {path.stem: json.loads(path.read_text()) for path in metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=pathlib.Path, required=True, help="what the official codes gave")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    arrays, metrics = evaluations(options.reference)
    cases = {name: json.loads((options.reference / f"{name}.json").read_text()) for name in CASES}
    for name, content in (("moment_spans", spans(options.reference)), ("moment_predictions", arrays)):
        np.savez_compressed(options.out / f"{name}.npz", **content)
    for name, content in (("moment_cases", cases), ("moment_metrics", metrics)):
        (options.out / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    for name in ("moment_spans.npz", "moment_predictions.npz", "moment_cases.json", "moment_metrics.json"):
        print(f"{name}: {(options.out / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
