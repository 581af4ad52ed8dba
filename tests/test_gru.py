"""layers/gru.py beside a NumPy loop, and its hand-written gradients beside those of a plain scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.layers.gru import GRU

B, L, E, H = 3, 5, 4, 6
rng = np.random.default_rng(0)
X = rng.normal(size=(B, L, E))
LENGTHS = np.array([5, 2, 4])
MASK = np.arange(L) < LENGTHS[:, None]


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(GRU(H).init, jax.random.key(0), jnp.zeros((B, L, E)), jnp.ones((B, L), bool))
    # Larger than the first values of training, so that the gates do something.
    return jax.tree.map(lambda s: rng.normal(size=s.shape) * 0.6, shapes)


def numpy_gru(params, x, length, reverse):
    """The equations for one sequence, states of the real tokens in reading order."""
    h, states = np.zeros(H), []
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    for i in range(length)[:: -1 if reverse else 1]:
        a = x[i] @ params["weight_ih"] + params["bias_ih"]
        u = h @ params["weight_hh"] + params["bias_hh"]
        r, z = sigmoid(a[:H] + u[:H]), sigmoid(a[H : 2 * H] + u[H : 2 * H])
        h = (1 - z) * np.tanh(a[2 * H :] + r * u[2 * H :]) + z * h
        states.append(h)
    return states[::-1] if reverse else states


def plain_gru(params, x, mask, reverse):
    """The same as a differentiable scan."""
    p = params["params"]

    def step(h, inputs):
        x, real = inputs
        a, u = x @ p["weight_ih"] + p["bias_ih"], h @ p["weight_hh"] + p["bias_hh"]
        r, z = jax.nn.sigmoid(a[:, :H] + u[:, :H]), jax.nn.sigmoid(a[:, H : 2 * H] + u[:, H : 2 * H])
        new = (1 - z) * jnp.tanh(a[:, 2 * H :] + r * u[:, 2 * H :]) + z * h
        h = jnp.where(real[:, None], new, h)
        return h, h

    last, states = jax.lax.scan(step, jnp.zeros((B, H), x.dtype), (x.swapaxes(0, 1), mask.T), reverse=reverse)
    return states.swapaxes(0, 1), last


@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_gradients(variables, reverse):
    weights = rng.normal(size=(B, L, H)), rng.normal(size=(B, H))

    def total(apply, variables, x):
        states, last = apply(variables, x, MASK)
        return (states * weights[0]).sum() + (last * weights[1]).sum(), (states, last)

    with jax.enable_x64(True):
        ours = GRU(H, reverse=reverse, dtype=jnp.float64).apply
        theirs = functools.partial(plain_gru, reverse=reverse)
        run = lambda apply: jax.jit(jax.grad(functools.partial(total, apply), (0, 1), has_aux=True))(variables, X)
        (grads, (states, last)), (expected_grads, _) = run(ours), run(theirs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), grads, expected_grads)
        for b in range(B):
            expected = numpy_gru(variables["params"], X[b], LENGTHS[b], reverse)
            np.testing.assert_allclose(states[b, : LENGTHS[b]], expected, rtol=1e-9)
            np.testing.assert_allclose(last[b], expected[0 if reverse else -1], rtol=1e-9)
        assert np.all(np.asarray(grads[1])[~MASK] == 0)


def test_padding_is_inert(variables):
    variables = jax.tree.map(jnp.float32, variables)
    garbage = jnp.asarray(np.where(MASK[..., None], X, 1e3), jnp.float32)
    for reverse in (False, True):
        _, last = GRU(H, reverse=reverse).apply(variables, jnp.asarray(X, jnp.float32), MASK)
        _, same = GRU(H, reverse=reverse).apply(variables, garbage, MASK)
        assert (last == same).all()


def test_bfloat16_products_keep_float32_states(variables):
    variables, x = jax.tree.map(jnp.float32, variables), jnp.asarray(X, jnp.float32)
    _, exact = GRU(H).apply(variables, x, MASK)

    def last(variables):
        return GRU(H, dtype=jnp.bfloat16).apply(variables, x, MASK)[1]

    assert last(variables).dtype == jnp.float32
    np.testing.assert_allclose(last(variables), exact, atol=0.05)
    grads = jax.grad(lambda v: last(v).sum())(variables)
    assert all(g.dtype == jnp.float32 and bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
