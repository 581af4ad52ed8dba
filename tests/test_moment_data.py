"""Videos with moments: records and index, features of several backbones, the sets of the field and their defects."""

import collections
import functools
import json
import shutil

import h5py
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vlr_jax import backbones, moments, prepare, queries, records
from vlr_jax.data import activitynet_moments, charades_sta, qvhighlights, tacos

VIDEOS = [
    moments.Video(
        "a_0.0_6.0", 6.1, [moments.Query("7", "a dog", [(0.1, 2.3), (4, 6.1)], [0, 2], [[1, 2], [4, 0]]),
                           moments.Query("8", "a cat", [])], "a", shown=[(0, 2.5, "x.jpg")],
    ),
    moments.Video("b", 4.0, [moments.Query("9", "birds", [(1, 2)])], "b"),
]  # fmt: skip


class Builder(tfds.core.GeneratorBasedBuilder):
    """`VIDEOS`, with everything that a record of moments may have."""

    name, VERSION = "timed", tfds.core.Version("1.0.0")
    moments = {"clip_length": 2.0, "annotators": 2, "backbones": [], "text_features": None, "defects": {"odd": 3}}

    def __init__(self, *, source=None, **tfds_arguments):
        self.quarantine, self.fact_names = [], None
        super().__init__(**tfds_arguments)

    def _info(self):
        kinds = tfds.features
        visual = kinds.Tensor(shape=(None, 4), dtype=np.float16, encoding="bytes")
        form = {"name": kinds.Text(), "text": kinds.Sequence(kinds.Text()), "visual": visual}
        form |= moments.form(annotators=2, text_dim=3, shown=True)
        return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(form), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for key, video in enumerate(VIDEOS):
            texts = [np.full((i + 2, 3), i, np.float16) for i, _ in enumerate(video.queries)]
            record = {"name": video.name, "text": [query.text for query in video.queries]}
            record["visual"] = np.ones((3, 4), np.float16)
            yield key, record | moments.fields(video, 2.0, annotators=2, texts=texts, shown=True)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    root = tmp_path_factory.mktemp("timed") / "root"
    prepare.prepare(f"{__name__}:Builder", root, progress=False)
    return root


