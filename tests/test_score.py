"""`vlr_jax.score ranking` on files: the official numbers, and every way of being wrong."""

import json
import pathlib

import numpy as np
import pytest

from vlr_jax import protocols, score

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "evaluation.npz")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(protocols.PROTOCOLS, "small", protocols.Protocol(200, 5))
    monkeypatch.setitem(protocols.PROTOCOLS, "small-5fold", protocols.Protocol(200, 5, folds=5))
    return GOLDEN["n200/img_emb"].astype(np.float64) @ GOLDEN["n200/cap_emb"].astype(np.float64).T


def run(*arguments):
    return score.main(["ranking", *map(str, arguments)])


def values(result):
    kinds = ("R@1", "R@5", "R@10", "medR", "meanR")
    return [[result["metrics"][f"{d}_{k}"] for k in kinds] for d in ("v2t", "t2v")]


def test_official_numbers(small, tmp_path, capsys):
    np.save(tmp_path / "sims.npy", small)
    assert run("--scores", tmp_path / "sims.npy", "--protocol", "small", "--output", tmp_path / "new" / "out.json") == 0
    result = json.loads((tmp_path / "new" / "out.json").read_text())
    assert values(result) == [GOLDEN["n200/i2t_metrics"].tolist(), GOLDEN["n200/t2i_metrics"].tolist()]
    assert result["metrics"]["rsum"] == GOLDEN["n200/rsum"] and result["protocol"] == "small"
    assert (result["visuals"], result["texts"], result["nan"], result["finite"]) == (200, 1000, 0, True)
    assert result["metrics"].keys() == result["chance"].keys()
    printed = capsys.readouterr().out
    assert "rsum 84.30" in printed and "small: 200 visuals, 1,000 texts" in printed


def test_folds(small, tmp_path):
    np.savez(tmp_path / "sims.npz", scores=small)
    result = score.rank_file(tmp_path / "sims.npz", protocol="small-5fold")
    expected = GOLDEN["n200_fold5/mean_metrics"]
    np.testing.assert_allclose(np.ravel(values(result)), expected[:10], rtol=1e-12)
    assert result["metrics"]["rsum"] == pytest.approx(expected[10])


def test_own_ground_truth_and_float64(tmp_path, capsys):
    # Differences that float32 can't hold are no ties.
    scores = 1.0 + 1e-12 * np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    np.save(tmp_path / "sims.npy", scores)
    np.save(tmp_path / "owner.npy", np.array([[0, -1], [0, 1], [1, -1]], np.int32))
    assert run("--scores", tmp_path / "sims.npy", "--text_visual", tmp_path / "owner.npy") == 0
    result = score.rank_file(tmp_path / "sims.npy", text_visual=tmp_path / "owner.npy")
    assert result["metrics"]["v2t_R@1"] == result["metrics"]["t2v_R@1"] == result["metrics"]["v2t_mAP@R"] == 100
    assert result["tied"] == {"v2t": 0.0, "t2v": 0.0} and result["protocol"] == "none"


def test_nan_is_reported_and_counts_against_the_model(small, tmp_path, capsys):
    small[0] = np.nan
    np.save(tmp_path / "sims.npy", small.astype(np.float32))
    assert run("--scores", tmp_path / "sims.npy", "--protocol", "small", "--output", tmp_path / "out.json") == 0
    assert "1,000 scores are NaN" in capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["nan"] == 1000 and result["finite"] is False


def bad(tmp_path, array, *arguments, name="sims.npy"):
    np.save(tmp_path / name, array, allow_pickle=True)
    return run("--scores", tmp_path / name, *arguments)


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (np.zeros((200, 999), np.float32), ("--protocol", "small"), "found 200 visuals and 999 texts"),
        (np.zeros((1000, 200), np.float32), ("--protocol", "small"), "exchanged"),
        (np.zeros((200, 1000), np.float32), ("--protocol", "smal"), "No protocol 'smal'"),
        (np.zeros((200, 1000), np.float32), (), "Name a --protocol"),
        (np.zeros(200, np.float32), ("--protocol", "small"), "expected floats [visuals, texts]"),
        (np.zeros((200, 1000), np.int32), ("--protocol", "small"), "expected floats"),
        (np.array([[object()]]), ("--protocol", "small"), "without pickled objects"),
    ],
)
def test_bad_scores(small, tmp_path, capsys, array, arguments, message):
    assert bad(tmp_path, array, *arguments, "--output", tmp_path / "out.json") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("owner", "message"),
    [(np.zeros(3, np.int32), "one of 4 a text"), (np.zeros(4), "expected integers"), (np.full(4, 2), "have 2 rows")],
)
def test_bad_ground_truth(tmp_path, capsys, owner, message):
    np.save(tmp_path / "owner.npy", owner)
    assert bad(tmp_path, np.zeros((2, 4), np.float32), "--text_visual", tmp_path / "owner.npy") == 2
    assert message in capsys.readouterr().err


def test_bad_files(tmp_path, capsys):
    assert run("--scores", tmp_path / "absent.npy", "--protocol", "coco-5k") == 2
    assert "no file" in capsys.readouterr().err
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    assert run("--scores", tmp_path / "cut.npy", "--protocol", "coco-5k") == 2
    assert "can't be read" in capsys.readouterr().err
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    assert run("--scores", tmp_path / "two.npz", "--protocol", "coco-5k") == 2
    assert "expected one array" in capsys.readouterr().err
