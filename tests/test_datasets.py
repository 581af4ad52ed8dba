"""The video sets of the field: every file format, which videos and texts come out of it, and what is missing or broken.

Trees of a few videos are made here; counts of the real annotations are checked where those are.
"""

import json
import re
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vlr_jax import annotations, footage, media, pipeline, prepare, protocols, text, video
from vlr_jax import features as feature_files
from vlr_jax.data import activitynet, didemo, lsmdc, msrvtt, msvd

BUILDERS = {"activitynet": activitynet, "didemo": didemo, "lsmdc": lsmdc, "msrvtt": msrvtt, "msvd": msvd}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def make_msrvtt(folder, n=12):
    videos = [{"video_id": f"video{i}", "split": ("train", "validate", "test")[i % 3]} for i in range(n)]
    sentences = [
        {"video_id": f"video{i}", "caption": f"caption {k} of  {i}", "sen_id": 0} for k in (0, 1) for i in range(n)
    ]
    write(folder / "MSRVTT_data.json", {"videos": videos, "sentences": sentences})
    write(folder / "MSRVTT_train.9k.csv", "video_id\n" + "".join(f"video{i}\n" for i in range(10)))
    write(folder / "MSRVTT_train.7k.csv", "video_id\n" + "".join(f"video{i}\n" for i in range(7)))
    rows = 'ret0,msr11,video11,"a man, a plan"\nret1,msr10,video10,a dog\n'
    write(folder / "MSRVTT_JSFUSION_test.csv", "key,vid_key,video_id,sentence\n" + rows)
    return [f"video{i}" for i in range(n)]


def make_msvd(folder):
    names = {"train": ["a_1_2", "b_3_4"], "val": ["c_5_6"], "test": ["d_7_8", "e_9_10"]}
    for split, ids in names.items():
        write(folder / f"{split}_list.txt", "\n".join(ids) + "\n")
    ids = sum(names.values(), [])
    captions = {id_: [f"caption {k} of {id_}" for k in range(1 + i)] for i, id_ in enumerate(ids)}
    write(folder / "captions_msvd.json", captions)
    return ids


def make_lsmdc(folder):
    def row(name, sentence):
        return "\t".join([name, "00.00.01", "00.00.02", "00.00.01", "00.00.02", sentence])

    rows = {"training": ["1_A", "1_B", "1_A"], "val": ["2_A"]}
    for split, ids in rows.items():
        write(
            folder / f"LSMDC16_annos_{split}.csv", "\n".join(row(i, f"SOMEONE {n}.") for n, i in enumerate(ids)) + "\n"
        )
    write(folder / "LSMDC16_challenge_1000_publictect.csv", row("3_00.51-00.54", "He waits."))
    return ["1_A", "1_B", "2_A", "3_00.51-00.54"]


def make_didemo(folder):
    names = {"train": ["1@N_a.mov", "2@N_b.avi"], "val": ["3@N_c.mov"], "test": ["4@N_d.m4v"]}
    for split, ids in names.items():
        moments = [
            {"video": i, "description": f"moment {k}.", "times": [[0, 1]]} for k in (0, 1) for i in [*ids, "other.mov"]
        ]
        write(folder / f"{split}_data.json", moments)
        write(folder / f"{split}_list.txt", "\n".join(ids))
    return sum(names.values(), [])


def make_activitynet(folder, n=10):
    def videos(ids):
        return {
            f"v_{i}": {"duration": 9.0, "timestamps": [[0, 1]] * 2, "sentences": [f"Part one of {i}.", "  Part two."]}
            for i in ids
        }

    write(folder / "train.json", videos(range(n)))
    write(folder / "val_1.json", videos(range(n, n + 3)))
    write(folder / "val_ids.json", [f"v_{i}" for i in range(n, n + 2)])
    return [f"v_{i}" for i in range(n + 2)]


MAKE = {
    "activitynet": make_activitynet,
    "didemo": make_didemo,
    "lsmdc": make_lsmdc,
    "msrvtt": make_msrvtt,
    "msvd": make_msvd,
}


def npz(path, names, shape=(3, 8)):
    """Features where everything of the i-th video is i."""
    feats = np.ones((len(names), *shape), np.float32) * np.arange(len(names)).reshape(-1, *[1] * len(shape))
    np.savez(path, names=np.array(names), feat=feats)


def run(dataset, folder, root, **options):
    return prepare.prepare(dataset, root, source=folder, options={"subset": True} | options, progress=False)


