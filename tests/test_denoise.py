"""CDD: PyTorch's grid_sample, DAT's offsets, a NumPy twin of the layer, and the plain layer that it starts as."""

import functools
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.layers import denoise as cdd
from vlr_jax.layers.detr import EncoderLayer, sine
from vlr_jax.layers.transformer import norm

GOLDEN = pathlib.Path(__file__).parent / "golden" / "cdnet.npz"
B, F, D, G, HEADS, HIDDEN = 4, 7, 8, 2, 4, 12
CLIPS = np.arange(F) < np.array([7, 4, 1, 6])[:, None]
FULL = np.pad(CLIPS, ((0, 0), (1, 0)), constant_values=True)
rng = np.random.default_rng(0)
X = rng.normal(size=(B, 1 + F, D)).astype(np.float32)
SENTENCE = rng.normal(size=(B, D)).astype(np.float32)
ALIGNMENT = (rng.random((B, F)) * CLIPS).astype(np.float32)
FIRST = rng.normal(size=D).astype(np.float32)  # position of the global token
SIZES = dict(heads=HEADS, hidden=HIDDEN, groups=G, dropout=0.0)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def positions(mask=CLIPS):
    codes = np.asarray(sine(jnp.asarray(mask), D))
    return np.concatenate([np.broadcast_to(FIRST, (len(mask), 1, D)), codes], axis=1)


def layer(x=X, mask=FULL, sentence=SENTENCE, alignment=ALIGNMENT, params=None, **fields):
    """What the layer gives, and its parameters; those given, or drawn at random all of them (`wild`)."""
    module, position = cdd.Denoise(**SIZES | fields), positions(mask[:, 1:])
    if params is None:
        params = wild(jax.eval_shape(start(module, x, position, mask, sentence, alignment), jax.random.key(0)))
    run = jax.jit(lambda p: module.apply({"params": p}, x, position, mask, sentence, alignment, train=False))
    return jax.tree.map(np.asarray, run(params)), params


def start(module, *inputs):
    return lambda key: module.init(key, *inputs, train=False)["params"]


def wild(shapes):
    """Parameters of no special value, whatever they start at."""
    leaves, tree = jax.tree.flatten(shapes)
    draw = np.random.default_rng(5)
    return jax.tree.unflatten(tree, [(0.5 * draw.normal(size=leaf.shape)).astype(np.float32) for leaf in leaves])


