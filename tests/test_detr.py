"""Moment-DETR and QD-DETR beside their official code (launch/golden_detr.py): outputs, matching, losses, gradients."""

import functools
import json
import pathlib
import re

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.layers import detr
from vlr_jax.layers.decoders import anchor_code
from vlr_jax.models import moment_detr, qd_detr
from vlr_jax.tasks import moment

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
SHARED = GOLDEN.parents[2] / "shared" / "golden" / "moment"
CONFIG = dict(spans={}, losses={}, relevance=None, regularisers={})
# Layers of both, of Moment-DETR, of QD-DETR: the official name, with what stands for it here.
NAMES = [
    (r"transformer\.encoder\.layers\.(\d)", r"encoder/layer_\1"),
    (r"transformer\.t2v_encoder\.layers\.(\d)", r"interaction/layer_\1"),
    (r"transformer\.decoder\.layers\.(\d)", r"decoder/layer_\1"),
    (r"transformer\.(en|de)coder\.norm", r"\1coder/norm"),
    (r"transformer\.decoder\.query_scale", "decoder/scale"),
    (r"transformer\.decoder\.ref_point_head", "decoder/place"),
    (r"transformer\.decoder\.bbox_embed", "decoder/move"),
    (r"transformer\.decoder\.ref_anchor_head", "decoder/modulate"),
    (r"\.layers\.(\d)", r"/layer_\1"),
    (r"\.linear1", "/forward/widen"),
    (r"\.linear2", "/forward/narrow"),
    (r"\.activation\.weight", "/forward/slope"),
    (r"\.norm(\d)", r"/norm_\1"),
    (r"input_(txt|vid)_proj\.(\d)\.LayerNorm", r"\1/norm_\2"),
    (r"input_(txt|vid)_proj\.(\d)\.net\.1", r"\1/dense_\2"),
    (r"^txt/", "text/"),
    (r"^vid/", "visual/"),
    (r"txt_position_embed\.position_embeddings\.weight", "places/embedding"),
    (r"txt_position_embed\.LayerNorm", "places_norm"),
    (r"span_embed", "heads/span"),
    (r"class_embed", "heads/label"),
    (r"global_rep_token", "overview/token"),
    (r"global_rep_pos", "overview/position"),
    (r"saliency_proj1", "saliency/clips"),
    (r"saliency_proj2", "saliency/overview"),
    (r"saliency_proj", "saliency"),
    (r"contrastive_align_projection_query", "align_moments"),
    (r"contrastive_align_projection_txt", "align_words"),
    (r"(?<=decoder/layer_\d)\.(s|c)a_(q|k|v)(content|pos|pos_sine)?_proj", lambda m: "/" + _anchor_part(*m.groups())),
]
ATTENTION = {"self_attn": "self", "multihead_attn": "cross", "cross_attn": "cross"}


def _anchor_part(where, what, kind):
    side = {"q": "query", "k": "key", "v": "value"}[what]
    return {"s": "self_", "c": "cross_"}[where] + side + {"pos": "_position", "pos_sine": "_code"}.get(kind, "")


def places(name, qd):
    """Paths here of the official parameter `name`, three for query, key and value in one; none for what isn't used."""
    if name == "query_embed.weight":
        return ["answer/decoder/anchors" if qd else "decoder/queries"]
    if "align_projection_vid" in name:
        return []
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    found = re.fullmatch(r"(.*layer_\d)\.(\w+_attn)\.(in_proj_|out_proj\.)(weight|bias)", name)
    if found:
        layer, attention, part, kind = found.groups()
        parts = ["query", "key", "value"] if part == "in_proj_" else ["out"]
        inside = "attention/" if "decoder" not in layer else ATTENTION[attention] + ("_" if qd else "/")
        paths = [f"{layer}/{inside}{part}.{kind}" for part in parts]
    else:
        paths = [name]
    paths = [re.sub(r"(norm[_\d]*)\.weight$", r"\1/scale", path) for path in paths]
    paths = [path.replace(".weight", "/kernel").replace(".bias", "/bias") for path in paths]
    if qd:
        return [re.sub(r"^(decoder|heads|saliency)/", r"answer/\1/", path) for path in paths]
    return [re.sub(r"^heads/", "answer/", path) for path in paths]