def records(root, split):
    content = prepare.read(root)
    builder = tfds.builder_from_directory(root / content["dataset"] / content["version"])
    return list(builder.as_data_source(split=split))


def names(root, split):
    return [record["name"].decode() for record in records(root, split)]


def words(texts=("a",)):
    return text.Words.build({word: 9 for some in texts for word in text.split_words(some)}, length=12)


def open_split(root, split, **data):
    return pipeline.open_split({"root": str(root), "split": split} | data, words())


SPLITS = {  # split → (videos, texts)
    "activitynet": {"train": (9, 18), "dev": (1, 2), "test": (2, 4)},
    "didemo": {"train": (2, 4), "val": (1, 2), "test": (1, 2)},
    "lsmdc": {"train": (2, 3), "val": (1, 1), "test": (1, 1)},
    "msrvtt": {"train": (9, 18), "dev": (1, 2), "test": (2, 2)},
    "msvd": {"train": (2, 3), "val": (1, 3), "test": (2, 9)},
}


@pytest.mark.parametrize("dataset", BUILDERS)
def test_prepared_from_features(dataset, tmp_path):
    """Splits, counts and order of every set; texts as in the file with single spaces."""
    ids = MAKE[dataset](tmp_path)
    npz(tmp_path / "f.npz", ids)
    held = {"held_out": 0.1} if "dev" in SPLITS[dataset] else {}
    content = run(dataset, tmp_path, tmp_path / "root", features="f.npz", **held)
    found = {split: (n["visuals"], n["texts"]) for split, n in content["splits"].items()}
    assert found == SPLITS[dataset] and not content["missing"] and content["recipe"] is None
    everything = [record for split in found for record in records(tmp_path / "root", split)]
    assert {record["name"].decode() for record in everything} <= set(ids)
    for record in everything:
        i = ids.index(record["name"].decode())
        np.testing.assert_array_equal(record["visual"], np.full((3, 8), i, np.float16))
        assert not any("  " in one.decode() or one != one.strip() for one in record["text"])
    assert run(dataset, tmp_path, tmp_path / "root", features="f.npz", **held) == content


@pytest.mark.parametrize("dataset", BUILDERS)
def test_counts_are_asserted(dataset, tmp_path):
    ids = MAKE[dataset](tmp_path)
    npz(tmp_path / "f.npz", ids)
    with pytest.raises(ValueError, match="train has [0-9]+ videos, expected .*subset=true"):
        run(dataset, tmp_path, tmp_path / "root", features="f.npz", subset=False)
    assert not (tmp_path / "root").exists()


def read(module, folder, **options):
    return module.read(folder, subset=True, **options)


def test_splits_of_msrvtt(tmp_path):
    make_msrvtt(tmp_path)
    nine, seven, full = (read(msrvtt, tmp_path, split_set=s, held_out=0.2) for s in ("9k", "7k", "full"))
    assert [len(nine[s]) for s in ("train", "dev", "test")] == [8, 2, 2]
    assert [len(seven[s]) for s in ("train", "dev", "test")] == [6, 1, 2]
    assert {s: [c.name for c in some] for s, some in full.items()} == {
        "train": ["video0", "video3", "video6", "video9"], "val": ["video1", "video4", "video7", "video10"],
        "test": ["video2", "video5", "video8", "video11"],
    }  # fmt: skip
    assert [(c.name, c.texts) for c in nine["test"]] == [("video11", ["a man, a plan"]), ("video10", ["a dog"])]
    assert nine["train"][0].texts == [f"caption {k} of  {nine['train'][0].name[5:]}" for k in (0, 1)]
    assert [len(read(msrvtt, tmp_path, held_out=0)[s]) for s in ("train", "test")] == [10, 2]
    with pytest.raises(ValueError, match="split_set '1k' of msrvtt; expected 9k, 7k or full"):
        read(msrvtt, tmp_path, split_set="1k")
    (tmp_path / "MSRVTT_data.json").rename(tmp_path / "train_val_videodatainfo.json")
    assert read(msrvtt, tmp_path, split_set="full").keys() == full.keys()
    (tmp_path / "train_val_videodatainfo.json").unlink()
    assert read(msrvtt, tmp_path).keys() == {"test"}  # enough to evaluate a model that is trained
    with pytest.raises(ValueError, match="lacks MSRVTT_data.json or train_val_videodatainfo.json; its lists"):
        msrvtt.read(tmp_path, subset=False)
    write(tmp_path / "MSRVTT_train.9k.csv", "id\nvideo1\n")
    with pytest.raises(ValueError, match=r"MSRVTT_train.9k.csv: no column video_id; its columns: \['id'\]"):
        annotations.table(tmp_path / "MSRVTT_train.9k.csv", ("video_id",))


