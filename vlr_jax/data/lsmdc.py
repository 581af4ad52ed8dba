"""LSMDC 2016 (Rohrbach et al. 2017): clips of movies, with one sentence of an audio description each.

Source: the user's files. `LSMDC16_annos_training.csv`, `LSMDC16_annos_val.csv`,
`LSMDC16_challenge_1000_publictect.csv`: no header, six columns with tabs between, the first a clip's id, the last its
sentence. 101,079 / 7,408 / 1,000 rows; in train an id may stand in several rows, which are then texts of one clip.
Clips are files `{id}.avi` anywhere below the media. Frames are JPEG; features float16 `[F, D]`, or `[F, R, D]` of
regions.
"""

import pathlib

from vlr_jax import annotations, clips

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
COUNTS = {"train": (101079,), "val": (7408,), "test": (1000,)}
COLUMNS = 6


def _sentences(path: pathlib.Path) -> dict[str, list[str]]:
    """Clip → its sentences."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(annotations.text(path).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.strip().split("\t")
        if len(cells) != COLUMNS:
            raise ValueError(f"{path}, line {number}: {len(cells)} columns with tabs between, expected {COLUMNS}")
        found.setdefault(cells[0], []).append(cells[-1])
    return found


def read(folder: pathlib.Path, *, subset: bool) -> annotations.Splits:
    """The annotations of a folder; raises ValueError as `annotations` tells."""
    splits, rows = {}, {}
    for split, name in FILES.items():
        if path := annotations.find(folder, (name,), optional=subset):
            sentences = _sentences(path)
            splits[split] = annotations.clips(list(sentences), sentences, path)
            rows[split] = sum(map(len, sentences.values()))
    of_clips = {split: len(made) for split, made in splits.items()}
    # The published counts are of rows; a copy without repeated ids has as many clips.
    counted = {split: of_clips[split] if of_clips[split] in COUNTS[split] else rows[split] for split in splits}
    annotations.expect(COUNTS, counted, subset)
    return splits


Builder = clips.builder("lsmdc", clips.Set(read, tuple(FILES.values())))
