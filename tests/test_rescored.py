"""Dual softmax, querybank normalisation and the best text per video, against official numbers and plain formulas."""

import pathlib

import jax
import numpy as np
import pytest
from test_evaluator import Split, mesh, predict

from vlr_jax import main, metrics, pipeline, rescoring, search, tiles
from vlr_jax.evaluators.rescored import Evaluator

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "rescored.npz", allow_pickle=False)
WHOLE = (slice(None), slice(None))


def ranked(matrix, owner=None):
    """(v2t, t2v) metrics of a matrix `[V, T]`, in its own precision."""
    owner = np.arange(matrix.shape[1]) if owner is None else owner
    with jax.enable_x64(matrix.dtype == np.float64):
        sides = search.rank_all(tiles.matrix(matrix), owner)
    return [metrics.retrieval(side.positions) for side in sides], sides


def same(found, name):
    """Equal to CLIP4Clip's `compute_metrics`, but that its median may end in a half."""
    for ours, theirs in {"R@1": "R1", "R@5": "R5", "R@10": "R10", "meanR": "MeanR"}.items():
        assert found[ours] == pytest.approx(float(GOLDEN[f"{name}/{theirs}"])), ours
    assert found["medR"] == np.floor(GOLDEN[f"{name}/MR"])


def test_plain_ranks_without_ties():
    """Rows of the official matrices are texts."""
    (v2t, t2v), _ = ranked(GOLDEN["sq/sim"].T)
    same(t2v, "sq/t2v")
    same(v2t, "sq/v2t")


def test_official_ties_count_queries_several_times():
    """`compute_metrics` takes every place that has the score of the right one: 271 ranks of 50 queries, with hits among
    them that nobody earned, and 271 as the number to divide by. Ours is the last of each query's places."""
    scores = GOLDEN["ties/sim"]
    places = -np.sort(-scores, axis=1) == np.diag(scores)[:, None]
    np.testing.assert_array_equal(np.where(places)[1], GOLDEN["ties/t2v/cols"])
    assert places.sum() == 271
    (_, t2v), (_, side) = ranked(scores.T)
    np.testing.assert_array_equal(side.positions[:, 0], 50 - np.argmax(places[:, ::-1], axis=1))
    for k in metrics.RECALLS:
        hits = (GOLDEN["ties/t2v/cols"] < k).sum()
        assert GOLDEN[f"ties/t2v/R{k}"] == pytest.approx(100 * hits / 271)
        assert t2v[f"R@{k}"] / 100 * 50 < hits
    # Its mean rank is the other way round, since queries of a bad rank have more ties and are counted more often.
    assert t2v["meanR"] > np.mean((places * np.arange(1, 51)).sum(1) / places.sum(1))
    (_, constant), _ = ranked(np.zeros_like(scores))
    assert constant["R@10"] == 0 and constant["meanR"] == 50


def test_dual_softmax_equals_the_official_one():
    scaled = GOLDEN["dsl/sim_scaled"]  # [texts, videos], scaled by the logit scale already
    for direction, axis in (("t2v", 0), ("v2t", 1)):
        made = rescoring.dual_softmax(scaled.T, axis=axis, temperature=1.0)
        matrix = made[WHOLE].T if axis == 0 else made[WHOLE]  # the official one has the queries as rows
        np.testing.assert_allclose(matrix, GOLDEN[f"dsl/{direction}_matrix"], rtol=2e-5, atol=1e-6)
        same(ranked(made)[0][1 - axis], f"dsl/{direction}")
        cosines = rescoring.dual_softmax(scaled.T / np.float32(100), axis=axis)  # the same order on what was scaled
        same(ranked(cosines)[0][1 - axis], f"dsl/{direction}")


@pytest.mark.parametrize("temperature", [1, 1000])
def test_dual_softmax_of_uatvr(temperature):
    """Its loss: the cross-entropy of the rescored logits of each row."""
    logits = GOLDEN["uatvr/retrieve_logits"]
    matrix = rescoring.dual_softmax(logits, axis=1, temperature=temperature)[WHOLE]
    loss = np.log(np.exp(matrix).sum(1)) - np.diag(matrix)
    np.testing.assert_allclose(loss, GOLDEN[f"uatvr/temp{temperature}"], atol=1e-5)