def test_held_out_depends_on_names_and_seed_alone():
    clips = [annotations.Clip(f"v{i}", ["a"]) for i in range(40)]
    one, turned = annotations.hold_out(clips, 0.25, 0), annotations.hold_out(clips[::-1], 0.25, 0)
    assert [c.name for c in one["dev"]] == [c.name for c in turned["dev"]][::-1] and len(one["dev"]) == 10
    assert {c.name for c in one["dev"]} | {c.name for c in one["train"]} == {c.name for c in clips}
    assert annotations.hold_out(clips, 0.25, 1)["dev"] != one["dev"]
    for share in (1.0, -0.1, True, 0.001):
        with pytest.raises(ValueError, match="held_out"):
            annotations.hold_out(clips, share, 0)


def test_captions_of_msvd(tmp_path):
    """The JSON of texts, the same of lists of words, the lines; the pickle is refused with what to do."""
    make_msvd(tmp_path)
    first = read(msvd, tmp_path)
    captions = json.loads((tmp_path / "captions_msvd.json").read_text())
    write(tmp_path / "captions_msvd.json", {i: [c.split() for c in some] for i, some in captions.items()})
    assert read(msvd, tmp_path) == first
    (tmp_path / "captions_msvd.json").unlink()
    (tmp_path / "raw-captions.pkl").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(ValueError, match="is a pickle, .*captions_msvd.json of it once.*json.dump"):
        read(msvd, tmp_path)
    lines = "".join(f"{i} {caption}\n" for i, some in captions.items() for caption in some)
    write(tmp_path / "AllVideoDescriptions.txt", "# MSVD\n\n" + lines)
    assert read(msvd, tmp_path) == first
    write(tmp_path / "train_list.txt", "a_1_2\nnobody\n")
    with pytest.raises(ValueError, match="AllVideoDescriptions.txt has no text of 1 of 2 videos, such as nobody"):
        read(msvd, tmp_path)


def test_paragraphs(tmp_path):
    npz(tmp_path / "f.npz", make_activitynet(tmp_path))
    run("activitynet", tmp_path, tmp_path / "root", features="f.npz", held_out=0)
    split = open_split(tmp_path / "root", "test", texts="paragraphs")
    assert split.texts == ["Part one of 10. Part two.", "Part one of 11. Part two."] and split.n_visuals == 2
    assert open_split(tmp_path / "root", "test").n_texts == 4
    texts = {c.name: c.texts for c in read(didemo, tmp_path_with(make_didemo, tmp_path / "didemo"))["test"]}
    assert texts == {"4@N_d.m4v": ["moment 0.", "moment 1."]}


def tmp_path_with(make, folder):
    make(folder)
    return folder


def test_lines_of_lsmdc_with_other_columns_are_refused(tmp_path):
    make_lsmdc(tmp_path)
    write(tmp_path / "LSMDC16_annos_val.csv", "2_A\t1\t2\tno\n")
    with pytest.raises(ValueError, match="LSMDC16_annos_val.csv, line 1: 4 columns with tabs between, expected 6"):
        read(lsmdc, tmp_path)


def test_texts_without_words(tmp_path):
    notes = []
    clips = [annotations.Clip("a", [" x ", "!"]), annotations.Clip("b", ["..."])]
    assert annotations.tidy({"train": clips}, notes) == {"train": [annotations.Clip("a", ["x"])]}
    assert notes == ["train: 2 texts without a letter or digit are left out, and 1 videos that have no other"]
    with pytest.raises(ValueError, match="test: 2 texts have neither letter nor digit, the first of a"):
        annotations.tidy({"test": clips}, notes)


def test_a_video_in_two_splits_is_refused():
    clip = annotations.Clip("a", ["x"])
    with pytest.raises(ValueError, match="1 videos of test are in train too, such as a"):
        annotations.tidy({"train": [clip], "test": [clip]}, [])


