"""The claims about moments: the number of runs, their worlds, their part of the document, and README's table."""

import importlib
import json
import os
import pathlib
import queue
import sys
import types

import pytest

from vlr_jax import train

BENCHMARKS = str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
numbers, plans, report, document, runs, together = (
    importlib.import_module(f"claims_{name}")
    for name in ("numbers", "moment_plan", "moment_report", "document", "runs", "together")
)
table = importlib.import_module("table")
sys.path.remove(BENCHMARKS)

NAMES = ("R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.75", "mAP")


def test_plan_keeps_to_its_bounds(tmp_path):
    """At most 45 runs of at least three seeds, all different; the models at all levels, ablations at the middle."""
    setting = plans.QUICK
    plan = plans.plan(setting, tmp_path)
    assert setting.seeds >= 3 and len(plan) * setting.seeds <= 45
    assert len({numbers.digest(c.config) for c in plan}) == len(plan)
    for c in plan:
        evals = c.config["evals"]
        assert c.config["best"] == "" and {e["data"]["split"] for e in evals.values()} == {"test"}
        assert len(evals) == (7 if c.key.startswith("model/") else 1) and plans.OWN in evals
        assert c.config["data"]["options"]["background"] == (1.0 if c.key.startswith("dense/") else 0.5)
        assert {e["protocol"] for e in evals.values()} == {"qvhighlights"}


def test_models_are_compared_at_equal_size(tmp_path):
    """What the configs of the plan give a model differs from CDNet's in what the key says alone."""
    plan = {c.key: c.config["model"] for c in plans.plan(plans.QUICK, tmp_path)}
    ours = plan["model/cdnet"]
    changed = {
        key: {k: v for k, v in model.items() if ours.get(k) != v and k != "name"}
        for key, model in plan.items()
        if model.keys() | ours.keys() != model.keys() or model != ours
    }
    changed = {key: value for key, value in changed.items() if value}
    assert changed == {f"part/{key}": what for key, (_, what, *_) in plans.ABLATIONS.items() if what}


def test_every_config_makes_a_task(tmp_path):
    """No unknown knob, and no term that a model lacks what it is for."""
    for c in plans.plan(plans.SMOKE, tmp_path):
        task = train.make_task(c.config, {"visual_dim": 64, "vocabulary": 50})
        contrasts = getattr(task.model, "disentangle", False)
        assert contrasts or not (c.config["losses"] or c.config["regularisers"]), c.key


def test_worlds_differ_in_one_thing(tmp_path):
    """From the middle one, in one difficulty; those only tested have no other split, and all the same videos."""
    found = plans.worlds(plans.QUICK, tmp_path)
    middle = found.pop("middle")["options"]
    assert len(found) == 6
    for name, data in found.items():
        different = {key for key, value in data["options"].items() if middle[key] != value}
        assert different == {name.partition("-")[0]} | (set() if name == plans.DENSE else {"train", "val"})


def moments(value):
    """Metrics of one evaluation."""
    return {f"MR-full-{name}": value for name in NAMES} | {report.HIT: value}


def row(c, seed, value):
    share = lambda name: {"easy": 1.2, "hard": 0.5}.get(name.rpartition("-")[2], 1.0)
    metrics = {f"{e}/{k}": v for e in c.config["evals"] for k, v in moments(value * share(e) + 0.1 * seed).items()}
    known = {"key": c.key, "title": c.title, "seed": seed, "seconds": 9.0, "device": "cpu cpu, 1 core"}
    return known | {"metrics": metrics, "config": c.config}


