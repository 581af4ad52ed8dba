"""DiDeMo (Hendricks et al. 2017) for the retrieval of videos by paragraphs: all descriptions of a video joined.

Source: the user's files. `{train,val,test}_data.json` (`[{"video": id, "description": …, "times": …}, …]`) and
`{train,val,test}_list.txt`, the ids that the field retrieves among: 8,395 / 1,065 / 1,004 of more. An id includes the
ending of its file; a file of another ending is found too. The single descriptions are stored, in the order of the file
(`config.data.texts="paragraphs"` joins them). Only the first 31 seconds of a video were annotated and are read (`end`),
as CLIP4Clip does. Frames are JPEG; features float16 `[F, D]`, or `[F, R, D]` of regions.
"""

import pathlib

from vlr_jax import annotations, clips

COUNTS = {"train": (8395,), "val": (1065,), "test": (1004,)}
FORM = '[{"video": id, "description": text}, …]'
END = 31.0  # seconds


def _descriptions(path: pathlib.Path) -> dict[str, list[str]]:
    """Video → its descriptions."""
    found: dict[str, list[str]] = {}
    for moment in annotations.load(path, list, FORM):
        try:
            found.setdefault(moment["video"], []).append(moment["description"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected {FORM}, found {str(moment)[:60]}") from error
    return found


def read(folder: pathlib.Path, *, subset: bool) -> annotations.Splits:
    """The annotations of a folder; raises ValueError as `annotations` tells."""
    splits = {}
    for split in COUNTS:
        path = annotations.find(folder, (f"{split}_data.json",), optional=subset)
        listed = annotations.find(folder, (f"{split}_list.txt",), optional=subset)
        if path is None:
            continue
        texts = _descriptions(path)
        names = list(texts) if listed is None else annotations.ids(listed)
        splits[split] = annotations.clips(names, texts, path, called=lambda name: (name.rpartition(".")[0],))
    annotations.expect(COUNTS, {split: len(made) for split, made in splits.items()}, subset)
    return splits


Builder = clips.builder("didemo", clips.Set(read, ("*_data.json", "*_list.txt"), end=END))
