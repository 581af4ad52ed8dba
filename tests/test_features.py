"""Precomputed features read the same from every kind of file, and only plain numbers are read."""

import sys

import h5py
import numpy as np
import pytest

from vlr_jax.features import find, join, open_features

RNG = np.random.default_rng(0)
SETS = {"vectors": RNG.standard_normal((3, 4)), "regions": RNG.standard_normal((3, 2, 4)).astype(np.float16)}
NAMES = ["a.jpg", "deep/b.jpg", "ünïcode"]


def write(kind, path, array):
    """The same set in one of the forms; gives the path to open."""
    if kind in ("npy", "npz"):
        for name, rows in zip(NAMES, array, strict=True):
            file = path / f"{name}.{kind}"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, rows) if kind == "npy" else np.savez(file, features=rows, boxes=np.zeros(4))
        return path
    if kind == "table":
        np.savez(path.with_suffix(".npz"), ids=np.array(NAMES), feat=array, mean=np.zeros(3))
        return path.with_suffix(".npz")
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        if kind == "h5":
            for name, rows in zip(NAMES, array, strict=True):
                file[name] = rows
        else:
            file["names"], file["features"] = NAMES, array
    return path.with_suffix(".h5")


@pytest.mark.parametrize("kind", ["npy", "npz", "table", "h5", "h5 table"])
@pytest.mark.parametrize("array", SETS.values(), ids=SETS)
def test_every_form_reads_the_same(kind, array, tmp_path):
    features = open_features(write(kind, tmp_path / "set", array))
    assert sorted(features.keys()) == sorted(NAMES)
    assert all(name in features for name in NAMES) and "c" not in features
    for name, rows in zip(NAMES, array, strict=True):
        np.testing.assert_array_equal(features[name], rows.reshape(-1, 4))
        assert features[name].dtype == array.dtype


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"names": NAMES, "feat": np.zeros((2, 4))}, r"must pair up"),
        ({"names": NAMES[:2] * 2, "feat": np.zeros((4, 4))}, "2 names stand there twice: a.jpg"),
        ({"names": NAMES, "vectors": np.zeros((3, 4))}, "feat | features; it has: names, vectors"),
        ({"names": NAMES, "ids": NAMES, "feat": np.zeros((3, 4))}, "exactly one of names | ids"),
        ({"names": np.array(NAMES, object), "feat": np.zeros((3, 4))}, "Python objects"),
    ],
)
def test_bad_tables(arrays, message, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        open_features(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((2, 3), np.int64), "floating-point numbers, found int64"),
        (np.zeros((1, 2, 3)), r"found \(1, 2, 3\)"),
        (np.zeros((0, 3)), r"found \(0, 3\)"),
        (np.array([{}, 1], object), "Python objects"),
    ],
)
def test_bad_items(array, message, tmp_path):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=message):
        open_features(tmp_path)["x"]


def test_broken_files(tmp_path):
    for name, opened in {"f/x.npy": "f", "f2/x.npz": "f2", "x.npz": "x.npz", "x.h5": "x.h5"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"PK\3\4 not a real file")
        with pytest.raises(ValueError, match="x.n|x.h5"):
            open_features(tmp_path / opened)["x"]
    for name in ("absent.npz", "text.txt"):
        with pytest.raises(ValueError, match="a folder of"):
            open_features(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no .npy or .npz"):
        open_features(tmp_path / "empty")


def test_h5_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"vlr_jax\[h5\]"):
        open_features(tmp_path / "x.h5")


def test_joined_features():
    vector, rows = np.array([[1, 2]], np.float16), np.arange(6, dtype=np.float16).reshape(3, 2)
    assert join([vector, rows]).tolist() == [[1, 2, 0, 1], [1, 2, 2, 3], [1, 2, 4, 5]]
    assert join([rows, rows, vector])[2].tolist() == [4, 5, 4, 5, 1, 2]
    np.testing.assert_array_equal(join([rows]), rows)
    assert join([vector, vector]).shape == (1, 4) and join([vector, rows]).dtype == np.float16
    with pytest.raises(ValueError, match="features to join have 3 and 2 rows; expected equal numbers, or one vector"):
        join([rows, rows[:2]])
    assert find({"a": vector}, "a.jpg") is vector and find({"b.jpg": rows, "b": vector}, "b.jpg") is rows
    with pytest.raises(ValueError, match="no features of that name"):
        find({"a": vector}, "c.jpg")
