"""models/visern.py and its parts: the reference values of its graph, VSRN's layer, Dual Encoding's encoders, padding.

The numbers of VSRN and Dual Encoding are those of the official codes; those of the graph are this reading's own.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import losses
from vlr_jax.layers import graph, pooling
from vlr_jax.layers.multilevel import BiGRU, Common, Convolutions
from vlr_jax.models.visern import Model

GOLDEN = pathlib.Path(__file__).parent / "golden"
rng = np.random.default_rng(0)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@functools.cache
def golden(name, dtype=np.float64):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: a.astype(dtype) if a.dtype == np.float32 else a for key, a in file.items()}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# --- the graph ---


def run64(f):
    """`f()` compiled as a whole, in float64, its result on the host."""
    with jax.enable_x64(True):
        return jax.device_get(jax.jit(f)())


def test_reference_values_of_the_graph():
    """Real regions as they are; the reference also has rows of padding, which come from an all-ones mask."""
    g = golden("inferred_visern")
    v, mask = g["V"].reshape(6, 5, 8), g["region_mask"].reshape(6, 5) > 0
    flat = {k: g[k].reshape(6, *g[k].shape[2:]) for k in g if g[k].shape[:2] == (2, 3)}
    kernel = np.concatenate([g["W_phi"].T, g["W_phi2"].T, g["W_gcn"].T], axis=1)
    params = {"params": {"kernel": kernel, "bias": np.concatenate([g["b_phi"], g["b_phi2"]])}}
    pairs, ones = mask[:, None] & mask[..., None], np.ones((6, 5), bool)

    def run():
        edges, found = jnp.asarray(flat["E"]), {}
        for kind in ("softmax", "relu_selfloop", "undirected_exp"):
            found[f"P_{kind}"] = graph.transition(edges, mask, kind)
        columns = jnp.where(mask[:, None], edges, -np.inf)
        found["padded P_softmax"] = graph.transition(columns, ones, "softmax")
        found["padded P_relu_selfloop"] = graph.transition(jnp.where(pairs, edges, 0), ones, "relu_selfloop")
        found["stationary_undirected"] = graph.stationary_undirected(edges, mask)
        for kind in ("softmax", "relu_selfloop"):
            layer = graph.Reasoning(kind=kind, steps=1, dtype=np.float64)
            found[f"X_{kind}"], _ = layer.apply(params, jnp.where(mask[..., None], v, 0), mask)
        found["frame_mean"] = pooling.masked_mean(found["X_softmax"], mask)
        return found

    for name, value in run64(run).items():
        expected = flat[name.removeprefix("padded ")]
        close(value, np.where(mask[..., None], expected, 0) if name.startswith("P_") else expected, err_msg=name)


N, R, C = 4, 5, 6
MASK = np.arange(R) < np.array([5, 3, 1, 0])[:, None]
EDGES = rng.normal(size=(N, R, R)) * 3


@functools.cache
def walks(kind):
    """(P, stationary, P², P with restart, its stationary) in float64."""

    @jax.jit
    def run(edges):
        once, place = graph.graph(edges, MASK, kind)
        return once, place, graph.graph(edges, MASK, kind, 2)[0], *graph.graph(edges, MASK, kind, 1, 0.15)

    with jax.enable_x64(True):
        return jax.device_get(run(EDGES))


def weights(kind, n, count):
    """NumPy twin: A of the first `count` regions of frame n."""
    e = EDGES[n, :count, :count]
    if kind == "undirected_exp":
        return np.exp((e + e.T) / 2)
    return np.maximum(e, 0) + np.eye(count) if kind == "relu_selfloop" else np.exp(e)


@pytest.mark.parametrize("kind", graph.TRANSITIONS)
def test_walks_beside_numpy(kind):
    found = walks(kind)
    for n, count in enumerate(MASK.sum(1)):
        once, place, twice, again, home = (a[n] for a in found)
        a = weights(kind, n, count)
        expected = p = a / a.sum(1, keepdims=True)
        restarted = expected_again = 0.85 * p + 0.15 / max(count, 1)
        steady = lambda p: np.full(count, 1 / max(count, 1)) @ np.linalg.matrix_power(p, 20)  # noqa: B023
        pi, pi_again = steady(p), steady(restarted)
        if kind == "undirected_exp":
            pi = a.sum(1) / a.sum()
            close(pi[:, None] * p, (pi[:, None] * p).T)  # reversible
            close(pi @ p, pi)
        if kind == "perron":
            half = lambda p, pi: np.sqrt(pi)[:, None] * p / np.sqrt(pi)
            both = lambda p, pi: (half(p, pi) + half(p, pi).T) / 2  # noqa: B023
            expected, expected_again = both(p, pi), both(restarted, pi_again)
        else:
            close(once[:count].sum(1), 1)
            close(again[:count].sum(1), 1)
        for full, part in ((once, expected), (again, expected_again), (twice, expected @ expected)):
            close(full[:count, :count], part)
            assert (full[count:] == 0).all() and (full[:, count:] == 0).all()
        for full, part in ((place, pi), (home, pi_again)):
            close(full[:count], part)
            assert (full[count:] == 0).all()


def test_limits_of_the_walk():
    edges = EDGES / 3

    def run():
        p = graph.transition(jnp.asarray(edges), MASK)
        assert graph.restarted(p, MASK, 0.0) is p and graph.walk(p, 1) is p
        place = graph.stationary_undirected(jnp.asarray(edges), MASK)
        return graph.restarted(p, MASK, 1.0), graph.walk(graph.walk(p, 8), 8), place, graph.perron(p, place)

    restarted, far, place, operator = run64(run)
    close(restarted, (MASK[:, :, None] & MASK[:, None]) / np.maximum(MASK.sum(1), 1)[:, None, None])
    # After many steps every row of a frame is where the walk settles.
    close(far[0], np.broadcast_to(place[0], (R, R)))
    # The operator of a reversible walk is D^-1/2 A D^-1/2.
    a = np.exp((edges[0] + edges[0].T) / 2)
    root = np.sqrt(a.sum(1))
    close(operator[0], a / root[:, None] / root)


@pytest.mark.parametrize("kind", graph.TRANSITIONS)
def test_huge_edges_stay_finite(kind):
    """Every real row keeps its probability, and gradients are finite, whatever the size of the edges."""

    def run(edges):
        operator, place = graph.graph(edges, MASK, kind)
        return jnp.sum(operator**2) + jnp.sum(place**2), (operator, place)

    grads, (operator, place) = jax.device_get(jax.jit(jax.grad(run, has_aux=True))(np.float32(1e4 * EDGES)))
    assert all(np.isfinite(a).all() for a in (grads, operator, place))
    if kind != "perron":
        close(operator.sum(-1), MASK)
    close(place.sum(-1), MASK.any(1))


@pytest.mark.parametrize("tie", [False, True])
def test_reasoning_beside_numpy(tie):
    """Two steps; and regions in another order give the same regions in that order."""
    x = np.where(MASK[..., None], rng.normal(size=(N, R, C)), 0)
    layer = graph.Reasoning(steps=2, tie=tie, dtype=np.float64)
    kernel = rng.normal(size=(C, 2 * C if tie else 3 * C)) / 2
    bias = rng.normal(size=(kernel.shape[1] - C,)) / 2
    order = rng.permutation(R)
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(layer.apply, {"params": {"kernel": kernel, "bias": bias}}))
        found, place = jax.device_get(run(x, MASK))
        turned, turned_place = jax.device_get(run(x[:, order], MASK[:, order]))
    close(turned, found[:, order])
    close(turned_place, place[:, order])
    phi, psi, w = (kernel[:, i * C : (i + 1) * C] for i in ((0, 0, 1) if tie else (0, 1, 2)))
    b_phi, b_psi = bias[:C], bias[:C] if tie else bias[C:]
    for n, count in enumerate(MASK.sum(1)):
        v = x[n, :count]
        e = (v @ phi + b_phi) @ (v @ psi + b_psi).T
        p = softmax((e + e.T) / 2) if count else np.zeros((0, 0))
        close(found[n, :count], np.maximum(p @ p @ v @ w, 0) + v)
        assert (found[n, count:] == 0).all()


# --- VSRN's layer ---


@pytest.mark.parametrize("norm", ["bn0", "bn1"])
def test_vsrn_layer(norm):
    """Official numbers with an all-ones mask; 1e-5 of their size, which is 1,500 (the affinities have no softmax).

    What the official file has of whole image encoders, four such layers in a row, is not a number throughout.
    """
    g = golden("vsrn")
    linear = lambda name: {"kernel": g[f"{norm}/w/{name}.weight"][..., 0].T, "bias": g[f"{norm}/w/{name}.bias"]}
    params = {name: linear(name) for name in ("theta", "phi", "g")} | {"out": linear("W.0" if norm == "bn1" else "W")}
    variables = {"params": params}
    if norm == "bn1":
        part = lambda name: g[f"bn1/w/W.1.{name}"]
        params["out_norm"] = {"scale": part("weight"), "bias": part("bias")}
        variables["batch_stats"] = {"out_norm": {"mean": part("running_mean"), "var": part("running_var")}}
    x, mask = g[f"{norm}/v_BDN"].swapaxes(1, 2), np.ones((3, 9), bool)
    layer = graph.RsGCN(norm=norm == "bn1", dtype=np.float64)
    short = np.arange(9) < np.array([9, 4, 2])[:, None]

    def run():
        apply = functools.partial(layer.apply, variables)
        still, (trained, new) = apply(x, mask, train=False), apply(x, mask, train=True, mutable=["batch_stats"])
        padded = apply(jnp.where(short[..., None], x, 0), short, train=False)
        return still, trained, new, padded, apply(x[1:2, :4], mask[:1, :4], train=False)

    still, trained, new, padded, cut = run64(run)
    for found, name in ((still, "out_eval"), (trained, "out_train")):
        expected = g[f"{norm}/{name}"].swapaxes(1, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    if norm == "bn1":
        new = new["batch_stats"]["out_norm"]
        for name in ("mean", "var"):
            np.testing.assert_allclose(new[name], g[f"bn1/running_{name}_after_train_step"], rtol=1e-5)
    close(padded[0], still[0])
    close(padded[1, :4], cut[0])  # masked regions are as if they were not there
    assert (padded[1, 4:] == 0).all()


def test_vsrn_layer_starts_as_the_identity():
    x = np.float32(np.where(MASK[..., None], rng.normal(size=(N, R, C)), 0))
    start = lambda key, norm: graph.RsGCN(norm=norm).init_with_output(key, x, MASK, train=True)[0]
    for found in jax.jit(lambda key: (start(key, True), start(key, False)))(jax.random.key(0)):
        np.testing.assert_array_equal(found, x)


# --- the encoders ---


def torch_gru(g, prefix):
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ends = (("forward", ""), ("reverse", "_reverse"))
    return {ours: {name: g[f"{prefix}/rnn.{name}_l0{end}"].T for name in names} for ours, end in ends}


def torch_levels(g, prefix):
    """Parameters of `Levels` and of the linear map, and the running statistics, by the official names."""
    pieces = {}
    for i, k in enumerate((2, 3, 4, 5) if prefix == "v" else (2, 3, 4)):
        pieces[f"kernel_{k}"] = np.moveaxis(g[f"{prefix}/convs1.{i}.weight"][:, 0], 0, -1)  # [k, C, filters]
        pieces[f"bias_{k}"] = g[f"{prefix}/convs1.{i}.bias"]
    part = lambda name: g[f"{prefix}/{'visual' if prefix == 'v' else 'text'}_mapping.{name}"]
    common = {
        "linear": {"kernel": part("fc1.weight").T, "bias": part("fc1.bias")},
        "norm": {"scale": part("bn_1.weight"), "bias": part("bn_1.bias")},
    }
    stats = {"norm": {"mean": part("bn_1.running_mean"), "var": part("bn_1.running_var")}}
    return {"course": torch_gru(g, prefix), "pieces": pieces}, common, stats


def bag(counts):
    """Words of which there are so many, as ids and a mask."""
    ids = [np.repeat(np.arange(len(row)), row.astype(int)) for row in counts]
    width = max(map(len, ids))
    mask = np.arange(width) < np.array([len(row) for row in ids])[:, None]
    return np.stack([np.pad(row, (0, width - len(row))) for row in ids]), mask


def official(levels, x, real, kernels):
    """The official encoder: the GRU reads `real[0]`, the filters zeroed padding, the mean is over `real[1]`."""
    size = levels["course"]["forward"]["weight_hh"].shape[0]
    states = BiGRU(size, dtype=np.float64).apply({"params": levels["course"]}, x, real[0])
    states = jnp.where(real[1][..., None], states, 0)
    pieces = Convolutions(kernels, 8, dtype=np.float64).apply(
        {"params": levels["pieces"]}, states, np.ones_like(real[1])
    )
    return jnp.concatenate([pooling.masked_mean(states, real[1]), pieces], axis=1)


def video_golden():
    g = golden("dual_encoding")
    return g, *torch_levels(g, "v"), g["video_mask"] > 0


def text_golden():
    """The map's rows for the bag of words come apart from those of the other levels."""
    g = golden("dual_encoding")
    levels, common, stats = torch_levels(g, "t")
    kernel = common["linear"]["kernel"]
    common = common | {"linear": common["linear"] | {"kernel": kernel[:-25]}, "words": kernel[-25:]}
    return g, levels, common, stats, np.arange(9) < g["cap_len"][:, None]


