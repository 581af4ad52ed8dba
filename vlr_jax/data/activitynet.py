"""ActivityNet Captions (Krishna et al. 2017), videos retrieved by paragraphs: all sentences of a video joined.

Source: the user's files. `train.json` and `val_1.json` (or `val.json`): `{"v_ID": {"duration": …, "timestamps": …,
"sentences": […]}, …}`, and if they are there `train_ids.json` and `val_ids.json`, the ids to read. 10,009 and 4,917
videos. The second is what the field reports on (val_1) and is called `test` here; of `train`, 5 % of the videos
(`held_out`, chosen by `held_out_seed`) become `dev`, by which checkpoints are picked. Files are called `v_ID` or `ID`.
The single sentences are stored (`config.data.texts="paragraphs"` joins them). Frames are JPEG; features float16 `[F,
D]`, or `[F, R, D]` of regions.
"""

import pathlib

from vlr_jax import annotations, clips

FILES = {"train": ("train.json",), "test": ("val_1.json", "val.json")}
IDS = {"train": "train_ids.json", "test": "val_ids.json"}
COUNTS = {"train": (10009,), "test": (4917,)}
FORM = '{"v_ID": {"sentences": [text, …]}, …}'


def read(folder: pathlib.Path, *, subset: bool, held_out: float = 0.05, held_out_seed: int = 0) -> annotations.Splits:
    """The annotations of a folder; raises ValueError as `annotations` tells."""
    splits = {}
    for split, names in FILES.items():
        path = annotations.find(folder, names, optional=subset)
        if path is None:
            continue
        found = annotations.load(path, dict, FORM)
        try:
            sentences = {name: list(video["sentences"]) for name, video in found.items()}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected {FORM}, found no list of sentences: {error!r}") from error
        listed = list(sentences)
        if ids := annotations.find(folder, (IDS[split],), optional=True):
            listed = list(dict.fromkeys(annotations.load(ids, list, '["v_ID", …]')))
        splits[split] = annotations.clips(listed, sentences, path, called=lambda name: (name.removeprefix("v_"),))
    annotations.expect(COUNTS, {split: len(made) for split, made in splits.items()}, subset)
    if "train" in splits:
        splits |= annotations.hold_out(splits["train"], held_out, held_out_seed)
    return splits


Builder = clips.builder("activitynet", clips.Set(read, ("train.json", "val*.json", "train_ids.json")))
