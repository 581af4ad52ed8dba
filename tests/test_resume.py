"""A run that was killed, stopped or damaged and called again ends with the bits of the run that was not."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from vlr_jax import checkpoint, config, pipeline, train
from vlr_jax.log import Log

# A run in its own process, killed by SIGKILL at the point named by argv[3].
DRIVER = """
import json, os, pathlib, signal, sys
from absl import flags
flags.FLAGS(sys.argv[:1])
from vlr_jax import checkpoint, train
from vlr_jax.log import Log

def die(): os.kill(os.getpid(), signal.SIGKILL)

config, workdir, point = json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2], sys.argv[3]
kind, _, at = point.partition(":")
advance, save = Log.advance, checkpoint.Checkpoints.save
if kind == "step":
    def killing(self, step):
        advance(self, step)
        if step == int(at): die()
    Log.advance = killing
elif kind in ("checkpoints", "best"):   # the arrays of the step are being written: its folder has not its name yet
    def killing(rename):
        def wrapped(source, *rest, **options):
            if f"/{kind}/{at}.orbax-checkpoint-tmp" in str(source): die()
            return rename(source, *rest, **options)
        return wrapped
    os.rename, os.replace = killing(os.rename), killing(os.replace)
elif kind == "saved":    # the checkpoint is complete, its log line's successors are not
    def killing(self, state, meta):
        save(self, state, meta)
        if meta["step"] == int(at): self.wait(); die()
    checkpoint.Checkpoints.save = killing
