"""ViSERN (Feng et al., IJCAI 2020) on MSVD, every caption a query.

Expect t2v R@1 18.1, R@5 48.4, R@10 61.3, MdR 6; v2t R@1 24.3, R@5 46.2, R@10 59.5, MdR 7 (the paper's table, recalled,
not checked). Dual Encoding: t2v 12.7, 34.5, 46.4, v2t 16.1, 32.1, 41.5 (checked). INFERRED, for no code is public and
the text was read in part: the transition, its steps, the layers, the map of regions, 32 frames (memory), and the
training, which is Dual Encoding's (official code). Differs: no halving of the learning rate when dev stands still.

FOLDER: annotations. FILE: region features of frames, 36 × 2,048 of a bottom-up-attention detector (docs/datasets.md).

python -m vlr_jax.main --config configs/visern_msvd.py --config.data.source=FOLDER --config.data.options.features=FILE
"""

from ml_collections.config_dict import ConfigDict, placeholder


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    epoch = 2 if smoke else 381  # steps: 48,774 captions in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 50 * epoch
    if smoke:
        options = dict(kind="videos", train=32, val=16, test=16, size=0, length=3)
        c.data = dict(name="scenes", root="data/regions-smoke", split="train", options=options)
    else:
        options = dict(features=placeholder(str))
        c.data = dict(name="msvd", root="data/msvd-regions", split="train", source="", options=options, frames=32)
    c.text = dict(name="words", length=12 if smoke else 32, min_count=1 if smoke else 5)
    size = dict(dim=16, word_dim=8) if smoke else dict(dtype="bfloat16")
    c.model = dict(name="visern", reasoning="walk", transition="undirected_exp", steps=2, layers=2, **size)
    c.losses = dict(triplet_hard=dict(margin=0.2, reduce="sum"))
    c.optim = dict(name="adam", lr=1e-4, clip=2.0, schedule=dict(name="step", at_epoch=list(range(1, 50)), factor=0.99))
    test = dict(data=dict(split="test"), protocol="none" if smoke else "msvd-multi", incomplete=False, every=0)
    c.evals = dict(
        dev=dict(name="retrieval", every=epoch, data=dict(split="val")),
        test=dict(name="retrieval", **test),
    )
    c.best = "dev/rsum"
    return c
