"""VSE++ towers with Triplet-HN and Smooth-NDCG (Listwise ITR, Li et al.) on MS-COCO regions.

Expect ECCV mAP@R (27.75 images → texts, 47.35 texts → images) as a later review quotes the paper: `v2t_eccv_mAP@R`
and `t2v_eccv_mAP@R` of the evaluation that `--config configs/listwise_coco.py:eccv=DIR` adds to the run, DIR with the
data files of the eccv_caption package (docs/protocols.md). Hyper-parameters of the official code of arXiv 2305.16566.
lr cut at epoch 10 (as in the code before April 2023) and the sentence encoder (an mpnet sentence-transformer) are
INFERRED. `caption` makes captions of one image positives of each other, officially only the diagonal is; officially
the last, short batch of an epoch is trained on too. Words are split our way and counted in train alone (min_count 4);
the official codes split by nltk and count in train + dev (docs/datasets.md has their vocabulary).

python -m vlr_jax.main --config configs/listwise_coco.py --config.data.source=FOLDER --workdir runs/listwise
"""

from ml_collections.config_dict import ConfigDict, placeholder


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    epoch = 2 if smoke else 4425  # steps: 113,287 × 5 pairs in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 20 * epoch
    if smoke:
        options = dict(train=64, val=16, test=16, sentence_encoder="tfidf:8")
        c.data = dict(name="scenes", root="data/scenes-smoke-tfidf", split="train", options=options)
    else:  # FOLDER has the features in one of the layouts of docs/datasets.md
        # With Karpathy's JSON they lie in a file of their own: --config.data.options.features=FILE
        # The encoder lies in a local folder; tfidf needs nothing and is weaker.
        encoder = "sentence-transformers:models/all-mpnet-base-v2"
        options = dict(features=placeholder(str), sentence_encoder=encoder)
        c.data = dict(name="coco", root="data/coco-mpnet", split="train", source="", options=options)
    c.text = dict(name="words", length=12 if smoke else 50, min_count=1 if smoke else 4)
    c.model = dict(name="two_tower", **(dict(dim=16, word_dim=8) if smoke else {}))
    # (1 - w) pairwise + w listwise; w = 0.5 is INFERRED, the official code lacks its value.
    c.losses = dict(triplet_hard=dict(margin=0.2, weight=0.5), smooth_ndcg=dict(temperature=0.01, weight=0.5))
    c.relevance = dict(name="caption")
    c.optim = dict(name="adam", lr=5e-4, clip=2.0, schedule=dict(name="step", at_epoch=10))
    dev, test = ("val", "test") if smoke else ("dev", "testall")
    c.evals = dict(
        dev=dict(name="retrieval", every=epoch, data=dict(split=dev)),
        test_5k=dict(name="retrieval", data=dict(split=test), protocol="none" if smoke else "coco-5k"),
        test_1k=dict(name="retrieval", data=dict(split=test), protocol="none" if smoke else "coco-1k-5fold"),
    )
    if arg.startswith("eccv="):
        c.evals.eccv = dict(name="extended", data=dict(split=test), files=arg.removeprefix("eccv="))
    c.best = "dev/rsum"
    return c
