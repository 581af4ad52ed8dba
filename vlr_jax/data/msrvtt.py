"""MSR-VTT (Xu et al. 2016): 10,000 clips of YouTube with 20 captions each, on one of the splits of the field.

Source: the user's files. `MSRVTT_data.json` (`{"videos": [{"video_id", "split"}, …], "sentences": [{"video_id",
"caption"}, …]}`; or `train_val_videodatainfo.json` and `test_videodatainfo.json`, of the same form), and by the option
`split_set`

    9k (default)   `MSRVTT_train.9k.csv`: 9,000 videos   `MSRVTT_JSFUSION_test.csv`: 1,000 pairs, the test "1k-A"
    7k             `MSRVTT_train.7k.csv`: 7,010 videos   the same test
    full           the JSON's own: 6,513 train, 497 val, 2,990 test videos

1k-A has no val: 5 % of the videos of train (`held_out`, chosen by `held_out_seed`) become `dev`, by which checkpoints
are picked. Files are called `{video_id}.mp4`. Frames are JPEG; features float16 `[F, D]`, or `[F, R, D]` of regions.
"""

import pathlib

from vlr_jax import annotations, clips

JSON, PARTS = "MSRVTT_data.json", ("train_val_videodatainfo.json", "test_videodatainfo.json")
FORM = '{"videos": [{"video_id": id, "split": split}, …], "sentences": [{"video_id": id, "caption": text}, …]}'
LISTS = {"9k": (9000, "MSRVTT_train.9k.csv"), "7k": (7010, "MSRVTT_train.7k.csv")}
PAIRS, N_PAIRS = "MSRVTT_JSFUSION_test.csv", 1000
FULL = {"train": (6513,), "val": (497,), "test": (2990,)}
OURS = {"train": "train", "validate": "val", "val": "val", "test": "test"}


def _data(folder: pathlib.Path, optional: bool) -> tuple[dict[str, str], dict[str, list[str]], pathlib.Path] | None:
    """(video → its split in the file, video → its captions in the order of the file, the file)."""
    paths = [path for name in (JSON, *PARTS) if (path := annotations.find(folder, (name,), optional=True))]
    if not paths and annotations.find(folder, (JSON, PARTS[0]), optional=optional) is None:
        return None
    splits, captions = {}, {}
    for path in paths if paths[0].name != JSON else paths[:1]:
        found = annotations.load(path, dict, FORM)
        try:
            splits |= {video["video_id"]: video["split"] for video in found["videos"]}
            for sentence in found["sentences"]:
                captions.setdefault(sentence["video_id"], []).append(sentence["caption"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected {FORM}: {error!r}") from error
    return splits, captions, paths[0]


def _full(data, subset: bool) -> annotations.Splits:
    """The JSON's own splits."""
    of, captions, path = data
    if strange := set(of.values()) - OURS.keys():
        raise ValueError(f"{path}: splits {', '.join(map(str, strange))}; expected {', '.join(OURS)}")
    names = {split: [name for name, its in of.items() if OURS[its] == split] for split in FULL}
    annotations.expect(FULL, {split: len(some) for split, some in names.items()}, subset)
    return {split: annotations.clips(some, captions, path) for split, some in names.items() if some}


def read(
    folder: pathlib.Path, *, subset: bool, split_set: str = "9k", held_out: float = 0.05, held_out_seed: int = 0
) -> annotations.Splits:
    """The annotations of a folder; raises ValueError as `annotations` tells, and for another `split_set`."""
    if split_set not in (*LISTS, "full"):
        raise ValueError(f"split_set {split_set!r} of msrvtt; expected {', '.join(LISTS)} or full")
    data = _data(folder, optional=subset and split_set != "full")
    if split_set == "full":
        return _full(data, subset)
    splits, (n_train, name) = {}, LISTS[split_set]
    listed = annotations.find(folder, (name,), optional=subset)
    if listed and data:
        ids = [row["video_id"] for row in annotations.table(listed, ("video_id",))]
        splits["train"] = annotations.clips(annotations.once(ids, listed), data[1], data[2])
    if pairs := annotations.find(folder, (PAIRS,), optional=subset):
        rows = annotations.table(pairs, ("video_id", "sentence"))
        ids = annotations.once([row["video_id"] for row in rows], pairs)
        texts = {row["video_id"]: [row["sentence"]] for row in rows}
        splits["test"] = annotations.clips(ids, texts, pairs)
    counts = {"train": (n_train,), "test": (N_PAIRS,)}
    annotations.expect(counts, {split: len(made) for split, made in splits.items()}, subset)
    if "train" in splits:
        splits |= annotations.hold_out(splits["train"], held_out, held_out_seed)
    return splits


Builder = clips.builder("msrvtt", clips.Set(read, (JSON, *PARTS, "MSRVTT_train.*.csv", PAIRS)))
