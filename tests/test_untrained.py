"""A model as its weights are loaded: evaluated, indexed, searched, and its features written, without a run."""

import json
import sys

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import flags as absl_flags

from vlr_jax import config, extract, features, index, initial, main, opened, pipeline, prepare, sharding, tiles, train
from vlr_jax.types import Encoded

CONFIG = """
from ml_collections import ConfigDict


def get_config(arg=""):
    c = ConfigDict()
    c.data = dict(name="scenes", root={root!r}, split="train", options=dict(train=48, val=16, test=16))
    c.text = dict(name="words", length=12)
    c.model = dict(name="two_tower", dim=8, word_dim=8, text="mean")
    c.losses, c.optim = dict(info_nce=dict(temperature=0.1)), dict(name="adam", lr=1e-3)
    c.batch_size, c.steps = 8, 1
    c.init = [dict(name="test_untrained:load", path="nowhere.npz")]
    c.evals = dict(test=dict(name="retrieval", relevance="identity", examples=0, data=dict(split="test")))
    return c
"""


def load(path):
    """A file of `pretrained/`: variables as they are, by name."""
    with np.load(path) as archive:
        return {"params": {name: archive[name] for name in archive.files}}


class Builder(tfds.core.GeneratorBasedBuilder):
    """A gallery: features as wide as the scenes', and no texts."""

    name, VERSION = "gallery", tfds.core.Version("1.0.0")

    def __init__(self, *, source=None, **tfds_arguments):
        self.quarantine, self.fact_names = [], None
        super().__init__(**tfds_arguments)

    def _info(self):
        kinds = tfds.features
        record = {
            "name": kinds.Text(), "text": kinds.Sequence(kinds.Text()),
            "visual": kinds.Tensor(shape=(None, 64), dtype=np.float16, encoding="bytes"),
        }  # fmt: skip
        return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(record), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"gallery": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            rows = np.random.default_rng(i).normal(size=(1 + i, 64)).astype(np.float16)
            yield i, {"name": f"mine/{i}.jpg", "text": [], "visual": rows}


@pytest.fixture(scope="module")
def place(scenes_root, tmp_path_factory):
    """A folder with the config, weights of the whole model, and a prepared gallery."""
    folder = tmp_path_factory.mktemp("untrained")
    (folder / "zero.py").write_text(CONFIG.format(root=scenes_root))
    prepare.prepare("test_untrained:Builder", folder / "gallery", progress=False)
    data = dict(root=scenes_root, split="test")
    words = pipeline.tokenizer(dict(data=data, text=dict(name="words", length=12)))
    rng, shapes = np.random.default_rng(0), {"text_projection/kernel": (8, 8), "words/embedding": (words.size, 8)}
    shapes |= {"visual_projection/kernel": (64, 8), "visual_projection/bias": (8,), "text_projection/bias": (8,)}
    for name in ("a", "b"):
        np.savez(folder / f"{name}.npz", **{key: rng.normal(size=shape) for key, shape in shapes.items()})
    return folder


@pytest.fixture
def command(place, monkeypatch, capsys):
    """The command in this process: `command("eval", "--config.…")` → what it printed; errors are SystemExit."""
    values = absl_flags.FLAGS
    before = {flag.name: flag.value for flag in values.get_flags_for_module(main)}
    monkeypatch.setattr(main.sharding, "make_mesh", lambda axes: tiles.one_device())  # compiles faster

    def reset():
        for name in [name for name in values if name.startswith("config.")]:  # `--config.…` of the call before
            delattr(values, name)
        for name, value in before.items():
            values[name].value = value
        values["query"].value = []  # what other tests of this process asked for

    def run(mode, *more, weights="a"):
        reset()
        line = ["main", "--config", str(place / "zero.py"), f"--config.init[0].path={place / weights}.npz",
                "--workdir", str(place / "run"), "--mode", mode, *more]  # fmt: skip
        monkeypatch.setattr(sys, "argv", line)
        main.parse(line)
        main.main([])
        return capsys.readouterr().out

    yield run
    reset()


def vectors(place, name="a"):
    """The features of the visuals of `test` by hand: the maximum over regions of the linear map, at unit length."""
    found = load(place / f"{name}.npz")["params"]

    def encode(rows):
        x = (rows.astype(np.float32) @ found["visual_projection/kernel"] + found["visual_projection/bias"]).max(0)
        return x / np.linalg.norm(x)

    return encode


def test_evaluated(command, place, scenes_root):
    told = command("eval", "--output", str(place / "eval.json"))
    result = json.loads((place / "eval.json").read_text())
    assert result["selected_on"] == "nothing trained (weights as loaded)" and result["step"] == 0
    assert "nothing trained (weights as loaded)" in told and "t2v_R@1" in told and "chance" in told
    assert result["evals"]["test"]["visuals"] == 16 and result["evals"]["test"]["finite"]
    assert not (place / "run").exists()
    with pytest.raises(SystemExit, match="FileNotFoundError: .*absent.npz"):
        command("eval", weights="absent")


