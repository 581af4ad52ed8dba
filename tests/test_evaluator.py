"""The retrieval evaluator on a split in memory and a linear model whose answers are known."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vlr_jax import main, metrics, page_retrieval, protocols, relevance
from vlr_jax.evaluators.retrieval import Evaluator
from vlr_jax.types import Encoded

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "evaluation.npz")


class Split:
    """What the evaluator needs of `pipeline.Split`: rows are given embeddings."""

    ids_hash, missing = "0" * 64, ()

    def __init__(self, visual, text, text_visual, facts=None):
        self.rows = {"visuals": visual, "texts": text}
        self.text_visual = np.asarray(text_visual, np.int32)
        self.n_visuals, self.n_texts = len(visual), len(text)
        self.names = [f"visual {i}" for i in range(self.n_visuals)]
        self.texts = [f"text {i}" for i in range(self.n_texts)]
        self._facts, self.facts_complete, self.truncated = facts, True, 0

    def facts(self):
        return self._facts

    name, sentence, _vectors = "val", {"encoder": "by hand", "dim": 4, "origin": {}}, None

    def vectors(self):
        return self._vectors

    def epoch(self, view, batch_size):
        rows, key = self.rows[view], view.removesuffix("s")
        for start in range(0, len(rows), batch_size):
            at = np.arange(start, start + batch_size)
            yield {key: rows[np.where(at < len(rows), at, 0)], "valid": at < len(rows)}


def predict(traced=None):
    """Embeddings times a matrix; `traced` collects the name of every function as it is compiled."""
    traced = [] if traced is None else traced

    def encode(key):
        def run(variables, batch):
            traced.append(key)
            return Encoded(jnp.einsum("bd,de->be", batch[key], variables["matrix"], precision="highest"))

        return run

    def similarity(variables, visual, text):
        traced.append("similarity")
        return {"sim": jnp.einsum("vd,td->vt", visual.pooled, text.pooled, precision="highest")}

    return {"encode_visual": encode("visual"), "encode_text": encode("text"), "similarity": similarity}


def mesh(devices=1):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def perfect(visuals=20, each=3, facts=None):
    """Texts are copies of their visual's unit vector."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((visuals, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owner = np.repeat(np.arange(visuals), each)
    return Split(vectors, vectors[owner], owner, facts)


VARIABLES = {"matrix": np.eye(8, dtype=np.float32)}


def evaluator(split, model=None, devices=1, **options):
    return Evaluator(model or predict(), split=split, mesh=mesh(devices), batch_size=16, block=(7, 25), **options)


def test_perfect_model():
    result = evaluator(perfect()).result(VARIABLES)
    found = result["metrics"]
    assert found["rsum"] == 600 and found["v2t_mAP@R"] == found["v2t_R-Precision"] == 100
    assert found["t2v_medR"] == found["v2t_meanR"] == 1
    assert not any(name.endswith(("tau", "NDCG@10")) for name in found) and result["oracle"] is None
    assert result["chance"].keys() == found.keys() and result["chance"]["t2v_R@1"] == pytest.approx(5.0)
    assert (result["protocol"], result["visuals"], result["texts"]) == ("none", 20, 60)
    assert result["ids"] == "0" * 64 and result["finite"] and result["tied"] == {"v2t": 0.0, "t2v": 0.0}
    json.dumps(result, allow_nan=False)


def test_run_gives_the_metrics():
    made = evaluator(perfect())
    assert dict(made.run(VARIABLES)) == made.result(VARIABLES)["metrics"]


