"""Video files → frames: decoded through PyAV (`pip install 'vlr_jax[video]'`), animated pictures (GIF) through Pillow.

Time is in seconds since the first frame, by the frames' own time stamps: variable rates and 29.97 need nothing special,
and the frame at a time is the one on display then. A broken file is refused with the reason; no frame is ever made up.
What is caught: containers that do not open, packets cut short, whatever the decoder reports or conceals, and files that
hold fewer frames than they say. A flipped bit that still decodes (VP9 and HEVC say little of them) looks like content.
"""

import collections
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from PIL import Image

from vlr_jax import animated, containers, media, sampling

WITH_LENGTH = ("mov", "matroska", "avi", "asf", "flv")  # containers whose header tells the length
HIDDEN = frozenset({"vp8", "theora"})  # codecs some of whose packets show no frame
CUT, LOST = 0.02, 0.05  # shares that are clearly missing: of what the container says, of frames when decoding
FAR = 2.0  # seconds ahead from which on seeking is tried
SLACK = 0.0006  # seconds; see `_slack`
POLICIES = ("seconds", "clip4clip")
NO_FRAME = "the video has no frame that can be decoded"


class Info(NamedTuple):
    """A video's `fps` (mean frames a second, exact), `frames`, `duration` in seconds, and pixels as shown."""

    fps: Fraction
    frames: int
    duration: float
    height: int
    width: int


def recipe(*, fps: float, most_frames: int, image_size: int, policy: str = "seconds", quality: int = 92) -> dict:
    """How a video's frames are made, for `stored` and for `prepared.json`: the arguments and what decodes.

    Args:
        fps, most_frames, image_size, policy: `fps`, `most`, `shorter`, `policy` of `at_rate`.
        quality: of the JPEG files.

    Raises:
        ValueError: an unknown policy, or numbers that are not positive.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy {policy!r} is unknown; choices: {', '.join(POLICIES)}")
    if not (fps > 0 and most_frames >= 1 and image_size >= 1):
        raise ValueError(
            f"expected fps, most_frames and image_size above 0, got fps={fps}, most_frames={most_frames}, "
            f"image_size={image_size}"
        )
    name = f"Pillow {Image.__version__}"
    if containers.av is not None:
        codecs = ".".join(map(str, containers.av.library_versions["libavcodec"]))
        name = f"PyAV {containers.av.__version__}, libavcodec {codecs}, {name}"
    asked = {"fps": fps, "most_frames": most_frames, "image_size": image_size, "policy": policy, "quality": quality}
    return asked | {"decoder": name}


# ---- what a video is


def _clearly_fewer(found: float, expected: float, share: float, least: float) -> bool:
    return expected - found > max(share * expected, least)


def probe(source) -> Info:
    """What a video is. Its container is read to the end and one frame is decoded; an animated picture is decoded whole.

    Args:
        source: the bytes of a file, or its path.

    Raises:
        ValueError: not a video, no frames, truncated (fewer frames or seconds than its header says), or a first frame
            that cannot be decoded; says which. Or PyAV is missing.
    """
    return _probe_animated(source) if animated.is_animated(source) else _contents(source, look=True)


def _contents(source, look: bool) -> Info:
    """`probe` of a video; without the look at a frame, which is decoded later anyway, its pixels are those stored."""
    with containers.opened(source) as (container, stream):
        n, first, shown, ends = 0, None, None, collections.defaultdict(Fraction)
        for packet in containers.packets(container):
            stamp = packet.dts if packet.pts is None else packet.pts
            if packet.stream_index == stream.index:
                if look and shown is None:
                    shown = next(iter(containers.frames_of(packet)), None)
                n += bool(packet.size) and not packet.is_discard  # `is_discard`: cut off by an edit list
                if stamp is not None and not packet.is_discard:
                    first = stamp if first is None else min(first, stamp)
            if stamp is not None and packet.time_base:
                end = (stamp + (packet.duration or 0)) * packet.time_base
                place = packet.stream_index, packet.is_discard
                ends[place] = max(ends[place], end)
        if not n or look and shown is None:
            raise ValueError(NO_FRAME)
        _whole(container, stream, n, max(ends.values(), default=Fraction(0)))
        rate = containers.rate(stream)
        duration = ends[stream.index, False] - (first or 0) * stream.time_base
        height, width = (shown or stream.codec_context).height, (shown or stream.codec_context).width
        if shown is not None and containers.quarters(shown) % 2:
            height, width = width, height
        return Info(rate, n, float(duration if duration > 0 else n / rate), height, width)


def _whole(container, stream, frames: int, end: Fraction) -> None:
    """Raises ValueError where a container's header says clearly more than the frames and seconds that it holds."""
    if container.format.name == "avi" and _clearly_fewer(frames, stream.frames, CUT, 2):  # mov says those cut off too
        raise ValueError(f"the file is truncated: it says {stream.frames} frames, {frames} are there")
    if container.duration and container.format.name.startswith(WITH_LENGTH):
        said, there = container.duration / 1e6, float(end) - (container.start_time or 0) / 1e6
        if _clearly_fewer(there, said, CUT, 2 / float(containers.rate(stream))):
            raise ValueError(f"the file is truncated: it says {said:.2f} s, {there:.2f} s are there")


