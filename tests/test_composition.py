"""Every loss with every retrieval model: finite terms, equal on 1 and 8 devices, falling in a few steps."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from vlr_jax import sharding
from vlr_jax.resolve import choices, resolve
from vlr_jax.tasks.retrieval import Task

B, R, V_DIM, L, WORDS = 16, 3, 10, 6, 20
SIZES = dict(dim=12, word_dim=6, vocabulary=WORDS, visual_dim=V_DIM)
MODELS = {
    "two_tower": ("two_tower", SIZES),
    # What configs/ switches on: batch statistics, both text towers, every dropout, roots, a learned temperature.
    "two_tower, all on": (
        "two_tower",
        SIZES
        | dict(text="gru+mean", gru_dim=5, visual_norm=True, visual_power=0.5, visual_hidden=7, visual_dropout=0.2,
               text_dropout=0.2, word_dropout=0.2, temperature_start=0.1),
    ),
    "rvse": ("rvse", SIZES),  # with the batch statistics and both dropouts of its paper
    "clip4clip": ("clip4clip", SIZES | dict(text="gru", temporal="transformer", temporal_layers=1, interaction="wti")),
    "prota": (
        "prota",
        dict(dim=12, vocabulary=WORDS, visual_dim=V_DIM, temporal_layers=1,
             clip_sizes=dict(text_width=8, text_layers=1, text_heads=2, positions=L)),
    ),
    "visern": ("visern", SIZES | dict(axis="regions", layers=1, visual_kernels=(2,), text_kernels=(2,))),
}  # fmt: skip
# Compilation is the cost here: of the first the quick suite compiles only the step with every loss, of the others none;
# tests/test_interaction.py has the gradient that is theirs, tests/test_configs.py traces their whole step.
HEAVY = ("visern", "clip4clip", "prota")
MOST, ALL_LOSSES = (
    [pytest.param(model, marks=pytest.mark.slow) if model in heavy else model for model in MODELS]
    for heavy in (HEAVY, HEAVY[1:])
)


def mesh_of(devices):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


@functools.cache
def batch():
    """Pairs whose texts tell of their visuals; two rows of one visual, ragged elements, and a padding row."""
    rng = np.random.default_rng(0)
    words = rng.integers(4, WORDS, (B, L))
    meaning = rng.normal(size=(WORDS, V_DIM))
    visual = meaning[words[:, :R]] + 0.1 * rng.normal(size=(B, R, V_DIM))
    ids = np.arange(B, dtype=np.int32)
    ids[3] = ids[7]
    return {
        "visual": visual.astype(np.float16), "visual_mask": np.arange(R) < rng.integers(1, R + 1, (B, 1)),
        "text": words.astype(np.int32), "text_mask": np.arange(L) < rng.integers(2, L + 1, (B, 1)),
        "visual_id": ids, "text_id": np.arange(B, dtype=np.int32), "valid": np.arange(B) != 5,
    }  # fmt: skip


def on_device():
    return {key: jnp.asarray(value) for key, value in batch().items()}


@functools.cache
def task(model, losses, **chunks):
    config = dict(losses={name: {} for name in losses}, relevance=dict(name="identity"), regularisers={})
    config |= dict(query_chunk=0, encode_chunk=0) | chunks
    name, fields = MODELS[model]
    return Task(resolve("models", name)(**fields), config)


@functools.cache
def value_and_grad(model, losses, devices, **chunks):
    """Loss, metrics and gradients of the same variables and batch on so many devices, on the host."""
    this, mesh = task(model, losses, **chunks), mesh_of(devices)
    variables = jax.device_get(jax.jit(this.init)(jax.random.key(0), batch()))
    with jax.set_mesh(mesh):

        def loss(variables, batch):
            return this.loss(variables, batch, rng=jax.random.key(1), step=jnp.int32(0))

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        variables = jax.device_put(variables, sharding.replicated(mesh))
        (value, (metrics, _)), grads = jax.device_get(step(variables, sharding.put(batch(), mesh)))
    return value, metrics, grads


@pytest.mark.parametrize("model", ALL_LOSSES)
def test_all_losses_are_finite(model):
    """One compiled step with every loss as a term."""
    losses = tuple(choices("losses"))
    value, metrics, grads = value_and_grad(model, losses, 1)
    assert np.isfinite(value) and all(np.isfinite(m) for m in metrics.values())
    assert {f"loss/{name}/{d}" for name in losses for d in ("t2v", "v2t")} <= set(metrics)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads)) and optax.tree.norm(grads) > 0


def test_every_model_is_here():
    """But those of moments, which have a `__call__`: tests/test_moment_models.py."""
    of_pairs = {name for name in choices("models") if "__call__" not in vars(resolve("models", name))}
    assert {name for name, _ in MODELS.values()} == of_pairs


@pytest.mark.parametrize(
    "model,loss",
    [("two_tower", loss) for loss in choices("losses")]
    + [pytest.param(m, "info_nce", marks=pytest.mark.slow if m in HEAVY else ()) for m in MODELS],
)
def test_eight_devices_equal_one(model, loss):
    one, eight = (value_and_grad(model, (loss,), devices) for devices in (1, 8))
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-5, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), eight[2], one[2])


BOTH = dict(query_chunk=8, encode_chunk=8)


@pytest.mark.parametrize(
    "devices, chunks",
    [(1, BOTH), (8, BOTH)]
    + [pytest.param(8, {key: 8}, marks=pytest.mark.slow) for key in ("query_chunk", "encode_chunk")],
)
def test_chunks_change_nothing(devices, chunks):
    """Every loss as a term; without dropout, whose random numbers a block draws for itself."""
    losses = tuple(choices("losses"))
    whole, parts = value_and_grad("two_tower", losses, 1), value_and_grad("two_tower", losses, devices, **chunks)
    for name, value in whole[1].items():
        np.testing.assert_allclose(parts[1][name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    scale = float(optax.tree.norm(whole[2]))  # all losses together: a sum of large parts
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, scale))
    jax.tree.map(close, parts[2], whole[2])


def test_dropout_differs_from_block_to_block():
    """In training with dropout, the same row twice is not encoded alike in two blocks; the loss stays finite."""
    name, fields = MODELS["two_tower, all on"]
    config = dict(losses=dict(info_nce={}), relevance=dict(name="identity"), regularisers={}, query_chunk=0)
    this = Task(resolve(name=name, room="models")(**fields | dict(visual_norm=False)), config | dict(encode_chunk=8))
    same = {key: np.repeat(value[:1], B, axis=0) for key, value in batch().items()}
    with jax.set_mesh(mesh_of(1)):
        variables = jax.jit(this.init)(jax.random.key(0), same)
        encoded, _ = jax.jit(this._encode)(variables, same, jax.random.key(1, impl="rbg"))
    assert len(np.unique(np.round(encoded["visual"].pooled, 5), axis=0)) == B


def test_encode_chunk_needs_a_model_without_collections():
    """Told when the model's variables are first traced, before anything is compiled."""
    this = task("two_tower, all on", ("info_nce",), encode_chunk=8)
    with pytest.raises(ValueError, match=r"encode_chunk is 8, .* vlr_jax.models.two_tower has .* batch_stats"):
        jax.eval_shape(this.init, jax.random.key(0), batch())