class TestResampling:
    @pytest.mark.parametrize("case", [0, 1, 2])
    def test_grid_sample(self, golden, case):
        """align_corners, padding "border"; a video of one clip is that clip wherever one looks."""
        x, pos, out = (golden[f"grid_sample_1d/{case}/{name}"] for name in ("x", "pos", "out_ac1_border"))
        frames = x.shape[-1]
        places = jnp.asarray((pos + 1) / 2 * (frames - 1))[:, None]
        found = cdd.resample(jnp.asarray(x).swapaxes(1, 2)[:, :, None], places, jnp.full(len(x), frames))
        np.testing.assert_allclose(found[:, :, 0].swapaxes(1, 2), out, atol=2e-5)

    def test_what_is_behind_the_last_clip_has_no_part(self):
        x, places = rng.normal(size=(1, F, G, 3)), rng.uniform(-2, F + 2, (1, G, 9))
        found = cdd.resample(jnp.asarray(x), jnp.asarray(places), jnp.array([4]))
        np.testing.assert_allclose(found, cdd.resample(jnp.asarray(x[:, :4]), jnp.asarray(places), jnp.array([4])))
        at = np.clip(places[0], 0, 3)
        for g in range(G):
            for c in range(3):
                np.testing.assert_allclose(found[0, :, g, c], np.interp(at[g], np.arange(4), x[0, :4, g, c]), atol=1e-5)
        assert np.all(np.isfinite(cdd.resample(jnp.asarray(x), jnp.asarray(places), jnp.array([0]))))

    def test_gradients_flow_through_the_weights_alone(self):
        """Central differences inside; nothing outside, and on the edges."""
        x, places = rng.normal(size=(1, F, G, 3)), rng.integers(0, 5, (1, G, 6)) + rng.uniform(0.1, 0.9, (1, G, 6))
        places[0, 0, :4] = -0.5, 0.0, 5.0, 7.5  # of six clips
        weight = rng.normal(size=(1, 6, G, 3))
        with jax.enable_x64(True):
            x, places, length = jnp.asarray(x), jnp.asarray(places), jnp.array([6])
            loss = jax.jit(lambda x, places: jnp.sum(weight * cdd.resample(x, places, length)))
            of_x, of_places = jax.jit(jax.grad(loss, (0, 1)))(x, places)
            for k, (value, slope) in enumerate(((x, of_x), (places, of_places))):
                for index in np.ndindex(value.shape):
                    moved = [value.at[index].add(step) for step in (1e-6, -1e-6)]
                    high, low = (loss(m, places) if k == 0 else loss(x, m) for m in moved)
                    if k and index[1] == 0 and index[2] < 4:
                        assert slope[index] == 0
                    else:
                        np.testing.assert_allclose(slope[index], (high - low) / 2e-6, atol=1e-7)
        assert not np.any(of_x[:, 6:])

    def test_reference_points_and_filter(self):
        np.testing.assert_array_equal(cdd.references(3, 1), [0, 1, 2])
        np.testing.assert_array_equal(cdd.references(3, 2), [0.5, 2.5, 4.5])
        x, kernel = rng.normal(size=(2, F, G, 3)), rng.normal(size=(5, 3))
        padded = np.pad(x, [(0, 0), (2, 2), (0, 0), (0, 0)])
        for stride, count in ((1, 7), (2, 4), (3, 3)):
            found = cdd.depthwise(jnp.asarray(x), jnp.asarray(kernel), stride)
            expected = np.stack(
                [(padded[:, stride * n : stride * n + 5] * kernel[:, None]).sum(1) for n in range(count)], axis=1
            )
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("case, stride", [("0", 1), ("1", 2)])
def test_dat(golden, case, stride):
    """DAT's two-dimensional attention of the pieces here: filters row by row, positions one axis after the other.

    What is its own: its reference points and units, and zeros beyond the border, put around the picture.
    """
    names = "x", "y", "pos", "ref"
    x, y, pos, ref = (jnp.asarray(golden[f"dat_attention_2d/{case}/{name}"]) for name in names)
    weight = lambda name: jnp.asarray(golden[f"dat_attention_2d/{case}/param/{name}"])
    linear = lambda name, x: x @ weight(f"{name}.weight")[:, :, 0, 0].T + weight(f"{name}.bias")
    x, y = jnp.moveaxis(x, 1, -1), jnp.moveaxis(y, 1, -1)  # [B, 6, 6, 32]
    rows, size, groups, side = len(x), x.shape[1], 2, -(-x.shape[1] // stride)
    query = linear("proj_q", x)
    ring = jnp.pad(query.reshape(rows, size, size, groups, -1), [(0, 0), (1, 1), (0, 0), (0, 0), (0, 0)])
    filters = jnp.transpose(weight("conv_offset.0.weight")[:, 0], (1, 2, 0))  # [row, K, C]
    flat = lambda u: ring[:, u : u + size : stride].reshape(-1, *ring.shape[2:])
    filtered = sum(cdd.depthwise(flat(u), filters[u], stride) for u in range(3)) + weight("conv_offset.0.bias")
    scale = {name: weight(f"conv_offset.1.norm.{old}") for name, old in (("scale", "weight"), ("bias", "bias"))}
    hidden = nn.gelu(norm().apply({"params": scale}, filtered), approximate=False)
    theta = hidden @ weight("conv_offset.3.weight")[:, :, 0, 0].T  # [B · side, side, G, 2]
    offsets = jnp.moveaxis(jnp.tanh(theta).reshape(rows, side, side, groups, 2) * 2 / (side - 1), 3, 1)
    np.testing.assert_allclose(ref + offsets, pos, atol=1e-5)

    border, count = 4, side * side
    wide = jnp.pad(x.reshape(rows, size, size, groups, -1), [(0, 0), (border,) * 2, (border,) * 2, (0, 0), (0, 0)])
    edge = wide.shape[1]
    place = ((pos + 1) / 2 * (size - 1) + border).reshape(rows, groups, count, 2)
    along = jnp.repeat(place[..., 1], edge, axis=0)  # [B · edge, G, N]
    lines = cdd.resample(wide.reshape(rows * edge, *wide.shape[2:]), along, jnp.full(rows * edge, edge))
    lines = lines.reshape(rows, edge, count, groups, -1).swapaxes(1, 2).reshape(rows * count, edge, groups, -1)
    down = place[..., 0].swapaxes(1, 2).reshape(rows * count, groups, 1)
    sampled = cdd.resample(lines, down, jnp.full(rows * count, edge)).reshape(rows, count, -1)
    key, value = linear("proj_k", sampled), linear("proj_v", sampled)
    mixed = cdd.attend(*(cdd.split(part.reshape(rows, -1, 32), 4, jnp.float32) for part in (query, key, value)), None)
    np.testing.assert_allclose(linear("proj_out", mixed).reshape(y.shape), y, atol=2e-5)


def normalised(x, params):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * params["scale"] + params["bias"]


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def code(position, length):
    angle = 2 * np.pi * (position[:, None] + 1) / (length + 1e-6) / 10_000.0 ** (np.arange(0, D, 2) / D)
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(len(position), D)


def twin(x, sentence, alignment, params, stride, offset_range, relative_bias):
    """One row's real elements `[1 + f, D]` through the layer, by the formulas one after the other."""
    p = params["attention"]
    linear = lambda name, x, p=p: x @ p[name]["kernel"] + p[name]["bias"]
    f = len(x) - 1
    position = np.concatenate([FIRST[None], code(np.arange(f), f)])
    q = linear("query", x + position)
    net = p["offsets"]
    moved = q[1:] * (1 + np.tanh(sentence @ net["modulate"]["kernel"])) + sentence @ net["shift"]["kernel"]
    reference = (np.arange(-(-f // stride)) + 0.5) * stride - 0.5
    points = []
    for group in np.split(moved, G, axis=1):
        padded = np.pad(group, ((2, 2), (0, 0)))
        for_each = [(padded[stride * n : stride * n + 5] * net["kernel"]).sum(0) for n in range(len(reference))]
        h = normalised(np.stack(for_each) + net["bias"], net["norm"])
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / np.sqrt(2)))
        points.append(reference + offset_range * np.tanh(h @ net["out"]["kernel"][:, 0]))
    places = np.clip(points, 0, f - 1)
    interp = lambda at, values: np.stack([np.interp(at, np.arange(f), v) for v in values.T], 1)
    sampled = np.concatenate([interp(at, part) for at, part in zip(places, np.split(x[1:], G, 1), strict=True)], 1)
    level = np.mean([np.interp(at, np.arange(f), alignment) for at in places], 0)
    middle = places.mean(0)
    seen = reference <= f - 1
    key = linear("key", np.concatenate([(x + position)[:1], sampled + code(middle, f)]))
    value = linear("value", np.concatenate([x[:1], sampled]))
    bias = np.broadcast_to(p["strength"] * np.log(level + 1e-4), (HEADS, f, len(level))).copy()
    if relative_bias:
        distance = np.clip(np.arange(f)[:, None] - middle, -relative_bias, relative_bias) + relative_bias
        for head in range(HEADS):
            bias[head] += np.interp(distance, np.arange(2 * relative_bias + 1), p["relative"][:, head])
    mixed, width = np.zeros((1 + f, D)), D // HEADS
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        logits = q[1:, part] @ key[:, part].T / np.sqrt(width)
        logits[:, 1:] = np.where(seen, logits[:, 1:] + bias[head], -np.inf)
        mixed[1:, part] = softmax(logits) @ value[:, part]
        plain = q[:1, part] @ linear("key", x + position)[:, part].T / np.sqrt(width)
        mixed[:1, part] = softmax(plain) @ linear("value", x)[:, part]
    x = normalised(x + linear("out", mixed), params["norm_1"])
    forward = params["forward"]
    h = linear("widen", x, forward)
    h = linear("narrow", np.where(h > 0, h, forward["slope"] * h), forward)
    return normalised(x + h, params["norm_2"]), points, places


@pytest.mark.parametrize("fields", [{}, dict(stride=2, offset_range=3.0, relative_bias=2), dict(relative_bias=9)])
def test_the_layer_is_the_formulas(fields):
    """Offsets, positions and result of every row's real elements, which know nothing of padding and other rows."""
    (found, points), params = layer(**fields)
    chosen = dict(stride=1, offset_range=5.0, relative_bias=0) | fields
    for b in range(B):
        f = int(CLIPS[b].sum())
        expected, free, places = twin(X[b, : 1 + f], SENTENCE[b], ALIGNMENT[b, :f], params, **chosen)
        count = len(places[0])
        assert points["positions"].shape == (B, G, -(-F // chosen["stride"]))
        np.testing.assert_allclose(points["positions"][b, :, :count], places, atol=1e-4)
        offsets = np.asarray(free) - np.asarray(cdd.references(count, chosen["stride"]))
        np.testing.assert_allclose(points["offsets"][b, :, :count], offsets, atol=1e-4)
        np.testing.assert_allclose(found[b, : 1 + f], expected, atol=2e-4)
    assert np.abs(points["offsets"]).max() <= chosen["offset_range"] and np.abs(points["offsets"]).max() > 1


def plain(params):
    """Those of the encoder layer among the parameters."""
    own = ("offsets", "strength", "relative")
    return params | {"attention": {k: v for k, v in params["attention"].items() if k not in own}}


@pytest.mark.parametrize("how", ["no range", "as it starts", "as it starts, with a table"])
def test_it_starts_as_the_encoder_layer(how):
    """offset_range = 0, or the last map of the offsets at its zeros; γ = 0: equal to float tolerance."""
    fields = dict(offset_range=0.0) if how == "no range" else dict(relative_bias=3 * how.endswith("table"))
    module = cdd.Denoise(**SIZES | fields)
    params = jax.jit(start(module, X, positions(), FULL, SENTENCE, ALIGNMENT))(jax.random.key(3))
    assert ("offsets" in params["attention"]) == (how != "no range")
    (found, points), _ = layer(params=params, **fields)
    other = EncoderLayer(HEADS, HIDDEN, "prelu", 0.0)
    expected = other.apply({"params": plain(params)}, X, positions(), FULL, train=False)
    np.testing.assert_allclose(found[FULL], np.asarray(expected)[FULL], atol=2e-6)
    assert not points["offsets"].any()
    # And not by accident: what is learned changes it.
    touched = jax.tree.map(jnp.asarray, params)
    touched["attention"]["strength"] = jnp.float32(1.0)
    assert np.abs(layer(params=touched, **fields)[0][0] - found)[FULL].max() > 1e-3


def test_padding_and_company_change_nothing():
    (found, points), params = layer(stride=2, relative_bias=3)
    again = functools.partial(layer, params=params, stride=2, relative_bias=3)
    longer = np.concatenate([np.where(FULL[..., None], X, 1e3), np.full((B, 4, D), -50.0)], 1).astype(np.float32)
    mask = np.pad(FULL, ((0, 0), (0, 4)))
    alignment = np.pad(ALIGNMENT, ((0, 0), (0, 4)))
    (padded, further), _ = again(longer, mask, SENTENCE, alignment)
    np.testing.assert_allclose(padded[:, : 1 + F][FULL], found[FULL], atol=1e-5)
    order = [3, 1, 0, 2]
    (turned, _), _ = again(X[order], FULL[order], SENTENCE[order], ALIGNMENT[order])
    np.testing.assert_allclose(turned[FULL[order]], found[order][FULL[order]], atol=1e-5)
    (one, _), _ = again(X[1:2], FULL[1:2], SENTENCE[1:2], ALIGNMENT[1:2])
    np.testing.assert_allclose(one[FULL[1:2]], found[1:2][FULL[1:2]], atol=1e-5)
    for b in range(B):
        count = -(-int(CLIPS[b].sum()) // 2)
        np.testing.assert_allclose(further["positions"][b, :, :count], points["positions"][b, :, :count], atol=1e-5)


def test_everything_learns_and_bfloat16_keeps_positions_exact():
    """Every parameter has a gradient but the keys' bias, which no softmax sees; positions are float32 in any dtype."""
    module, inputs = cdd.Denoise(**SIZES, relative_bias=2), (X, positions(), FULL, SENTENCE, ALIGNMENT)
    _, params = layer(relative_bias=2)
    weight = rng.normal(size=X.shape).astype(np.float32)

    @jax.jit
    @jax.grad
    def slopes(params):
        return jnp.sum(
            jnp.where(FULL[..., None], weight * module.apply({"params": params}, *inputs, train=False)[0], 0)
        )

    for path, slope in jax.tree_util.tree_leaves_with_path(slopes(params)):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(slope)) and (np.any(np.abs(slope) > 1e-6) or "['key']['bias']" in name), name
    small = cdd.Denoise(**SIZES, relative_bias=2, dtype=jnp.bfloat16)
    out, points = jax.eval_shape(lambda p: small.apply({"params": p}, *inputs, train=False), params)
    assert {out.dtype, *(x.dtype for x in points.values())} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(groups=3), "3 groups can't share a width of 8"),
        (dict(heads=3), "3 heads can't share a width of 8"),
        (dict(kernel=4), "kernel is 4; expected an odd number"),
        (dict(stride=0), "found 0, 5.0 and 0"),
        (dict(offset_range=-1.0), "found 1, -1.0 and 0"),
    ],
)
def test_errors_come_before_compilation(fields, message):
    module = cdd.Denoise(**SIZES | fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(start(module, X, positions(), FULL, SENTENCE, ALIGNMENT), jax.random.key(0))
