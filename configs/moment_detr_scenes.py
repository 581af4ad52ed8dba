"""Moment-DETR (Lei et al., NeurIPS 2021), small, on long videos of the procedural world.

Expect far less than CDNet reaches in as many steps (cdnet_scenes.py): docs/claims.md compares the three. Texts are
words, windows are exact: answers are not rounded to clips.

python -m vlr_jax.main --config configs/moment_detr_scenes.py --workdir runs/moment_detr_scenes
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    c.task, c.seed, c.batch_size, c.steps = "moment", 0, 8 if smoke else 16, 4 if smoke else 1200
    sizes = dict(train=16, val=8, test=8, clips=24, queries=2) if smoke else dict(train=2000, val=250, test=250)
    root = "data/moments-scenes-smoke" if smoke else "data/moments"
    c.data = dict(name="scenes", root=root, split="train", options=dict(kind="moments", **sizes))
    c.text = dict(name="words", length=16)
    small = dict(dim=16, heads=2, hidden=32, queries=4, word_dim=8, gru_dim=16)
    size = small if smoke else dict(dim=64, heads=4, hidden=128, queries=6, word_dim=64, gru_dim=64)
    c.model = dict(name="moment_detr", input_dropout=0.1, **size)
    c.losses, c.relevance = dict(), dict(name="moment")
    c.optim = dict(name="adamw", lr=1e-3, decay=1e-4, clip=0.1, schedule=dict(name="cosine"))
    found = dict(name="moment", protocol="qvhighlights", processing="exact")
    c.evals = dict(
        val=dict(**found, every=2 if smoke else 300, data=dict(split="val")),
        test=dict(**found, data=dict(split="test")),
    )
    c.best = "val/MR-full-mAP"
    return c