train.train(config, workdir)
"""


def final(workdir) -> tuple:
    """Everything a run ends with: digests of its states, its numbers, its log without the clock."""
    workdir = pathlib.Path(workdir)
    with checkpoint.Checkpoints(workdir) as kept:
        digests = {
            step: kept.latest.restore(step, args=meta_only())["meta"]["digest"] for step in kept.latest.all_steps()
        }
        best = {step: kept.best.restore(step, args=meta_only())["meta"]["digest"] for step in kept.best.all_steps()}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [{k: v for k, v in line.items() if k not in ("time", "train/steps_per_second")} for line in lines]
    return digests, best, json.loads((workdir / "result.json").read_text()), lines


def meta_only():
    import orbax.checkpoint as ocp

    return ocp.args.Composite(meta=ocp.args.JsonRestore())


@pytest.fixture(scope="module")
def uninterrupted(scenes_root, tmp_path_factory):
    """The config with dropout and batch statistics, and what the whole run gives."""
    plan = config.complete(
        dict(
            data=dict(name="scenes", root=scenes_root, split="train"),
            text=dict(name="words", length=12),
            model=dict(name="two_tower", dim=16, word_dim=8, text="mean", visual_dropout=0.2, visual_norm=True),
            losses=dict(info_nce=dict(temperature=0.1)),
            optim=dict(name="adam", lr=1e-2, schedule=dict(name="cosine", warmup=2), clip=2.0, average=0.9),
            batch_size=16, steps=9, log_every=1, save_every=2,
            evals=dict(val=dict(name="retrieval", every=3, data=dict(split="val"))),
            best="val/rsum",
        )
    )  # fmt: skip
    workdir = tmp_path_factory.mktemp("run") / "whole"
    train.train(plan, workdir)
    return plan, final(workdir)


def run_killed(plan, workdir, point, tmp_path) -> int:
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "config.json").write_text(json.dumps(plan))
    env = dict(os.environ, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"),
               JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")  # fmt: skip
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "config.json"), str(workdir), point]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    print(run.stderr[-2000:])
    return run.returncode


def test_killed_at_several_points(uninterrupted, tmp_path):
    """kill -9 between steps, inside a checkpoint write, right after one; the last start runs to the end."""
    plan, expected = uninterrupted
    workdir = tmp_path / "killed"
    for point in ("step:1", "best:3", "checkpoints:4", "step:5", "saved:8"):
        assert run_killed(plan, workdir, point, tmp_path) == -signal.SIGKILL, point
        if point == "checkpoints:4":
            left = [p.name for p in (workdir / "checkpoints").iterdir()]
            assert any(name.startswith("4.orbax-checkpoint-tmp") for name in left) and "4" not in left
    assert run_killed(plan, workdir, "never", tmp_path) == 0
    assert final(workdir) == expected


def test_sigterm_saves_and_the_same_call_continues(uninterrupted, tmp_path, monkeypatch):
    plan, expected = uninterrupted
    advance = Log.advance

    def terminate(self, step):
        advance(self, step)
        if step == 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Log, "advance", terminate)
    assert train.train(plan, tmp_path) is None
    with checkpoint.Checkpoints(tmp_path) as kept:
        assert max(kept.latest.all_steps()) == 5
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(Log, "advance", advance)
    assert train.train(plan, tmp_path) is not None
    digests, best, result, lines = final(tmp_path)
    assert (digests[9], best, result, lines) == (expected[0][9], *expected[1:])


def test_damaged_checkpoints_are_passed_over(uninterrupted, tmp_path, capfd):
    """An empty newest folder, a truncated file and a flipped byte are named; the newest good state is used."""
    plan, expected = uninterrupted
    plan = plan | dict(keep=4)
    train.train(plan, tmp_path)
    (tmp_path / "result.json").unlink()
    folder = tmp_path / "checkpoints"
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    (folder / "99").mkdir()
    big = lambda step: max((folder / str(step) / "opt_state" / "d").iterdir(), key=lambda p: p.stat().st_size)
    flipped = big(steps[-1])
    raw = bytearray(flipped.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    flipped.write_bytes(raw)
    truncated = big(steps[-2])
    truncated.write_bytes(truncated.read_bytes()[:100])
    train.train(plan, tmp_path)
    told = capfd.readouterr()
    for step in (99, steps[-1], steps[-2]):
        assert f"checkpoints/{step} can't be read" in told.out + told.err
        assert (folder / f"{step}.unreadable").is_dir()
    assert f"continuing at step {steps[-3]} of 9" in told.err
    assert final(tmp_path)[2] == expected[2]


def test_other_config_in_workdir_is_refused_and_nothing_overwritten(uninterrupted, tmp_path):
    plan, _ = uninterrupted
    config.claim(tmp_path, plan)
    before = (tmp_path / "config.json").read_text()
    other = plan | dict(optim=plan["optim"] | dict(lr=1.0))
    with pytest.raises(ValueError, match=r"another config.*\n.*optim.*\n.*choose another --workdir"):
        train.train(other, tmp_path)
    assert (tmp_path / "config.json").read_text() == before
    config.claim(tmp_path, plan | dict(steps=100))  # a run may be continued for longer


def test_checkpoint_of_another_model_is_refused(uninterrupted, tmp_path):
    plan, _ = uninterrupted
    plan = plan | dict(steps=2, evals={}, best="")
    train.train(plan, tmp_path)
    other = plan | dict(model=plan["model"] | dict(dim=24), steps=3)
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(
        checkpoint.OtherModel, match=r"visual_projection/kernel: checkpoint \(\d+, 16\), model \(\d+, 24\)"
    ):
        train.train(other, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "metrics.jsonl", "result.json", "report.html"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")])
def test_unwritable_workdir_is_an_error_that_names_the_file(uninterrupted, tmp_path, monkeypatch, name, error):
    """A full or read-only disk, injected where files are opened: tests may run as root, whom nothing stops."""
    plan, _ = uninterrupted
    opened = io.open

    def refusing(file, mode="r", *rest, **options):
        if name in str(file) and mode.strip("bt") != "r":
            raise type(error)(*error.args, str(file))
        return opened(file, mode, *rest, **options)

    monkeypatch.setattr(io, "open", refusing)
    monkeypatch.setattr("builtins.open", refusing)
    with pytest.raises(OSError, match=f"{error.args[1]}.*{name}|{name}.*{error.args[1]}"):
        train.train(plan | dict(steps=2, evals={}, best=""), tmp_path / "run")


def test_checkpoint_on_a_full_disk_is_an_error(uninterrupted, tmp_path, monkeypatch):
    """The write happens in orbax's thread: its error reaches us late, and still says what it is about."""
    plan, _ = uninterrupted

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint.StandardCheckpointHandler.finalize", full)
    with pytest.raises(OSError, match="checkpoint.*can't be written.*No space left"):
        train.train(plan, tmp_path)


def test_a_run_whose_checkpoints_are_all_broken_is_not_begun_anew(uninterrupted, tmp_path):
    plan, _ = uninterrupted
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    for _ in range(2):  # nor by the second try
        with pytest.raises(OSError, match="none of the checkpoints .* can be read"):
            train.train(plan, tmp_path)


def test_other_data_or_vocabulary_are_refused(uninterrupted, tmp_path, monkeypatch):
    plan, _ = uninterrupted
    plan = plan | dict(steps=2, evals={}, best="")
    train.train(plan, tmp_path)
    real = pipeline.Split.__init__

    def other(self, *arguments):
        real(self, *arguments)
        self.prepared["fingerprint"] = "another"

    monkeypatch.setattr(pipeline.Split, "__init__", other)
    tokens = (tmp_path / "tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match="was trained on another data; choose another --workdir"):
        train.train(plan | dict(steps=3), tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == tokens


def test_fewer_steps_than_done_are_refused(uninterrupted, tmp_path):
    plan, _ = uninterrupted
    train.train(plan | dict(steps=4, evals={}, best=""), tmp_path)
    with pytest.raises(ValueError, match="at step 4 already, beyond config.steps=2"):
        train.train(plan | dict(steps=2, evals={}, best=""), tmp_path)
    assert config.load(tmp_path)["steps"] == 4