def test_rows_of_csv(tmp_path):
    """Only an end of line outside of quotes ends a row; what is no csv, and texts that are none, are refused."""
    write(tmp_path / "a.csv", 'video_id,sentence\nv1,a\u2028man\x85walks\nv2,"two\nlines"\n')
    rows = annotations.table(tmp_path / "a.csv", ("video_id", "sentence"))
    assert [row["sentence"] for row in rows] == ["a\u2028man\x85walks", "two\nlines"]
    write(tmp_path / "b.csv", f"video_id,sentence\nv1,{'a' * 200_000}\n")
    with pytest.raises(ValueError, match="b.csv, after line 1: no csv: field larger"):
        annotations.table(tmp_path / "b.csv", ("video_id",))
    with pytest.raises(ValueError, match="a.json: a text of v1 is 'None', NoneType"):
        annotations.clips(["v1"], {"v1": ["a", None]}, tmp_path / "a.json")


# ---- features


def test_frames_behind_a_mask_are_left_out(tmp_path):
    feat = np.arange(6, dtype=np.float32).reshape(3, 2)
    for name, mask in (("a", [1, 1, 0]), ("b", [1, 1]), ("c", [0, 0, 0])):
        np.savez(tmp_path / f"{name}.npz", feat=feat, mask=np.array(mask))
    opened = feature_files.open_features(tmp_path)
    rows, regions = feature_files.rows(opened, "a")
    np.testing.assert_array_equal(rows, feat[:2])
    assert regions is None
    for name in "bc":
        with pytest.raises(ValueError, match=r"mask of frames is .* leaves out all; the features \(3, 2\)"):
            feature_files.rows(opened, name)


def test_region_features_of_frames(tmp_path):
    """`[F, R, D]` of a file a video, with the mask of regions: rows lie flat, frame by frame."""
    ids = make_msvd(tmp_path)
    (tmp_path / "regions").mkdir()
    rng = np.random.default_rng(0)
    feats = {id_: rng.normal(size=(2 + i, 3, 4)).astype(np.float16) for i, id_ in enumerate(ids)}
    for id_, feat in feats.items():
        mask = np.ones(feat.shape[:2])
        mask[0, 1:] = 0
        np.savez(tmp_path / "regions" / f"{id_}.npz", feat=feat, mask=mask, boxes=np.zeros((2, 4)))
    content = run("msvd", tmp_path, tmp_path / "root", features="regions")
    assert content["regions"] == 3 and content["splits"]["test"]["max_length"] == 6
    record = records(tmp_path / "root", "test")[0]
    assert record["regions"].tolist() == [1, 3, 3, 3, 3]
    np.testing.assert_array_equal(record["visual"], np.concatenate([feats["d_7_8"][0, :1], *feats["d_7_8"][1:]]))
    row = open_split(tmp_path / "root", "test").visual(0)
    assert row["visual"].shape == (6, 3, 4) and row["visual_mask"].sum(1).tolist() == [1, 3, 3, 3, 3, 0]


def bigfile(folder, frames):
    """Dual Encoding's files; the row of the k-th frame of all is k."""
    every = [name for some in frames.values() for name in some]
    np.repeat(np.arange(len(every), dtype=np.float32), 4).tofile(tmp := folder / "feature.bin")
    write(folder / "shape.txt", f"{len(every)} 4\n")
    write(folder / "id.txt", " ".join(every))
    write(folder / "video2frames.txt", str(frames))
    return tmp


def test_features_of_dual_encoding_in_several_collections(tmp_path):
    make_msrvtt(tmp_path)
    for part, ids in {"train": range(10), "test": range(10, 12)}.items():
        folder = tmp_path / f"msrvtt10k{part}" / "FeatureData" / "resnet"
        folder.mkdir(parents=True)
        bigfile(folder, {f"video{i}": [f"video{i}_{k}" for k in range(1 + i % 3)] for i in ids})
    options = dict(features="msrvtt10k*/FeatureData/resnet", held_out=0)
    content = run("msrvtt", tmp_path, tmp_path / "root", **options)
    assert content["splits"]["train"]["visuals"] == 10 and content["visual"]["shape"] == [None, 4]
    assert [s["name"] for s in content["sources"]].count("video2frames.txt") == 2
    record = records(tmp_path / "root", "test")[0]
    assert record["name"] == b"video11" and record["visual"][:, 0].tolist() == [2, 3, 4]
    write(tmp_path / "msrvtt10ktest/FeatureData/resnet/video2frames.txt", "__import__('os').system('touch owned')")
    with pytest.raises(ValueError, match="video2frames.txt is no literal of Python"):
        run("msrvtt", tmp_path, tmp_path / "other", **options)
    write(tmp_path / "msrvtt10ktest/FeatureData/resnet/shape.txt", "5 5")
    with pytest.raises(ValueError, match="has 80 bytes; 5 rows of 5 float32 are 100"):
        run("msrvtt", tmp_path, tmp_path / "other", **options)


