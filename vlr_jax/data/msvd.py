"""MSVD (Chen and Dolan 2011; splits of Venugopalan et al. 2015): short clips of YouTube with some 40 captions each.

Source: the user's files. `train_list.txt`, `val_list.txt`, `test_list.txt` (an id a line) and the captions, as
`captions_msvd.json` (id → captions) or `AllVideoDescriptions.txt` (`id caption` a line, English). 1,200 train, 100 val
and 670 test videos with 48,774, 4,290 and 27,763 captions, `{id}.avi`. CLIP4Clip's `raw-captions.pkl` is never loaded.
Frames are JPEG; features float16 `[F, D]`, or `[F, R, D]` of regions.
"""

import pathlib

from vlr_jax import annotations, clips

COUNTS = {"train": (1200,), "val": (100,), "test": (670,)}
JSON, LINES, PICKLE = "captions_msvd.json", "AllVideoDescriptions.txt", "raw-captions.pkl"
CONVERT = f"""python -c "import json, pickle; json.dump(pickle.load(open('{PICKLE}', 'rb')), open('{JSON}', 'w'))\""""


def _captions(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, list[str]]]:
    """(the file, id → its captions)."""
    if (folder / JSON).is_file():
        path = folder / JSON
        found = annotations.load(path, dict, "{id: [caption, …], …}")
        if not all(isinstance(some, list) for some in found.values()):
            raise ValueError(f"{path}: expected {{id: [caption, …], …}}")
        try:  # a caption as the list of its words, as in the pickle, is joined as CLIP4Clip does
            return path, {id_: [c if isinstance(c, str) else " ".join(c) for c in some] for id_, some in found.items()}
        except TypeError as error:
            raise ValueError(f"{path}: a caption is neither a text nor a list of words: {error}") from error
    if (folder / LINES).is_file():
        captions: dict[str, list[str]] = {}
        for line in annotations.text(folder / LINES).split("\n"):
            id_, _, caption = line.strip().partition(" ")
            if caption and not line.startswith("#"):
                captions.setdefault(id_, []).append(caption)
        return folder / LINES, captions
    if (folder / PICKLE).is_file():
        raise ValueError(
            f"{folder / PICKLE} is a pickle, which this library never loads: loading one runs any code that it holds. "
            f"If you trust its source, make {JSON} of it once, in that folder: {CONVERT}"
        )
    annotations.find(folder, (JSON, LINES))
    raise AssertionError("find raises")


def read(folder: pathlib.Path, *, subset: bool) -> annotations.Splits:
    """The annotations of a folder; raises ValueError as `annotations` tells."""
    path, captions = _captions(folder)
    splits = {}
    for split in COUNTS:
        if names := annotations.find(folder, (f"{split}_list.txt",), optional=subset):
            splits[split] = annotations.clips(annotations.ids(names), captions, path)
    annotations.expect(COUNTS, {split: len(made) for split, made in splits.items()}, subset)
    return splits


Builder = clips.builder("msvd", clips.Set(read, (JSON, LINES, "*_list.txt")))
