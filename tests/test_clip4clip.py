"""CLIP4Clip: the official heads' numbers, both towers, the temporal transformer, what the fields refuse."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import losses
from vlr_jax.layers.towers import Temporal, Towers
from vlr_jax.models.clip4clip import Model
from vlr_jax.pretrained import clip
from vlr_jax.types import Encoded

TESTS = pathlib.Path(__file__).parent
OFFICIAL = TESTS.parents[1] / "shared" / "golden" / "video_text"  # too large to copy
CLIP = dict(
    image_size=8, patch=4, vision_width=8, vision_layers=1, vision_heads=2, text_width=8, text_layers=1, text_heads=2,
    positions=9, dim=8,
)  # fmt: skip
rng = np.random.default_rng(0)
BATCH = {
    "visual": rng.integers(0, 256, (3, 4, 8, 8, 3)).astype(np.uint8),
    "visual_mask": np.arange(4) < np.array([4, 1, 3])[:, None],
    "text": rng.integers(0, 20, (3, 7)).astype(np.int32),
    "text_mask": np.arange(7) < np.array([7, 3, 1])[:, None],
}


def touch(model, batch):
    visual, text = model.encode_visual(batch), model.encode_text(batch)
    return visual, text, model.similarity(visual, text)["sim"], model.temperature()


def official(name):
    path = OFFICIAL / name
    if not path.is_file():
        pytest.skip(f"no official numbers at {path}")
    with np.load(path) as file:
        return dict(file)


def check_head(g, head, similarity, temperature=0.07):
    """Logits (rows are texts), InfoNCE both ways, and the gradient of their mean by the logits."""
    np.testing.assert_allclose(similarity.T / temperature, g[f"{head}/retrieve_logits"], atol=1e-4)

    @jax.jit
    def both(logits):
        total = [jnp.mean(losses.info_nce(logits, jnp.eye(4), axis=axis, temperature=1.0)) for axis in (0, 1)]
        return sum(total) / 2, total

    slope, total = jax.grad(both, has_aux=True)(similarity / temperature)
    np.testing.assert_allclose(total, [g[f"{head}/loss_t2v"], g[f"{head}/loss_v2t"]], atol=1e-5)
    np.testing.assert_allclose(slope.T, g[f"{head}/dloss_dsim"], atol=1e-5)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_mean_of_frames_equals_the_official_head():
    """Features of the width of the space enter as they are: the linear map starts as the identity."""
    with np.load(TESTS / "golden" / "clip4clip.npz") as file:
        g = dict(file)
    model = Model(20, visual_dim=64, dim=64, text="gru", word_dim=2)
    batch = {"visual": g["visual_output"], "visual_mask": g["video_mask"] > 0}
    text = Encoded(pooled=jnp.asarray(unit(g["sequence_output"][:, 0])))

    def head(model, batch):
        return model.similarity(model.encode_visual(batch), text)["sim"], model.temperature()

    (similarity, temperature), _ = jax.jit(functools.partial(model.init_with_output, method=head))(
        jax.random.key(0), batch
    )
    check_head(g, "meanP", similarity, temperature)


def test_temporal_transformer_equals_the_official_head():
    """On the official weights; and with CLIP's, from pixels and ids to the logits."""
    g, tiny = official("clip4clip_heads.npz"), official("clip_vit_tiny_p16.npz")
    frames, mask = g["visual_output"], g["video_mask"] > 0
    state = {
        name.removeprefix("seqTransf/w/").replace("transformerClip", "transformer"): value
        for name, value in g.items()
        if name.startswith("seqTransf/w/transformerClip")
    }
    places = g["seqTransf/w/frame_position_embeddings.weight"]
    temporal = {"positions": places, "blocks": clip.tree(state)["text"]["blocks"]}
    found = jax.jit(Temporal().apply)({"params": temporal}, frames, mask)
    # Up to 13 in size; the official float32 numbers are as far, 1.5e-5, from what float64 gives.
    np.testing.assert_allclose(found, g["seqTransf/temporal_output"], atol=2e-5)

    sizes = dict(image_size=64, patch=16, vision_width=128, vision_layers=2, vision_heads=2)
    sizes |= dict(text_width=64, text_layers=2, text_heads=1, dim=64)
    model = Model(300, temporal="transformer", clip_sizes=sizes)
    weights = clip.tree({name[2:]: value for name, value in tiny.items() if name.startswith("w/")})
    batch = {
        "visual": g["video_BTCHW"].transpose(0, 1, 3, 4, 2), "visual_mask": mask,
        "text": g["input_ids"], "text_mask": g["attention_mask"] > 0,
    }  # fmt: skip
    params = {"params": {"clip": weights, "temporal": temporal}}
    visual, text, similarity, temperature = jax.jit(functools.partial(model.apply, method=touch))(params, batch)
    np.testing.assert_allclose(text.pooled, unit(g["sequence_output"][:, 0]), atol=1e-5)
    valid = np.where(mask[..., None], g["seqTransf/temporal_output"], 0)
    np.testing.assert_allclose(visual.tokens, valid, atol=2e-5)
    check_head(g, "seqTransf", similarity, temperature)