def test_records_of_moments_read_back(timed):
    first, second = tfds.builder_from_directory(timed / "timed" / "1.0.0").as_data_source(split="train")
    assert [name.decode() for name in first["text_name"]] == ["7", "8"] and first["source"] == b"a"
    assert first["duration"] == np.float32(6.1) and first["clip_length"] == 2 and first["windows"].dtype == np.float64
    np.testing.assert_array_equal(first["windows"], [[0.1, 2.3], [4, 6.1]])
    np.testing.assert_array_equal(first["n_windows"], [2, 0])
    np.testing.assert_array_equal(first["saliency_clips"], [0, 2])
    np.testing.assert_array_equal(first["saliency_scores"], [[1, 2], [4, 0]])
    np.testing.assert_array_equal(first["n_saliency"], [2, 0])
    np.testing.assert_array_equal(first["text_features"][:, 0], [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(first["n_text_features"], [2, 3])
    assert first["shown"].tolist() == [[0, 2.5]] and first["shown_key"] == [b"x.jpg"]
    assert second["saliency_scores"].shape == (0, 2) and second["shown"].shape == (0, 2)
    assert len(second["shown_key"]) == 0 and second["text_features"].dtype == np.float16


def test_index_of_moments_is_the_records_flat(timed):
    content = prepare.read(timed)
    assert content["moments"] == Builder.moments
    told = prepare.summary(content, timed)
    assert "clips of 2 s; saliency of 2 annotators" in told and "3 × odd" in told
    with np.load(timed / "train.index.npz", allow_pickle=False) as index:
        found = dict(index)
    assert found["durations"].tolist() == [6.1, 4] and found["clip_lengths"].tolist() == [2, 2]
    assert found["windows"].tolist() == [[0.1, 2.3], [4, 6.1], [1, 2]] and found["n_windows"].tolist() == [2, 0, 1]
    assert found["text_names"].tolist() == ["7", "8", "9"] and found["sources"].tolist() == ["a", "b"]
    assert found["saliency_clips"].tolist() == [0, 2] and found["n_saliency"].tolist() == [2, 0, 0]
    assert found["saliency_scores"].tolist() == [[1, 2], [4, 0]] and found["saliency_scores"].dtype == np.float32
    assert found["shown"].tolist() == [[0, 2.5]] and found["shown_keys"].tolist() == ["x.jpg"]
    assert found["n_text_features"].tolist() == [2, 3, 2]
    assert found["n_shown"].tolist() == [1, 0] and found["n_windows"].dtype == np.int32
    kinds = {"durations": "f8", "windows": "f8", "clip_lengths": "f4", "saliency_clips": "i4"}
    assert all(found[name].dtype == kind for name, kind in kinds.items())


def test_index_without_moments_has_no_such_arrays(tmp_path):
    index = records.Index()
    index.add({"name": "a", "text": ["b"], "visual": np.ones((1, 2)), "windows": np.zeros((0, 2)), "duration": 3.0})
    index.save(tmp_path / "i.npz")
    with np.load(tmp_path / "i.npz") as found:
        assert sorted(found.files) == ["lengths", "names", "text_bytes", "text_offsets", "texts"]


def test_named_features_are_remembered_by_their_names():
    options = {"features": "clip=/far/clip_features,slowfast=slow", "text_features": "/far/words", "media": "/a/b=c/d"}
    assert prepare.by_name(options) == {"features": "clip=clip_features,slowfast=slow"} | {
        "text_features": "words", "media": "d"
    }  # fmt: skip


DATASETS = {
    "qvhighlights": qvhighlights,
    "charades_sta": charades_sta,
    "tacos": tacos,
    "activitynet_moments": activitynet_moments,
}
REAL = {  # dataset → its folder; videos and queries of each split; what is mended
    "qvhighlights": (
        "qvhighlights",
        {"train": (7100, 7218), "val": (1519, 1550), "test": (1529, 1542)},
        {"test: queries without a window, kept as such": 1542},
    ),
    "charades_sta": (
        "charades_sta",
        {"train": (5336, 12404), "test": (1334, 3720)},
        {
            "train: windows that ended after their video, cut at its end": 1805,
            "test: windows that ended after their video, cut at its end": 562,
            "train: windows without length inside their video, left out": 4,
            "train: queries of which no window was left, left out": 4,
            "train: videos of which no query was left, left out": 2,
        },
    ),
    "tacos": (
        "tacos",
        {"train": (75, 9790), "val": (27, 4436), "test": (25, 4001)},
        {
            "train: windows that ended after their video, cut at its end": 43,
            "test: windows that ended after their video, cut at its end": 5,
        },
    ),
    "activitynet_moments": (
        "activitynet",
        {"train": (10009, 37419), "val": (4917, 17505), "test": (4885, 17031)},
        {
            "train: windows that ended after their video, cut at its end": 261,
            "val: windows that ended after their video, cut at its end": 134,
            "test: windows that ended after their video, cut at its end": 111,
            "train: windows that ended before they started, turned round": 2,
            "train: windows without length inside their video, left out": 2,
            "train: queries of which no window was left, left out": 2,
        },
    ),
}


@pytest.fixture(scope="module")
def real(shared_data):
    """dataset → (its splits, its defects), of the real annotations."""

    @functools.cache
    def read(dataset, only=None):
        defects = collections.Counter()
        folder = shared_data / REAL[dataset][0]
        return DATASETS[dataset].read(folder, defects, subset=False), defects

    return read


@pytest.mark.parametrize("dataset", REAL)
def test_real_annotations(dataset, real):
    """Counts, and the defects that the spec tells of, are exactly those."""
    splits, defects = real(dataset)
    _, counts, mended = REAL[dataset]
    found = {split: (len(videos), sum(len(video.queries) for video in videos)) for split, videos in splits.items()}
    assert found == counts
    assert {reason: n for reason, n in defects.items() if "spaces" not in reason} == mended
    for split, videos in splits.items():
        names = [query.name for video in videos for query in video.queries]
        assert len(set(names)) == len(names), split
        for video in videos:
            for query in video.queries:
                assert query.text == " ".join(query.text.split())
                assert all(0 <= start < end <= video.duration for start, end in query.windows)
    notes = []
    queries.apart(splits, notes)
    assert notes == (["val and test share 4,885 videos"] if dataset == "activitynet_moments" else [])


def test_real_forms_agree(real, shared_data, tmp_path):
    """Charades-STA and TACoS say the same in both of their forms, query ids included."""
    for dataset, pattern in (("charades_sta", "*.jsonl"), ("tacos", "*.jsonl")):
        folder = tmp_path / dataset
        folder.mkdir()
        for path in (shared_data / dataset).glob(pattern):
            shutil.copy(path, folder)
        other = DATASETS[dataset].read(folder, collections.Counter(), subset=False)
        assert other == real(dataset)[0]


def test_real_highlights(real):
    """Ratings stand as in the file, and rated clips are those of the windows."""
    videos, n = real("qvhighlights")[0]["val"], 0
    assert moments.annotators(videos) == 3
    for video in videos:
        assert video.name.startswith(video.source + "_") and len(video.source) == 11  # an id of YouTube
        for query in video.queries:
            inside = [i for start, end in query.windows for i in range(int(start) // 2, int(end) // 2)]
            assert sorted(inside) == query.clips and len(query.scores) == len(query.clips)
            n += len(query.clips)
    assert n > 10_000


def features(folder, name, lengths, width, kind="npz"):
    """Synthetic features of videos, seeded by their names; gives them by video."""
    (folder / name).mkdir()
    made = {}
    for video, rows in lengths.items():
        rng = np.random.default_rng(list(f"{name} {video}".encode()))
        made[video] = rng.standard_normal((rows, width)).astype(np.float32)
        path = folder / name / f"{video}.{kind}"
        np.save(path, made[video]) if kind == "npy" else np.savez(path, features=made[video])
    return made


SEEN = {"qvhighlights": 2.0, "charades_sta": 1.0, "tacos": 2.0, "activitynet_moments": None}


@pytest.mark.parametrize("dataset", SEEN)
def test_prepared_from_real_annotations(dataset, real, shared_data, tmp_path):
    """A handful of videos of every split with synthetic features: records are what the annotations say."""
    splits, length = real(dataset)[0], SEEN[dataset]
    some = {split: videos[:: len(videos) // 3][:3] for split, videos in splits.items()}
    chosen = {video.name: video for videos in some.values() for video in videos}
    rows = {name: round(video.duration / (length or 0.3)) for name, video in chosen.items()}
    clip, slow = features(tmp_path, "clip", rows, 6), features(tmp_path, "slow", rows, 4, "npy")
    folder = shared_data / REAL[dataset][0]
    options = {"features": f"clip={tmp_path}/clip,slowfast={tmp_path}/slow", "subset": True}
    content = prepare.prepare(dataset, tmp_path / "root", source=folder, options=options, progress=False)
    there = {split: sum(video.name in chosen for video in videos) for split, videos in splits.items()}
    assert {split: n["visuals"] for split, n in content["splits"].items()} == there
    about = content["moments"]
    assert about["clip_length"] == length and about["annotators"] == (3 if dataset == "qvhighlights" else 0)
    assert about["backbones"] == [
        {"name": "clip", "dim": 6, "normalise": "l2"},
        {"name": "slowfast", "dim": 4, "normalise": "l2"},
    ]
    assert about["text_features"] is None and content["visual"]["shape"] == [None, 10] and not content["quarantined"]
    builder = tfds.builder_from_directory(tmp_path / "root" / dataset / "1.0.0")
    for split, videos in some.items():
        found = {record["name"].decode(): record for record in builder.as_data_source(split=split)}
        assert len(content["missing"][split]) == len(splits[split]) - len(found)
        for video in videos:
            record = found[video.name]
            assert [text.decode() for text in record["text"]] == [query.text for query in video.queries]
            assert [name.decode() for name in record["text_name"]] == [query.name for query in video.queries]
            windows = np.array([window for query in video.queries for window in query.windows]).reshape(-1, 2)
            np.testing.assert_array_equal(record["windows"], windows)
            assert record["n_windows"].tolist() == [len(query.windows) for query in video.queries]
            np.testing.assert_allclose(record["clip_length"], length or video.duration / rows[video.name], rtol=1e-6)
            want = [backbones.l2(clip[video.name]), backbones.l2(slow[video.name])]
            np.testing.assert_array_equal(record["visual"], np.concatenate(want, axis=1).astype(np.float16))
            if about["annotators"]:
                assert record["saliency_clips"].tolist() == sum((query.clips for query in video.queries), [])
                assert record["saliency_scores"].tolist() == sum((query.scores for query in video.queries), [])


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def line(qid, vid="A_b_0.0_20.0", duration=20, windows=((2, 6),), **more):
    about = {"qid": qid, "query": f"query {qid}", "vid": vid, "duration": duration}
    return about | ({} if windows is None else {"relevant_windows": [list(pair) for pair in windows]}) | more


def rated(qid, vid="A_b_0.0_20.0", **more):
    return line(qid, vid, relevant_clip_ids=[1, 2], saliency_scores=[[1, 2, 3], [4, 4, 4]], **more)


@pytest.fixture
def highlights(tmp_path):
    """QVHighlights of six training videos and one of val, 10 rows of 2 s each, with text features."""
    names = [f"v{i}_0.0_20.0" for i in range(6)]
    lines(tmp_path / "highlight_train_release.jsonl", *(rated(i, name) for i, name in enumerate(names)), rated(9))
    lines(tmp_path / "highlight_val_release.jsonl", rated(7, "w_0.0_20.0"), rated(8, "w_0.0_20.0"))
    everyone = dict.fromkeys([*names, "A_b_0.0_20.0", "w_0.0_20.0"], 10)
    features(tmp_path, "clip", everyone, 4)
    features(tmp_path, "slow", everyone, 3, "npy")
    (tmp_path / "words").mkdir()
    for qid in range(10):
        tokens = np.arange(1, 1 + (2 + qid) * 5, dtype=np.float32).reshape(-1, 5)
        name = f"qid{qid}" if qid % 2 else qid  # both are in use
        np.savez(tmp_path / "words" / f"{name}.npz", last_hidden_state=tokens, pooler_output=np.ones(5))
    return tmp_path


def run(folder, root="root", **options):
    asked = {"features": "clip=clip,slow=slow", "text_features": "words", "subset": True} | options
    asked = {key: value for key, value in asked.items() if value != "leave"}
    return prepare.prepare("qvhighlights", folder / root, source=folder, options=asked, progress=False)


def test_text_features(highlights):
    content = run(highlights)
    assert content["moments"]["text_features"] == {"dim": 5, "normalise": "l2"}
    record = tfds.builder_from_directory(highlights / "root/qvhighlights/1.0.0").as_data_source(split="val")[0]
    assert record["n_text_features"].tolist() == [9, 10] and record["text_features"].dtype == np.float16
    tokens = np.arange(1, 46, dtype=np.float32).reshape(-1, 5)
    np.testing.assert_array_equal(record["text_features"][:9], backbones.l2(tokens).astype(np.float16))
    np.testing.assert_allclose(np.linalg.norm(record["text_features"].astype(float), axis=1), 1, atol=1e-3)
    assert record["saliency_scores"].tolist() == [[1, 2, 3], [4, 4, 4]] * 2 and record["source"] == b"w"
    assert content["options"]["text_features"] == "words" and content["options"]["features"] == "clip=clip,slow=slow"


def test_a_wrong_clip_length_is_an_error_that_names_the_right_one(highlights):
    with pytest.raises(ValueError, match=r"clip_length=1 is wrong for 8 of 8 videos: 10 rows .*clip_length=2 \(the"):
        run(highlights, clip_length=1)
    assert not (highlights / "root").exists()
    assert run(highlights, clip_length=None)["moments"]["clip_length"] is None
    with np.load(highlights / "root" / "train.index.npz") as index:
        assert index["clip_lengths"].tolist() == [2] * 7
    with pytest.raises(ValueError, match="seconds above 0, or null for duration / rows; got 0"):
        run(highlights, "other", clip_length=0)


@pytest.mark.parametrize("rows, duration, length, right", [
    (185, 30.96, 1.0, "0.166667"), (75, 150.0, 1.0, "2 "), (31, 30.96, 2.0, "1 "), (50, 65.0, 2.0, "1.3 "),
])  # fmt: skip
def test_likely_clip_lengths(rows, duration, length, right):
    with pytest.raises(ValueError, match=f"Likely right: --option clip_length={right}"):
        backbones.check_clip_length([rows] * 3, [duration] * 3, length, "set")
    backbones.check_clip_length([rows] * 3, [duration] * 3, float(right), "set")


def test_single_videos_that_do_not_fit_are_quarantined(highlights):
    features_of = np.ones((4, 4), np.float32)
    np.savez(highlights / "clip" / "v0_0.0_20.0.npz", features=features_of)  # 4 rows beside 10
    np.savez(highlights / "clip" / "v1_0.0_20.0.npz", features=np.ones((7, 4), np.float32))
    np.save(highlights / "slow" / "v1_0.0_20.0.npy", np.ones((7, 3), np.float32))  # 14 s of 20
    np.savez(highlights / "clip" / "v2_0.0_20.0.npz", features=np.full((10, 4), np.nan, np.float32))
    np.savez(highlights / "clip" / "v3_0.0_20.0.npz", features=np.ones((10, 5), np.float32))
    (highlights / "words" / "4.npz").unlink()
    (highlights / "slow" / "v5_0.0_20.0.npy").unlink()
    np.save(highlights / "slow" / "A_b_0.0_20.0.npy", np.ones((9, 3), np.float32))  # one row less is cut off
    content = run(highlights)
    assert content["missing"] == {"train": ["v5_0.0_20.0", *(f"v{i}_0.0_20.0" for i in range(5))]}
    reasons = [json.loads(one)["reason"] for one in (highlights / "root" / "quarantine.jsonl").open()]
    for reason, part in zip(
        reasons,
        [
            "train: backbones have different numbers of rows: clip 4, slow 10; at most 2 may be cut off",
            "train: 7 rows of clip_length 2 s make 14 s, the video is annotated with 20 s",
            "train: clip: 40 of 40 features are NaN or infinite",
            "train: clip: features have 5 numbers a row, most have 4",
            "train: no text features of query 4: neither qid4 nor 4",
        ],
        strict=True,
    ):
        assert reason == part
    with np.load(highlights / "root" / "train.index.npz") as index:
        assert index["names"].tolist() == ["A_b_0.0_20.0"] and index["lengths"].tolist() == [9]


def test_rated_clips_after_the_last_row_are_kept_and_counted(highlights):
    name = highlights / "highlight_train_release.jsonl"
    late = line(9, relevant_clip_ids=[1, 9], saliency_scores=[[1, 2, 3]] * 2)
    lines(name, late)
    np.save(highlights / "slow" / "A_b_0.0_20.0.npy", np.ones((9, 3), np.float32))
    content = run(highlights)
    assert content["moments"]["defects"] == {
        "train: rated clips after the last row of the features, kept as annotated": 1
    }
    with np.load(highlights / "root" / "train.index.npz") as index:
        assert index["saliency_clips"].tolist() == [1, 9]


def test_recipes_and_order_are_part_of_the_data(highlights):
    a = run(highlights, "a")
    b = run(highlights, "b", features="slow=slow,clip=clip", normalise="slow=none,text=none")
    assert [one["name"] for one in b["moments"]["backbones"]] == ["slow", "clip"]
    assert [one["normalise"] for one in b["moments"]["backbones"]] == ["none", "l2"]
    assert b["moments"]["text_features"]["normalise"] == "none" and a["fingerprint"] != b["fingerprint"]
    first, second = (
        tfds.builder_from_directory(highlights / name / "qvhighlights/1.0.0").as_data_source(split="val")[0]["visual"]
        for name in "ab"
    )
    np.testing.assert_array_equal(first[:, :4], second[:, 3:])
    np.testing.assert_array_equal(second[:, :3], np.load(highlights / "slow/w_0.0_20.0.npy").astype(np.float16))
    with pytest.raises(ValueError, match="normalise is 'L2'; expected l2 or none"):
        run(highlights, "c", normalise="L2")
    with pytest.raises(ValueError, match="names slowfast; there are: clip, slow, text"):
        run(highlights, "c", normalise="slowfast=none")


def test_names_of_features():
    assert backbones.named("clip=a/b,slow=c*") == {"clip": "a/b", "slow": "c*"}
    assert backbones.named("a/clip_features,x/s.npz") == {"clip_features": "a/clip_features", "s": "x/s.npz"}
    assert backbones.named("/data/x=1/feats") == {"feats": "/data/x=1/feats"}
    for wrong in ("clip=", "a,b,,", "f,x/f.npz"):
        with pytest.raises(ValueError, match="NAME=PATH"):
            backbones.named(wrong)


def h5_of_2dtan(folder, names, width, own=None):
    with h5py.File(folder / f"{names[0]}.hdf5", "w") as file:
        for name in names:
            file[f"{name}/{own}" if own else name] = np.ones((20, width), np.float32)
    return f"c3d={names[0]}.hdf5"


def test_features_of_2dtan(tmp_path):
    """One h5: names with `.avi`, or a group a video with `c3d_features` in it; frames become seconds."""
    about = {
        "fps": 29.4,
        "num_frames": 588,
        "timestamps": [[147, 294], [200, 600]],
        "sentences": [" He cuts. ", "He eats."],
    }
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps({f"s1-{split}.avi": about}))
    asked = {"features": h5_of_2dtan(tmp_path, [f"s1-{s}.avi" for s in ("train", "val", "test")], 3), "subset": True}
    content = prepare.prepare(
        "tacos", tmp_path / "a", source=tmp_path, options=asked | {"clip_length": 1.0}, progress=False
    )
    assert content["moments"]["backbones"] == [{"name": "c3d", "dim": 3, "normalise": "l2"}]
    with np.load(tmp_path / "a" / "val.index.npz") as index:
        assert index["windows"].tolist() == [[147 / 29.4, 294 / 29.4], [200 / 29.4, 588 / 29.4]]
        assert index["names"].tolist() == ["s1-val"] and index["text_names"].tolist() == ["s1-val_0", "s1-val_1"]
        assert index["text_bytes"].tobytes() == b"He cuts.He eats." and index["durations"].tolist() == [588 / 29.4]
    about = {"duration": 20.0, "timestamps": [[6, 2], [3, 3]], "sentences": ["a", "b"]}
    (tmp_path / "train.json").write_text(json.dumps({"v_x": about}))
    for split in ("val", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps({"v_y": about | {"timestamps": [[1, 2], [3, 30]]}}))
    asked["features"] = h5_of_2dtan(tmp_path, ["v_x", "v_y"], 3, "c3d_features")
    content = prepare.prepare("activitynet_moments", tmp_path / "b", source=tmp_path, options=asked, progress=False)
    assert content["splits"]["train"] == {"visuals": 1, "texts": 1, "max_length": 20}
    with np.load(tmp_path / "b" / "train.index.npz") as index:
        assert index["windows"].tolist() == [[2, 6]] and index["clip_lengths"].tolist() == [1]
    assert "val and test share 1 videos" in content["notes"]


BROKEN = {
    "json": ("{", "line 1: no JSON"),
    "keys": ({"qid": 1}, 'line 1: expected {"qid": …'),
    "windows": (line(1, windows=[(1, 2, 3)]), "expected windows"),
    "duration": (line(1, duration=0), "duration must be seconds above 0"),
    "ratings": (
        line(1, relevant_clip_ids=[1], saliency_scores=[[1], [2]]),
        "1 relevant_clip_ids and 2 saliency_scores",
    ),
    "ids": (line(1, relevant_clip_ids=[1, 1], saliency_scores=[[1], [2]]), "each once"),
    "empty": ("", "has no line"),
}


@pytest.mark.parametrize("row, reason", BROKEN.values(), ids=BROKEN)
def test_broken_lines_are_errors(row, reason, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(row if isinstance(row, str) else json.dumps(row))
    with pytest.raises(ValueError) as error:
        queries.from_lines(path, "train", collections.Counter())
    assert reason in str(error.value)


def test_defects_are_mended_and_counted(tmp_path):
    path, defects = tmp_path / "x.jsonl", collections.Counter()
    rows = [line(1), line(1), line(2, windows=[(-1, 3), (5, 30)]), line(3, windows=[(6, 2)]), line(4, windows=None)]
    lines(path, *rows, line(5, query=" two  dogs "), line(6, query="…"), line(7, "other", windows=[(30, 40)]))
    videos = queries.tidy(queries.from_lines(path, "train", defects), "train", defects)
    assert [video.name for video in videos] == ["A_b_0.0_20.0"]
    assert {query.name: query.windows for query in videos[0].queries} == {
        "1": [(2, 6)], "2": [(0, 3), (5, 20)], "4": [], "5": [(2, 6)]
    }  # fmt: skip
    assert videos[0].queries[-1].text == "two dogs" and sum(defects.values()) == 12
    assert defects["train: queries that stand there twice, the later ones left out"] == 1
    assert defects["train: windows that started before 0 s, cut there"] == 1
    assert defects["train: windows that ended after their video, cut at its end"] == 2
    assert defects["train: windows without length inside their video, left out"] == 2
    assert defects["train: queries without a window, kept as such"] == 1
    assert defects["train: queries without a letter or digit, left out"] == 1
    lines(path, line(1), line(1, query="another"))
    with pytest.raises(ValueError, match="line 2: the qid 1 is there already, in line 1, with something else"):
        queries.from_lines(path, "train", defects)
    lines(path, line(1), line(2, duration=21))
    with pytest.raises(ValueError, match="duration of 21 s, in an earlier line 20 s"):
        queries.from_lines(path, "train", defects)
    lines(path, line(1, query="…"))
    with pytest.raises(ValueError, match="query 1 has neither letter nor digit"):
        queries.tidy(queries.from_lines(path, "val", defects), "val", defects)


def test_sets_are_whole_and_apart(highlights):
    with pytest.raises(ValueError, match="lacks highlight_test_with_gt.jsonl or highlight_test_release.jsonl"):
        run(highlights, subset=False)
    lines(highlights / "highlight_test_release.jsonl", line(1, "z_0.0_9.0", windows=None))
    with pytest.raises(
        ValueError, match="train has 7 queries, expected 7,218; val has 2 queries, expected 1,550; test"
    ):
        run(highlights, subset=False)
    lines(highlights / "highlight_val_release.jsonl", rated(7, "v1_20.0_40.0"))
    with pytest.raises(ValueError, match="1 videos of val are in train too, such as v1"):  # another piece of one video
        run(highlights)
    lines(
        highlights / "highlight_val_release.jsonl", line(7, "w_0.0_20.0", relevant_clip_ids=[1], saliency_scores=[[1]])
    )
    with pytest.raises(ValueError, match=r"saliency has 1 \(query 7\) and 3 \(query 9\) annotators"):
        run(highlights)


def test_absent_features_are_errors(highlights):
    with pytest.raises(ValueError, match="needs features of its clips: --features NAME=PATH"):
        run(highlights, features="leave")
    features(highlights, "else", {"x": 4}, 2)
    with pytest.raises(ValueError, match="none of the 7 videos of train .* has none of slow in clip"):
        run(highlights, features="clip=clip,slow=else")
    with pytest.raises(ValueError, match="nothing can be read of text .* such as x.*no text features of query"):
        run(highlights, text_features="else")
    with pytest.raises(ValueError, match="features pann: 'pann_features' is neither in"):
        run(highlights, features="clip=clip,pann=pann_features")


def test_charades_from_its_text_files(tmp_path):
    (tmp_path / "charades_sta_train.txt").write_text("A 0.0 4##one.\nA 5 5##two.\nB 1 99.5##three.\n")
    (tmp_path / "Charades_v1_train.csv").write_text("id,subject,length\nA,x,9.5\nB,x,8.25\n")
    defects = collections.Counter()
    train = charades_sta.read(tmp_path, defects, subset=True)["train"]
    assert [[(q.name, q.text, q.windows) for q in video.queries] for video in train] == [
        [("0", "one.", [(0, 4)])], [("1", "three.", [(1, 8.25)])]
    ]  # fmt: skip
    held = charades_sta.read(tmp_path, defects, subset=True, held_out=0.5)
    assert {split: len(videos) for split, videos in held.items()} == {"train": 1, "dev": 1}
    (tmp_path / "charades_sta_train.txt").write_text("A 0.0 4#one.\n")
    with pytest.raises(ValueError, match="line 1: expected VID start end##sentence, found 'A 0.0 4#one.'"):
        charades_sta.read(tmp_path, defects, subset=True)
    (tmp_path / "charades_sta_train.txt").write_text("C 0.0 4##one.\n")
    with pytest.raises(ValueError, match="no length of C"):
        charades_sta.read(tmp_path, defects, subset=True)


def own_line(name, split="train", duration=20, **more):
    texts = [
        {"text": f"a dog in {name}", "windows": [[2, 6], [9.5, 12]], "saliency": [0, 2, 0, 1, 0, 0, 0, 0, 0, 3]},
        {"text": "a cat", "id": f"cat-{name}", "windows": [[0, 4.5]]},
        "birds",
    ]
    return {"media": name, "split": split, "texts": texts, "duration": duration} | more


@pytest.fixture
def own_data(tmp_path):
    """Four videos of 10 rows with two backbones and token features."""
    names = ["a.mp4", "deep/b", "c", "d"]
    rows = [own_line(name, "val" if name == "d" else "train") for name in names]
    rows[1] |= {"source": "film", "shown": [[0, 9.5, "x.jpg"], [9.5, 20, "y.jpg"]]}
    lines(tmp_path / "captions.jsonl", *rows)
    np.savez(tmp_path / "clip.npz", names=np.array(names), feat=np.ones((4, 10, 3), np.float32))
    with h5py.File(tmp_path / "slow.h5", "w") as file:
        for i, name in enumerate(["a", "deep/b", "c", "d"]):
            file[name] = np.full((10 - i % 2, 2), i + 1, np.float32)
    (tmp_path / "words").mkdir()
    for qid in [f"{row}_{k}" for row in (1, 2, 3, 4) for k in (1, 3)] + [f"cat-{name}" for name in names]:
        path = tmp_path / "words" / f"{qid}.npy"
        path.parent.mkdir(exist_ok=True, parents=True)
        np.save(path, np.ones((3, 6), np.float32))
    return tmp_path


def run_own(folder, root="root", **options):
    asked = {"features": "clip=clip.npz,slow=slow.h5"} | options
    return prepare.prepare("folder", folder / root, source=folder, options=asked, progress=False)


def test_own_moments(own_data):
    content = run_own(own_data, clip_length=2.0, text_features="words")
    assert content["moments"] == {
        "annotators": 1,
        "clip_length": 2.0,
        "backbones": [
            {"name": "clip", "dim": 3, "normalise": "l2"},
            {"name": "slow", "dim": 2, "normalise": "l2"},
        ],
        "text_features": {"dim": 6, "normalise": "l2"},
        "defects": {
            "train: queries without a window, kept as such": 3,
            "val: queries without a window, kept as such": 1,
        },
    }
    assert content["visual"]["shape"] == [None, 5] and content["notes"] == [] and content["quarantined"] == 0
    with np.load(own_data / "root" / "train.index.npz") as index:
        assert index["text_names"].tolist() == [
            "1_1", "cat-a.mp4", "1_3", "2_1", "cat-deep/b", "2_3", "3_1", "cat-c", "3_3"
        ]  # fmt: skip
        assert index["sources"].tolist() == ["a.mp4", "film", "c"] and index["lengths"].tolist() == [10, 9, 10]
        assert index["n_windows"].tolist() == [2, 1, 0] * 3 and index["n_saliency"].tolist() == [3, 0, 0] * 3
        assert index["saliency_clips"].tolist() == [1, 3, 9] * 3
        assert index["saliency_scores"].tolist() == [[2], [1], [3]] * 3
        assert index["n_shown"].tolist() == [0, 2, 0] and index["shown_keys"].tolist() == ["x.jpg", "y.jpg"]
        assert index["shown"].tolist() == [[0, 9.5], [9.5, 20]] and index["durations"].tolist() == [20, 20, 20]
    record = tfds.builder_from_directory(own_data / "root/folder/1.0.0").as_data_source(split="train")[1]
    np.testing.assert_allclose(np.linalg.norm(record["visual"][:, :3].astype(float), axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(record["visual"][:, 3:], np.sqrt(0.5), atol=1e-3)
    assert record["n_text_features"].tolist() == [3, 3, 3] and record["shown_key"] == [b"x.jpg", b"y.jpg"]
    assert run_own(own_data, clip_length=2.0, text_features="words") == content  # made already
    with pytest.raises(ValueError, match="option clip_length"):
        run_own(own_data)


def test_own_clip_length(own_data):
    with pytest.raises(ValueError, match="clip_length=1 is wrong for 4 of 4 .*--option clip_length=2 "):
        run_own(own_data, clip_length=1.0)
    content = run_own(own_data)  # duration / rows
    assert content["moments"]["clip_length"] is None
    with np.load(own_data / "root" / "train.index.npz") as index:
        np.testing.assert_allclose(index["clip_lengths"], [2, 20 / 9, 2], rtol=1e-6)
    rows = [own_line(name) for name in ("a.mp4", "c", "d")]
    del rows[1]["duration"]
    lines(own_data / "captions.jsonl", *rows)
    content = run_own(own_data, "b", clip_length=2)
    with np.load(own_data / "b" / "train.index.npz") as index:
        assert index["durations"].tolist() == [20, 20, 20]
    content = run_own(own_data, "c")
    problem = json.loads((own_data / "c" / "quarantine.jsonl").read_text())
    assert problem["line"] == 2 and problem["reason"].startswith("has no duration: give one, or the clip length")


def test_own_features_without_a_name_are_called_by_their_file(own_data):
    content = run_own(own_data, features="clip.npz")
    assert content["moments"]["backbones"] == [{"name": "clip", "dim": 3, "normalise": "l2"}]
    plain = [own_line("c") | {"texts": ["a", "b"]}]
    lines(own_data / "captions.jsonl", *plain)
    content = run_own(own_data, "plain", features="clip.npz,slow.h5")  # nothing of moments: as ever
    assert content["moments"] is None and content["notes"] == ["features joined: clip.npz (3) + slow.h5 (2)"]
    record = tfds.builder_from_directory(own_data / "plain/folder/1.0.0").as_data_source(split="train")[0]
    np.testing.assert_array_equal(record["visual"], np.tile([1, 1, 1, 3, 3], (10, 1)))
    assert "clip_length" not in content["options"] and "n_windows" in record
    lines(own_data / "captions.jsonl", own_line("c") | {"source": "film", "texts": [{"text": "a", "id": 3}]})
    assert run_own(own_data, "told", features="clip.npz")["notes"] == [
        "1 × id of a text: left out of the records",
        "1 × source: left out of the records",
    ]


OWN_BROKEN = {
    "rows": (
        own_line("c") | {"duration": 60},
        "10 rows of clip_length 2 s make 20 s, the video is annotated with 60 s",
    ),
    "late": (own_line("c", texts=[{"text": "a", "windows": [[30, 31]]}]) | {"duration": 20}, "ends after the duration"),
    "saliency": (
        own_line("c", texts=[{"text": "a", "saliency": [1] * 5}]),
        "text 1: saliency of 5 clips, the features",
    ),
    "empty saliency": (own_line("c", texts=[{"text": "a", "saliency": [[]]}]), "saliency must be a list of numbers"),
    "features": (own_line("gone"), "no features of clip and slow"),
    "id": (own_line("c", texts=[{"text": "a", "id": 1.5}]), "text 1 of 1: id must be a text, found 1.5"),
    "source": (own_line("c", source=3), "source must be a text"),
    "shown": (own_line("c", shown=[[0, 3]]), 'shown must be [[start, end, "picture"], …]'),
    "shown times": (own_line("c", shown=[[3, 1, "x"]]), "shown: window [3, 1] must have 0 ≤ start < end"),
}


@pytest.mark.parametrize("row, reason", OWN_BROKEN.values(), ids=OWN_BROKEN)
def test_broken_own_moments_are_quarantined(row, reason, own_data):
    lines(own_data / "captions.jsonl", own_line("a.mp4"), own_line("d"), row)
    run_own(own_data, clip_length=2.0)
    problem = json.loads((own_data / "root" / "quarantine.jsonl").read_text())
    assert problem["line"] == 3 and reason in problem["reason"]


def test_own_moments_that_are_errors(own_data):
    with pytest.raises(ValueError, match="clip_length belong to features of clips"):
        prepare.prepare("folder", own_data / "x", source=own_data, options={"clip_length": 2.0}, progress=False)
    twice = own_line("c", texts=[{"text": "a", "id": "cat-d"}])
    lines(own_data / "captions.jsonl", own_line("d"), twice)
    with pytest.raises(ValueError, match="line 2: the id 'cat-d' of a text is there already, in line 1"):
        run_own(own_data)
    lines(own_data / "captions.jsonl", own_line("d", texts=[{"text": "a", "saliency": [[1, 2]] * 10}]), own_line("c"))
    with pytest.raises(ValueError, match=r"1 \(query 2_1\) and 2 \(query 1_1\) annotators"):
        run_own(own_data)
    lines(own_data / "captions.jsonl", own_line("x"), own_line("y"))
    with pytest.raises(ValueError, match="no line is usable\n.*line 1: x: no features of clip and slow"):
        run_own(own_data)