def finished(folder, model, seed, value, split="dev", metrics=moments):
    """The folder of a finished run."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "model": {"name": model}, "data": {"split": "train"}, "evals": {}}
    config["evals"] = {"val": {"name": "moment", "data": {"split": "val"}}, "dev": {"data": {"split": split}}}
    result = {"selected_on": "val/MR-full-mAP (split val)", "evals": {}}
    result["evals"] = {name: {"metrics": metrics(v)} for name, v in (("val", 1.0), ("dev", value))}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def written(tmp_path):
    """The document of rows in which CDNet beats QD-DETR and loses to Moment-DETR; of its parts only CDD helps."""
    plan = plans.plan(plans.SMOKE, tmp_path)
    known = {"model/qd_detr": 30.0, "model/moment_detr": 50.0, "part/qsd": 30.0, "dense/cdnet": 60.0}
    rows = {c.key: {s: row(c, s, known.get(c.key, 40.0)) for s in range(2)} for c in plan}
    for model, value in (("qd_detr", 58.0), ("cdnet", 50.0), ("moment_detr", 31.5)):
        for seed in range(3):
            finished(tmp_path / f"{model}_slideshows-{seed}", model, seed, value + 0.1 * seed)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "photographs given.json").write_text(json.dumps(moments(88.06)))
    document.put(tmp_path / "docs", "video-text", "# Videos")
    options = types.SimpleNamespace(
        setting=plans.SMOKE, output=tmp_path / "docs", rows=[str(tmp_path / "*_slideshows-*")],
        closed_form=tmp_path / "closed",
    )  # fmt: skip
    return report.write(rows, [], options, plan)


def test_document(written):
    """Verdicts by part, those that do not hold printed as such; the other parts are left alone; the plot is there."""
    text = written.read_text()
    for part in (
        "CDNet beats QD-DETR: **holds**",
        "CDNet beats Moment-DETR: **does not hold**",
        "more so as the test gets harder: **within noise**",
        "CDNet beats QD-DETR there: **holds**",
        "by more than where there is less of it: **holds**",
        "disentanglement (QSD) helps: **within noise**",
        "denoisement (CDD) helps: **holds**",
        "4 groups do better than one: **within noise**",
        "offsets within 5 clips do better than others: **holds in part**",
        "the global term helps: **within noise**",
        "the layers help without the terms: **holds**",
        "QD-DETR's R1@0.5 is at least 60: **does not hold**",
        "CDNet is not below QD-DETR by more than the noise: **does not hold**",
        "| CDNet, 1 group of offsets | 2 |",
        "| photographs given | 88.1 | 88.1 | 88.1 | 88.1 | 88.1 | – |",
        "| QD-DETR | 58.1 ± 0.1 |",
        "26 of 26 runs",
        "![mAP at three levels",
    ):
        assert part in text.replace("\n", " "), part
    assert document.read(written)["video-text"] == "# Videos"
    assert (written.parent / "claims_moments.png").read_bytes().startswith(b"\x89PNG")


def test_without_rows(tmp_path):
    """What was not run is not checked, and said to be that."""
    options = types.SimpleNamespace(setting=plans.SMOKE, output=tmp_path, rows=[], closed_form=None)
    text = report.write({}, [], options, plans.plan(plans.SMOKE, tmp_path)).read_text().replace("\n", " ")
    assert "0 of 26 runs" in text and "not checked" in text and "holds**" not in text


def test_rows_of_one_model_have_one_config(tmp_path):
    """Two configs of one model would be one line of the table; no run where there should be one is an error."""
    finished(tmp_path / "a-0", "cdnet", 0, 1.0)
    finished(tmp_path / "b-0", "cdnet", 0, 1.0)
    changed = json.loads((tmp_path / "b-0" / "config.json").read_text()) | {"steps": 7}
    (tmp_path / "b-0" / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="a-0 are both cdnet"):
        report.read([str(tmp_path / "*")])
    with pytest.raises(ValueError, match="no finished run"):
        report.read([str(tmp_path / "c-*")])


def recalls(value):
    """Metrics of an evaluation of retrieval."""
    return {f"{d}_R@{k}": value for d in ("v2t", "t2v") for k in (1, 5, 10)} | {"rsum": 6 * value, "v2t_medR": 1.0}


def test_table_of_runs(tmp_path, capsys):
    """Mean ± standard deviation over seeds; runs of retrieval and of moments have a table each."""
    for seed in range(2):
        finished(tmp_path / f"qd-{seed}", "qd_detr", seed, 10.0 + seed)
        finished(tmp_path / f"vse-{seed}", "two_tower", seed, 20.0 + 2 * seed, metrics=recalls)
    (tmp_path / "cut-0").mkdir()
    table.main([*map(str, sorted(tmp_path.iterdir())), "--split", "dev"])
    side = " / ".join(["21.0 ± 1.4"] * 3)
    assert capsys.readouterr().out.splitlines() == [
        "| dev | v2t R@1 / R@5 / R@10 | t2v R@1 / R@5 / R@10 | rsum | seeds |",
        "|---|---|---|---|---|",
        f"| vse | {side} | {side} | 126.0 ± 8.5 | 0, 1 |",
        "",
        f"| dev | {' | '.join(NAMES)} | seeds |",
        "|---|---|---|---|---|---|---|",
        f"| qd | {' | '.join(['10.5 ± 0.7'] * 5)} | 0, 1 |",
        "",
        "checkpoints: val/MR-full-mAP (split val)",
        "",
        "not finished, left out: cut-0",
    ]


def test_table_says_what_it_lacks(tmp_path, capsys):
    """A metric that a protocol does not measure is a dash; a split without an evaluation is an error."""
    fewer = lambda value: {"MR-full-R1@0.5": value, "MR-full-R1@0.7": value}
    finished(tmp_path / "charades-0", "qd_detr", 0, 50.0, metrics=fewer)
    table.main([str(tmp_path / "charades-0"), "--split", "dev"])
    assert "| charades | 50.0 | 50.0 | – | – | – | 0 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0 evaluations of retrieval or moments on 'test'"):
        table.main([str(tmp_path / "charades-0"), "--split", "test"])


def test_runs_side_by_side(monkeypatch, tmp_path):
    """A process takes whole configurations, so that their seeds share a compiled step; cores are given back."""
    waiting, seen, before = queue.Queue(), [], os.sched_getaffinity(0)
    for group in ([("a", 0), ("a", 1)], [("b", 0)], None):
        waiting.put(group)
    monkeypatch.setattr(runs, "missing", lambda todo, cache, shown: seen.append(todo))
    together.work(waiting, tmp_path, "own/x")
    together.missing(["all of it"], tmp_path, "own/x", 1)
    monkeypatch.syspath_prepend(BENCHMARKS)
    assert seen == [[("a", 0), ("a", 1)], [("b", 0)], ["all of it"]]
    together.missing([], tmp_path, "own/x", 2)  # two processes that find nothing to do
    assert os.sched_getaffinity(0) == before


def test_what_fails_is_told(monkeypatch, tmp_path):
    """A process that can't make its run ends with an error, and so does the whole."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    c = plans.plan(plans.SMOKE, tmp_path)[0]
    config = json.loads(json.dumps(c.config)) | {"task": "no such task"}
    broken = c._replace(config=config)
    with pytest.raises(SystemExit, match="1 of 2 processes failed"):
        together.missing([(broken, 0)], tmp_path, "own/x", 2)
