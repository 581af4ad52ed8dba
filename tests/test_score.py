"""`vlr_jax.score` on files: the official numbers, matrices, embeddings and rankings, and every way of being wrong."""

import json
import pathlib

import numpy as np
import pytest
import scipy.stats
import test_extended
import test_judgments
import test_moment_metrics

from vlr_jax import extended, judgments, protocols, score

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "evaluation.npz")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(protocols.PROTOCOLS, "small", protocols.Protocol(200, 5))
    monkeypatch.setitem(protocols.PROTOCOLS, "small-5fold", protocols.Protocol(200, 5, folds=5))
    return GOLDEN["n200/img_emb"].astype(np.float64) @ GOLDEN["n200/cap_emb"].astype(np.float64).T


def run(*arguments):
    return score.main(["ranking", *map(str, arguments)])


def values(result):
    kinds = ("R@1", "R@5", "R@10", "medR", "meanR")
    return [[result["metrics"][f"{d}_{k}"] for k in kinds] for d in ("v2t", "t2v")]


def test_official_numbers(small, tmp_path, capsys):
    np.save(tmp_path / "sims.npy", small)
    assert run("--scores", tmp_path / "sims.npy", "--protocol", "small", "--output", tmp_path / "new" / "out.json") == 0
    result = json.loads((tmp_path / "new" / "out.json").read_text())
    assert values(result) == [GOLDEN["n200/i2t_metrics"].tolist(), GOLDEN["n200/t2i_metrics"].tolist()]
    assert result["metrics"]["rsum"] == GOLDEN["n200/rsum"] and result["protocol"] == "small"
    assert (result["visuals"], result["texts"], result["nan"], result["finite"]) == (200, 1000, 0, True)
    assert result["metrics"].keys() == result["chance"].keys()
    printed = capsys.readouterr().out
    assert "rsum 84.30" in printed and "small: 200 visuals, 1,000 texts" in printed


def test_folds(small, tmp_path):
    np.savez(tmp_path / "sims.npz", scores=small)
    result = score.rank_file(tmp_path / "sims.npz", protocol="small-5fold")
    expected = GOLDEN["n200_fold5/mean_metrics"]
    np.testing.assert_allclose(np.ravel(values(result)), expected[:10], rtol=1e-12)
    assert result["metrics"]["rsum"] == pytest.approx(expected[10])


def test_own_ground_truth_and_float64(tmp_path, capsys):
    # Differences that float32 can't hold are no ties.
    scores = 1.0 + 1e-12 * np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    np.save(tmp_path / "sims.npy", scores)
    np.save(tmp_path / "owner.npy", np.array([[0, -1], [0, 1], [1, -1]], np.int32))
    assert run("--scores", tmp_path / "sims.npy", "--text_visual", tmp_path / "owner.npy") == 0
    result = score.rank_file(tmp_path / "sims.npy", text_visual=tmp_path / "owner.npy")
    assert result["metrics"]["v2t_R@1"] == result["metrics"]["t2v_R@1"] == result["metrics"]["v2t_mAP@R"] == 100
    assert result["tied"] == {"v2t": 0.0, "t2v": 0.0} and result["protocol"] == "none"


def test_nan_is_reported_and_counts_against_the_model(small, tmp_path, capsys):
    small[0] = np.nan
    np.save(tmp_path / "sims.npy", small.astype(np.float32))
    assert run("--scores", tmp_path / "sims.npy", "--protocol", "small", "--output", tmp_path / "out.json") == 0
    assert "1,000 scores are NaN" in capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["nan"] == 1000 and result["finite"] is False


def test_infinite_is_not_finite(small, tmp_path):
    small[3, 2] = -np.inf
    np.save(tmp_path / "sims.npy", small)
    result = score.rank_file(tmp_path / "sims.npy", protocol="small")
    assert result["finite"] is False and result["nan"] == 0


def bad(tmp_path, array, *arguments, name="sims.npy"):
    np.save(tmp_path / name, array, allow_pickle=True)
    return run("--scores", tmp_path / name, *arguments)


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (np.zeros((200, 999), np.float32), ("--protocol", "small"), "found 200 visuals and 999 texts"),
        (np.zeros((1000, 200), np.float32), ("--protocol", "small"), "exchanged"),
        (np.zeros((200, 1000), np.float32), ("--protocol", "smal"), "No protocol 'smal'"),
        (np.zeros((200, 1000), np.float32), (), "Name a --protocol"),
        (np.zeros(200, np.float32), ("--protocol", "small"), "expected floats [visuals, texts]"),
        (np.zeros((200, 1000), np.int32), ("--protocol", "small"), "expected floats"),
        (np.array([[object()]]), ("--protocol", "small"), "without pickled objects"),
    ],
)
def test_bad_scores(small, tmp_path, capsys, array, arguments, message):
    assert bad(tmp_path, array, *arguments, "--output", tmp_path / "out.json") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("owner", "message"),
    [(np.zeros(3, np.int32), "one of 4 a text"), (np.zeros(4), "expected integers"), (np.full(4, 2), "have 2 rows")],
)
def test_bad_ground_truth(tmp_path, capsys, owner, message):
    np.save(tmp_path / "owner.npy", owner)
    assert bad(tmp_path, np.zeros((2, 4), np.float32), "--text_visual", tmp_path / "owner.npy") == 2
    assert message in capsys.readouterr().err


