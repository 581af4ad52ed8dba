"""ProTA: the reference values of its INFERRED parts, every option, blocks of queries, what the fields refuse."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vlr_jax import losses
from vlr_jax.layers.interaction import Space, interact, kernel
from vlr_jax.models.prota import Model, divergence
from vlr_jax.terms import Terms
from vlr_jax.types import Encoded

GOLDEN = pathlib.Path(__file__).parent / "golden" / "inferred_prota.npz"
SIZES = dict(vocabulary=20, visual_dim=6, dim=8, word_dim=4, text="gru", temporal_layers=0)
rng = np.random.default_rng(0)
ROWS = 4
BATCH = {
    "visual": rng.normal(size=(ROWS, 3, 6)).astype(np.float32),
    "visual_mask": np.arange(3) < np.array([3, 1, 2, 3])[:, None],
    "text": rng.integers(0, 20, (ROWS, 5)).astype(np.int32),
    "text_mask": np.arange(5) < np.array([5, 3, 1, 4])[:, None],
    "valid": np.ones(ROWS, bool),
}  # fmt: skip


@pytest.fixture(scope="module")
def reference():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def encoded(reference):
    """The reference's tokens as the encoders would give them, (visual, text)."""
    made = []
    for letter, mask in (("v", "video_mask"), ("t", "text_mask")):
        tokens = jnp.asarray(reference[letter])
        extra = {"weights": reference[f"w_{letter}"], "log_var": reference[f"logvar_{letter}"], "high": tokens}
        made.append(Encoded(tokens[:, 0], tokens, jnp.asarray(reference[mask] > 0), jax.tree.map(jnp.asarray, extra)))
    return made


def of_model(encoded, **fields):
    model = Model(20, sharpness=4.0, prior_variance=1.0, **fields)
    return jax.jit(lambda *sides: model.apply({}, *sides, method=lambda m, *s: (m.similarity(*s), m.regularisers(*s))))(
        *encoded
    )


class TestReference:
    """The reference's rows are texts; λ = 4, tokens enter the kernels as they are, the prior is N(0, 1)."""

    def test_scores_divergence_and_loss(self, reference, encoded):
        scores, regularisers = of_model(encoded)
        for ours, theirs in (("low", "S_low"), ("high", "S_high"), ("probabilistic", "S_prob"), ("sim", "S")):
            np.testing.assert_allclose(scores[ours].T, reference[theirs], atol=1e-5, err_msg=ours)
        np.testing.assert_allclose(regularisers["kl"], reference["L_kl"], rtol=1e-5)
        loss = functools.partial(
            losses.adaptive_contrastive, scores["sim"], jnp.eye(3), margin=0.2, temperature=1 / reference["scale"]
        )
        both = (jnp.mean(loss(axis=0)) + jnp.mean(loss(axis=1))) / 2
        np.testing.assert_allclose(both, reference["L_contra"], atol=1e-5)
        margin = 0.2 * np.clip(1 - np.diagonal(scores["sim"]), 0, 1)
        np.testing.assert_allclose(margin, reference["margin"], atol=1e-5)

    def test_every_part(self, reference, encoded):
        """Cosines, kernels and distances of tokens; and what each token gets of the other side."""
        visual, text = encoded
        unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
        cosines = np.einsum("tld,vfd->tvlf", unit(reference["t"]), unit(reference["v"]))
        np.testing.assert_allclose(cosines, reference["s"], atol=1e-5)
        np.testing.assert_allclose(kernel(jnp.asarray(cosines), 5, 1.0)[0], reference["H"], atol=1e-5)
        # The score of a single token on either side is their similarity: 1 - W² / 2 for Gaussians.
        one = [s.replace(mask=jnp.arange(s.mask.shape[1]) < jnp.ones((3, 1))) for s in encoded]
        one = [s.replace(extra=s.extra | {"weights": s.mask.astype(jnp.float32)}) for s in one]
        distance = 2 - 2 * of_model(one)[0]["probabilistic"].T
        np.testing.assert_allclose(distance, reference["W2"][:, :, 0, 0], atol=1e-5)
        # All weight on one token, and none on the other side, leaves half of what that token gets.
        tokens = [(unit(np.asarray(side.tokens)),) for side in encoded]
        get = jax.jit(lambda u, w: interact(
            *tokens, visual_weights=u, text_weights=w, visual_mask=visual.mask, text_mask=text.mask, sharpness=4.0,
            spaces=(Space(),),
        )[0].T)  # fmt: skip
        nothing = np.zeros((3, 4), np.float32), np.zeros((3, 7), np.float32)
        for k, name, valid in ((1, "l_t", reference["text_mask"]), (0, "l_v", reference["video_mask"])):
            for place in range(valid.shape[1]):
                weights = list(nothing)
                weights[k] = nothing[k] + (np.arange(valid.shape[1]) == place)
                found, expected = 2 * get(*weights), reference[name][:, :, place]
                rows = (valid[:, place] > 0)[:, None] if k else (valid[:, place] > 0)[None]
                np.testing.assert_allclose(np.where(rows, found, 0), np.where(rows, expected, 0), atol=1e-5)


