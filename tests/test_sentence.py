"""Sentence vectors: the built-in encoder beside its formula, the user's own, and what is refused."""

import collections
import json
import sys
import types

import numpy as np
import pytest

from vlr_jax import sentence
from vlr_jax.text import split_words

TEXTS = {
    "train": [
        ["A dog runs on grass", "the puppy races over a lawn"],
        ["A dog sleeps", "a puppy naps"],
        ["dog beside a man", "The puppy with a man", "a man and his dog"],
        ["two cars on a road", "red cars in a street"],
        ["a car in the street", "one car stands on the road"],
    ],
    "test": [["a puppy", "a dog"], ["ζ η"], ["the road"]],
}
FLAT = {split: [text for own in visuals for text in own] for split, visuals in TEXTS.items()}


def write(encoder, tmp_path, texts=None, **options):
    return sentence.write(encoder, texts or TEXTS, tmp_path, **options)


def of(vectors, split="test"):
    return np.asarray(vectors[split], np.float64)


def lsa(dim):
    """The documented formula, in loops and one dense decomposition: the Gram matrices of all texts."""
    texts = FLAT["train"]
    has = collections.Counter(word for text in texts for word in set(split_words(text)))
    words = sorted(has)

    def row(text):
        x = np.array([(w in split_words(text)) * np.log((1 + len(texts)) / (1 + has[w])) for w in words])
        return x / (np.linalg.norm(x) or 1)

    sums = [sum(row(text) for text in own) for own in TEXTS["train"]]
    _, values, axes = np.linalg.svd(np.stack([x / np.linalg.norm(x) for x in sums]))
    every = np.stack([row(text) for split in TEXTS for text in FLAT[split]])
    found = every @ axes[:dim].T * np.sqrt(values[:dim])
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize("whole", [True, False])
def test_tfidf_is_its_formula(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(sentence, "DENSE", 2**22 if whole else 0)
    vectors, about = write("tfidf:3", tmp_path)
    assert about == {"encoder": "tfidf:3", "dim": 3, "origin": {"fitted on": "train", "texts": 11, "words": 26}}
    found = np.concatenate([of(vectors, split) for split in TEXTS])
    assert {v.dtype.name for v in vectors.values()} == {"float16"} and found.shape == (15, 3)
    expected = lsa(3)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=3e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.where(np.arange(15) == 13, 0, 1), atol=2e-3)
    np.testing.assert_array_equal(np.load(tmp_path / "test.vectors.npy"), vectors["test"])


def test_tfidf_knows_that_texts_of_a_visual_mean_the_same(tmp_path):
    puppy, dog, unknown, road = of(write("tfidf:3", tmp_path)[0])
    assert puppy @ dog > 0.9 > 0.3 > abs(puppy @ road)
    assert not unknown.any()


def test_tfidf_is_fitted_on_train_alone_and_always_the_same(tmp_path):
    (tmp_path / "b").mkdir()
    first = of(write("tfidf", tmp_path)[0], "train")
    again = of(write("tfidf", tmp_path / "b", {**TEXTS, "test": [["a dog in the road"] * 9]})[0], "train")
    assert first.tobytes() == again.tobytes() and first.shape[1] == 5  # no more than there are visuals
    with pytest.raises(ValueError, match="fitted on the split train; there are: test"):
        write("tfidf", tmp_path, {"test": TEXTS["test"]})
    with pytest.raises(ValueError, match="no word that tells them apart"):
        write("tfidf", tmp_path, {"train": [["a", "a"], ["a"]]})


def test_tfidf_on_real_captions(shared_data, tmp_path):
    """Captions of the same image are nearer than others, and more so than by the words that they share."""
    rows = list(map(json.loads, open(shared_data / "flickr8k" / "captions.jsonl", encoding="utf-8")))
    texts = {
        split: [r["texts"] for r in rows if r["split"] == split][:n] for split, n in (("train", 1500), ("dev", 100))
    }
    vectors = of(write("tfidf:64", tmp_path, texts)[0], "dev")
    words = [set(split_words(text)) for own in texts["dev"] for text in own]
    shared = np.array([[len(a & b) / len(a | b) for b in words] for a in words])
    owner = np.arange(500) // 5
    same, other = (owner[:, None] == owner) & ~np.eye(500, dtype=bool), owner[:, None] != owner

    def area(scores):
        best = np.sort(scores[other])
        return np.mean(np.searchsorted(best, scores[same], "left") + np.searchsorted(best, scores[same], "right")) / (
            2 * len(best)
        )

    assert area(vectors @ vectors.T) > max(0.9, area(shared) + 0.04)


RNG = np.random.default_rng(0)
OWN = {split: RNG.standard_normal((len(texts), 4)).astype(np.float32) * 9 for split, texts in FLAT.items()}
OWN["test"][1] = 0


