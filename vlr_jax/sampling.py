"""Which frames stand for a video: the policies of the text-video field as indices into its frames. numpy only.

`choose` picks among frames that are stored already (`config.data.sampling`); `seconds` and `clip4clip` say which frames
of a whole video are kept when it is decoded (`video.py`).
"""

import numpy as np

POLICIES = ("uniform", "segments", "head", "tail")


def choose(policy: str, stored: int, wanted: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Indices of at most `wanted` of `stored` frames, ascending; all of them where there are no more than wanted.

    Args:
        policy: `uniform`: `linspace(0, stored - 1, wanted)` cut to integers, the first and the last frame among them
            (CLIP4Clip's `slice_framepos=2`). `segments`: one frame of each of `wanted` segments, as equal as integers
            allow (`linspace(0, stored, wanted + 1)` cut): the lower middle one (X-Pool's `uniform`), or with `rng` any
            of them. `head`, `tail`: the first or the last (CLIP4Clip's `slice_framepos` 0 and 1).
        stored: frames there are, at least 1.
        wanted: frames to pick, at least 1.
        rng: for `segments` in training. Differs from X-Pool's `rand`, which never takes a segment's last frame.

    Returns:
        int64 `[min(stored, wanted)]`.

    Raises:
        ValueError: an unknown policy, or no frames stored or wanted.
    """
    if policy not in POLICIES:
        raise ValueError(f"sampling {policy!r} is unknown; choices: {', '.join(POLICIES)}")
    if stored < 1 or wanted < 1:
        raise ValueError(f"sampling picks at least 1 of at least 1 frame, got {wanted} of {stored}")
    n = min(stored, wanted)
    if policy == "head":
        return np.arange(n)
    if policy == "tail":
        return np.arange(stored - n, stored)
    if policy == "uniform":
        return np.arange(stored) if stored <= wanted else np.linspace(0, stored - 1, wanted).astype(int)
    edges = np.linspace(0, stored, n + 1).astype(int)
    first, after = edges[:-1], edges[1:]
    return (first + after - 1) // 2 if rng is None else rng.integers(first, after)


def seconds(duration: float, fps: float = 1.0, most: int | None = None) -> np.ndarray:
    """Times `k / fps` of a video, thinned by `uniform` to at most `most`: real seconds, whatever the frame rate is.

    Args:
        duration: seconds, above 0.
        fps: frames a second, above 0.
        most: frames at most; None: no limit.

    Returns:
        float64 `[n]`, n ≥ 1, each below `duration`.

    Raises:
        ValueError: a rate or limit that is not positive.
    """
    if not fps > 0 or (most is not None and most < 1):
        raise ValueError(f"expected fps above 0 and at least 1 frame, got fps={fps}, most={most}")
    n = max(1, int(np.ceil(duration * fps - 1e-6)))  # a last frame at the very end is none: the video is over then
    return (np.arange(n) if most is None else choose("uniform", n, most)) / fps


def clip4clip(
    frames: int, fps: float, *, start: int | None = None, end: int | None = None, most: int | None = None,
    policy: str = "uniform",
) -> np.ndarray:  # fmt: skip
    """The frames that CLIP4Clip reads at 1 frame a second (`RawVideoExtractorCV2`, then the loaders' `slice_framepos`).

    It counts in frames, and a second has `int(fps)` of them, so that at 29.97 each step is 29 frames and the samples
    run ahead of the clock; kept to compare with numbers of that family. `seconds` goes by the clock.

    Args:
        frames: of the whole video.
        fps: its frame rate, at least 1.
        start, end: seconds, both or neither; the second `end` is read too, as are upstream's.
        most: frames at most, picked by `policy` as in `choose`; None: all.
        policy: `uniform`, `head` or `tail`.

    Returns:
        int64 `[n]`; n = 0 where the video ends before `start`.

    Raises:
        ValueError: a rate below 1, at which upstream divides by zero, or one of `start` and `end` alone.
    """
    if fps < 1 or (start is None) != (end is None):
        raise ValueError(f"clip4clip needs fps of at least 1 and both start and end or none, got {fps}, {start}, {end}")
    whole = int(fps)
    first, last = 0, -(-frames // whole)
    if start is not None:
        first, last = start, min(end, last)
    found = np.arange(first, last + 1) * whole
    found = found[found < frames]  # upstream stops at the first frame that it cannot read
    return found if most is None or not len(found) else found[choose(policy, len(found), most)]


def xpool(frames: int, wanted: int) -> np.ndarray:
    """The frames X-Pool feeds for one video at evaluation: `segments`, the last one repeated where there are too few.

    Here padding has a mask instead; kept to compare with numbers of that code. int64 `[wanted]`.
    """
    found = choose("segments", frames, wanted)
    return np.concatenate([found, np.full(wanted - len(found), found[-1])])