def test_missing_and_broken_features_are_counted(tmp_path):
    ids = make_msvd(tmp_path)
    npz(tmp_path / "f.npz", ids)
    arrays = dict(np.load(tmp_path / "f.npz"))
    arrays["feat"][4, 0, 0] = np.nan
    np.savez(tmp_path / "f.npz", names=arrays["names"][[0, 2, 3, 4]], feat=arrays["feat"][[0, 2, 3, 4]])
    content = run("msvd", tmp_path, tmp_path / "root", features="f.npz")
    assert content["missing"] == {"train": ["b_3_4"], "test": ["e_9_10"]} and content["quarantined"] == 1
    assert "1 of 24 features are NaN" in (tmp_path / "root" / "quarantine.jsonl").read_text()
    assert names(tmp_path / "root", "test") == ["d_7_8"]
    lines = prepare.summary(content, tmp_path / "root")
    assert "test: 1 visuals" in lines and "MISSING" in lines
    split = open_split(tmp_path / "root", "test")
    assert split.missing == ["e_9_10"]
    assert protocols.check_split("none", split) == "gallery incomplete: 1 of 2"
    with pytest.raises(ValueError, match="'msvd-multi': gallery incomplete: 1 of 2"):
        protocols.check_split("msvd-multi", split)
    with pytest.raises(ValueError, match="none of the 2 videos of train .a_1_2, ….* is in .*f.npz"):
        np.savez(tmp_path / "f.npz", names=["x"], feat=np.zeros((1, 2), np.float32))
        run("msvd", tmp_path, tmp_path / "third", features="f.npz")


def test_broken_features_beside_sentence_vectors(tmp_path):
    """For the vectors all records are made once more; what is broken is still counted once."""
    ids = make_msrvtt(tmp_path)
    npz(tmp_path / "f.npz", ids)
    arrays = dict(np.load(tmp_path / "f.npz"))
    arrays["feat"][3] = np.inf
    np.savez(tmp_path / "f.npz", **arrays)
    options = dict(features="f.npz", sentence_encoder="tfidf", held_out=0)
    content = run("msrvtt", tmp_path, tmp_path / "root", **options)
    assert content["missing"] == {"train": ["video3"]} and content["quarantined"] == 1
    assert content["splits"]["train"]["visuals"] == 9 and content["sentence"]


@pytest.mark.parametrize(
    "arrays,message",
    [
        (dict(feat=np.zeros((2, 3, 4), np.float16), mask=np.ones((2, 2))), r"mask of regions has the shape \(2, 2\)"),
        (dict(feat=np.zeros((2, 3, 4), np.float16), mask=np.eye(2, 3)[:1].repeat(2, 0) * [[1], [0]]), "1 of 2 frames"),
        (dict(feat=np.zeros((2, 3, 4), np.int32)), r"floating-point numbers \(F, R, D\), found int32"),
        (dict(feat=np.zeros((2, 3, 5), np.float16)), "regions of frames, 5 wide; the first are of regions .* 4 wide"),
        (dict(feat=np.zeros((2, 4), np.float16)), "features of frames, 4 wide; the first are of regions of frames"),
    ],
)
def test_region_features_that_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", feat=np.ones((1, 3, 4), np.float16))
    np.savez(tmp_path / "b.npz", **arrays)
    places = footage.Features(str(tmp_path), tmp_path)
    found = [places.find(annotations.Clip(name, ["x"])) for name in "ab"]
    places.settle(found)
    (good, _), (part, reason) = places.read(found)
    assert good["regions"].tolist() == [3] and part is None
    assert re.search(message, reason), reason


# ---- raw videos