def test_bad_files(tmp_path, capsys):
    assert run("--scores", tmp_path / "absent.npy", "--protocol", "coco-5k") == 2
    assert "no file" in capsys.readouterr().err
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    assert run("--scores", tmp_path / "cut.npy", "--protocol", "coco-5k") == 2
    assert "can't be read" in capsys.readouterr().err
    np.savez(tmp_path / "two.npz", a=np.zeros(1), b=np.zeros(1))
    assert run("--scores", tmp_path / "two.npz", "--protocol", "coco-5k") == 2
    assert "expected one array" in capsys.readouterr().err


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """COCO in small: 12 × 3 in three folds, as files of embeddings, their cosines, and rankings by COCO ids."""
    monkeypatch.setitem(protocols.PROTOCOLS, "coco-5k", protocols.Protocol(12, 3))
    monkeypatch.setitem(protocols.PROTOCOLS, "coco-1k-5fold", protocols.Protocol(12, 3, folds=3))
    lists, rng = test_extended.make(tmp_path), np.random.default_rng(0)
    known = extended.load(tmp_path)
    visual = rng.standard_normal((12, 8)).astype(np.float32)
    text = visual.repeat(3, 0) + rng.standard_normal((36, 8)).astype(np.float32)
    cosines = (visual / np.linalg.norm(visual, axis=1)[:, None]) @ (text / np.linalg.norm(text, axis=1)[:, None]).T
    for name, array in (("visual", visual), ("text", text), ("sims", cosines)):
        np.save(tmp_path / f"{name}.npy", array)
    orders = known.text_ids[np.argsort(-cosines, 1)], known.visual_ids[np.argsort(-cosines.T, 1)]
    write_rankings(tmp_path / "ranks.json", known, *orders)
    np.savez(tmp_path / "places.npz", i2t=np.argsort(-cosines, 1), t2i=np.argsort(-cosines.T, 1))
    return tmp_path, known, lists, cosines, orders


def write_rankings(path, known, i2t, t2i):
    sides = {"i2t": (known.visual_ids, i2t), "t2i": (known.text_ids, t2i)}
    content = {k: {str(q): row.tolist() for q, row in zip(*side, strict=True)} for k, side in sides.items()}
    path.write_text(json.dumps(content))


def same(results, expected):
    assert results.keys() == expected.keys()
    for name, result in results.items():
        assert result["metrics"] == pytest.approx(expected[name]["metrics"])


def test_coco_in_one_call(coco, capsys):
    folder, known, lists, cosines, _ = coco
    options = ("--protocol", "coco", "--eccv", folder)
    assert run("--scores", folder / "sims.npy", *options, "--output", folder / "out.json") == 0
    result = json.loads((folder / "out.json").read_text())
    assert list(result) == ["coco-5k", "coco-1k-5fold", "eccv", "cxc"]
    assert result["eccv"]["metrics"] | result["cxc"]["metrics"] == pytest.approx(
        test_extended.expected(cosines, known, lists)
    )
    for name in ("coco-5k", "coco-1k-5fold"):
        assert result[name] == score.rank_file(folder / "sims.npy", protocol=name)
    printed = capsys.readouterr().out
    assert "protocol coco-1k-5fold" in printed and "queries: v2t 12, t2v 36" in printed and "eccv_mAP@R" in printed
    same(score.rank_file(visual=folder / "visual.npy", text=folder / "text.npy", protocol="coco", eccv=folder), result)
    same(score.rank_file(rankings=folder / "ranks.json", protocol="coco", eccv=folder), result)
    places = score.rank_file(rankings=folder / "places.npz", protocol="coco-5k")
    assert places["metrics"] == pytest.approx(result["coco-5k"]["metrics"]) and places["chance"].keys() >= {"rsum"}


