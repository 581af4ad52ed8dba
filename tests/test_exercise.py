"""The benchmark on exercise clips: its folds, vocabularies, baseline and table, on clips made up here."""

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np
import pytest

from vlr_jax import config, text
from vlr_jax.models.two_tower import Model

BENCHMARKS = str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
exercise = importlib.import_module("exercise")
sys.path.remove(BENCHMARKS)


@pytest.fixture
def source(tmp_path):
    """Clips whose features are the sum of their words' vectors."""
    rng, folder = np.random.default_rng(0), tmp_path / "source"
    folder.mkdir()
    words = [f"w{i}" for i in range(12)]
    vectors = rng.normal(size=(12, 16))
    picked = [rng.permutation(12)[:3] for _ in range(120)]
    lines = [{"media": f"{i:04}", "texts": [" ".join(words[w] for w in one)]} for i, one in enumerate(picked)]
    lines[0]["texts"] = ["seldom"]  # a word of one clip alone
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    feat = np.stack([vectors[one].sum(0) for one in picked])[:, None] + 0.1 * rng.normal(size=(120, 8, 16))
    np.savez(folder / exercise.FEATURES, ids=[line["media"] for line in lines], feat=feat.astype(np.float16))
    return folder


def test_folds(source):
    lines = exercise.read(source)
    assert np.bincount([line["fold"] for line in lines]).tolist() == [12] * 10
    tested = np.array([[role == "test" for role in exercise.roles(lines, fold, False)] for fold in range(10)])
    assert (tested.sum(0) == 1).all()
    final, dev = (exercise.roles(lines, 3, dev) for dev in (False, True))
    assert [final.count("train"), final.count("test")] == [108, 12]
    assert [dev.count("train"), dev.count("test"), dev.count("")] == [96, 12, 12]
    assert not any(a == "test" and b for a, b in zip(final, dev, strict=True))  # nobody sees test clips on the way


def test_a_fold_on_disk(source, tmp_path):
    lines = exercise.read(source)
    captions, vocabulary = exercise.write_fold(lines, lines[0]["fold"], False, tmp_path / "data")
    rows = [json.loads(line) for line in captions.read_text().splitlines()]
    assert [row["split"] for row in rows].count("test") == 12 and set(rows[0]) == {"media", "texts", "split"}
    words = text.tokenizer(dict(name="words", vocabulary=str(vocabulary), length=8), None)
    assert words.size == exercise.WORDS and words.encode("w3")[0][1] > 3
    assert words.encode("seldom")[0][1] == text.UNKNOWN  # of a test clip alone


def test_baseline_and_table(source):
    lines = exercise.read(source)
    found = exercise.baseline(lines, source, dev=False)
    assert len(found) == 10 and np.mean([one["R@1"] for one in found]) > 60
    shown = exercise.table({"ridge": found, "one": found[:1]})
    assert shown.splitlines()[2].startswith("| ridge | ") and " ± " in shown.splitlines()[2]
    assert " ± " not in shown.splitlines()[3]
    assert exercise.recalls(np.zeros((4, 4)))["R@1"] == 0  # ties


def test_the_plan_is_complete(source, tmp_path):
    options = argparse.Namespace(source=source, data=tmp_path / "data", dev=True)
    made = exercise.plan(exercise.read(source), options)
    assert len(made) == 10 * len(exercise.MODELS)
    assert all(config.complete(c.config) == c.config for c in made)
    assert len({exercise.runs.numbers.digest(c.config) for c in made}) == len(made)
    assert exercise.MODELS["two_tower"][1].keys() - {"name"} <= {*Model.__dataclass_fields__}
