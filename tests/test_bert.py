"""The BERT encoder and its weights, beside `transformers` (launch/golden_bert.py)."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import weights
from vlr_jax.layers.bert import Bert
from vlr_jax.pretrained import bert

GOLDEN = pathlib.Path(__file__).parent / "golden" / "bert_tiny.npz"
SIZES = dict(dim=16, layers=2, heads=2, hidden=24, positions=12, eps=1e-12, dropout=0.1, attention_dropout=0.1)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def state(golden):
    """The weights by their foreign names."""
    return {name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")}


def write(folder, state, config):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def named(golden):
    return json.loads(str(golden["config"]))


def test_output_and_gradients(golden, state):
    tree, left = weights.bert(state)
    assert left == ["pooler.dense.weight", "pooler.dense.bias"]
    grads = {name.removeprefix("grad/"): value for name, value in golden.items() if name.startswith("grad/")}
    expected, _ = weights.bert(grads)
    real = golden["mask"]
    with jax.enable_x64(True):
        model = Bert(59, **SIZES, dtype=np.float64)

        def objective(params):
            output = model.apply({"params": params}, golden["ids"], golden["mask"], train=False)
            return jnp.sum(output * golden["cotangent"]), output

        params = jax.tree.map(np.float64, tree)
        (_, output), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
        np.testing.assert_allclose(output[real], golden["output"][real], rtol=1e-9, atol=1e-9)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    jax.tree.map(close, jax.device_get(grads), expected)
    encode = jax.jit(lambda p: Bert(59, **SIZES).apply({"params": p}, golden["ids"], golden["mask"], train=False))
    np.testing.assert_allclose(encode(tree)[real], golden["output"][real], rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def made():
    """A model of one layer; ids, mask; and a compiled `(ids, mask, dropout's key or None) → output`."""
    model = Bert(20, **SIZES | dict(layers=1, dropout=0.5, attention_dropout=0.5))
    ids, mask = np.arange(8, dtype=np.int32).reshape(2, 4), np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    params = jax.jit(lambda: model.init(jax.random.key(0), ids, mask, train=False))()

    def encode(ids, mask, key=None, **fields):
        rngs = None if key is None else {"dropout": jax.random.key(key)}
        return model.clone(**fields).apply(params, ids, mask, train=key is not None, rngs=rngs)

    return model, ids, mask, jax.jit(encode, static_argnames=("dtype", "dropout", "attention_dropout"))


def test_what_is_behind_the_mask_changes_nothing(made):
    _, ids, mask, encode = made
    a, b = encode(ids, mask), encode(np.where(mask, ids, 19), mask)
    assert (a[mask] == b[mask]).all() and jnp.isfinite(encode(ids, np.zeros_like(mask))).all()


def test_dropout_and_half_precision(made):
    _, ids, mask, encode = made
    assert (encode(ids, mask, 0) != encode(ids, mask, 1)).any()
    of_weights, none = (encode(ids, mask, 0, dropout=0.0, attention_dropout=rate) for rate in (0.5, 0.0))
    assert (of_weights != none).any() and (none == encode(ids, mask)).all()
    half = encode(ids, mask, dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), encode(ids, mask), atol=0.06)


def test_refusals(made):
    model, ids, mask, _ = made
    for change, message in ((dict(heads=3), "3 heads can't share dim 16"), (dict(positions=3), "lower text.length")):
        other = model.clone(**change)
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(other.init, jax.random.key(0), ids, mask, train=False)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_folder(golden, state, tmp_path, capsys, prefix):
    named_state = {prefix + name: value for name, value in state.items()}
    named_state |= {"cls.predictions.bias": np.zeros(59, np.float32)} if prefix else {}
    folder = write(tmp_path, named_state, named(golden))
    assert bert.dims(folder) == SIZES
    (folder / "config.json").write_text(json.dumps(named(golden) | dict(attention_probs_dropout_prob=0.0)))
    assert bert.dims(folder) == SIZES | dict(attention_dropout=0.0)
    tree = bert.load(folder)
    assert jax.tree.all(jax.tree.map(np.array_equal, tree["params"], weights.bert(state)[0]))
    told = capsys.readouterr().err
    assert "pooler.dense" in told and ("cls.predictions" in told) == bool(prefix)


def test_older_names_of_layer_norms(state):
    older = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): a for n, a in state.items()
    }
    assert older.keys() != state.keys()
    assert jax.tree.all(jax.tree.map(np.array_equal, weights.bert(older)[0], weights.bert(state)[0]))


def test_pickled_weights_only_through_torch(golden, state, tmp_path):
    torch = pytest.importorskip("torch")
    (tmp_path / "config.json").write_text(json.dumps(named(golden)))
    torch.save({name: torch.tensor(value) for name, value in state.items()}, tmp_path / "pytorch_model.bin")
    loaded = bert.load(tmp_path)["params"]
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, weights.bert(state)[0]))


def test_broken_folders(golden, state, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        bert.load(tmp_path)
    config = named(golden)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="expected model.safetensors or pytorch_model.bin"):
        bert.load(tmp_path)
    write(tmp_path, state, config | dict(hidden_act="gelu_new"))
    with pytest.raises(ValueError, match="hidden_act='gelu_new', not 'gelu'"):
        bert.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="not the config of a BERT"):
        bert.dims(tmp_path)
    write(tmp_path, {"encoder.block.0.weight": np.zeros(2, np.float32)}, config)
    with pytest.raises(ValueError, match="nothing is known of encoder.block.0.weight"):
        bert.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        bert.load(tmp_path)
