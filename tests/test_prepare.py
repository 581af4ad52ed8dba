"""Preparation: whole or not at all, once, never over something else; and what is written reads back."""

import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vlr_jax import media, prepare, records
from vlr_jax.data import scenes
from vlr_jax.data.folder import Builder

TEXTS = {"train": [["A dog's bowl", "dog, dog!"], ["ein Hünd"]], "test": [["a cat"], ["東京 cat", "b", "c"], ["d"]]}


@pytest.fixture
def source(tmp_path):
    """Two training and three test visuals with ragged features, pictures and attributes, and one broken line."""
    folder = tmp_path / "raw"
    (folder / "feats").mkdir(parents=True)
    rows, n = [], 0
    for split, visuals in TEXTS.items():
        for texts in visuals:
            name = f"{n}.jpg"
            rows.append({"media": name, "split": split, "texts": texts, "attributes": {"parity": str(n % 2)}})
            np.save(folder / "feats" / f"{name}.npy", np.full((n + 1, 8), n, np.float32))
            (folder / name).write_bytes(media.encode_jpeg(np.full((20, 40, 3), 40 * n, np.uint8)))
            n += 1
    rows.append({"media": "gone.jpg", "split": "test", "texts": ["gone"]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(source, root, **options):
    return prepare.prepare("folder", root, source=source, options={"features": "feats"} | options, progress=False)


def left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if p.name != "raw")


def test_contents(source, tmp_path):
    root = tmp_path / "deep" / "root"
    content = run(source, root)
    assert content == prepare.read(root) and os.listdir(root.parent) == ["root"]
    assert sorted(os.listdir(root)) == sorted(
        ["folder", "prepared.json", "quarantine.jsonl", "test.index.npz", "train.index.npz", "words.json"]
    )
    assert content["splits"] == {
        "train": {"visuals": 2, "texts": 3, "max_length": 2},
        "test": {"visuals": 3, "texts": 5, "max_length": 5},
    }
    assert content["visual"] == {"shape": [None, 8], "dtype": "float16"} and content["frames"] is None
    assert content["facts"] == ["parity=0", "parity=1"] and content["has_thumbs"] and content["quarantined"] == 1
    assert [s["name"] for s in content["sources"]][:2] == ["captions.jsonl", "0.jpg.npy"]
    words = json.loads((root / "words.json").read_text())
    assert words["split"] == "train"
    assert list(words["counts"].items()) == [("dog", 3), ("'s", 1), ("a", 1), ("bowl", 1), ("ein", 1), ("hünd", 1)]
    problem = json.loads((root / "quarantine.jsonl").read_text())
    assert problem == {
        "line": 6,
        "media": "gone.jpg",
        "reason": "no features of that name, and all visuals of a set need them",
    }
    text = prepare.summary(content, root)
    for part in (
        "train: 2 visuals, 3 texts, up to 2",
        "[R, 8] float16",
        "6 words",
        "1 broken items",
        "line 6: gone.jpg",
    ):
        assert part in text


def test_records_and_index_read_back(source, tmp_path):
    run(source, tmp_path / "root")
    written = tfds.builder_from_directory(tmp_path / "root" / "folder" / "1.0.0")
    for split, want in TEXTS.items():
        source_of_split = written.as_data_source(split=split)
        with np.load(tmp_path / "root" / f"{split}.index.npz", allow_pickle=False) as arrays:
            index = dict(arrays)
        raw, offsets = index["text_bytes"].tobytes(), index["text_offsets"]
        texts = [raw[a:b].decode() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        assert texts == sum(want, []) and index["texts"].tolist() == list(map(len, want))
        assert index["texts"].dtype == index["lengths"].dtype == np.int32 and offsets.dtype == np.int64
        for i, record in enumerate(source_of_split):
            n = int(record["name"].decode().removesuffix(".jpg"))
            assert record["name"].decode() == index["names"][i]
            assert [text.decode() for text in record["text"]] == want[i]
            np.testing.assert_array_equal(record["visual"], np.full((n + 1, 8), n, np.float16))
            assert record["visual"].dtype == np.float16 and index["lengths"][i] == n + 1
            assert isinstance(record["thumb"], bytes) and media.size(record["thumb"]) == (20, 40)
            assert record["visual_facts"].tolist() == [n % 2 == 0, n % 2 == 1]
            assert record["text_facts"].shape == (len(want[i]), 2) and record["text_facts"].dtype == bool


def test_frames_and_moments_read_back(source, tmp_path):
    line = {"media": "0.jpg", "duration": 9, "texts": ["a", {"text": "b", "windows": [[1, 2], [3, 4]]}]}
    (source / "captions.jsonl").write_text(json.dumps(line))
    content = run(source, tmp_path / "root", features=None)
    assert content["frames"] == {"count": 1, "size": [20, 40]} and content["visual"] is None
    record = tfds.builder_from_directory(tmp_path / "root/folder/1.0.0").as_data_source(split="train")[0]
    assert [media.size(frame) for frame in record["frames"]] == [(20, 40)]
    np.testing.assert_array_equal(record["windows"], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(record["n_windows"], [0, 2])
    assert record["duration"] == 9


def vectors_of(root, split):
    written = tfds.builder_from_directory(root / "folder" / "1.0.0").as_data_source(split=split)
    return [record["text_vectors"] for record in written]


def test_sentence_vectors(source, tmp_path):
    plain = run(source, tmp_path / "plain")
    root = tmp_path / "root"
    content = run(source, root, sentence_encoder="tfidf")
    about = {"encoder": "tfidf:256", "dim": 2, "origin": {"fitted on": "train", "texts": 3, "words": 6}}
    assert content["sentence"] == about and content["options"]["sentence_encoder"] == "tfidf:256"
    assert plain["sentence"] is None and "sentence_encoder" not in plain["options"]  # its fingerprint is as ever
    assert plain["fingerprint"] != content["fingerprint"]
    assert "sentence vectors: tfidf:256, 2 numbers, fitted on train" in prepare.summary(content, root)
    assert sorted(os.listdir(root)) == sorted(os.listdir(tmp_path / "plain"))
    for split, want in TEXTS.items():
        found = vectors_of(root, split)
        assert [v.shape for v in found] == [(len(texts), 2) for texts in want] and found[0].dtype == np.float16
    lengths = np.linalg.norm(np.concatenate(vectors_of(root, "test")).astype(float), axis=1)
    np.testing.assert_allclose(lengths, [1, 0, 0, 0, 0], atol=1e-3)  # of "a cat" one word is known
    assert run(source, root, sentence_encoder="tfidf:256") == content
    with pytest.raises(ValueError, match=r"option sentence_encoder \('tfidf:256' there, None asked for\)"):
        run(source, root)
    with pytest.raises(ValueError, match="expected one of: tfidf, tfidf:DIM, file:PATH"):
        run(source, tmp_path / "other", sentence_encoder="mpnet")


def test_own_sentence_vectors(source, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {split: rng.standard_normal((sum(map(len, texts)), 3)) for split, texts in TEXTS.items()}
    np.savez(source / "vecs.npz", **arrays)
    root = tmp_path / "root"
    content = run(source, root, sentence_encoder="file:vecs.npz")
    assert content["sources"][-1]["name"] == "vecs.npz" and content["sentence"]["encoder"] == "file:vecs.npz"
    for split, array in arrays.items():
        expected = array / np.linalg.norm(array, axis=1, keepdims=True)
        np.testing.assert_allclose(np.concatenate(vectors_of(root, split)), expected, atol=1e-3)
    assert run(source, root, sentence_encoder=f"file:{source}/vecs.npz") == content
    np.savez(source / "vecs.npz", **arrays | {"test": arrays["test"][1:]})
    with pytest.raises(ValueError, match="something else: sources. "):
        run(source, root, sentence_encoder="file:vecs.npz")
    with pytest.raises(ValueError, match=r"split test: expected .* shape \(5, E\).* quarantined have no texts"):
        run(source, tmp_path / "other", sentence_encoder="file:vecs.npz")
    assert left(tmp_path) == ["root"]
    for split, array in [*arrays.items(), ("val", np.zeros(3))]:  # there is no split val: its file does not count
        np.save(source / f"{split}.npy", array)
    content = run(source, tmp_path / "each", sentence_encoder="file:{split}.npy")
    assert [s["name"] for s in content["sources"][-2:]] == ["test.npy", "train.npy"]
    (source / "val.npy").unlink()
    assert run(source, tmp_path / "each", sentence_encoder="file:{split}.npy") == content
    with pytest.raises(ValueError, match="absent-{split}.npy is no such file"):
        run(source, tmp_path / "other", sentence_encoder="file:absent-{split}.npy")


def test_texts_before_records(source, tmp_path, monkeypatch):
    """A builder that does not tell its texts is asked for its records; one that tells others is found out."""
    want = {split: [list(texts) for texts in visuals] for split, visuals in TEXTS.items()}
    builder = Builder(source=source, features="feats", data_dir=tmp_path / "x")
    assert records.texts(builder) == want
    monkeypatch.delattr(Builder, "texts")
    assert records.texts(builder) == want
    world = scenes.Builder(train=3, val=2, test=0, data_dir=tmp_path / "y")
    told = records.texts(world)
    monkeypatch.delattr(scenes.Builder, "texts")
    assert told == records.texts(world) and list(map(len, told.values())) == [3, 2]
    monkeypatch.setattr(Builder, "texts", lambda self, split: want[split][:1], raising=False)
    with pytest.raises(ValueError, match="texts.split. are not those of its records: .., ..ein"):
        run(source, tmp_path / "root", sentence_encoder="tfidf")
    monkeypatch.setattr(Builder, "texts", lambda self, split: want[split] + [["more"]])
    with pytest.raises(ValueError, match="texts.split. are not those of its records: 4, 3"):
        run(source, tmp_path / "root", sentence_encoder="tfidf")
    assert left(tmp_path) == []


def test_idempotent(source, tmp_path, monkeypatch):
    first = run(source, tmp_path / "root")
    stamp = (tmp_path / "root/prepared.json").stat().st_mtime_ns
    monkeypatch.setattr(records, "write", lambda *_: pytest.fail("written twice"))
    elsewhere = source.rename(tmp_path / "moved")
    assert run(elsewhere, tmp_path / "root", features=str(elsewhere / "feats"), image_size=224) == first
    assert (tmp_path / "root/prepared.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="1 broken items .* not strict"):
        prepare.prepare("folder", tmp_path / "root", source=elsewhere, options={"features": "feats"}, strict=True)


def test_something_else_is_never_overwritten(source, tmp_path):
    run(source, tmp_path / "root")
    before = (tmp_path / "root/prepared.json").read_bytes()
    with pytest.raises(ValueError, match=r"option image_size \(224 there, 64 asked for\).* another --out"):
        run(source, tmp_path / "root", image_size=64)
    np.save(source / "feats/0.jpg.npy", np.ones((1, 8), np.float32))
    with pytest.raises(ValueError, match="something else: sources. "):
        run(source, tmp_path / "root")
    assert (tmp_path / "root/prepared.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="not a prepared folder"):
        run(source, tmp_path / "mine")
    assert left(tmp_path) == ["mine", "root"] and os.listdir(tmp_path / "mine") == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert run(source, tmp_path / "empty")["splits"]["train"]["visuals"] == 2


def test_unknown_names(source, tmp_path):
    with pytest.raises(ValueError, match="No data/foldr.py; data has: .*folder"):
        prepare.prepare("foldr", tmp_path / "root")
    with pytest.raises(ValueError, match="no option feature; it has: captions, features, media, image_size"):
        run(source, tmp_path / "root", feature="x")
    with pytest.raises(ValueError, match="1 problems\n  line 6: gone.jpg"):
        prepare.prepare("folder", tmp_path / "root", source=source, options={"features": "feats"}, strict=True)
    assert left(tmp_path) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, signal.SIGTERM, ValueError], ids=str)
def test_interruption_leaves_nothing(stop, source, tmp_path, monkeypatch):
    def interrupted(self, split, original=Builder._generate_examples):
        yield next(original(self, split))
        if stop is signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            raise stop("now")
        yield from original(self, split)

    monkeypatch.setattr(Builder, "_generate_examples", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((KeyboardInterrupt, SystemExit, ValueError)) as raised:
        run(source, tmp_path / "root")
    assert stop is not signal.SIGTERM or raised.value.code == 143
    assert left(tmp_path) == [] and signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    assert run(source, tmp_path / "root")["splits"]["test"]["visuals"] == 3


def test_killed_preparations_are_cleaned_up_and_living_ones_are_not(source, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    start = f"root.partial-{socket.gethostname()}-"
    for name in (f"{start}{dead.pid}", f"{start}{os.getppid()}", "root.partial-elsewhere-1", "root2.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    run(source, tmp_path / "root")
    assert left(tmp_path) == sorted(["root", f"{start}{os.getppid()}", "root.partial-elsewhere-1", "root2.partial"])


def test_full_disk_and_read_only_target(source, tmp_path, monkeypatch):
    """Injected, because tests may run as root, whom no read-only folder stops."""

    def full(self, path, examples):
        next(iter(examples))
        raise RuntimeError(f"write() failed: No space left on device; writing {path}; at byte 0")

    monkeypatch.setattr(tfds.core.writer.ExampleWriter, "write", full)
    with pytest.raises(OSError, match=f"Preparing {tmp_path}/root failed: .*No space left.* Nothing of it is left"):
        run(source, tmp_path / "root")
    monkeypatch.undo()

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", no_space)
    with pytest.raises(OSError, match="No space left") as raised:
        run(source, tmp_path / "root")
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.undo()

    def read_only(self, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(pathlib.Path, "mkdir", read_only)
    with pytest.raises(PermissionError, match=f"Preparing {tmp_path}/root failed: .*denied"):
        run(source, tmp_path / "root")
    monkeypatch.undo()
    assert left(tmp_path) == []


def test_a_faster_process_wins(source, tmp_path, monkeypatch):
    def overtaken(a, b, original=os.rename):
        if pathlib.Path(b) == tmp_path / "root":
            monkeypatch.undo()
            run(source, tmp_path / "other")
            original(tmp_path / "other", b)
        original(a, b)

    monkeypatch.setattr(os, "rename", overtaken)
    assert run(source, tmp_path / "root")["splits"]["train"]["texts"] == 3
    assert left(tmp_path) == ["root"]


def test_read_says_what_is_wrong(source, tmp_path):
    with pytest.raises(ValueError, match="does not exist; make it with: python -m vlr_jax.prepare"):
        prepare.read(tmp_path / "absent")
    with pytest.raises(ValueError, match="no prepared.json"):
        prepare.read(source)
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 99}', "format 99, this version"),
    ):
        (source / "prepared.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            prepare.read(source)


def test_command(source, tmp_path):
    command = [sys.executable, "-m", "vlr_jax.prepare", "--dataset", "folder", "--out", str(tmp_path / "root")]
    command += ["--source", str(source), "--features", "feats", "--option", "image_size=64"]
    command += ["--sentence_encoder", "tfidf:1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "QUARANTINED: 1" in done.stdout and "next: python -m vlr_jax.main" in done.stdout
    assert "writing train" in done.stderr and "TensorFlow" not in done.stderr and "I1" not in done.stderr
    assert prepare.read(tmp_path / "root")["options"]["image_size"] == 64
    assert prepare.read(tmp_path / "root")["sentence"]["dim"] == 1
    failed = subprocess.run([*command, "--strict"], capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 1 and "prepare: " in failed.stderr and "Traceback" not in failed.stderr
