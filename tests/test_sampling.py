"""Sampling policies against CLIP4Clip's and X-Pool's own indices."""

import json

import numpy as np
import pytest

from vlr_jax import sampling

# Of CLIP4Clip's indices: (frames, fps, start, end) → those at 1 fps, and at most 8 at position 0, 1, 2.
CLIP4CLIP = [
    ((25, 10, None, None), [0, 10, 20], [0, 10, 20], [0, 10, 20], [0, 10, 20]),
    ((100, 29.97, None, None), [0, 29, 58, 87], *[[0, 29, 58, 87]] * 3),
    ((100, 10, None, None), list(range(0, 100, 10)), list(range(0, 80, 10)), list(range(20, 100, 10)),
     [0, 10, 20, 30, 50, 60, 70, 90]),
    ((100, 10, 5, 10), [50, 60, 70, 80, 90], *[[50, 60, 70, 80, 90]] * 3),
    ((31, 60, 5, 10), [], [], [], []),
    ((1, 23.976, 0, 31), [0], [0], [0], [0]),
]  # fmt: skip
XPOOL = [  # (frames, wanted) → the frames decoded
    ((1, 3), [0, 0, 0]),
    ((5, 8), [0, 1, 2, 3, 4, 4, 4, 4]),
    ((29, 8), [1, 4, 8, 11, 15, 19, 22, 26]),
    ((301, 8), [18, 55, 93, 130, 168, 206, 243, 281]),
]


@pytest.mark.parametrize("case, whole, head, tail, uniform", CLIP4CLIP)
def test_clip4clip(case, whole, head, tail, uniform):
    frames, fps, start, end = case
    read = lambda **options: sampling.clip4clip(frames, fps, start=start, end=end, **options).tolist()
    assert read() == whole and read(most=8) == uniform
    assert read(most=8, policy="head") == head and read(most=8, policy="tail") == tail


@pytest.mark.parametrize("case, decoded", XPOOL)
def test_xpool(case, decoded):
    assert sampling.xpool(*case).tolist() == decoded


def test_all_of_the_golden_indices(shared_data):
    path = shared_data.parent / "golden" / "video_text" / "frame_sampling.json"
    if not path.exists():
        pytest.skip(f"no golden indices at {path}")
    golden = json.loads(path.read_text())
    assert len(golden["clip4clip_1fps"]) == 357 and len(golden["xpool_uniform"]) == 34
    for case in golden["clip4clip_1fps"]:
        read = lambda **options: sampling.clip4clip(
            case["frames"], case["fps"], start=case["start"], end=case["end"], **options  # noqa: B023
        ).tolist()  # fmt: skip
        assert read() == case["idx_1fps"]
        for most in (8, 12, 64):
            for place, policy in enumerate(("head", "tail", "uniform")):
                assert read(most=most, policy=policy) == case[f"max{most}_pos{place}"], case
    for case in golden["xpool_uniform"]:
        assert sampling.choose("segments", case["frames"], case["num_frames"]).tolist() == case["idxs"]
        assert sampling.xpool(case["frames"], case["num_frames"]).tolist() == case["decoded"]


def test_choose():
    assert sampling.choose("uniform", 10, 4).tolist() == [0, 3, 6, 9]
    assert sampling.choose("segments", 10, 4).tolist() == [0, 3, 5, 8]
    assert sampling.choose("head", 10, 4).tolist() == [0, 1, 2, 3]
    assert sampling.choose("tail", 10, 4).tolist() == [6, 7, 8, 9]
    for policy in sampling.POLICIES:
        for stored in (1, 3):
            assert sampling.choose(policy, stored, 3).tolist() == list(range(stored))
    for arguments, message in (
        (("middle", 3, 2), "choices: uniform, segments"),
        (("head", 0, 2), "2 of 0"),
        (("head", 2, 0), "0 of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            sampling.choose(*arguments)


def test_random_segments_take_every_frame_of_their_own_segment():
    rng = np.random.default_rng(0)
    drawn = np.stack([sampling.choose("segments", 10, 4, rng) for _ in range(200)])
    edges = [0, 2, 5, 7, 10]
    for column, first, after in zip(drawn.T, edges[:-1], edges[1:], strict=True):
        assert set(column) == set(range(first, after))
    again = np.random.default_rng(0)
    np.testing.assert_array_equal(drawn[0], sampling.choose("segments", 10, 4, again))


def test_seconds():
    assert sampling.seconds(4.0).tolist() == [0, 1, 2, 3]
    assert sampling.seconds(4.004).tolist() == [0, 1, 2, 3, 4]
    assert sampling.seconds(0.03).tolist() == [0]
    assert sampling.seconds(2.0, fps=2.0).tolist() == [0, 0.5, 1, 1.5]
    assert sampling.seconds(100.0, most=4).tolist() == [0, 33, 66, 99]
    for options in ({"fps": 0}, {"most": 0}, {"fps": float("nan")}):
        with pytest.raises(ValueError, match="expected fps above 0"):
            sampling.seconds(3.0, **options)
    with pytest.raises(ValueError, match="at least 1"):
        sampling.clip4clip(10, 0.5)
