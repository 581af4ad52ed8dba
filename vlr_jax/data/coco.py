"""MS-COCO captions (Lin et al. 2014; Chen et al. 2015) on Karpathy's split, from the layouts of `vlr_jax.precomputed`.

Source: the user's files. 113,287 train (with restval), 5,000 dev (the first 1,000 are kept, as the field evaluates)
and 5,000 test images, whose split is called `testall` as in the field; SCAN's `test`, the first 1,000 of them, is not
stored again. Five captions each, in Karpathy's JSON of train up to seven. Features become float16 `[R, D]` (36 × 2048
for the usual regions), images one JPEG. Visuals are called by their COCO image id where that is known.
"""

from vlr_jax import precomputed, released

RELEASE = precomputed.Release(
    folder="coco_precomp",
    karpathy="dataset_coco.json",
    counts={"train": (113287,), "dev": (5000, 1000), "testall": (5000,)},
    karpathy_splits={"train": "train", "restval": "train", "val": "dev", "test": "testall"},
    named="id",
)

Builder = released.builder("coco", RELEASE)
