"""VSE++ towers with InfoNCE on Flickr8k, precomputed features.  Expect testA rsum 346 ± 4 after 7 min on 2 cores.

python -m vlr_jax.main --config configs/vse_flickr8k.py --config.data.source=FOLDER --workdir runs/vse_flickr8k
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 256, 4 if smoke else 2106
    if smoke:
        c.data = dict(name="scenes", root="data/scenes-smoke", split="train", options=dict(train=64, val=16, test=16))
    else:  # FOLDER holds captions.jsonl and what options names, see docs/datasets.md
        options = dict(features="features_global1280.npz", media="images112_*.tar")
        c.data = dict(name="folder", root="data/flickr8k", split="train", source="", options=options)
    c.text = dict(name="words", length=18, min_count=1 if smoke else 2)
    c.model = dict(name="two_tower", dim=32 if smoke else 1024, word_dim=16 if smoke else 512, visual_power=0.5,
                   text="gru+mean", gru_dim=16 if smoke else 256,
                   visual_dropout=0.4, text_dropout=0.35, word_dropout=0.2)  # fmt: skip
    c.losses = dict(info_nce=dict(temperature=0.05))
    c.optim = dict(name="adam", lr=2e-3, clip=2.0, average=0.998)
    if smoke:
        dev, test = dict(data=dict(split="val")), dict(data=dict(split="test"))
    else:
        dev = dict(data=dict(split="dev"), protocol="flickr8k-1k")
        test = dict(data=dict(split="testA"), protocol="flickr8k-testA")
    c.evals = dict(dev=dict(name="retrieval", every=2 if smoke else 234, **dev), testA=dict(name="retrieval", **test))
    c.best = "dev/rsum"
    return c
