"""checkpoint.py without a model at hand: which parameters a folder is served with, and what is passed over."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.checkpoint import Checkpoints
from vlr_jax.pretrained import run
from vlr_jax.state import TrainState


def state(step, value, *, averaged=False, collections=True):
    params = lambda value: {"fc": {"kernel": jnp.full((2, 3), value)}}
    stats = {"batch_stats": {"norm": {"mean": jnp.full(3, value)}}} if collections else {}
    return TrainState(
        np.int32(step), params(value), stats, {"m": jnp.zeros(2)}, params(value + 0.5) if averaged else {}
    )


def write(folder, *, best=(), latest=()):
    (folder / "config.json").write_text("{}")
    with Checkpoints(folder, keep=3) as kept:
        for one in latest:
            kept.save(one, {"best": None})
        for one in best:
            kept.save_best(one, {"best": None})


def served(folder):
    """`(parameter, statistic or None)` of what `pretrained/run.py` gives, each constant over its array."""
    variables = run.load(folder)
    assert variables.keys() <= {"params", "batch_stats"}
    devices = {d for leaf in jax.tree.leaves(variables) for d in leaf.devices()}
    assert devices == {jax.local_devices()[0]}
    kernel, stats = variables["params"]["fc"]["kernel"], variables.get("batch_stats")
    assert kernel.shape == (2, 3) and np.ptp(kernel) == 0
    return float(kernel[0, 0]), None if stats is None else float(stats["norm"]["mean"][0])


def test_the_best_come_first(tmp_path):
    write(tmp_path, best=[state(2, 2.0)], latest=[state(2, 2.0), state(4, 4.0)])
    assert served(tmp_path) == (2.0, 2.0)


def test_best_are_the_averaged_ones(tmp_path):
    write(tmp_path, best=[state(2, 2.0, averaged=True)], latest=[state(4, 4.0, averaged=True)])
    assert served(tmp_path) == (2.5, 2.0)
    shutil.rmtree(tmp_path / "best" / "2")
    assert served(tmp_path) == (4.5, 4.0)


def test_without_collections(tmp_path):
    write(tmp_path, latest=[state(4, 4.0, collections=False)])
    assert served(tmp_path) == (4.0, None)


@pytest.mark.parametrize("item", ["params", "averaged", "collections"])
def test_a_step_that_lacks_something_is_passed_over(tmp_path, item, capsys):
    """Averaged parameters above all: without them the step's plain ones would be served in their stead, unseen."""
    write(tmp_path, latest=[state(2, 2.0, averaged=True), state(4, 4.0, averaged=True)])
    shutil.rmtree(tmp_path / "checkpoints" / "4" / item)
    assert served(tmp_path) == (2.5, 2.0)
    assert "checkpoints/4 can't be read" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "checkpoints" / "2" / item)
    with pytest.raises(FileNotFoundError, match="no readable checkpoint"):
        run.load(tmp_path)


def test_a_broken_best_leaves_the_latest(tmp_path, capsys):
    write(tmp_path, best=[state(2, 2.0)], latest=[state(4, 4.0)])
    shutil.rmtree(tmp_path / "best" / "2" / "collections")
    assert served(tmp_path) == (4.0, 4.0)
    assert "best/2 can't be read" in capsys.readouterr().out