def test_examples():
    split = perfect()
    split.rows["texts"] = split.rows["texts"].copy()
    split.rows["texts"][30] *= -1  # a text of visual 10 that points away from it
    shown = evaluator(split, examples=2).result(VARIABLES)["examples"]
    assert [(e["direction"], e["kind"]) for e in shown[::2]] == [
        (direction, kind) for direction in ("t2v", "v2t") for kind in ("best", "worst", "sample")
    ]
    worst, best = shown[2], shown[0]
    assert worst["query"] == "text 30" and worst["rank"] == 20 and worst["direction"] == "t2v"
    assert best["rank"] == 1 and len(best["retrieved"]) == 5
    first = best["retrieved"][0]
    assert first["right"] and first["name"] == f"visual {first['visual']}"
    assert first["score"] == pytest.approx(1.0, abs=1e-5)
    assert not any(hit["right"] for hit in worst["retrieved"])
    scores = [hit["score"] for hit in worst["retrieved"]]
    assert scores == sorted(scores, reverse=True)
    assert len({e["query"] for e in shown[:4]}) == 4
    assert [e["text"] for e in shown[4:6]] == [15, 45] and [e["visual"] for e in shown[10:]] == [5, 15]
    assert [hit["right"] for hit in shown[6]["retrieved"]] == [True, True, True, False, False]
    assert shown[8]["query"].startswith("visual") and shown[8]["rank"] == 1  # visual 10 by another of its texts
    assert not any("grade" in hit for e in shown for hit in e["retrieved"])
    assert evaluator(split, examples=0).result(VARIABLES)["examples"] == []


def test_the_sample_does_not_depend_on_the_model():
    made = evaluator(noisy())
    other = {"matrix": np.roll(np.eye(8, dtype=np.float32), 1, axis=0)}
    one, two = (
        [(e["direction"], e["query"]) for e in made.result(v)["examples"] if e["kind"] == "sample"]
        for v in (VARIABLES, other)
    )
    assert one == two and len(one) == 10


def test_collapsed_model():
    result = evaluator(perfect()).result({"matrix": np.zeros((8, 8), np.float32)})
    found = result["metrics"]
    assert found["rsum"] == 0 and found["t2v_medR"] == 20 and found["v2t_meanR"] == 58
    assert result["tied"] == {"v2t": 1.0, "t2v": 1.0} and result["finite"]


def test_model_that_is_not_finite():
    split = perfect()
    result = evaluator(split).result({"matrix": np.full((8, 8), np.nan, np.float32)})
    assert result["metrics"]["rsum"] == 0 and result["metrics"]["t2v_meanR"] == 20
    assert result["finite"] is False and result["examples"] == []
    split.rows["visuals"] = split.rows["visuals"].copy()
    split.rows["visuals"][3, 0] = np.inf
    assert evaluator(split).result(VARIABLES)["finite"] is False
    model = predict()
    low = lambda *given: {"sim": jnp.where(predict()["similarity"](*given)["sim"] > 0.99, -jnp.inf, 0.0)}
    assert evaluator(perfect(), model | {"similarity": low}).result(VARIABLES)["finite"] is False
    json.dumps(result, allow_nan=False)


def test_nothing_is_compiled_twice():
    traced = []
    made = evaluator(perfect(), predict(traced))
    first, before = dict(made.run(VARIABLES)), len(traced)
    assert sorted(set(traced)) == ["similarity", "text", "visual"] and before == 3
    assert dict(made.run(jax.tree.map(lambda x: x + 1, VARIABLES))) != first
    assert dict(made.run(VARIABLES)) == first
    assert len(traced) == before


def noisy(facts=False):
    """Integer embeddings: exact in any order of summation, and full of ties."""
    rng = np.random.default_rng(1)
    visual, owner = rng.integers(-2, 3, (40, 8)).astype(np.float32), np.repeat(np.arange(40), 2)
    text = visual[owner] + rng.integers(-1, 2, (80, 8)).astype(np.float32)
    true = rng.random((40, 12)) < 0.5
    said = true[owner] & (rng.random((80, 12)) < 0.4)
    said[~said.any(1), 0] = True
    return Split(visual, text, owner, (true | (np.arange(12) == 0), said) if facts else None)


def test_eight_devices_as_one():
    split = noisy(facts=True)
    one, eight = (evaluator(split, devices=n).result(VARIABLES) for n in (1, 8))
    assert one["metrics"] == pytest.approx(eight["metrics"], abs=1e-6)
    assert one["examples"] == eight["examples"] and one["tied"] == eight["tied"]