def test_dual_softmax_does_not_leave_its_range():
    """At τ = 0.01 a cosine 0.9 below another has a weight of e^-90, which in float32 would tie with zero."""
    scores = np.array([[0.9, 0.05], [0.9, 0.1]], np.float32)
    weights = rescoring.dual_softmax(scores, axis=0)[WHOLE]
    assert weights.dtype == np.float64 and weights[1, 1] > weights[0, 1] > 0
    with pytest.raises(ValueError, match="temperature of the dual softmax is 0"):
        rescoring.dual_softmax(scores, axis=0, temperature=0)


def test_several_captions_a_video():
    scores, owner = GOLDEN["multi/sim_NcapxNvid"].T, GOLDEN["multi/owner"]
    best, owners = rescoring.per_video(scores, owner)
    np.testing.assert_array_equal(owners, np.arange(12))
    assert sorted(best.ravel()) == sorted(GOLDEN["multi/v2t_sim"].ravel())
    same(ranked(best)[0][0], "multi/v2t")
    (all_captions, t2v), _ = ranked(scores, owner)
    same(t2v, "multi/t2v")
    assert all_captions["meanR"] > ranked(best)[0][0]["meanR"]  # ranking all captions is harder


def test_full_split_ranks_all_captions():
    """MSR-VTT full as Dual Encoding's code has it: v2t is the best rank of a video's own captions among all."""
    scores = -GOLDEN["fullsplit/errors_capxvid"].T
    (v2t, t2v), _ = ranked(scores, np.arange(scores.shape[1]) // int(GOLDEN["fullsplit/n_caption"]))
    for found, direction in ((v2t, "v2t"), (t2v, "t2v")):
        values = [found[name] for name in ("R@1", "R@5", "R@10", "medR", "meanR")]
        np.testing.assert_allclose(values, GOLDEN[f"fullsplit/{direction}_r1_r5_r10_med_mean"])


def official_querybank(bank, test, beta=20.0):
    """`qb_norm` of the authors' code with k = 1, rows are queries."""
    hubs = np.unique(np.argmax(bank, 1))
    chosen, found = np.isin(np.argmax(test, 1), hubs), test.astype(np.float64)
    found[chosen] = np.exp(beta * found[chosen]) / np.exp(beta * bank.astype(np.float64)).sum(0)
    return found, chosen


def test_querybank_equals_the_authors():
    rng = np.random.default_rng(0)
    scores = rng.uniform(-0.2, 0.6, (9, 14)).astype(np.float32)
    for axis, queries in ((0, scores.T), (1, scores)):
        banked = rng.uniform(-0.2, 0.6, (5, queries.shape[1])).astype(np.float32)
        bank = rescoring.bank_of([banked[:2], banked[2:]], queries.shape[1])
        made = rescoring.querybank(scores, bank, axis=axis)[WHOLE]
        made = made.T if axis == 0 else made
        expected, chosen = official_querybank(banked, queries)
        assert 0 < chosen.sum() < len(queries) and bank.queries == 5
        expected[chosen] = np.log(expected[chosen])
        np.testing.assert_allclose(made, expected, atol=1e-9)
    with pytest.raises(ValueError, match="knows 14 candidates; the scores have 9"):
        rescoring.querybank(scores, bank, axis=0)
    with pytest.raises(ValueError, match="bank has no query"):
        rescoring.bank_of([], 3)


class Banked(Split):
    """A split in memory with another one beside it."""

    def beside(self, name):
        assert name == "train"
        return self.train


def split(visuals=12, each=2, noise=0.5):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(2):
        vectors = rng.normal(size=(visuals, 8)) + 0.3
        owner = np.repeat(np.arange(visuals), each)
        words = vectors[owner] + noise * rng.normal(size=(len(owner), 8))
        made.append(Banked(*(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, words)), owner))
    for one in made:
        one.rows = {view: rows.astype(np.float32) for view, rows in one.rows.items()}
    made[0].train, made[1].name = made[1], "train"
    return made[0]