def test_dual_encoding_golden():
    def visual():
        g, levels, common, stats, mask = video_golden()
        x = official(levels, g["videos"], (np.ones_like(mask), mask), (2, 3, 4, 5))
        x = jnp.concatenate([x, g["videos_mean"]], axis=1)
        found = Common(16, dtype=np.float64).apply({"params": common, "batch_stats": stats}, x, None, train=False)
        return pooling.l2_normalise(found)

    def text():
        g, levels, common, stats, mask = text_golden()
        x = official(levels, g["t/embed.weight"][g["cap_ids"]], (mask, mask), (2, 3, 4))
        found = Common(16, bag=25, dtype=np.float64).apply(
            {"params": common, "batch_stats": stats}, x, None, train=False, words=bag(g["cap_bow"])
        )
        return pooling.l2_normalise(found)

    for found, name in zip(run64(lambda: (visual(), text())), ("video_feat", "text_feat"), strict=True):
        close(found, golden("dual_encoding")[name])


def test_unpadded_golden_is_the_model():
    """The longest video and caption through the whole model (its bag, random in the official file, put in a bias)."""
    vg, v_levels, v_common, v_stats, _ = video_golden()
    g, t_levels, t_common, t_stats, _ = text_golden()
    linear = t_common["linear"] | {"bias": t_common["linear"]["bias"] + g["cap_bow"][0] @ t_common["words"]}
    params = {
        "visual_levels": v_levels, "visual_common": v_common, "text_levels": t_levels,
        "text_common": t_common | {"linear": linear, "words": np.zeros((30, 16))},
        "words": {"embedding": g["t/embed.weight"]},
    }  # fmt: skip
    stats = {"visual_common": v_stats, "text_common": t_stats}
    batch = {
        "visual": vg["videos"], "visual_mask": vg["video_mask"] > 0,
        "text": g["cap_ids"], "text_mask": np.arange(9) < g["cap_len"][:, None],
    }  # fmt: skip
    sizes = dict(visual_dim=20, dim=16, word_dim=14, visual_gru=12, text_gru=10, filters=8)
    model = Model(30, **sizes, reasoning="mean", dtype=np.float64)
    both = lambda m, b: (m.encode_visual(b), m.encode_text(b))
    visual, text = run64(lambda: model.apply({"params": params, "batch_stats": stats}, batch, method=both))
    close(visual.pooled[0], vg["video_feat"][0])
    close(text.pooled[0], g["text_feat"][0])
    # What is padded differs, because there the official encoder reads it.
    assert np.abs(visual.pooled[2] - vg["video_feat"][2]).max() > 1e-3