def params(numbers, qd, has):
    """The official parameters as a tree of the paths in `has`."""
    flat = {}
    for name, value in numbers.items():
        if not name.startswith("param/"):
            continue
        paths = [path for path in places(name.removeprefix("param/"), qd)]
        for path, array in zip(paths, np.split(value.astype(np.float32), len(paths)) if paths else (), strict=True):
            flat[path] = array.T if path.endswith("/kernel") else array.reshape(()) if "slope" in path else array
    unused = set(flat) - set(has)
    assert all(path.startswith("places") for path in unused), unused
    assert {path: flat[path].shape for path in has} == {path: leaf.shape for path, leaf in has.items()}
    return flax.traverse_util.unflatten_dict({path: flat[path] for path in has}, sep="/")


@functools.cache
def read(name):
    file = GOLDEN / f"{name}.npz"
    if name == "qd_detr_256":
        file = SHARED / "qd_detr_256.npz"
        if not file.is_file():
            pytest.skip(f"no official numbers at {file}")
    with np.load(file) as archive:
        numbers = dict(archive)
    if name == "qd_detr_256":
        numbers["json"] = np.array((SHARED / "qd_detr_256.json").read_text())
    if name == "qd_detr_upstream":
        numbers = read("qd_detr_maskfixed") | numbers
    return numbers


def batch(numbers):
    """The official inputs and targets as a batch; their features hold the places of clips already."""
    rows = len(numbers["in/src_vid"])
    spans = [numbers[f"tgt/spans_{i}"] for i in range(rows)]
    most = max(map(len, spans))
    padded = np.stack([np.pad(s, ((0, most - len(s)), (0, 0)), constant_values=0.5) for s in spans])
    centre, width = padded[..., 0], padded[..., 1]
    pairs = [numbers[f"tgt/saliency_{side}_labels"] for side in ("pos", "neg")]
    return dict(
        visual=numbers["in/src_vid"],
        visual_mask=numbers["in/src_vid_mask"] > 0,
        text=numbers["in/src_txt"],
        text_mask=numbers["in/src_txt_mask"] > 0,
        spans=np.stack([centre - width / 2, centre + width / 2], axis=-1).astype(np.float32),
        spans_mask=np.arange(most) < np.array([len(s) for s in spans])[:, None],
        saliency=numbers["tgt/saliency_all_labels"],
        saliency_pairs=np.stack(pairs, axis=-1).astype(np.int32),
        source_id=np.arange(rows, dtype=np.int32),
        valid=np.ones(rows, bool),
    )


SIZES = dict(visual_dim=26, text_dim=16, tef=False, queries=5, dropout=0.0, input_dropout=0.0)
SMALL = SIZES | dict(dim=32, heads=4, hidden=48)
MODELS = {
    "moment_detr_default": moment_detr.Model(**SMALL),
    "moment_detr_contrastive": moment_detr.Model(**SMALL, contrastive=8),
    "moment_detr_txtpos_prenorm": moment_detr.Model(**SMALL, text_positions=32, pre_norm=True, projection_layers=3),
    "qd_detr_maskfixed": qd_detr.Model(**SMALL),
    "qd_detr_fullmask": qd_detr.Model(**SMALL),
    "qd_detr_upstream": qd_detr.Model(**SMALL),
    "qd_detr_256": qd_detr.Model(**SIZES, hidden=64, t2v_layers=1, encoder_layers=1),
}


def upstream_mask(given, heads):
    """What the official layer adds to its scores: for head h of row b the padding of row (b · heads + h) mod B."""

    def of(clips, words):
        block = ~clips[:, :, None] & ~words[:, None, :]
        rows = len(block)
        return np.where(np.tile(block, (heads, 1, 1)).reshape(rows, heads, *block.shape[1:]), -1e9, 0.0)

    clips, words = np.asarray(given["visual_mask"]), np.asarray(given["text_mask"])
    both = np.stack([of(clips, words), of(clips, np.roll(words, -1, axis=0))], axis=1)
    return both.reshape(-1, *both.shape[2:])


def with_bias(bias):
    """Adds `bias` to the scores of the text-to-video layers, as the official code does."""

    def interceptor(call, arguments, named, context):
        inside = isinstance(context.module, detr.Attention) and "interaction" in context.module.path
        return call(*arguments, bias, **named) if inside else call(*arguments, **named)

    return nn.intercept_methods(interceptor)


