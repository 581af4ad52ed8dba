"""CDNet: QD-DETR's official numbers where both parts are idle, what they add, what they must not read, corpora."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_detr
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax import search, tiles
from vlr_jax.models import cdnet, qd_detr
from vlr_jax.tasks import moment
from vlr_jax.types import Encoded

SIZES = dict(visual_dim=5, text_dim=6, dim=8, heads=2, hidden=12, queries=3, groups=2, dropout=0.0, input_dropout=0.0)
SIZES |= dict(t2v_layers=1, encoder_layers=1, decoder_layers=1)
CONFIG = dict(
    spans={},
    losses=dict(info_nce=dict(temperature=0.07, weight=0.3)),
    relevance=dict(name="moment"),
    regularisers=dict(fine=0.5),
)
B, F, L = 8, 6, 4
rng = np.random.default_rng(0)
CLIPS = np.arange(F) < np.array([6, 4, 1, 5, 6, 2, 3, 6])[:, None]
START = rng.uniform(0, 0.5, (B, 2)).astype(np.float32)
BATCH = {
    "visual": rng.normal(size=(B, F, 5)).astype(np.float32),
    "visual_mask": CLIPS,
    "text": rng.normal(size=(B, L, 6)).astype(np.float32),
    "text_mask": np.arange(L) < np.array([4, 1, 2, 3, 4, 2, 1, 4])[:, None],
    "spans": np.stack([START, START + 0.4], axis=-1),
    "spans_mask": np.array([[True, True], [True, False]] * 4),
    "saliency": (rng.integers(0, 3, (B, F)) * CLIPS).astype(np.float32),
    "saliency_pairs": np.zeros((B, 1, 2), np.int32),
    "source_id": np.array([0, 1, 2, 3, 4, 5, 6, 6], np.int32),
    "visual_id": np.arange(B, dtype=np.int32),
    "text_id": np.arange(B, dtype=np.int32),
    "duration": CLIPS.sum(1).astype(np.float32),
    "valid": np.arange(B) != 4,
}


def draw(shapes):
    """Parameters of no special value, whatever they start at; scales of normalisations about 1."""
    normal = np.random.default_rng(5).normal
    flat = flax.traverse_util.flatten_dict(shapes)
    about = lambda path: 1.0 if path[-1] == "scale" and "norm" in path[-2] else 0.0
    found = {path: (about(path) + 0.5 * normal(size=leaf.shape)).astype(np.float32) for path, leaf in flat.items()}
    return flax.traverse_util.unflatten_dict(found)


@functools.cache
def model(**fields):
    """A model with parameters at random, and its answer to a batch, compiled."""
    made = cdnet.Model(**SIZES | fields)
    variables = draw(jax.eval_shape(made.init, jax.random.key(0), BATCH))
    compiled = jax.jit(lambda batch, train: made.apply(variables, batch, train=train), static_argnames="train")
    return made, variables, lambda batch, train=True: jax.tree.map(np.asarray, compiled(batch, train=train))


def rows(order, batch=BATCH):
    return jax.tree.map(lambda x: x[order], batch)


def same_answer(found, expected, order=slice(None), mask=CLIPS, atol=2e-5):
    """Everything per row, of the real clips; `order`: which rows of `expected` were found."""
    for name in ("spans", "logits"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[:, order], atol=atol)
    real = mask[order]
    per_clip = lambda moments: (moments.saliency, moments.extra["alignment"])
    for one, other in zip(per_clip(found), per_clip(expected), strict=True):
        np.testing.assert_allclose(one[:, : real.shape[1]][real], other[order][real], atol=atol)


class TestQdDetr:
    """The model whose parts are idle is QD-DETR, as the official code computes it and as it is trained here."""

    @pytest.fixture(scope="class")
    def official(self):
        numbers = test_detr.read("qd_detr_maskfixed")
        given = jax.tree.map(jnp.asarray, test_detr.batch(numbers))
        plain = qd_detr.Model(**test_detr.SMALL)
        shapes = jax.eval_shape(plain.init, jax.random.key(0), given)["params"]
        tree = test_detr.params(numbers, True, flax.traverse_util.flatten_dict(shapes, sep="/"))
        return numbers, given, flax.traverse_util.flatten_dict(tree, sep="/")

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param(dict(disentangle=False, denoise=False), marks=pytest.mark.slow),
            {},
            pytest.param(dict(offset_range=0.0), marks=pytest.mark.slow),
        ],
    )
    def test_official_numbers(self, official, fields):
        """Off; or on as they start, but for a gate of 1. Outputs, and the gradients of what is shared."""
        numbers, given, known = official
        made = cdnet.Model(**test_detr.SMALL, **fields)
        task = moment.Task(made, test_detr.CONFIG)
        flat = flax.traverse_util.flatten_dict(jax.jit(task.init)(jax.random.key(1), given)["params"], sep="/")
        assert set(known) <= set(flat) and (set(known) == set(flat)) == (not fields.get("denoise", True))
        flat |= known | ({"levels/bias": jnp.float32(60.0)} if "levels/bias" in flat else {})
        tree = flax.traverse_util.unflatten_dict(flat, sep="/")

        @jax.jit
        def run(tree):
            loss = lambda tree: task.loss({"params": tree}, given, rng=jax.random.key(0), step=0)[0]
            return made.apply({"params": tree}, given | moment.negatives(given), train=True), jax.grad(loss)(tree)

        moments, grads = run(tree)
        mask = numbers["in/src_vid_mask"] > 0
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
        for layer, start in ((0, "out/aux0/"), (1, "out/")):
            close(moments.spans[layer], numbers[start + "pred_spans"])
            close(moments.logits[layer], numbers[start + "pred_logits"])
        close(np.asarray(moments.saliency)[mask], numbers["out/saliency_scores"][mask])
        close(np.asarray(moments.saliency_negative)[mask], numbers["out/saliency_scores_neg"][mask])
        _, _, expected, _ = test_detr.run("qd_detr_maskfixed")
        grads = flax.traverse_util.flatten_dict(grads, sep="/")
        for path in known:
            np.testing.assert_allclose(grads[path], expected[path], rtol=2e-3, atol=2e-4, err_msg=path)

    def test_ablations_have_only_their_parameters(self):
        names = lambda **fields: {path[0] for path in flax.traverse_util.flatten_dict(model(**fields)[1]["params"])}
        base = names(disentangle=False, denoise=False)
        assert names(denoise=False) - base == {"levels", "sentence"} and names(disentangle=False) - base == {"sentence"}
        answers = {how: model(**how_off)[2](BATCH) for how, how_off in self.OFF.items()}
        assert {how: set(found.extra) for how, found in answers.items()} == {
            "both": {"alignment", "offsets", "positions"},
            "qsd": {"alignment"},
            "cdd": {"offsets", "positions"},
            "neither": set(),
        }
        for how, found in answers.items():
            assert bool(found.scores) == bool(found.regularisers) == (how in ("both", "qsd"))
            assert found.spans.shape == (1, B, 3, 2) and found.saliency.shape == (B, F)
        with pytest.raises(ValueError, match="model.disentangle is False: cdnet then learns no cosine"):
            model(disentangle=False)[0].apply(model(disentangle=False)[1], BATCH, method="encode_visual")

    OFF = {
        "both": {},
        "qsd": dict(denoise=False),
        "cdd": dict(disentangle=False),
        "neither": dict(disentangle=False, denoise=False),
    }


class TestAnswer:
    def test_labels_change_nothing_but_what_trains(self):
        """In training they are read for scores and regularisers alone, otherwise not at all."""
        answer = model()[2]
        other = BATCH | {
            "spans": BATCH["spans"][::-1] / 2,
            "saliency": (CLIPS & (BATCH["saliency"] == 0)).astype(np.float32),
        }
        without = {k: v for k, v in BATCH.items() if k not in moment.LABELS}
        first, second = answer(BATCH), answer(other)
        same_answer(second, first, atol=1e-6)
        assert np.abs(first.scores["sim"] - second.scores["sim"]).max() > 1e-3
        assert np.abs(first.regularisers["fine"] - second.regularisers["fine"]) > 1e-3
        for batch, train in ((without, False), (BATCH, False), (without, True)):
            plain = answer(batch, train)
            same_answer(plain, first, atol=1e-6)
            assert plain.scores == {} and plain.regularisers == {}

    def test_padding_company_and_order_change_nothing(self):
        answer = model()[2]
        first = answer(BATCH, False)
        wild = np.where(CLIPS[..., None], BATCH["visual"], 1e3).astype(np.float32)
        longer = lambda x, value: np.concatenate([x, np.full((B, 3, *x.shape[2:]), value, x.dtype)], axis=1)
        words = np.where(BATCH["text_mask"][..., None], BATCH["text"], -1e3).astype(np.float32)
        padded = BATCH | {"visual": longer(wild, 9), "visual_mask": longer(CLIPS, False)}
        padded |= {"text": longer(words, 9), "text_mask": longer(BATCH["text_mask"], False)}
        same_answer(answer({k: v for k, v in padded.items() if k not in moment.LABELS}, False), first)
        order = np.array([3, 0, 7, 5, 1, 2, 6, 4])
        same_answer(answer(rows(order), False), first, order)
        same_answer(answer(rows(np.array([2])), False), first, [2])
        trained, turned = answer(BATCH), answer(rows(order))
        np.testing.assert_allclose(turned.scores["sim"], trained.scores["sim"][np.ix_(order, order)], atol=1e-5)
        for name, value in trained.regularisers.items():
            np.testing.assert_allclose(turned.regularisers[name], value, rtol=1e-5)

    def test_wrong_texts_and_padding_rows_train_no_levels(self):
        """Scores and regularisers are of true pairs; a padding row has no part in the regularisers."""
        answer = model()[2]
        first, beside = answer(BATCH), answer(BATCH | moment.negatives(jax.tree.map(jnp.asarray, BATCH)))
        assert beside.saliency_negative.shape == (B, F) and first.saliency_negative is None
        np.testing.assert_allclose(beside.scores["sim"], first.scores["sim"], atol=1e-6)
        assert beside.extra["alignment"].shape == (B, F) and beside.extra["offsets"].shape == (B, 2, F)
        changed = BATCH | {"saliency": BATCH["saliency"].copy()}
        changed["saliency"][4] = [1, 0, 0, 0, 0, 0]
        again = answer(changed)
        for name, value in first.regularisers.items():
            np.testing.assert_allclose(beside.regularisers[name], value, rtol=1e-5)
            np.testing.assert_allclose(again.regularisers[name], value, rtol=1e-6)
        changed["valid"] = np.ones(B, bool)
        assert abs(answer(changed).regularisers["fine"] - first.regularisers["fine"]) > 1e-4

    def test_words_enter_a_clip_as_far_as_it_is_aligned(self):
        """With a gate of 0 the text has no way into spans but through the offsets' modulation; with CDD off, none."""
        made, variables, _ = model(denoise=False)
        run = jax.jit(lambda v, b: made.apply(v, b))
        closed = jax.tree.map(lambda x: x, variables)
        closed["params"]["levels"]["bias"] = jnp.float32(-1e4)
        other = BATCH | {"text": BATCH["text"][::-1].copy()}
        for tree, moved in ((variables, True), (closed, False)):
            first, second = run(tree, BATCH), run(tree, other)
            assert (np.abs(first.spans - second.spans).max() > 1e-4) == moved
        assert not np.any(run(closed, BATCH).extra["alignment"])

    def test_eight_devices_answer_as_one(self):
        made, variables, answer = model()
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        batch = jax.device_put(BATCH, NamedSharding(mesh, P("data")))
        with jax.set_mesh(mesh):
            found = jax.jit(lambda b: made.apply(variables, b, train=True))(batch)
        expected = answer(BATCH)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    def test_bfloat16_keeps_results_in_float32(self):
        made = cdnet.Model(**SIZES, dtype=jnp.bfloat16)
        variables, expected = model()[1], model()[2](BATCH)
        found = jax.jit(lambda v: made.apply(v, BATCH, train=True))(variables)
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        np.testing.assert_allclose(found.spans, expected.spans, atol=0.1)
        np.testing.assert_allclose(found.scores["sim"], expected.scores["sim"], atol=0.05)