def film(path, frames=20, size=(24, 32)):
    """A video of 10 frames a second that turns from black to white."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            grey = np.full((*size, 3), 255 * i // frames, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return film(tmp_path_factory.mktemp("film") / "short.mp4")


def test_prepared_from_videos(tmp_path, short):
    """Decoded at the recipe, found by name with any ending; broken and absent ones are counted."""
    ids = make_didemo(tmp_path)
    for name in ("1@N_a.mov", "x/2@N_b.mp4", "3@N_c.mov.mp4", "4@N_d.m4v"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(short, tmp_path / "videos" / name)
    content = run("didemo", tmp_path, tmp_path / "a", media="videos", fps=4.0, image_size=16, end=1.0)
    assert {s: n["visuals"] for s, n in content["splits"].items()} == {"train": 2, "val": 1, "test": 1}
    assert (
        content["recipe"]["fps"] == 4.0 and content["recipe"]["end"] == 1.0 and "PyAV" in content["recipe"]["decoder"]
    )
    frames = records(tmp_path / "a", "val")[0]["frames"]
    assert len(frames) == 4 and media.decode(frames[0]).shape == (16, 21, 3)
    shades = [float(media.decode(frame).mean()) for frame in frames]
    assert shades == sorted(shades) and shades[-1] < 128  # the second half is beyond the end
    whole = video.at_rate(short, fps=4.0)
    assert len(whole) == 8
    (tmp_path / "videos/1@N_a.mov").write_bytes(short.read_bytes()[:600])
    (tmp_path / "videos/4@N_d.m4v").unlink()
    content = run("didemo", tmp_path, tmp_path / "b", media="videos")
    assert content["missing"] == {"train": ["1@N_a.mov"]} and content["quarantined"] == 1
    assert any(note.startswith("test: left out, none of its 1 videos") for note in content["notes"])
    shutil.copy(short, tmp_path / "videos" / "again.m4v")
    shutil.copy(short, tmp_path / "videos" / "2@N_b.avi")
    shutil.copy(short, tmp_path / "videos" / "x" / "2@N_b.avi")
    with pytest.raises(ValueError, match=f"several files could be the video {ids[1]}"):
        run("didemo", tmp_path, tmp_path / "c", media="videos")


# ---- the real annotations


def real(shared_data, name):
    if not (folder := shared_data / name).is_dir():
        pytest.skip(f"no {folder}")
    return folder


def counts(splits):
    return {split: (len(some), sum(len(clip.texts) for clip in some)) for split, some in splits.items()}


def test_real_annotations_of_msvd(shared_data):
    found = msvd.read(real(shared_data, "msvd"), subset=False)
    assert counts(annotations.tidy(found, [])) == {"train": (1200, 48774), "val": (100, 4290), "test": (670, 27763)}
    each = [len(clip.texts) for clip in found["test"]]
    protocols.check("msvd-multi", 670, sum(each), np.array(each))


def test_real_annotations_of_msrvtt(shared_data):
    folder = real(shared_data, "msrvtt")
    found = annotations.tidy(msrvtt.read(folder, subset=True), [])
    assert counts(found) == {"test": (1000, 1000)} and found["test"][0].name == "video9770"
    for name, n in (("MSRVTT_train.9k.csv", 9000), ("MSRVTT_train.7k.csv", 7010)):
        rows = annotations.table(folder / name, ("video_id",))
        assert len(annotations.once([row["video_id"] for row in rows], folder / name)) == n


def test_real_annotations_of_didemo(shared_data):
    found = annotations.tidy(didemo.read(real(shared_data, "didemo"), subset=True), [])
    assert counts(found) == {"val": (1094, 4180), "test": (1037, 4021)}  # without the lists of ids: all videos


def test_real_annotations_of_activitynet(shared_data):
    found = annotations.tidy(activitynet.read(real(shared_data, "activitynet"), subset=False), [])
    assert counts(found) == {"train": (9509, 35597), "dev": (500, 1824), "test": (4917, 17505)}
    protocols.check("activitynet-paragraph", len(found["test"]), len(found["test"]), 1)


def test_real_videos_of_msvd(shared_data, tmp_path):
    """Two of 1,970 are here: found in the list, decoded, the others counted."""
    pytest.importorskip("av")
    folder, videos = real(shared_data, "msvd"), real(shared_data, "raw_video") / "msvd"
    for name in ("WTf5EgVY5uU_124_128.avi", "j2Dhf-xFUxU_13_20.avi"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        shutil.copy(videos / name, tmp_path / "videos")
    content = run("msvd", folder, tmp_path / "root", media=str(tmp_path / "videos"), image_size=96)
    assert {split: n["visuals"] for split, n in content["splits"].items()} == {"train": 1, "test": 1}
    assert {split: len(names) for split, names in content["missing"].items()} == {"train": 1199, "test": 669}
    assert content["frames"]["count"] in (7, 8) and content["has_thumbs"]