@pytest.mark.parametrize("model", MOST)
def test_gradient_of_the_probe_is_that_of_the_encodings(model):
    this = task(model, ("info_nce",))
    with jax.set_mesh(mesh_of(1)):
        variables = jax.jit(this.init)(jax.random.key(0), batch())
        key = jax.random.key(1, impl="rbg")
        loss = lambda probe: this.loss(variables, on_device(), rng=key, step=0, probe=probe)[0]
        zeros = this.probe(variables, on_device())
        value, grads = jax.jit(jax.value_and_grad(loss))(zeros)
        encoded, _ = jax.jit(this._encode)(variables, on_device(), key)

        def of_encodings(visual, text):
            similarity = lambda v, t: this.model.apply(variables, v, t, method="similarity")
            temperature = this.model.apply(variables, method="temperature")
            return this.terms(similarity, visual, text, on_device(), step=0, temperature=temperature)[0]

        direct = jax.jit(jax.grad(of_encodings, (0, 1), allow_int=True))(encoded["visual"], encoded["text"])
        assert float(value) == pytest.approx(float(jax.jit(loss)(None)), rel=1e-6)
    for found, expected in zip((grads["visual"], grads["text"]), direct, strict=True):
        floating = [g for g in jax.tree.leaves(expected) if g.dtype != jax.dtypes.float0]
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        jax.tree.map(close, jax.tree.leaves(found), floating)
        assert any(np.abs(g).max() > 0 for g in floating)  # of what the similarity reads


@pytest.mark.parametrize("model", MOST)
def test_padding_rows_change_nothing(model):
    value, _, grads = value_and_grad(model, ("info_nce",), 1)
    other = {k: v.copy() for k, v in batch().items()}
    other["visual"][5], other["text"][5], other["visual_id"][5] = 100.0, 4, other["visual_id"][0]
    this = task(model, ("info_nce",))
    variables = jax.jit(this.init)(jax.random.key(0), batch())
    with jax.set_mesh(mesh_of(1)):
        step = lambda v, b: this.loss(v, b, rng=jax.random.key(1), step=jnp.int32(0))[0]
        changed, changed_grads = jax.jit(jax.value_and_grad(step))(variables, other)
    np.testing.assert_allclose(changed, value, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), changed_grads, grads)


def falls(model, loss):
    this = task(model, (loss,))
    variables = jax.jit(this.init)(jax.random.key(0), batch())
    tx = optax.adam(3e-2)

    @jax.jit
    def run(variables, state):
        def body(carry, _):
            variables, state = carry
            f = lambda v: this.loss(v, on_device(), rng=jax.random.key(1), step=jnp.int32(0))[0]
            value, grads = jax.value_and_grad(f)(variables)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(variables, updates), state), value

        return jax.lax.scan(body, (variables, state), length=20)[1]

    with jax.set_mesh(mesh_of(1)):
        values = run(variables, tx.init(variables))
    return values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("loss", choices("losses"))
def test_every_loss_falls_in_20_steps(loss):
    assert falls("two_tower", loss)


@pytest.mark.slow
@pytest.mark.parametrize("model,loss", itertools.product(MODELS, choices("losses")))
def test_the_whole_product_falls(model, loss):
    assert falls(model, loss)
