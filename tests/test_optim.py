"""config.optim → optax: equal to torch's Adam and AdamW, rules, schedules, refusals."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlr_jax import optim, sharding

GOLDEN = pathlib.Path(__file__).parent / "golden" / "optim.npz"
BERT_ADAM = pathlib.Path(__file__).parent / "golden" / "bertadam.npz"


@pytest.mark.parametrize(
    "name,config",
    [
        ("adam_lr5e-4", dict(name="adam")),
        ("adamw_lr5e-4_wd0.01_default", dict(name="adamw", decay=0.01)),
        ("adamw_lr5e-4_wd1e-4", dict(name="adamw", decay=1e-4)),
    ],
)
def test_equals_torch(name, config):
    """Six steps of clip_grad_norm_(2.0) and torch's optimizer, lr ×0.1 after step index 3 (optim.npz)."""
    golden = np.load(GOLDEN)
    with jax.enable_x64(True):
        params = {k: jnp.asarray(golden[f"p0_{k}"], jnp.float64) for k in "ab"}
        config = config | dict(lr=5e-4, clip=2.0, schedule=dict(name="step", at_epoch=4, factor=0.1))
        tx, schedule = optim.make(config, params, steps=6, steps_per_epoch=1)
        state = tx.init(params)
        for i in range(6):
            grads = {k: jnp.asarray(golden[f"grads_{k}"][i], jnp.float64) for k in "ab"}
            np.testing.assert_allclose(optax.tree.norm(grads), golden["grad_norm_preclip"][i], rtol=1e-12)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            for k in "ab":  # torch's clip divides by norm + 1e-6: relative 5e-7
                np.testing.assert_allclose(params[k], golden[f"{name}/{k}_after_each_step"][i], rtol=1e-6, atol=1e-9)
    assert schedule(3) == pytest.approx(5e-4) and schedule(4) == pytest.approx(5e-5)


def test_rules():
    params = {"text": {"words": jnp.ones(3)}, "visual": {"fc": jnp.ones(3), "head": jnp.ones(3)}}
    config = dict(name="sgd", lr=1.0, rules=[("text/.*", dict(lr=0.1)), ("visual/fc", dict(freeze=True))])
    tx, _ = optim.make(config, params, steps=10, steps_per_epoch=5)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["text"]["words"], -0.1)
    np.testing.assert_allclose(updates["visual"]["fc"], 0.0)
    np.testing.assert_allclose(updates["visual"]["head"], -1.0)


def test_frozen_gradients_do_not_count_in_the_clipped_norm():
    params = {"a": jnp.zeros(1), "frozen": jnp.zeros(1)}
    tx, _ = optim.make(
        dict(name="sgd", lr=1.0, clip=1.0, rules=[("frozen", dict(freeze=True))]), params, steps=1, steps_per_epoch=1
    )
    updates, _ = tx.update({"a": jnp.ones(1), "frozen": 1e6 * jnp.ones(1)}, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], -1.0)


def test_decay_is_decoupled_and_can_be_switched_off_by_rule():
    params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
    config = dict(name="adamw", lr=0.1, decay=0.5, rules=[("bias", dict(decay=0.0))])
    tx, _ = optim.make(config, params, steps=1, steps_per_epoch=1)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    np.testing.assert_allclose(updates["bias"], 0.0)


