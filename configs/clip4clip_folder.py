"""CLIP4Clip (Luo et al., arXiv 2104.08860) fine-tuned on your own pictures and videos, splits train, val, test.

Expect no number: the data are yours. FOLDER holds them and a .jsonl file with their texts (docs/datasets.md). CLIP: a
local folder of Hugging Face, or a file of OpenAI's or open_clip's weights (then --config.text.path names the folder or
file of the vocabulary).

python -m vlr_jax.main --config configs/clip4clip_folder.py:CLIP --config.data.source=FOLDER
"""

from ml_collections.config_dict import ConfigDict


def get_config(arg=""):
    smoke, clip = arg == "smoke", arg or "weights/clip-vit-base-patch32"
    c = ConfigDict()
    every = 2 if smoke else 200
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 2000
    if smoke:
        options = dict(kind="videos", train=32, val=16, test=16, size=32, length=3)
        c.data = dict(name="scenes", root="data/videos-smoke", split="train", options=options,
                      visual="frames", frame_size=32, frames=2)  # fmt: skip
        c.text = dict(name="words", length=12)
        tower = dict(image_size=32, patch=16, vision_width=16, vision_layers=1, vision_heads=2, text_width=16,
                     text_layers=1, text_heads=2, positions=12, dim=16)  # fmt: skip
        size = dict(clip_sizes=tower)
    else:  # source: a folder to prepare at the first run; empty = prepared already
        c.data = dict(name="folder", root="data/mine", split="train", source="", options={},
                      visual="frames", frame_size=224, frames=12)  # fmt: skip
        c.text = dict(name="bpe", path=clip, length=77)
        c.init = [dict(name="clip", path=clip, into="clip")]
        size = dict(dtype="bfloat16")
    c.model = dict(name="clip4clip", temporal="none", interaction="mean", **size)
    c.losses = dict(info_nce=dict(temperature="model"))
    # CLIP moves a thousand times slower than what is new, and its logit scale never exceeds ln 100.
    rules = [("clip/log_temperature", dict(lr=1e-3, clamp=[-4.6052, None])), ("clip/.*", dict(lr=1e-3))]
    c.optim = dict(name="adamw", lr=1e-4, decay=0.2, clip=1.0, schedule=dict(name="cosine", warmup=0.1), rules=rules)
    c.evals = dict(
        val=dict(name="retrieval", every=every, data=dict(split="val")),
        test=dict(name="retrieval", data=dict(split="test"), every=0),
    )
    c.best = "val/rsum"
    return c
