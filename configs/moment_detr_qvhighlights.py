"""Moment-DETR (Lei et al., NeurIPS 2021) on QVHighlights.

Expect test R1@0.5 52.9, R1@0.7 33.0, mAP 30.7, HIT@1 55.6 (the paper's row; 5 seeds on val of another paper: 53.6 +-
1.6, mAP 32.1 +- 1.0). Hyper-parameters: official code.

SOURCE: the annotations, and beside them the features of the field: SlowFast (2,304) and CLIP ViT-B/32 (512), clips of
2 s; texts as states of its tokens, `clip_text_features` (docs/datasets.md).

python -m vlr_jax.main --config configs/moment_detr_qvhighlights.py --config.data.source=SOURCE

The released test split has no labels. Its predictions, for the server or, with highlight_test_with_gt.jsonl, for
`python -m vlr_jax.score moments`, come from the run by --mode localize --split test --output hl_test_submission.jsonl.
"""

from ml_collections import ConfigDict


def get_config(arg=""):
    smoke = arg == "smoke"
    c = ConfigDict()
    epoch = 2 if smoke else 225  # steps: 7,218 queries in batches of 32
    c.task, c.seed, c.batch_size, c.steps = "moment", 0, 8 if smoke else 32, 4 if smoke else 200 * epoch
    if smoke:
        options = dict(kind="moments", train=16, val=8, test=8, clips=24, queries=2, size=0)
        c.data = dict(name="scenes", root="data/moments-smoke", split="train", options=options)
        c.text = dict(name="words", length=16)
        size = dict(dim=16, heads=2, hidden=32, queries=4, word_dim=8, gru_dim=16)
    else:
        options = dict(features="slowfast=slowfast_features,clip=clip_features", text_features="clip_text_features")
        c.data = dict(name="qvhighlights", root="data/qvhighlights", split="train", source="", options=options)
        c.text = dict(name="states", length=32)
        size = dict(dim=256, heads=8, hidden=1024, queries=10)
    c.model = dict(name="moment_detr", dropout=0.1, input_dropout=0.5, **size)
    c.losses, c.relevance = dict(), dict(name="moment")
    c.optim = dict(name="adamw", lr=1e-4, decay=1e-4, clip=0.1)
    found = dict(name="moment", protocol="qvhighlights")
    c.evals = dict(val=dict(**found, every=epoch if smoke else 5 * epoch, data=dict(split="val")))
    c.best, c.select_on_test = "val/MR-full-mAP", False
    return c