def evaluator(data, **options):
    return Evaluator(predict(), split=data, mesh=mesh(), batch_size=5, block=(7, 25), **options)


VARIABLES = {"matrix": np.eye(8, dtype=np.float32)}


def test_evaluator_equals_brute_force(monkeypatch):
    monkeypatch.setattr("vlr_jax.evaluators.rescored.GROUP", 10)  # several groups of the bank
    data = split()
    made = evaluator(data)
    result = made.result(VARIABLES)
    visual, text = (data.rows[view].astype(np.float64) for view in ("visuals", "texts"))
    scores, bank = visual @ text.T, {d: data.train.rows[v] for d, v in (("v2t", "visuals"), ("t2v", "texts"))}

    def recall(queries, right):  # rows are queries; `right` bool like them
        return 100 * np.mean(np.where(right, queries, -np.inf).max(1) > np.where(right, -np.inf, queries).max(1))

    right = np.arange(12)[:, None] == data.text_visual
    weights = {a: np.exp(100 * scores) / np.exp(100 * scores).sum(a, keepdims=True) for a in (0, 1)}
    expected = {
        "dsl/v2t_R@1": recall(scores * weights[0], right),
        "dsl/t2v_R@1": recall((scores * weights[1]).T, right.T),
        "qb_norm/v2t_R@1": recall(official_querybank(bank["v2t"] @ text.T, scores)[0], right),
        "qb_norm/t2v_R@1": recall(official_querybank(bank["t2v"] @ visual.T, scores.T)[0], right.T),
        "per_video/v2t_R@1": recall(scores.reshape(12, 12, 2).max(2), np.eye(12, dtype=bool)),
    }
    assert {name: result["metrics"][name] for name in expected} == pytest.approx(expected)
    assert len({*expected.values()}) > 2  # and they are not all the same
    assert list(result["metrics"]) == made.names() == list(result["chance"]) == [n for n, _ in made.run(VARIABLES)]
    assert result["chance"]["per_video/v2t_R@1"] == pytest.approx(100 / 12)
    assert "per_video/t2v_R@1" not in result["metrics"] and result["finite"] and not any(result["tied"].values())
    assert result["rows"]["qb_norm"]["t2v_queries"] == 24 and 0 < result["rows"]["qb_norm"]["v2t_active"] < 1
    assert "qb_norm/rsum" in main.table({"evals": {"x": result}})


def test_a_collapsed_or_diverged_model_is_last():
    data, names = split(), ("dsl/t2v_R@10", "qb_norm/v2t_R@10", "per_video/v2t_R@10")
    made = evaluator(data)
    for value in (0.0, np.nan):
        result = made.result({"matrix": np.full((8, 8), value, np.float32)})
        assert [result["metrics"][name] for name in names] == [0, 0, 0]
        assert result["finite"] == (value == 0.0)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(rows=["dls"]), "expected a list of some of dsl, qb_norm, per_video"),
        (dict(rows="dsl"), "expected a list"),
        (dict(bank="val"), "is the evaluated split"),
        (dict(bank="testB"), "bank 'testB' is a test split"),
        (dict(temperature=0.0), "expected positive numbers"),
        (dict(memory_limit=0.1), "12 visuals and 24 texts needs 0.1 GiB on the host; memory_limit is 0.1"),
        (dict(protocol="coco-5k"), "protocol 'coco-5k' is 5000 visuals"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        evaluator(split(), **options)


def test_folds_are_refused():
    data = Banked(np.zeros((5000, 1)), np.zeros((25000, 1)), np.repeat(np.arange(5000), 5))
    with pytest.raises(ValueError, match="several galleries"):
        evaluator(data, rows=["dsl"], protocol="coco-1k-5fold")


def test_the_split_beside(scenes_root):
    data = dict(name="scenes", root=scenes_root, split="val")
    words = pipeline.tokenizer(dict(data=data, text=dict(name="words", length=7)))
    other = pipeline.open_split(data, words, keys=()).beside("train")
    assert (other.name, other.n_visuals, other.tokens.shape[1]) == ("train", 48, 7) and other.keys == set()
