"""What a training run tells: progress bar with ETA, metrics.jsonl, TensorBoard events, step timer, and two guards.

Numbers in, numbers out: jax is not imported, the caller brings arrays to the host when it likes.
`metrics.jsonl` is the one record of a run: resume cuts it back, the report draws it.
"""

import contextlib
import json
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator

import tqdm

from vlr_jax import files

PLAIN_LINE_SECONDS = 15.0  # a log file gets a line of progress this often, where a terminal has a bar
HEADLINES = ("rsum", "t2v_R@1", "v2t_R@1")  # of an evaluation's many numbers, those that are printed while training


class Log:
    """The log of one run. Train lines are those with a name under `train/`; all others are evaluations.

    Args:
        workdir: gets `metrics.jsonl` and `tensorboard/`. Lines of an earlier process after `first_step` are dropped.
        total_steps, every: the step at which training ends; log interval in steps, see `due`.
        first_step: the step that training continues from; 0 for a fresh run.
        progress: show a bar, or lines of progress where stderr is not a terminal. Messages are shown in any case.
        active: False on all processes but the first of a multi-process run: then every method does nothing.

    Raises:
        OSError: the workdir cannot be written to.
        ValueError: `metrics.jsonl` has an unreadable line in its middle.
    """

    def __init__(self, workdir, *, total_steps: int, first_step: int, every: int, progress=True, active=True):
        self._total, self._every, self._active, self._progress = total_steps, every, active, active and progress
        self._step, self._loss, self._rate = first_step, None, None
        self._start = time.monotonic()
        self._paused = 0.0
        self._mark: tuple[int, float] | None = None  # (step, busy seconds) of the last measurement of the rate
        self._first: tuple[int, float] | None = None  # (step, seconds) when this process had done its first step
        self._told = -math.inf  # when the last plain line was printed
        self._bar = self._file = self._writer = None
        if not active:
            return
        from tensorboardX import SummaryWriter  # here, for it takes seconds to import where torch is installed

        self._path = pathlib.Path(workdir) / "metrics.jsonl"
        cut_back(workdir, first_step)
        earlier = read(workdir)
        self._offset = earlier[-1]["time"] if earlier else 0.0
        # Unbuffered: a line is in the file when `write` returns, and a failed write leaves nothing to fail again.
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        self._writer = SummaryWriter(
            str(pathlib.Path(workdir) / "tensorboard"), purge_step=first_step + 1, flush_secs=30
        )
        if self._progress and sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=total_steps, initial=first_step, unit="step", dynamic_ncols=True, smoothing=0.1, file=sys.stderr
            )

    def due(self, step: int) -> bool:
        """True on the first, every `every`-th and the last step: a resumed run logs what an uninterrupted one logs."""
        return step == 1 or step % self._every == 0 or step == self._total

    def advance(self, step: int) -> None:
        """Tick the bar: `step` steps are done. Cheap enough for every step."""
        if not self._active:
            return
        if self._mark is None:  # from the end of the first step: compilation is no part of the rate
            self._mark, self._first = (step, self._busy()), (step, time.monotonic())
        self._step = step
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._told >= PLAIN_LINE_SECONDS and self._loss is not None:
            self._tell()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line to `metrics.jsonl`, write TensorBoard scalars, show loss or headline numbers.

        Args:
            step: the step that the numbers belong to.
            metrics: name → number, e.g. `train/loss`, `val/t2v_R@1`; numpy and jax scalars will do. A train line gains
                `train/steps_per_second`, without the time under `pause`. A number that is not finite becomes null.

        Raises:
            OSError: the file, which the message names, cannot be written, e.g. on a full disk.
            TypeError: a value, which the message names, is not one number.
        """
        if not self._active:
            return
        numbers = {name: _number(name, value) for name, value in metrics.items()}
        train = any(name.startswith("train/") for name in numbers)
        if train:
            self._loss = numbers.get("train/loss", self._loss)
            if self._mark is not None and step > self._mark[0]:
                busy = self._busy()
                self._rate = (step - self._mark[0]) / max(busy - self._mark[1], 1e-9)
                self._mark = (step, busy)
            if self._rate is not None:
                numbers["train/steps_per_second"] = round(self._rate, 4)
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        seconds = round(self._offset + time.monotonic() - self._start, 3)
        self._append({"step": int(step), "time": seconds, **finite})
        for name, value in finite.items():
            if value is not None:
                self._writer.add_scalar(name, value, int(step))
        if not self._progress:
            return
        if not train:
            chosen = [name for name in numbers if name.rpartition("/")[2] in HEADLINES] or list(numbers)[:4]
            self.message(f"step {step}/{self._total}  " + "  ".join(f"{name} {numbers[name]:.4g}" for name in chosen))
        elif self._bar is not None:
            self._bar.set_postfix(loss=f"{self._loss:.4g}" if self._loss is not None else "-", refresh=False)
        elif time.monotonic() - self._told >= PLAIN_LINE_SECONDS or step == self._total:
            self._step = step
            self._tell()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time inside, of an evaluation or a checkpoint, does not count as training in the step rate."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - start

    def message(self, text: str) -> None:
        """Print a text on stderr without breaking the bar."""
        if not self._active:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Finish the bar and the files. May be called again."""
        for thing in (self._bar, self._writer, self._file):
            if thing is not None:
                thing.close()
        self._bar = self._writer = self._file = None

    def _busy(self) -> float:
        return time.monotonic() - self._start - self._paused

    def _append(self, line: dict) -> None:
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            while data:  # the system may take only a part
                data = data[self._file.write(data) :]
        except OSError as error:
            raise OSError(error.errno, f"Cannot append to the run's log: {error.strerror}", str(self._path)) from error

    def _tell(self) -> None:
        self._told = time.monotonic()
        text = f"step {self._step}/{self._total}"
        if self._loss is not None:
            text += f"  loss {self._loss:.4g}"
        if self._rate is not None:
            text += f"  {self._rate:.3g} steps/s" if self._rate >= 1 else f"  {1 / self._rate:.3g} s/step"
        if self._first is not None and self._first[0] < self._step < self._total:
            # Over all that this process has done, evaluations included: they will come again before the end.
            per_step = (self._told - self._first[1]) / (self._step - self._first[0])
            text += f"  ETA {duration(per_step * (self._total - self._step))}"
        self.message(text)


