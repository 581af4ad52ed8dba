"""VSE++ towers on Flickr8k pixels: the patch encoder learns from 6,000 photographs, no pretrained network anywhere.

python -m vlr_jax.main --config configs/patches_flickr8k.py --config.data.source=FOLDER --workdir runs/patches
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    epoch = 2 if smoke else 234  # steps: 6,000 × 5 pairs in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 2 * epoch
    if smoke:
        options = dict(train=64, val=16, test=16)
        c.data = dict(name="scenes", root="data/scenes-smoke", split="train", options=options, visual="frames")
    else:  # FOLDER holds captions.jsonl and the pictures' tar files, see docs/datasets.md
        options = dict(media="images112_*.tar", image_size=64)
        c.data = dict(name="folder", root="data/flickr8k-pixels", split="train", source="", options=options)
    c.data.frame_size = 32 if smoke else 64
    c.text = dict(name="words", length=18, min_count=1 if smoke else 2)
    c.model = dict(
        name="two_tower",
        dim=32 if smoke else 256,
        word_dim=16 if smoke else 256,
        text="mean",
        pool="mean",
        patch=8,
        patch_dim=32 if smoke else 192,
        patch_layers=2,
        dtype="bfloat16",
        visual_dropout=0.1,
        text_dropout=0.2,
        word_dropout=0.2,
    )
    c.losses = dict(info_nce=dict(temperature=0.07))
    c.optim = dict(
        name="adamw",
        lr=1e-3,
        decay=0.05,
        clip=2.0,
        average=0.998,
        schedule=dict(name="cosine", warmup=8 if smoke else 200),
    )
    dev, test = ("val", "test") if smoke else ("dev", "testA")
    c.evals = dict(
        dev=dict(
            name="retrieval",
            every=2 if smoke else epoch,
            data=dict(split=dev),
            protocol="none" if smoke else "flickr8k-1k",
        ),
        testA=dict(name="retrieval", data=dict(split=test), protocol="none" if smoke else "flickr8k-testA"),
    )
    c.best = "dev/rsum"
    return c
