"""Copies what tests/test_timeline.py needs of the official data sets into tests/golden/timeline.json.

    python launch/golden_timeline.py FOLDER

FOLDER holds qvh_dataset_labels.json (labels of Moment-DETR's data set for real queries), sub_as_query_labels.json
(those of CG-DETR's for single windows), l2norm.npz (features normalised) and pad.npz (rows padded to a batch).
"""

import json
import pathlib
import sys

import numpy as np

SOME = 24


def main(folder: str) -> None:
    """Writes the first queries of each kind."""
    target = pathlib.Path(__file__).resolve().parents[1] / "tests" / "golden" / "timeline.json"
    graded = json.loads(pathlib.Path(folder, "qvh_dataset_labels.json").read_text())[:SOME]
    windows = json.loads(pathlib.Path(folder, "sub_as_query_labels.json").read_text())[:SOME]
    kept = ("ctx_l", "duration", "relevant_clip_ids", "saliency_scores", "relevant_windows", "pos", "neg")
    kept += ("score_array", "span_labels_cxw")
    found = {"graded": [{key: one[key] for key in kept} for one in graded], "windows": windows}
    for name in ("l2norm", "pad"):
        with np.load(pathlib.Path(folder, f"{name}.npz"), allow_pickle=False) as arrays:
            found[name] = {key: arrays[key].tolist() for key in arrays}
    target.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
