"""models/rvse.py and its parts beside the official code's numbers: encodings, gradients, three training steps."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from vlr_jax import optim
from vlr_jax.layers import drop, gpo
from vlr_jax.layers.batch_norm import BatchNorm
from vlr_jax.models.rvse import Model, padded_to_longest
from vlr_jax.pretrained import vse
from vlr_jax.tasks.retrieval import Task

GOLDEN = pathlib.Path(__file__).parent / "golden"
CLOSE = {"f64": dict(rtol=1e-9, atol=1e-12), "f32": dict(rtol=2e-5, atol=1e-6)}
DTYPE = {"f64": np.float64, "f32": np.float32}
rng = np.random.default_rng(0)


@functools.cache
def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture
def official_codes(monkeypatch):
    """The place codes as that PyTorch rounded them: our own differ by a unit in the last place of float32."""
    codes = golden("gpo")["pe_1d"]
    np.testing.assert_allclose(gpo.place_codes(*codes.shape), codes, rtol=0, atol=1.2e-7)
    monkeypatch.setattr(gpo, "place_codes", lambda size, dim: codes[:size])


def torch_names(tree):
    """A gradient or parameter tree of ours by the official names, through the mapping of pretrained/vse.py."""
    names = [name for name in golden("rvse") if name.startswith("init/") and "bns.1" not in name]
    names = {name.removeprefix("init/"): golden("rvse")[name] for name in names}
    shown, ids = {}, {}
    for i, (name, array) in enumerate(names.items()):
        ids[float(i + 1)], shown[name.replace("/", "_enc.", 1)] = name, np.full(array.shape, i + 1.0)
    where, _ = vse.convert(shown)
    found = {}
    for path, mark in jax.tree_util.tree_leaves_with_path(where):
        leaf = functools.reduce(lambda t, k: t[k.key], path, tree)
        found[ids[float(np.ravel(mark)[0])]] = np.asarray(leaf).T if "embed" not in ids[np.ravel(mark)[0]] else leaf
    return found


@pytest.mark.parametrize("key", ["f64", "f32"])
def test_gpo_golden(key, official_codes):
    g = golden("gpo")
    params = {"linear": {"kernel": g["param/linear.weight"].T}}
    for ours, end in (("forward", ""), ("reverse", "_reverse")):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        params[ours] = {name: g[f"param/gru.{name}_l0{end}"].T for name in names}
    with jax.enable_x64(key == "f64"):
        cast = functools.partial(jnp.asarray, dtype=DTYPE[key])
        params, x = jax.tree.map(cast, params), cast(g["features"])
        mask = jnp.arange(9) < g["lengths"][:, None]
        pool = gpo.GPO(dtype=DTYPE[key])

        @jax.jit
        def run(params, x):
            def total(params, x):
                pooled = pool.apply({"params": params}, x, mask)
                weights = pool.apply({"params": params}, 9, method="weights")[g["lengths"]]
                return jnp.sum(pooled * cast(g["cotangent"])), (pooled, weights)

            return jax.grad(total, (0, 1), has_aux=True)(params, x)

        (d_params, d_x), (pooled, weights) = run(params, x)
    close = functools.partial(np.testing.assert_allclose, **CLOSE[key])
    close(pooled, g[f"{key}/pooled"])
    close(weights, g[f"{key}/pool_weights"][..., 0])
    close(d_x, g[f"{key}/grad_features"])
    close(d_params["linear"]["kernel"].T, g[f"{key}/grad/linear.weight"])
    for ours, end in (("forward", ""), ("reverse", "_reverse")):
        for name, found in d_params[ours].items():
            if (expected := g.get(f"{key}/grad/gru.{name}_l0{end}")) is not None:
                close(found.T, expected, err_msg=name)


@pytest.mark.parametrize("size", [5, gpo.COUNTED + 1])
def test_descending_is_a_sort(size):
    """Counted or sorted: NumPy's order, ties and all, with holes in the mask; the gradient goes where the value was."""
    x, mask = rng.integers(-3, 4, (3, size, 4)).astype(np.float32), rng.random((3, size)) < 0.7
    mask[1] = False
    d = rng.normal(size=x.shape).astype(np.float32)
    ordered, back = jax.vjp(lambda x: gpo.descending(x, mask), x)
    (d_x,) = back(jnp.asarray(d))
    expected, d_expected = np.zeros_like(x), np.zeros_like(x)
    for b in range(3):
        real = np.flatnonzero(mask[b])
        for c in range(4):
            order = real[np.argsort(-x[b, real, c], kind="stable")]
            expected[b, : len(real), c], d_expected[b, order, c] = x[b, order, c], d[b, : len(real), c]
    np.testing.assert_array_equal(ordered, expected)
    np.testing.assert_array_equal(d_x, d_expected)
    broken = np.asarray(gpo.descending(np.where(x == 0, np.nan, x), mask))
    np.testing.assert_array_equal(np.isnan(broken).any(1), ((x == 0) & mask[..., None]).any(1))


