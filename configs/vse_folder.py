"""VSE++ towers with InfoNCE on your own prepared data: images or features, splits train, val, test (docs/datasets.md).

python -m vlr_jax.main --config configs/vse_folder.py --config.data.root=data/mine --workdir runs/mine
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 2000
    if smoke:
        options = dict(train=64, val=16, test=16)
        c.data = dict(name="scenes", root="data/scenes-smoke", split="train", visual="frames", frame_size=32,
                      options=options)  # fmt: skip
    else:  # source: a folder to prepare at the first run; empty = prepared already
        c.data = dict(name="folder", root="data/mine", split="train", source="", options={})
    c.text = dict(name="words", length=32, min_count=1)
    c.model = dict(name="two_tower", dim=32 if smoke else 512, word_dim=16 if smoke else 300, visual_norm=True,
                   text="gru+mean", gru_dim=16 if smoke else 256,
                   visual_dropout=0.3, text_dropout=0.3, word_dropout=0.1)  # fmt: skip
    c.losses = dict(info_nce=dict(temperature=0.05))
    c.optim = dict(name="adam", lr=1e-3, clip=2.0, schedule=dict(name="cosine", warmup=100))
    c.evals = dict(val=dict(name="retrieval", every=2 if smoke else 200, data=dict(split="val")),
                   test=dict(name="retrieval", data=dict(split="test")))  # fmt: skip
    c.best = "val/rsum"
    return c
