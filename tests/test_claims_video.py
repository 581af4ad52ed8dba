"""The claims of the video papers: the number of runs, their worlds, and their part of the document."""

import importlib
import pathlib
import sys
import types

import pytest

BENCHMARKS = str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
numbers, plans, report, document = (
    importlib.import_module(f"claims_{name}") for name in ("numbers", "video_plan", "video_report", "document")
)
runs = importlib.import_module("claims_runs")
sys.path.remove(BENCHMARKS)


def test_plan_keeps_to_its_bounds(tmp_path):
    """At most 45 runs of at least three seeds; all different; each selected on val and tested at three levels."""
    setting = plans.QUICK
    plan = plans.plan(setting, tmp_path)
    assert setting.seeds >= 3 and len(plan) * setting.seeds <= 45
    assert len({numbers.digest(c.config) for c in plan}) == len(plan)
    for c in plan:
        assert c.config["best"] == "dev/rsum" and c.config["evals"]["dev"]["data"]["split"] == "val"
        assert {c.config["evals"][level]["data"]["split"] for level in plans.LEVELS} == {"test"}
        assert c.config["data"]["options"]["clutter"] == setting.clutter[1]


def test_worlds_differ_in_one_thing(tmp_path):
    """From the middle one, in clutter or in mention; those only tested have no other split."""
    found = plans.worlds(plans.QUICK, tmp_path)
    middle = found.pop("middle")["options"]
    assert len(found) == 4
    for name, data in found.items():
        different = {key for key, value in data["options"].items() if middle[key] != value}
        assert different == {name.partition("-")[0], "train", "val"}


def row(c, seed, rsum):
    metrics = {f"{level}/{d}_{m}": 0.5 for level in plans.LEVELS for d in ("v2t", "t2v") for m in ("NDCG@10", "R@1")}
    metrics |= {f"{level}/rsum": rsum * share + seed for level, share in zip(plans.LEVELS, (1.2, 1, 0.6), strict=True)}
    dev = {"step": [10, 20, 30, 40], "rsum": [0.5 * rsum, 0.9 * rsum, rsum, 0.99 * rsum]}
    known = {"key": c.key, "title": c.title, "seed": seed, "seconds": 9.0, "device": "cpu cpu, 2 cores"}
    return known | {"best_step": 30, "metrics": metrics, "dev": dev, "config": c.config}


@pytest.fixture
def written(tmp_path):
    """The document of rows in which ViSERN beats the mean and loses to attention, and nothing else differs."""
    plan = plans.plan(plans.SMOKE, tmp_path)
    better = {"graph/walk": 300.0, "graph/attention": 330.0}
    rows = {c.key: {s: row(c, s, better.get(c.key, 250.0)) for s in range(2)} for c in plan}
    (tmp_path / "exercise").mkdir()
    (tmp_path / "exercise" / "table.md").write_text("| a table |")
    options = types.SimpleNamespace(setting=plans.SMOKE, output=tmp_path / "docs", exercise=tmp_path / "exercise")
    return report.write(rows, [], options, plan)


def test_document(written):
    """Verdicts by part; what is only shown is no evidence; the real clips' table is read; the plot is there."""
    text = written.read_text()
    for part in (
        "the graph helps: **holds**",
        "the walk beats one step of attention: **does not hold**",
        "the adaptive margin helps: **within noise**",
        "the unified loss beats InfoNCE on videos: **within noise**",
        "| ViSERN, walk of 3 steps | 2 |",
        "28 of 28 runs",
        "| a table |",
        "![rsum at three levels",
    ):
        assert part in text.replace("\n", " "), part
    assert (written.parent / "claims_videos.png").read_bytes().startswith(b"\x89PNG")


def test_parts_are_left_alone(tmp_path):
    """Each command writes its own part, in the order of the document; another file is refused."""
    document.put(tmp_path, "video-text", "# Videos")
    path = document.put(tmp_path, "image-text", "# Images")
    document.put(tmp_path, "video-text", "# Videos again")
    assert document.read(path) == {"image-text": "# Images", "video-text": "# Videos again"}
    assert path.read_text().index("Images") < path.read_text().index("Videos")
    path.write_text("my notes")
    with pytest.raises(ValueError, match="move it away"):
        document.put(tmp_path, "image-text", "x")
