"""The claims' pure parts: names of cached runs, steps to convergence, plateaus, verdicts, the number of runs."""

import json
import math
import pathlib
import sys

import pytest

BENCHMARKS = str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
import claims_numbers as numbers  # noqa: E402
import claims_plan as plans  # noqa: E402

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


def test_plateau_needs_both_signs():
    assert numbers.on_plateau([0.2, 0.203, 0.21, 0.2], [0.001, 0.019, 0.001, 0.05]) == [True, True, False, False]


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
    assert verdict.word == word and word in verdict.sentence()
    assert numbers.no_worse(*sides).word == (numbers.FAILS if word == numbers.FAILS else numbers.HOLDS)
    assert numbers.better(*sides[::-1]).difference == pytest.approx(-verdict.difference)


def test_verdict_pairs_by_seed():
    """Only seeds of both sides count, each beside its own."""
    verdict = numbers.better({0: 1.0, 1: 2.0, 7: 99.0}, {1: 1.0, 0: 0.0, 3: 5.0})
    assert (verdict.difference, verdict.seeds, verdict.agreeing) == (1.0, 2, 2)
    with pytest.raises(ValueError, match="two seeds"):
        numbers.better({0: 1.0}, {0: 2.0})


def test_overall_and_mean():
    holds, fails, noise = numbers.HOLDS, numbers.FAILS, numbers.NOISE
    assert numbers.overall([holds, holds]).startswith("holds, in all 2")
    assert numbers.overall([fails, noise]).startswith("does not hold: 1 of 2")
    assert numbers.overall([noise]).startswith("within noise")
    assert numbers.overall([holds, fails, noise]) == ("holds in part: 1 of 3 checks hold, 1 do not, 1 within noise")
    assert numbers.overall([]) == "not checked: no runs"
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
