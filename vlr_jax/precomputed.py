"""Flickr30K and MS-COCO in the layouts that the field has on disk → splits of visuals with texts and features.

Two layouts (docs/datasets.md shows them):
    captions as lines: `{split}_caps.txt` with five lines an image, `{split}_ims.npy` `[N, R, D]` or `[N, D]`, and
        optionally `{split}_ids.txt` and `id_mapping.json` (SCAN, VSE∞ and their descendants);
    Karpathy's JSON: `dataset_flickr30k.json`, `dataset_coco.json`, with features by name or in the JSON's order.

Everything that small files and headers tell is checked before anything is written; the features themselves are
looked at once, while they are written. A place in these files is an identity, so nothing broken is left out: it is an
error.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable

import numpy as np

from vlr_jax import captions, mapped, raw
from vlr_jax import features as feature_files
from vlr_jax import media as media_files

EACH = captions.EACH
SUBSET = "a part of the data needs --option subset=true"


@dataclasses.dataclass(frozen=True)
class Release:
    """What is known of a dataset.

    Attributes:
        folder, karpathy: the usual names of SCAN's folder and of Karpathy's JSON.
        counts: split → the numbers of images it may have.
        karpathy_splits: Karpathy's split → ours.
        named: visuals are called by their `file` or by their `id`.
    """

    folder: str
    karpathy: str
    counts: dict[str, tuple[int, ...]]
    karpathy_splits: dict[str, str]
    named: str


@dataclasses.dataclass
class Split:
    """Visuals in the order of the files, which is that of the protocols.

    Attributes:
        names: of each visual. files: of its picture, None where unknown. texts: of each visual, its texts.
        features: visual i → floating `[R, D]`; None without features.
        width: D, where headers tell it.
    """

    names: list[str]
    files: list[str | None]
    texts: list[list[str]]
    features: Callable[[int], np.ndarray] | None = None
    width: int | None = None


# ---- captions as lines


def _from_lines(
    release: Release, folder: pathlib.Path, features, pictures: bool, subset: bool, notes: list[str]
) -> dict[str, Split]:
    """The splits of a folder with `{split}_caps.txt`; with `pictures` the features may be absent."""
    place = folder if features is None else raw.one(features, folder, "features")
    mapping, splits = captions.mapping(folder), {}
    for split in _line_splits(release, folder, subset):
        texts = captions.lines(folder / f"{split}_caps.txt")
        n, rest = divmod(len(texts), EACH)
        if rest:
            raise ValueError(
                f"{folder / f'{split}_caps.txt'}: {len(texts)} captions; expected {EACH} an image, {rest} are over"
            )
        ids = captions.ids(folder / f"{split}_ids.txt", n)
        unknown = [id_ for id_ in ids or () if mapping and id_ not in mapping]
        if unknown:
            raise ValueError(f"{split}_ids.txt: {len(unknown)} ids are not in id_mapping.json, the first: {unknown[0]}")
        files = [mapping.get(id_) for id_ in ids] if ids else [None] * n
        named = files if release.named == "file" and mapping and ids else ids
        made = Split(named or [f"{split}/{i}" for i in range(n)], files, [texts[i : i + 5] for i in range(0, 5 * n, 5)])
        if pictures and None in files:
            raise ValueError(f"{folder}: pictures are found through {split}_ids.txt and id_mapping.json")
        if not pictures or features is not None or (place / f"{split}_ims.npy").exists():
            array = mapped.open_array(place / f"{split}_ims.npy", n, len(texts))
            made.features, made.width = functools.partial(mapped.visual, array), array.shape[2]
            if array.each > 1:
                notes.append(f"{split}: the features of an image stand {array.each} times; once is stored")
        splits[split] = made
    others = sorted(path.name for path in folder.glob("*_caps.txt") if path.name[:-9] not in splits)
    notes.extend(f"{name} is not read" for name in others)
    return splits


def _line_splits(release: Release, folder: pathlib.Path, subset: bool) -> list[str]:
    """The splits to read: all of the release, or with `subset` those that are there."""
    there = [split for split in release.counts if (folder / f"{split}_caps.txt").is_file()]
    missing = [f"{split}_caps.txt" for split in release.counts if split not in there]
    if missing and not (subset and there):
        found = ", ".join(sorted(path.name for path in folder.glob("*_caps.txt"))) or "none"
        raise ValueError(f"{folder} lacks {', '.join(missing)}; it has: {found}; {SUBSET}")
    return there


# ---- Karpathy's JSON


def _keyed(features, images: list[dict], path: pathlib.Path) -> list[str]:
    """The key of each image among named features: its file's name, with or without the ending, or its COCO id."""
    keys, missing = [], []
    for image in images:
        names = [image["filename"], pathlib.PurePosixPath(image["filename"]).stem]
        names += [str(image[key]) for key in ("cocoid",) if key in image]
        key = next((name for name in names if name in features), None)
        missing += [image["filename"]] * (key is None)
        keys.append(key)
    if missing:
        raise ValueError(f"{path} has no features of {len(missing)} of {len(images)} images, such as {missing[0]}")
    return keys