class TestTraining:
    @pytest.fixture(scope="class")
    def step(self):
        task = moment.Task(cdnet.Model(**SIZES, alignment_weight=None), CONFIG)
        variables = draw(jax.eval_shape(task.init, jax.random.key(0), BATCH))
        loss = lambda p, batch: task.loss({"params": p}, batch, rng=jax.random.key(0), step=0)
        compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))
        mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])

        def run(batch):
            with jax.set_mesh(mesh):
                (total, (metrics, _)), grads = compiled(variables["params"], batch)
            return float(total), metrics, flax.traverse_util.flatten_dict(grads, sep="/")

        return run

    def test_everything_learns(self, step):
        """Of the task's whole loss, contrast and regulariser included."""
        total, metrics, grads = step(BATCH)
        assert np.isfinite(total) and float(metrics["regulariser/fine"]) > 0
        for path, slope in grads.items():
            assert np.all(np.isfinite(slope)), path
            # Softmaxes don't see their keys' bias; QD-DETR's first decoder layer begins from zeros.
            exempt = path.endswith("key/bias") or path.startswith("answer/decoder/")
            assert exempt or np.abs(slope).max() > 1e-7, path

    def test_contrast_leaves_out_other_texts_of_one_source(self, step):
        """Rows 6 and 7 are of one video; on the diagonal, and between other rows, everything counts."""
        _, metrics, _ = step(BATCH)
        scores = model(alignment_weight=None)[2](BATCH).scores["sim"].astype(np.float64) / 0.07
        keep = np.flatnonzero(BATCH["valid"])
        source = BATCH["source_id"]
        where = (source[:, None] != source) | np.eye(B, dtype=bool)
        for name, matrix in (("v2t", scores), ("t2v", scores.T)):
            part = np.where(where, np.exp(matrix), 0)[np.ix_(keep, keep)].sum(1)
            np.testing.assert_allclose(
                float(next(v for k, v in metrics.items() if "info_nce" in k and name in k)),
                np.mean(np.log(part) - np.diagonal(matrix)[keep]), rtol=1e-4,
            )  # fmt: skip

    def test_a_batch_of_one_has_no_contrast(self, step):
        """One row has no other to be told from: no term, and all else is finite."""
        total, metrics, grads = step(rows(np.array([0])))
        assert np.isfinite(total) and all(np.all(np.isfinite(slope)) for slope in grads.values())
        assert all(float(value) == 0 for key, value in metrics.items() if "info_nce" in key)


