"""Foreign weights: official checkpoints beside their own outputs, what is refused, and `config.init`."""

import argparse
import functools
import os
import pathlib
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import config, initial, opened, pipeline, sharding, train, weights
from vlr_jax.checkpoint import Checkpoints
from vlr_jax.models import rvse, two_tower
from vlr_jax.pretrained import run, vse
from vlr_jax.state import TrainState

FOLDER = pathlib.Path(__file__).parent / "golden"


def golden(name, prefix):
    """The arrays of a golden file, and its `<prefix>/img/<name>` as the state of a checkpoint."""
    with np.load(FOLDER / f"{name}.npz") as archive:
        arrays = dict(archive)
    named = {"img": "img_enc", "txt": "txt_enc"}
    parts = [key.split("/") for key in arrays if key.startswith(f"{prefix}/")]
    return arrays, {f"{named[side]}.{rest}": arrays[f"{prefix}/{side}/{rest}"] for _, side, rest in parts}


def official(state, torch):
    """The content of a file that the official codes save."""
    of = lambda side: {n.split(".", 1)[1]: torch.tensor(a) for n, a in state.items() if n.startswith(side)}
    options = argparse.Namespace(batch_size=128, learning_rate=5e-4, data_name="f30k_precomp", max_violation=True)
    return dict(epoch=3, model=[of("img_enc."), of("txt_enc.")], best_rsum=487.2, opt=options, Eiters=900)


def touch(model, batch):
    return model.encode_visual(batch), model.encode_text(batch)


def batch_of(g):
    lengths = g.get("image_lengths", np.full(len(g["images"]), g["images"].shape[1]))
    return {
        "visual": g["images"],
        "visual_mask": np.arange(g["images"].shape[1]) < lengths[:, None],
        "text": g["captions"],
        "text_mask": np.arange(g["captions"].shape[1]) < g["caption_lengths"][:, None],
    }


CASES = {
    "two_tower": ("two_tower", "param", "", two_tower.Model(20, 12, dim=8, word_dim=5), 'two_tower, text="gru"'),
    # 19 words and <mask>
    "rvse": ("rvse", "init", "eval0/", rvse.Model(19, 12, dim=8, word_dim=5), 'rvse, text="gru", visual="residual"'),
}


