"""Numbers of the official matcher, Moment-DETR and QD-DETR for the tests, out of the shared golden files.

    python launch/golden_detr.py ../shared/golden/moment

Writes tests/golden/matcher.npz, moment_detr_*.npz and qd_detr_*.npz: arrays as they are, parameters as they are stored
(exact in float16), the JSON beside them (losses, weights, gradient norms) as `json`. What the two models of
`qd_detr_32` share is stored once; `qd_detr_256` is too large for a repository and stays where it is.
"""

import json
import pathlib
import sys

import numpy as np

TESTS = pathlib.Path(__file__).resolve().parents[1] / "tests" / "golden"
MOMENT_DETR = {"": "default", "_contrastive": "contrastive", "_txtpos_prenorm": "txtpos_prenorm"}
QD_DETR = {"_maskfixed": "maskfixed", "_fullmask": "fullmask", "": "upstream"}


def read(folder, name):
    with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
        return dict(archive) | {"json": np.array((folder / f"{name}.json").read_text())}


def main(folder):
    with np.load(folder / "matcher_cases.npz", allow_pickle=False) as archive:
        np.savez_compressed(TESTS / "matcher.npz", **archive)
    for ending, name in MOMENT_DETR.items():
        np.savez_compressed(TESTS / f"moment_detr_{name}.npz", **read(folder, f"moment_detr_tiny{ending}"))
    fixed = read(folder, "qd_detr_32_maskfixed")
    for ending, name in QD_DETR.items():
        made = read(folder, f"qd_detr_32{ending}")
        if name == "upstream":  # the same parameters and inputs as `maskfixed`
            same = [key for key in made if key.startswith(("param/", "in/", "tgt/"))]
            if not all(np.array_equal(made[key], fixed[key]) for key in same):
                raise ValueError(f"{folder}: qd_detr_32 and qd_detr_32_maskfixed differ in more than the mask")
            made = {key: value for key, value in made.items() if key not in same}
        np.savez_compressed(TESTS / f"qd_detr_{name}.npz", **made)
    with np.load(folder / "qd_detr_sine_embed_256.npz", allow_pickle=False) as archive:
        codes = dict(archive)
    codes["tef"] = np.array(json.dumps(json.loads((folder / "tef.json").read_text())))
    np.savez_compressed(TESTS / "qd_detr_codes.npz", **codes)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
