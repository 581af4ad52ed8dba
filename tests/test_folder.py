"""The dataset `folder`: what is read, what is quarantined, what is refused — with line numbers."""

import json
import subprocess
import sys
import tarfile

import h5py
import numpy as np
import pytest

from vlr_jax import media, prepare
from vlr_jax.data.folder import Builder

RNG = np.random.default_rng(0)
FEATURES = {f"{i}.jpg": RNG.standard_normal((2, 4)).astype(np.float32) for i in range(6)}
GOOD = [
    {"media": f"{i}.jpg", "split": "train" if i < 4 else "test", "texts": [f"dog {i}", f"a Dog {i}"]} for i in range(6)
]


def lines(folder, objects):
    """Writes captions.jsonl; a str is written as it is."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in objects)
    (folder / "captions.jsonl").write_text(text + "\n", encoding="utf-8")


def table(folder, features=FEATURES):
    """Features as a folder of npy, which may be ragged."""
    (folder / "feats").mkdir(exist_ok=True)
    for name, rows in features.items():
        np.save(folder / "feats" / f"{name}.npy", rows)
    return "feats"


def images(folder, names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(media.encode_jpeg(np.full((30, 60, 3), 30 * i, np.uint8)))


def build(folder, **options):
    return Builder(source=folder, data_dir=folder / "out", **options)


def reasons(builder):
    return {problem["line"]: problem["reason"] for problem in builder.quarantine}


def records(builder, split):
    return [record for _, record in builder._generate_examples(split)]


def test_good_data(tmp_path):
    lines(tmp_path, GOOD)
    builder = build(tmp_path, features=table(tmp_path))
    assert builder.quarantine == [] and builder.notes == [] and builder.counts == {"train": 4, "test": 2}
    first = records(builder, "test")[0]
    assert first.keys() == {"name", "text", "visual"} and first["text"] == ["dog 4", "a Dog 4"]
    np.testing.assert_array_equal(first["visual"], FEATURES["4.jpg"].astype(np.float16))
    assert first["visual"].dtype == np.float16


BROKEN = {
    "no json": ('{"media": "x.jpg", "texts": [', "unreadable: Expecting"),
    "no object": ("[1, 2]", "no JSON object"),
    "no texts": ({"media": "x.jpg", "split": "test", "text": "a dog"}, "lacks texts; it has: media, split, text"),
    "no media": ({"split": "test", "texts": ["a"]}, "lacks media"),
    "number media": ({"media": 7, "split": "test", "texts": ["a"]}, "media must be a text, found 7"),
    "number split": ({"media": "x.jpg", "split": 3, "texts": ["a"]}, "split must be a text"),
    "odd split": ({"media": "x.jpg", "split": "my split", "texts": ["a"]}, "letters, digits and _"),
    "absent split": ({"media": "x.jpg", "texts": ["a"]}, "has no split, while other lines have one"),
    "texts not list": ({"media": "x.jpg", "split": "test", "texts": "a dog"}, "list with at least one"),
    "no text": ({"media": "x.jpg", "split": "test", "texts": []}, "list with at least one"),
    "empty caption": ({"media": "x.jpg", "split": "test", "texts": ["a dog", " ", "b"]}, "text 2 of 3 is empty"),
    "signs only": ({"media": "x.jpg", "split": "test", "texts": ["…!"]}, "neither a letter nor a digit"),
    "number text": ({"media": "x.jpg", "split": "test", "texts": [5]}, "text 1 of 1 must be a text"),
    "surrogate": ('{"media": "x.jpg", "split": "test", "texts": ["a \\ud800"]}', "surrogates"),
    "duration": ({"media": "x.jpg", "split": "test", "texts": ["a"], "duration": "9"}, "duration must be"),
    "infinite": ('{"media": "x.jpg", "split": "test", "texts": ["a"], "duration": Infinity}', "duration must be"),
    "windows": ({"media": "x.jpg", "split": "test", "texts": [{"text": "a", "windows": [1, 2]}]}, "windows must be"),
    "backwards": ({"media": "x.jpg", "split": "test", "texts": [{"text": "a", "windows": [[5, 2]]}]}, "start < end"),
    "beyond": (
        {"media": "x.jpg", "split": "test", "duration": 9, "texts": [{"text": "a", "windows": [[2, 10]]}]},
        "after the duration of 9 s",
    ),
    "saliency": ({"media": "x.jpg", "split": "test", "texts": [{"text": "a", "saliency": ["x"]}]}, "saliency must be"),
    "attributes": (
        {"media": "x.jpg", "split": "test", "texts": ["a"], "attributes": [1]},
        "attributes must be an object",
    ),
    "attribute": (
        {"media": "x.jpg", "split": "test", "texts": ["a"], "attributes": {"k": {}}},
        "attribute 'k' must be",
    ),
    "no feature": ({"media": "x.jpg", "split": "test", "texts": ["a"]}, "no features of that name"),
}


@pytest.mark.parametrize("line, reason", BROKEN.values(), ids=BROKEN)
def test_broken_line_is_quarantined(line, reason, tmp_path):
    lines(tmp_path, [*GOOD[:5], "", line, GOOD[5]])
    builder = build(tmp_path, features=table(tmp_path))
    assert list(reasons(builder)) == [7] and reason in reasons(builder)[7]
    assert builder.counts == {"train": 4, "test": 2}
    with pytest.raises(ValueError, match="1 problems\n  line 7: "):
        build(tmp_path, features="feats", strict=True)


@pytest.mark.parametrize(
    "rows, reason",
    [
        (np.full((2, 4), np.nan), "8 of 8 features are NaN or infinite"),
        (np.array([[1, np.inf, 0, 0]]), "1 of 4 features"),
        (np.full((2, 4), 1e5), "reach 100000; they are stored as float16"),
        (np.zeros((2, 5)), "5 numbers a row, 5 of 6 have 4"),
        (np.zeros((2, 4), np.int32), "floating-point numbers, found int32"),
        (np.zeros((2, 2, 4)), r"found (2, 2, 4)"),
        (np.zeros((0, 4)), r"found (0, 4)"),
    ],
)
def test_broken_features_are_quarantined(rows, reason, tmp_path):
    lines(tmp_path, GOOD)
    builder = build(tmp_path, features=table(tmp_path, FEATURES | {"2.jpg": rows}))
    assert list(reasons(builder)) == [3] and reason in reasons(builder)[3]
    assert [r["name"] for r in records(builder, "train")] == ["0.jpg", "1.jpg", "3.jpg"]


def test_all_problems_come_in_one_error(tmp_path):
    lines(tmp_path, [*GOOD, GOOD[1], "{", {"media": "0.jpg"}])
    with pytest.raises(ValueError) as error:
        build(tmp_path, features=table(tmp_path, FEATURES | {"2.jpg": np.zeros(9)}), strict=True)
    assert str(error.value).count("\n") == 5
    for part in (
        "5 problems",
        "line 7: media '1.jpg' is there already, in line 2",
        "line 8: unreadable",
        "line 9: media '0.jpg' is there already",
        "line 9: 0.jpg: lacks texts",
        "line 3: 2.jpg: features have 9",
    ):
        assert part in str(error.value)


def test_repeated_media_are_always_an_error(tmp_path):
    lines(tmp_path, [*GOOD, GOOD[0] | {"split": "test"}])
    with pytest.raises(ValueError, match="line 7: media '0.jpg' is there already, in line 1"):
        build(tmp_path, features=table(tmp_path))


def test_errors_are_cut_at_fifty(tmp_path):
    lines(tmp_path, [{"media": f"{i}.jpg", "texts": ["."]} for i in range(80)])
    with pytest.raises(
        ValueError, match=r"80 problems; no line is usable\n  line 1: (.|\n)*line 50: .*\n  … and 30 more"
    ):
        build(tmp_path)


def test_no_common_width(tmp_path):
    lines(tmp_path, GOOD)
    with pytest.raises(ValueError, match=r"no common width; found 7 \(3 ×\), 4 \(3 ×\)"):
        build(tmp_path, features=table(tmp_path, FEATURES | {f"{i}.jpg": np.zeros((1, 7)) for i in range(3)}))


def test_missing_files(tmp_path):
    absent = tmp_path / "absent"
    for source, message in ((None, "needs a source"), (absent, "does not exist"), (tmp_path, "no .jsonl file")):
        with pytest.raises(ValueError, match=message):
            Builder(source=source, data_dir=tmp_path / "out")
    lines(tmp_path, GOOD)
    for options in ({"features": "absent.npz"}, {"media": "images*.tar"}, {"captions": "x.jsonl"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} '.*' is neither in"):
            build(tmp_path, **options)
    np.savez(tmp_path / "f.npz", names=list(FEATURES)[:5], feat=np.zeros((6, 4)))
    with pytest.raises(ValueError, match="must pair up"):
        build(tmp_path, features="f.npz")


def test_which_jsonl(tmp_path):
    lines(tmp_path, GOOD)
    (tmp_path / "captions.jsonl").rename(tmp_path / "mine.jsonl")
    feats = table(tmp_path)
    assert build(tmp_path, features=feats).counts == build(tmp_path / "mine.jsonl", features=feats).counts
    (tmp_path / "other.jsonl").write_text("")
    with pytest.raises(ValueError, match="mine.jsonl, other.jsonl"):
        build(tmp_path, features=feats)
    assert build(tmp_path, features=feats, captions="mine.jsonl").counts == {"train": 4, "test": 2}


def test_every_form_of_features_gives_the_same_records(tmp_path):
    lines(tmp_path, GOOD)
    names, feat = list(FEATURES), np.stack(list(FEATURES.values()))
    np.savez(tmp_path / "t.npz", names=names, feat=feat)
    with h5py.File(tmp_path / "k.h5", "w") as file:
        for name, rows in FEATURES.items():
            file[name.removesuffix(".jpg")] = rows  # keys without the ending are found too
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["ids"], file["features"] = names, feat
    (tmp_path / "z").mkdir()
    for name, rows in FEATURES.items():
        np.savez(tmp_path / "z" / f"{name}.npz", rows)
    want = records(build(tmp_path, features=table(tmp_path)), "train")
    for form in ("t.npz", "k.h5", "t.h5", "z"):
        for a, b in zip(records(build(tmp_path, features=form), "train"), want, strict=True):
            assert a["name"] == b["name"] and a["text"] == b["text"]
            np.testing.assert_array_equal(a["visual"], b["visual"])


def test_joined_features(tmp_path):
    lines(tmp_path, GOOD)
    vectors = {name: RNG.standard_normal((1 if i else 3, 5)) for i, name in enumerate(FEATURES)}
    np.savez(tmp_path / "all.npz", names=list(FEATURES), feat=np.stack([v[0] for v in vectors.values()]))
    builder = build(tmp_path, features=f"all.npz,{table(tmp_path)}")
    assert builder.notes == ["features joined: all.npz (5) + feats (4)"] and builder.quarantine == []
    first = records(builder, "test")[0]["visual"]
    expected = np.concatenate([np.tile(vectors["4.jpg"][:1], (2, 1)), FEATURES["4.jpg"]], axis=1)
    np.testing.assert_array_equal(first, expected.astype(np.float16))
    assert {p.name for p in Builder.find_sources(source=tmp_path, features="all.npz,feats")} >= {"all.npz", "0.jpg.npy"}
    odd = {"1.jpg": np.ones((3, 4)), "2.jpg": np.ones((2, 3)), "3.jpg": np.full((2, 4), np.nan)}
    np.savez(tmp_path / "rows.npz", names=list(FEATURES)[:5], feat=np.ones((5, 2, 5)))
    builder = build(tmp_path, features=f"rows.npz,{table(tmp_path, FEATURES | odd)}")
    assert reasons(builder) == {
        2: "features to join have 2 and 3 rows; expected equal numbers, or one vector",
        3: "features have 5 + 3 numbers a row, 2 of 3 have 5 + 4",
        4: "8 of 8 features are NaN or infinite",
        6: "no features of that name, and all visuals of a set need them",
    }


def test_images(tmp_path):
    lines(tmp_path, [{"media": f"i/{i}.jpg", "texts": ["a dog"]} for i in range(5)] + [
        {"media": name, "texts": ["a dog"]} for name in ("../secret.jpg", "/etc/passwd", "clip.mp4", "gone.jpg")
    ])  # fmt: skip
    images(tmp_path, [f"i/{i}.jpg" for i in range(5)])
    whole = (tmp_path / "i/3.jpg").read_bytes()
    (tmp_path / "i/3.jpg").write_bytes(whole[:300])
    builder = build(tmp_path, image_size=20)
    found = reasons(builder)
    assert list(found) == [4, 6, 7, 8, 9] and "cannot decode the image" in found[4]
    assert "refused" in found[6] and "refused" in found[7]
    assert found[8] == found[9] == "no such media file"
    got = records(builder, "train")
    assert [r["name"] for r in got] == ["i/0.jpg", "i/1.jpg", "i/2.jpg", "i/4.jpg"]
    assert media.size(got[0]["frames"][0]) == (20, 40) and media.size(got[0]["thumb"]) == (20, 40)
    assert abs(int(media.decode(got[2]["frames"][0])[5, 5, 0]) - 60) <= 2


def test_features_do_not_need_media_and_thumbs_are_kept_where_there_are_some(tmp_path):
    lines(tmp_path, GOOD)
    feats = table(tmp_path)
    assert "thumb" not in build(tmp_path, features=feats).info.features.keys()
    images(tmp_path, ["pictures/0.jpg", "pictures/1.jpg"])
    (tmp_path / "pictures/1.jpg").write_bytes(b"broken")
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(tmp_path / "pictures", "pictures")
    for place in ("pictures", "p.tar"):
        builder = build(tmp_path, features=feats, media=place)
        thumbs = [record["thumb"] for record in records(builder, "train")]
        assert builder.quarantine == [] and media.size(thumbs[0]) == (30, 60) and thumbs[1:] == [b""] * 3
        assert builder.notes == ["1 × image of train that cannot be decoded: features kept, no thumbnail"]


def test_attributes_become_facts(tmp_path):
    extra = [{"colour": "red", "parts": ["leg", "arm"]}, {"colour": "blue", "n": 2}, {"ok": True}]
    lines(tmp_path, [good | {"attributes": a} for good, a in zip(GOOD, extra, strict=False)] + GOOD[3:])
    builder = build(tmp_path, features=table(tmp_path))
    assert builder.fact_names == ["colour=blue", "colour=red", "n=2", "ok=true", "parts=arm", "parts=leg"]
    got = records(builder, "train")
    np.testing.assert_array_equal(got[0]["visual_facts"], [False, True, False, False, True, True])
    assert not got[3]["visual_facts"].any()
    np.testing.assert_array_equal(got[0]["text_facts"], np.stack([got[0]["visual_facts"]] * 2))
    lines(tmp_path, [good | {"attributes": {"id": [f"{i}-{j}" for j in range(1000)]}} for i, good in enumerate(GOOD)])
    with pytest.raises(ValueError, match=r"6000 facts, 4096 are possible; most come from: id \(6000 values\)"):
        build(tmp_path, features="feats")


def test_moments_are_kept_and_the_rest_is_told(tmp_path):
    texts = [{"text": "a", "windows": [[0, 2], [3, 4.5]], "saliency": [[1, 2], [3]]}, "b"]
    lines(tmp_path, [GOOD[0] | {"texts": texts, "duration": 9, "vid": 3}, *GOOD[1:]])
    builder = build(tmp_path, features=table(tmp_path))
    first, second = records(builder, "train")[:2]
    np.testing.assert_array_equal(first["windows"], [[0, 2], [3, 4.5]])
    np.testing.assert_array_equal(first["n_windows"], [2, 0])
    assert first["duration"] == 9 and np.isnan(second["duration"]) and second["windows"].shape == (0, 2)
    assert builder.notes == [
        "1 × saliency: left out of the records",
        "1 × unknown key 'vid': left out of the records",
        "windows are kept, but these are no data for moment retrieval: 5 lines have no duration and no clip_length is "
        "given",
    ]


def test_bom_blank_lines_and_default_split(tmp_path):
    text = "\n\n".join(json.dumps({"media": f"{i}.jpg", "texts": ["ein Hünd"]}, ensure_ascii=False) for i in range(3))
    (tmp_path / "captions.jsonl").write_bytes(text.encode("utf-8-sig") + b"\n\xff\xfe bad\n")
    builder = build(tmp_path, features=table(tmp_path))
    assert builder.counts == {"train": 3} and list(reasons(builder)) == [6] and "unreadable" in reasons(builder)[6]


def test_no_jax_and_no_tensorflow(tmp_path):
    """Data workers and preparation load neither."""
    lines(tmp_path, GOOD)
    table(tmp_path)
    code = f"""
import sys
from vlr_jax import prepare
prepare.prepare("folder", "out", source={str(tmp_path)!r}, options=dict(features="feats"), progress=False)
assert not {{"jax", "tensorflow", "torch"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert prepare.read(tmp_path / "out")["splits"]["train"]["visuals"] == 4


def test_flickr8k_counts(shared_data):
    builder = Builder(source=shared_data / "flickr8k", features="features_global1280.npz", data_dir="/nowhere")
    assert builder.counts == {"train": 6000, "dev": 1000, "testA": 500} and builder.quarantine == []
    assert all(len(item.texts) == 5 for item in builder._items)