def read(workdir: str | os.PathLike) -> list[dict]:
    """The lines of the workdir's `metrics.jsonl`; none if there is no such file.

    A last line without its line end is left out: a running process is writing it, or a killed one died in it.
    Raises ValueError if another line cannot be read, with file and line number.
    """
    return [line for _, line in _lines(pathlib.Path(workdir) / "metrics.jsonl")]


def cut_back(workdir: str | os.PathLike, step: int) -> None:
    """Drop from `metrics.jsonl` what was logged after `step`, and a partial last line; before training resumes there.

    The file is replaced in one move, so a kill at any time leaves the old or the new one whole.
    Raises ValueError, and leaves the file as it is, if a line before the last cannot be read.
    """
    path = pathlib.Path(workdir) / "metrics.jsonl"
    kept = b"".join(raw for raw, line in _lines(path) if line["step"] <= step)
    if not path.exists() or kept == path.read_bytes():
        return
    files.write(path, kept)


def duration(seconds: float) -> str:
    """Seconds for a reader: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def check_finite(first_step: int, last_step: int, metrics: dict[str, float]) -> None:
    """Stop a training whose loss, regularisers, gradients, updates or parameters are no longer finite.

    Other metrics may be NaN without harm, e.g. a batch's NDCG where no query had a positive, and are not looked at.

    `first_step` to `last_step` are the steps since the last check; the trouble began in one of them. The names in
    `metrics` may begin with `train/`. Raises FloatingPointError, which names steps, terms, values, and what helps.
    """
    vital = re.compile(r"^(train/)?(loss|regularisers?|grad|update|param)")
    bad = {name: float(value) for name, value in metrics.items() if vital.match(name) and not math.isfinite(value)}
    if not bad:
        return
    when = f"at step {last_step}" if first_step >= last_step else f"between steps {first_step} and {last_step}"
    raise FloatingPointError(
        f"Training is no longer finite {when}: "
        + ", ".join(f"{name} = {value}" for name, value in bad.items())
        + ". What helps: a lower optim.lr or a longer warm-up of it; clipping the gradients' norm (optim.clip); "
        "a larger temperature, where a loss has one; features without NaN, Inf or huge values."
    )


class CollapseGuard:
    """Recognises the plateau on which the hardest negative alone can trap a triplet loss.

    Early in training the hardest negative pulls all embeddings into one point: all similarities are equal, so the loss
    of every query is the margin, and the gradient, which goes with the difference of two equal embeddings, vanishes
    (RVSE++ §3; known as fartashf/vsepp issue 27). Loss near the margin alone is no sign, a healthy run passes it;
    the similarities must be equal too, for `patience` logged points in a row.

    Args:
        margins: term's name in the log → its margin, for terms that take the hardest negative, reduced by mean.
        patience: points in a row.
    """

    def __init__(self, margins: dict[str, float], patience: int = 8):
        self._margins, self._patience = dict(margins), patience
        self._streak = dict.fromkeys(margins, 0)
        self._warned = False

    def update(self, step: int, metrics: dict[str, float]) -> str | None:
        """Look at one logged point; returns the warning once, when the plateau is recognised, else None.

        `metrics` has, with or without `train/` before the names, `loss/<term>/t2v` and/or `…/v2t` of every term
        (unweighted), `batch/spread`, `batch/positive` and `batch/negative`; KeyError otherwise.
        """
        plain = {name.removeprefix("train/"): float(value) for name, value in metrics.items()}
        for term, margin in self._margins.items():
            keys = [key for key in (f"loss/{term}/t2v", f"loss/{term}/v2t") if key in plain]
            if not keys:
                raise KeyError(f"No loss/{term}/t2v or loss/{term}/v2t among the metrics {sorted(plain)}")
            loss = sum(plain[key] for key in keys) / len(keys)
            stuck = abs(loss - margin) <= 0.02 * margin and plain["batch/spread"] < 0.02
            self._streak[term] = self._streak[term] + 1 if stuck else 0
            if self._streak[term] >= self._patience and not self._warned:
                self._warned = True
                return _collapse_warning(step, term, margin, loss, plain, self._patience)
        return None


def _collapse_warning(step: int, term: str, margin: float, loss: float, plain: dict[str, float], points: int) -> str:
    return f"""\
