"""ProTA (Fang et al., ICME 2024) with small towers of its own on 1,000 clips of exercises (frame features).

Expect test t2v R@1 40 on the 100 clips of fold 0 (one seed, so ± 5), below the mean of frames (clip4clip_exercise),
after 13 min on two busy cores. The folder is prepared first, see docs/datasets.md.

python -m vlr_jax.main --config configs/prota_exercise.py --workdir runs/prota_exercise
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 100, 4 if smoke else 300
    if smoke:
        options = dict(kind="videos", train=32, val=16, test=16, length=3)
        c.data = dict(name="scenes", root="data/videos-smoke", split="train", options=options, visual="features")
    else:  # source: the folder of the clips with fold0.jsonl in it, made as docs/datasets.md shows
        options = dict(captions="fold0.jsonl", features="frames8_mbv2pca256.npz")
        c.data = dict(name="folder", root="data/exercise", split="train", source="", options=options)
    c.text = dict(name="words", length=12 if smoke else 16, min_count=1 if smoke else 2)
    size = dict(dim=16, word_dim=8) if smoke else dict(dim=256, word_dim=256)
    c.model = dict(name="prota", text="gru", visual_dropout=0.5, text_dropout=0.3, **size)
    c.losses = dict(adaptive_contrastive=dict(margin=0.2, temperature=0.07))
    c.regularisers = dict(kl=1e-3)
    c.optim = dict(
        name="adamw", lr=2e-3, decay=0.1, clip=2.0, schedule=dict(name="cosine", warmup=0.1), average=0.99
    )  # fmt: skip
    dev = "val" if smoke else "dev"
    c.evals = dict(
        dev=dict(name="retrieval", every=2 if smoke else 50, data=dict(split=dev)),
        test=dict(name="retrieval", data=dict(split="test"), every=0),
    )
    c.best = "dev/rsum"
    return c
