"""ProTA (Fang et al., ICME 2024, arXiv 2404.12216) on DiDeMo by paragraphs.

Expect t2v R@1 47.2 (the abstract; most likely with ViT-B/16). INFERRED, for no code is public and the text was read in
part: the tower and its temporal transformer, the weights of tokens, kernels, the form of the margin and of the KL
term, all hyper-parameters (those of the CLIP4Clip family). docs/methods.md has what is known; every choice is a field
of the model. Dual softmax is a row of its own.

CLIP: a local folder of Hugging Face, or a file of OpenAI's or open_clip's weights (then --config.text.path names the
folder or file of the vocabulary). FOLDER: annotations and videos (docs/datasets.md).

python -m vlr_jax.main --config configs/prota_didemo.py:CLIP --config.data.source=FOLDER
"""

from ml_collections.config_dict import ConfigDict, placeholder


def get_config(arg=""):
    smoke, clip = arg == "smoke", arg or "weights/clip-vit-base-patch32"
    c = ConfigDict()
    epoch = 2 if smoke else 65  # steps: 8,395 paragraphs in batches of 128
    c.seed, c.batch_size, c.steps = 0, 16 if smoke else 128, 4 if smoke else 5 * epoch
    c.encode_chunk = 0 if smoke else 32  # rows whose frames are in CLIP at once
    if smoke:
        options = dict(kind="videos", train=32, val=16, test=16, size=32, length=3)
        c.data = dict(name="scenes", root="data/videos-smoke", split="train", options=options,
                      visual="frames", frame_size=32, frames=2, texts="paragraphs")  # fmt: skip
        c.text = dict(name="words", length=12)
        tower = dict(image_size=32, patch=16, vision_width=16, vision_layers=1, vision_heads=2, text_width=16,
                     text_layers=1, text_heads=2, positions=12, dim=16)  # fmt: skip
        size = dict(clip_sizes=tower, temporal_layers=1)
    else:  # media: where the videos lie, if not below FOLDER
        options = dict(media=placeholder(str))
        c.data = dict(name="didemo", root="data/didemo", split="train", source="", options=options,
                      frame_size=224, frames=64, texts="paragraphs")  # fmt: skip
        c.text = dict(name="bpe", path=clip, length=64)
        weights = dict(name="clip", path=clip)
        c.init = [weights | dict(into="clip"), weights | dict(into="temporal", part="temporal")]
        size = dict(dtype="bfloat16", remat=True)
    c.model = dict(name="prota", **size)
    c.losses = dict(adaptive_contrastive=dict(margin=0.2, temperature="model"))
    c.regularisers = dict(kl=1e-3)
    # CLIP moves a thousand times slower than what is new, and its logit scale never exceeds ln 100.
    rules = [("clip/log_temperature", dict(lr=1e-3, clamp=[-4.6052, None])), ("clip/.*", dict(lr=1e-3))]
    c.optim = dict(name="adamw", lr=1e-4, decay=0.2, clip=1.0, schedule=dict(name="cosine", warmup=0.1), rules=rules)
    rows = dict(batch_size=32)  # of 64 frames
    test = dict(data=dict(split="test"), protocol="none" if smoke else "didemo-paragraph", incomplete=False, every=0)
    c.evals = dict(
        dev=dict(name="retrieval", every=epoch, data=dict(split="val"), **rows),
        test=dict(name="retrieval", **test, **rows),
        rescored=dict(name="rescored", rows=["dsl"], **test, **rows),
    )
    c.best = "dev/rsum"
    return c
