"""CLIP as it is (Radford et al., arXiv 2103.00020) on your own pictures and videos: search, features, evaluation.

Expect no number: the data are yours. FOLDER holds pictures and videos, and if they have texts a .jsonl file of them
(docs/datasets.md); without one it is a gallery to search in. CLIP: a local folder of Hugging Face, or a file of
OpenAI's or open_clip's weights (then --config.text.path names the folder or file of the vocabulary).

python -m vlr_jax.prepare --dataset folder --source FOLDER --out data/mine
python -m vlr_jax.main --mode index --config configs/clip_zeroshot_folder.py:CLIP --data data/mine
python -m vlr_jax.main --mode search --config configs/clip_zeroshot_folder.py:CLIP --query "a dog on a beach"

With a split `test` that has texts, --mode eval measures it.
"""

from ml_collections.config_dict import ConfigDict


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
    else:  # source: a folder to prepare at the first run; empty = prepared already
        c.data = dict(name="folder", root="data/mine", split="test", source="", options={},
                      visual="frames", frame_size=224, frames=12)  # fmt: skip
        c.text = dict(name="bpe", path=clip, length=77)
        c.init = [dict(name="clip", path=clip, into="clip")]
        size = dict(dtype="bfloat16")
    c.model = dict(name="clip4clip", temporal="none", interaction="mean", **size)
    c.losses = dict(info_nce=dict(temperature="model"))  # losses and optim: for those who train nevertheless
    c.optim = dict(name="adam", lr=1e-7)
    c.evals = dict(test=dict(name="retrieval", data=dict(split="test"), every=0))
    return c
