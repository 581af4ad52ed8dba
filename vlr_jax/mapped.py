"""Features of many visuals in one `.npy`, memory-mapped: `[N, R, D]` or `[N, D]`, each visual once or five times.

numpy only.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from vlr_jax.captions import EACH


class Mapped(NamedTuple):
    """Where the numbers of a `.npy` lie; made by `open_array`."""

    path: pathlib.Path
    dtype: np.dtype
    offset: int
    shape: tuple[int, int, int]  # visuals, rows, width
    each: int  # so many equal visuals stand one after the other


def open_array(path: pathlib.Path, visuals: int, texts: int) -> Mapped:
    """The header of a `.npy` of features, checked against the captions.

    Raises:
        ValueError: no such file, no features, or their number fits neither the visuals nor five times the visuals.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be memory-mapped as numbers: {error}") from error
    if array.dtype.kind != "f" or array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"{path}: expected floating-point features [N, R, D] or [N, D], found {array.dtype} {array.shape}"
        )
    if not array.flags.c_contiguous:
        raise ValueError(f"{path} lies in Fortran order; save it again with np.ascontiguousarray")
    if len(array) not in (visuals, EACH * visuals):
        raise ValueError(
            f"{path}: {len(array)} rows of features, but {texts} captions of {visuals} images; expected {visuals} rows "
            f"(one an image) or {EACH * visuals} (each image {EACH} times)"
        )
    shape = (len(array), *array.shape[-2:]) if array.ndim == 3 else (len(array), 1, array.shape[1])
    return Mapped(path, array.dtype, array.offset, shape, len(array) // visuals)


def visual(array: Mapped, i: int) -> np.ndarray:
    """Features `[R, D]` of visual i.

    Mapped for this visual alone: pages of one mapping of the whole file would stay in memory until it is closed.

    Raises:
        ValueError: the features stand there five times, and the five differ.
    """
    n, (_, rows, width) = array.each, array.shape
    start = array.offset + i * n * rows * width * array.dtype.itemsize
    block = np.memmap(array.path, array.dtype, "r", start, (n, rows, width))
    for k in range(1, n):
        if not np.array_equal(block[0], block[k], equal_nan=True):
            raise ValueError(
                f"rows {i * n} and {i * n + k} of {array.path.name} differ, but with as many rows as captions the {n} "
                "rows of an image must be equal"
            )
    return block[0]
