"""Makes tests/golden/cdnet.npz, numbers of official codes that CDNet's parts are tested against.

    python launch/golden_cdnet.py --reference FOLDER --out tests/golden/cdnet.npz

FOLDER holds `grid_sample_1d.npz` (PyTorch's grid_sample as a re-sampler in one dimension), `align_losses_trdetr.npz`
(TR-DETR), `univtg_contrastive.npz` (UniVTG) and `dat_attention_2d.npz` (DAT). In the result the file's name comes
first: `<file>/<case>/<name>`. Left out are padding with zeros and other corners of grid_sample, and of the losses the
one case of 8 x 75 clips, which the others repeat in small.
"""

import argparse
import pathlib

import numpy as np

FILES = ("grid_sample_1d", "align_losses_trdetr", "univtg_contrastive", "dat_attention_2d")
LARGE = ("align_losses_trdetr/1/", "univtg_contrastive/1/")
UNUSED = ("out_ac1_zeros", "out_ac0_zeros", "out_ac0_border")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=pathlib.Path, required=True, help="folder with the four files")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    chosen = {}
    for file in FILES:
        with np.load(options.reference / f"{file}.npz", allow_pickle=False) as archive:
            chosen |= {f"{file}/{key}": archive[key] for key in archive.files}
    chosen = {k: v for k, v in chosen.items() if not k.startswith(LARGE) and not k.endswith(UNUSED)}
    np.savez_compressed(options.out, **chosen)
    print(f"{options.out}: {len(chosen)} arrays, {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