def test_cosine():
    schedule = optim.make_schedule(dict(lr=1.0, schedule=dict(name="cosine", warmup=10)), steps=110, steps_per_epoch=7)
    assert [round(float(schedule(s)), 4) for s in (0, 5, 10, 60, 110)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def test_warmup_as_a_share_of_the_run():
    schedules = [
        optim.make_schedule(dict(lr=1.0, schedule=dict(name="cosine", warmup=w)), steps=110, steps_per_epoch=7)
        for w in (0.1, 11)
    ]
    assert [float(schedules[0](s)) for s in range(110)] == [float(schedules[1](s)) for s in range(110)]


def test_equals_bert_adam():
    """Thirty steps of CLIP4Clip's BertAdam on two parameters with rates and decays of their own (bertadam.npz)."""
    golden = np.load(BERT_ADAM, allow_pickle=False)
    params = {k: jnp.asarray(golden[f"{k}_0"]) for k in ("p1", "p2")}
    config = dict(name="bertadam", lr=1e-3, decay=0.2, schedule=dict(name="warmup_cosine", warmup=0.1))
    config["rules"] = [("p2", dict(lr=10.0, decay=0.0))]
    tx, schedule = optim.make(config, params, steps=30, steps_per_epoch=1)
    state, update = tx.init(params), jax.jit(tx.update)
    for i in range(30):
        updates, state = update({"p1": golden["g1"][i], "p2": golden["g2"][i]}, state, params)
        params = optax.apply_updates(params, updates)
        for name, value in params.items():
            np.testing.assert_allclose(value, golden[name][i], atol=2e-6)
        np.testing.assert_allclose(schedule(i + 1), golden["lr_after_step"][i, 0], atol=1e-9)
    assert schedule(0) == 0  # so the first step moves nothing
    np.testing.assert_array_equal(golden["p1"][0], golden["p1_0"])


def test_bert_adam_clips_every_parameter_by_itself():
    """Without memory the update is g / (|g| + 1): it shows how large the gradient came in."""
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    found = {}
    for clip in (1.0, None):
        config = dict(name="bertadam", lr=1.0, options=dict(b1=0.0, b2=0.0, eps=1.0, clip=clip))
        tx, _ = optim.make(config, params, steps=1, steps_per_epoch=1)
        found[clip] = tx.update({"a": jnp.full(1, 9.0), "b": jnp.full(1, 0.5)}, tx.init(params), params)[0]
    np.testing.assert_allclose([found[1.0]["a"][0], found[1.0]["b"][0]], [-1 / 2, -0.5 / 1.5], rtol=1e-5)
    np.testing.assert_allclose([found[None]["a"][0], found[None]["b"][0]], [-9 / 10, -0.5 / 1.5], rtol=1e-5)


def test_clamp():
    """CLIP4Clip's logit scale of at most ln 100 is a log temperature of at least −ln 100."""
    params = {"log_temperature": jnp.float32(-4.5), "head": jnp.float32(-4.5)}
    config = dict(name="sgd", lr=1.0, rules=[(".*log_temperature", dict(lr=0.5, clamp=[-4.6052, None]))])
    tx, _ = optim.make(config, params, steps=1, steps_per_epoch=1)
    state = tx.init(params)
    for gradient, expected in ((1.0, -4.6052), (1.0, -4.6052), (-0.2, -4.5052), (0.1, -4.5552)):
        updates, state = tx.update({"log_temperature": jnp.float32(gradient), "head": jnp.float32(0)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["log_temperature"], expected, rtol=1e-6)
    assert params["head"] == -4.5


def test_frozen_first_blocks():
    """The lower blocks of CLIP stay, the rest of it moves slowly, what is new at the full rate."""
    blocks = {f"block_{i}": {"query": {"kernel": jnp.ones(2)}} for i in range(12)}
    clip = {"visual": {"blocks": blocks, "norm": jnp.ones(2)}, "text": {"blocks": blocks}}
    params = {"clip": clip, "temporal": {"blocks": blocks}}
    rules = [("clip/visual/blocks/block_([0-9])/.*", dict(freeze=True)), ("clip/.*", dict(lr=1e-3))]
    tx, _ = optim.make(dict(name="sgd", lr=1.0, rules=rules), params, steps=1, steps_per_epoch=1)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    size = {path: float(-value[0]) for path, value in _flat(updates)}
    still = {path for path, moved in size.items() if not moved}
    assert still == {f"clip/visual/blocks/block_{i}/query/kernel" for i in range(10)}
    assert size["clip/visual/blocks/block_10/query/kernel"] == size["clip/text/blocks/block_0/query/kernel"]
    assert size["clip/visual/norm"] == pytest.approx(1e-3) and size["temporal/blocks/block_0/query/kernel"] == 1


def _flat(tree):
    return [(sharding.path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def test_average_is_the_running_mean():
    """Against the loop in Python floats: decay min(0.9, (1 + n) / (10 + n))."""
    mean, expected = {"a": jnp.zeros(())}, 0.0
    for step in range(200):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        mean = optim.average(dict(average=0.9), mean, {"a": jnp.float32(step)}, step)
    assert float(mean["a"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "config,message",
    [
        (dict(name="adamm", lr=1), "optimizers: adam, adamw"),
        (dict(lr=1, wd=0.1), "unknown key wd in optim; valid keys: average, clip, decay"),
        (dict(lr=1, schedule=dict(name="cosin")), "schedules: constant, cosine, step"),
        (dict(lr=1, schedule=dict(name="cosine", warm=1)), "unknown key warm in optim.schedule; valid keys: warmup"),
        (dict(lr=1, rules=[(".*", dict(rate=1))]), "unknown key rate in optim.rules"),
        (dict(name="adamw", lr=1), "needs optim.decay"),
        (dict(lr=1, schedule=dict(name="step")), "lacks at_epoch"),
        (dict(lr=1, options=dict(beta1=0.5)), r"unknown key beta1 in optim.options \(adam\); valid keys: b1, b2"),
        (dict(lr=1, average=2.0), "optim.average is 2.0"),
        (dict(lr=1, schedule=dict(name="cosine", warmup=1.5)), "warmup is 1.5; expected steps, or a share"),
        (dict(lr=1, schedule=dict(name="warmup_cosine", warmup=10)), "warmup is 10; warmup_cosine wants a share"),
        (dict(lr=1, rules=[(".*", dict(clamp=[1, 0]))]), r"expected clamp=\[low, high\]"),
        (dict(lr=1, rules=[(".*", dict(clamp=[0, 1], freeze=True))]), "not frozen"),
    ],
)
def test_refusals(config, message):
    with pytest.raises(ValueError, match=message):
        optim.make(config, {"a": jnp.zeros(1)}, steps=1, steps_per_epoch=1)
