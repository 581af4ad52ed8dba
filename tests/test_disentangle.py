"""QSD: official numbers of what it descends from, NumPy twins of every formula, and what padding must not change."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import losses
from vlr_jax.layers import disentangle as qsd
from vlr_jax.layers.pooling import l2_normalise

GOLDEN = pathlib.Path(__file__).parent / "golden" / "cdnet.npz"
TAU = 0.07
B, F, L, D = 4, 7, 5, 6
CLIPS = np.arange(F) < np.array([7, 4, 1, 5])[:, None]
WORDS = np.arange(L) < np.array([5, 2, 3, 1])[:, None]
rng = np.random.default_rng(0)
CLIP, WORD = (rng.normal(size=(B, n, D)).astype(np.float32) for n in (F, L))
RELEVANT = (rng.random((B, F)) < 0.5) & CLIPS
RELEVANT[0, :2] = True, False


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def unit(x):
    return x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-8)


def softmax(x, where):
    x = np.where(where, x, -np.inf)
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


class TestOfficialNumbers:
    """Of UniVTG and TR-DETR, whose variants of the two contrasts are put together from the functions here."""

    def test_weighted_pool(self, golden):
        weight, x, mask, out = (golden[f"univtg_contrastive/pool/{name}"] for name in ("weight", "x", "mask", "out"))
        pooled = qsd.WeightedPool().apply({"params": {"weight": {"kernel": weight}}}, x, mask > 0)
        np.testing.assert_allclose(pooled, out, atol=1e-6)

    @pytest.mark.parametrize("case", [0, 2, 3])
    def test_univtg(self, golden, case):
        """Between videos: rows and columns added. Within: softmax over time, and over the batch at each time."""
        names = ("vid", "txt", "mask", "saliency", "pos", "loss_inter", "loss_intra")
        vid, txt, mask, saliency, pos, inter, intra = (golden[f"univtg_contrastive/{case}/{name}"] for name in names)
        rows, pos, mask = np.arange(len(vid)), pos[:, 0], mask > 0
        chosen = np.zeros(mask.shape, bool)
        chosen[rows, pos] = True
        levels = qsd.Levels(*[None] * 3, clips=jnp.asarray(vid), sentence=l2_normalise(jnp.asarray(txt[:, 0])))
        scores = qsd.global_scores(levels, jnp.asarray(chosen))
        each = [losses.info_nce(scores, jnp.eye(len(vid)), axis=axis, temperature=TAU) for axis in (0, 1)]
        np.testing.assert_allclose(np.mean(each[0]) + np.mean(each[1]), inter, rtol=1e-5, atol=1e-6)
        cosines = np.einsum("bfd,bd->bf", unit(vid), unit(txt[:, 0]))
        worse = (saliency < saliency[rows, pos][:, None]) | chosen
        found = np.mean(qsd.fine_contrast(jnp.asarray(cosines), jnp.asarray(chosen), jnp.asarray(worse & mask), TAU))
        logits = np.where(worse & mask, cosines / TAU, -1000.0)
        top = logits.max(0)
        over_batch = np.mean((np.log(np.exp(logits - top).sum(0)) + top)[pos] - logits[rows, pos])
        np.testing.assert_allclose(found + over_batch, intra, rtol=1e-5)

    @pytest.mark.parametrize("case", [0, 2])
    def test_trdetr(self, golden, case):
        """Clips and mean word: cross-entropy, padding counted as a cosine of 0. Videos and texts: InfoNCE."""
        names = ("vid", "txt", "pos_mask", "vid_mask", "txt_mask", "ctc_mask", "vtc_mean")
        vid, txt, relevant, clips, words, ctc, vtc = (golden[f"align_losses_trdetr/{case}/{name}"] for name in names)
        text = (unit(txt) * words[..., None]).sum(1) / words.sum(1, keepdims=True)
        logits = np.einsum("bfd,bd->bf", unit(vid), text) * clips / TAU
        found = qsd.alignment_entropy(jnp.asarray(logits), jnp.asarray(relevant > 0), jnp.ones(clips.shape, bool))
        np.testing.assert_allclose(np.mean(found), ctc, rtol=1e-5)
        # Their mean video and text include the padding.
        levels = qsd.Levels(*[None] * 3, clips=jnp.asarray(vid), sentence=l2_normalise(jnp.asarray(txt.mean(1))))
        scores = qsd.global_scores(levels, jnp.ones(clips.shape, bool))
        each = [losses.info_nce(scores, jnp.eye(len(vid)), axis=axis, temperature=TAU) for axis in (0, 1)]
        np.testing.assert_allclose(np.mean(each), vtc, rtol=1e-5)


def apply(clips=CLIP, clip_mask=CLIPS, words=WORD, word_mask=WORDS, seed=1, **fields):
    """Levels, and the parameters as NumPy arrays; weights of the maps at random."""

    def both(clips, words):
        module, pool = qsd.Disentangle(D, **fields), qsd.WeightedPool()
        shape, pool_shape = (clips, clip_mask, words, word_mask, jnp.ones((len(clips), D))), (words, word_mask)
        weight = pool.init(jax.random.key(9), *pool_shape)
        sentence = pool.apply(weight, *pool_shape)
        variables = module.init(jax.random.key(seed), *shape)
        levels = module.apply(variables, clips, clip_mask, words, word_mask, sentence)
        return levels, variables["params"], weight["params"]["weight"]["kernel"], sentence

    return jax.tree.map(np.asarray, jax.jit(both)(clips, words))


@pytest.mark.parametrize(
    "fields", [{}, dict(alignment_weight=None, scale=3.0), dict(project=False), dict(alignment_weight=1.0)]
)
def test_levels_are_the_formulas(fields):
    levels, params, weight, sentence = apply(**fields)
    project = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"] if "clip_map" in params else x
    for b in range(B):
        f, n = CLIPS[b].sum(), WORDS[b].sum()
        v, t = CLIP[b, :f], WORD[b, :n]
        s = softmax((t @ weight)[:, 0], True) @ t
        np.testing.assert_allclose(sentence[b], s, atol=1e-5)
        g = unit(project("clip_map", v)) @ unit(project("sentence_map", s))
        c = unit(project("clip_word_map", v)) @ unit(project("word_map", t)).T
        fine = (softmax(c / 0.1, True) * c).sum(-1)
        share = {None: 0.5}.get(fields.get("alignment_weight", 0.5), fields.get("alignment_weight", 0.5))
        logits = fields.get("scale", 10.0) * (share * g + (1 - share) * fine)
        np.testing.assert_allclose(levels.logits[b, :f], logits, atol=1e-4)
        np.testing.assert_allclose(levels.alignment[b, :f], 1 / (1 + np.exp(-logits)), atol=1e-5)
        np.testing.assert_allclose(levels.fine[b, :f], fine, atol=1e-5)
        for x in (levels.logits, levels.alignment, levels.fine):
            assert not x[b, f:].any()
    assert ("balance" in params) == (fields.get("alignment_weight", 0) is None)
    assert params["scale"] == fields.get("scale", 10.0) and params["bias"] == 0


def test_global_scores_compare_the_projected_mean_with_every_sentence():
    """cos(P_v z, P_s s) of the mean of the relevant clips; a row without any scores 0."""
    levels, params, weight, sentence = apply()
    relevant = RELEVANT.copy()
    relevant[:3, 0], relevant[3] = True, False
    found = np.asarray(jax.jit(qsd.global_scores)(levels, relevant))
    for b in range(3):
        z = CLIP[b][relevant[b]].mean(0) @ params["clip_map"]["kernel"] + params["clip_map"]["bias"]
        s = sentence @ params["sentence_map"]["kernel"] + params["sentence_map"]["bias"]
        np.testing.assert_allclose(found[b], unit(s) @ unit(z), atol=1e-5)
    assert not found[3].any()


def test_contrast_and_entropy_are_the_formulas():
    score = rng.uniform(-1, 1, (B, F)).astype(np.float32)
    relevant = RELEVANT.copy()
    relevant[1] = CLIPS[1]  # no negative
    relevant[3] = False  # no positive
    fine, entropy = jax.jit(
        lambda s: (qsd.fine_contrast(s, relevant, CLIPS, TAU), qsd.alignment_entropy(s, relevant, CLIPS))
    )(score)
    gradient = jax.jit(jax.grad(lambda s: jnp.sum(qsd.fine_contrast(s, relevant, CLIPS, TAU))))(score)
    for b in range(B):
        s, y = score[b][CLIPS[b]], relevant[b][CLIPS[b]]
        e = np.exp(s.astype(np.float64) / TAU)
        expected = -np.mean(np.log(e[y] / (e[y] + e[~y].sum()))) if y.any() and not y.all() else 0.0
        np.testing.assert_allclose(fine[b], expected, rtol=1e-5, atol=1e-6)
        a = 1 / (1 + np.exp(-s))
        np.testing.assert_allclose(entropy[b], -np.mean(np.where(y, np.log(a), np.log(1 - a))), rtol=1e-5)
        if not (y.any() and not y.all()):
            assert fine[b] == 0 and not np.any(gradient[b])
    assert np.all(np.isfinite(gradient)) and np.any(gradient[0]) and not np.any(gradient[~CLIPS])


def test_the_fine_contrast_raises_the_levels_of_relevant_clips():
    """And moves neither κ nor b: it is of the clips' order, what all levels of a video have in common is free."""
    relevant = RELEVANT | (np.arange(F) == 0)
    module, sentence = qsd.Disentangle(D), (WORD * WORDS[..., None]).sum(1)
    levels = lambda params: module.apply({"params": params}, CLIP, CLIPS, WORD, WORDS, sentence)
    contrast = lambda params: jnp.sum(qsd.fine_contrast(levels(params).fine, relevant, CLIPS, TAU))
    first = module.init(jax.random.key(1), CLIP, CLIPS, WORD, WORDS, sentence)["params"]
    params, slopes = first, jax.jit(jax.grad(contrast))
    for _ in range(100):
        params = jax.tree.map(lambda x, slope: x - 0.02 * slope, params, slopes(params))
    assert contrast(params) < 0.5 * contrast(first)
    assert params["scale"] == first["scale"] and params["bias"] == first["bias"]
    before, after = (np.asarray(levels(p).alignment) for p in (first, params))
    for b in (0, 1, 3):  # the third video has one clip
        others = CLIPS[b] & ~relevant[b]
        gap = [level[b, relevant[b] & CLIPS[b]].mean() - level[b, others].mean() for level in (before, after)]
        assert gap[1] > max(gap[0], 0) + 0.1


