"""Flickr30K (Young et al. 2014) on Karpathy's split, from the layouts of `vlr_jax.precomputed`.

Source: the user's files. 29,000 train, 1,014 dev (the first 1,000 are kept, as the field evaluates) and 1,000 test
images with five captions each; features become float16 `[R, D]` (36 × 2048 for the usual regions), images one JPEG.
Visuals are called by the name of their file where that is known.
"""

from vlr_jax import precomputed, released

RELEASE = precomputed.Release(
    folder="f30k_precomp",
    karpathy="dataset_flickr30k.json",
    counts={"train": (29000,), "dev": (1014, 1000), "test": (1000,)},
    karpathy_splits={"train": "train", "val": "dev", "test": "test"},
    named="file",
)

Builder = released.builder("flickr30k", RELEASE)