def _from_json(release: Release, path: pathlib.Path, features, subset: bool, notes: list[str]) -> dict[str, Split]:
    """The splits of a Karpathy JSON. Evaluated splits get the first five texts of a visual, as the protocols have."""
    images = captions.images(path, release.karpathy_splits)
    read = width = None
    if features is not None:
        place = raw.one(features, path.parent, "features")
        if place.suffix == ".npy":
            array = mapped.open_array(place, len(images), sum(len(image["texts"]) for image in images))
            read, width = functools.partial(mapped.visual, array), array.shape[2]
        else:
            named = feature_files.open_features(place)
            keys = _keyed(named, images, place)
            read, width = lambda i: named[keys[i]], named[keys[0]].shape[1]
    splits = {}
    for split in release.counts:
        places = [i for i, image in enumerate(images) if image["split"] == split]
        texts = [images[i]["texts"] for i in places]
        few = [images[i]["filename"] for i in places if len(images[i]["texts"]) < EACH]
        if few and not subset:
            raise ValueError(f"{path}: {len(few)} images of {split} have fewer than {EACH} captions, such as {few[0]}")
        over = sum(max(0, len(some) - EACH) for some in texts)
        if over:
            kept = "kept" if split == "train" else "left out, as the protocols do"
            notes.append(f"{split}: {over} captions beyond the fifth of their image are {kept}")
        if split != "train":
            texts = [some[:EACH] for some in texts]
        files, names = ([images[i][key] for i in places] for key in ("file", "filename"))
        if release.named == "id":
            names = [str(images[i].get("cocoid", images[i]["filename"])) for i in places]
        splits[split] = Split(names, files, texts, read and functools.partial(_nth, read, places), width)
    return {split: made for split, made in splits.items() if made.names or not subset}


def _nth(read, places: list[int], i: int) -> np.ndarray:
    return read(places[i])


# ---- both


def _layout(release: Release, source) -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """(folder of the captions as lines, None) or (None, Karpathy's JSON)."""
    if source is None:
        raise ValueError(f"A source is needed: a folder with train_caps.txt and so on, or {release.karpathy}")
    source = pathlib.Path(source)
    if source.is_file():
        return None, source
    folders = (source, source / "precomp", source / release.folder)
    for folder in folders:
        if any(folder.glob("*_caps.txt")):
            return folder, None
    if (source / release.karpathy).is_file():
        return None, source / release.karpathy
    places = ", ".join(f"{folder.name}/" for folder in folders)
    raise ValueError(f"{source} has neither *_caps.txt (looked in {places}) nor {release.karpathy}")


def sources(release: Release, *, source=None, features=None, media=None, subset=False, **_) -> list[pathlib.Path]:
    """The raw files that go in, found without reading them; of a folder those that could be features or pictures."""
    folder, json_path = _layout(release, source)
    if folder is None:
        found = [json_path]
        if features is not None:
            found += raw.below(raw.one(features, json_path.parent, "features"), feature_files.SUFFIXES)
    else:
        place = folder if features is None else raw.one(features, folder, "features")
        named = [
            path / f"{split}_{kind}"
            for split in _line_splits(release, folder, subset)
            for path, kind in ((folder, "caps.txt"), (folder, "ids.txt"), (place, "ims.npy"))
        ]
        named += [folder / "id_mapping.json", folder.parent / "id_mapping.json"]
        found = [path for path in named if path.is_file()]
    if media is not None or (folder is None and features is None):
        for place in raw.media(media, folder or json_path.parent):
            found += raw.below(place, media_files.IMAGES)
    return list(dict.fromkeys(found))


def _check_counts(release: Release, splits: dict[str, Split]) -> None:
    """Raises ValueError where a split has another number of images than the release; names all of them."""
    wrong = [
        f"{split} has {len(splits[split].names)} images, expected {' or '.join(map(str, expected))}"
        for split, expected in release.counts.items()
        if len(splits[split].names) not in expected
    ]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; {SUBSET}")


def read(
    release: Release, *, source, features=None, media=None, dev: int = 1000, subset: bool = False
) -> tuple[dict[str, Split], media_files.Media | None, list[str]]:
    """Finds, reads and checks all but the features' numbers.

    Args:
        release: the dataset.
        source: a folder, or Karpathy's JSON.
        features: instead of those beside the captions: the folder of `{split}_ims.npy`; for a JSON a `.npy` in its
            order, or what `features.open_features` reads. A JSON without features is one of pictures.
        media: pictures, a folder or tar files (a glob, or several with commas).
        dev: the first so many visuals of `dev` are kept; 0 keeps all.
        subset: counts are not asserted, and splits may be absent.

    Returns:
        the splits, the pictures if they are wanted, and what else to tell.

    Raises:
        ValueError: says what was expected, what was found and where.
    """
    if isinstance(dev, bool) or not isinstance(dev, int) or dev < 0:
        raise ValueError(f"dev must be a whole number of visuals, 0 for all, not {dev!r}")
    folder, json_path = _layout(release, source)
    notes: list[str] = ["subset=true: the numbers of images were not asserted"] if subset else []
    if folder is None:
        splits = _from_json(release, json_path, features, subset, notes)
    else:
        splits = _from_lines(release, folder, features, media is not None, subset, notes)
    if not subset:
        _check_counts(release, splits)
    widths = {split: made.width for split, made in splits.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"features need one width; found {', '.join(f'{s}: {w}' for s, w in widths.items())}")
    for split, made in splits.items():
        if twice := [name for name, n in collections.Counter(made.names).items() if n > 1]:
            raise ValueError(f"{split}: {len(twice)} names stand there twice, such as {twice[0]}")
    if dev and len(splits["dev"].names if "dev" in splits else ()) > dev:
        made = splits["dev"]
        notes.append(f"dev: the first {dev} of {len(made.names)} visuals, as the field evaluates (dev=0 keeps all)")
        splits["dev"] = dataclasses.replace(
            made, names=made.names[:dev], files=made.files[:dev], texts=made.texts[:dev]
        )
    pictures = media is not None or any(made.features is None for made in splits.values())
    opened = media_files.open_media(raw.media(media, folder or json_path.parent)) if pictures else None
    return splits, opened, notes
