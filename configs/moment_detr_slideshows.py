"""Moment-DETR (Lei et al., NeurIPS 2021), small, on slideshows of real photographs.

Expect dev R1@0.5 28.6 +- 7.6, mAP 20.0 +- 5.8 (3 seeds, 5 to 16 min on one of two busy cores; README's row). The
timeline is made up, pictures and sentences are Flickr8k's. SLIDES is made by benchmarks/slideshows.py; the word
vectors and the GRU are those of RUN, two towers trained on Flickr8k's training captions alone, the same for every
row.

python -m vlr_jax.main --config configs/moment_detr_slideshows.py:RUN --config.data.source=SLIDES
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    c.task, c.seed, c.batch_size, c.steps = "moment", 0, 8 if smoke else 32, 4 if smoke else 3300  # 30 epochs
    if smoke:
        options = dict(kind="moments", train=16, val=8, test=8, clips=24, queries=2, size=0)
        c.data = dict(name="scenes", root="data/moments-smoke", split="train", options=options)
        c.text = dict(name="words", length=16)
        size = dict(dim=16, heads=2, hidden=32, queries=4, word_dim=8, gru_dim=16)
    else:
        options = dict(features="photo=features.npz", clip_length=2.0)
        c.data = dict(name="folder", root="data/slideshows", split="train", source="", options=options)
        c.text = dict(name="saved", path=arg or "runs/words_flickr8k")
        c.init = [dict(name="run", path=c.text.path, only="(words|gru)/.*")]
        size = dict(dim=96, heads=4, hidden=256, queries=10, word_dim=128, gru_dim=128)
    c.model = dict(name="moment_detr", dropout=0.1, input_dropout=0.2, **size)
    c.losses, c.relevance = dict(), dict(name="moment")
    c.optim = dict(name="adamw", lr=1e-3, decay=1e-4, clip=0.1, schedule=dict(name="cosine"))
    test = dict(data=dict(split="test" if smoke else "dev"), protocol="qvhighlights")
    c.evals = dict(
        val=dict(name="moment", every=2 if smoke else 330, data=dict(split="val"), protocol="qvhighlights"),
        dev=dict(name="moment", **test),
    )
    c.best = "val/MR-full-mAP"
    return c
