"""A long video in overlapping pieces, and the windows of all pieces put together.

Neighbouring pieces share half of their length or more, so a moment up to that long is whole in one of them; in another
it may be cut by the border. Two windows of two pieces are the same moment where they say the same about the time that
both pieces saw.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vlr_jax import suppression

SAME = 0.5  # IoU above which two windows are the same moment
KEPT = 10  # windows of a video in pieces


class Piece(NamedTuple):
    """What was found in a piece.

    Attributes:
        start, end: of the piece, in seconds of the video.
        windows: `[M, 3]` (start, end, probability), in seconds of the video.
    """

    start: float
    end: float
    windows: np.ndarray


def starts(n: int, length: int) -> list[int]:
    """Where the pieces of n clips begin: every half a length, the last one ending with the video."""
    if n <= length:
        return [0]
    return [*range(0, n - length, max(1, length // 2)), n - length]


def join(found: list[Piece], clip: float) -> Float[np.ndarray, "n 3"]:
    """The windows of a video, best first, no more than `KEPT`, from those of its pieces, in order of time.

    The most probable window is taken, time and again. Where it reaches the last clip of its piece, and the video goes
    on, its end is that of the most probable window of a later piece that is the same moment, and if that one is cut as
    well, so on; likewise its start. What is the same moment as one of these, or has IoU > `SAME` with the whole, goes.
    Equal probabilities stay in order, NaN comes last.

    Args:
        found: pieces, each beginning and ending after the one before.
        clip: seconds of a clip.
    """
    among = _Windows(found, clip)
    kept = []
    for i in np.argsort(-among.scores, kind="stable"):
        if len(kept) == KEPT:
            break
        if not among.left[i]:
            continue
        members, end = among.follow(i, 1)
        others, start = among.follow(i, 0)
        whole = np.array([start, end])
        for member in {*members, *others}:
            among.left &= ~among.same(member)
        among.left &= ~(suppression.iou(whole[None], among.windows) > SAME)
        kept.append([start, end, among.scores[i]])
    return np.array(kept, np.float64).reshape(-1, 3)


class _Windows:
    """All windows `[N, 2]`, clipped to what their pieces saw; which are `left` to be taken."""

    def __init__(self, found: list[Piece], clip: float):
        extents = np.array([(piece.start, piece.end) for piece in found])  # [P, 2]
        self.piece = np.repeat(np.arange(len(found)), [len(piece.windows) for piece in found])
        self.extent = extents[self.piece]
        rows = np.concatenate([piece.windows for piece in found])
        self.windows, self.scores = np.clip(rows[:, :2], self.extent[:, :1], self.extent[:, 1:]), rows[:, 2]
        # Whether a window is cut at its start or end: it reaches the clip at a border that is not one of the video.
        before, behind = self.piece > 0, self.piece < len(found) - 1
        reach = np.abs(self.windows - self.extent) < clip
        self.cut = reach & np.stack([before, behind], axis=1)
        self.left = np.ones(len(rows), bool)

    def same(self, i: int) -> np.ndarray:
        """Which windows are the same moment as window i: of other pieces, IoU > `SAME` in the time in common."""
        first = np.maximum(self.extent[:, 0], self.extent[i, 0])[:, None]
        last = np.maximum(np.minimum(self.extent[:, 1], self.extent[i, 1])[:, None], first)
        own, others = np.clip(self.windows[i], first, last), np.clip(self.windows, first, last)
        return (suppression.iou(own, others) > SAME) & (self.piece != self.piece[i])

    def follow(self, i: int, side: int) -> tuple[list[int], float]:
        """Window i and those that it goes on in, and the start (side 0) or end (side 1) of the last of them."""
        members = [i]
        while self.cut[members[-1], side]:
            at = members[-1]
            farther = self.piece > self.piece[at] if side else self.piece < self.piece[at]
            some = np.flatnonzero(self.same(at) & farther & self.left)
            if not len(some):
                break
            members.append(int(some[np.argsort(-self.scores[some], kind="stable")[0]]))
        return members, float(self.windows[members[-1], side])
