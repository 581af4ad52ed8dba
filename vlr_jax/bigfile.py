"""Frame features in the files of Dual Encoding and its descendants (Dong et al. 2019, danieljf24/dual_encoding).

A folder with `feature.bin` (float32, rows one after the other), `shape.txt` (`rows width`), `id.txt` (a name for each
row, spaces between) and `video2frames.txt` (`{'video0': ['video0_0', …], …}`, a literal of Python). Without the last
file a row is a visual of its own. numpy only; the literal is parsed as such and never evaluated.
"""

import ast
import pathlib

import numpy as np

FILES = ("feature.bin", "shape.txt", "id.txt", "video2frames.txt")


def is_one(folder: pathlib.Path) -> bool:
    """Whether a folder holds such features."""
    return (folder / FILES[0]).is_file()


class BigFile:
    """The frames of a video, in order, by the video's name; read from the disk when asked for.

    Args:
        folder: with the files above.

    Raises:
        ValueError: a file is absent or is not what it should be; counts do not fit each other.
    """

    def __init__(self, folder: pathlib.Path):
        for name in FILES[:3]:
            if not (folder / name).is_file():
                raise ValueError(f"{folder} has {FILES[0]} and lacks {name}")
        words, names = ((folder / name).read_text(encoding="utf-8").split() for name in FILES[1:3])
        if len(words) != 2 or not all(map(str.isdecimal, words)):
            raise ValueError(f"{folder / FILES[1]}: expected two whole numbers, rows and width; found {words[:4]}")
        rows, width = map(int, words)
        if len(names) != rows:
            raise ValueError(f"{folder}: id.txt has {len(names)} names, shape.txt says {rows} rows")
        size = (folder / FILES[0]).stat().st_size
        if not rows or not width or size != rows * width * 4:
            raise ValueError(
                f"{folder / FILES[0]} has {size} bytes; {rows} rows of {width} float32 are {rows * width * 4}"
            )
        self._array = np.memmap(folder / FILES[0], np.float32, "r", shape=(rows, width))
        row = {name: i for i, name in enumerate(names)}
        if len(row) != rows:
            raise ValueError(f"{folder / FILES[2]}: {rows - len(row)} names stand there twice")
        self._rows = {name: [i] for name, i in row.items()}
        if (folder / FILES[3]).is_file():
            self._rows = _rows_of_videos(folder / FILES[3], row)

    def keys(self):
        return self._rows.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def raw(self, key: str) -> tuple[np.ndarray, None]:
        """float32 `[F, D]`; no regions, so no mask of them."""
        return np.asarray(self._array[self._rows[key]]), None

    def __getitem__(self, key: str) -> np.ndarray:
        return self.raw(key)[0]


def _rows_of_videos(path: pathlib.Path, row: dict[str, int]) -> dict[str, list[int]]:
    """The rows of each video's frames.

    Raises:
        ValueError: no such literal, or it names a frame that has no row.
    """
    try:
        frames = ast.literal_eval(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is no literal of Python: {error}") from error
    if not isinstance(frames, dict) or not all(isinstance(some, (list, tuple)) and some for some in frames.values()):
        raise ValueError(f"{path}: expected {{'video': ['frame', …], …}}")
    unknown = [name for some in frames.values() for name in some if name not in row]
    if unknown:
        raise ValueError(f"{path}: {len(unknown)} frames have no features, such as {unknown[0]}")
    return {str(video): [row[name] for name in some] for video, some in frames.items()}