class TestModel:
    @pytest.fixture(scope="class")
    def made(self):
        model = Model(20, temporal="transformer", temporal_layers=1, interaction="wti", clip_sizes=CLIP)
        variables = jax.jit(functools.partial(model.init, method=touch))(jax.random.key(0), BATCH)
        return variables, jax.jit(functools.partial(model.apply, method=touch))

    def test_modules(self, made):
        """Where `config.init` puts a CLIP, and its text blocks; the temperature is CLIP's alone."""
        params = made[0]["params"]
        assert set(params) == {"clip", "temporal", "visual_weights", "text_weights"}
        assert set(params["clip"]) == {"visual", "text", "log_temperature"}
        assert set(params["temporal"]) == {"positions", "blocks"} and params["temporal"]["positions"].shape == (9, 8)
        assert params["clip"]["text"]["words"]["embedding"].shape == (20, 8)

    def test_padding_is_inert(self, made):
        variables, run = made
        garbage = dict(BATCH)
        for key in ("visual", "text"):
            mask = BATCH[f"{key}_mask"].reshape(3, -1, *(1,) * (BATCH[key].ndim - 2))
            garbage[key] = np.where(mask, BATCH[key], BATCH[key].dtype.type(7))
        for a, b in zip(jax.tree.leaves(run(variables, BATCH)), jax.tree.leaves(run(variables, garbage)), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_no_valid_frame_or_token_is_finite(self, made):
        variables, run = made
        empty = {key: np.zeros_like(value) if key.endswith("mask") else value for key, value in BATCH.items()}
        found = run(variables, empty)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)) and not found[2].any()


def test_regions_are_averaged():
    towers = Towers(20, visual_dim=4, text="gru", dim=4, word_dim=2)
    x, mask = rng.normal(size=(2, 3, 5, 4)).astype(np.float32), rng.random((2, 3, 5)) < 0.6
    mask[0, 2] = False
    batch = {"visual": x, "visual_mask": mask}
    run = functools.partial(towers.init_with_output, train=False, method="frames")
    (frames, found), _ = jax.jit(run)(jax.random.key(0), batch)
    assert (found == mask.any(2)).all() and not found[0, 2]
    expected = np.where(mask[..., None], x, 0).sum(2) / np.maximum(mask.sum(2), 1)[..., None]
    np.testing.assert_allclose(frames, expected, atol=1e-6)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(temporal="lstm"), "model.temporal is 'lstm'; clip4clip has: none, transformer"),
        (dict(interaction="max"), "model.interaction is 'max'; clip4clip has: mean, ti, wti"),
        (dict(text="bert"), "model.text is 'bert'; it can be: clip, gru"),
        (dict(clip_sizes=dict(width=3)), "model.clip_sizes has width; clip has: .*text_width.*, dim"),
        (dict(dim=4, clip_sizes=CLIP), "model.dim is 4, but CLIP's .* is 8"),
        (dict(visual_dim=5, clip_sizes=CLIP), r"wants features \[B, F, 5\] or .* got uint8 \(3, 4, 8, 8, 3\)"),
    ],
)
def test_errors_come_before_compilation(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(Model(20, **fields).init, method=touch), jax.random.key(0), BATCH)