@pytest.mark.parametrize("case", CASES)
def test_official_checkpoint_gives_official_outputs(case, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    name, prefix, where, model, form = CASES[case]
    g, state = golden(name, prefix)
    torch.save(official(state, torch), tmp_path / "model_best.pth.tar")
    variables = vse.load(tmp_path / "model_best.pth.tar")
    batch = batch_of(g)
    has = jax.eval_shape(functools.partial(model.init, method=touch), jax.random.key(0), batch)
    given = initial.arrays([dict(name="vse", path=str(tmp_path / "model_best.pth.tar"))], has)
    assert len(given) == len(jax.tree.leaves(has)) == len(jax.tree.leaves(variables))
    told = capsys.readouterr().err
    assert ("bns.1.weight" in told) == (case == "rvse") and f"weights of {form}\n" in told
    visual, text = jax.jit(functools.partial(model.apply, method=touch))(variables, batch)
    np.testing.assert_allclose(visual.pooled, g[f"f32/{where}img_emb"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(text.pooled, g[f"f32/{where}txt_emb"], rtol=2e-5, atol=1e-6)


def test_other_files_hold_the_same(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    _, state = golden("two_tower", "param")
    parallel = {name.replace("_enc.", "_enc.module."): array for name, array in state.items()}
    expected, _ = vse.convert(state)
    np.savez(tmp_path / "a.npz", **parallel)
    safetensors.save_file(state, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        assert jax.tree.all(jax.tree.map(np.array_equal, vse.load(tmp_path / name), expected))


def test_a_bert_inside(capsys):
    """VSE∞ with BERT: every parameter of our model has its place in the checkpoint, and the other way round."""
    with np.load(FOLDER / "bert_tiny.npz") as archive:
        inner = {f"txt_enc.bert.{k[8:]}": v for k, v in archive.items() if k.startswith("weights/")}
    _, state = golden("rvse", "init")
    state = {name: array for name, array in state.items() if ".embed." not in name and ".rnn." not in name}
    state |= inner | {"txt_enc.linear.weight": np.zeros((8, 16)), "txt_enc.linear.bias": np.zeros(8)}
    tree, left = vse.convert(state)
    assert "txt_enc.bert.pooler.dense.weight" in left
    sizes = dict(dim=16, layers=2, heads=2, hidden=24, positions=12)
    model = rvse.Model(59, 12, dim=8, text="bert", mask_word=4, bert_sizes=sizes)
    batch = dict(
        visual=np.zeros((2, 3, 12), np.float32), visual_mask=np.ones((2, 3), bool),
        text=np.zeros((2, 4), np.int32), text_mask=np.ones((2, 4), bool),
    )  # fmt: skip
    has = jax.eval_shape(functools.partial(model.init, method=touch), jax.random.key(0), batch)
    shapes = functools.partial(jax.tree.map, lambda a: tuple(a.shape))
    assert shapes(tree) == shapes(has)
    assert vse.form(tree["params"]) == 'rvse, text="bert", visual="residual"'
    for features, hidden, expected in ((12, 12, '"mlp"'), (8, 8, '"residual" or "mlp"'), (12, 3, "unknown")):
        kernels = dict(visual_projection=np.zeros((features, 8)), mlp_hidden=np.zeros((hidden, 4)))
        params = {"visual_pool": {}} | {name: {"kernel": kernel} for name, kernel in kernels.items()}
        assert vse.form(params) == f'rvse, text="gru", visual={expected}'
    assert vse.form({"visual_pool": {}}) == 'rvse, text="gru", visual=unknown'


def test_what_is_no_vse_checkpoint(tmp_path):
    _, state = golden("two_tower", "param")
    with pytest.raises(ValueError, match=r"nothing is known of img_enc\.cnn\.features\.0\.weight"):
        vse.convert(state | {"img_enc.cnn.features.0.weight": np.zeros(3)})
    np.savez(tmp_path / "other.npz", visual=np.zeros(3))
    with pytest.raises(ValueError, match="no checkpoint of the VSE family.*found visual"):
        vse.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError, match="no file"):
        vse.load(tmp_path / "absent.pth")
    side = {"model.0.fc.weight": np.zeros((2, 3)), "model.1.embed.weight": np.zeros((4, 2)), "optimizer.0": np.zeros(1)}
    np.savez(tmp_path / "three.npz", **side | {"model.2.fc.weight": np.zeros(2), "model.10.x": np.zeros(2)})
    with pytest.raises(ValueError, match=r"text encoder\]; found model.2.fc.weight, model.10.x as well"):
        vse.load(tmp_path / "three.npz")
    np.savez(tmp_path / "two.npz", **side)
    assert vse.load(tmp_path / "two.npz")["params"].keys() == {"visual_projection", "words"}
    np.savez(tmp_path / "objects.npz", **{"img_enc.fc.weight": np.array([{}], dtype=object)})
    np.save(tmp_path / "one.npy", np.zeros(3))
    shutil.move(tmp_path / "one.npy", tmp_path / "one.npz")
    (tmp_path / "half.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:100])
    for name in ("objects", "one", "half"):
        with pytest.raises(ValueError, match="no whole archive of plain arrays"):
            weights.read(tmp_path / f"{name}.npz")


def test_damaged_files(tmp_path):
    """Cut short or with bytes changed, whatever the reader trips over becomes the promised error; some still read."""
    torch = pytest.importorskip("torch")
    arrays = {"img_enc.fc.weight": np.arange(60, dtype=np.float32)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    tensors = {"model": [{"fc.weight": torch.arange(60)}, {}]}
    torch.save(tensors, tmp_path / "new.pth")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    rng = np.random.default_rng(0)
    for path in sorted(tmp_path.iterdir()):
        whole, refused = path.read_bytes(), 0
        for i in range(60):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= rng.integers(1, 256)
            path.write_bytes(damaged if i % 2 else whole[: len(whole) * i // 60])
            try:
                weights.read(path)
            except ValueError as error:
                assert str(path) in str(error)
                refused += 1
        assert refused >= 30, path.name


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Ours:
    """Harmless, but a class that a reader would have to import."""


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_is_unpickled(tmp_path):
    """Whatever a pickle asks for beside tensors and options is refused before it runs."""
    torch = pytest.importorskip("torch")
    marker = tmp_path / "ran"
    for evil in (Evil(marker), Ours(), argparse.Namespace(inner=Evil(marker))):
        content = {"model": [{"fc.weight": torch.zeros(2)}, {}], "opt": evil}
        torch.save(content, tmp_path / "zip.pth")
        torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        (tmp_path / "plain.pkl").write_bytes(pickle.dumps(evil))
        for name in ("zip.pth", "old.pth", "plain.pkl"):
            with pytest.raises(ValueError, match="can't be read as weights only.*UnpicklingError.*you trust"):
                vse.load(tmp_path / name)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # it does run where nothing stands in its way
    assert marker.exists()


# ---- config.init

HAS = {
    "params": {"bert": {"words": {"embedding": jnp.zeros((3, 2))}, "places": jnp.zeros((4, 2))}, "scale": jnp.zeros(1)},
    "batch_stats": {"norm": {"mean": jnp.zeros(2)}},
}


def entry(tmp_path, tree, **more):
    """An entry whose file gives `tree`; the file's name is its path."""
    path = f"{tmp_path}/tree.npz"
    np.savez(path, **{name.replace("/", "|"): array for name, array in tree.items()})
    return dict(name=f"{__name__}:load_flat", path=path, **more)


def load_flat(path, times=1):
    """A loader from outside the library."""
    tree = {}
    for name, array in weights.read(path).items():
        weights.put(tree, name.replace("|", "/"), times * array)
    return tree


def test_into_only_and_options(tmp_path):
    tree = {"params/words/embedding": np.ones((3, 2)), "params/places": np.ones((4, 2))}
    given = initial.arrays([entry(tmp_path, tree, into="bert", times=3)], HAS)
    assert (
        sorted(given) == ["params/bert/places", "params/bert/words/embedding"]
        and given["params/bert/places"][0, 0] == 3
    )
    given = initial.arrays([entry(tmp_path, tree | {"params/more": np.ones(1)}, into="bert", only="words/.*")], HAS)
    assert sorted(given) == ["params/bert/words/embedding"]
    whole = {f"params/bert/{name[7:]}": array for name, array in tree.items()} | {"params/scale": np.ones(1)}
    assert len(initial.arrays([entry(tmp_path, whole | {"batch_stats/norm/mean": np.ones(2)})], HAS)) == 4


def test_leftovers_on_either_side_are_listed(tmp_path):
    with pytest.raises(ValueError) as error:
        initial.arrays(
            [entry(tmp_path, {"params/words/embedding": np.ones((5, 2)), "params/pooler": np.ones(2)}, into="bert")],
            HAS,
        )
    message = str(error.value)
    assert "only in the file: params/bert/pooler" in message and "only in the model: params/bert/places" in message
    assert "params/bert/words/embedding (file (5, 2), model (3, 2))" in message
    places = entry(tmp_path, {"params/places": np.ones((4, 2))}, into="bert", only="places")
    with pytest.raises(ValueError, match="gives what an entry before it gave: params/bert/places"):
        initial.arrays([places, places], HAS)
    with pytest.raises(ValueError, match="nothing in 'brt' that .* it has: bert, norm, scale"):
        initial.arrays([places | dict(into="brt")], HAS)
    with pytest.raises(ValueError, match="unknown key tmes in config.init .*valid keys: times"):
        initial.arrays([places | dict(tmes=2)], HAS)
    with pytest.raises(ValueError, match="No pretrained/clop.py; pretrained has: bert, clip, run, vse"):
        initial.arrays([dict(name="clop", path="x")], HAS)


@pytest.mark.parametrize("bad", [dict(name="bert"), [dict(name="bert")], [dict(path="x")], ["bert"]])
def test_config_refuses(small_config, bad):
    with pytest.raises(ValueError, match="config.init"):
        config.complete(small_config | dict(init=bad))


def test_a_run_begins_with_another(small_config, tmp_path, monkeypatch):
    """Step 0 has the other run's parameters; a run that goes on does not look for them again."""
    monkeypatch.setattr(train, "finish", lambda *_: None)
    # Nothing moves; the moments have holes where parameters are another group's.
    still = dict(name="adam", lr=1e-3, rules=[["words/.*", dict(lr=0.0)], [".*", dict(freeze=True)]])
    plan = small_config | dict(evals={}, best="", optim=still)
    tokenizer = pipeline.tokenizer(plan)
    task = train.make_task(plan, pipeline.spec(plan["data"], tokenizer))
    batch = next(pipeline.open_split(plan["data"], tokenizer).train(batch_size=2, seed=0))
    has = jax.eval_shape(lambda: task.init(jax.random.key(0), batch))
    rng = np.random.default_rng(0)
    source = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), has)
    config.claim(tmp_path / "first", plan)
    with Checkpoints(tmp_path / "first") as kept:
        kept.save(TrainState(np.int32(2), source["params"], {}, {}, {}), {})
    plan |= dict(seed=7, steps=1, init=[dict(name="run", path=str(tmp_path / "first"))])
    with pytest.raises(FileNotFoundError, match="holds no run"):
        train.train(plan | dict(init=[dict(name="run", path=str(tmp_path))]), tmp_path / "second")
    assert not (tmp_path / "second").exists()
    train.train(plan, tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    train.train(plan | dict(steps=2), tmp_path / "second")
    with Checkpoints(tmp_path / "second") as kept:
        assert kept.latest.latest_step() == 2
    assert jax.tree.all(jax.tree.map(np.array_equal, run.load(tmp_path / "second"), source))


@pytest.mark.slow
def test_a_run_with_bert_needs_its_folder_only_to_train(small_config, tmp_path):
    """Word pieces, sizes and weights of one folder; then the run is opened with the folder gone."""
    safetensors = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("tokenizers")
    with np.load(FOLDER / "bert_tiny.npz") as archive:
        g = dict(archive)
    folder = tmp_path / "bert"
    folder.mkdir()
    state = {key[8:]: value for key, value in g.items() if key.startswith("weights/")}
    safetensors.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(str(g["config"]))
    (folder / "vocab.txt").write_text("\n".join(g["vocabulary"]) + "\n", encoding="utf-8")
    plan = small_config | dict(
        text=dict(name="wordpiece", path=str(folder), length=12),
        model=dict(name="rvse", dim=8, text="bert", visual="mlp"),
        init=[dict(name="bert", path=str(folder), into="bert")],
        optim=dict(name="adamw", decay=1e-4, lr=1e-3, rules=[["bert/.*", dict(lr=0.1)]]),
        steps=2, evals={}, best="",
    )  # fmt: skip
    train.train(plan, tmp_path / "run")
    shutil.rmtree(folder)
    mesh = sharding.make_mesh({"data": -1})
    with jax.set_mesh(mesh):
        found = opened.restore(str(tmp_path / "run"), mesh)
    assert found.tokenizer.size == 59 and found.tokenizer.notes("a dog") == ""
    assert found.task.model.mask_word == 4 and found.task.model.bert_sizes["heads"] == 2
    moved = np.abs(found.variables["params"]["bert"]["places"] - g["weights/embeddings.position_embeddings.weight"])
    assert 0 < moved.max() < 1e-3  # two steps of a tenth of the learning rate from where it began