def train_golden(key):
    """What the golden file holds, made by our model, losses, terms and optimizer in one compiled step."""
    g, dtype = golden("rvse"), DTYPE[key]
    state = {name[5:].replace("/", "_enc.", 1): a for name, a in g.items() if name.startswith("init/")}
    variables = jax.tree.map(lambda a: jnp.asarray(a, dtype), vse.convert(state)[0])
    model = Model(20, 12, dim=8, word_dim=5, mask_word=0, region_dropout=0.0, word_dropout=0.0, dtype=dtype)
    config = dict(losses=dict(selhn=dict(margin=0.2, threshold=0.01)), relevance=dict(name="identity"))
    task = Task(model, config | dict(regularisers={}, query_chunk=0, encode_chunk=0))
    ids = jnp.arange(6, dtype=jnp.int32)
    batch = {
        "visual": jnp.asarray(g["images"], dtype), "visual_mask": jnp.arange(7) < g["image_lengths"][:, None],
        "text": jnp.asarray(g["captions"], jnp.int32), "text_mask": jnp.arange(9) < g["caption_lengths"][:, None],
        "visual_id": ids, "text_id": ids, "valid": jnp.ones(6, bool),
    }  # fmt: skip
    config = dict(name="adamw", lr=5e-4, decay=0.01, clip=2.0)
    tx, _ = optim.make(config, variables["params"], steps=3, steps_per_epoch=1)

    def names(encoded):
        return {"img_emb": encoded["visual"].pooled, "txt_emb": encoded["text"].pooled}

    @jax.jit
    def still(variables):
        both = lambda m: {"visual": m.encode_visual(batch), "text": m.encode_text(batch)}
        return names(model.apply(variables, method=both))

    @jax.jit
    def step(variables, slow):
        def loss(params):
            encoded, new = task._encode(variables | {"params": params}, batch, jax.random.key(0))
            value, _ = task.terms(model.similarity, encoded["visual"], encoded["text"], batch, step=0)
            return value, (new, names(encoded))

        (value, (new, encoded)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, slow = tx.update(grads, slow, variables["params"])
        variables = {"params": optax.apply_updates(variables["params"], updates)} | new
        return variables, slow, value, optax.tree.norm(grads), grads, encoded

    found, slow = {f"eval0/{name}": a for name, a in still(variables).items()}, jax.jit(tx.init)(variables["params"])
    for i in range(3):
        variables, slow, value, norm, grads, encoded = step(variables, slow)
        if i == 0:
            found |= {f"step0/{name}_train": a for name, a in encoded.items()}
            found |= {f"step0/grad/{name}": a for name, a in torch_names(variables | {"params": grads}).items()}
        found |= {f"step{i}/loss": value, f"step{i}/grad_norm_preclip": norm}
    found |= {f"after3/{name}": a for name, a in torch_names(variables).items()}
    return found | {f"after3/eval_{name}": a for name, a in still(variables).items()}


# A bias before a batch normalisation has no gradient but rounding, of which Adam in float32 makes whole steps.
MOVED_BY_ROUNDING = ("after3/img/mlp.layers.0.bias", "after3/img/mlp.bns.0.running_mean", "after3/eval_img_emb")


@pytest.mark.parametrize("key", ["f64", pytest.param("f32", marks=pytest.mark.slow)])
def test_three_training_steps_golden(key, official_codes):
    g = golden("rvse")
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    with jax.enable_x64(key == "f64"), jax.set_mesh(mesh):
        found = train_golden(key)
    expected = {name[4:]: a for name, a in g.items() if name.startswith(f"{key}/")}
    assert expected.keys() <= found.keys(), sorted(expected.keys() - found.keys())
    for name, value in expected.items():
        close = CLOSE[key]
        if key == "f32" and name in MOVED_BY_ROUNDING:
            close = dict(rtol=0, atol=2e-3 if name.endswith("bias") else 5e-4)
        np.testing.assert_allclose(found[name], value, **close, err_msg=name)


def test_batch_norm_is_torchs():
    """Statistics over the counted rows alone: biased to normalise, unbiased to keep; the same on 8 devices."""
    x, counts = rng.normal(1, 2, (16, 3)).astype(np.float32), np.arange(16) % 3 > 0
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, counts, train=True)
    assert (variables["batch_stats"]["mean"] == 0).all() and (variables["batch_stats"]["var"] == 1).all()
    apply = jax.jit(functools.partial(norm.apply, train=True, mutable=["batch_stats"]))
    y, new = apply(variables, x, counts)
    rows, stats = x[counts].astype(np.float64), new["batch_stats"]
    np.testing.assert_allclose(y, (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["mean"], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)
    still = norm.apply({**variables, **new}, x, None, train=False)
    np.testing.assert_allclose(still, (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5), rtol=1e-4, atol=1e-5)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put((x, counts), jax.sharding.NamedSharding(mesh, P("data")))
    for a, b in zip(jax.tree.leaves(apply(variables, *split)), jax.tree.leaves((y, new)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_padded_to_longest():
    """Every valid row counts as many elements as the longest valid one, its real ones among them."""
    mask = np.array([[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
    counted = np.asarray(padded_to_longest(mask, np.array([True, True, False, True])))
    assert counted.sum(1).tolist() == [3, 3, 0, 3] and counted[:2][mask[:2]].all()


def test_regions_dropped():
    mask = np.arange(6) < np.array([6, 1, 3, 0] * 500)[:, None]
    kept = np.asarray(drop.drop_elements(jax.random.key(0), mask, 0.2))
    assert not kept[~mask].any() and kept[mask[:, 0]].any(1).all() and kept[1::4, 0].all()
    assert abs(kept[0::4].mean() - 0.8) < 0.015
    assert (np.asarray(drop.drop_elements(jax.random.key(0), mask, 0.999)).sum(1) >= mask[:, 0]).all()


def drop_words(rate, lengths, protected=False, length=12):
    mask = np.arange(length) < np.asarray(lengths)[:, None]
    tokens = np.where(mask, 100 + np.arange(length), 0).astype(np.int32)
    options = dict(mask_word=50, vocabulary=51, protected=np.broadcast_to(protected, mask.shape))
    new, new_mask = map(np.asarray, drop.drop_words(jax.random.key(1), tokens, mask, rate, **options))
    return tokens, mask, new, new_mask


def test_words_dropped():
    """Rates; what stays keeps its order and moves up; random words are of the vocabulary."""
    _, mask, new, new_mask = drop_words(0.2, [12] * 4000)
    assert (new_mask == (np.arange(12) < new_mask.sum(1)[:, None])).all()
    total = mask.sum()
    masked, replaced = ((new == 50) & new_mask).sum(), ((new < 50) & new_mask).sum()
    shares = [masked / total, replaced / total, 1 - new_mask.sum() / total]
    np.testing.assert_allclose(shares, [0.1, 0.02, 0.08], atol=0.005)  # 1 in 51 random words is the mask itself
    for row, real in zip(new, new_mask, strict=True):
        assert (np.diff(row[real & (row >= 100)]) > 0).all()


def test_a_caption_never_becomes_empty():
    _, mask, new, new_mask = drop_words(0.999, [1, 2, 3, 0] * 500)
    assert (new_mask.any(1) == mask.any(1)).all()
    assert ((new_mask.sum(1) == 1) & (new[:, 0] >= 100)).any()  # the one that the guard left
    marks = np.isin(np.arange(12), (0, 11))
    _, _, new, new_mask = drop_words(0.999, [12] * 200, protected=marks)
    assert (new[:, 0] == 100).all() and (new[np.arange(200), new_mask.sum(1) - 1] == 111).all()


TINY = dict(vocabulary=20, visual_dim=6, dim=8, word_dim=4)
BATCH = {
    "visual": rng.normal(size=(5, 4, 6)).astype(np.float16), "visual_mask": np.ones((5, 4), bool),
    "text": rng.integers(0, 20, (5, 7)).astype(np.int32), "text_mask": np.ones((5, 7), bool), "valid": np.ones(5, bool),
}  # fmt: skip


def touch(model, batch):
    return model.encode_visual(batch), model.encode_text(batch)


@functools.cache
def started():
    model = Model(**TINY)
    return model, jax.jit(functools.partial(model.init, method=touch))(jax.random.key(0), BATCH)


@functools.cache
def training():
    """A compiled `(batch, key) → (encodings, statistics, gradients)`."""
    model, variables = started()

    @jax.jit
    def run(batch, key):
        def total(params):
            both = lambda m: (m.encode_visual(batch, train=True).pooled, m.encode_text(batch, train=True).pooled)
            options = dict(method=both, mutable=["batch_stats"], rngs={"dropout": key})
            encoded, new = model.apply({**variables, "params": params}, **options)
            return encoded[0].sum() + encoded[1].sum(), (encoded, new["batch_stats"]["mlp_norm"])

        grads, (encoded, stats) = jax.grad(total, has_aux=True)(variables["params"])
        return encoded, stats, grads

    return run


def test_dropout_and_statistics_are_trainings_alone():
    one, other = training()(BATCH, jax.random.key(1)), training()(BATCH, jax.random.key(2))
    for a, b in zip(one[0], other[0], strict=True):
        assert (a != b).any(axis=1).sum() > 2
    assert (one[1]["mean"] != 0).all()
    # Otherwise neither a key is asked for nor statistics are written: there is no key, and they cannot be.
    model, variables = started()
    jax.eval_shape(lambda: model.apply(variables, BATCH, method=touch, mutable=False))


def test_empty_rows_give_zero_and_finite_gradients():
    empty = BATCH | {"visual_mask": np.zeros((5, 4), bool), "text_mask": np.zeros((5, 7), bool)}
    encoded, _, grads = training()(empty, jax.random.key(0))
    assert all((a == 0).all() for a in encoded) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_parameters_of_each_form():
    start = lambda **fields: jax.eval_shape(lambda: Model(**TINY | fields).init(jax.random.key(0), BATCH, method=touch))
    forms = [start(visual=form)["params"] for form in ("residual", "mlp", "linear")]
    assert [form.get("mlp_hidden", {}).get("kernel", np.zeros(0)).shape for form in forms] == [(8, 4), (6, 4), (0,)]
    assert [form["words"]["embedding"].shape for form in forms] == [(21, 4)] * 3
    assert start(mask_word=2)["params"]["words"]["embedding"].shape == (20, 4)
    narrow = start(gru_dim=3)["params"]
    assert narrow["gru_forward"]["weight_hh"].shape == (3, 9) and narrow["text_projection"]["kernel"].shape == (3, 8)
    frames = BATCH | {"visual": np.zeros((5, 4, 8, 8, 3), np.uint8)}
    seen = lambda: Model(**TINY | dict(visual_dim=None, visual="mlp")).init(jax.random.key(0), frames, method=touch)
    assert jax.eval_shape(seen)["params"]["mlp_hidden"]["kernel"].shape == (192, 4)
    bias = np.asarray(started()[1]["params"]["mlp_out"]["bias"])  # torch's start: within 1 / sqrt(4)
    assert 0.1 < np.abs(bias).max() <= 0.5


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(visual="max"), "model.visual is 'max'; rvse has: residual, mlp, linear"),
        (dict(text="lstm"), "model.text is 'lstm'; rvse has: gru, bert"),
        (dict(word_dropout=1.0), "model.word_dropout is 1.0; expected a share from 0 to below 1"),
        (dict(text="bert"), "needs text.name='wordpiece' .its .MASK.., or model.mask_word"),
        (dict(text="bert", mask_word=20), "model.mask_word is 20; expected an id from 0 to 19"),
        (dict(text="bert", mask_word=4, bert_sizes=dict(width=8)), "has width; bert has: dim, layers, heads, hidden"),
        (dict(visual_dim=7), "wants features of 7; got float16"),
    ],
)
def test_errors_come_before_compilation(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: Model(**TINY | change).init(jax.random.key(0), BATCH, method="encode_visual"))