def test_official_losses():
    """The four of Dual Encoding's TripletLoss in each direction and together, and VSRN's two."""

    @jax.jit
    def each(scores):
        kinds = losses.triplet_sum, losses.triplet_hard
        return [[jnp.sum(loss(scores, jnp.eye(len(scores)), margin=0.2, axis=a)) for a in (0, 1)] for loss in kinds]

    g = golden("dual_encoding", np.float32)
    for hard, (t2v, v2t) in enumerate(each(g["loss/score_video_x_text"])):
        # The official mean of the sum of hinges is over all B² of them.
        for reduce, divided in (("sum", 1), ("mean", 4 if hard else 16)):
            for name, value in (("t2i", t2v), ("i2t", v2t), ("all", t2v + v2t)):
                close(value / divided, g[f"loss/maxviol{hard}_{reduce}_{name}"])
    g = golden("vsrn", np.float32)
    for hard, both in enumerate(each(g["loss/im"] @ g["loss/s"].T)):
        close(sum(both), g[f"loss/contrastive_maxviol{hard}_m0.2"])


# --- the model ---

B, F, V_DIM, L, WORDS = 3, 4, 6, 7, 20
BATCH = {
    "visual": rng.normal(size=(B, F, R, V_DIM)).astype(np.float16),
    "visual_mask": np.arange(R) < np.array([[5, 3, 1, 4], [2, 2, 0, 0], [4, 0, 0, 0]])[..., None],
    "text": rng.integers(0, WORDS, (B, L)).astype(np.int32),
    "text_mask": np.arange(L) < np.array([7, 3, 1])[:, None],
    "valid": np.ones(B, bool),
}
SIZES = dict(vocabulary=WORDS, visual_dim=V_DIM, dim=8, word_dim=4, visual_kernels=(2, 3), text_kernels=(2,), layers=1)


