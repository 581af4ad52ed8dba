"""Slideshows and their closed form on made-up photographs: own-data form, cuts, a map from words to pictures."""

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

BENCHMARKS = str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
slideshows = importlib.import_module("slideshows")
sys.path.remove(BENCHMARKS)

WORDS = ("dog", "beach", "snow", "ball")
TEXTS = ("a dog on snow", "a ball at the beach", "snow and a ball", "a dog at the beach")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """40 photographs whose features say which words are true of them, and slideshows of four each."""
    root, rng = tmp_path_factory.mktemp("slides"), np.random.default_rng(0)
    names = [f"{i}.jpg" for i in range(40)]
    true = np.array([[word in TEXTS[i % 4] for word in WORDS] for i in range(40)], float)
    features = 1 + np.concatenate([2 * true, rng.random((40, 4))], 1)
    np.savez(root / "features_global1280.npz", names=np.array(names), feat=features.astype(np.float16))
    lines = [{"media": n, "split": "train", "texts": [TEXTS[i % 4]]} for i, n in enumerate(names)]
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, first in (("train", 0), ("dev", 8)):
        shows = []
        for v in range(first, first + 8):
            images = [[5 * k, 5 * k + 5, names[(4 * v + k) % 40]] for k in range(4)]
            same = {"vid": f"{split}_{v}", "duration": 40, "clip_images": images, "jitter_seed": v}
            shows.append(
                same | {"qid": f"{v}", "query": TEXTS[v % 4], "relevant_windows": [[10 * (v % 4), 10 * (v % 4) + 10]]}
            )
        (root / f"{split}.jsonl").write_text("".join(json.dumps(show) + "\n" for show in shows))
    slideshows.make(root, root, root / "made", dim=6, noise=0.05, held_out=2)
    return root


def test_the_own_data_form(folders):
    lines = slideshows.lines_of(folders / "made" / "captions.jsonl")
    assert [line["split"] for line in lines] == ["train"] * 6 + ["val"] * 2 + ["dev"] * 8
    assert lines[0]["shown"][1] == [10.0, 20.0, "1.jpg"] and lines[0]["texts"][0]["windows"] == [[0, 10]]
    with np.load(folders / "made" / "features.npz") as file:
        assert file["feat"].shape == (16, 20, 6) and file["feat"].dtype == np.float16
        clips = file["feat"][0].astype(float)
    assert slideshows.segments(clips, cut=3.0) == [(0, 5), (5, 10), (10, 15), (15, 20)]
    with pytest.raises(SystemExit, match="holds slides already"):
        slideshows.make(folders, folders, folders / "made", dim=6, noise=0.05, held_out=2)


@pytest.mark.parametrize(
    ("how", "most", "least"), [({}, 100, 100), ({"given": True}, 100, 100), ({"random": True}, 75, 0)]
)
def test_the_closed_form_finds_what_words_say(folders, how, most, least):
    options = dict(slides=folders / "made", flickr8k=folders, dim=6, cut=3.0, ridge=0.01, given=False, random=False)
    found = slideshows.closed_form(argparse.Namespace(**options | how))
    assert least <= found["MR-full-R1@0.5"] <= most


def test_a_text_of_unknown_words_has_no_terms():
    tfidf = slideshows.TfIdf(["a dog", "a ball", "the dog"])
    assert tfidf(["xyz", "dog"]).toarray().any(1).tolist() == [False, True]
    np.testing.assert_allclose(np.linalg.norm(tfidf(["a dog"]).toarray()), 1)
