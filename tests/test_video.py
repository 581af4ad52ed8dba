"""Video files: exact frames by time, and a reason for every broken one. Each frame shows its own number, in bits."""

import io
import random
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from vlr_jax import animated, containers, video, workers

av = pytest.importorskip("av", reason="decoding videos needs PyAV (the extra `video`)")
BITS, SIDE = 7, 16
NTSC = Fraction(30000, 1001)


def stamped(i, height=48):
    """A picture of the number i: a column a bit."""
    image = np.full((height, BITS * SIDE, 3), 20, np.uint8)
    for bit in range(BITS):
        if i >> bit & 1:
            image[:, bit * SIDE : (bit + 1) * SIDE] = 230
    image[: height // 4] = (np.arange(BITS * SIDE)[None, :, None] + 7 * i) % 256  # something moves
    return image


def number(image):
    """The number that a picture shows."""
    height, width = image.shape[:2]
    row = image[height // 2 :].mean((0, 2))
    middle = row[: width // BITS * BITS].reshape(BITS, -1)[:, width // BITS // 4 : -(width // BITS // 4)]
    return sum(1 << bit for bit in range(BITS) if middle[bit].mean() > 128)


def encode(path, frames=100, *, codec="libx264", rate=NTSC, times=None, turned=0, muxer=None, **options):
    """Writes a video; `times` in milliseconds are its frames' stamps. Returns the path."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = BITS * SIDE, 48, "yuv420p"
        stream.codec_context.gop_size = 20
        stream.options = {"bf": "2"} | options
        if turned:
            stream.set_display_rotation(turned)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(stamped(i), "rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def gif(path, numbers=(5, 9, 77), milliseconds=(500, 1000, 1500), **options):
    images = [Image.fromarray(stamped(n)) for n in numbers]
    images[0].save(path, save_all=True, append_images=images[1:], duration=list(milliseconds), **options)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def sound(folder):
    """A sound mp4 with B-frames at 29.97 frames a second, its index ahead of the frames."""
    return encode(folder / "sound.mp4", muxer={"movflags": "faststart"})


KINDS = {
    "mp4 with B-frames": ("a.mp4", {}),
    "open groups": ("b.mp4", {"x264-params": "open-gop=1:keyint=15:bframes=3"}),
    "fragments": ("c.mp4", {"muxer": {"movflags": "frag_keyframe+empty_moov"}}),
    "avi with B-frames": ("d.avi", {}),
    "avi mpeg4": ("e.avi", {"codec": "mpeg4", "bf": "0"}),
    "matroska": ("f.mkv", {}),
    "transport stream": ("g.ts", {}),
    "webm": ("h.webm", {"codec": "libvpx-vp9", "cpu-used": "8", "deadline": "realtime"}),
}


@pytest.mark.parametrize("name, options", KINDS.values(), ids=KINDS)
def test_every_frame_at_its_time(name, options, folder, monkeypatch):
    """By seeking (which is tried from a fifth of a second on, here) and by decoding all."""
    monkeypatch.setattr(video, "FAR", 0.2)
    path = encode(folder / name, **options)
    info = video.probe(path)
    assert info[0] == NTSC and info[1] == 100 and info[3:] == (48, 112) and abs(info.duration - 100 / NTSC) < 0.002
    wanted = np.random.default_rng(0).permutation(100)[:30].tolist()
    assert [number(i) for i in video.frames_at(path, [k / NTSC for k in wanted])] == wanted
    assert [number(i) for i in video.frames_at(path, [(k + 0.7) / NTSC for k in wanted])] == wanted
    assert [number(i) for i in video.at_rate(path.read_bytes())] == [0, 29, 59, 89]  # on display at 0, 1, 2, 3 s
    assert [number(i) for i in video.at_rate(path, fps=NTSC, most=None)] == list(range(100))


def test_variable_rate(folder):
    times = np.cumsum([0, *([40, 40, 500, 10, 1500] * 8)]).tolist()  # milliseconds
    path = encode(folder / "variable.mp4", len(times), times=times)
    info = video.probe(path)
    assert info.frames == len(times) and times[-1] <= 1000 * info.duration < times[-1] + 1600
    shown = lambda time: int(np.searchsorted(times, 1000 * time + 0.01, "right")) - 1
    asked = np.random.default_rng(0).uniform(0, times[-1] / 1000, 30)
    assert [number(i) for i in video.frames_at(path, asked)] == [shown(t) for t in asked]
    got = [number(i) for i in video.at_rate(path, fps=2, most=None)]
    assert got == [shown(k / 2) for k in range(len(got))] and len(got) == np.ceil(2 * info.duration)


def test_parts_limits_sizes_and_the_counting_policy(sound):
    info, read = video.probe(sound), lambda **options: [number(i) for i in video.at_rate(sound, **options)]
    assert read(start=1, end=3) == [29, 59] and read(start=1.5) == [44, 74]
    assert read(fps=10, most=4) == [0, 32, 65, 98] and read(fps=10, most=4, end=1) == [0, 8, 17, 26]
    assert read(policy="clip4clip", info=info) == [0, 29, 58, 87]
    assert read(policy="clip4clip", start=1, end=2) == [29, 58] and read(policy="clip4clip", most=2) == [0, 87]
    assert video.at_rate(sound, shorter=24)[0].shape == (24, 56, 3)
    assert video.at_rate(sound, shorter=None)[0].shape == (48, 112, 3)
    for options, message in (
        ({"start": 9}, "ends at 3.34 s: no frame is from 9 s"),
        ({"start": 9, "end": 12, "policy": "clip4clip"}, "no frame"),
        ({"policy": "clip4clip", "fps": 2}, "clip4clip' with fps=1"),
        ({"policy": "random"}, "got 'random'"),
        ({"fps": 0}, "fps above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            video.at_rate(sound, **options)
    for times, message in (([1, 3.5], "no frame at 3.5 s: the video ends at 3.34"), ([-1], "from 0 on")):
        with pytest.raises(ValueError, match=message):
            video.frames_at(sound, times)
    assert video.frames_at(sound, []) == []


def test_one_frame_and_rotation(folder):
    path = encode(folder / "one.mp4", 1)
    assert video.probe(path).frames == 1 and [number(i) for i in video.at_rate(path)] == [0]
    path = encode(folder / "turned.mp4", 3, turned=90)
    upright = video.at_rate(path, shorter=None)[0]
    assert video.probe(path)[3:] == (112, 48) == upright.shape[:2]
    found = containers.opened(path)
    with found as (container, stream):
        _, frame = next(containers.decoded(container, stream))
        lying = frame.to_ndarray(format="rgb24")
        assert frame.rotation == 90
    np.testing.assert_array_equal(upright, np.rot90(lying))  # against the clock


def test_stored(sound):
    made = video.recipe(fps=1.0, most_frames=3, image_size=24)
    assert made["decoder"].startswith(f"PyAV {av.__version__}, libavcodec") and made["policy"] == "seconds"
    fields = video.stored(sound, made)
    images = [np.array(Image.open(io.BytesIO(frame))) for frame in fields["frames"]]
    assert [number(i) for i in images] == [0, 29, 89] and images[0].shape == (24, 56, 3)
    assert number(np.array(Image.open(io.BytesIO(fields["thumb"])))) == 29
    for bad in ({"fps": 0}, {"most_frames": 0}, {"image_size": 0}, {"policy": "x"}):
        with pytest.raises(ValueError, match="above 0|choices: seconds, clip4clip"):
            video.recipe(**({"fps": 1.0, "most_frames": 3, "image_size": 24} | bad))


@pytest.mark.parametrize("name, share, reason", [
    ("a.mp4", 0.5, "cannot open the video: Invalid data"), ("sound.mp4", 0.9, "a packet is cut short"),
    ("sound.mp4", 0.03, "no video stream"), ("d.avi", 0.5, "truncated"), ("f.mkv", 0.5, "it says 3.34 s"),
    ("f.mkv", 0.05, "no frame that can be decoded|cannot open"), ("h.webm", 0.6, "it says 3.34 s"),
])  # fmt: skip
def test_truncated(name, share, reason, folder, sound):
    kinds = dict(KINDS.values())
    path = folder / name if (folder / name).exists() else encode(folder / name, **kinds[name])
    whole = path.read_bytes()
    for read in (video.probe, video.at_rate):
        with pytest.raises(ValueError, match=reason):
            read(whole[: int(share * len(whole))])


def test_trimmed_by_an_edit_list(sound):
    """As phones and `ffmpeg -c copy` trim: all frames stay in the file, some are no part of the video."""
    whole = bytearray(sound.read_bytes())
    at, media_header = whole.index(b"elst") + 12, whole.index(b"mdhd") + 16
    ticks = int.from_bytes(whole[media_header : media_header + 4])
    length, start = (int.from_bytes(whole[k : k + 4]) for k in (at, at + 4))
    whole[at : at + 8] = (length - 1001).to_bytes(4) + (start + ticks * 1001 // 1000).to_bytes(4)  # 30 frames less
    assert video.probe(bytes(whole))[:3] == (NTSC, 70, pytest.approx(70 / NTSC, abs=1e-3))
    assert list(map(number, video.at_rate(bytes(whole)))) == [30, 59, 89]
    assert list(map(number, video.frames_at(bytes(whole), [0, 1.0]))) == [30, 59]


def test_a_long_last_frame_and_a_title_in_another_encoding(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "abcdefgh"
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = BITS * SIDE, 48, "yuv420p"
        packets = [p for i in range(25) for p in stream.encode(av.VideoFrame.from_ndarray(stamped(i), "rgb24"))]
        packets += stream.encode()
        packets[-1].duration = int(3 / packets[-1].time_base)
        container.mux(packets)
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"ab\xff\xfe\xe9fgh"))
    assert list(map(number, video.at_rate(path))) == [0, 24, 24, 24]


def test_flipped_bits(sound):
    """Three flipped bits in the frames: every copy is refused, or gives what the sound one gives."""
    whole, rng, refused = sound.read_bytes(), random.Random(0), 0
    want = video.at_rate(sound)
    start = whole.index(b"mdat") + 4
    for _ in range(12):
        copy = bytearray(whole)
        for _ in range(3):
            copy[rng.randrange(start, len(copy))] ^= 1 << rng.randrange(8)
        try:
            got = video.at_rate(bytes(copy))
        except ValueError as error:
            refused += 1
            assert any(part in str(error) for part in ("damaged", "cannot decode", "no frame")), error
        else:
            assert all((a == b).all() for a, b in zip(want, got, strict=True))
    assert refused >= 10


def test_not_a_video(folder, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1/x.ts\n")
    for name, reason in {
        "sound.mp4": "no video stream; it has: audio", "empty.mp4": "the file is empty", "noise.mp4": "Invalid data",
        "list.mp4": "Invalid data", "absent.mp4": "No such file",
    }.items():  # fmt: skip
        for read in (video.probe, video.at_rate, lambda path: video.frames_at(path, [0])):
            with pytest.raises(ValueError, match=reason):
                read(tmp_path / name)


def test_animated_pictures(tmp_path):
    path = gif(tmp_path / "a.gif", loop=0)
    assert video.probe(path) == (Fraction(1), 3, 3.0, 48, 112)
    for source in (path, path.read_bytes()):
        assert [number(i) for i in video.at_rate(source, fps=2)] == [5, 9, 9, 77, 77, 77]
        assert [number(i) for i in video.frames_at(source, [2.9, 0, 1.49])] == [77, 5, 9]
        with pytest.raises(ValueError, match="ends at 3.00 s"):
            video.frames_at(source, [3.5])
    whole = path.read_bytes()
    for read in (video.probe, video.at_rate):
        with pytest.raises(ValueError, match="animated picture"):
            read(whole[: len(whole) * 2 // 3])
    assert animated.is_animated(gif(tmp_path / "a.png")) and animated.is_animated(gif(tmp_path / "a.webp"))
    assert [number(i) for i in video.at_rate(tmp_path / "a.png", fps=2)] == [5, 9, 9, 77, 77, 77]
    assert video.probe(gif(tmp_path / "fast.gif", milliseconds=(0, 0, 0))).duration == pytest.approx(0.3)
    Image.fromarray(stamped(3)).save(tmp_path / "still.png")
    Image.fromarray(stamped(3)).save(tmp_path / "still.gif")
    assert not animated.is_animated(tmp_path / "still.png") and animated.is_animated(tmp_path / "still.gif")


def test_without_pyav(sound, monkeypatch):
    monkeypatch.setattr(containers, "av", None)
    with pytest.raises(ValueError, match=r"pip install 'vlr_jax\[video\]'"):
        video.probe(sound)
    assert video.recipe(fps=1, most_frames=1, image_size=1)["decoder"].startswith("Pillow")


def test_in_order_is_lazy_and_ordered():
    taken = []
    items = (taken.append(i) or i for i in range(100))
    results = workers.in_order(lambda i: i * i, items, workers=2)
    assert next(results) == 0 and len(taken) <= 6
    assert list(results) == [i * i for i in range(1, 100)]
    with pytest.raises(ZeroDivisionError):
        list(workers.in_order(lambda i: 1 // i, [1, 0, 2]))


def test_real_videos(shared_data):
    """Sought frames are those that decoding all of it gives; every time is one of whole seconds."""
    paths = sorted((shared_data / "raw_video").glob("*/*.*"))
    if not paths:
        pytest.skip("no raw_video among the real data")
    for path in paths[:2] + paths[-3:]:
        info = video.probe(path)
        images = video.at_rate(path, shorter=None, info=info)
        assert len(images) == np.ceil(info.duration - 1e-6) and images[0].shape == (info.height, info.width, 3)
        assert max(i.std() for i in images) > 10
        some = [len(images) - 1, 0, len(images) // 2]
        for i, sought in zip(some, video.frames_at(path, some), strict=True):
            np.testing.assert_array_equal(sought, images[i])
