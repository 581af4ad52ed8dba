"""Agreement with people against pair-by-pair counting and scipy, and the readers of the published files."""

import math

import numpy as np
import pytest
import scipy.stats
from test_evaluator import Split, mesh, predict

from vlr_jax import judgments, metrics
from vlr_jax.evaluators.judgments import Evaluator

NAMES = [f"{n}_x.jpg" for n in "abcde"]
OWNER = np.repeat(np.arange(5), 3)


def judged(rows, raters, seed=0):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(len(NAMES) * len(OWNER))[:rows]
    grades = rng.integers(0, 4, (rows, raters)) / 3
    return judgments.Judged(*np.divmod(pairs, len(OWNER)), grades, 0, 0)


def concordance(x, y):
    """(C − D, pairs not tied in x, pairs not tied in y), pair by pair."""
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    return sum(a * b for a, b in signs), sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)


def ndcg_twin(queries, scores, grades):
    """Query by query, sorting lists; the worst order of equals."""
    values = []
    for query in sorted(set(queries.tolist())):
        own = [(scores[i], 2 ** grades[i] - 1) for i in np.flatnonzero(queries == query)]
        if len({gain for _, gain in own}) < 2:
            continue
        dcg = lambda gains: sum(g / math.log2(2 + place) for place, g in enumerate(gains))
        ranked = [gain for _, gain in sorted(own, key=lambda pair: (-pair[0], pair[1]))]
        values.append(dcg(ranked) / dcg(sorted((g for _, g in own), reverse=True)))
    return np.mean(values)


