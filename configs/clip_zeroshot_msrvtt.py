"""CLIP as it is (Radford et al., arXiv 2103.00020), mean of the frames, on MSR-VTT 1k-A: nothing is trained.

Expect with ViT-B/32 t2v R@1 31.1, R@5 53.7, R@10 63.4, MdR 4, MnR 41.6; v2t R@1 26.5, R@5 50.1, R@10 61.7 (published
in a README of the family, checked). Which frames, and at what size, matters: prepared.json has the recipe.

CLIP: a local folder of Hugging Face, or a file of OpenAI's or open_clip's weights (then --config.text.path names the
folder or file of the vocabulary). FOLDER: annotations and videos (docs/datasets.md); of both, what belongs to the test
split is enough, with --config.data.options.subset=True.

python -m vlr_jax.main --mode eval --config configs/clip_zeroshot_msrvtt.py:CLIP --config.data.source=FOLDER
"""

from ml_collections.config_dict import ConfigDict, placeholder


def get_config(arg=""):
    smoke, clip = arg == "smoke", arg or "weights/clip-vit-base-patch32"
    c = ConfigDict()
    c.seed, c.batch_size, c.steps = 0, 16, 4
    if smoke:
        options = dict(kind="videos", train=32, val=16, test=16, size=32, length=3)
        c.data = dict(name="scenes", root="data/videos-smoke", split="train", options=options,
                      visual="frames", frame_size=32, frames=2)  # fmt: skip
        c.text = dict(name="words", length=12)
        tower = dict(image_size=32, patch=16, vision_width=16, vision_layers=1, vision_heads=2, text_width=16,
                     text_layers=1, text_heads=2, positions=12, dim=16)  # fmt: skip
        size = dict(clip_sizes=tower)
    else:  # the folder that the configs of training have; media: where the videos lie, if not below FOLDER
        options = dict(media=placeholder(str), held_out=0.05, subset=False)
        c.data = dict(name="msrvtt", root="data/msrvtt", split="test", source="", options=options,
                      frame_size=224, frames=12)  # fmt: skip
        c.text = dict(name="bpe", path=clip, length=32)
        c.init = [dict(name="clip", path=clip, into="clip")]
        size = dict(dtype="bfloat16")
    c.model = dict(name="clip4clip", temporal="none", interaction="mean", **size)
    c.losses = dict(info_nce=dict(temperature="model"))  # losses and optim: for those who train nevertheless
    c.optim = dict(name="adam", lr=1e-7)
    test = dict(data=dict(split="test"), protocol="none" if smoke else "msrvtt-1ka", incomplete=False, every=0)
    c.evals = dict(
        rescored=dict(name="rescored", rows=["dsl"], **test),
        test=dict(name="retrieval", **test),
    )
    return c