def test_own_vectors(tmp_path):
    for split, array in OWN.items():
        np.save(tmp_path / f"vecs-{split}.npy", array)
    np.savez(tmp_path / "vecs.npz", **OWN)
    for name in ("vecs-{split}.npy", "vecs.npz"):
        vectors, about = write(f"file:{name}", tmp_path / ".." / tmp_path.name, source=tmp_path)
        assert about == {"encoder": f"file:{name}", "dim": 4, "origin": {}}
        for split, array in OWN.items():
            length = np.linalg.norm(array, axis=1, keepdims=True)
            np.testing.assert_allclose(of(vectors, split), array / np.where(length == 0, 1, length), atol=1e-3)
    assert [path.name for path in sentence.sources("file:vecs-{split}.npy", tmp_path)] == [
        "vecs-test.npy", "vecs-train.npy"
    ]  # fmt: skip
    names = [path.name for path in sentence.sources("file:vecs-{split}.npy", tmp_path, ("train", "dev"))]
    assert names == ["vecs-train.npy"]
    np.save(tmp_path / "one.npy", OWN["test"])
    assert of(write(f"file:{tmp_path}/one.npy", tmp_path, {"test": TEXTS["test"]})[0]).shape == (4, 4)


@pytest.mark.parametrize(
    "arrays, message",
    [
        (
            {"test": OWN["test"][:3]},
            r"split test: expected .* shape \(4, E\).* found float32 \(3, 4\).*option dev=0 keeps all",
        ),
        ({"test": OWN["test"][:, 0]}, r"found float32 \(4,\)"),
        ({"test": OWN["test"].astype(int)}, "found int64"),
        ({"test": np.where(OWN["test"] == 0, np.nan, OWN["test"])}, "1 of 4 rows are NaN or infinite"),
        ({"test": OWN["test"][:, :2]}, "one width in all splits, found {'train': 4, 'test': 2}"),
        ({"test": np.array([{}] * 4, object)}, "Object arrays cannot be loaded"),
        ({"val": OWN["test"]}, "there is no array 'test'; it has: train, val"),
    ],
)
def test_bad_vectors_of_the_user(arrays, message, tmp_path):
    np.savez(tmp_path / "vecs.npz", train=OWN["train"], **arrays)
    with pytest.raises(ValueError, match=message):
        write("file:vecs.npz", tmp_path, source=tmp_path)


def test_files_that_do_not_fit(tmp_path):
    np.save(tmp_path / "one.npy", OWN["train"])
    with pytest.raises(ValueError, match="one array, the splits are train, test: name a file a split"):
        write("file:one.npy", tmp_path, source=tmp_path)
    (tmp_path / "broken.npz").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(ValueError, match="broken.npz cannot be read"):
        write("file:broken.npz", tmp_path, source=tmp_path)
    with pytest.raises(ValueError, match="absent-.*npy is no such file"):
        sentence.sources("file:absent-{split}.npy", tmp_path)
    for name in ("word2vec", "tfidf:x", "tfidf:0", "file", "file:", ""):
        with pytest.raises(ValueError, match="expected one of: tfidf, tfidf:DIM, file:PATH"):
            sentence.parse(name)
    assert sentence.by_name("tfidf") == "tfidf:256" and sentence.by_name("file:/a/b.npz") == "file:b.npz"


OWN_MODULE = {"type": "sentence_transformers.models.Transformer"}


class Transformer:
    """As sentence_transformers has it: counts letters."""

    def __init__(self, path, *, local_files_only, trust_remote_code, model_kwargs):
        assert local_files_only and not trust_remote_code and model_kwargs == {"use_safetensors": True}

    def encode(self, texts, *, convert_to_numpy, show_progress_bar):
        return np.array([[text.count(letter) for letter in "aeiou"] for text in texts], np.float32)


def test_a_local_model(tmp_path, monkeypatch):
    folder = tmp_path / "mpnet"
    with pytest.raises(ValueError, match="is no folder with a model .nothing is downloaded"):
        sentence.sources(f"sentence-transformers:{folder}", None)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert sentence.sources("sentence-transformers:mpnet", tmp_path) == [folder / "config.json"]
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (folder / "modules.json").write_text(json.dumps([OWN_MODULE]))
    with pytest.raises(ValueError, match=r"pip install 'vlr_jax\[sentence\]'"):
        write(f"sentence-transformers:{folder}", tmp_path)
    fake = types.SimpleNamespace(SentenceTransformer=Transformer, __version__="9")
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    vectors, about = write(f"sentence-transformers:{folder}", tmp_path)
    assert about == {
        "encoder": "sentence-transformers:mpnet", "dim": 5, "origin": {"sentence_transformers": "9"}
    }  # fmt: skip
    np.testing.assert_array_equal(of(vectors)[1], np.float16([0.5**0.5, 0, 0, 0.5**0.5, 0]))  # "a dog"
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickled, which may run code"):
        write(f"sentence-transformers:{folder}", tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("modeling.py", "import os", "modeling.py is code"),
        ("1_Pooling/custom.py", "", "custom.py is code"),
        ("modules.json", [OWN_MODULE, {"type": "custom.Pool"}], "'custom.Pool'; expected types sentence_transformers"),
        ("modules.json", [{"type": "sentence_transformers_evil.Pool"}], "'sentence_transformers_evil.Pool'; expected"),
        ("modules.json", [{"path": "1_Pooling"}], "expected a list of modules, each with its type"),
        ("modules.json", None, "expected a list of modules, each with its type"),
    ],
)
def test_a_model_with_code_is_refused(name, content, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # it is refused before this is imported
    path = tmp_path / "model" / name
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        write("sentence-transformers:model", tmp_path, source=tmp_path)
