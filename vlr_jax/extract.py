"""`--mode features`: every visual through a model's encoder into a `.npy` file, which `prepare --features` reads.

    FOLDER/features.json      which model and data these are of
    FOLDER/dogs/1.jpg.npy     of the visual `dogs/1.jpg`: float16 `[S, D]`

A file is there whole or not at all, and what is there is not made again, so a run that was stopped goes on.
"""

import io
import json
import pathlib

import jax
import numpy as np
import tqdm

from vlr_jax import features, files, tiles
from vlr_jax.types import Encoded

FORMAT = 1


def identity(run, split, data: dict) -> dict:
    """What two features must share to lie in one folder: the model, the prepared data, and how those were read."""
    reading = split.reading
    return {
        "model": run.digest,
        "step": run.step,
        "selected_on": run.selected_on,
        "data": split.prepared["fingerprint"],
        "dataset": split.prepared["dataset"],
        "recipe": split.prepared.get("recipe"),
        "visual": reading.kind,
        "frame_size": reading.frame_size if reading.kind == "frames" else None,
        "frames": data.get("frames"),
        "sampling": reading.policy if data.get("frames") else None,
    }


def claim(folder, about: dict) -> pathlib.Path:
    """Writes `folder/features.json`, or checks that what lies in the folder is of the same model and data.

    Raises:
        ValueError: it is not, or the folder holds something else. Nothing is overwritten.
    """
    folder = pathlib.Path(folder)
    path = folder / "features.json"
    about = json.loads(json.dumps({"format": FORMAT} | about))
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} can't be read ({error}); choose another --output") from error
        different = [f"{k}: there {there.get(k)!r}, here {v!r}" for k, v in about.items() if there.get(k) != v]
        if different:
            raise ValueError(f"{folder} holds other features: {'; '.join(different)}; choose another --output")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and holds no features (no features.json); choose another --output")
    else:
        files.write(path, json.dumps(about, indent=1))
    return folder


def place(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file of a visual; slashes in its name are folders.

    Raises:
        ValueError: the name leads out of the folder, or is no file's name.
    """
    pure = pathlib.PurePosixPath(name)
    path = folder / f"{name}.npy"
    inside = path.parent.resolve().is_relative_to(folder.resolve())  # a link may lead out of it too
    if pure.is_absolute() or ".." in pure.parts or not inside or pure.as_posix() != name or "\0" in name:
        raise ValueError(f"the visual {name!r} can't be a file in {folder}: its name leads out of it or names no file")
    return path


def write(folder: pathlib.Path, encode, variables, split, batch_size: int, *, mesh, progress: bool = True) -> int:
    """Encodes those visuals of a split that have no file yet.

    Args:
        folder: from `claim`.
        encode: pure function (variables, batch) → Encoded.
        variables: its first argument.
        split: from `pipeline.open_split`.
        batch_size: rows at once, a multiple of the mesh's `data` axis.
        mesh: the devices.
        progress: show a bar over all visuals of the split.

    Returns:
        how many were encoded.

    Raises:
        ValueError: names that are no files' or stand twice (before anything is encoded), or what comes out of the
            encoder is not finite or beyond float16; names the visual.
    """
    paths = [place(folder, name) for name in split.names]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{len(paths) - len(set(paths))} names of {split.name!r} stand twice: one file can't be two")
    todo = np.array([i for i, path in enumerate(paths) if not path.is_file()], np.int64)
    if not len(todo):
        return 0
    batches = split.epoch("visuals", batch_size, only=todo)
    words, done = f"encoding {split.name}", len(paths) - len(todo)
    with tqdm.tqdm(None, words, len(paths), initial=done, unit="visual", disable=not progress, leave=False) as bar:
        for batch in batches:
            ids = batch["visual_id"][batch["valid"]]
            encoded = tiles.encode_all(encode, variables, [batch], mesh=mesh)
            for row, i in enumerate(ids):
                try:
                    save(paths[i], rows(jax.tree.map(lambda leaf, row=row: np.asarray(leaf)[row], encoded)))
                except ValueError as error:
                    raise ValueError(f"{split.names[i]}: {error}") from error
            bar.update(len(ids))
    return len(todo)


def rows(encoded: Encoded) -> np.ndarray:
    """One visual's features, float16: its real tokens `[S, D]` where the model has tokens, else `[1, D]`, pooled.

    Raises:
        ValueError: no real token, or numbers that float16 can't hold.
    """
    if encoded.tokens is None:
        return features.half(encoded.pooled[None].astype(np.float32))
    found = encoded.tokens if encoded.mask is None else encoded.tokens[encoded.mask]
    if not len(found):
        raise ValueError("no token is under its mask")
    return features.half(found.astype(np.float32))


def save(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes a `.npy` file whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    files.write(path, stream.getvalue())
