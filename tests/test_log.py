"""The log of a run: what is written, cut back and printed, and when the guards speak."""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from vlr_jax import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def open_log(workdir, **options):
    return log.Log(workdir, **dict(dict(total_steps=10, first_step=0, every=2, progress=False), **options))


def test_write_appends_python_numbers_at_once(tmp_path):
    run = open_log(tmp_path)
    run.advance(1)
    run.write(1, {"train/loss": np.float32(0.5), "train/lr": np.array(1e-3)})
    assert lines(tmp_path)[0] == {"step": 1, "time": lines(tmp_path)[0]["time"], "train/loss": 0.5, "train/lr": 1e-3}
    run.advance(2)
    run.write(2, {"train/loss": 0.25})
    run.write(2, {"val/rsum": math.nan, "val/t2v_R@1": 12.5})
    run.close()
    run.close()
    _, train, val = lines(tmp_path)
    assert train["train/steps_per_second"] > 0
    assert val == {"step": 2, "time": val["time"], "val/rsum": None, "val/t2v_R@1": 12.5}
    assert log.read(tmp_path) == lines(tmp_path)


def test_a_metric_must_be_one_number(tmp_path):
    run = open_log(tmp_path)
    with pytest.raises(TypeError, match="train/loss"):
        run.write(1, {"train/loss": np.zeros(2)})
    run.close()