class Unmasked(moment_detr.Model):
    """With padding among the words that moments are aligned with, as upstream."""

    def alignment(self, decoded, words, where):
        return super().alignment(decoded, words, jnp.ones_like(where))


@functools.cache
def run(name):
    """Outputs, pairs, metrics and gradients of one official model."""
    numbers, model, qd = read(name), MODELS[name], name.startswith("qd")
    model = Unmasked(**SMALL, contrastive=8) if name.endswith("contrastive") else model
    given = jax.tree.map(jnp.asarray, batch(numbers))
    task = moment.Task(model, CONFIG)
    shapes = jax.eval_shape(task.init, jax.random.key(0), given)["params"]
    variables = params(numbers, qd, flax.traverse_util.flatten_dict(shapes, sep="/"))

    def loss(tree):
        total, (metrics, _) = task.loss({"params": tree}, given, rng=jax.random.key(0), step=0)
        return total, metrics

    def answer(tree):
        return model.apply({"params": tree}, given | moment.negatives(given), train=True)

    biased = upstream_mask(given, model.heads) if name in ("qd_detr_upstream", "qd_detr_256") else None
    with with_bias(biased):
        both = jax.jit(lambda tree: (answer(tree), jax.value_and_grad(loss, has_aux=True)(tree)))
        moments, ((_, metrics), grads) = both(variables)
    return moments, metrics, flax.traverse_util.flatten_dict(grads, sep="/"), given


@pytest.mark.parametrize("name", MODELS)
def test_outputs(name):
    numbers, (moments, *_) = read(name), run(name)
    mask = numbers["in/src_vid_mask"] > 0
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    for layer, start in ((0, "out/aux0/"), (1, "out/")):
        close(moments.spans[layer], numbers[start + "pred_spans"])
        close(moments.logits[layer], numbers[start + "pred_logits"])
    close(np.asarray(moments.saliency)[mask], numbers["out/saliency_scores"][mask])
    if name.startswith("qd"):
        close(np.asarray(moments.saliency_negative)[mask], numbers["out/saliency_scores_neg"][mask])


@pytest.mark.parametrize("name", MODELS)
def test_pairs(name):
    numbers, (moments, _, _, given) = read(name), run(name)
    pairs = np.asarray(moment.matched(moments, given))
    for layer, start in ((0, "match/aux0/"), (1, "match/")):
        for i in range(pairs.shape[1]):
            query, target = np.nonzero(pairs[layer, i])
            np.testing.assert_array_equal(query, numbers[f"{start}pred_{i}"])
            np.testing.assert_array_equal(target, numbers[f"{start}tgt_{i}"])


@pytest.mark.parametrize("name", MODELS)
def test_losses(name):
    stored, (_, metrics, _, _) = json.loads(str(read(name)["json"])), run(name)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    names = {"span_l1": "span", "span_giou": "giou", "label": "label"}
    names |= {"contrastive": "contrastive_align"} if "contrastive" in name else {}
    for ours, theirs in names.items():
        for ending in ("", "_0"):
            close(metrics[f"loss/{ours}{ending}"], stored["losses"][f"loss_{theirs}{ending}"], err_msg=ours)
    close(sum(value for key, value in metrics.items() if "saliency" in key), stored["losses"]["loss_saliency"])
    close(metrics["loss"], stored["total"])


@pytest.mark.parametrize("name", MODELS)
def test_gradients(name):
    stored, (_, _, grads, _) = json.loads(str(read(name)["json"])), run(name)
    reached, whole = set(), 0.0
    for theirs, norm in stored["grad_norms"].items():
        paths = [path for path in places(theirs, name.startswith("qd")) if path in grads]
        if not paths:
            assert not norm, theirs  # not used there either
            continue
        reached |= set(paths)
        ours = np.sqrt(sum(np.sum(np.square(grads[path], dtype=np.float64)) for path in paths))
        np.testing.assert_allclose(ours, norm or 0.0, rtol=1e-3, atol=1e-5, err_msg=theirs)
        whole += ours**2
    assert reached == set(grads)
    np.testing.assert_allclose(np.sqrt(whole), stored["grad_total_norm"], rtol=1e-3)


