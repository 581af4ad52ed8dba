"""Triplet-SN with the SW-HS Kendall loss (BCLS, Li et al., arXiv 2210.11319) on VSE++ towers, Flickr8k.

Expect testA rsum 347.4 ± 4.3. Both losses are INFERRED, no code is public; grades are of tf-idf vectors of the texts.
The weight of 0.1 and the temperature of 0.05 are this data set's.

python -m vlr_jax.main --config configs/bcls_flickr8k.py --config.data.source=FOLDER --workdir runs/bcls
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    epoch = 2 if smoke else 234  # steps: 6,000 × 5 pairs in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 8 * epoch
    if smoke:
        options = dict(train=64, val=16, test=16, sentence_encoder="tfidf:8")
        c.data = dict(name="scenes", root="data/scenes-smoke-tfidf", split="train", options=options)
    else:  # FOLDER holds captions.jsonl and what options names, see docs/datasets.md
        options = dict(features="features_global1280.npz", media="images112_*.tar", sentence_encoder="tfidf")
        c.data = dict(name="folder", root="data/flickr8k-tfidf", split="train", source="", options=options)
    c.text = dict(name="words", length=18, min_count=1 if smoke else 2)
    size = dict(dim=32, word_dim=16, gru_dim=16) if smoke else dict(dim=512, word_dim=300, gru_dim=256)
    c.model = dict(
        name="two_tower",
        **size,
        text="gru+mean",
        visual_power=0.5,
        dtype="bfloat16",
        visual_dropout=0.2,
        text_dropout=0.2,
        word_dropout=0.2,
    )
    c.losses = dict(triplet_soft=dict(margin=0.2, temperature=0.05), kendall_window=dict(weight=0.1))
    c.relevance = dict(name="caption_cosine")
    c.optim = dict(name="adam", lr=1e-3, clip=2.0, average=0.995)
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
