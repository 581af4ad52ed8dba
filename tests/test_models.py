"""The contract of a model, checked on every file of `models/`, and what is particular to two_tower."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.models.two_tower import Model as TwoTower
from vlr_jax.resolve import choices, resolve

GOLDEN = pathlib.Path(__file__).parent / "golden" / "two_tower.npz"
TINY = dict(vocabulary=20, visual_dim=6, dim=8, word_dim=4)
OTHER = {"clip4clip": dict(text="gru", interaction="wti"), "prota": dict(text="gru", temporal_layers=1)}
rng = np.random.default_rng(0)
BATCH = {
    "visual": rng.normal(size=(5, 4, 6)).astype(np.float16),
    "visual_mask": np.arange(4) < np.array([4, 1, 3, 2, 4])[:, None],
    "text": rng.integers(0, 20, (5, 7)).astype(np.int32),
    "text_mask": np.arange(7) < np.array([7, 3, 1, 5, 2])[:, None],
}
FRAMES = {
    **BATCH,
    "visual": rng.integers(0, 256, (5, 2, 8, 8, 3)).astype(np.uint8),
    "visual_mask": np.arange(2) < np.array([2, 1, 2, 1, 2])[:, None],
}


def touch(model, batch):
    """Everything that has parameters."""
    return model.encode_visual(batch), model.encode_text(batch), model.temperature()


def make(model, batch=BATCH):
    """The variables, and a compiled `batch → (visual, text)`."""
    variables = jax.jit(functools.partial(model.init, method=touch))(jax.random.key(0), batch)
    return variables, jax.jit(lambda batch: model.apply(variables, batch, method=touch)[:2])


@functools.cache
def made(name):
    """Model `name` at the tiny sizes that it declares."""
    kind = resolve("models", name)
    declared = {field.name for field in dataclasses.fields(kind)}
    model = kind(**{key: value for key, value in TINY.items() if key in declared}, **OTHER.get(name, {}))
    return (model, *make(model))


def assert_padding_inert(encode, batch):
    """What lies behind the masks changes nothing."""
    garbage = dict(batch)
    for key in ("visual", "text"):
        mask = batch[f"{key}_mask"]
        mask = mask.reshape(mask.shape + (1,) * (batch[key].ndim - 2))
        garbage[key] = np.where(mask, batch[key], batch[key].dtype.type(19))
    for a, b in zip(encode(batch), encode(garbage), strict=True):
        assert (a.pooled == b.pooled).all()


RETRIEVAL = [name for name in choices("models") if hasattr(resolve("models", name), "encode_visual")]


@pytest.mark.parametrize("name", RETRIEVAL)
class TestContract:
    def test_encodings_are_normalised_float32(self, name):
        _, _, encode = made(name)
        for encoded in encode(BATCH):
            assert encoded.pooled.dtype == jnp.float32 and len(encoded.pooled) == 5
            np.testing.assert_allclose(jnp.linalg.norm(encoded.pooled, axis=1), 1, atol=1e-5)

    def test_padding_is_inert(self, name):
        assert_padding_inert(made(name)[2], BATCH)

    def test_similarity_is_float32_and_the_same_on_any_tile(self, name):
        model, variables, encode = made(name)
        visual, text = encode(BATCH)
        similarity = jax.jit(functools.partial(model.apply, variables, method="similarity"))
        scores = similarity(visual, text)
        assert "sim" in scores and all(s.shape == (5, 5) and s.dtype == jnp.float32 for s in scores.values())
        tile = similarity(jax.tree.map(lambda a: a[1:3], visual), jax.tree.map(lambda a: a[2:], text))
        for key in scores:
            np.testing.assert_allclose(tile[key], scores[key][1:3, 2:], atol=1e-6)

    def test_regularisers_are_scalars(self, name):
        model, variables, encode = made(name)
        assert all(jnp.shape(r) == () for r in model.apply(variables, *encode(BATCH), method="regularisers").values())


def test_golden_region_encoders():
    with np.load(GOLDEN) as golden:
        g = dict(golden)
    gru = {name: g[f"param/txt/rnn.{name}_l0"].T for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    params = {
        "visual_projection": {"kernel": g["param/img/fc.weight"].T, "bias": g["param/img/fc.bias"]},
        "words": {"embedding": g["param/txt/embed.weight"]},
        "gru": gru,
    }
    batch = {
        "visual": g["images"],
        "visual_mask": np.ones(g["images"].shape[:2], bool),
        "text": g["captions"],
        "text_mask": np.arange(g["captions"].shape[1]) < g["caption_lengths"][:, None],
    }
    for key, dtype, rtol, atol in (("f64", np.float64, 1e-9, 0), ("f32", np.float32, 2e-5, 1e-6)):
        with jax.enable_x64(key == "f64"):
            variables = {"params": jax.tree.map(lambda a: a.astype(dtype), params)}  # noqa: B023
            inputs = {**batch, "visual": batch["visual"].astype(dtype)}
            visual, text, _ = TwoTower(20, 12, 8, 5, dtype=dtype).apply(variables, inputs, method=touch)
        np.testing.assert_allclose(visual.pooled, g[f"{key}/img_emb"], rtol=rtol, atol=atol)
        np.testing.assert_allclose(text.pooled, g[f"{key}/txt_emb"], rtol=rtol, atol=atol)


def test_similarity_is_exact_where_arithmetic_is():
    from vlr_jax.types import Encoded

    v, t = rng.integers(-8, 9, (40, 16)), rng.integers(-8, 9, (30, 16))
    similarity = TwoTower(**TINY).similarity
    scores = similarity(Encoded(pooled=jnp.float16(v)), Encoded(pooled=jnp.float16(t)))["sim"]
    assert scores.dtype == jnp.float32 and (scores == v @ t.T).all()


def test_frames():
    model = TwoTower(20, dim=8, word_dim=4, patch=4, patch_dim=6, patch_layers=1, text="mean", pool="mean")
    variables, encode = make(model, FRAMES)
    assert_padding_inert(encode, FRAMES)
    assert "gru" not in variables["params"] and variables["params"]["patches"]["place"].shape == (4, 6)
    visual, _ = encode(FRAMES)
    brighter = encode({**FRAMES, "visual": FRAMES["visual"] // 2})[0]
    assert jnp.abs(visual.pooled - brighter.pooled).max() > 1e-4
    with pytest.raises(ValueError, match="Frames of 9 x 8 pixels"):
        jax.eval_shape(encode, {**FRAMES, "visual": np.zeros((5, 2, 9, 8, 3), np.uint8)})


def test_training_noise_follows_the_key():
    model = TwoTower(**TINY, visual_dropout=0.5, text_dropout=0.2, word_dropout=0.9, visual_hidden=8)
    variables, encode = make(model)

    @jax.jit
    def noisy(key):
        both = lambda m, b: (m.encode_visual(b, train=True), m.encode_text(b, train=True))
        return model.apply(variables, BATCH, method=both, rngs={"dropout": key})

    first, again, other = (noisy(jax.random.key(seed, impl="rbg")) for seed in (1, 1, 2))
    for clean, a, b, c in zip(encode(BATCH), first, again, other, strict=True):
        assert (a.pooled == b.pooled).all() and (a.pooled != c.pooled).any() and (a.pooled != clean.pooled).any()
    assert all((jnp.linalg.norm(noise[1].pooled, axis=1) > 0.9).all() for noise in (first, other))


def test_empty_rows_have_finite_gradients():
    model = TwoTower(**TINY)
    variables, _ = make(model)
    empty = {**BATCH, "visual_mask": np.zeros((5, 4), bool), "text_mask": np.zeros((5, 7), bool)}

    def total(variables):
        visual, text, _ = model.apply(variables, empty, method=touch)
        return visual.pooled.sum() + text.pooled.sum()

    value, grads = jax.value_and_grad(total)(variables)
    assert value == 0 and all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_temperature_is_learned_only_where_asked():
    model = TwoTower(**TINY, text="mean", temperature_start=0.07)
    variables, _ = make(model)
    value, grads = jax.value_and_grad(lambda v: model.apply(v, method="temperature"))(variables)
    assert float(value) == pytest.approx(0.07)
    assert float(grads["params"]["log_temperature"]) == pytest.approx(0.07)
    assert TwoTower(**TINY).apply({}, method="temperature") is None


def test_bfloat16_towers_give_float32_scores():
    half = TwoTower(**TINY, dtype=jnp.bfloat16)
    variables, _ = make(half)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    visual, text, _ = half.apply(variables, BATCH, method=touch)
    assert half.similarity(visual, text)["sim"].dtype == jnp.float32
    exact, _, _ = TwoTower(**TINY).apply(variables, BATCH, method=touch)
    np.testing.assert_allclose(visual.pooled, exact.pooled, atol=0.03)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(pool="median"), "model.pool is 'median'; two_tower has: max, mean"),
        (dict(text="lstm"), "model.text is 'lstm'; two_tower has: gru, mean"),
        (dict(visual_dim=7), "wants features of 7; got float16"),
        (dict(visual_dim=None), "wants uint8 frames"),
    ],
)
def test_errors_come_before_compilation(change, message):
    model = TwoTower(**{**TINY, **change})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(model.init, method=touch), jax.random.key(0), BATCH)


@pytest.mark.parametrize("text", ["mean", "gru+mean"])
def test_other_text_towers(text):
    """Padding inert, and the pooled words are the mean that NumPy makes."""
    model = TwoTower(**TINY, text=text, gru_dim=3)
    variables, encode = make(model)
    assert_padding_inert(encode, BATCH)
    if text == "mean":
        p = variables["params"]
        words = np.stack(
            [p["words"]["embedding"][t[m]].mean(0) for t, m in zip(BATCH["text"], BATCH["text_mask"], strict=True)]
        )
        mapped = words @ p["text_projection"]["kernel"]
        expected = mapped / np.linalg.norm(mapped, axis=1, keepdims=True)
        np.testing.assert_allclose(encode(BATCH)[1].pooled, expected, rtol=1e-4, atol=1e-5)


def test_visual_norm_is_over_real_elements_of_real_rows():
    """Statistics as NumPy makes them; what lies behind masks, or in padding rows, is not in them."""
    model = TwoTower(**TINY, text="mean", visual_norm=True)
    batch = BATCH | {"valid": np.array([True, True, False, True, True])}
    variables, encode = make(model, batch)
    assert_padding_inert(encode, batch)
    train = jax.jit(lambda b: model.apply(variables, b, train=True, method="encode_visual", mutable=["batch_stats"]))
    _, found = train(batch)
    real = batch["visual"][batch["visual_mask"] & batch["valid"][:, None]].astype(np.float32)
    found = found["batch_stats"]["normalise"]
    np.testing.assert_allclose(found["mean"], 0.01 * real.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], 0.99 + 0.01 * real.var(0), rtol=1e-4)


def test_visual_power():
    """The tower at power 0.5 is the plain tower on the signed roots, zeros included."""
    batch = BATCH | {"visual": np.where(BATCH["visual"] < -0.5, 0, BATCH["visual"])}
    rooted = batch | {"visual": (np.sign(batch["visual"]) * np.sqrt(np.abs(batch["visual"].astype(np.float32))))}
    plain, power = TwoTower(**TINY, text="mean"), TwoTower(**TINY, text="mean", visual_power=0.5)
    variables, encode = make(plain, batch)
    found = power.apply(variables, batch, method="encode_visual").pooled
    np.testing.assert_allclose(found, encode(rooted)[0].pooled, rtol=1e-3, atol=1e-5)
