"""ProTA (Fang et al., ICME 2024) with small towers of its own on the videos of the procedural world.

Expect no number: this run was not measured; docs/claims.md has ProTA beside other models on such videos.

python -m vlr_jax.main --config configs/prota_scenes.py --workdir runs/prota_scenes
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
    c.model = dict(name="prota", text="gru", temperature_start=0.07, **size)
    c.losses = dict(adaptive_contrastive=dict(margin=0.2, temperature="model"))
    c.regularisers = dict(kl=1e-3)
    c.optim = dict(name="adamw", lr=1e-3, decay=0.01, clip=2.0, schedule=dict(name="cosine", warmup=0.1))
    c.evals = dict(
        dev=dict(name="retrieval", every=2 if smoke else 125, data=dict(split="val")),
        test=dict(name="retrieval", data=dict(split="test"), every=0),
    )
    c.best = "dev/rsum"
    return c
