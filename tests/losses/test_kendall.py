"""kendall: official numbers, the formula in Python floats, its normaliser, and pairs that are none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.losses import kendall, kendall_pairs, triplet_hard


def official(s, r, margin, gap):
    """The official code reads rows of R for texts too, where it should read columns: here it is handed R transposed."""
    pair = functools.partial(triplet_hard, s, jnp.eye(len(s), dtype=s.dtype), margin=margin)
    triplet = (pair(axis=1).mean() + pair(axis=0).mean()) / 2
    lists = (kendall(s, r, gap=gap, axis=1).mean() + kendall(s, r.T, gap=gap, axis=0).mean()) / 2
    parts = dict(triplet_loss=triplet, kendall_loss=lists, aux_num=kendall_pairs(r, gap=gap).sum())
    return parts | dict(loss=triplet + lists)


@pytest.mark.parametrize("labels, grades", [("text", "caption_cosine"), ("image", "image")])
def test_golden(check_golden, labels, grades):
    # The official gaps are float32 or Python numbers; equal to 1e-9 only where no pair sits on the gap.
    assert check_golden("rcloss_kendall", rf"m([\d.]+)_gap([\d.]+)_{labels}", official, grades=grades) == 60


def test_reference_with_columns(check_golden):
    total = lambda s, r, gap: (kendall(s, r, gap=gap).mean() + kendall(s, r, gap=gap, axis=0).mean()) / 2
    assert check_golden("inferred_bcls_vlc", r"kendall_fixedT_gap([\d.]+)", total, grades="R") == 8


def test_no_pair_is_zero_not_nan(golden, golden_relevance):
    key = "rcloss_kendall/B2/m0.2_gap0.99_text/f32/kendall_loss"
    assert np.isnan(golden[key])
    s, r = jnp.asarray(golden["B2/S"]), golden_relevance("B2", "caption_cosine", jnp.float32)
    value, grad = jax.value_and_grad(lambda s: kendall(s, r, gap=0.99).sum())(s)
    assert value == 0 and np.all(np.asarray(grad) == 0)


def formula(s, r, gap):
    """Sum over pairs, and their number, of one query in Python floats."""
    pairs = [(j, k) for j in range(len(s)) for k in range(len(s)) if (r[k] - r[j]) + gap < 0]
    return sum(max(s[k] - s[j], 0) for j, k in pairs), len(pairs)


@pytest.mark.parametrize("axis", [1, 0])
@pytest.mark.parametrize("gap", [0.0, 0.25])
def test_formula(block, axis, gap):
    scores, relevance, where = block
    loss, count = (jax.jit(f, static_argnames="axis") for f in (kendall, kendall_pairs))
    values = loss(*map(jnp.asarray, block[:2]), where=jnp.asarray(where), axis=axis, gap=gap)
    counts = count(jnp.asarray(relevance), where=jnp.asarray(where), axis=axis, gap=gap)
    sums = []
    for q in range(len(values)):
        s, r, w = (np.take(a, q, 1 - axis) for a in block)
        sums.append(formula(s[w].tolist(), r[w], np.float32(gap)))
    assert [int(c) for c in counts] == [n for _, n in sums]
    mean = sum(n for _, n in sums) / len(sums)
    np.testing.assert_allclose(values, [total / mean for total, _ in sums], rtol=1e-5, atol=1e-6)


def test_parts_and_padding_make_the_whole():
    rng = np.random.default_rng(0)
    s, r = (jnp.asarray(rng.random((12, 9)), jnp.float32) for _ in range(2))
    loss = jax.jit(kendall)
    whole = loss(s, r, gap=0.2)
    pairs = kendall_pairs(r, gap=0.2).mean()
    parts = [loss(s[i : i + 4], r[i : i + 4], gap=0.2, pairs=pairs) for i in (0, 4, 8)]
    np.testing.assert_allclose(jnp.concatenate(parts), whole, rtol=1e-5)
    padded = [jnp.pad(x, ((0, 4), (0, 0)), constant_values=0.5) for x in (s, r)]
    where = jnp.arange(16)[:, None] < jnp.full((16, 9), 12)
    np.testing.assert_allclose(loss(*padded, where=where, gap=0.2), jnp.pad(whole, (0, 4)), rtol=1e-5)


def test_nearly_collapsed_scores():
    rng = np.random.default_rng(0)
    s = (0.9 + 1e-5 * rng.normal(size=(2, 512))).astype(np.float32)
    r = rng.random((2, 512)).astype(np.float32)
    better = (r[:, None, :] - r[:, :, None]) + np.float32(0.3) < 0  # [Q, j, k], j better than k
    wrong = np.maximum(s.astype(float)[:, None, :] - s.astype(float)[:, :, None], 0)
    expected = (better * wrong).sum((1, 2)) / better.sum((1, 2)).mean()
    np.testing.assert_allclose(jax.jit(kendall)(s, r), expected, rtol=2e-5)


def test_negative_gap_is_refused():
    for call in (lambda x: kendall(x, x, gap=-0.3), lambda x: kendall_pairs(x, gap=-0.3)):
        with pytest.raises(ValueError, match="gap"):
            call(jnp.eye(2))


def test_by_hand():
    scores, relevance = jnp.array([[0.1, 0.5, 0.3]]), jnp.array([[1.0, 0.5, 0.0]])
    # Better before worse: (0, 1) is off by 0.4, (0, 2) by 0.2, (1, 2) is right; three pairs.
    assert float(kendall(scores, relevance)[0]) == pytest.approx(0.6 / 3)
    assert float(kendall(-scores, relevance)[0]) == pytest.approx(0.2 / 3)
    assert float(kendall(scores, relevance, gap=0.6)[0]) == pytest.approx(0.2)


def test_nan_is_not_hidden():
    scores, relevance = jnp.array([[jnp.nan, 0.2, 0.1]]), jnp.array([[1.0, 0.0, 0.0]])
    assert jnp.isnan(kendall(scores, relevance)[0])
    assert kendall(scores, relevance, where=jnp.array([[False, True, True]]))[0] == 0
