"""Makes the numbers that moment evaluation is tested against, tests/golden/moment_*.npz and .json.

    python launch/golden_moments.py --reference FOLDER --out tests/golden

FOLDER holds what the official codes gave (`golden/moment` of the reference values). Into one archive each:

* `moment_spans.npz`: span utilities of Moment-DETR and the IoU of its evaluation, keys `<file>/<name>`;
* `moment_cases.json`: small cases of NMS, average precision and post-processing, by file.
"""

import argparse
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


def spans(reference: pathlib.Path) -> dict[str, np.ndarray]:
    """The archives of `SPANS`, each name behind its file's."""
    found = {}
    for name in SPANS:
        with np.load(reference / f"{name}.npz", allow_pickle=False) as archive:
            found |= {f"{name}/{key}": archive[key] for key in archive}
    return found


def cases(reference: pathlib.Path) -> dict:
    """The files of `CASES`."""
    return {name: json.loads((reference / f"{name}.json").read_text()) for name in CASES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=pathlib.Path, required=True, help="what the official codes gave")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    np.savez_compressed(options.out / "moment_spans.npz", **spans(options.reference))
    text = json.dumps(cases(options.reference), separators=(",", ":")) + "\n"
    (options.out / "moment_cases.json").write_text(text)
    for name in ("moment_spans.npz", "moment_cases.json"):
        print(f"{name}: {(options.out / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