def graded(split):
    """NDCG@4 and tau of the linear model, from the whole matrix."""
    scores = split.rows["visuals"] @ split.rows["texts"].T
    visual = {"visual_id": np.arange(40), "visual_facts": split.facts()[0]}
    text = {"visual_id": split.text_visual, "text_facts": split.facts()[1]}
    grade = np.asarray(relevance.facts(visual, text)[0])
    expected = {}
    for direction, axis in (("v2t", 1), ("t2v", 0)):
        rows, grades = (scores, grade) if axis == 1 else (scores.T, grade.T)
        expected[f"{direction}_NDCG@4"] = float(np.mean(metrics.ndcg_at(scores, grade, k=4, axis=axis)))
        expected[f"{direction}_tau"] = float(np.nanmean(metrics.kendall_tau(rows, grades)))
    return expected


@pytest.fixture(scope="module")
def graded_result():
    split = noisy(facts=True)
    return split, evaluator(split, ndcg_at=4).result(VARIABLES)


def test_graded_metrics(graded_result):
    split, result = graded_result
    for name, value in graded(split).items():
        assert result["metrics"][name] == pytest.approx(value, abs=1e-6)
        assert result["oracle"][name] >= value > 0
        assert result["chance"][name] < value
    assert result["oracle"].keys() == result["chance"].keys() == result["metrics"].keys()
    ungraded = evaluator(split, relevance="identity").result(VARIABLES)
    assert "v2t_tau" not in ungraded["metrics"] and ungraded["oracle"].keys() == ungraded["metrics"].keys()
    with pytest.raises(ValueError, match="expected facts, caption, caption_cosine or identity"):
        evaluator(split, relevance="diagonal")


def test_graded_by_sentence_vectors():
    split, rng, name = noisy(), np.random.default_rng(2), "caption_cosine"
    vectors = rng.standard_normal((40, 3, 4)).astype(np.float16), rng.standard_normal((80, 4)).astype(np.float16)
    with pytest.raises(ValueError, match="relevance 'caption_cosine' .* needs sentence vectors, which split 'val'"):
        evaluator(split, relevance=name)
    split._vectors = vectors
    result = evaluator(split, relevance=name, ndcg_at=4).result(VARIABLES)
    assert result["relevance"] == {"name": name, "origin": {"encoder": "by hand", "dim": 4, "origin": {}}}
    visual = {"visual_id": np.arange(40), "visual_caption_vecs": vectors[0]}
    text = {"visual_id": split.text_visual, "caption_vec": vectors[1]}
    grade = np.asarray(relevance.named(name)(visual, text)[0])
    scores = split.rows["visuals"] @ split.rows["texts"].T
    for direction, axis in (("v2t", 1), ("t2v", 0)):
        ndcg = float(np.mean(metrics.ndcg_at(scores, grade, k=4, axis=axis)))
        rows, grades = (scores, grade) if axis == 1 else (scores.T, grade.T)
        assert result["metrics"][f"{direction}_NDCG@4"] == pytest.approx(ndcg, abs=1e-6)
        tau = float(np.nanmean(metrics.kendall_tau(rows, grades)))
        assert result["metrics"][f"{direction}_tau"] == pytest.approx(tau, abs=1e-6)
        chance = np.mean([metrics.ndcg_at(rng.random(grade.shape), grade, k=4, axis=axis).mean() for _ in range(60)])
        assert result["chance"][f"{direction}_NDCG@4"] == pytest.approx(chance, abs=0.02)
    assert result["oracle"] is None and result["chance"].keys() == result["metrics"].keys()
    assert all(hit["right"] == (hit["grade"] == 1) for e in result["examples"] for hit in e["retrieved"])


def test_facts_beside_sentence_vectors(graded_result):
    """The oracle knows facts: no bound for grades of another kind."""
    split, by_facts = graded_result
    split._vectors = np.ones((40, 1, 4), np.float16), np.ones((80, 4), np.float16)
    result = evaluator(split, relevance="caption").result(VARIABLES)
    assert by_facts["relevance"] == {"name": "facts", "origin": {"facts": 12, "complete": True}}
    assert result["metrics"].keys() - result["oracle"].keys() == {
        f"{d}_{m}" for d in ("v2t", "t2v") for m in ("NDCG@10", "tau")
    }


