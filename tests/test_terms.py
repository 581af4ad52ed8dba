"""terms.py: weights, directions, reductions and validity; every loss the same on one device and on eight."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax import losses, metrics, ranking, relevance
from vlr_jax.resolve import choices
from vlr_jax.terms import Terms

GOLDEN = pathlib.Path(__file__).parent / "golden" / "losses.npz"
B, D = 16, 8
rng = np.random.default_rng(0)
unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
VISUAL, TEXT = unit(rng.normal(size=(B, D))), unit(rng.normal(size=(B, D)))
BATCH = {
    "visual_id": np.array([0, 1, 2, 0, *range(3, 15)], np.int32),  # rows 0 and 3 are one visual
    "visual_facts": rng.random((B, 6)) < 0.5,
    "text_facts": rng.random((B, 6)) < 0.5,
    "valid": np.arange(B) < 14,
}
AXES = {"v2t": 1, "t2v": 0}


def dot(visual, text):
    return {"sim": visual @ text.T}


def mesh(devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
    )


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(mesh(1)):
        yield


def run(config, *, relevance=None, step=0, temperature=None, visual=VISUAL, batch=BATCH, similarity=dot, chunk=0):
    terms = Terms(config, relevance, chunk)
    function = jax.jit(functools.partial(terms, similarity, temperature=temperature))
    return function(visual, TEXT, batch, step=step)


def by_hand(loss, direction, reduce, **knobs):
    """The term from its loss alone: only the valid rows, as if the others had never been there."""
    valid = BATCH["valid"]
    ids = BATCH["visual_id"][valid]
    scores = jnp.asarray((VISUAL @ TEXT.T)[np.ix_(valid, valid)])
    relevance = jnp.asarray(ids[:, None] == ids, jnp.float32)
    values = loss(scores, relevance, axis=AXES[direction], **knobs)
    return float(values.mean() if reduce == "mean" else values.sum())


def test_value_is_the_weighted_sum():
    config = dict(
        hard=dict(name="triplet_hard", margin=0.3, weight=0.5),
        total=dict(name="triplet_sum", reduce="sum", weight=2),
        info_nce=dict(temperature=0.1, directions=("t2v",)),
    )
    loss, metrics = run(config)
    expected = {f"loss/hard/{d}": by_hand(losses.triplet_hard, d, "mean", margin=0.3) for d in AXES} | {
        f"loss/total/{d}": by_hand(losses.triplet_sum, d, "sum") for d in AXES
    }
    expected["loss/info_nce/t2v"] = by_hand(losses.info_nce, "t2v", "mean", temperature=0.1)
    for key, value in expected.items():
        assert float(metrics[key]) == pytest.approx(value, rel=1e-5), key
    hard, total = ([expected[f"loss/{key}/{d}"] for d in AXES] for key in ("hard", "total"))
    whole = 0.5 * sum(hard) / 2 + 2 * sum(total) + expected["loss/info_nce/t2v"]
    assert float(loss) == pytest.approx(whole, rel=1e-5)
    assert "loss/info_nce/v2t" not in metrics


def test_official_sum_form():
    with np.load(GOLDEN) as golden:
        for case, name in (("m0.2_hn", "triplet_hard"), ("m0.2_sum", "triplet_sum")):
            s = golden["B8/S"]
            terms = Terms({name: dict(margin=0.2, reduce="sum")}, dict(name="diagonal"))
            batch = dict(valid=np.ones(8, bool))
            function = lambda s, terms=terms, batch=batch: terms(lambda v, t: {"sim": v}, s, None, batch, step=0)[0]
            value, grad = jax.jit(jax.value_and_grad(function))(s)
            np.testing.assert_allclose(value, golden[f"vsepp_contrastive/B8/{case}/f32/loss"], rtol=2e-5)
            np.testing.assert_allclose(grad, golden[f"vsepp_contrastive/B8/{case}/f32/grad_S"], rtol=2e-5, atol=1e-6)


def test_weight_switches_at_its_step():
    config = dict(
        warm=dict(name="triplet_sum", weight=dict(at=10, before=1.0, after=0.0)),
        hard=dict(name="triplet_hard", weight=dict(at=10, before=0.0, after=1.0)),
    )
    terms = jax.jit(functools.partial(Terms(config), dot))
    for step, name in ((0, "warm"), (9, "warm"), (10, "hard"), (11, "hard")):
        loss, metrics = terms(VISUAL, TEXT, BATCH, step=jnp.int32(step))
        assert float(loss) == pytest.approx(float(metrics[f"loss/{name}/v2t"] + metrics[f"loss/{name}/t2v"]) / 2)


def test_padding_rows_are_inert():
    value, _ = run({name: {} for name in choices("losses")}, relevance=dict(name="facts"))
    other = np.where(BATCH["valid"][:, None], VISUAL, 100.0).astype(np.float32)
    same, metrics = run({name: {} for name in choices("losses")}, relevance=dict(name="facts"), visual=other)
    assert float(value) == float(same)
    assert float(metrics["batch/negative"]) < 1


def test_temperature_of_the_model():
    learned = run(dict(info_nce=dict(temperature="model")), temperature=jnp.float32(0.2))[0]
    assert float(learned) == pytest.approx(float(run(dict(info_nce=dict(temperature=0.2)))[0]))
    with pytest.raises(ValueError, match="temperature='model', but the model has none"):
        run(dict(info_nce=dict(temperature="model")))


def test_takes_feeds_a_score_matrix(monkeypatch):
    from vlr_jax import terms

    def with_prior(scores, relevance, *, where=None, axis=-1, prior=0.0):
        return jnp.sum(jnp.where(where, prior, 0.0), axis=axis)

    monkeypatch.setattr(terms, "resolve", lambda room, name: with_prior)
    named = lambda v, t: {"sim": v @ t.T, "ones": jnp.ones((B, B))}
    loss, _ = run(dict(mine=dict(takes=dict(prior="ones"))), similarity=named)
    assert float(loss) == 14
    with pytest.raises(ValueError, match="takes 'two'; the model's scores are: ones, sim"):
        run(dict(mine=dict(takes=dict(prior="two"))), similarity=named)


def test_monitors():
    _, metrics = run(dict(triplet_hard={}))
    valid = BATCH["valid"]
    scores, ids = (VISUAL @ TEXT.T)[np.ix_(valid, valid)], BATCH["visual_id"][valid]
    relevance = jnp.asarray(ids[:, None] == ids, jnp.float32)
    for direction, axis in AXES.items():
        first = ranking.ranks(jnp.asarray(scores), relevance, axis=axis) == 1
        assert float(metrics[f"batch/{direction}_R@1"]) == pytest.approx(100 * float(first.mean()), rel=1e-5)
    best = np.where(relevance == 1, scores, -9)
    worst = np.where(relevance == 1, -9, scores)
    assert float(metrics["batch/positive"]) == pytest.approx((best.max(0).mean() + best.max(1).mean()) / 2, rel=1e-4)
    assert float(metrics["batch/negative"]) == pytest.approx((worst.max(0).mean() + worst.max(1).mean()) / 2, rel=1e-4)
    assert float(metrics["batch/spread"]) == pytest.approx(scores.std(), rel=1e-4)
    for direction, axis in AXES.items():
        delta = np.abs(best.max(axis) - worst.max(axis))
        assert float(metrics[f"batch/{direction}_delta"]) == pytest.approx(delta.mean(), rel=1e-4)
    assert not {key for key in metrics if "NDCG" in key or "tau" in key}


@pytest.mark.parametrize("chunk", [0, 4])
def test_graded_monitors(chunk):
    """NDCG and tau of the batch with ties against the model, as numpy and `metrics.py` have them on the valid rows."""
    ties = lambda visual, text: {"sim": jnp.round(4 * (visual @ text.T)) / 4}
    config = dict(smooth=dict(name="smooth_ndcg", temperature=1e-4, ideal="sorted"))
    _, measured = run(config, relevance=dict(name="facts"), similarity=ties, chunk=chunk)
    valid = BATCH["valid"]
    rows = {key: value[valid] for key, value in BATCH.items()}
    grades = np.asarray(relevance.facts(rows, rows)[0])
    scores = np.asarray(ties(VISUAL, TEXT)["sim"])[np.ix_(valid, valid)]
    for direction, axis in AXES.items():
        ndcg = metrics.ndcg_at(scores, grades, k=len(scores), axis=axis)
        assert float(measured[f"batch/{direction}_NDCG"]) == pytest.approx(float(ndcg.mean()), rel=1e-5)
        s, r = np.moveaxis(scores, axis, 1), np.moveaxis(grades, axis, 1)
        better = r[:, :, None] > r[:, None, :]
        discordant = (better & (s[:, :, None] <= s[:, None, :])).sum((1, 2))
        tau = 1 - 2 * discordant / better.sum((1, 2))
        assert float(measured[f"batch/{direction}_tau"]) == pytest.approx(tau.mean(), rel=1e-5)
        smooth = 1 - float(measured[f"loss/smooth/{direction}"])
        assert float(measured[f"batch/{direction}_smooth_NDCG"]) == pytest.approx(smooth, rel=1e-5)
        assert smooth > float(measured[f"batch/{direction}_NDCG"])  # equal scores share their places here


def test_share_mined_hard():
    """The percentage of queries for which each SelHN takes the hardest negative; two terms, two thresholds."""
    config = dict(selhn=dict(threshold=0.3), other=dict(name="selhn", threshold=0.0), both=dict(name="triplet_hard"))
    _, measured = run(config)
    valid = BATCH["valid"]
    scores, ids = (VISUAL @ TEXT.T)[np.ix_(valid, valid)], BATCH["visual_id"][valid]
    positive = ids[:, None] == ids
    for direction, axis in AXES.items():
        best, worst = np.where(positive, scores, -9).max(axis), np.where(positive, -9, scores).max(axis)
        far = 100 * np.mean(np.abs(best - worst) >= 0.3)
        assert 0 < far < 100 and float(measured[f"batch/selhn_{direction}_mined_hard"]) == pytest.approx(far)
        assert float(measured[f"batch/other_{direction}_mined_hard"]) == 100
    assert not {key for key in measured if "both_" in key}


def test_two_smooth_ndcg_terms_keep_their_names():
    config = dict(a=dict(name="smooth_ndcg"), b=dict(name="smooth_ndcg", temperature=0.1, directions="v2t"))
    _, measured = run(config)
    names = {key for key in measured if "smooth_NDCG" in key}
    assert names == {f"batch/{name}_smooth_NDCG" for name in ("a_v2t", "a_t2v", "b_v2t")}


@pytest.mark.parametrize("chunk", [0, 2])
def test_spread_of_a_collapse(chunk):
    """Far below the mean, and right all the same."""
    noise = np.random.default_rng(1).normal(size=(B, B)).astype(np.float32)
    scores = np.float32(0.9) + np.float32(1e-5) * noise
    place = np.arange(B)
    gather = lambda visual, text: {"sim": jnp.asarray(scores)[visual][:, text]}
    terms = jax.jit(functools.partial(Terms(dict(triplet_hard={}), query_chunk=chunk), gather, step=0))
    spread = float(terms(place, place, BATCH)[1]["batch/spread"])
    valid = BATCH["valid"]
    assert spread == pytest.approx(scores[np.ix_(valid, valid)].astype(float).std(), rel=1e-3)


@functools.cache
def gradients(relevance, devices, chunk):
    """Every loss as a term of one step: the gradient of each in each direction, and all metrics."""
    config = {name: {} for name in choices("losses")}

    def step(visual, text, batch):
        def each(visual, text):
            _, metrics = Terms(config, dict(name=relevance), chunk)(dot, visual, text, batch, step=0)
            return jnp.stack([metrics[f"loss/{name}/{d}"] for name in config for d in AXES]), metrics

        return jax.jacrev(each, argnums=(0, 1), has_aux=True)(visual, text)

    with jax.set_mesh(mesh(devices)):
        put = functools.partial(jax.device_put, device=NamedSharding(mesh(devices), P("data")))
        return jax.device_get(jax.jit(step)(*jax.tree.map(put, (VISUAL, TEXT, BATCH))))


@pytest.mark.parametrize("devices, chunk", [(8, 0), (1, 4), (8, 8)])
def test_devices_and_chunks_change_nothing(devices, chunk):
    """Values, monitors and gradients of every loss to 1e-5, on one device or eight, whole or in chunks."""
    expected, found = gradients("facts", 1, 0), gradients("facts", devices, chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_relevance_by_place_in_chunks():
    """`diagonal` reads the place in the batch, which a block of queries has to know."""
    whole, parts = (run(dict(triplet_sum={}), relevance=dict(name="diagonal"), chunk=n) for n in (0, 2))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), parts, whole)


def test_mean_over_the_batch_in_chunks(monkeypatch):
    """A loss that is divided by a mean over all queries is told it in chunks, whatever its knobs and valid rows."""
    config = dict(a=dict(name="kendall", gap=0.1), b=dict(name="kendall", gap=0.5, directions="t2v"),
                  c=dict(name="kendall", pairs=7.0))  # fmt: skip
    whole, parts = (run(config, relevance=dict(name="facts"), chunk=n) for n in (0, 4))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), parts, whole)
    from vlr_jax import terms

    def lonely(scores, relevance, *, where=None, axis=-1, pairs=None):
        return jnp.sum(scores, axis=axis)

    monkeypatch.setattr(terms, "resolve", lambda room, name: lonely)
    Terms(dict(mine={}))
    with pytest.raises(ValueError, match="losses.mine takes pairs, so in chunks its file must have .* lonely_pairs"):
        Terms(dict(mine={}), query_chunk=4)


@pytest.mark.parametrize(
    "config, message",
    [
        ({}, "config.losses is empty"),
        (dict(infonce={}), "No losses/infonce.py; losses has: .*info_nce, .*triplet_hard"),
        (dict(hard=dict(name="triplet_hard", margn=0.1)), "losses.hard has no knob 'margn'; the loss has: margin;"),
        (dict(triplet_hard=dict(takes=dict(prior="sim"))), "has no knob 'prior'"),
        (dict(triplet_hard=dict(temperature="model")), "has no knob 'temperature'"),
        (dict(triplet_hard=dict(margin="model")), "losses.triplet_hard.margin is 'model'; it must be a number"),
        (dict(triplet_hard=dict(weight="half")), "losses.triplet_hard.weight is 'half'"),
        (dict(triplet_hard=dict(weight=dict(at=1, before=0.0))), "dict\\(at=step, before"),
        (dict(triplet_hard=dict(directions=("i2t",))), "directions is \\('i2t',\\); choose from v2t, t2v"),
        (dict(triplet_hard=dict(reduce="max")), "reduce is 'max'; choose mean or sum"),
        (dict(smooth_ndcg=dict(temperature="mdel")), "losses.smooth_ndcg.temperature is 'mdel'; it must be a number"),
    ],
)
def test_errors_at_construction(config, message):
    with pytest.raises(ValueError, match=message):
        Terms(config)


def test_relevance_errors_at_construction():
    with pytest.raises(ValueError, match="No relevance 'diag'"):
        Terms(dict(triplet_hard={}), dict(name="diag"))
    with pytest.raises(ValueError, match="has only the key name; found also: k"):
        Terms(dict(triplet_hard={}), dict(name="identity", k=1))
