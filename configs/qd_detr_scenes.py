"""QD-DETR (Moon et al., CVPR 2023), small, on long videos of the procedural world.

Expect the row of docs/claims.md. The texts are words here, not CLIP's states of tokens.

python -m vlr_jax.main --config configs/qd_detr_scenes.py --workdir runs/qd_detr_scenes
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    c.task, c.seed, c.batch_size, c.steps = "moment", 0, 8 if smoke else 32, 4 if smoke else 2000
    sizes = dict(train=16, val=8, test=8, clips=24, queries=2) if smoke else dict(train=2000, val=250, test=250)
    c.data = dict(name="scenes", root="data/moments-smoke" if smoke else "data/moments", split="train",
                  options=dict(kind="moments", **sizes))  # fmt: skip
    c.text = dict(name="words", length=16)
    size = dict(dim=16, heads=2, hidden=32, queries=4, word_dim=8) if smoke else dict(dim=128, heads=8, hidden=256)
    c.model = dict(name="qd_detr", input_dropout=0.2, **size)
    c.losses, c.relevance = dict(), dict(name="moment")
    c.optim = dict(name="adamw", lr=5e-4, decay=1e-4, clip=0.1)
    c.evals = dict(
        val=dict(name="moment", every=2 if smoke else 250, data=dict(split="val"), protocol="qvhighlights"),
        test=dict(name="moment", data=dict(split="test"), protocol="qvhighlights"),
    )
    c.best = "val/MR-full-mAP"
    return c