def test_examples_are_graded_where_grades_are_known(graded_result):
    split, result = graded_result
    for example in result["examples"]:
        for hit in example["retrieved"]:
            v, t = (
                (hit["visual"], example["text"]) if example["direction"] == "t2v" else (example["visual"], hit["text"])
            )
            share = float(relevance.fact_share(split.facts()[0][[v]], split.facts()[1][[t]])[0, 0])
            assert hit["right"] == (hit["grade"] == 1.0) == (split.text_visual[t] == v)
            assert hit["right"] or hit["grade"] == pytest.approx(share, abs=1e-6)


def test_oracle_against_drawn_orders():
    split = noisy(facts=True)
    share = np.asarray(relevance.fact_share(*split.facts()))
    true = share == 1
    share = share + true / true.sum(0)  # of the texts true in a visual, those true in few come first
    own = np.arange(40)[:, None] == split.text_visual
    rng, drawn = np.random.default_rng(0), []
    for _ in range(300):
        mixed = share + 1e-4 * rng.random(share.shape)  # scores differ by more than 1/1600
        sides = []
        for rows, mine in ((mixed, own), (mixed.T, own.T)):
            order = np.argsort(-rows, axis=1)
            sides.append(
                metrics.retrieval(np.stack([np.flatnonzero(m[o]) + 1 for m, o in zip(mine, order, strict=True)]))
            )
        drawn.append(metrics.both_directions(*sides))
    oracle, average = evaluator(split).limits["oracle"], metrics.mean(drawn)
    for name in set(average) - {"rsum"}:
        assert oracle[name] == pytest.approx(average[name], abs=0.1 if "mean" in name else 1.0), name
    assert oracle["rsum"] == pytest.approx(average["rsum"], abs=5.0)  # the sum of six


def test_folds_reproduce_the_official_means(monkeypatch):
    monkeypatch.setitem(protocols.PROTOCOLS, "small-5fold", protocols.Protocol(200, 5, folds=5))
    split = Split(GOLDEN["n200/img_emb"], GOLDEN["n200/cap_emb"], np.arange(1000) // 5)
    made = Evaluator(predict(), split=split, mesh=mesh(), protocol="small-5fold", block=(64, 128))
    result = made.result({"matrix": np.eye(16, dtype=np.float32)})
    names = [f"{d}_{n}" for d in ("v2t", "t2v") for n in ("R@1", "R@5", "R@10", "medR", "meanR")] + ["rsum"]
    np.testing.assert_allclose([result["metrics"][n] for n in names], GOLDEN["n200_fold5/mean_metrics"], rtol=1e-12)
    assert result["chance"]["t2v_R@1"] == pytest.approx(100 / 40)  # of the 40 candidates of a fold
    assert {hit["visual"] < 40 for e in result["examples"] for hit in e["retrieved"] if "visual" in hit} == {True}


def test_protocol_counts_are_asserted():
    with pytest.raises(ValueError, match="found 20 visuals and 60 texts, 3 per visual"):
        evaluator(perfect(), protocol="flickr8k-1k")


def test_an_incomplete_gallery_is_told(monkeypatch):
    """In the result, the printed table and the report, wherever the number goes."""
    monkeypatch.setitem(protocols.PROTOCOLS, "small", protocols.Protocol(23, 3))
    split = perfect()
    split.missing = ["a", "b", "c"]
    with pytest.raises(ValueError, match="protocol 'small': gallery incomplete: 20 of 23.*incomplete=True"):
        evaluator(split, protocol="small")
    result = evaluator(split, protocol="small", incomplete=True, examples=0).result(VARIABLES)
    assert result["gallery"] == "gallery incomplete: 20 of 23" and perfect().missing == ()
    table = main.table(dict(evals=dict(test=result)))
    assert "test: 20 visuals, 60 texts, protocol small, gallery incomplete: 20 of 23" in table
    assert ("gallery", "gallery incomplete: 20 of 23", None) in page_retrieval.results("test", result)["notes"]
