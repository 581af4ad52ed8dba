"""VSE++ towers with the Unified loss (Li et al.) on Flickr30K regions.

Expect no number: the paper's table was not at hand. Paper: arXiv 2209.13869. The loss's constants and the schedule
are those of the authors' MV-VSE code, the only public one with this loss; for this paper they are INFERRED, and so
are the towers. Words are split our way and counted in train alone (min_count 4); the official codes split by nltk and
count in train + dev (docs/datasets.md has their vocabulary).

python -m vlr_jax.main --config configs/unified_flickr30k.py --config.data.source=FOLDER --workdir runs/unified
"""

from ml_collections.config_dict import ConfigDict, placeholder


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    epoch = 2 if smoke else 1132  # steps: 29,000 × 5 pairs in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 20 * epoch
    if smoke:
        options = dict(train=64, val=16, test=16)
        c.data = dict(name="scenes", root="data/scenes-smoke", split="train", options=options)
    else:  # FOLDER has the features in one of the layouts of docs/datasets.md
        # With Karpathy's JSON they lie in a file of their own: --config.data.options.features=FILE
        options = dict(features=placeholder(str))
        c.data = dict(name="flickr30k", root="data/flickr30k", split="train", source="", options=options)
    c.text = dict(name="words", length=12 if smoke else 50, min_count=1 if smoke else 4)
    c.model = dict(name="two_tower", **(dict(dim=16, word_dim=8) if smoke else {}))
    c.losses = dict(unified=dict(margin=0.2, temperature=0.01))
    c.relevance = dict(name="diagonal")  # as official: another caption of the same image is a negative
    c.optim = dict(name="adam", lr=5e-4, clip=2.0)
    dev, test = ("val", "test") if smoke else ("dev", "test")
    c.evals = dict(
        dev=dict(name="retrieval", every=epoch, data=dict(split=dev)),
        test=dict(name="retrieval", data=dict(split=test), protocol="none" if smoke else "flickr30k-1k"),
    )
    c.best = "dev/rsum"
    return c
