"""What holds for every model of moments: padding, order, dtypes, tokens or states as texts, and clear refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.models import moment_detr, qd_detr, two_tower
from vlr_jax.tasks import moment

B, F, L, D = 4, 7, 5, 6
SIZES = dict(visual_dim=D, dim=16, heads=2, hidden=12, queries=3, encoder_layers=1, word_dim=8, gru_dim=12)
MODELS = {
    "moment_detr": moment_detr.Model(**SIZES, vocabulary=20, contrastive=4),
    "qd_detr": qd_detr.Model(**SIZES, text_dim=9, text_positions=L, t2v_layers=1),
}


def batch(name, seed=0):
    """A batch with negative texts; rows have other numbers of clips and words."""
    rng = np.random.default_rng(seed)
    text = rng.integers(1, 20, (B, L)).astype(np.int32)
    text = rng.normal(size=(B, L, 9)).astype(np.float32) if name == "qd_detr" else text
    made = dict(
        visual=rng.normal(size=(B, F, D)).astype(np.float16),
        visual_mask=np.arange(F) < np.array([[7], [4], [1], [5]]),
        text=text,
        text_mask=np.arange(L) < np.array([[5], [1], [3], [2]]),
        source_id=np.arange(B, dtype=np.int32),
        valid=np.ones(B, bool),
    )
    made = jax.tree.map(jnp.asarray, made)
    return made | moment.negatives(made)


@functools.cache
def variables(name):
    return MODELS[name].init(jax.random.key(0), batch(name))


@functools.cache
def runner(name, train, dtype=None):
    model = MODELS[name] if dtype is None else MODELS[name].clone(dtype=dtype)
    rngs = {"dropout": jax.random.key(1)} if train else None
    return jax.jit(lambda tree, given: model.apply(tree, given, train=train, rngs=rngs))


def both(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_names(name):
    found = runner(name, False)(variables(name), batch(name))
    assert found.spans.shape == found.logits.shape == (2, B, 3, 2) and found.saliency.shape == (B, F)
    assert found.saliency_negative is None and not found.scores and not found.regularisers
    assert ((found.spans > 0) & (found.spans < 1)).all()
    beside = runner(name, True)(variables(name), batch(name)).saliency_negative
    assert beside is None if name == "moment_detr" else beside.shape == (B, F)
    if name == "moment_detr":  # tokens, in the words of a two_tower, which may fill them
        tower = two_tower.Model(vocabulary=20, visual_dim=D, word_dim=8, dim=12)
        touch = lambda m, given: (m.encode_visual(given), m.encode_text(given))
        other = jax.eval_shape(lambda: tower.init(jax.random.key(0), batch(name), method=touch))["params"]
        shapes = lambda tree: jax.tree.map(jnp.shape, {part: tree[part] for part in ("words", "gru")})
        assert shapes(other) == shapes(variables(name)["params"])


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_inert(name):
    given, run = batch(name), runner(name, False)
    plain = run(variables(name), given)
    clips, words = given["visual_mask"], given["text_mask"]
    wide = words if given["text"].ndim == 2 else words[..., None]
    other = given | dict(visual=jnp.where(clips[..., None], given["visual"], 9), text=jnp.where(wide, given["text"], 3))
    compare = lambda x, y: both(
        *((m.spans, m.logits, jnp.where(clips, m.saliency, 0)) for m in (x, y)), rtol=1e-5, atol=1e-5
    )
    compare(plain, run(variables(name), other))
    longer = given | dict(
        visual=jnp.pad(other["visual"], ((0, 0), (0, 2), (0, 0)), constant_values=4),
        visual_mask=jnp.pad(clips, ((0, 0), (0, 2))),
    )
    found = run(variables(name), longer)
    compare(plain, found.replace(saliency=found.saliency[:, :F]))


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_rows(name):
    """In another order they give the same in that order; and so does one row by itself."""
    given, run, order = batch(name), runner(name, False), jnp.array([2, 0, 3, 1])
    plain = run(variables(name), given)
    moved = run(variables(name), jax.tree.map(lambda x: x[order], given))
    rows = lambda m, at: (m.spans[:, at], m.logits[:, at], m.saliency[at])
    both(rows(plain, order), rows(moved, jnp.arange(B)), rtol=1e-5, atol=1e-5)
    alone = run(variables(name), jax.tree.map(lambda x: x[1:2], given))
    both(rows(plain, jnp.array([1])), rows(alone, jnp.array([0])), rtol=1e-5, atol=1e-5)


def test_negative_texts_are_those_of_the_next_row():
    """Beside a wrong text a video's saliency is what it would be with that text, and pairs don't notice."""
    model, tree = MODELS["qd_detr"].clone(dropout=0.0, input_dropout=0.0), variables("qd_detr")
    given = batch("qd_detr")
    run = jax.jit(functools.partial(model.apply, train=True))
    found = run(tree, given)
    without = {key: value for key, value in given.items() if not key.startswith("negative")}
    swapped = without | {key: jnp.roll(given[key], -1, axis=0) for key in ("text", "text_mask")}
    both(found.saliency_negative, run(tree, swapped).saliency, rtol=1e-5, atol=1e-5)
    both(found.replace(saliency_negative=None), run(tree, without), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16(name):
    plain, half = (runner(name, False, dtype)(variables(name), batch(name)) for dtype in (None, jnp.bfloat16))
    for leaf in jax.tree.leaves(half):
        assert leaf.dtype == jnp.float32 and np.isfinite(leaf).all()
    np.testing.assert_allclose(plain.spans, half.spans, atol=0.05)
    trained = runner(name, True, jnp.bfloat16)(variables(name), batch(name))
    assert np.abs(trained.spans - half.spans).max() > 1e-3  # dropout


@pytest.mark.parametrize("name", MODELS)
def test_refusals(name):
    given, model = batch(name), MODELS[name]
    cases = [
        ("visual_dim=5 wants visuals", model.clone(visual_dim=5), given),
        ("3 heads can't share a width of 16", model.clone(heads=3), given),
        ("model.vocabulary must be given", model.clone(text_dim=None, vocabulary=0), given),
        ("wants token ids", model.clone(text_dim=None, vocabulary=9), given | dict(text=jnp.zeros((B, L, 9)))),
        ("text_dim=4 wants states", model.clone(text_dim=4), given),
        ("a text has 5 tokens, but model.text_positions is 3", model.clone(text_positions=3), given),
    ]
    for message, wrong, of in cases:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda: wrong.init(jax.random.key(0), of))  # noqa: B023
