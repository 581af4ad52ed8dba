"""Precomputed features by key, whatever files they came in: a folder of npy / npz, one npz, one h5 (then with h5py), or
the files of Dual Encoding (`bigfile.py`).

Features of several files are joined along their width (`join`). A video may have region features of every frame
(`rows`).
"""

import collections
import pathlib
import zipfile

import numpy as np

from vlr_jax import bigfile, raw

SUFFIXES = (".npy", ".npz")  # of a visual's own file in a folder
ARRAYS = ("feat", "features")  # what features are called in a file with several arrays
TEXT_ARRAYS = (*ARRAYS, "last_hidden_state", "token")  # what token features of a text are called there
GROUPED = (*ARRAYS, "c3d_features")  # what they are called in an h5 with a group a visual

# What numpy raises on a file that is broken or holds pickled objects (never loaded: unpickling runs code).
_BROKEN = (OSError, EOFError, KeyError, zipfile.BadZipFile)


def _rows(array: np.ndarray) -> np.ndarray:
    """One visual's features as `[R, D]`: one vector is one row.

    Raises:
        ValueError: not floating, or neither one vector nor rows of vectors.
    """
    if array.dtype.kind != "f":
        raise ValueError(f"features must be floating-point numbers, found {array.dtype}")
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(f"features must have the shape (D,) or (R, D), found {array.shape}")
    return array[None] if array.ndim == 1 else array


def _load(path: pathlib.Path, only: tuple[str, ...] | None = None) -> np.ndarray | dict[str, np.ndarray]:
    """What a `.npy` file holds, or the arrays of a `.npz` file by name (None for those that are not in `only`).

    Raises:
        ValueError: broken, or holding Python objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] if only is None or name in only else None for name in loaded.files}
    except ValueError as error:
        reason = "it holds Python objects, or is no numpy file" if "allow_pickle" in str(error) else error
        raise ValueError(f"{path.name} cannot be loaded: {reason}") from error
    except _BROKEN as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _pick(arrays, choices: tuple[str, ...], where: str):
    """The one of `choices` that a npz or h5 file has."""
    found = [name for name in choices if name in arrays]
    if len(found) != 1:
        raise ValueError(f"{where} must have exactly one of {' | '.join(choices)}; it has: {', '.join(sorted(arrays))}")
    return found[0]


class _Table:
    """Many visuals in one array `[N, D]` or `[N, R, D]` beside their names."""

    def __init__(self, names, array, where: str):
        if np.ndim(names) != 1 or len(names) != len(array):
            raise ValueError(f"{where}: {np.shape(names)} names but features of shape {array.shape}: they must pair up")
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in np.asarray(names).tolist()]
        self._array, self._row = array, {name: row for row, name in enumerate(names)}
        if len(self._row) != len(names):
            twice = [name for name, n in collections.Counter(names).items() if n > 1]
            raise ValueError(f"{where}: {len(twice)} names stand there twice: {', '.join(twice[:5])}")

    def keys(self):
        return self._row.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._row

    def __getitem__(self, key: str) -> np.ndarray:
        return _rows(self.raw(key)[0])

    def raw(self, key: str) -> tuple[np.ndarray, None]:
        """What stands there, of any shape, and the mask of its regions, which this form has not."""
        return np.asarray(self._array[self._row[key]]), None


class _Files:
    """One `.npy` or `.npz` file a visual in a folder; the key is the file's path without the ending, as in
    `dogs/1.jpg.npy` for `dogs/1.jpg`.
    """

    def __init__(self, folder: pathlib.Path, arrays: tuple[str, ...]):
        self._arrays = arrays
        files = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES)
        self._path = {p.relative_to(folder).with_suffix("").as_posix(): p for p in files}
        if len(self._path) != len(files):
            raise ValueError(f"{folder}: some features lie there both as .npy and as .npz")
        if not files:
            raise ValueError(f"{folder} holds no .npy or .npz file")

    def keys(self):
        return self._path.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._path

    def __getitem__(self, key: str) -> np.ndarray:
        return _rows(self.raw(key)[0])

    def raw(self, key: str) -> tuple[np.ndarray, np.ndarray | None]:
        """What the file holds, of any shape, and `mask`, the mask of its regions, where a `.npz` has one."""
        path = self._path[key]
        if path.suffix == ".npz":
            arrays = _load(path)
            name = next(iter(arrays)) if len(arrays) == 1 else _pick(arrays, self._arrays, path.name)
            return arrays[name], arrays.get("mask")
        return _load(path), None


class _H5:
    """One dataset a visual in an h5 file; groups make keys with slashes, unless all groups have one dataset, called by
    one of `GROUPED`. Rows are read when asked for.
    """

    def __init__(self, file, paths: list[str]):
        own = {path.rpartition("/")[2] for path in paths}
        grouped = len(own) == 1 and own <= set(GROUPED) and all("/" in path for path in paths)
        self._file = file
        self._keys = {path.rpartition("/")[0] if grouped else path: path for path in paths}

    def keys(self):
        return self._keys.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __getitem__(self, key: str) -> np.ndarray:
        return _rows(self.raw(key)[0])

    def raw(self, key: str) -> tuple[np.ndarray, None]:
        """What stands there, of any shape, and the mask of its regions, which this form has not."""
        return np.asarray(self._file[self._keys[key]]), None


def _open_h5(path: pathlib.Path):
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"{path.name} needs h5py: pip install 'vlr_jax[h5]'") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as h5: {error}") from error
    if {"names", "ids"} & set(file) and set(ARRAYS) & set(file):
        names = file[_pick(file, ("names", "ids"), path.name)][()]
        return _Table(names, file[_pick(file, ARRAYS, path.name)], path.name)
    paths: list[str] = []
    file.visititems(lambda key, item: paths.append(key) if isinstance(item, h5py.Dataset) else None)
    return _H5(file, paths)


def open_features(path, arrays: tuple[str, ...] = ARRAYS):
    """Precomputed features by key: an object with `keys()`, `in` and `[key]` → floating `[R, D]`.

    Args:
        path: a folder with one `.npy` or `.npz` a key, or with the files of `bigfile`; one `.npz` with `names` | `ids`
            and `feat` | `features`; or one `.h5` / `.hdf5` with either of the two forms. Pickled (object) arrays are
            never loaded.
        arrays: what the features are called in a `.npz` of a folder that has several arrays.

    Raises:
        ValueError: none of these, unequal numbers of names and features, names that stand twice; and by `[key]`: what
            lies there is not floating or not of shape (D,) or (R, D).
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return bigfile.BigFile(path) if bigfile.is_one(path) else _Files(path, arrays)
    if path.suffix in (".h5", ".hdf5"):
        return _open_h5(path)
    if path.suffix != ".npz" or not path.is_file():
        raise ValueError(f"{path}: features are a folder of .npy/.npz files, one .npz, or one .h5")
    loaded = _load(path, only=("names", "ids", *ARRAYS))
    names = loaded[_pick(loaded, ("names", "ids"), path.name)]
    return _Table(names, loaded[_pick(loaded, ARRAYS, path.name)], path.name)


