"""The losses of saliency beside NumPy as the official code writes them, and where there is nothing to lose."""

import jax
import jax.numpy as jnp
import numpy as np

from vlr_jax import saliency

B, F = 4, 9


def made(seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(F) < np.array([[9], [6], [3], [8]])
    labels = np.where(mask & (rng.random((B, F)) < 0.4), rng.integers(1, 13, (B, F)), 0).astype(np.float32)
    labels[2] = 0  # a row in which nothing is relevant
    pairs = rng.integers(0, 3, (B, 2, 2)).astype(np.int32)
    scores, negative = rng.normal(size=(2, B, F)).astype(np.float32) * 2
    return {
        k: jnp.asarray(v)
        for k, v in dict(scores=scores, negative=negative, labels=labels, mask=mask, pairs=pairs).items()
    }


def official_rank(scores, negative, labels, mask, pairs=None):
    """`loss_saliency` of wjun0830/QD-DETR, its part `loss_rank_contrastive`, loop by loop."""
    scores, labels = np.concatenate([scores, negative], 1), np.concatenate([labels, 0 * labels], 1)
    mask = np.concatenate([mask, mask], 1).astype(np.float64)
    scores = mask * scores + (1 - mask) * -1e3
    total = 0.0
    for r in range(1, 12):
        positive = labels >= r
        if not positive.any():
            continue
        logits = scores / 0.5 - (scores / 0.5).max(1, keepdims=True)
        log_share = logits - np.log(np.exp(logits).sum(1, keepdims=True) + 1e-6)
        of_row = -(positive * log_share * mask).sum(1) / (positive.sum(1) + 1e-6)
        total += (of_row * (positive.sum(1) > 0)).mean()
    return total / 12


def test_rank_is_the_official_one():
    rows = jnp.ones(B, bool)
    given = made()
    found = saliency.rank(given["scores"], given["negative"], given["labels"], given["mask"], given["mask"], rows)
    np.testing.assert_allclose(found, official_rank(**{k: np.asarray(v) for k, v in given.items()}), rtol=1e-5)
    # Without a wrong text a row's own clips are all there is to rank among.
    none = jnp.zeros_like(given["mask"])
    alone = saliency.rank(given["scores"], given["negative"] + 5, given["labels"], given["mask"], none, rows)
    np.testing.assert_allclose(
        alone, saliency.rank(given["scores"], given["negative"], given["labels"], given["mask"], none, rows)
    )
    assert alone < found


def test_margin():
    scores = jnp.array([[0.0, 1.0, 3.0], [5.0, 5.1, 7.0]])
    pairs = jnp.array([[[1, 0], [0, 1]], [[0, 1], [-1, -1]]])
    everywhere = jnp.array([True, True])
    # max(0, .2 - 1), .2 + 1, .2 + .1; the fourth isn't a pair
    np.testing.assert_allclose(saliency.margin(scores, pairs, everywhere), 2 * (0 + 1.2 + 0.3) / 3, rtol=1e-5)
    np.testing.assert_allclose(saliency.margin(scores, pairs, jnp.array([True, False])), 2 * 1.2 / 2, rtol=1e-6)


def test_wrong_texts_do_not_overflow():
    """The official log(1 - sigmoid(200)) is -inf."""
    mask, where = jnp.array([[True, True, False], [True, False, False]]), jnp.array([True, False])
    negative = jnp.array([[200.0, 0.0, 50.0], [7.0, 0.0, 0.0]])
    loss, slope = jax.value_and_grad(saliency.wrong)(negative, mask, where)
    np.testing.assert_allclose(loss, 200 + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, [[1, 0.5, 0], [0, 0, 0]])


def test_nothing_to_lose():
    given, no = made(), jnp.zeros(B, bool)

    def total(scores, negative, where, mask):
        pairs = jnp.where(where[:, None, None], given["pairs"], -1)
        first = saliency.margin(scores, pairs, where)
        second = saliency.rank(scores, negative, given["labels"], mask, mask & where[:, None], where)
        return first + second + saliency.wrong(negative, mask, where)

    for where, mask in ((no, given["mask"]), (~no, jnp.zeros_like(given["mask"]))):
        if where.any():
            given["pairs"] = jnp.full_like(given["pairs"], -1)  # nor a pair
        value, grads = jax.value_and_grad(total, argnums=(0, 1))(given["scores"], given["negative"], where, mask)
        assert value == 0 and not any(np.any(grad) or not np.isfinite(grad).all() for grad in grads)


def test_padding_is_inert():
    given, rows = made(1), jnp.array([True, True, True, False])
    value = lambda scores, negative, labels: [
        saliency.margin(scores, given["pairs"], rows),
        saliency.rank(scores, negative, labels, given["mask"], given["mask"], rows),
        saliency.wrong(negative, given["mask"], rows),
    ]
    real = given["mask"] & rows[:, None]
    garbage = lambda x: jnp.where(real, x, 77.0)
    plain = value(given["scores"], given["negative"], given["labels"])
    np.testing.assert_array_equal(plain, value(*(garbage(given[k]) for k in ("scores", "negative", "labels"))))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (given["scores"], given["negative"]))
    for loss in value(*half, given["labels"]):
        assert loss.dtype == jnp.float32