def touch(model, batch):
    sides = model.encode_visual(batch, train=True), model.encode_text(batch, train=True)
    return model.similarity(*sides), model.regularisers(*sides), model.temperature(), sides


def start(model):
    return jax.jit(functools.partial(model.init_with_output, method=touch))(jax.random.key(0), BATCH)


@pytest.mark.slow
def test_at_first_every_space_begins_from_the_cosines():
    """The kernels' projection is the identity; affine is 1 - W² / 2; tokens begin as near points."""
    (scores, regularisers, temperature, sides), variables = start(Model(**SIZES, distribution="affine"))
    assert {"visual_high", "text_high", "log_slope", "offset"} <= set(variables["params"])
    plain = Model(**SIZES, project_high=False)
    sides = [side.replace(extra={k: v for k, v in side.extra.items() if k != "high"}) for side in sides]
    found = jax.jit(functools.partial(plain.apply, {}, method="similarity"))(*sides)
    for name in scores:
        np.testing.assert_allclose(found[name], scores[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(scores["probabilistic"], scores["low"], atol=0.01)
    assert float(temperature) == pytest.approx(0.07) and np.isfinite(regularisers["kl"])
    np.testing.assert_allclose(jnp.exp(sides[0].extra["log_var"]), np.exp(-2) / 8, rtol=0.1)
    assert divergence(sides[0], None) < divergence(sides[0], 100.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields, names",
    [
        (dict(low=False, weights="uniform"), {"high", "probabilistic", "sim"}),
        (dict(high=False, probabilistic=False), {"low", "sim"}),
        (dict(low=False, high=False, sharpness=None), {"probabilistic", "sim"}),
        (dict(dtype=jnp.bfloat16), {"low", "high", "probabilistic", "sim"}),
    ],
)
def test_options(fields, names):
    (scores, regularisers, _, _), _ = start(Model(**SIZES, **fields))
    assert set(scores) == names and all(s.dtype == jnp.float32 and s.shape == (ROWS, ROWS) for s in scores.values())
    assert set(regularisers) == ({"kl"} if fields.get("probabilistic", True) else set())
    np.testing.assert_allclose(sum(s for name, s in scores.items() if name != "sim") / (len(names) - 1), scores["sim"])


@pytest.mark.slow
def test_blocks_of_queries_change_nothing(encoded):
    """Value and gradient of the adaptive contrastive loss by the encodings, with query_chunk and without."""
    visual, text = (jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), side) for side in encoded)
    batch = {"visual_id": jnp.arange(ROWS), "valid": jnp.arange(ROWS) != 1}
    model = Model(20, sharpness=4.0, high=False, probabilistic=False)
    similarity = lambda v, t: model.apply({}, v, t, method="similarity")
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    found = []
    for chunk in (0, 2):
        terms = Terms(dict(adaptive_contrastive=dict(temperature=0.07)), query_chunk=chunk)
        loss = lambda v, t, terms=terms: terms(similarity, v, t, batch, step=0)[0]
        with jax.set_mesh(mesh):
            found.append(jax.jit(jax.value_and_grad(loss, (0, 1), allow_int=True))(visual, text))
    (value, grads), (parts, parts_grads) = found
    assert float(parts) == pytest.approx(float(value), rel=1e-5)
    for one, other in zip(jax.tree.leaves(parts_grads), jax.tree.leaves(grads), strict=True):
        if one.dtype == jnp.float32:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for side in grads:
        assert np.any(side.tokens) and np.any(side.extra["weights"])


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(weights="mlp"), "model.weights is 'mlp'; prota has: softmax, uniform"),
        (dict(distribution="kl"), "model.distribution is 'kl'; prota has: wasserstein, affine"),
        (dict(low=False, high=False, probabilistic=False), "all False; prota needs at least one"),
        (dict(sharpness=-1.0), "model.sharpness is -1.0; expected at least 0"),
        (dict(kernels=0), "model.kernels is 0; expected at least 1"),
    ],
)
def test_errors_come_before_compilation(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(Model(**SIZES | fields).init, method=touch), jax.random.key(0), BATCH)
