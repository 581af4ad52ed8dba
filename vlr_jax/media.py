"""Pictures as they lie on disk: found by name in a folder or in tar files, decoded, shrunk. numpy and Pillow only."""

import collections
import io
import os
import pathlib
import tarfile

import numpy as np
from PIL import Image, ImageOps

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
VIDEOS = frozenset({
    ".mp4", ".avi", ".webm", ".mkv", ".mov", ".gif", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv",
})  # fmt: skip


def decode(data: bytes, *, at_least: int | None = None) -> np.ndarray:
    """The picture in encoded bytes as uint8 `[H, W, 3]`: upright (EXIF), RGB, transparency laid on white.

    Args:
        data: a whole JPEG, PNG, … file.
        at_least: a JPEG may come at a half, quarter or eighth of its size, as long as its shorter side keeps so many
            pixels: much faster for photographs that are made smaller anyway.

    Raises:
        ValueError: no picture, truncated, or larger than Pillow's decompression-bomb limit; says which.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return np.array(rgb(image))
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, … on broken files
        raise ValueError(f"cannot decode the image ({type(error).__name__}: {error})") from error


def rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, without the clipping of 16-bit greys that `convert` does."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"images of 32-bit numbers (mode {image.mode}) have no known range: store 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """uint8 `[H, W, 3]` as the bytes of a JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def size(data: bytes) -> tuple[int, int]:
    """(H, W) of an encoded picture, read from its header."""
    with Image.open(io.BytesIO(data)) as image:
        return image.height, image.width


def shrink(image: np.ndarray, *, shorter: int | None = None, longer: int | None = None) -> np.ndarray:
    """The picture made smaller, never larger, until its shorter or its longer side has at most so many pixels."""
    sides = sorted(image.shape[:2])
    scale = min((shorter or sides[0]) / sides[0], (longer or sides[1]) / sides[1], 1.0)
    if scale == 1.0:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def thumbnail(image: np.ndarray, *, longer: int = 112, limit: int = 6144) -> bytes:
    """A small JPEG for reports: longer side at most `longer`; the quality falls until it has at most `limit` bytes."""
    image = shrink(image, longer=longer)
    for quality in (85, 70, 55, 40, 25):
        data = encode_jpeg(image, quality)
        if len(data) <= limit:
            break
    return data


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 `[H, W, 3]` → uint8 `[size, size, 3]`: the shorter side becomes `size`, the centre is kept.

    As CLIP's preprocessing (torchvision's Resize and CenterCrop on a Pillow image), to the last bit: bicubic and
    smoothed, the longer side rounded down, the crop's corner to even. A longer side of more than 16 times the shorter
    is cut to that first, so that a line of pixels does not become gigabytes.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    side = min(height, width)
    top, left = (max(0, (extent - 16 * side) // 2) for extent in (height, width))
    image = image[top : top + 16 * side, left : left + 16 * side]
    height, width = (int(size * extent / side) for extent in image.shape[:2])
    if (height, width) != image.shape[:2]:
        image = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


class _Folder:
    """The files below a folder by relative path, or by their own name where only one file has it."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._named: dict[str, list[pathlib.Path]] | None = None

    def find(self, name: str) -> list[pathlib.Path]:
        if pathlib.PurePosixPath(name).is_absolute() or ".." in pathlib.PurePosixPath(name).parts:
            raise ValueError("refused: the name leads out of the media folder")
        if os.path.isfile(self._folder / name):
            return [self._folder / name]
        if self._named is None:
            named = collections.defaultdict(list)
            for parent, _, files in os.walk(self._folder):
                for file in files:
                    named[file].append(pathlib.Path(parent, file))
            self._named = named  # only when whole: others may be looking for names meanwhile
        return self._named.get(pathlib.PurePosixPath(name).name, [])

    def names(self) -> list[str]:
        return [path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file()]

    def read(self, path: pathlib.Path) -> bytes:
        return path.read_bytes()


class _Tars:
    """The files inside tar files by member name, or by their own name where only one member has it."""

    def __init__(self, paths: list[pathlib.Path]):
        self._members = collections.defaultdict(list)
        self._named = collections.defaultdict(list)
        for path in paths:
            try:
                with tarfile.open(path, "r:") as tar:
                    members = [member for member in tar if member.isreg()]
            except (tarfile.TarError, EOFError) as error:
                raise ValueError(f"{path} is not a plain, uncompressed tar file: {error}") from error
            for member in members:
                place, name = (path, member.offset_data, member.size), member.name.removeprefix("./")
                self._members[name].append(place)
                self._named[pathlib.PurePosixPath(name).name].append(place)

    def find(self, name: str) -> list[tuple[pathlib.Path, int, int]]:
        return self._members.get(name) or self._named.get(pathlib.PurePosixPath(name).name, [])

    def names(self) -> list[str]:
        return list(self._members)

    def read(self, place: tuple[pathlib.Path, int, int]) -> bytes:
        path, offset, n = place
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(n)


class Media:
    """Bytes by name; made by `open_media`."""

    def __init__(self, files: _Folder | _Tars):
        self._files = files

    def __contains__(self, name: str) -> bool:
        """Whether there is a file, or several, that `name` could mean."""
        try:
            return bool(self._files.find(name))
        except ValueError:
            return False

    def __getitem__(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            ValueError: no file, or several files of that name, or a name that leads out of the folder; or unreadable.
        """
        try:
            return self._files.read(self._one(name))
        except OSError as error:
            raise ValueError(f"cannot read the media file: {error}") from error

    def _one(self, name: str):
        found = self._files.find(name)
        if len(found) != 1:
            raise ValueError(f"{len(found)} media files have that name" if found else "no such media file")
        return found[0]

    def source(self, name: str) -> pathlib.Path | bytes:
        """The path of a file, so that it need not be read as a whole; its bytes where it lies in a tar file.

        Raises:
            ValueError: as `self[name]`.
        """
        found = self._one(name)
        return found if isinstance(found, pathlib.Path) else self[name]

    def names(self, suffixes) -> list[str]:
        """All files that have one of the (lower-case) suffixes, in alphabetical order; hidden ones are left out."""
        found = [pathlib.PurePosixPath(name) for name in self._files.names()]
        visible = (p for p in found if not any(part.startswith(".") for part in p.parts))
        return sorted(str(p) for p in visible if p.suffix.lower() in suffixes)


def open_media(paths: list[pathlib.Path]) -> Media:
    """Media files by name, read without unpacking anything to disk.

    Args:
        paths: one folder (searched with everything below it) or any number of uncompressed tar files. A name is looked
            up as a path first and then by its last part alone.

    Raises:
        ValueError: nothing there, a mixture, or not a tar file.
    """
    if len(paths) == 1 and paths[0].is_dir():
        return Media(_Folder(paths[0]))
    if not paths or not all(path.is_file() for path in paths):
        raise ValueError(f"media must be one folder or tar files, got: {', '.join(map(str, paths)) or 'nothing'}")
    return Media(_Tars(paths))