def test_padding_and_company_change_nothing():
    levels, *_ = apply()
    wild = lambda x, mask: np.where(mask[..., None], x, 1e3).astype(np.float32)
    longer = lambda x, n: np.concatenate([x, np.full((B, n, D), 7, np.float32)], 1)
    more = lambda x, n: np.concatenate([x, np.zeros((B, n), bool)], 1)
    other, *_ = apply(longer(wild(CLIP, CLIPS), 3), more(CLIPS, 3), longer(wild(WORD, WORDS), 2), more(WORDS, 2))
    order = [2, 0, 3, 1]
    turned, *_ = apply(CLIP[order], CLIPS[order], WORD[order], WORDS[order])
    one, *_ = apply(CLIP[1:2], CLIPS[1:2], WORD[1:2], WORDS[1:2])
    for name in ("alignment", "logits", "fine", "sentence"):
        x = getattr(levels, name)
        for found, expected in (
            (getattr(other, name), x),
            (getattr(turned, name), x[order]),
            (getattr(one, name), x[1:2]),
        ):
            np.testing.assert_allclose(found[:, : x.shape[1]], expected, atol=1e-5, err_msg=name)


def test_relevant_clips():
    """From saliency where a row has any; else from windows, as CG-DETR labels them, and at least one clip."""
    mask = np.arange(10) < np.array([10, 10, 8, 10])[:, None]
    spans = np.array(
        [[[0.3, 0.6], [0.9, 1.0]], [[0.0, 0.04], [0, 0]], [[0.5, 1.0], [0, 0]], [[0.2, 0.4], [0, 0]]], np.float32
    )
    batch = dict(visual_mask=mask, spans=spans, spans_mask=np.array([[True, True]] + [[True, False]] * 3))
    chosen = lambda **more: [np.flatnonzero(row).tolist() for row in qsd.relevant_clips(batch | more)]
    windows = [[3, 4, 5, 9], [0], [4, 5, 6, 7], [2, 3]]
    assert chosen() == windows
    saliency = np.zeros((4, 10), np.float32)
    saliency[0, [1, 7]], saliency[2, [2, 9]] = 2.0, 1.0  # the ninth clip of the third video is none
    assert chosen(saliency=saliency) == [[1, 7], [0], [2], [2, 3]]
    del batch["spans"], batch["spans_mask"]
    assert chosen(saliency=saliency) == [[1, 7], [], [2], []]
    with pytest.raises(ValueError, match="needs 'saliency' or 'spans' in training; the batch has: .'visual_mask'"):
        qsd.relevant_clips(batch)


