"""The claims: names of cached runs, plateaus, verdicts, the number of runs, and the document from rows made up here."""

import importlib
import inspect
import json
import math
import pathlib
import sys
import types

import pytest

from vlr_jax import log

BENCHMARKS = str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
checks, runs, numbers, plans, report, reused, _ = (
    importlib.import_module(f"claims_{name}")
    for name in ("checks", "runs", "numbers", "plan", "report", "reused", "text")
)
sys.path.remove(BENCHMARKS)


def config(**changes):
    data = dict(name="folder", root="a", source="b", split="train", options=dict(features="/x/f.npz"))
    return dict(data=data, evals=dict(human=dict(expert="/x/e.txt", every=0)), steps=3, seed=0, log_every=1) | changes


def test_digest_is_of_what_matters():
    """Places and the pace of the log do not make another run; everything else does."""
    one = numbers.digest(config())
    moved = config(log_every=9)
    moved["data"] = moved["data"] | dict(root="elsewhere", source="c", options=dict(features="/y/f.npz"))
    moved["evals"] = dict(human=dict(expert="/y/e.txt", every=0))
    assert numbers.digest(moved) == one == numbers.digest(json.loads(json.dumps(config())))
    assert len({one, numbers.digest(config(seed=1)), numbers.digest(config(steps=4))}) == 3
    other = config()
    other["data"] = other["data"] | dict(options=dict(features="/x/g.npz"))
    assert numbers.digest(other) != one


def test_steps_to_is_linear_between_measurements():
    assert numbers.steps_to([10, 20, 30], [50.0, 100.0, 90.0]) == pytest.approx(19)
    assert numbers.steps_to([10, 20], [100.0, 100.0]) == pytest.approx(9.5)  # from 0 at step 0
    assert numbers.steps_to([10], [7.0], share=0.5) == pytest.approx(5)
    for steps, values in (([], []), ([1], [0.0]), ([1, 2], [1.0])):
        with pytest.raises(ValueError, match="positive values"):
            numbers.steps_to(steps, values)


def test_plateau_needs_both_signs_and_patience():
    signs = [0.2, 0.203, 0.21, 0.2], [0.001, 0.019, 0.001, 0.05]
    assert numbers.on_plateau(*signs, patience=1) == [True, True, False, False]
    assert numbers.on_plateau(*signs, patience=2) == [True, True, False, False]
    assert not any(numbers.on_plateau(*signs, patience=3))
    loss = [0.2] * 7 + [0.3] + [0.2] * 8 + [0.3]
    assert numbers.on_plateau(loss, [0.0] * 17) == [False] * 8 + [True] * 8 + [False]
    guard = inspect.signature(log.CollapseGuard).parameters["patience"].default
    assert guard == numbers.PATIENCE == inspect.signature(numbers.on_plateau).parameters["patience"].default


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ([10, 11, 12], [5, 6, 7], numbers.HOLDS),
        ([5, 6, 7], [10, 11, 12], numbers.FAILS),
        ([10, 11, 12], [9.5, 10.5, 11.5], numbers.NOISE),  # all seeds agree, but less than the noise
        ([10, 20, 0], [0, 0, 1], numbers.NOISE),  # large, but a seed disagrees
        ([1, 1, 1], [1, 1, 1], numbers.NOISE),
    ],
)
def test_verdict_is_computed(ours, theirs, word):
    sides = [dict(enumerate(map(float, side))) for side in (ours, theirs)]
    verdict = numbers.better(*sides)
    assert verdict.word == word
    assert verdict.sentence("steps").startswith("worse by 5 steps" if word == numbers.FAILS else "better by ")
    assert numbers.better(*sides[::-1]).difference == pytest.approx(-verdict.difference)


def test_verdict_pairs_by_seed():
    """Only seeds of both sides count, each beside its own."""
    verdict = numbers.better({0: 1.0, 1: 2.0, 7: 99.0}, {1: 1.0, 0: 0.0, 3: 5.0})
    assert (verdict.difference, verdict.seeds, verdict.agreeing) == (1.0, 2, 2)
    with pytest.raises(ValueError, match="two seeds"):
        numbers.better({0: 1.0}, {0: 2.0})