def test_what_upstream_s_mask_changes():
    """The padding of other rows moves what upstream says of a row; without padding it says what we say."""
    upstream, fixed = read("qd_detr_upstream"), read("qd_detr_maskfixed")
    mask = fixed["in/src_vid_mask"] > 0
    assert np.abs(upstream["out/saliency_scores"] - fixed["out/saliency_scores"])[mask].max() > 0.01
    assert not upstream_mask(run("qd_detr_fullmask")[3], 4).any()


def test_codes():
    with np.load(GOLDEN / "qd_detr_codes.npz") as numbers:
        np.testing.assert_allclose(anchor_code(jnp.asarray(numbers["pos"]), 256), numbers["emb"], atol=2e-6)
        for n, rows in json.loads(str(numbers["tef"])).items():
            mask = np.arange(80) < int(n)
            made = np.asarray(detr.tef(jnp.asarray(mask)[None]))[0]
            np.testing.assert_allclose(made[mask], rows, atol=1e-6)
            assert not made[~mask].any()
    numbers = read("moment_detr_default")
    mask = jnp.asarray(numbers["in/src_vid_mask"] > 0)
    code = detr.sine(mask, 32)
    np.testing.assert_allclose(code, numbers["out/pos_embed_vid"], atol=2e-6)
    at = detr.sine_at(jnp.broadcast_to(jnp.arange(12.0), (3, 12)), mask.sum(1).astype(jnp.float32), 32)
    np.testing.assert_array_equal(np.asarray(at)[mask], np.asarray(code)[mask])


def test_attention_is_torch_s():
    """Self-attention and attention to others, with a mask and a bias; a row without keys stays finite."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(3, n, 16)).astype(np.float32) for n in (5, 7, 7))
    mask = np.arange(7) < np.array([[7], [4], [1]])
    bias = rng.normal(size=(3, 4, 5, 7)).astype(np.float32)
    layer = detr.Attention(4, 0.0)
    made = layer.init(jax.random.key(0), query, key, value, mask, train=False)["params"]
    other = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    parts = [np.asarray(made[name]["kernel"]).T for name in ("query", "key", "value")]
    assert max(np.abs(part).max() for part in parts) <= (6 / (4 * 16)) ** 0.5  # Xavier's of the three stacked
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.tensor(np.concatenate(parts)))
        other.out_proj.weight.copy_(torch.tensor(np.asarray(made["out"]["kernel"]).T))
        wide = torch.tensor(bias).masked_fill(~torch.tensor(mask)[:, None, None], -torch.inf).reshape(12, 5, 7)
        expected = other(*map(torch.tensor, (query, key, value)), attn_mask=wide)[0]
    found = layer.apply({"params": made}, query, key, value, mask, bias, train=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.isfinite(layer.apply({"params": made}, query, key, value, np.zeros_like(mask), train=False)).all()


def test_gate_of_the_text_to_video_layer():
    """A gate of 1 changes nothing, one of 0 takes the words' part away."""
    rng = np.random.default_rng(0)
    video, position, text = (jnp.asarray(rng.normal(size=(2, n, 8)), jnp.float32) for n in (5, 5, 3))
    mask, layer = jnp.ones((2, 3), bool), detr.TextToVideo(2, 12)
    made = layer.init(jax.random.key(0), video, position, text, mask, train=False)
    run = functools.partial(layer.apply, made, train=False)
    plain, ones = run(video, position, text, mask), run(video, position, text, mask, jnp.ones((2, 5)))
    np.testing.assert_array_equal(plain, ones)
    closed = run(video, position, text, mask, jnp.zeros((2, 5)))
    np.testing.assert_array_equal(closed, run(video, position, text[::-1] * 3, mask, jnp.zeros((2, 5))))
    assert np.abs(closed - plain).max() > 0.01
    with pytest.raises(ValueError, match="3 heads can't share a width of 8"):
        detr.TextToVideo(3, 12).init(jax.random.key(0), video, position, text, mask, train=False)
    with pytest.raises(ValueError, match="no activation 'gelu'; there is relu, prelu"):
        detr.FeedForward(4, "gelu").init(jax.random.key(0), video, train=False)
