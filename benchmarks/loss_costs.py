"""What one loss takes on one side, ours or PyTorch's: the two sides, and their peak memory and time in a process alone.

`losses.py` runs this file as that process.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

# XLA allocates the scratch memory of every call anew; glibc would give it back to the system and fault it in again.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_ARENA_MAX": "1"}
FEW = 2048  # from this B up a single call is measured
KNOBS = {"spread": float, "burst": float, "threads": int}  # options of losses.py that its processes get too
VALUE, GRADIENT = 2e-5, 2e-4  # relative; gradients to their largest entry. Both sides compute in float32.


def inputs(size: int, spread: float):
    """Scores as of a network in training, and a symmetric relevance (`torch_losses.py`) with exactly 1 on the diagonal.

    The relevance is the cosine of captions that share a few topics, on a grid of 2^-16: then its differences are exact
    in float32, and both sides see the same pairs exceed a gap.
    """
    import numpy as np

    rng = np.random.default_rng(size)
    scores = spread * rng.standard_normal((size, size), dtype=np.float32)
    scores[np.diag_indices(size)] += 2 * spread
    topics = rng.standard_normal((size, 8), dtype=np.float32)
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    relevance = np.minimum(np.round(topics @ topics.T * 2**16) / 2**16, 1 - 2**-16).astype(np.float32)
    relevance = np.maximum(relevance, relevance.T)  # a product need not be symmetric to the last bit
    np.fill_diagonal(relevance, 1.0)
    return scores, relevance


class Ours:
    """A loss of `vlr_jax`, both directions, value and gradient in one compiled function."""

    def __init__(self, form, scores, relevance, threads):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        import jax

        from vlr_jax import losses

        name = form.removesuffix("_lean")
        if name not in losses.__all__:
            raise SystemExit(f"vlr_jax.losses has no {name}: nothing to compare. Choose others with --names.")
        loss = getattr(losses, name)
        both = lambda s, r: (loss(s, r, axis=1).mean() + loss(s, r, axis=0).mean()) / 2
        self.function, self.jax = jax.jit(jax.value_and_grad(both)), jax
        self.arguments = jax.block_until_ready((jax.device_put(scores), jax.device_put(relevance)))
        jax.block_until_ready(jax.jit(jax.grad(lambda x: x * x))(1.0))  # awake: see `losses.py` on memory

    def compile(self):
        """What comes once, before the first call."""
        self.function = self.function.lower(*self.arguments).compile()

    def __call__(self):
        """Value and gradient, waited for."""
        return self.jax.block_until_ready(self.function(*self.arguments))


class Torch:
    """The same in PyTorch eager."""

    def __init__(self, form, scores, relevance, threads):
        import torch
        import torch_losses

        torch.set_num_threads(threads)
        self.function = torch_losses.FORMS[form]
        self.scores = torch.from_numpy(scores).requires_grad_()
        self.relevance, self.eye = torch.from_numpy(relevance), torch.eye(len(scores), dtype=torch.bool)
        torch.ones(1, requires_grad=True).square().sum().backward()

    def compile(self):
        """Nothing: eager."""

    def __call__(self):
        """Value and gradient."""
        self.scores.grad = None
        value = self.function(self.scores, self.relevance, self.eye)
        value.backward()
        return value.detach(), self.scores.grad


SIDES = {"ours": Ours, "torch": Torch}


def compare(form, ours, torch):
    """How far (value, gradient) of both are apart; ends the program where they do not compute the same."""
    import numpy as np

    (a, da), (b, db) = ([np.asarray(x) for x in side] for side in (ours, torch))
    value, gradient = abs(a - b) / abs(b), np.abs(da - db).max() / np.abs(db).max()
    told = f"{form}, B={len(db)}: value {b:.6f}, apart by {value:.0e} relative, gradients by {gradient:.0e}"
    if not (value <= VALUE and gradient <= GRADIENT):  # NaN too
        raise SystemExit(f"{told}: the two do not compute the same, no comparison.")
    print(told, file=sys.stderr)


def memory(kind: str) -> float:
    """MB of this process: `VmRSS` now, `VmHWM` at most since `forget`."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(kind))


def forget() -> float:
    """Starts the high-water mark anew, from the resident memory now, which it returns.

    Where the system forbids it the mark may be older than the inputs, and what is measured an upper bound.
    """
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the high-water mark of memory can't be reset here: peaks are upper bounds", file=sys.stderr)
    return memory("VmRSS")


def work(options):
    """A process of its own for one side and size: memory and times as JSON on stdout, value and gradient to a file."""
    side = SIDES[options.side](options.name, *inputs(options.size, options.spread), options.threads)
    before = forget()
    start = time.perf_counter()
    side.compile()
    compiling, highest, compiled = time.perf_counter() - start, memory("VmHWM") - before, forget()
    few, times = options.size >= FEW, []
    if not few:
        side()
    while not times or (not few and len(times) < 100 and (sum(times) < options.burst or len(times) < 3)):
        start = time.perf_counter()
        result = side()
        times.append(time.perf_counter() - start)
    running = memory("VmHWM")
    about = f"{options.side} {options.name}, B={options.size}"
    print(f"{about}: {compiling:.1f} s of compilation, median of {len(times)} calls", file=sys.stderr)
    peaks = {"peak": max(highest, running - before), "running": running - compiled}
    print(json.dumps(peaks | {"seconds": statistics.median(times)}))

    import numpy as np

    np.savez(options.result, value=np.asarray(result[0]), gradient=np.asarray(result[1]))


def measure(side, name, size, options) -> dict:
    """`work` in a new process. Gives `seconds`, `peak` and `running` (MB, see `losses.py`), and `result`."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder) / "result.npz"
        common = [f"--{key}={getattr(options, key)}" for key in KNOBS]
        command = [sys.executable, __file__, side, name, str(size), str(result), *common]
        environment = {key: value for key, value in os.environ.items() if key not in ALLOCATOR}
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        if run.returncode:
            raise SystemExit(f"{side} {name} at B={size} ended with status {run.returncode} (negative: the signal)")
        found = json.loads(run.stdout.splitlines()[-1])
        with np.load(result) as arrays:
            return found | {"result": (arrays["value"], arrays["gradient"])}


def main():
    """The process that `measure` starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("name")
    parser.add_argument("size", type=int)
    parser.add_argument("result", type=pathlib.Path)
    for key, kind in KNOBS.items():
        parser.add_argument(f"--{key}", type=kind, required=True)
    work(parser.parse_args())


if __name__ == "__main__":
    main()
