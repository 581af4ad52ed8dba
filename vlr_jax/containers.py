"""Containers and decoders through PyAV: the packets and frames of one video file, or the reason why there are none."""

import collections
import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

try:
    import av
except ImportError:
    av = None

# Demuxers that read one file. Playlists, which name further files and addresses, are not among them.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,h264,hevc,m4v,mjpeg"


@contextlib.contextmanager
def reasons(what: str):
    """libav's errors as ValueError: "cannot {what} the video: …"."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"cannot {what} the video: {reason}") from error


@contextlib.contextmanager
def opened(source):
    """(PyAV's container, its video stream) of a file's bytes or path; closed afterwards.

    Raises:
        ValueError: PyAV is missing, or the file is empty, of no known form, or without video.
    """
    if av is None:
        raise ValueError("decoding videos needs PyAV: pip install 'vlr_jax[video]'")
    with reasons("open"):
        empty = not source if isinstance(source, bytes) else not os.path.getsize(source)
        if empty:
            raise ValueError("the file is empty")
        # An absolute path, so that no name looks like an address to libav.
        place = io.BytesIO(source) if isinstance(source, bytes) else str(pathlib.Path(source).absolute())
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        container = av.open(place, options=options, metadata_errors="replace")  # a title may be in any encoding
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & type(stream.disposition).attached_pic:
            kinds = sorted({s.type for s in container.streams if s is not stream})
            raise ValueError(f"the file has no video stream; it has: {', '.join(kinds) or 'nothing'}")
        if stream.codec_context is None:
            raise ValueError("the codec of the video stream is not known here, or its header is cut off")
        stream.codec_context.thread_count = 1  # files are decoded beside each other instead (`workers.in_order`)
        yield container, stream


def packets(container, *streams) -> Iterator:
    """The packets of some streams (all, if none is named); ValueError where the container breaks off."""
    demuxed = container.demux(*streams)
    while True:
        with reasons("read"):
            packet = next(demuxed, None)
        if packet is None:
            return
        if packet.is_corrupt and packet.stream.type == "video":
            raise ValueError("the file is truncated or damaged: a packet is cut short")
        yield packet


def frames_of(packet) -> list:
    """The frames that a packet completes, in display order; ValueError if any is damaged."""
    with reasons("decode"):
        frames = packet.decode()
    for frame in frames:
        if frame.is_corrupt:
            at = f" at {frame.time:.2f} s" if frame.time is not None else ""
            raise ValueError(f"the video is damaged: the decoder conceals errors in the frame{at}")
    return frames


def decoded(container, stream) -> Iterator[tuple[int, object]]:
    """(time stamp in ticks, frame) from where the container stands; a missing stamp follows from the frame rate."""
    step = round(1 / (rate(stream) * stream.time_base)) or 1
    last, waiting, in_turn = None, collections.deque(), _in_turn(container)
    for packet in packets(container, stream):
        if in_turn and packet.size and packet.dts is not None:
            waiting.append(packet.dts)
        for frame in frames_of(packet):
            stamp = waiting.popleft() if waiting else frame.pts
            last = stamp if stamp is not None else 0 if last is None else last + step
            yield last, frame


def _in_turn(container) -> bool:
    """AVI knows no order of display: libav's stamps of B-frames are guesses there, but the k-th is the k-th's."""
    return container.format.name == "avi"


def seekable(container, stream) -> bool:
    """Whether stamps after a seek are those that decoding from the start would give."""
    return not (_in_turn(container) and stream.codec_context.has_b_frames)


def rate(stream) -> Fraction:
    """Mean frames a second."""
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def quarters(frame) -> int:
    """Turns by 90° against the clock that set a frame upright, 0 to 3."""
    return round((getattr(frame, "rotation", 0) or 0) / 90) % 4  # PyAV 14 has it first


def image(frame) -> np.ndarray:
    """uint8 `[H, W, 3]`, upright."""
    pixels, turns = frame.to_ndarray(format="rgb24"), quarters(frame)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