@pytest.mark.parametrize(
    ("loss", "spread", "word"),
    [
        (0.0, 0.5, numbers.HOLDS),  # 1 of 100 may go, and that is beyond the noise
        (0.0, 1.5, numbers.NOISE),  # more noise than what may go: nothing is shown
        (0.4, 0.5, numbers.HOLDS),
        (0.8, 0.5, numbers.NOISE),
        (1.4, 0.5, numbers.NOISE),
        (1.6, 0.5, numbers.FAILS),
        (-5.0, 1.5, numbers.HOLDS),
    ],
)
def test_no_loss_is_shown_not_assumed(loss, spread, word):
    base = {0: 100 - spread, 1: 100.0, 2: 100 + spread}
    assert numbers.no_worse({s: v - loss for s, v in base.items()}, base).word == word


def test_vetoes_only_lower():
    holds, part, noise, fails = numbers.HOLDS, numbers.PART, numbers.NOISE, numbers.FAILS
    vetoes = ([], [holds], [noise], [holds, noise, fails])
    assert [numbers.lowered(holds, v) for v in vetoes] == [holds, holds, part, fails]
    assert all(numbers.lowered(word, v) == word for word in (part, noise, fails) for v in vetoes)


def test_overall_and_mean():
    holds, part, fails, noise = numbers.HOLDS, numbers.PART, numbers.FAILS, numbers.NOISE
    assert numbers.overall([holds, holds]) == (holds, "2 checks: holds 2")
    assert numbers.overall([fails, noise]) == (fails, "2 checks: within noise 1, does not hold 1")
    assert numbers.overall([noise])[0] == noise and numbers.overall([])[0] == numbers.UNKNOWN
    assert numbers.overall([holds, fails, noise])[0] == numbers.overall([part])[0] == part
    assert numbers.mean_std([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert math.isnan(numbers.mean_std([1.0])[1])


def test_plan_keeps_to_its_bounds(tmp_path):
    """At most 45 runs of at least three seeds; without photographs those on the scenes stay; no two are the same."""
    setting = plans.QUICK
    plan = plans.plan(setting, tmp_path, tmp_path / "flickr8k")
    assert setting.seeds >= 3 and len(plan) * setting.seeds <= 45
    names = {numbers.digest(plans.seeded(c.config, seed)) for c in plan for seed in range(setting.seeds)}
    assert len(names) == len(plan) * setting.seeds
    assert {c.key for c in plans.plan(setting, tmp_path, None)} == {c.key for c in plan if c.key.startswith("scenes/")}
    for c in plan:
        assert c.config["best"] == "dev/rsum" and c.config["evals"]["dev"]["data"]["split"] in ("val", "dev")


def test_little_data_is_nested(tmp_path):
    """A smaller training set lies in a larger one, and what is evaluated stays whole."""
    source = tmp_path / "captions.jsonl"
    rows = [{"media": str(i), "split": split, "texts": ["a"]} for split in ("train", "dev", "testA") for i in range(20)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {}
    for size in (5, 10):
        plans.flickr_lines(source, size, tmp_path / "x" / f"{size}.jsonl")
        lines = map(json.loads, (tmp_path / "x" / f"{size}.jsonl").read_text().splitlines())
        found[size] = {(row["split"], row["media"]) for row in lines}
        assert len(found[size]) == size + 40
    assert found[5] < found[10]
    with pytest.raises(ValueError, match="20 images"):
        plans.flickr_lines(source, 21, tmp_path / "y.jsonl")


def row(key, seed, configuration, *, rsum=250.0, late=False, stuck=False, people=0.3):
    """A row as `claims_image_text.run` keeps it, of twenty logged steps."""
    rise = [rsum * share for share in ((0.5, 0.8, 0.9, 1.0) if late else (0.5, 0.9, 1.0, 0.99))]
    metrics = {f"test/{d}_{m}": 0.5 + 0.01 * seed for d in ("v2t", "t2v") for m in ("NDCG@10", "tau")}
    metrics |= {"test/rsum": rsum + seed}
    if not key.startswith("scenes"):
        metrics |= {f"human/{m}": people + 0.001 * seed for m in ("expert_tau_c", "crowdflower_tau_b", "expert_NDCG")}
    curves = {name: [0.1 + 0.001 * seed] * 20 for name in runs.CURVES}
    curves |= {"step": list(range(20)), "loss": [0.2] * 20} | ({} if stuck else {"batch/spread": [0.2] * 20})
    best = {"best_step": 40 if late else 30, "steps": 40, "metrics": metrics, "curves": curves}
    known = {"key": key, "title": key, "seed": seed, "seconds": 9.0, "device": "cpu cpu, 2 cores"}
    return best | known | {"dev": {"step": [10, 20, 30, 40], "rsum": rise}, "config": configuration | {"seed": seed}}


def readme(model, losses, features="global.npz", **changes):
    """A config as README's rows have it."""
    options = dict(features=features) | changes.pop("options", {})
    data = dict(name="folder", root="r", source="s", split="train", options=options)
    evals = dict(dev=dict(name="retrieval", every=10, data=dict(split="dev")))
    evals["testA"] = dict(name="retrieval", data=dict(split="testA"))
    evals["human"] = dict(name="judgments", data=dict(split="testA"))
    model = dict(name="rvse", **model) if model else dict(name="two_tower")
    return dict(data=data, evals=evals, model=model, losses=losses, steps=40, best="dev/rsum") | changes


WARM = dict(
    warm_up=dict(name="triplet_sum", weight=dict(at=2, before=1.0, after=0.0)),
    triplet_hard=dict(margin=0.2, weight=dict(at=2, before=0.0, after=1.0)),
)
TFIDF = dict(sentence_encoder="tfidf")
LISTWISE = dict(unified=dict(weight=0.5), smooth_ndcg=dict(weight=0.5))


def test_document(tmp_path):
    """From made-up rows of two seeds: verdicts by part, levels, censoring, collapse, failures, what differs."""
    plan = plans.plan(plans.SMOKE, tmp_path, tmp_path / "flickr8k")
    cache, better, failing = tmp_path / "cache", ("selhn", "+list", "info_nce", "bcls"), ("scenes/soft/0", 1)
    cache.mkdir()
    for c in plan:
        for seed in range(2):
            good = any(word in c.key for word in better)
            looks = dict(late=c.key == "flickr/hard/1", stuck=c.key.startswith("scenes/hard"))
            rsum = 1.0 if c.key == "scenes/hard/2" else 300.0 if good else 250.0
            found = row(c.key, seed, c.config, rsum=rsum, people=0.4 if good else 0.3, **looks)
            found = {"failed": "loss = nan", **found} if (c.key, seed) == failing else found
            (cache / f"{numbers.digest(plans.seeded(c.config, seed))}.json").write_text(json.dumps(found))
    rows, failed = runs.cached(plan, 2, cache)
    assert [(one["key"], one["seed"]) for one in failed] == [failing] and failing[1] not in rows[failing[0]]
    methods = {
        "RVSE++ · selhn": readme(dict(visual="residual"), dict(selhn={}), "a.npz,b.npz", optim=dict(lr=5e-4)),
        "VSE++ · triplet_hard after triplet_sum": readme({}, WARM, optim=dict(lr=1e-3)),
        "VSE++ · unified": readme({}, dict(unified={}), optim=dict(lr=1e-3)),
        "VSE++ · smooth_ndcg + unified": readme({}, LISTWISE, optim=dict(lr=1e-3), options=TFIDF),
    }
    finished = {
        name: {s: row(name, s, config, rsum=300 - 40 * ("smooth" in name)) | {"folder": f"run-{s}"} for s in range(2)}
        for name, config in methods.items()
    }
    assert [reused.method(config) for config in methods.values()] == list(methods)
    timing = [{"size": 8, "ms": {"triplet_hard": 1.0, "kendall_window": 3.0, "kendall": 9.0}}]
    options = types.SimpleNamespace(setting=plans.SMOKE, output=tmp_path / "docs", flickr8k=tmp_path)
    text = report.write(rows, failed, finished, timing, options, plan, "a machine").read_text()
    for part in (
        "final rsum: **holds**",
        "converges faster than Triplet-HN: **within noise**",
        "beats VLC on little data: **does not hold**",
        "NDCG by human grades: **holds in part**",
        "BCLS: agreement with people: **not checked**",
        "SW-HS at triplet-like cost: **does not hold**",
        "Triplet-SN converges faster: **not checked**",
        "Triplet-HN 3 (lr 0.003, lr 0.01, lr 0.01, hidden layer); SelHN 2 (lr 0.003, lr 0.01, hidden layer)",
        "Flickr8k: Triplet-HN 1 (200); Unified 2 (100, 200); VLC 2 (100, 200); the ablations, + S-NDCG, at 200.",
        "* scenes/soft/0, seed 1: loss = nan",
        "29 of 30 runs",
        "collapsed in 2 of 2 seeds",
        "Collapsed: Triplet-HN, scenes, lr 0.01, hidden layer.",
        "censored: 2 of 4 runs still rise at the end",
        "| ≥ 35 ± 0 | 2 of 2 |",
        "Triplet-HN, Flickr8k grid, 200 images (2 of 2 seeds)",
        "better by 299 points of rsum",
        "loses no rsum to VSE++ · unified: **does not hold**: worse by 40 points of rsum",
        "at B = 8 SW-HS costs at most 2 times what Triplet-HN does: **does not hold**: 3.0 times",
        "BCLS is not checked against people",
        '| `data.options.features` | `"a.npz,b.npz"` | `"global.npz"` |',
        "| `losses.warm_up.weight.at` | `–` | `2` |",
        "| `optim.lr` | `0.0005` | `0.001` |",
        "differ too: **features, warm-up, optimiser and its schedule**",
        "Alike are: number of steps, batch size.",
        "VSE++ · unified, features=global.npz (run-0, run-1)",
        "chosen looking at the human grades of testA",
        "with the numbers on val and test in sight",
        "; n = 1, 2 seeds, setting `smoke`](claims_gradients.png)",
    ):
        assert part in text, part
    for name in ("gradients", "convergence", "differences"):
        assert (tmp_path / "docs" / f"claims_{name}.png").read_bytes().startswith(b"\x89PNG")
    options.flickr8k, options.output = None, tmp_path / "alone"
    plan = plans.plan(plans.SMOKE, tmp_path, None)
    text = report.write(runs.cached(plan, 2, cache)[0], [], {}, [], options, plan, "a machine").read_text()
    assert "Flickr8k was not given" in text and "claims_differences.png" not in text and "final rsum: **holds**" in text


def test_a_run_that_never_finds_anything_has_no_steps():
    flat = row("scenes/hard/0", 0, {}, rsum=0.0)
    assert checks.steps95(flat) is None and checks.cell([flat, flat], checks.CONVERGENCE) == "–"


def finished(folder, config, *, seed=0, selected="dev/rsum (split dev)", rsum=300.0):
    """The files of a finished run that has been judged."""
    folder.mkdir(parents=True)
    human = {f"{kind}_{m}": 0.25 for kind in ("expert", "crowdflower") for m in ("tau_b", "tau_c", "NDCG")}
    evals = {"dev": {"rsum": 1.0}, "testA": {"rsum": rsum}, "human": human}
    result = {"step": 40, "steps": 40, "evals": {n: {"metrics": m, "ids": ""} for n, m in evals.items()}}
    line = {"step": 40, "time": 1.0, "dev/rsum": 200.0, "train/loss": 0.2}
    (folder / "config.json").write_text(json.dumps(config | {"seed": seed}))
    (folder / "result.json").write_text(json.dumps(result | ({"selected_on": selected} if selected else {})))
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def test_finished_runs_are_read(tmp_path, capsys):
    """Methods by what they are, another config of one apart; only what was selected on dev; no seed twice."""
    unified = readme({}, dict(unified={}))
    for seed in range(2):
        finished(tmp_path / f"unified-{seed}", unified, seed=seed, rsum=300.0 + seed)
    finished(tmp_path / "vse_infty", readme(dict(visual="mlp"), WARM), selected=None)
    finished(tmp_path / "zeta", unified | dict(steps=80))
    by_test = unified | dict(best="testA/rsum")
    finished(tmp_path / "on_test", by_test, selected="selected on test: testA/rsum (split testA)")
    finished(tmp_path / "said_so", unified, seed=7, selected="selected on test: dev/rsum (split dev)")
    finished(tmp_path / "last", unified | dict(best=""), selected="last step (nothing selected)")
    (tmp_path / "unfinished").mkdir()
    found = reused.read([str(tmp_path / "*")], None, tmp_path / "cache")
    other = next(name for name in found if name.startswith("VSE++ · unified ("))
    assert found.keys() == {"VSE++ · unified", other, "VSE∞ · triplet_hard after triplet_sum"}
    rows = found["VSE++ · unified"]
    assert {s: one["metrics"]["test/rsum"] for s, one in rows.items()} == {0: 300.0, 1: 301.0}
    assert rows[0]["metrics"]["human/expert_tau_c"] == 0.25 and rows[0]["dev"] == {"step": [40], "rsum": [200.0]}
    assert [one["folder"] for one in found[other].values()] == ["zeta"]
    left = capsys.readouterr().err
    assert [word in left for word in ("on_test", "said_so", "last", "zeta")] == [True, True, True, False]
    finished(tmp_path / "unified-again", unified, seed=1)
    with pytest.raises(ValueError, match="unified-1 and unified-again are both VSE.. · unified, seed 1"):
        reused.read([str(tmp_path / "*")], None, tmp_path / "cache")


def test_what_differs():
    """Dotted keys with both values; seeds, places and the pace of the log aside; a loss is free to read vectors."""
    one, other = readme({}, dict(unified={}), log_every=1), readme({}, LISTWISE, options=TFIDF, seed=3)
    assert [key for key, *_ in reused.differing(one, other)] == [
        "data.options.sentence_encoder",
        "losses.smooth_ndcg.weight",
        "losses.unified",
        "losses.unified.weight",
    ]
    assert not reused.differing(one, other, reused.FREE)
    longer = readme({}, WARM, "more.npz", steps=80)
    assert reused.differing(one, longer, reused.FREE) == [
        ("data.options.features", '"global.npz"', '"more.npz"'),
        ("steps", "40", "80"),
    ]
    assert reused.kinds(one, longer) == ["features", "losses", "warm-up", "number of steps"]


def test_a_run_that_does_not_stay_finite_is_a_row(tmp_path, monkeypatch, capsys):
    """It is kept, named, not repeated, and the next one is run."""
    from vlr_jax import train

    def broken(config, workdir):
        pathlib.Path(workdir).mkdir(parents=True)
        raise FloatingPointError("Training is no longer finite at step 3: loss = nan.")

    monkeypatch.setattr(train, "train", broken)
    monkeypatch.setattr(runs, "ready", lambda config: None)
    plan = plans.plan(plans.SMOKE, tmp_path, None)[:1]
    assert runs.run(plan[0], 0, tmp_path)["failed"].endswith("loss = nan.")
    assert not list((tmp_path / "workdirs").iterdir())
    assert [seed for _, seed in runs.told(plan, 2, tmp_path)] == [1]
    assert "seeds 0 did not stay finite" in capsys.readouterr().out
    rows, failed = runs.cached(plan, 2, tmp_path)
    assert not rows and [one["seed"] for one in failed] == [0]