class TestCorpus:
    def test_clips_and_sentences_are_those_of_the_contrast(self):
        """A video's score is the largest cosine of its real clips; of one relevant clip, the contrast has the same."""
        made, variables, answer = model()
        visual, text = (
            jax.jit(functools.partial(made.apply, variables, method=f"encode_{side}"))(BATCH)
            for side in ("visual", "text")
        )
        unit = lambda x: np.linalg.norm(x, axis=-1)
        np.testing.assert_allclose(unit(visual.tokens)[CLIPS], 1, atol=1e-5)
        np.testing.assert_allclose(unit(visual.pooled), 1, atol=1e-5)
        np.testing.assert_allclose(unit(text.pooled), 1, atol=1e-5)
        cosines = np.einsum("vfd,td->vft", visual.tokens, text.pooled)
        found = jax.jit(made.similarity)(visual, text)["sim"]
        np.testing.assert_allclose(found, np.where(CLIPS[..., None], cosines, -1).max(1), atol=1e-6)
        chosen = CLIPS.sum(1) - 1  # the last real clip
        one = BATCH | {"saliency": (np.arange(F) == chosen[:, None]).astype(np.float32)}
        np.testing.assert_allclose(answer(one).scores["sim"], cosines[np.arange(B), chosen], atol=1e-5)
        assert made.regularisers(visual, text) == {} and made.temperature() is None

    def test_search_takes_it_as_any_other_model(self):
        """In tiles as in one piece."""
        made, variables, _ = model()
        encode = [
            jax.tree.map(np.asarray, made.apply(variables, BATCH, method=f"encode_{side}"))
            for side in ("visual", "text")
        ]
        whole = np.asarray(made.similarity(*map(lambda x: jax.tree.map(jnp.asarray, x), encode))["sim"])
        similarity = lambda variables, visual, text: made.apply(variables, visual, text, method="similarity")
        cut = tiles.blocks(similarity, variables, *encode, block=(3, 3))
        scores, places = search.top_k(cut, 3, axis=0)
        expected = np.argsort(-whole, axis=0, kind="stable")[:3].T
        np.testing.assert_array_equal(places, expected)
        np.testing.assert_allclose(scores, np.take_along_axis(whole.T, expected, axis=1), atol=1e-6)
        assert isinstance(encode[0], Encoded) and encode[1].tokens is None


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(groups=3), "3 groups can't share a width of 8"),
        (dict(heads=3), "3 heads can't share a width of 8"),
        (dict(alignment_weight=2.0), "alignment_weight is 2.0"),
        (dict(visual_dim=4), "model.visual_dim=4 wants visuals"),
        (dict(text_dim=None), "model.vocabulary must be given"),
    ],
)
def test_errors_come_before_compilation(fields, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(cdnet.Model(**SIZES | fields).init, jax.random.key(0), BATCH)
