"""Animated pictures (GIF, and PNG, WebP or AVIF of several frames) through Pillow: frames with their times."""

import io
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vlr_jax import media

SUFFIXES = frozenset({".gif", ".png", ".webp", ".avif", ".apng"})
SHORTEST = 0.01  # seconds; browsers show frames that ask for no more, and many do, for `INSTEAD`
INSTEAD = 0.1


def _open(source):
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def is_animated(source) -> bool:
    """Whether a file (bytes or a path) is a picture of several frames, or a GIF of any number."""
    suffix = None if isinstance(source, bytes) else pathlib.Path(source).suffix.lower()
    if suffix is not None and suffix not in SUFFIXES:
        return False
    try:
        with _open(source) as image:
            return image.format == "GIF" or (image.format in ("PNG", "WEBP", "AVIF") and image.n_frames > 1)
    except Exception:  # no picture, or a broken one: whoever decodes it says so
        return suffix == ".gif"


def frames(source) -> Iterator[tuple[float, np.ndarray, float]]:
    """(seconds since the first, uint8 `[H, W, 3]`, seconds that it stays) of all frames; on white where transparent.

    Raises:
        ValueError: broken or truncated.
    """
    time = 0.0
    try:
        with _open(source) as image:
            for k in range(image.n_frames):
                image.seek(k)
                image.load()
                seconds = (image.info.get("duration") or 0) / 1000
                seconds = seconds if seconds > SHORTEST else INSTEAD
                yield time, np.array(media.rgb(image)), seconds
                time += seconds
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, … on broken files
        raise ValueError(f"cannot decode the animated picture ({type(error).__name__}: {error})") from error
