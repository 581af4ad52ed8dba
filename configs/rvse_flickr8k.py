"""RVSE++ trained with SelHN (Li et al., arXiv 2303.00181) on Flickr8k, frozen features of 3 × 3 windows.

Expect testA rsum 299.5 ± 3.7. The paper's margin, threshold, optimizer and dropouts; smaller towers. Ours:
averaged parameters, `identity` relevance, no cut of the learning rate.

python -m vlr_jax.main --config configs/rvse_flickr8k.py --config.data.source=FOLDER --workdir runs/rvse
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    epoch = 2 if smoke else 234  # steps: 6,000 × 5 pairs in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 4 * epoch
    if smoke:
        options = dict(train=64, val=16, test=16)
        c.data = dict(name="scenes", root="data/scenes-smoke", split="train", options=options)
    else:  # FOLDER holds captions.jsonl and what options names, see docs/datasets.md
        options = dict(features="features_grid3x3_pca256.npz", media="images112_*.tar")
        c.data = dict(name="folder", root="data/flickr8k-grid", split="train", source="", options=options)
    c.text = dict(name="words", length=18, min_count=1 if smoke else 2)
    size = dict(dim=16, word_dim=8) if smoke else dict(dim=512, word_dim=300, gru_dim=256)
    c.model = dict(name="rvse", **size, dtype="bfloat16")
    c.losses = dict(selhn=dict(margin=0.2, threshold=0.01))
    c.relevance = dict(name="identity")
    c.optim = dict(name="adamw", lr=5e-4, decay=0.01, clip=2.0, average=0.995)
    dev, test = ("val", "test") if smoke else ("dev", "testA")
    c.evals = dict(
        dev=dict(
            name="retrieval",
            every=2 * epoch if not smoke else 2,
            data=dict(split=dev),
            protocol="none" if smoke else "flickr8k-1k",
        ),
        testA=dict(name="retrieval", data=dict(split=test), protocol="none" if smoke else "flickr8k-testA"),
    )
    c.best = "dev/rsum"
    return c