def test_cut_off_rankings(coco, capsys):
    folder, known, _, _, (i2t, t2i) = coco
    write_rankings(folder / "cut.json", known, i2t[:, :20], t2i[:, :11])
    whole = score.rank_file(folder / "sims.npy", protocol="coco-5k")["metrics"]
    cut = score.rank_file(rankings=folder / "cut.json", protocol="coco", eccv=folder)["coco-5k"]
    assert cut["metrics"] == pytest.approx({k: v for k, v in whole.items() if "medR" not in k and "meanR" not in k})
    assert cut["chance"].keys() == cut["metrics"].keys()
    write_rankings(folder / "cut.json", known, i2t[:, :20], t2i[:, :4])
    assert run("--rankings", folder / "cut.json", "--protocol", "coco", "--eccv", folder) == 2
    assert "has 4 of 12 candidates; its first 10 are needed" in capsys.readouterr().err


def test_bad_rankings(coco, capsys):
    folder, known, _, _, (i2t, t2i) = coco
    options = ("--protocol", "coco", "--eccv", folder, "--rankings", folder / "bad.json")
    i2t[0, 1] = i2t[0, 0]
    write_rankings(folder / "bad.json", known, i2t, t2i)
    assert run(*options) == 2 and "a list of i2t has the same id twice" in capsys.readouterr().err
    i2t[0, 1] = 5
    write_rankings(folder / "bad.json", known, i2t, t2i)
    assert run(*options) == 2 and "an item of i2t, 5, is no id of the data" in capsys.readouterr().err
    write_rankings(folder / "bad.json", known._replace(text_ids=known.text_ids[:30]), i2t[:, 2:], t2i[:30])
    assert run(*options) == 2 and "t2i ranks for 30 of 36 queries" in capsys.readouterr().err
    (folder / "bad.json").write_text('{"i2t": {}}')
    assert run(*options) == 2 and "can't be read as rankings" in capsys.readouterr().err
    queries = {"i2t": {-1: [0]}, "t2i": {0: [0]}}  # −1 fills up lists; a query it can't be
    (folder / "bad.json").write_text(json.dumps(queries))
    assert run(*options) == 2 and "a query of i2t, -1, is no id of the data" in capsys.readouterr().err
    np.savez(folder / "bad.npz", i2t=np.zeros((5, 3), int), t2i=np.zeros((36, 3), int))
    assert run("--protocol", "coco-5k", "--rankings", folder / "bad.npz") == 2
    assert "i2t has 5 lists; expected one for each of 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scores", "sims.npy", "--visual", "visual.npy", "--text", "text.npy"), "and not both"),
        (("--visual", "visual.npy"), "expected a matrix (--scores), or embeddings"),
        ((), "expected a matrix (--scores), or embeddings"),
        (("--scores", "sims.npy", "--rankings", "ranks.json"), "stand for themselves"),
        (("--visual", "sims.npy", "--text", "text.npy"), "36 dimensions and text.npy has 8"),
        (("--rankings", "absent.json"), "no file absent.json"),
        (("--scores", "sims.npy", "--eccv", "absent"), "absent lacks coco_test_ids.npy"),
        (("--scores", "sims.npy", "--eccv", ".", "--protocol", "coco-5k"), "--eccv needs --protocol coco"),
    ],
)
def test_bad_combinations(coco, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(coco[0])
    assert run("--protocol", "coco", *arguments) == 2
    assert message in capsys.readouterr().err


def judge(*arguments):
    return score.main(["judgments", *map(str, arguments)])


def test_judgments_of_flickr8k(tmp_path, capsys):
    rng, names = np.random.default_rng(0), test_judgments.NAMES
    sims = rng.standard_normal((5, 15))
    np.save(tmp_path / "sims.npy", sims)
    np.save(tmp_path / "owner.npy", test_judgments.OWNER)
    (tmp_path / "names.txt").write_text("\n".join(names))
    (tmp_path / "expert.txt").write_text(test_judgments.EXPERT)
    (tmp_path / "crowd.txt").write_text(test_judgments.CROWD)
    files = {"expert": tmp_path / "expert.txt", "crowdflower": tmp_path / "crowd.txt"}
    options = ("--scores", tmp_path / "sims.npy", "--text_visual", tmp_path / "owner.npy")
    given = [part for name, path in files.items() for part in (f"--{name}", path)]
    named = ("--visual_ids", tmp_path / "names.txt", "--output", tmp_path / "out.json")
    assert judge(*options, *given, *named) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    for name, judged in judgments.load(files, names, test_judgments.OWNER).items():
        for metric, value in judgments.measure(name, sims[judged.visuals, judged.texts], judged).items():
            assert result["metrics"][metric] == pytest.approx(value)
    assert "judgments, expert: 2 used, 1 own, 0 unknown" in capsys.readouterr().out
    for arguments, message in [
        ((*options, *given), "give --visual_ids"),
        ((*options, *named), "give --expert, --crowdflower or --cxc"),
        (("--scores", tmp_path / "sims.npy", *given, *named), "Name a --protocol"),
        ((*options, *given, "--visual_ids", tmp_path / "owner.npy"), "15 names, 5 different; expected 5"),
    ]:
        assert judge(*arguments) == 2 and message in capsys.readouterr().err


def test_similarities_of_cxc(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(judgments.bootstrap, "__kwdefaults__", {"samples": 200, "seed": 0})
    rng, grades = np.random.default_rng(0), {}
    visual, text = rng.standard_normal((30, 8)), rng.standard_normal((40, 8))
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (visual, text)]
    for name, array in (("visual", visual), ("text", text), ("sims", unit[0] @ unit[1].T)):
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
    np.save(tmp_path / "v.npy", np.arange(100, 130))
    np.save(tmp_path / "t.npy", np.arange(500, 540))
    for kind, (a, b) in judgments.SIDES.items():
        first, second = rng.permutation(len(unit[a])), rng.permutation(len(unit[b]))
        n, base = min(len(first), len(second)), (100, 500)
        found = np.einsum("nd,nd->n", unit[a][first[:n]], unit[b][second[:n]])
        grades[kind] = found, np.round(found + 0.2 * rng.standard_normal(n), 2)
        rows = zip(first[:n] + base[a], second[:n] + base[b], grades[kind][1], strict=True)
        test_judgments.csv(tmp_path / f"{kind}.csv", kind, list(rows))
    ids = ("--visual_ids", tmp_path / "v.npy", "--text_ids", tmp_path / "t.npy")
    embeddings = ("--visual", tmp_path / "visual.npy", "--text", tmp_path / "text.npy")
    csvs = [tmp_path / f"{kind}.csv" for kind in grades]
    assert judge(*embeddings, *ids, "--output", tmp_path / "out.json", "--cxc", *csvs) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    for kind, (found, grade) in grades.items():
        whole = scipy.stats.spearmanr(found, grade).statistic
        assert result["metrics"][f"{kind}_spearman"] == pytest.approx(whole, abs=0.05)
        assert 0 < result["metrics"][f"{kind}_spearman_std"] < 0.2
        assert result["judgments"][kind] == {"used": len(found), "unknown": 0, "nan": 0}
    one = judge("--scores", tmp_path / "sims.npy", *ids, "--cxc", tmp_path / "sits.csv")
    assert one == 0 and "sits_spearman" in capsys.readouterr().out
    assert judge("--scores", tmp_path / "sims.npy", *ids, "--cxc", tmp_path / "sts.csv") == 2
    assert "within one modality" in capsys.readouterr().err


def test_moments(tmp_path, capsys):
    """The official numbers of files with saliency and without, in the official form; a table; what was counted."""
    with np.load(test_moment_metrics.GOLDEN / "moment_predictions.npz", allow_pickle=False) as archive:
        archive = dict(archive)

    def run(case, truth, *options):
        for name, key in (("p.jsonl", case), ("g.jsonl", truth)):
            lines = map(json.dumps, test_moment_metrics.entries(archive, key))
            (tmp_path / name).write_text("\n".join(lines))
        files = "--predictions", str(tmp_path / "p.jsonl"), "--ground_truth", str(tmp_path / "g.jsonl")
        code = score.main(["moments", *files, "--output", str(tmp_path / "out.json"), *options])
        return code, *capsys.readouterr()

    code, out, err = run("short_sal", "qvh_gt")
    golden = test_moment_metrics.METRICS["qvh_case_short_sal_metrics"]
    assert code == 0 and json.loads((tmp_path / "out.json").read_text()) == golden
    assert f"{golden['brief']['MR-full-mAP']:.2f}" in out and f"{golden['brief']['HL-min-Good-Hit1']:.2f}" in out
    assert "padded with 0 (160)" in err and "protocol qvhighlights: standalone_eval" in out
    code, out, err = run("tacos", "tacos_gt", "--protocol", "univtg")
    assert code == 0 and not err and "HIT@1" not in out
    test_moment_metrics.same(
        json.loads((tmp_path / "out.json").read_text()), test_moment_metrics.METRICS["mr_tacos_metrics_univtg_eval"]
    )
    code, out, err = run("charades", "charades_gt", "--protocol", "charades_sta")
    assert code == 0 and out.splitlines()[2].split()[1] == "–"  # no window is longer than 30 s
    assert json.loads((tmp_path / "out.json").read_text())["brief"]["MR-long-mAP"] is None

    code, out, err = run("partial", "qvh_gt")
    assert code == 2 and not out and "ground truth line 101 (qid " in err and "60 of these" in err
    code, out, err = run("partial", "qvh_gt", "--lenient")
    assert code == 0 and "(60)" in err
    assert run("charades", "charades_gt", "--protocol", "charades")[2].startswith("score: no protocol 'charades'")
