"""The dataset `folder` with videos: decoded once, at a recorded recipe; broken ones are left out with a reason."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from vlr_jax import main, media, pipeline, prepare, records, text, video, visuals
from vlr_jax.data.folder import Builder

av = pytest.importorskip("av", reason="decoding videos needs PyAV (the extra `video`)")


def clip(path, colour, seconds=3, damaged=False):
    """A video at 10 frames a second whose green says the second. Damage is noticed only in decoding."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        noise = np.random.default_rng(0)
        for i in range(10 * seconds):
            image = noise.integers(0, 30, (48, 64, 3), np.uint8) + np.uint8([colour, 60 * (i // 10), 0])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    if damaged:
        data = bytearray(path.read_bytes())
        for place in range(len(data) // 2, len(data), 40):
            data[place] ^= 255
        path.write_bytes(data)


def picture(path, colour=90):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(media.encode_jpeg(np.full((30, 60, 3), colour, np.uint8)))


@pytest.fixture
def source(tmp_path):
    """Two pictures, three sound videos, a GIF, and four that are broken in other ways."""
    folder = tmp_path / "own"
    picture(folder / "a.jpg")
    picture(folder / "z" / "last.png", 200)
    for i, name in enumerate(("b.mp4", "c/d.mkv", "e.avi")):
        clip(folder / name, 40 * i, seconds=i + 2)
    images = [Image.new("RGB", (64, 48), (0, 80 * i, 0)) for i in range(3)]
    images[0].save(folder / "f.gif", save_all=True, append_images=images[1:], duration=1000)
    clip(folder / "damaged.mp4", 7, damaged=True)
    (folder / "cut.mp4").write_bytes((folder / "b.mp4").read_bytes()[:-900])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.mp4").write_text("no video at all")
    return folder


NAMES = ["a.jpg", "b.mp4", "c/d.mkv", "damaged.mp4", "e.avi", "f.gif", "z/last.png"]


def captions(folder, names=NAMES, **more):
    lines = [{"media": name, "texts": [f"a film called {name}"]} | more.get(name, {}) for name in names]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))


def build(folder, **options):
    return Builder(source=folder, data_dir=folder / "out", **options)


def read(builder, split):
    return {record["name"]: record for _, record in builder._generate_examples(split)}


def greens(record):
    return [media.decode(frame)[..., 1].mean() for frame in record["frames"]]


def test_a_gallery(source):
    builder = build(source, image_size=24)
    assert builder.counts == {"gallery": 7} and len(builder._items) == 7
    assert [p["media"] for p in builder.quarantine] == ["cut.mp4", "empty.mp4", "notes.mp4"]
    assert all(p["line"] is None for p in builder.quarantine)
    assert "truncated" in builder.quarantine[0]["reason"] and builder.quarantine[1]["reason"] == "the file is empty"
    assert builder.recipe["fps"] == 1.0 and builder.recipe["most_frames"] == 64 and "PyAV" in builder.recipe["decoder"]
    got = read(builder, "gallery")
    assert list(got) == [name for name in NAMES if name != "damaged.mp4"] and builder.counts == {"gallery": 6}
    assert [p["media"] for p in builder.quarantine][-1] == "damaged.mp4"
    assert "damaged" in builder.quarantine[-1]["reason"]
    assert [len(got[name]["frames"]) for name in got] == [1, 2, 3, 4, 3, 1]
    np.testing.assert_allclose(greens(got["c/d.mkv"]), np.array([15, 75, 135]), atol=9)
    np.testing.assert_allclose(greens(got["f.gif"]), [0, 80, 160], atol=3)
    assert {media.size(frame) for record in got.values() for frame in record["frames"]} == {(24, 32), (24, 48)}
    assert media.decode(got["c/d.mkv"]["thumb"])[..., 1].mean() == pytest.approx(75, abs=9)  # the middle
    assert all(record["text"] == [] for record in got.values())
    assert got["c/d.mkv"]["duration"] == pytest.approx(3, abs=0.02) and np.isnan(got["a.jpg"]["duration"])
    assert list(read(builder, "gallery")) == list(got)


def test_options_of_decoding(source):
    builder = build(source, fps=2.0, most_frames=3, policy="seconds")
    assert builder.recipe["fps"] == 2.0
    assert [len(r["frames"]) for r in read(builder, "gallery").values()] == [1, 3, 3, 3, 3, 1]
    for bad in ({"fps": 0}, {"policy": "random"}, {"most_frames": 0}):
        with pytest.raises(ValueError, match="above 0|choices: seconds, clip4clip"):
            build(source, **bad)


def test_with_captions(source):
    windows = {"b.mp4": {"texts": [{"text": "a man", "windows": [[0.5, 9]]}]}, "e.avi": {"duration": 33}}
    late = {"f.gif": {"texts": [{"text": "a man", "windows": [[4, 5]]}]}}
    captions(source, [*NAMES, "gone.mp4"], **windows, **late)
    builder = build(source)
    assert [(p["line"], p["media"]) for p in builder.quarantine] == [(6, "f.gif"), (8, "gone.mp4")]
    assert builder.quarantine[0]["reason"] == "a window starts at 4 s, the video ends at 3.00 s"
    got = read(builder, "train")
    assert [p["line"] for p in builder.quarantine] == [4, 6, 8] and builder.counts == {"train": 5}
    assert got["b.mp4"]["text"] == ["a man"] and got["e.avi"]["duration"] == 33
    np.testing.assert_array_equal(got["b.mp4"]["windows"], [[0.5, 9]])
    for broken in (["gone.mp4", *NAMES], ["damaged.mp4", *NAMES[:2]]):
        captions(source, broken)
        with pytest.raises(ValueError, match=r"1 problems\n  line 1: (gone|damaged).mp4: "):
            read(build(source, strict=True), "train")
    captions(source, ["damaged.mp4"])
    with pytest.raises(ValueError, match="no line is usable\n  line 1: damaged.mp4: "):
        read(build(source), "train")


def test_videos_in_tar_files(source, tmp_path):
    with tarfile.open(tmp_path / "own.tar", "w") as tar:
        tar.add(source, ".")
    (tmp_path / "other").mkdir()
    inside, outside = build(tmp_path / "other", media=str(tmp_path / "own.tar")), build(source)
    first, second = read(inside, "gallery"), read(outside, "gallery")
    assert [r["frames"] for r in first.values()] == [r["frames"] for r in second.values()]
    assert inside.quarantine == outside.quarantine


def test_empty_folder_and_features_without_lines(tmp_path):
    picture(tmp_path / "a" / ".hidden" / "a.jpg")
    with pytest.raises(ValueError, match="no .jsonl file, and .* neither a picture nor a video"):
        build(tmp_path / "a")
    with pytest.raises(ValueError, match="has no captions.jsonl; .* none"):
        build(tmp_path / "a", features="feats")


def test_pictures_alone_have_no_recipe_and_an_unchanged_identity(tmp_path):
    picture(tmp_path / "own" / "a.jpg")
    captions(tmp_path / "own", ["a.jpg"])
    content = prepare.prepare("folder", tmp_path / "root", source=tmp_path / "own", progress=False)
    assert content["recipe"] is None and content["options"].keys() == {"captions", "features", "media", "image_size"}
    assert prepare.prepare("folder", tmp_path / "root", source=tmp_path / "own", progress=False) == content
    with pytest.raises(ValueError, match="option fps"):
        prepare.prepare("folder", tmp_path / "root", source=tmp_path / "own", options={"fps": 2}, progress=False)
    data = dict(name="folder", root=str(tmp_path / "root"))
    main.prepare_if_absent(data | dict(options=dict(fps=1, most_frames=64)))  # asked for, at what they are anyway
    with pytest.raises(ValueError, match="fps=1.0, here 2"):
        main.prepare_if_absent(data | dict(options=dict(fps=2)))


def test_prepared(source, tmp_path):
    """From files to batches, with sentence vectors; the broken are told, with their reasons."""
    captions(source, [*NAMES, "cut.mp4"])
    root = tmp_path / "root"
    options = {"sentence_encoder": "tfidf", "fps": 2}
    content = prepare.prepare("folder", root, source=source, options=options, progress=False)
    assert content["quarantined"] == 2 and content["splits"]["train"] == {"visuals": 6, "texts": 6, "max_length": 8}
    assert content["recipe"]["fps"] == 2 and content["frames"]["count"] == 8 and content["has_thumbs"]
    told = prepare.summary(content, root)
    assert "line 4: damaged.mp4: the video is damaged" in told and "line 8: cut.mp4: the file is truncated" in told
    words = text.Words.build(json.loads((root / "words.json").read_text())["counts"], length=8)
    split = pipeline.open_split({"root": str(root), "split": "train", "frame_size": 32}, words)
    assert split.names == [name for name in NAMES if name != "damaged.mp4"]
    row = split.visual(split.names.index("b.mp4"))
    assert row["visual"].shape == (8, 32, 32, 3) and row["visual_mask"].tolist() == [True] * 4 + [False] * 4
    whole = prepare.prepare("folder", tmp_path / "all", source=source, options={"fps": 2}, progress=False)
    assert whole["splits"] == content["splits"]
    own, vectors = split.record(4)["text_vectors"], records.np.asarray(split.vectors()[1])
    np.testing.assert_array_equal(own, vectors[4:5])
    with pytest.raises(ValueError, match="2 broken items .* not strict"):
        prepare.prepare("folder", root, source=source, options=options, strict=True, progress=False)


def test_visuals(source):
    files, made = media.open_media([source]), video.recipe(fps=1.0, most_frames=4, image_size=24)
    assert visuals.look(files, "a.jpg", 24) is None and visuals.look(files, "b.mp4", 24).frames == 20
    assert len(visuals.fields(files, "b.mp4", made, visuals.look(files, "b.mp4", 24))["frames"]) == 2
    still = visuals.fields(files, "a.jpg", made, None)["frames"]
    assert np.asarray(Image.open(io.BytesIO(still[0]))).shape == (24, 48, 3)
    assert files.source("b.mp4") == source / "b.mp4"


def test_real_videos(shared_data, tmp_path):
    """Beside copies that are cut off or have flipped bits, which stay out."""
    paths = sorted((shared_data / "raw_video").glob("*/*.*"), key=lambda path: path.stat().st_size)
    if not paths:
        pytest.skip("no raw_video among the real data")
    (tmp_path / "own").mkdir()
    rng = np.random.default_rng(0)
    for i, path in enumerate(paths[:3]):
        whole = path.read_bytes()
        flipped = np.frombuffer(whole, np.uint8).copy()
        flipped[rng.integers(len(whole) // 5, len(whole) * 4 // 5, 20)] ^= 16
        for kind, data in (("sound", whole), ("cut", whole[: len(whole) * 2 // 3]), ("flipped", flipped.tobytes())):
            (tmp_path / "own" / f"{kind}{i}{path.suffix}").write_bytes(data)
    builder = Builder(source=tmp_path / "own", data_dir=tmp_path / "out", most_frames=4, image_size=64)
    assert {p["media"][:4] for p in builder.quarantine} >= {"cut0", "cut1", "cut2"}
    got = read(builder, "gallery")
    assert [name[:6] for name in got] == ["sound0", "sound1", "sound2"] and len(builder.quarantine) == 6
    assert all(len(record["frames"]) == 4 and record["duration"] > 3 for record in got.values())