def touch(model, batch, train=False):
    return model.encode_visual(batch, train=train), model.encode_text(batch, train=train)


@functools.cache
def made(**fields):
    """The model, some variables of it (drawn here: a compiled `init` costs seconds), and `batch → (visual, text)`."""
    model, draw = Model(**SIZES | fields), np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(model.init, method=touch), jax.random.key(0), BATCH)
    variables = {
        "params": jax.tree.map(lambda a: draw.normal(size=a.shape).astype(np.float32) / 2, shapes["params"]),
        "batch_stats": jax.tree.map(lambda a: draw.uniform(0.5, 1, a.shape).astype(np.float32), shapes["batch_stats"]),
    }
    return model, variables, jax.jit(lambda batch: model.apply(variables, batch, method=touch))


ALL_ON = dict(reasoning="walk", transition="perron", restart=0.1, aggregation="stationary", region_dim=5,
              region_norm=True, temperature_start=0.1)  # fmt: skip


@pytest.mark.parametrize("fields", [{}, ALL_ON], ids=["default", "all on"])
def test_padding_is_inert(fields):
    """What lies in masked regions, frames and words changes nothing, not even as NaN; nor does more of it."""
    _, _, encode = made(**fields)
    garbage = dict(BATCH)
    garbage["visual"] = np.where(BATCH["visual_mask"][..., None], BATCH["visual"], np.float16(np.nan))
    garbage["text"] = np.where(BATCH["text_mask"], BATCH["text"], WORDS - 1)
    pad = lambda a, *axes: np.pad(a, [(0, 2 if i in axes else 0) for i in range(a.ndim)])
    longer = BATCH | {key: pad(BATCH[key], 1, 2) for key in ("visual", "visual_mask")}
    longer |= {key: pad(BATCH[key], 1) for key in ("text", "text_mask")}
    for other, tolerance in [(garbage, 0)] + [(longer, 1e-6)] * (not fields):
        for a, b in zip(encode(BATCH), encode(other), strict=True):
            np.testing.assert_allclose(a.pooled, b.pooled, rtol=0, atol=tolerance)


