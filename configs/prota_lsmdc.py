"""ProTA (Fang et al., ICME 2024, arXiv 2404.12216) on LSMDC.

Expect t2v R@1 25.8 (the abstract; most likely with ViT-B/16). INFERRED, for no code is public and the text was read in
part: the tower and its temporal transformer, the weights of tokens, kernels, the form of the margin and of the KL
term, all hyper-parameters (those of the CLIP4Clip family). docs/methods.md has what is known; every choice is a field
of the model. Dual softmax is a row of its own.

CLIP: a local folder of Hugging Face, or a file of OpenAI's or open_clip's weights (then --config.text.path names the
folder or file of the vocabulary). FOLDER: annotations and videos (docs/datasets.md).

python -m vlr_jax.main --config configs/prota_lsmdc.py:CLIP --config.data.source=FOLDER
"""

from ml_collections.config_dict import ConfigDict, placeholder


def get_config(arg=""):
    smoke, clip = arg == "smoke", arg or "weights/clip-vit-base-patch32"
    c = ConfigDict()
    epoch = 2 if smoke else 789  # steps: 101,079 sentences in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 5 * epoch
    if smoke:
        options = dict(kind="videos", train=32, val=16, test=16, size=32, length=3)
        c.data = dict(name="scenes", root="data/videos-smoke", split="train", options=options,
                      visual="frames", frame_size=32, frames=2)  # fmt: skip
        c.text = dict(name="words", length=12)
        tower = dict(image_size=32, patch=16, vision_width=16, vision_layers=1, vision_heads=2, text_width=16,
                     text_layers=1, text_heads=2, positions=12, dim=16)  # fmt: skip
        size = dict(clip_sizes=tower, temporal_layers=1)
    else:  # media: where the videos lie, if not below FOLDER
        options = dict(media=placeholder(str))
        c.data = dict(name="lsmdc", root="data/lsmdc", split="train", source="", options=options,
                      frame_size=224, frames=12)  # fmt: skip
        c.text = dict(name="bpe", path=clip, length=32)
        weights = dict(name="clip", path=clip)
        c.init = [weights | dict(into="clip"), weights | dict(into="temporal", part="temporal")]
        size = dict(dtype="bfloat16")
    c.model = dict(name="prota", **size)
    c.losses = dict(adaptive_contrastive=dict(margin=0.2, temperature="model"))
    c.regularisers = dict(kl=1e-3)
    # CLIP moves a thousand times slower than what is new, and its logit scale never exceeds ln 100.
    rules = [("clip/log_temperature", dict(lr=1e-3, clamp=[-4.6052, None])), ("clip/.*", dict(lr=1e-3))]
    c.optim = dict(name="adamw", lr=1e-4, decay=0.2, clip=1.0, schedule=dict(name="cosine", warmup=0.1), rules=rules)
    test = dict(data=dict(split="test"), protocol="none" if smoke else "lsmdc-1k", incomplete=False, every=0)
    c.evals = dict(
        dev=dict(name="retrieval", every=epoch, data=dict(split="val")),
        test=dict(name="retrieval", **test),
        rescored=dict(name="rescored", rows=["dsl"], **test),
    )
    c.best = "dev/rsum"
    return c
