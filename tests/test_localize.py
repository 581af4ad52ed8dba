"""Moments in videos of any length: pieces and what they make together, the command, submission files."""

import numpy as np
import pytest

from vlr_jax import pieces

PIECE = 40.0  # seconds of a piece, 20 clips of 2 s


def seen(moments, n, length=20, clip=2.0, score=lambda start, end: 0.9):
    """What a perfect model finds in each piece: the parts of the true moments that the piece shows, as it sees them."""
    found = []
    for start in pieces.starts(n, length):
        first, last = start * clip, (start + length) * clip
        parts = [(max(a, first), min(b, last)) for a, b in moments if min(b, last) > max(a, first)]
        rows = [(a, b, score(a, b)) for a, b in parts]
        found.append(pieces.Piece(first, last, np.array(rows, float).reshape(-1, 3)))
    return found


@pytest.mark.parametrize("n,length", [(1, 20), (20, 20), (21, 20), (45, 20), (40, 20), (75, 1), (9, 2), (5400, 75)])
def test_pieces_cover_the_video(n, length):
    starts = pieces.starts(n, length)
    assert starts == sorted(set(starts)) and starts[0] == 0
    assert starts[-1] == max(0, n - length)
    covered = np.zeros(n, int)
    for start in starts:
        covered[start : start + length] += 1
    assert covered.min() >= 1
    assert all(b - a <= max(1, length // 2) for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize(
    "moments",
    [
        [(4, 10), (90, 99)],
        [(18, 24)],  # over the border where the second piece begins
        [(36, 44)],  # over the end of the first piece
        [(21, 39)],  # within the first two pieces
        [(30, 95)],  # longer than half a piece
        [(0, 130)],  # the whole video
        [(39, 41), (79, 81), (119, 121)],  # a clip at every end of a piece
        [(10, 16), (16, 22), (22, 28), (38, 42), (42, 60)],  # one after the other
    ],
)
def test_perfect_pieces_make_the_true_windows(moments):
    """Each moment once, whole, wherever the borders of the pieces cut it."""
    joined = pieces.join(seen(moments, 65), 2.0)
    assert sorted(map(tuple, joined[:, :2])) == moments


@pytest.mark.parametrize("seed", range(20))
def test_perfect_pieces_of_random_videos(seed):
    rng = np.random.default_rng(seed)
    n, length = int(rng.integers(21, 200)), 20
    borders = np.sort(rng.choice(np.arange(0, n + 1), 2 * int(rng.integers(1, 5)), replace=False)) * 2.0
    moments = [(a, b) for a, b in zip(borders[::2], borders[1::2], strict=True)]
    scores = {}
    score = lambda a, b: scores.setdefault((a, b), float(rng.uniform(0.5, 1)))
    joined = pieces.join(seen(moments, n, length, score=score), 2.0)
    assert sorted(map(tuple, joined[:, :2])) == sorted(moments)
    assert (np.diff(joined[:, 2]) <= 0).all()


def test_windows_of_two_pieces():
    """By hand: what is the same, whose borders count, and what stays apart."""
    made = lambda first, second: [pieces.Piece(0, 40, np.array(first, float).reshape(-1, 3)),
                                  pieces.Piece(20, 60, np.array(second, float).reshape(-1, 3))]  # fmt: skip
    join = lambda first, second: pieces.join(made(first, second), 2.0).tolist()
    # The better of two that nothing cuts, as it is; the other goes.
    assert join([[24, 30, 0.6]], [[25, 31, 0.8]]) == [[25, 31, 0.8]]
    # Cut at the end of the first piece: the start of the one, the end of the other.
    assert join([[31, 40, 0.9]], [[30, 50, 0.5]]) == [[31, 50, 0.9]]
    assert join([[31, 39, 0.4]], [[30, 50, 0.5]]) == [[30, 50, 0.5]]  # the other is whole and better
    # Cut at the start of the second.
    assert join([[10, 33, 0.3]], [[20, 32, 0.7]]) == [[10, 32, 0.7]]
    # What they say of the common time differs: two moments.
    assert join([[10, 22, 0.3]], [[20, 50, 0.7]]) == [[20, 50, 0.7], [10, 22, 0.3]]
    # One of two in the second piece goes on: the better of those that agree.
    assert join([[30, 40, 0.9]], [[30, 44, 0.2], [31, 52, 0.3]]) == [[30, 52, 0.9]]
    # Of one piece: IoU above a half goes, below it stays.
    assert join([[2, 10, 0.5], [2, 11, 0.4], [8, 14, 0.3]], []) == [[2, 10, 0.5], [8, 14, 0.3]]
    # Beyond the piece there is nothing to be seen; at the ends of the video no border cuts.
    assert join([[-3, 5, 0.5]], [[55, 70, 0.4]]) == [[0, 5, 0.5], [55, 60, 0.4]]
    assert join([[30, 40, 0.9]], []) == [[30, 40, 0.9]]
    assert len(join([[2 * i, 2 * i + 1, i / 20] for i in range(15)], [])) == pieces.KEPT


def test_equal_and_undefined_scores():
    two = [pieces.Piece(0, 40, np.array([[0, 4, 0.5], [10, 14, 0.5], [16, 18, np.nan]])),
           pieces.Piece(20, 60, np.array([[50, 54, 0.5], [np.nan, 30, 0.1]]))]  # fmt: skip
    joined = pieces.join(two, 2.0)
    assert joined[:3, 0].tolist() == [0, 10, 50] and joined[3, 2] == 0.1 and np.isnan(joined[4, 2])
    assert np.isnan(joined[3, 0])  # not lost: an evaluation says that the model is not finite