def test_best_clip_is_exact_on_any_tile_and_never_holds_all_pairs_of_clips():
    visual, text = unit(rng.integers(-3, 4, (B, F, D)) + 0.1), unit(rng.integers(-3, 4, (3, D)) + 0.1)
    visual, text = visual.astype(np.float32), text.astype(np.float32)
    masks = CLIPS.copy()
    masks[2] = False
    best = jax.jit(qsd.best_clip)
    found = np.asarray(best(visual, masks, text))
    expected = np.where(masks[..., None], np.einsum("vfd,td->vft", visual, text), -1).max(1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[2] == -1).all() and found.dtype == np.float32
    np.testing.assert_allclose(best(visual[1:3], masks[1:3], text[:1]), found[1:3, :1], atol=1e-6)
    big = [
        jax.ShapeDtypeStruct(s, t) for s, t in (((64, 50, 32), jnp.float32), ((64, 50), bool), ((96, 32), jnp.float32))
    ]
    memory = jax.jit(qsd.best_clip).lower(*big).compile().memory_analysis().temp_size_in_bytes
    assert memory < 64 * 50 * 96 * 4 / 2, memory


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(alignment_weight=1.5), "alignment_weight is 1.5; expected 0 to 1, or None"),
        (dict(word_temperature=0.0), "above 0"),
    ],
)
def test_errors_come_before_compilation(fields, message):
    shapes = functools.partial(qsd.Disentangle(D, **fields).init, jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(shapes, CLIP, CLIPS, WORD, WORDS, np.ones((B, D), np.float32))
