"""Makes tests/golden/losses.npz, the numbers that the losses are tested against, of a folder of reference values.

    python launch/golden_losses.py --reference FOLDER --out tests/golden/losses.npz

FOLDER holds `image_text/<file>.npz`, one file an official code, with keys `<input>/<case>/<dtype>/<name>`, their inputs
`image_text/inputs.npz`, and `video_text/inferred_prota.npz`. In the result the file's name comes first:
`<file>/<input>/<case>/<dtype>/<name>`; inputs stay at `<input>/<name>`. What does not depend on the case is there once,
at `<file>/<input>/<name>`. Left out is what repeats another number, or is no result of a loss:

* the two-view form of MV-VSE, which is no loss of this library;
* up_loss and low_loss of `unified`, equal to its loss;
* inner tensors (`aux_...`) but for relevances, margins and numbers of pairs, which losses and relevances are tested by;
* what depends on captions only, of inputs that have those of B8; the cosines of pictures, and captions of unit length;
* NDCG by hard ranks (`real_ndcg_...`) of inputs with equal scores or relevances: there the official ranks are shared.
"""

import argparse
import pathlib

import numpy as np

OFFICIAL = ("vsepp_contrastive", "triplet_hn_mean", "unified", "selhn", "lgloss", "sndcg", "rcloss_kendall")
REPEATED = ("up_loss", "low_loss")
INNER = ("aux_relevance", "aux_margin", "aux_num")
SAME_CAPTIONS = ("B8_collapsed", "B8_separated", "B8_ties")
TIED = (*SAME_CAPTIONS, "B8_sameimage")


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A whole archive."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def once(file: str, source: str, case: str, name: str) -> str | None:
    """The key of a number that is the same in all cases of an input, but for their relevance or threshold; or None."""
    last = case.split("_")[-1]  # the relevance of rcloss_kendall, the threshold of lgloss
    if name == "aux_margin" or (name == "aux_relevance" and file == "rcloss_kendall"):
        return f"{file}/{source}/{name}_{last}"
    return f"{file}/{source}/{name}" if name == "aux_relevance" or name.startswith("real_ndcg") else None


def official(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The losses of official codes.

    Raises:
        ValueError: a number differs between cases that should share it.
    """
    chosen = {}
    for file in OFFICIAL:
        for key, value in read(folder / f"{file}.npz").items():
            source, case, dtype, name = key.split("/")
            inner = name.startswith("aux_") and name not in INNER
            if inner or name in REPEATED or (name.startswith("real_ndcg") and (source in TIED or dtype == "f32")):
                continue
            shared = once(file, source, case, name)
            if (shared and source in SAME_CAPTIONS) or (shared or "").endswith("aux_relevance_image"):
                continue
            if shared and not np.allclose(chosen.setdefault(shared, value), value, rtol=1e-12, atol=0):
                raise ValueError(f"{file}/{key} is not that of the other cases")
            if not shared:
                chosen[f"{file}/{key}"] = value
    return chosen


def inferred(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The losses derived from the papers' text, and their inputs `<input>/R` and `P3/S`."""
    chosen = {}
    for key, value in read(folder / "image_text/inferred_bcls_vlc.npz").items():
        source, *case, name = key.split("/")
        chosen[f"inferred_bcls_vlc/{source}/{case[0]}/f64/{name}" if case else key] = value
    prota = read(folder / "video_text/inferred_prota.npz")
    chosen["P3/S"], chosen["inferred_prota/P3/m0.2_tau0.07/f32/loss"] = prota["S"], prota["L_contra"]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=pathlib.Path, required=True, help="folder with image_text/ and video_text/")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    inputs = read(options.reference / "image_text/inputs.npz")
    numbers = {key: value for key, value in inputs.items() if not key.endswith("_unit")}
    numbers |= official(options.reference / "image_text") | inferred(options.reference)
    np.savez_compressed(options.out, **numbers)
    print(f"{options.out}: {len(numbers)} arrays, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