def _probe_animated(source) -> Info:
    n, shape, end = 0, None, 0.0
    for time, frame, seconds in animated.frames(source):
        n, shape, end = n + 1, frame.shape, time + seconds
    if shape is None:
        raise ValueError("the animated picture has no frames")
    return Info(n / Fraction(str(round(end, 3))), n, round(end, 3), *shape[:2])


# ---- frames at times


def frames_at(source, times: Iterable[float], *, shorter: int | None = None) -> list[np.ndarray]:
    """The frames on display at some times, by exact seeking: to a key frame before, then decoding forward.

    Args:
        source: the bytes of a file, or its path.
        times: seconds since the first frame, in any order.
        shorter: larger frames are made so small that their shorter side has so many pixels.

    Returns:
        uint8 `[H, W, 3]` for each time.

    Raises:
        ValueError: a time before 0 or after the end, or as `probe`; damage is noticed only in what is decoded.
    """
    times = [float(t) for t in times]
    if not all(t >= 0 for t in times):
        raise ValueError(f"times must be seconds from 0 on, got {times}")
    wanted, read = sorted(set(times)), _still if animated.is_animated(source) else _sought_for
    found = {time: media.shrink(frame, shorter=shorter) for time, frame in read(source, wanted)}
    return [found[time] for time in times]


def _late(time: float, end: float) -> None:
    if time > end:
        raise ValueError(f"there is no frame at {time:g} s: the video ends at {end:.2f} s")


def _still(source, wanted: list[float]) -> Iterator[tuple[float, np.ndarray]]:
    """(time, picture) of an animated picture."""
    _late(max(wanted, default=0), probe(source).duration)
    yield from _pick(((time - SLACK, frame) for time, frame, _ in animated.frames(source)), wanted)


def _sought_for(source, wanted: list[float]) -> Iterator[tuple[float, np.ndarray]]:
    """(time, picture) of a video at ascending times."""
    with containers.opened(source) as (container, stream):
        tick, frames = stream.time_base, containers.decoded(container, stream)
        zero, shown = next(frames, (None, None))
        if shown is None:
            raise ValueError(NO_FRAME)
        stamp, ahead = zero, next(frames, None)
        slack = _slack(tick)
        far = FAR / tick if containers.seekable(container, stream) else float("inf")
        for time in wanted:
            target = zero + int((Fraction(time) + slack) / tick)
            if ahead and target - stamp > far:
                frames, (stamp, shown) = _sought(container, stream, target, zero)
                ahead = next(frames, None)
            while ahead and ahead[0] <= target:
                (stamp, shown), ahead = ahead, next(frames, None)
            if ahead is None:
                stays = max((shown.duration or 0) * tick, 1 / containers.rate(stream))
                _late(time, float((stamp - zero) * tick + stays))
            yield time, containers.image(shown)


def _slack(tick: Fraction) -> Fraction:
    """Seconds that a frame may come after a time and still be on display then.

    A bit more than the half tick by which time stamps are rounded; little, where ticks are whole frames as in AVI.
    """
    return min(tick * Fraction(3, 5), Fraction(SLACK))


def _sought(container, stream, target: int, zero: int):
    """(the frames from there on, the one before them): the container stands at or before a time stamp."""
    for back in (0, 8, None):  # seconds: containers without a good index land too late
        goal = zero if back is None else max(zero, target - int(back / stream.time_base))
        with containers.reasons("seek in"):
            container.seek(goal, stream=stream, backward=True)
        frames = containers.decoded(container, stream)
        first = next(frames, None)
        if first is not None and first[0] <= target:
            return frames, first
    raise ValueError("the video cannot be sought in: its time stamps do not lead back")


def _pick(frames: Iterable[tuple], wanted: list) -> Iterator[tuple]:
    """(w, the last item whose place is at most w) for ascending `wanted`, from (place, item) in ascending order."""
    last, k = None, 0
    for place, item in frames:
        while k < len(wanted) and last is not None and wanted[k] < place:
            yield wanted[k], last
            k += 1
        last = item
    if last is not None:
        for w in wanted[k:]:
            yield w, last


# ---- whole videos at a rate