@pytest.mark.parametrize(("raters", "seed", "digits"), [(1, 0, 9), (3, 1, 9), (3, 2, 0), (1, 3, 0)])
def test_twins(raters, seed, digits):
    given = judged(40, raters, seed)
    scores = np.round(np.random.default_rng(seed).standard_normal(40) + given.grades.mean(1), digits)
    found = judgments.measure("expert", scores, given)
    x, y = np.repeat(scores, raters), given.grades.ravel()
    agreement, a, b = concordance(x, y)
    fewer = min(len(set(x)), len(set(y)))
    assert found["expert_tau_b"] == pytest.approx(agreement / math.sqrt(a * b))
    assert found["expert_tau_b"] == pytest.approx(scipy.stats.kendalltau(x, y, variant="b").statistic)
    assert found["expert_tau_c"] == pytest.approx(2 * agreement / (len(x) ** 2 * (fewer - 1) / fewer))
    assert found["expert_tau_c"] == pytest.approx(scipy.stats.kendalltau(x, y, variant="c").statistic)
    assert found["expert_spearman"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    v2t, t2v = (ndcg_twin(queries, scores, given.grades.mean(1)) for queries in (given.visuals, given.texts))
    assert (found["v2t_expert_NDCG"], found["t2v_expert_NDCG"]) == pytest.approx((v2t, t2v))
    assert found["expert_NDCG"] == pytest.approx((v2t + t2v) / 2)


def test_ndcg_is_that_of_the_library():
    rng = np.random.default_rng(0)
    scores, grades = rng.integers(0, 5, (6, 9)).astype(np.float32), (rng.integers(0, 4, (6, 9)) / 3).astype(np.float32)
    queries = np.repeat(np.arange(6), 9)
    ours = judgments.ndcg(queries, scores.ravel(), (np.exp2(grades) - 1).ravel())
    np.testing.assert_allclose(ours, metrics.ndcg_at(scores, grades, k=9), rtol=1e-5)
    gains, copies = (np.exp2(grades) - 1).ravel(), 2000
    many = (queries + 6 * np.arange(copies)[:, None]).ravel()
    random = judgments.ndcg(many, rng.random(54 * copies), np.tile(gains, copies)).reshape(copies, 6)
    np.testing.assert_allclose(judgments.ndcg(queries, None, gains), random.mean(0), atol=0.02)


def test_nan_collapse_and_close_scores():
    given = judged(30, 3)
    collapsed = judgments.measure("expert", np.ones(30), given)
    assert collapsed["expert_tau_b"] == collapsed["expert_tau_c"] == collapsed["expert_spearman"] == 0
    assert collapsed["expert_NDCG"] < judgments.chance("expert", given)["expert_NDCG"]  # equals count against the model
    assert judgments.measure("expert", np.full(30, np.nan), given) == collapsed
    scores = np.random.default_rng(1).standard_normal(30)
    lost, low = scores.copy(), scores.copy()
    lost[:4], low[:4] = np.nan, -np.inf
    assert judgments.measure("expert", lost, given) == judgments.measure("expert", low, given)
    close = 1 + 1e-12 * np.argsort(np.argsort(scores))  # differences that only float64 holds
    assert judgments.measure("expert", close, given) == judgments.measure("expert", scores, given)
    oracle = judgments.measure("expert", given.grades.mean(1), given)
    assert oracle["expert_NDCG"] == 1 and 0 < oracle["expert_tau_b"] < 1  # raters differ among themselves
    with pytest.raises(ValueError, match="all 3 grades of expert are equal"):
        judgments.measure("expert", np.arange(3), given._replace(grades=np.ones((3, 1))))


EXPERT = "a_x.jpg\ta_x.jpg#0\t4\t4\t3\na_x.jpg\tb_x.jpg#2\t1\t2\t1\nc_x.jpg\tb_x.jpg#2\t2\t3\t1\n\n"
CROWD = "a_x.jpg\ta_x.jpg#1\t1\t3\t0\nb_x.jpg\te_x.jpg#0\t0.25\t1\t3\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "expert.txt").write_text(EXPERT)
    (tmp_path / "crowd.txt").write_text(CROWD)
    return {"expert": tmp_path / "expert.txt", "crowdflower": tmp_path / "crowd.txt"}


def test_readers(files):
    found = judgments.load(files, NAMES, OWNER)
    expert, crowd = found["expert"], found["crowdflower"]
    assert (expert.visuals.tolist(), expert.texts.tolist()) == ([0, 2], [5, 5])
    np.testing.assert_allclose(expert.grades, np.array([[0, 1, 0], [1, 2, 0]]) / 3)
    assert judgments.counts(expert) == {"used": 2, "own": 1, "unknown": 0}
    assert (crowd.visuals.tolist(), crowd.texts.tolist(), crowd.grades.tolist()) == ([0, 1], [1, 12], [[1.0], [0.25]])
    mixed = np.argsort(np.arange(15) % 3, kind="stable")  # texts that do not lie beside those of their visual
    again = judgments.load(files, NAMES, OWNER[mixed])["expert"]
    assert mixed[again.texts].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a file of judgments"),
        ("a_x.jpg a_x.jpg#0 4 4 3", "separated by tabs"),
        ("a_x.jpg\ta_x.jpg\t4\t4\t3", "not a file of judgments"),
        ("a_x.jpg\ta_x.jpg#0\t4\t4\tx", "not a file of judgments"),
        ("a_x.jpg\tb_x.jpg#0\t4\t4\t5", "ratings other than 1, 2, 3 and 4"),
        ("a_x.jpg\tz_x.jpg#0\t4\t4\t1", "1 of 1 judgments .*z_x.jpg#0"),
        ("a_x.jpg\tb_x.jpg#3\t4\t4\t1", "1 of 1 judgments .*b_x.jpg#3"),
        ("a_x.jpg\tb_x.jpg#1\t4\t4\t1\n" * 2, "judged in two rows"),
        ("a_x.jpg\ta_x.jpg#1\t4\t4\t1\n", "none of 1 judgments"),
    ],
)
def test_bad_files(tmp_path, content, message):
    (tmp_path / "file.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        judgments.load({"expert": tmp_path / "file.txt"}, NAMES, OWNER)


def test_bad_crowdflower_and_absent(tmp_path):
    (tmp_path / "file.txt").write_text("a_x.jpg\tb_x.jpg#1\t0.5\t3\t0")
    with pytest.raises(ValueError, match="not those of its counts"):
        judgments.read_crowdflower(tmp_path / "file.txt")
    with pytest.raises(ValueError, match="no file"):
        judgments.read_expert(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="give expert or crowdflower"):
        judgments.load({}, NAMES, OWNER)


def test_partial(files):
    with pytest.raises(ValueError, match="1 of 3 judgments"):
        judgments.load(files, NAMES[:2], OWNER[:6])
    with pytest.raises(ValueError, match="none of 2 judgments is about the 1 visuals"):
        judgments.load({"crowdflower": files["crowdflower"]}, NAMES[1:2], OWNER[:3], partial=True)
    found = judgments.load(files, NAMES[:2], OWNER[:6], partial=True)
    assert judgments.counts(found["expert"]) == {"used": 1, "own": 1, "unknown": 1}


def test_published_counts(shared_data):
    folder = shared_data / "flickr8k"
    expert = judgments.read_expert(folder / "ExpertAnnotations_testA.txt")
    crowd = judgments.read_crowdflower(folder / "CrowdFlowerAnnotations_testA.txt")
    assert (expert.grades.shape, crowd.grades.shape) == ((1432, 3), (12427, 1))
    names = sorted({*expert.visuals, *(c.rpartition("#")[0] for c in expert.captions)})
    left = judgments.locate(expert, names, np.repeat(np.arange(len(names)), 5), own=False)
    assert judgments.counts(left) == {"used": 1352, "own": 80, "unknown": 0}


def test_evaluator(files):
    rng = np.random.default_rng(0)
    visual, text = rng.standard_normal((5, 8)).astype(np.float32), rng.standard_normal((15, 8)).astype(np.float32)
    split = Split(visual, text, OWNER)
    options = dict(split=split, mesh=mesh(), batch_size=16, block=(3, 4))
    with pytest.raises(ValueError, match="3 of 3 judgments"):
        Evaluator(predict(), expert=str(files["expert"]), **options)
    split.names = NAMES
    evaluator = Evaluator(predict(), **{k: str(v) for k, v in files.items()}, **options)
    result = evaluator.result({"matrix": np.eye(8, dtype=np.float32)})
    scores = visual @ text.T
    assert list(result["metrics"]) == evaluator.names() == list(result["oracle"])
    for name, given in judgments.load(files, NAMES, OWNER).items():
        for metric, value in judgments.measure(name, scores[given.visuals, given.texts], given).items():
            assert result["metrics"][metric] == pytest.approx(value)
    assert result["judgments"]["expert"]["own"] == 1 and result["finite"]
    broken = evaluator.result({"matrix": np.full((8, 8), np.nan, np.float32)})
    assert not broken["finite"] and broken["metrics"]["expert_tau_c"] == 0


def csv(path, kind, rows):
    head = {"sits": "caption,image", "sis": "image1,image2", "sts": "caption1,caption2"}[kind]
    path.write_text(f"{head},agg_score,sampling_method\n" + "".join(f"{a},{b},{s},x\n" for a, b, s in rows))


def test_cxc_files(tmp_path):
    image, caption = "COCO_val2014_{:012d}.jpg".format, "COCO_val2014:sentid:{}".format
    csv(tmp_path / "a.csv", "sits", [(caption(31), image(7), 4.5), (caption(30), image(9), 0)])
    kind, places, grades, unknown = judgments.locate_cxc(tmp_path / "a.csv", [image(9), image(7)], [30, 31])
    assert (kind, [p.tolist() for p in places], grades.tolist(), unknown) == ("sits", [[1, 0], [1, 0]], [4.5, 0], 0)
    with pytest.raises(ValueError, match="1 of 2 pairs .*Karpathy val"):
        judgments.locate_cxc(tmp_path / "a.csv", ["7"], ["30", "31"])
    assert judgments.locate_cxc(tmp_path / "a.csv", ["7"], ["30", "31"], partial=True)[3] == 1
    with pytest.raises(ValueError, match="the ids of the texts are needed"):
        judgments.locate_cxc(tmp_path / "a.csv", ["7"], None)
    with pytest.raises(ValueError, match="'dog' does not end in a COCO id"):
        judgments.locate_cxc(tmp_path / "a.csv", ["dog"], [30, 31])
    (tmp_path / "b.csv").write_text("image,caption,score\n")
    with pytest.raises(ValueError, match="has the columns"):
        judgments.read_cxc(tmp_path / "b.csv")
    csv(tmp_path / "b.csv", "sts", [("a", "b", 1)])
    with pytest.raises(ValueError, match="rows that are not two COCO names"):
        judgments.read_cxc(tmp_path / "b.csv")


def test_bootstrap():
    """One rated item a query: samples are halves of the pairs; twins drawn the same way agree with scipy."""
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 6, 300) / 5
    scores = np.round(grades + rng.standard_normal(300), 1)
    mean, std = judgments.bootstrap(np.arange(300), scores, grades, samples=400)
    twin = []
    for _ in range(400):
        half = rng.permutation(300)[:150]
        twin.append(scipy.stats.spearmanr(scores[half], grades[half]).statistic)
    assert mean == pytest.approx(np.mean(twin), abs=0.01) and std == pytest.approx(np.std(twin), rel=0.2)
    # Queries of several items: a sample takes one of each, at random, so neither one query of many that agree nor the
    # first items (which disagree) can outweigh the others; the rows need not lie in the order of the queries.
    sizes = np.array([*[1] * 20, *[4] * 12, 60])
    queries = rng.permutation(np.repeat(np.arange(len(sizes)) * 7, sizes))
    grades = rng.random(len(queries))
    first = np.unique(queries, return_index=True)[1]
    scores = grades.copy()
    scores[first] = 1 - grades[first]
    mean, std = judgments.bootstrap(queries, scores, grades, samples=400)
    twin = []
    for _ in range(400):
        half = rng.permutation(np.unique(queries))[: len(sizes) // 2]
        rows = [rng.choice(np.flatnonzero(queries == query)) for query in half]
        twin.append(scipy.stats.spearmanr(scores[rows], grades[rows]).statistic)
    assert mean == pytest.approx(np.mean(twin), abs=0.08) and std == pytest.approx(np.std(twin), rel=0.2)
    assert mean < 0.2 and scipy.stats.spearmanr(scores, grades).statistic > 0.4
    with pytest.raises(ValueError, match="3 queries are too few"):
        judgments.bootstrap(np.arange(3), np.arange(3), np.arange(3))
