"""Token interaction in blocks: against all pairs at once, DRL's and UATVR's numbers, memory, and several devices."""

import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax.layers import interaction
from vlr_jax.layers.interaction import Space, TokenWeights, equal_weights, interact
from vlr_jax.terms import Terms
from vlr_jax.types import Encoded

GOLDEN = pathlib.Path(__file__).parent / "golden" / "interaction.npz"
SPACES = (Space((0,)), Space((1,), kernels=5), Space((0, 2)))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def side(rng, rows, count, dim, products=3):
    """Tokens, weights that add up to one over the real tokens, mask; the first row has all tokens."""
    mask = np.arange(count) < rng.integers(1, count + 1, (rows, 1))
    mask[0] = True
    weights = np.where(mask, rng.uniform(0.1, 1, (rows, count)), 0)
    tokens = tuple(unit(rng.normal(size=(rows, count, dim))).astype(np.float32) for _ in range(products))
    return tokens, (weights / weights.sum(1, keepdims=True)).astype(np.float32), mask


def blocks(visual, text, sharpness, spaces=SPACES):
    return interact(
        visual[0], text[0], visual_weights=visual[1], text_weights=text[1], visual_mask=visual[2], text_mask=text[2],
        sharpness=sharpness, spaces=spaces,
    )  # fmt: skip


def at_once(visual, text, sharpness, spaces=SPACES):
    """The same with `[V, T, L, F]` whole."""
    (v, u, v_mask), (t, w, t_mask) = visual, text
    found = []
    for space in spaces:
        x = sum(jnp.einsum("vfd,tld->vtlf", v[k], t[k], precision="highest") for k in space.products)
        if space.kernels:
            scales = [space.scale * 2.0 ** (k - space.kernels // 2) for k in range(space.kernels)]
            x = sum(jnp.exp(-(1 - x) / scale) for scale in scales) / space.kernels
        far = lambda mask: jnp.where(mask, 0, -1e30)
        if sharpness is None:
            words, frames = jnp.max(x + far(v_mask)[:, None, None], 3), jnp.max(x + far(t_mask)[:, :, None], 2)
        else:
            words = jnp.sum(x * jax.nn.softmax(sharpness * x + far(v_mask)[:, None, None], 3), 3)
            frames = jnp.sum(x * jax.nn.softmax(sharpness * x + far(t_mask)[:, :, None], 2), 2)
        found.append((jnp.einsum("vtl,tl->vt", words, w) + jnp.einsum("vtf,vf->vt", frames, u)) / 2)
    return tuple(found)


@pytest.mark.parametrize("visuals, texts, sharpness", [(9, 7, 20.0), (5, 11, None)])
def test_blocks_equal_all_at_once(visuals, texts, sharpness, monkeypatch):
    """Values and gradients of tokens and weights; blocks that do not divide the rows, in both loop orders."""
    monkeypatch.setattr(interaction, "PAIRS", {"cpu": 60})
    rng = np.random.default_rng(0)
    visual, text = side(rng, visuals, 3, 8), side(rng, texts, 4, 8)
    upstream = rng.normal(size=(3, visuals, texts)).astype(np.float32)

    def total(function, tokens_and_weights):
        v, t = ((*part, given[2]) for part, given in zip(tokens_and_weights, (visual, text), strict=True))
        scores = jnp.stack(function(v, t, sharpness))
        return jnp.sum(scores * upstream), scores

    both = [
        jax.jit(jax.value_and_grad(lambda x, f=f: total(f, x), has_aux=True))((visual[:2], text[:2]))
        for f in (blocks, at_once)
    ]
    (found, grads), (expected, expected_grads) = both
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), grads, expected_grads)