def files(place: pathlib.Path) -> list[pathlib.Path]:
    """The files that `open_features` reads of a place."""
    if bigfile.is_one(place):
        return [place / name for name in bigfile.FILES if (place / name).is_file()]
    return raw.below(place, SUFFIXES)


def rows(features, key: str) -> tuple[np.ndarray, np.ndarray | None]:
    """What `open_features` has for a video: `(rows [S, D], regions int32 [F])`, with None for features of whole frames.

    Region features `[F, R, D]` are laid out flat, frame by frame; where a `.npz` has a `mask [F, R]` beside them, the
    regions that it leaves out are not among the rows; nor are the frames that a `mask [F]` beside `[F, D]` leaves out.

    Raises:
        ValueError: not floating, no such shape, no frame, or a frame without any region.
    """
    array, mask = features.raw(key)
    if array.ndim != 3:
        found = _rows(array)
        if mask is None:
            return found, None
        if np.shape(mask) != found.shape[:1] or not np.any(np.asarray(mask) > 0):
            raise ValueError(f"the mask of frames is {np.shape(mask)}, or leaves out all; the features {found.shape}")
        return found[np.asarray(mask) > 0], None
    if array.dtype.kind != "f" or 0 in array.shape:
        raise ValueError(f"features must be floating-point numbers (F, R, D), found {array.dtype} {array.shape}")
    mask = np.ones(array.shape[:2], bool) if mask is None else np.asarray(mask)
    if mask.shape != array.shape[:2]:
        raise ValueError(f"the mask of regions has the shape {mask.shape}, their features {array.shape}")
    mask = mask > 0
    if not mask.any(1).all():
        raise ValueError(f"{int((~mask.any(1)).sum())} of {len(mask)} frames have no region")
    return array[mask], mask.sum(1).astype(np.int32)


def find(features, media: str) -> np.ndarray:
    """What `open_features` has for a visual: its key is the media, with or without the ending.

    Raises:
        ValueError: there is nothing under either key.
    """
    keys = (media, str(pathlib.PurePosixPath(media).with_suffix("")))
    key = next((key for key in keys if key in features), None)
    if key is None:
        raise ValueError("no features of that name, and all visuals of a set need them")
    return features[key]


def join(parts: list[np.ndarray]) -> np.ndarray:
    """Features of one visual from several files, `[R, D_i]` each, side by side: `[R, D_1 + D_2 + …]`.

    One vector (`R = 1`) stands beside every row of the others.

    Raises:
        ValueError: two of them have different numbers of rows, neither of them 1.
    """
    rows = {len(part) for part in parts} - {1}
    if len(rows) > 1:
        counts = " and ".join(str(len(part)) for part in parts)
        raise ValueError(f"features to join have {counts} rows; expected equal numbers, or one vector")
    n = rows.pop() if rows else 1
    return np.concatenate([np.broadcast_to(part, (n, part.shape[1])) for part in parts], axis=1)


def half(array: np.ndarray) -> np.ndarray:
    """Features as they are stored, float16.

    Raises:
        ValueError: they are not finite, or beyond float16.
    """
    with np.errstate(over="ignore"):
        stored = array.astype(np.float16)
    if np.isfinite(stored).all():
        return stored
    if bad := array.size - int(np.isfinite(array).sum()):
        raise ValueError(f"{bad} of {array.size} features are NaN or infinite")
    raise ValueError(f"features reach {np.abs(array).max():g}; they are stored as float16, which ends at 65504")