def at_rate(
    source, fps: float = 1.0, most: int | None = 64, shorter: int | None = 224, start: float | None = None,
    end: float | None = None, *, policy: str = "seconds", info: Info | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """The frames that stand for a video: at `k / fps` seconds, thinned uniformly to `most`.

    Everything up to `end` is decoded once, so that damage anywhere is noticed.

    Args:
        source: the bytes of a file, or its path.
        fps: frames a second.
        most: frames at most; None: no limit.
        shorter: larger frames are made so small that their shorter side has so many pixels; None: as they are.
        start, end: seconds of the part that is wanted; None: from the first, to the last frame.
        policy: `seconds`, by the clock; or `clip4clip`, by counting frames as that code does (`sampling.clip4clip`),
            at 1 frame a second and from whole seconds to whole seconds.
        info: of `probe`, if it is known already.

    Returns:
        uint8 `[H, W, 3]` each, at least one, in order.

    Raises:
        ValueError: as `probe`; or the video cannot be decoded to its end, or ends before `start`.
    """
    return list(_sampled(source, fps, most, shorter, start, end, policy, info))


def _wanted(fps, most, start, end, policy, info: Info) -> list:
    """The times, or with `clip4clip` the places, of the frames that are wanted; at least one."""
    begin, stop = start or 0.0, info.duration if end is None else min(info.duration, end)
    if policy == "seconds":
        wanted = (begin + sampling.seconds(stop - begin, fps, most)).tolist() if begin < stop else []
    elif policy == "clip4clip" and fps == 1:
        part = {} if start is None and end is None else {"start": int(begin), "end": int(end or info.duration)}
        wanted = sampling.clip4clip(info.frames, float(info.fps), most=most, **part).tolist()
    else:
        raise ValueError(f"expected policy 'seconds', or 'clip4clip' with fps=1; got {policy!r} with fps={fps}")
    if not wanted:
        raise ValueError(f"the video ends at {info.duration:.2f} s: no frame is from {begin:g} s to {stop:g} s")
    return wanted


def _sampled(source, fps, most, shorter, start, end, policy, info: Info | None) -> Iterator[np.ndarray]:
    """The frames of `at_rate`, one at a time."""
    moving = animated.is_animated(source)
    info = info or (_probe_animated(source) if moving else _contents(source, look=False))
    wanted, by_place = _wanted(fps, most, start, end, policy, info), policy == "clip4clip"
    if moving:
        frames = ((time - SLACK, frame) for time, frame, _ in animated.frames(source))
    else:
        frames = _all(source, info, end)
    if by_place:
        frames = ((place, frame) for place, (_, frame) in enumerate(frames))
    for _, frame in _pick(frames, wanted):
        image = frame if isinstance(frame, np.ndarray) else containers.image(frame)
        yield media.shrink(image, shorter=shorter)


def _all(source, info: Info, end: float | None = None) -> Iterator[tuple[float, object]]:
    """(seconds since the first less `_slack`, frame) of all frames, or of those up to a second after `end`.

    Raises:
        ValueError: fewer can be decoded than there are.
    """
    with containers.opened(source) as (container, stream):
        n, zero, time, interlaced = 0, None, 0.0, False
        tick, slack = float(stream.time_base), float(_slack(stream.time_base))
        for stamp, frame in containers.decoded(container, stream):
            zero = stamp if zero is None else zero
            n, time = n + 1, (stamp - zero) * tick
            interlaced |= frame.interlaced_frame  # whose two fields may be packets of their own
            yield time - slack, frame
            if end is not None and time > end + 1:
                return
        if not n:
            raise ValueError(NO_FRAME)
        time += (frame.duration or 0) * tick  # the last may stay long, as in recordings of screens
        exact = not interlaced and stream.codec_context.name not in HIDDEN
        if exact and _clearly_fewer(n, info.frames, LOST, 2):
            raise ValueError(f"the video is damaged: {n} of its {info.frames} frames can be decoded")
        if _clearly_fewer(time, info.duration, LOST, 3 / float(info.fps)):
            raise ValueError(f"the video is damaged: {time:.2f} s of its {info.duration:.2f} s can be decoded")


def stored(source, made: dict, info: Info | None = None, start: float | None = None, end: float | None = None) -> dict:
    """A video's fields of a record: `frames` (a JPEG each), `thumb` (of the middle one).

    Args:
        source: the bytes of a file, or its path.
        made: of `recipe`.
        info, start, end: as `at_rate`, and so are the errors.
    """
    fps, most, size = made["fps"], made["most_frames"], made["image_size"]
    frames = _sampled(source, fps, most, size, start, end, made["policy"], info)
    encoded = [media.encode_jpeg(frame, made["quality"]) for frame in frames]
    return {"frames": encoded, "thumb": media.thumbnail(media.decode(encoded[len(encoded) // 2]))}