def test_limits_padding_and_rows_without_tokens():
    """λ = 0 is the mean, large λ the maximum; what is behind a mask is inert; a row without tokens scores 0."""
    rng = np.random.default_rng(1)
    visual, text = side(rng, 5, 3, 8, 1), side(rng, 4, 4, 8, 1)
    run = jax.jit(lambda v, t, sharpness: blocks(v, t, sharpness, (Space(),))[0], static_argnums=2)
    whole = np.einsum("vfd,tld->vtlf", visual[0][0], text[0][0])
    np.testing.assert_allclose(run(visual, text, 1e6), run(visual, text, None), atol=1e-5)
    mean = np.einsum("vtlf,vf,tl->vt", whole, visual[2] / visual[2].sum(1)[:, None], text[1])
    mean += np.einsum("vtlf,vf,tl->vt", whole, visual[1], text[2] / text[2].sum(1)[:, None])
    np.testing.assert_allclose(run(visual, text, 0.0), mean / 2, atol=1e-6)
    garbage = [((np.where(s[2][..., None], s[0][0], 7),), *s[1:]) for s in (visual, text)]
    empty = [(s[0], s[1], s[2] & (np.arange(len(s[2])) != 1)[:, None]) for s in (visual, text)]
    for sharpness in (None, 0.0):
        plain = run(visual, text, sharpness)
        assert (run(*garbage, sharpness) == plain).all()
        assert (run(jax.tree.map(lambda x: x[1:3], visual), text, sharpness) == plain[1:3]).all()
        found = np.asarray(run(*empty, sharpness))
        assert not found[1].any() and not found[:, 1].any() and (found[2:, 2:] == plain[2:, 2:]).all()


def test_gradients_are_finite_without_tokens():
    rng = np.random.default_rng(2)
    visual, text = side(rng, 2, 2, 4, 1), side(rng, 2, 3, 4, 1)
    nothing = (*visual[:2], np.zeros_like(visual[2]))
    grads = jax.jit(jax.grad(lambda x: blocks((x, *nothing[1:]), text, 5.0, (Space(),))[0].sum()))(visual[0])
    assert not np.any(grads[0])


def weights_of(g, start, name, x, mask):
    """Upstream's `Sequential` of linear maps and ReLU in `TokenWeights`."""
    found = sorted(k for k in g if k.startswith(f"{start}{name}_weight_fc") and k.endswith("weight"))
    maps = [{"kernel": g[k].T, "bias": g[k.removesuffix("weight") + "bias"]} for k in found]
    params = {f"hidden_{i}": part for i, part in enumerate(maps[:-1])} | {"out": maps[-1]}
    return np.asarray(TokenWeights(len(maps)).apply({"params": params}, x, mask))


@pytest.fixture(scope="module")
def upstream():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def maximum():
    return jax.jit(lambda v, t: blocks(v, t, None, (Space(),))[0].T)


class TestGolden:
    """github.com/foolwood/DRL, which multiplies invalid pairs by 0: here zero tokens, and everything counts as real."""

    def masked_as_upstream(self, maximum, g, weights):
        sides = []
        for name, w in zip(("video", "text"), weights, strict=True):
            mask = g[f"drl/{name}_mask"].astype(bool)
            sides.append(((np.where(mask[..., None], unit(g[f"drl/{name}_feat"]), 0),), w, np.ones_like(mask)))
        return maximum(*sides)

    def test_token_interaction(self, upstream, maximum):
        equal = [np.asarray(equal_weights(upstream[f"drl/{name}_mask"] > 0)) for name in ("video", "text")]
        found = self.masked_as_upstream(maximum, upstream, equal)
        np.testing.assert_allclose(found, upstream["drl/ti/sim"], atol=1e-5)

    @pytest.mark.parametrize("layers", [1, 2, 3])
    def test_weighted_token_interaction(self, upstream, maximum, layers):
        weights = [
            weights_of(
                upstream,
                f"drl/wti_arch{layers}/w/",
                name,
                upstream[f"drl/{name}_feat"],
                upstream[f"drl/{name}_mask"] > 0,
            )
            for name in ("video", "text")
        ]
        found = self.masked_as_upstream(maximum, upstream, weights)
        np.testing.assert_allclose(found, upstream[f"drl/wti_arch{layers}/sim"], atol=1e-5)

    @pytest.mark.slow
    def test_uatvr(self, upstream, maximum):
        tokens = [upstream[f"uatvr/prob/{name}_tokens"] for name in ("video", "text")]
        masks = [np.ones(x.shape[:2], bool) for x in tokens]
        named = zip(("video", "text"), tokens, masks, strict=True)
        learned = [weights_of(upstream, "uatvr/w/", name, unit(x), mask) for name, x, mask in named]
        for name, weights in (("ti", [np.asarray(equal_weights(mask)) for mask in masks]), ("wti", learned)):
            found = maximum(*(((unit(x),), w, m) for x, w, m in zip(tokens, weights, masks, strict=True)))
            np.testing.assert_allclose(found, upstream[f"uatvr/prob/{name}"], atol=1e-5)