def test_rate_leaves_out_pauses(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    run = open_log(tmp_path)
    now[0] += 50  # compilation
    run.advance(1)
    now[0] += 3
    with run.pause():
        now[0] += 1000
    run.advance(7)
    run.write(7, {"train/loss": 1.0})
    run.close()
    assert lines(tmp_path)[0]["train/steps_per_second"] == pytest.approx(2.0)
    assert lines(tmp_path)[0]["time"] == pytest.approx(1053.0)


def test_due_depends_on_the_step_alone(tmp_path):
    fresh, resumed = open_log(tmp_path / "a", every=4, active=False), open_log(tmp_path, first_step=5, every=4)
    assert [s for s in range(1, 11) if fresh.due(s)] == [s for s in range(1, 11) if resumed.due(s)] == [1, 4, 8, 10]
    resumed.close()


def test_other_processes_write_nothing(tmp_path, capsys):
    run = open_log(tmp_path, active=False, progress=True)
    run.advance(1)
    run.write(1, {"train/loss": 1.0})
    run.message("hello")
    run.close()
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == ""


def test_tensorboard_events_can_be_read_back(tmp_path):
    run = open_log(tmp_path)
    run.write(2, {"train/loss": 0.5, "train/batch/ndcg": math.nan})
    run.close()
    from tensorboardX.proto import event_pb2

    (path,) = (tmp_path / "tensorboard").iterdir()
    data, scalars = path.read_bytes(), {}
    while data:  # TFRecord: length uint64, its checksum uint32, message, checksum uint32
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        scalars |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        data = data[16 + length :]
    assert scalars == {"train/loss": (2, 0.5)}


def test_resume_cuts_back_and_time_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = '{"step": 2, "time": 10.0, "train/loss": 1}\n{"step": 2, "time": 11.0, "val/rsum": 3}\n'
    path.write_text(kept + '{"step": 4, "time": 20.0, "train/loss": 2}\n{"step": 6, "ti')
    assert [line["step"] for line in log.read(tmp_path)] == [2, 2, 4]
    run = open_log(tmp_path, first_step=2)
    assert path.read_text() == kept
    run.write(4, {"train/loss": 3.0})
    run.close()
    assert lines(tmp_path)[-1]["train/loss"] == 3.0 and 11.0 <= lines(tmp_path)[-1]["time"] < 20.0
    log.cut_back(tmp_path, 2)
    assert path.read_text() == kept
    log.cut_back(tmp_path / "nowhere", 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_an_unreadable_line_in_the_middle_is_an_error_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 2, "time": 1}\n{"ste\n{"step": 4, "time": 2}\n'
    path.write_text(text)
    for call in (lambda: log.cut_back(tmp_path, 2), lambda: log.read(tmp_path)):
        with pytest.raises(ValueError, match="metrics.jsonl, line 2"):
            call()
    assert path.read_text() == text


def test_a_full_disk_is_named(tmp_path):
    run = open_log(tmp_path)
    run._file.close()
    run._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(OSError, match="metrics.jsonl") as caught:
        run.write(2, {"train/loss": 1.0})
    assert caught.value.errno == 28
    run.close()


def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    run = log.Log(tmp_path, total_steps=100, first_step=0, every=1)
    for step in range(1, 101):
        now[0] += 1.0
        run.advance(step)
        run.write(step, {"train/loss": 1.0 / step})
        if step == 50:
            run.write(step, {f"val/{name}": 20.0 for name in ("t2v_R@1", "t2v_medR", "rsum")})
    run.close()
    printed = capsys.readouterr().err
    assert "\r" not in printed
    told = printed.splitlines()
    assert len(told) == 9  # steps 1, 16, 31, 46, the evaluation, 61, 76, 91, 100
    assert told[0] == "step 1/100  loss 1"
    assert told[1] == "step 16/100  loss 0.06667  1 steps/s  ETA 1 min 24 s"
    assert told[4] == "step 50/100  val/t2v_R@1 20  val/rsum 20"
    assert told[-1].startswith("step 100/100")


def test_a_bar_on_a_terminal(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run = log.Log(tmp_path, total_steps=4, first_step=1, every=1)
    for step in (2, 3, 4):
        run.advance(step)
        run.write(step, {"train/loss": 0.125})
    run.message("a message")
    run.close()
    assert "a message\n" in terminal.getvalue()
    assert "4/4" in terminal.getvalue() and "loss=0.125" in terminal.getvalue()


def test_check_finite_names_steps_and_terms():
    healthy = {"train/loss": 1.0, "train/batch/ndcg": math.nan}
    log.check_finite(1, 20, healthy)
    with pytest.raises(FloatingPointError) as caught:
        log.check_finite(21, 40, healthy | {"loss/hard/t2v": np.float32("nan"), "grad_norm": math.inf, "loss/b": 1.0})
    text = str(caught.value)
    assert "between steps 21 and 40: loss/hard/t2v = nan, grad_norm = inf." in text and "optim.clip" in text
    with pytest.raises(FloatingPointError, match="at step 7"):
        log.check_finite(7, 7, {"train/loss": -math.inf})


def point(loss: float, std: float, term: str = "hard") -> dict[str, float]:
    batch = {"batch/spread": std, "batch/positive": 0.99, "batch/negative": 0.99}
    return {f"train/loss/{term}/t2v": loss * 0.999, f"train/loss/{term}/v2t": loss * 1.001} | batch


def test_collapse_guard_warns_once_on_the_plateau():
    guard = log.CollapseGuard({"hard": 0.2}, patience=5)
    told = [guard.update(step, point(0.2003, 1e-3)) for step in range(20)]
    assert [step for step, text in enumerate(told) if text] == [4]
    for part in ("step 4", "0.2003", "triplet_sum", "weight=dict(at=1000, before=0., after=1.)", "info_nce", "unified"):
        assert part in told[4]


def test_collapse_guard_is_silent_on_healthy_runs():
    guard = log.CollapseGuard({"hard": 0.2})
    for step in range(200):  # slowly through the margin, with spread similarities
        assert guard.update(step, point(0.4 * math.exp(-step / 100), 0.15)) is None
    for step in range(200):  # a random start: equal similarities for a few points, then it moves
        std = 0.005 if step < 6 else 0.1
        assert guard.update(step, point(0.2, std)) is None
    for step in range(200):  # never long enough in a row
        assert guard.update(step, point(0.2, 0.001 if step % 7 else 0.03)) is None
    with pytest.raises(KeyError, match="loss/hard/t2v"):
        guard.update(0, {"batch/spread": 0.0})


@pytest.mark.parametrize(
    "seconds, text", [(3.4, "3 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds, text):
    assert log.duration(seconds) == text


def test_log_imports_no_jax():
    subprocess.run([sys.executable, "-c", "import sys, vlr_jax.log; assert 'jax' not in sys.modules"], check=True)
