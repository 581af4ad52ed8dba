"""The moment task: what counts in its losses and what does not, refusals, eight devices as one, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax import sharding
from vlr_jax.models import moment_detr, qd_detr
from vlr_jax.tasks import moment
from vlr_jax.types import Moments

F, L, D, G = 6, 4, 8, 2
SIZES = dict(visual_dim=D, text_dim=5, dim=16, heads=2, hidden=16, queries=3, encoder_layers=1)
SIZES |= dict(dropout=0.0, input_dropout=0.0)
CONFIG = dict(spans={}, losses={}, relevance=None, regularisers={}, query_chunk=0, encode_chunk=0)


def batch(rows=8, seed=0):
    """Rows 0 and 1 are of one source; the last is padding where there are more than four."""
    rng = np.random.default_rng(seed)
    start = rng.random((rows, G, 1)) * 0.5
    made = dict(
        visual=rng.normal(size=(rows, F, D)).astype(np.float32),
        visual_mask=np.arange(F) < rng.integers(3, F + 1, (rows, 1)),
        text=rng.normal(size=(rows, L, 5)).astype(np.float32),
        text_mask=np.arange(L) < rng.integers(1, L + 1, (rows, 1)),
        visual_id=np.arange(rows, dtype=np.int32),
        text_id=np.arange(rows, dtype=np.int32),
        source_id=np.maximum(np.arange(rows, dtype=np.int32), min(1, rows - 1)),
        duration=np.full(rows, 12, np.float32),
        spans=np.concatenate([start, start + 0.4], axis=-1).astype(np.float32),
        spans_mask=np.arange(G) < rng.integers(1, G + 1, (rows, 1)),
        saliency=rng.integers(0, 5, (rows, F)).astype(np.float32),
        saliency_pairs=rng.integers(0, 3, (rows, 2, 2)).astype(np.int32),
        valid=np.arange(rows) < (rows - 1 if rows > 4 else rows),
    )
    return jax.tree.map(jnp.asarray, made)


@functools.cache
def qd():
    """A task of a tiny QD-DETR, its variables, and the jitted loss with gradients."""
    task = moment.Task(qd_detr.Model(**SIZES, t2v_layers=1), CONFIG)
    variables = task.init(jax.random.key(0), batch())

    @jax.jit
    def run(variables, given):
        of = lambda params: task.loss({"params": params}, given, rng=jax.random.key(1), step=0)
        (total, (metrics, _)), grads = jax.value_and_grad(of, has_aux=True)(variables["params"])
        return total, metrics, grads

    return task, variables, run


def same(a, b, tolerance=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=tolerance), a, b)


def test_metrics_and_total():
    task, variables, run = qd()
    total, metrics, _ = run(variables, batch())
    names = ("span_l1", "span_giou", "label")
    expected = {f"loss/{name}{end}" for name in names for end in ("", "_0")} | {"loss", "batch/R1@0.5"}
    expected |= {f"loss/saliency_{part}" for part in ("margin", "rank", "negative")}
    assert set(metrics) == expected
    weight = lambda key: {"span_l1": 10, "label": 4}.get(key.removeprefix("loss/").removesuffix("_0"), 1)
    by_hand = sum(weight(key) * value for key, value in metrics.items() if key.startswith("loss/"))
    np.testing.assert_allclose(total, by_hand, rtol=1e-5)
    assert task.probe(variables, batch()) == {} and task.plateaus(8) == {} and task.reads == ()
    heavier = moment.Task(task.model, CONFIG | dict(spans=dict(label=0.0, saliency=2.0)))
    other, _ = jax.jit(lambda v, g: heavier.loss(v, g, rng=jax.random.key(1), step=0))(variables, batch())
    saliencies = sum(value for key, value in metrics.items() if "saliency" in key)
    np.testing.assert_allclose(
        other, total + saliencies - 4 * (metrics["loss/label"] + metrics["loss/label_0"]), rtol=1e-5
    )


def test_padding_rows_and_columns_count_nowhere():
    _, variables, run = qd()
    given = batch()
    plain = run(variables, given)
    garbage = jax.tree.map(lambda x: x, given)
    for key in ("visual", "spans", "saliency"):
        garbage[key] = garbage[key].at[-1].set(0.9)
    garbage["saliency_pairs"] = garbage["saliency_pairs"].at[-1].set(1)
    garbage["spans"] = jnp.where(garbage["spans_mask"][..., None], garbage["spans"], 0.1)
    garbage["text"] = jnp.where(garbage["text_mask"][..., None], garbage["text"], 5.0)
    same(plain, run(variables, garbage))
    # A row of padding's text is nobody's wrong one; behind its mask no clip is relevant.
    garbage["text"] = garbage["text"].at[-1].set(3.0)
    garbage["saliency"] = jnp.where(garbage["visual_mask"], garbage["saliency"], 12.0)
    same(plain, run(variables, garbage))


def test_a_batch_without_anything_real_loses_nothing():
    _, variables, run = qd()
    given = batch() | dict(valid=jnp.zeros(8, bool))
    total, _, grads = run(variables, given)
    assert total == 0 and all(not np.any(grad) for grad in jax.tree.leaves(grads))


def test_negatives():
    made = moment.negatives(batch())
    np.testing.assert_array_equal(made["negative_where"], [False, True, True, True, True, True, False, False])
    assert not moment.negatives(batch(1))["negative_where"].any()


def test_a_batch_of_one():
    _, variables, run = qd()
    _, metrics, grads = run(variables, batch(1))
    assert metrics["loss/saliency_negative"] == 0 and metrics["loss/saliency_rank"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((metrics, grads)))


def test_predictions_never_read_labels():
    task, variables, _ = qd()
    answer = jax.jit(task.predict()["moments"])
    given = batch()
    labels = {key: given[key][::-1] for key in (*moment.LABELS, "spans_mask")}
    first, second = answer(variables, given), answer(variables, given | labels)
    jax.tree.map(np.testing.assert_array_equal, first, second)
    without = {key: value for key, value in given.items() if key not in labels}
    same(first, jax.jit(task.predict()["moments"])(variables, without))
    assert first["windows"].shape == (8, 3, 2) and first["scores"].shape == (8, 3) and first["saliency"].shape == (8, F)
    assert (first["windows"][..., 1] > first["windows"][..., 0]).all() and set(task.predict()) == {"moments"}


def test_eight_devices_are_one():
    task, variables, run = qd()
    given = batch()
    expected = run(variables, given)
    mesh = sharding.make_mesh({"data": -1})
    rows = {key: jax.device_put(value, NamedSharding(mesh, P("data"))) for key, value in given.items()}
    everywhere = jax.device_put(variables, NamedSharding(mesh, P()))
    assert mesh.size == 8
    same(expected, run(everywhere, rows), 1e-4)


@pytest.mark.parametrize("model", [moment_detr, qd_detr], ids=lambda module: module.__name__.split(".")[-1])
def test_it_learns(model):
    task = moment.Task(model.Model(**SIZES), CONFIG)
    variables, given, tx = task.init(jax.random.key(0), batch()), batch(), optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        of = lambda params: task.loss({"params": params}, given, rng=jax.random.key(1), step=0)
        (_, (metrics, _)), grads = jax.value_and_grad(of, has_aux=True)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, metrics

    params, state, seen = variables["params"], tx.init(variables["params"]), []
    for _ in range(20):
        params, state, metrics = step(params, state)
        seen.append(metrics)
    assert seen[-1]["loss"] < 0.75 * seen[0]["loss"]
    for name in ("span_l1", "label", "saliency_margin"):
        assert seen[-1][f"loss/{name}"] < seen[0][f"loss/{name}"]


class Contrast(nn.Module):
    """Answers the same for every row, but has scores of every row with every text, and a regulariser."""

    @nn.compact
    def __call__(self, batch, *, train=False):
        rows = len(batch["visual"])
        logits = self.param("scores", nn.initializers.normal(1.0), (rows, rows))
        half = jnp.full((1, rows, 3, 2), 0.5)
        scores = {"sim": logits} if train else {}
        return Moments(half, half, batch["visual"][..., 0], scores=scores, regularisers={"size": jnp.sum(logits**2)})


def test_ranking_terms_and_regularisers():
    given = batch()
    config = CONFIG | dict(losses=dict(info_nce=dict(temperature=0.1)), relevance=dict(name="moment"))
    config |= dict(regularisers=dict(size=0.5))
    task, plain = moment.Task(Contrast(), config), moment.Task(Contrast(), CONFIG)
    variables = task.init(jax.random.key(0), given)
    with jax.set_mesh(sharding.make_mesh({"data": -1})):
        run = lambda task: jax.jit(lambda: task.loss(variables, given, rng=jax.random.key(0), step=0))()
        (total, (metrics, _)), (bare, _) = run(task), run(plain)
    ranked = (metrics["loss/info_nce/v2t"] + metrics["loss/info_nce/t2v"]) / 2
    np.testing.assert_allclose(total, bare + ranked + 0.5 * metrics["regulariser/size"], rtol=1e-5)
    # Rows of one source are no negatives of each other, and padding is none of anybody's.
    sim, real = np.asarray(variables["params"]["scores"]) / 0.1, np.arange(7)
    where = (np.asarray(given["source_id"])[:7, None] != np.asarray(given["source_id"])[:7]) | (real[:, None] == real)
    sums = np.log(np.sum(np.where(where, np.exp(sim[:7, :7]), 0), axis=1))
    np.testing.assert_allclose(metrics["loss/info_nce/v2t"], np.mean(sums - np.diag(sim)[:7]), rtol=1e-4)


def test_refusals():
    model, given = qd()[0].model, batch()
    with pytest.raises(ValueError, match="unknown key giou in config.spans; valid keys: span_l1, span_giou"):
        moment.Task(model, CONFIG | dict(spans=dict(giou=1.0)))
    with pytest.raises(ValueError, match="config.query_chunk is 4"):
        moment.Task(model, CONFIG | dict(query_chunk=4))

    def loss(config, batch):
        task = moment.Task(model, CONFIG | config)
        return jax.eval_shape(lambda v, b: task.loss(v, b, rng=jax.random.key(0), step=0)[0], qd()[1], batch)

    with pytest.raises(ValueError, match="needs spans, saliency_pairs in every batch"):
        loss({}, {key: value for key, value in given.items() if key not in ("spans", "saliency_pairs")})
    with pytest.raises(ValueError, match=r"regularisers names \['alignment'\]; the model has: none"):
        loss(dict(regularisers=dict(alignment=1.0)), given)
    with pytest.raises(ValueError, match="vlr_jax.models.qd_detr has no scores to rank by"):
        loss(dict(losses=dict(info_nce={}), relevance=dict(name="identity")), given)