def test_indexed_and_searched(command, place):
    """A gallery without texts; the folder of the gallery is not needed to search."""
    with pytest.raises(SystemExit, match="no index.json; --mode index makes one"):
        command("search", "--query", "a red circle")
    assert "5 visuals" in command("index", "--data", str(place / "gallery"))
    found = index.load(place / "run" / "index")
    assert found.names == [f"mine/{i}.jpg" for i in range(5)]
    encode = vectors(place)
    for i, row in enumerate(found.encoded.pooled):
        rows = np.random.default_rng(i).normal(size=(1 + i, 64)).astype(np.float16)
        np.testing.assert_allclose(row, encode(rows), atol=1e-5)
    (place / "gallery").rename(place / "away")
    try:
        command("search", "--query", "a red circle", "--top_k", "3", "--output", str(place / "found.json"))
    finally:
        (place / "away").rename(place / "gallery")
    (results,) = json.loads((place / "found.json").read_text())
    assert len(results["results"]) == 3
    with pytest.raises(SystemExit, match="was built with model = .*build it again"):
        command("search", "--query", "a red circle", weights="b")
    with pytest.raises(SystemExit, match="has no split 'test'; splits: gallery"):
        command("index", "--data", str(place / "gallery"), "--split", "test")


def test_features_are_written_and_read(command, place, scenes_root, tmp_path):
    out = tmp_path / "features"
    told = command("features", "--output", str(out))
    assert "train: 48 visuals" in told and "test: 16 visuals" in told and "16 of them encoded now" in told
    read, encode = features.open_features(out), vectors(place)
    data = dict(root=scenes_root, split="test")
    split = pipeline.open_split(data, pipeline.tokenizer(dict(data=data, text=dict(name="words", length=12))))
    assert len(read.keys()) == 80 and set(split.names) <= set(read.keys())
    for i in (0, 15):
        array = read[split.names[i]]
        assert array.dtype == np.float16 and array.shape == (1, 8)
        np.testing.assert_allclose(array[0], encode(split.record(i)["visual"]), atol=1e-3)
    gone = out / f"{split.names[3]}.npy"
    before = gone.read_bytes()
    gone.unlink()
    assert "test: 16 visuals" in (told := command("features", "--output", str(out), "--split", "test"))
    assert "1 of them encoded now" in told and "train" not in told and gone.read_bytes() == before
    with pytest.raises(SystemExit, match="holds other features: model: there .*choose another --output"):
        command("features", "--output", str(out), weights="b")
    with pytest.raises(SystemExit, match="exists and holds no features"):
        command("features", "--output", str(place))
    with pytest.raises(SystemExit, match="needs --output FOLDER"):
        command("features")
    lines = [json.dumps({"media": name, "texts": ["a thing"]}) for name in split.names]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    content = prepare.prepare("folder", tmp_path / "root", source=tmp_path, options=dict(features=str(out)))
    assert content["visual"]["shape"] == [None, 8] and content["splits"]["train"]["visuals"] == 16


def test_default_workdir_of_a_path(command, place, monkeypatch):
    for argument, expected in (
        ("", "runs/zero"),
        (":smoke", "runs/zero-smoke"),
        (":/w/vit-b.32/", "runs/zero-w_vit-b.32"),
    ):
        line = ["main", "--config", f"{place / 'zero.py'}{argument}"]
        monkeypatch.setattr(sys, "argv", line)
        main.parse(line)
        assert main.default_workdir() == expected


def test_nothing_may_stay_random(place, scenes_root):
    namespace = {}
    exec((place / "zero.py").read_text(), namespace)
    plan = config.complete(namespace["get_config"]())
    plan["init"][0] |= dict(path=str(place / "a.npz"), only="(words|visual_projection)/.*")
    with pytest.raises(ValueError, match="2 of the model's 5 arrays .* random: params/text_projection/bias, .*kernel"):
        opened.untrained(plan, sharding.make_mesh({"data": -1}))
    plan["init"][0].pop("only")
    run = opened.untrained(plan, tiles.one_device())
    plan["evals"]["test"]["data"] = dict(root=str(place / "gallery"), split="gallery")
    with pytest.raises(ValueError, match="'gallery' has no texts: it can be indexed and searched"):
        train.make_evaluators(plan, run.task, run.tokenizer, tiles.one_device())
    with pytest.raises(ValueError, match="1 of the model's 1 arrays"):
        initial.whole([], {"params": {"scale": jax.ShapeDtypeStruct((3,), np.float32)}})


def test_rows_of_features():
    tokens = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    mask = np.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool)
    one = lambda i: Encoded(np.ones(3, np.float32), tokens[i], mask[i])
    assert extract.rows(one(0)).tolist() == tokens[0, [0, 2]].tolist() and extract.rows(one(0)).dtype == np.float16
    assert extract.rows(Encoded(np.ones(3, np.float32))).tolist() == [[1, 1, 1]]
    assert extract.rows(Encoded(np.ones(3, np.float32), tokens[1])).shape == (4, 3)
    with pytest.raises(ValueError, match="no token is under its mask"):
        extract.rows(one(1))
    with pytest.raises(ValueError, match="3 of 3 features are NaN"):
        extract.rows(Encoded(np.full(3, np.nan, np.float32)))


def test_names_stay_in_the_folder(tmp_path):
    folder = extract.claim(tmp_path / "out", {"model": "m"})
    (folder / "link").symlink_to(tmp_path)
    assert extract.place(folder, "dogs/1.jpg") == folder / "dogs" / "1.jpg.npy"
    for name in ("../a", "a/../../b", "/a", "a//b", "./a", "link/a", "a\0b"):
        with pytest.raises(ValueError, match="leads out of it or names no file"):
            extract.place(folder, name)
    with pytest.raises(ValueError, match="holds other features: model: there 'm', here 'n'"):
        extract.claim(folder, {"model": "n"})
    (folder / "features.json").write_text("{")
    with pytest.raises(ValueError, match="can't be read"):
        extract.claim(folder, {"model": "m"})
