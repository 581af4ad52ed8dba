"""CLIP4Clip's mean of frames with small towers of its own on the videos of the procedural world.

Expect test t2v R@1 38, v2t and t2v together rsum 426 (oracle: 76 and 554) after 6 min on two busy cores, the making of
the videos included.

python -m vlr_jax.main --config configs/clip4clip_scenes.py --workdir runs/clip4clip_scenes
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 500
    options = dict(train=32, val=16, test=16, length=3) if smoke else dict(train=3000, val=300, test=500, spread=3)
    c.data = dict(name="scenes", root="data/videos-tiny" if smoke else "data/videos", split="train",
                  options=dict(kind="videos", size=32 if smoke else 96, **options), visual="features")  # fmt: skip
    c.text = dict(name="words", length=12 if smoke else 32)
    size = dict(dim=16, word_dim=8) if smoke else dict(dim=128, word_dim=128)
    c.model = dict(name="clip4clip", text="gru", temporal="none", interaction="mean", temperature_start=0.07, **size)
    c.losses = dict(info_nce=dict(temperature="model"))
    c.optim = dict(name="adamw", lr=1e-3, decay=0.01, clip=2.0, schedule=dict(name="cosine", warmup=0.1))
    c.evals = dict(
        dev=dict(name="retrieval", every=2 if smoke else 125, data=dict(split="val")),
        test=dict(name="retrieval", data=dict(split="test"), every=0),
    )
    c.best = "dev/rsum"
    return c