def test_order_of_regions_does_not_matter_that_of_frames_does():
    _, _, encode = made()
    order = rng.permutation(R)
    turned = {key: BATCH[key][:, :, order] for key in ("visual", "visual_mask")}
    visual = encode(BATCH)[0].pooled
    close(encode(BATCH | turned)[0].pooled, visual)
    reverse = {key: BATCH[key][:, ::-1] for key in ("visual", "visual_mask")}
    assert np.abs(encode(BATCH | reverse)[0].pooled - visual).max() > 1e-3


def frames_of(variables, batch, **fields):
    model = Model(**SIZES | fields)
    return jax.jit(lambda batch: model.apply(variables, batch, method="encode_frames")[0])(batch)


def test_what_the_fields_do():
    """ "attention" is one step of softmax; the walk and the mean are something else."""
    _, variables, _ = made()
    frames = lambda **fields: frames_of(variables, BATCH, **fields)
    one_step = dict(reasoning="walk", transition="softmax", steps=1)
    np.testing.assert_array_equal(frames(reasoning="attention", restart=0.5, steps=3), frames(**one_step))
    walk, one, mean = frames(), frames(steps=1), frames(reasoning="mean")
    assert min(np.abs(walk - one).max(), np.abs(walk - mean).max()) > 1e-4
    real = np.where(BATCH["visual_mask"][..., None], BATCH["visual"], 0).astype(np.float32)
    close(mean, real.sum(2) / np.maximum(BATCH["visual_mask"].sum(2), 1)[..., None])


