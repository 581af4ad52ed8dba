"""Pictures and videos as records hold them: JPEG frames and a small picture, found by name."""

import pathlib

import numpy as np

from vlr_jax import animated, media, video

SUFFIXES = media.IMAGES | media.VIDEOS
QUALITY = 92  # of the JPEG files of pictures


def picture(files: media.Media, name: str, image_size: int) -> np.ndarray:
    """A picture as uint8 `[H, W, 3]`, its shorter side at most `image_size`; ValueError if missing or undecodable."""
    return media.shrink(media.decode(files[name], at_least=image_size), shorter=image_size)


def look(files: media.Media, name: str, image_size: int) -> video.Info | None:
    """What a video is, or an animated picture, by its container; None for a picture, which is decoded.

    Raises:
        ValueError: missing, or broken; says why.
    """
    source = files.source(name)
    if pathlib.PurePosixPath(name).suffix.lower() in media.VIDEOS or animated.is_animated(source):
        return video.probe(source)
    picture(files, name, image_size)
    return None


def fields(files: media.Media, name: str, made: dict, info: video.Info | None) -> dict:
    """The fields `frames` and `thumb` of a record.

    Args:
        files: where it lies.
        name: of the picture or video.
        made: `video.recipe`; of a picture the size alone counts.
        info: of `look`.

    Raises:
        ValueError: broken; says why.
    """
    if info is not None:
        return video.stored(files.source(name), made, info)
    image = picture(files, name, made["image_size"])
    return {"frames": [media.encode_jpeg(image, QUALITY)], "thumb": media.thumbnail(image)}