WARNING at step {step}: the embeddings have collapsed. For {points} logged points in a row the loss {term!r} has stood
at {loss:.4g}, its margin being {margin:g}, and all similarities in the batch are nearly equal (standard deviation
{plain["batch/spread"]:.2g}; right pairs {plain["batch/positive"]:.3f}, hardest negatives \
{plain["batch/negative"]:.3f}). Training seldom leaves this plateau.
What helps, best first:
  * begin with all negatives and take the hardest one later, e.g. after an epoch of 1000 steps:
    losses = dict(warm=dict(name="triplet_sum", weight=dict(at=1000, before=1., after=0.)),
                  hard=dict(name="triplet_hard", weight=dict(at=1000, before=0., after=1.)))
  * a loss that looks at all negatives: losses = dict(info_nce=dict(temperature=0.05)) or dict(unified=dict())
  * a lower optim.lr, or a longer warm-up of it; a larger batch_size"""


def _lines(path: pathlib.Path) -> Iterator[tuple[bytes, dict]]:
    if not path.exists():
        return
    for number, raw in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not raw.endswith(b"\n"):
            return
        try:
            line = json.loads(raw)
            line["step"], line["time"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is not a line of a run's log: {raw[:80]!r}") from error
        yield raw, line


def _number(name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"Metric {name!r} must be one number, got {value!r}") from error
