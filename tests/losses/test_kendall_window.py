"""kendall_window: reference numbers, brute force over windows, and its knobs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.losses import kendall_window


@pytest.mark.parametrize(("kind", "hard"), [("hard", True), ("mean", False)])
def test_reference(check_golden, kind, hard):
    for window, count in {1: 4, 2: 1, 4: 1, 8: 1, 16: 1, 32: 1, 64: 1}.items():

        def total(s, relevance, window=window):
            loss = functools.partial(kendall_window, s, relevance, window=window, hard=hard)
            return (loss(axis=1).mean() + loss(axis=0).mean()) / 2

        assert check_golden("inferred_bcls_vlc", f"kendall_sw_w{window}_stride1_{kind}", total, grades="R") == count


def brute(scores, relevance, where, window, stride, hard, margin):
    """One query in Python floats."""
    kept = [i for i in range(len(scores)) if where[i]]
    order = sorted(kept, key=lambda i: -relevance[i])
    window = len(kept) // 4 if window is None else window
    pairs = [(order[k], order[k + window]) for k in range(0, len(order) - window, stride)]
    costs = [max(scores[j] - scores[i] + margin, 0) for i, j in pairs if relevance[i] > relevance[j]]
    return (max(costs) if hard else sum(costs) / len(costs)) if costs else 0.0


@pytest.mark.parametrize("axis", [1, 0])
def test_brute_force(axis):
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, (11, 13)).astype(np.float32)
    relevance = (rng.integers(0, 6, (11, 13)) / 5).astype(np.float32)  # many ties
    where = rng.random((11, 13)) < 0.8
    where[2], where[:, 3] = False, False
    arrays = [jnp.asarray(a) for a in (scores, relevance, where)]
    rows = [a if axis == 1 else a.T for a in (scores, relevance, where)]
    for window, stride, hard, margin in itertools.product((None, 1, 5, 40), (1, 3), (True, False), (0.0, 0.2)):
        knobs = dict(window=window, stride=stride, hard=hard, margin=margin)
        found = kendall_window(arrays[0], arrays[1], where=arrays[2], axis=axis, **knobs)
        expected = [brute(*(a[q] for a in rows), *knobs.values()) for q in range(len(rows[0]))]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=str(knobs))


def test_perfect_order_costs_nothing_beyond_the_margin():
    relevance = jnp.linspace(1, 0, 8)[None]
    assert kendall_window(relevance, relevance, window=2).tolist() == [0]
    assert kendall_window(relevance, relevance, window=2, margin=0.5).tolist() == pytest.approx([0.5 - 2 / 7])
    slope = jax.grad(lambda s: kendall_window(s, relevance, window=7).sum())(-relevance)
    assert slope.tolist() == [[-1, 0, 0, 0, 0, 0, 0, 1]]


def test_errors():
    for knobs in (dict(window=0), dict(stride=0)):
        with pytest.raises(ValueError, match="a window and a stride of at least 1, not"):
            kendall_window(jnp.ones((2, 2)), jnp.eye(2), **knobs)
