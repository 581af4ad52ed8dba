"""config.optim → optax: equal to torch's Adam and AdamW, rules, schedules, refusals."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlr_jax import optim

GOLDEN = pathlib.Path(__file__).parent / "golden" / "optim.npz"


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
    ],
)
def test_refusals(config, message):
    with pytest.raises(ValueError, match=message):
        optim.make(config, {"a": jnp.zeros(1)}, steps=1, steps_per_epoch=1)
