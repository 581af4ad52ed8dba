"""ViSERN (Feng et al., IJCAI 2020) on MSR-VTT's full split, 20 captions a video.

Expect t2v R@1 7.9, R@5 23.0, R@10 32.6, MdR 30; v2t R@1 13.1, R@5 30.1, R@10 43.5, MdR 15 (the paper's table,
recalled, not checked). Dual Encoding: t2v 7.6, 22.4, 31.8, v2t 12.8, 30.3, 42.4 (its README, checked). INFERRED, for
no code is public and the text was read in part: the transition, its steps, the layers, the map of regions, 32 frames
(memory), and the training, which is Dual Encoding's (official code). Differs: no halving of the learning rate when dev
stands still.

FOLDER: annotations. FILE: region features of frames, 36 × 2,048 of a bottom-up-attention detector (docs/datasets.md).

python -m vlr_jax.main --config configs/visern_msrvtt.py --config.data.source=FOLDER --config.data.options.features=FILE
"""

from ml_collections.config_dict import ConfigDict, placeholder


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    epoch = 2 if smoke else 1017  # steps: 6,513 videos × 20 captions in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 50 * epoch
    if smoke:
        options = dict(kind="videos", train=32, val=16, test=16, size=0, length=3)
        c.data = dict(name="scenes", root="data/regions-smoke", split="train", options=options)
    else:
        options = dict(features=placeholder(str), split_set="full")
        c.data = dict(name="msrvtt", root="data/msrvtt-full", split="train", source="", options=options, frames=32)
    c.text = dict(name="words", length=12 if smoke else 32, min_count=1 if smoke else 5)
    size = dict(dim=16, word_dim=8) if smoke else dict(dtype="bfloat16")
    c.model = dict(name="visern", reasoning="walk", transition="undirected_exp", steps=2, layers=2, **size)
    c.losses = dict(triplet_hard=dict(margin=0.2, reduce="sum"))
    c.optim = dict(name="adam", lr=1e-4, clip=2.0, schedule=dict(name="step", at_epoch=list(range(1, 50)), factor=0.99))
    test = dict(data=dict(split="test"), protocol="none" if smoke else "msrvtt-full", incomplete=False, every=0)
    c.evals = dict(
        dev=dict(name="retrieval", every=epoch, data=dict(split="val")),
        test=dict(name="retrieval", **test),
    )
    c.best = "dev/rsum"
    return c