def test_forms_of_the_visuals():
    """`[B, S, C]` are frames of one region, or regions of one frame; pictures' patches are regions."""
    flat = BATCH | {key: BATCH[key][:, 0] for key in ("visual", "visual_mask")}
    frames = functools.partial(frames_of, made()[1])
    one_frame = BATCH | {key: BATCH[key][:, :1] for key in ("visual", "visual_mask")}
    np.testing.assert_allclose(frames(flat, axis="regions"), frames(one_frame), atol=1e-6)
    one_region = BATCH | {key: flat[key][:, :, None] for key in ("visual", "visual_mask")}
    np.testing.assert_allclose(frames(flat, axis="frames"), frames(one_region), atol=1e-6)
    pictures = BATCH | {"visual": np.zeros((B, 2, 8, 8, 3), np.uint8), "visual_mask": np.ones((B, 2), bool)}
    model = Model(**SIZES | dict(visual_dim=None, patch=4, patch_dim=6, patch_layers=1))
    shapes = jax.eval_shape(functools.partial(model.init, method=touch), jax.random.key(0), pictures)
    assert shapes["params"]["reason_0"]["kernel"].shape == (6, 18)


def test_training_gradients_are_finite():
    """Also where a visual has no region and a text no word; the statistics are those of `valid` rows."""
    model, variables, _ = made(**ALL_ON)
    empty = BATCH | {"valid": np.array([True, True, False])}
    empty["visual_mask"] = BATCH["visual_mask"] & np.array([True, False, True])[:, None, None]
    empty["text_mask"] = BATCH["text_mask"] & np.array([True, False, True])[:, None]

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(params, batch):
        both = functools.partial(model.apply, method=functools.partial(touch, train=True), mutable=["batch_stats"])
        encoded, new = both(variables | {"params": params}, batch, rngs={"dropout": jax.random.key(1, impl="rbg")})
        return jnp.sum(model.similarity(*encoded)["sim"] * jnp.eye(B)), new

    grads, new = run(variables["params"], empty)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves((grads, new)))
    other = empty | {"visual": BATCH["visual"] + np.float16([0, 0, 5])[:, None, None, None]}
    jax.tree.map(np.testing.assert_array_equal, run(variables["params"], other)[1], new)


@pytest.mark.slow
def test_bfloat16_towers_give_float32_scores():
    model, variables, encode = made()
    half = Model(**SIZES, dtype=jnp.bfloat16)
    half = jax.jit(lambda batch: half.apply(variables, batch, method=touch))(BATCH)  # noqa: B023
    assert model.similarity(*half)["sim"].dtype == jnp.float32
    for a, b in zip(half, encode(BATCH), strict=True):
        np.testing.assert_allclose(a.pooled, b.pooled, atol=0.05)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(reasoning="gcn"), "model.reasoning is 'gcn'; visern has: walk, attention, mean"),
        (dict(transition="laplace"), "model.transition is 'laplace'; visern has: undirected_exp, softmax"),
        (dict(aggregation="max"), "model.aggregation is 'max'; visern has: mean, stationary"),
        (dict(axis="tokens"), "model.axis is 'tokens'; visern has: frames, regions"),
        (dict(steps=0), "model.steps=0, .*expected 1 or more"),
        (dict(restart=1.0), "model.restart is 1.0; expected a probability"),
        (dict(reasoning="mean", aggregation="stationary"), "needs a walk"),
        (dict(visual_kernels=(2, 2)), r"model.visual_kernels is \(2, 2\)"),
        (dict(visual_dim=7), "wants features of 7; got float16"),
    ],
)
def test_errors_come_before_compilation(change, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(Model(**SIZES | change).init, method=touch), jax.random.key(0), BATCH)


def test_a_mask_of_another_form_is_refused():
    with pytest.raises(ValueError, match=r"visual_mask \(3, 4\); expected \[B, F, R, 6\] with \[B, F, R\]"):
        Model(**SIZES).apply(made()[1], BATCH | {"visual_mask": np.ones((B, F), bool)}, method="encode_frames")
