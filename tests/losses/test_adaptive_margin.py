"""adaptive_margin: official numbers, the formula in Python floats, and a threshold of 1."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.losses import adaptive_margin, unified


def official(s, relevance, margin, temperature, alpha):
    """The sum of both directions."""
    knobs = dict(margin=margin, temperature=temperature, alpha=alpha)
    return sum(adaptive_margin(s, relevance, axis=axis, **knobs).mean() for axis in (0, 1))


def test_golden(check_golden):
    shrinking, constant = (functools.partial(official, alpha=alpha) for alpha in (0.18, 1.0))
    case = r"m([\d.]+)_tau([\d.]+)_pct"
    assert check_golden("lgloss", case + "70", shrinking, grades="caption_cosine") == 28
    assert check_golden("lgloss(?!/B8_sameimage)", case + "100", constant, grades="caption_cosine") == 28


def test_golden_where_a_negative_rounds_to_relevance_one(check_golden):
    """Items 0 and 3 share an image, so one negative's cosine rounds to 1.0 in the official code: its margin is 0 there.

    Here nothing but a true pair has relevance 1, and below it all margins are m for alpha 1.
    """

    def total(s, relevance, margin, temperature):
        pair = (0, 3) if s.dtype == jnp.float32 else (3, 0)
        return official(s.at[pair].add(-margin), relevance, margin, temperature, alpha=1.0)

    case = r"m([\d.]+)_tau([\d.]+)_pct100"
    assert check_golden("lgloss(?=/B8_sameimage)", case, total, grades="caption_cosine") == 4


@pytest.mark.parametrize("tag, alpha", [("pct70", 0.18), ("pct100", 1.0)])
def test_golden_margins(golden, golden_relevance, tag, alpha):
    """A query of one positive and one negative, both of score 0, tells the negative's margin."""
    loss = jax.jit(adaptive_margin)
    for source in ("B2", "B8", "B8_sameimage"):
        margins, grades = golden[f"lgloss/{source}/aux_margin_{tag}"], golden[f"lgloss/{source}/aux_relevance"]
        apart = grades < 1  # one negative of the last rounds to relevance 1 in the official code
        assert apart.sum() == grades.size - len(grades) - (source == "B8_sameimage")
        with jax.enable_x64():
            r = jnp.column_stack(
                [jnp.ones(apart.sum()), golden_relevance(source, "caption_cosine", jnp.float64)[apart]]
            )
            found = jnp.log(jnp.expm1(loss(jnp.zeros_like(r), r, margin=0.2, alpha=alpha, temperature=0.1))) * 0.1
        np.testing.assert_allclose(found, margins[apart], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.18, 0.5, 1.0])
def test_formula(block, alpha):
    scores, relevance, where = block
    for axis in (1, 0):
        knobs = dict(axis=axis, margin=0.3, alpha=alpha, temperature=0.1)
        found = adaptive_margin(*(jnp.asarray(a) for a in (scores, relevance)), where=jnp.asarray(where), **knobs)
        for q, value in enumerate(found):
            s, r, w = (np.take(a, q, 1 - axis).astype(float) for a in (scores, relevance, where))
            pairs = [(x, y) for x, y, z in zip(s, r, w, strict=True) if z]
            margins = [(x, 0.3 if y < alpha else 0.3 * (1 - y) / (1 - alpha)) for x, y in pairs if y < 1]
            costs = [math.log1p(sum(math.exp((x + m - p) / 0.1) for x, m in margins)) for p, y in pairs if y == 1]
            assert float(value) == pytest.approx(sum(costs) / max(len(costs), 1), rel=1e-5, abs=1e-6)


def test_threshold_of_one(block):
    scores, relevance, where = (jnp.asarray(a) for a in block)

    def loss(scores, relevance, alpha):
        return adaptive_margin(scores, relevance, where=where, alpha=alpha).sum()

    # Also a traced one, and its own gradient and that of the relevance: no 0 / 0 anywhere.
    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(scores, relevance, jnp.float32(1.0))
    np.testing.assert_allclose(value, unified(scores, relevance, where=where, temperature=0.05).sum() / 0.05, rtol=1e-5)
    assert all(jnp.isfinite(grad).all() for grad in grads)