def compiled(visuals, texts, frames, words, dim, *, grad):
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    sides = [
        ((of(n, s, dim),) * 3, of(n, s), jax.ShapeDtypeStruct((n, s), bool))
        for n, s in ((visuals, frames), (texts, words))
    ]
    total = lambda v, t: sum(jnp.sum(jnp.sin(x)) for x in blocks(v, t, 100.0))
    function = jax.grad(total, (0, 1), allow_int=True) if grad else lambda v, t: blocks(v, t, 100.0)
    return jax.jit(function).lower(*sides).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("shape, most", [((512, 2560, 12, 32, 16), 60)])
def test_memory_of_an_evaluation_tile(shape, most):
    """All pairs of tokens would be 2 GB for each of three spaces."""
    assert compiled(*shape, grad=False) < most * 2**20


@pytest.mark.slow
def test_memory_grows_with_the_rows_not_their_product():
    """Forward and backward: with four times the rows four times the memory, not sixteen times."""
    small, large = (compiled(n, n, 12, 32, 16, grad=True) for n in (256, 1024))
    assert large < 4 * small and large < 200 * 2**20 < 1024**2 * 12 * 32 * 4


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 16])
def test_no_array_of_token_pairs_travels(chunk, monkeypatch):
    """On 8 devices: collectives move tokens, weights and scores, and each device works on its share of every block."""
    monkeypatch.setattr(interaction, "PAIRS", {"cpu": 2000})
    rows, frames, words, dim = 64, 4, 6, 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, P("data"))
    of = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

    def encoded(count):
        extra = {"weights": of(count), "high": of(count, dim)}
        return Encoded(of(1), of(count, dim), of(count, dtype=bool), extra)

    def similarity(v, t):
        tokens = ((x.tokens, x.extra["high"]) for x in (v, t))
        v, t = ((tokens, x.extra["weights"], x.mask) for tokens, x in zip(tokens, (v, t), strict=True))
        return {"sim": sum(blocks(v, t, 20.0, SPACES[:2]))}

    terms = Terms({"info_nce": {}}, dict(name="identity"), chunk)
    batch = {"visual_id": of(dtype=jnp.int32), "valid": of(dtype=bool)}
    with jax.set_mesh(mesh):
        step = jax.grad(lambda v, t, batch: terms(similarity, v, t, batch, step=0)[0], (0, 1), allow_int=True)
        text = jax.jit(step).lower(encoded(frames), encoded(words), batch).compile().as_text()
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    for made in re.findall(rf"^ *(?:ROOT )?%[\w.\-]+ = (.*?) (?:{kinds})(?:-start)?\(", text, re.MULTILINE):
        for shape in re.findall(r"\w+\[([\d,]*)\]", made):
            dims = [int(d) for d in shape.split(",") if d]
            assert math.prod(dims) <= max(rows * max(frames, words) * dim, rows * rows // 8), shape
