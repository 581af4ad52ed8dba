"""The training step of two_tower beside the same step in PyTorch eager, on the same CPU cores.

    pip install -e .[benchmark] && python benchmarks/train_step.py

One step = 128 visuals of 36 x 2048 region features and captions of 20 words into D = 1024 (linear map and maximum; GRU
of 1024 on 300-d words), triplet loss with hard negatives in both directions, gradients, Adam. Both start from the same
parameters and the same batch in host memory (float16 features, as the pipeline delivers them), and have to give the
same losses. The runs alternate; the ratio is the median over pairs of torch's time / ours: above 1, ours is faster.
Also printed: the load average, the CPU time of a step (steadier on a busy machine), the rate of a large matrix product,
the share of it that each step reaches, and
how fast the pipeline reads such batches from ArrayRecord.

Environment: ALLOCATOR, as in launch/local.sh, for both. XLA takes the cores of the process (`taskset` narrows it),
torch `--threads`. OMP_WAIT_POLICY=PASSIVE lets torch's threads sleep while they wait: set it where others use the cores
too, or torch loses most of its time spinning and the ratio flatters us.
"""

import argparse
import os
import statistics
import sys
import time

# XLA allocates the scratch memory of every step anew; glibc would give it back to the system and fault it in again.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_ARENA_MAX": "1"}

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--pairs", type=int, default=5, help="pairs of timed runs")
PARSER.add_argument("--steps", type=int, default=2, help="steps in one run")
PARSER.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch; XLA takes the cores")

B, R, V_DIM, L, WORDS, WORD_DIM, D, MARGIN, LR = 128, 36, 2048, 20, 10000, 300, 1024, 0.2, 5e-4
SIZE = 2048  # of the square matrices whose product tells the rate of the machine


def batch(rng):
    """One batch as it leaves the pipeline: all 36 regions and all 20 words are real."""
    import numpy as np

    return {
        "visual": np.maximum(rng.normal(size=(B, R, V_DIM)), 0).astype(np.float16),
        "visual_mask": np.ones((B, R), bool),
        "text": rng.integers(1, WORDS, (B, L)).astype(np.int32),
        "text_mask": np.ones((B, L), bool),
        "visual_id": np.arange(B, dtype=np.int32),
        "text_id": np.arange(B, dtype=np.int32),
        "valid": np.ones(B, bool),
    }


def flops() -> float:
    """Multiplications and additions of the step's matrix products, forward and backward."""
    visual = 2 * (2 * B * R * V_DIM * D)  # forward and weight; the features need no gradient
    words = 3 * (2 * L * B * WORD_DIM * 3 * D)
    recurrence = 3 * (2 * L * B * D * 3 * D)
    scores = 3 * (2 * B * B * D)
    return visual + words + recurrence + scores


class Ours:
    """The step of `vlr_jax`: model, terms and optax under one `jax.jit` with donated state."""

    def __init__(self, example):
        import jax
        import optax

        from vlr_jax.models.two_tower import Model
        from vlr_jax.terms import Terms

        self.jax = jax
        model, terms = Model(vocabulary=WORDS, visual_dim=V_DIM, dim=D), Terms({"triplet_hard": {"margin": MARGIN}})
        optimizer = optax.adam(LR)
        jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)))
        encode = lambda m, b: (m.encode_visual(b), m.encode_text(b))
        self.params = jax.jit(lambda key, b: model.init(key, b, method=encode))(jax.random.key(0), example)
        self.state = (self.params, optimizer.init(self.params))
        # The other framework starts from these numbers; the state itself is donated at the first step.
        self.start = jax.device_get(self.params["params"])

        def loss(params, b, step):
            visual, text = model.apply(params, b, method=encode)
            loss, metrics = terms(model.similarity, visual, text, b, step=step)
            return loss, metrics | {"loss": loss}

        def step(state, b):
            params, slow = state
            (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, b, 0)
            updates, slow = optimizer.update(grads, slow, params)
            return (optax.apply_updates(params, updates), slow), metrics

        self.compiled = jax.jit(step, donate_argnums=0)

    def step(self, b) -> float:
        """One update; the loss before it, waited for."""
        self.state, metrics = self.compiled(self.state, self.jax.device_put(b))
        self.jax.block_until_ready(self.state)
        return float(metrics["loss"])

    def matmul(self, a, b):
        """A large product, as a function that waits for it."""
        a, b, f = self.jax.device_put(a), self.jax.device_put(b), self.jax.jit(lambda a, b: a @ b)
        return lambda: f(a, b).block_until_ready()


class Torch:
    """The same step in PyTorch eager, in the form of the official VSE++ code, from the same first parameters."""

    def __init__(self, start, threads):
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.fc, self.words = torch.nn.Linear(V_DIM, D), torch.nn.Embedding(WORDS, WORD_DIM)
        self.gru = torch.nn.GRU(WORD_DIM, D, batch_first=True)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor(start["visual_projection"]["kernel"].T))
            self.fc.bias.copy_(torch.tensor(start["visual_projection"]["bias"]))
            self.words.weight.copy_(torch.tensor(start["words"]["embedding"]))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(self.gru, f"{name}_l0").copy_(torch.tensor(start["gru"][name].T))
        self.parameters = [*self.fc.parameters(), *self.words.parameters(), *self.gru.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LR)

    def step(self, b) -> float:
        """One update; the loss before it."""
        torch = self.torch
        norm = lambda x: x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-8)
        visual = norm(self.fc(torch.from_numpy(b["visual"]).float()).max(1)[0])
        # All captions have 20 words, so the packing of the official code would change nothing but the time.
        text = norm(self.gru(self.words(torch.from_numpy(b["text"]).long()))[0][:, -1])
        scores = visual @ text.T
        positive, eye = scores.diagonal(), torch.eye(B, dtype=torch.bool)
        v2t = (MARGIN + scores - positive[:, None]).clamp(min=0).masked_fill(eye, 0).max(1)[0]
        t2v = (MARGIN + scores - positive[None, :]).clamp(min=0).masked_fill(eye, 0).max(0)[0]
        loss = (v2t.mean() + t2v.mean()) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def matmul(self, a, b):
        """A large product, as a function."""
        a, b = self.torch.from_numpy(a), self.torch.from_numpy(b)
        return lambda: a @ b


def pipeline_seconds(visuals=1024, batches=40) -> float:
    """Seconds a batch takes from ArrayRecord to host memory: prepared as a user would, read shuffled, two threads."""
    import json
    import pathlib
    import tempfile

    import numpy as np
    from absl import flags

    from vlr_jax import pipeline, prepare

    flags.FLAGS.mark_as_parsed()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        source, root = pathlib.Path(folder), pathlib.Path(folder) / "prepared"
        names = [f"v{i}" for i in range(visuals)]
        features = np.maximum(rng.normal(size=(visuals, R, V_DIM)), 0).astype(np.float16)
        np.savez(source / "features.npz", names=np.array(names), feat=features)
        text = lambda: " ".join(f"word{w}" for w in rng.integers(0, WORDS, L - 2))
        lines = [json.dumps({"media": name, "split": "train", "texts": [text()]}) for name in names]
        (source / "captions.jsonl").write_text("\n".join(lines))
        prepare.prepare("folder", root, source=source, options={"features": "features.npz"}, progress=False)
        data = {"root": str(root), "split": "train"}
        tokenizer = pipeline.tokenizer({"data": data, "text": {"name": "words", "length": L}})
        rows = pipeline.open_split(data, tokenizer).train(batch_size=B, seed=0)
        next(rows)  # its threads are running now
        return seconds(lambda: next(rows), batches)[0]


def seconds(function, times) -> tuple[float, float]:
    """Mean wall-clock and CPU time of `times` calls."""
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times, (time.process_time() - cpu) / times


def main():
    """Check that both compute the same, then measure in turns."""
    options = PARSER.parse_args()
    if not ALLOCATOR.items() <= os.environ.items():  # read by glibc when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    import numpy as np

    rng = np.random.default_rng(0)
    example = batch(rng)
    ours = Ours(example)
    torch = Torch(ours.start, options.threads)
    for i in range(3):  # also warms both up
        a, b = ours.step(example), torch.step(example)
        print(f"loss {i}: ours {a:.6f}, torch {b:.6f}")
        if abs(a - b) > 1e-3 * abs(b):
            raise SystemExit("The two steps do not compute the same: no comparison.")
    big = [rng.normal(size=(SIZE, SIZE)).astype(np.float32) for _ in range(2)]
    functions = {
        "our step": (lambda: ours.step(example), options.steps, flops()),
        "torch's step": (lambda: torch.step(example), options.steps, flops()),
        "our product": (ours.matmul(*big), 5, 2 * SIZE**3),
        "torch's product": (torch.matmul(*big), 5, 2 * SIZE**3),
    }
    times = {name: [] for name in functions}
    delivery = [pipeline_seconds() for _ in range(3)]
    for _ in range(options.pairs):
        for name, (function, repeats, _) in functions.items():
            times[name].append(seconds(function, repeats))
    report(times, {name: work for name, (_, _, work) in functions.items()}, delivery, options)


def report(times, work, delivery, options):
    """Print medians, rates and shares; the ratio is the last line."""
    wall = {name: statistics.median(w for w, _ in values) for name, values in times.items()}
    cpu = {name: statistics.median(c for _, c in values) for name, values in times.items()}
    rate = {name: work[name] / wall[name] for name in times}
    best = max(rate["our product"], rate["torch's product"])
    cores = len(os.sched_getaffinity(0))
    print(f"load average {os.getloadavg()[0]:.2f} on {cores} cores; {options.threads} threads for torch")
    for name in ("XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", *ALLOCATOR):
        print(f"{name}={os.environ.get(name, '')}")
    for name in times:
        numbers = f"{wall[name] * 1e3:8.1f} ms, {cpu[name] * 1e3:8.1f} CPU-ms, {rate[name] / 1e9:6.1f} GFLOP/s"
        print(f"{name:15s} {numbers} = {rate[name] / best:4.0%} of the measured product")
    wait = statistics.median(delivery)
    print(
        f"pipeline        {wait * 1e3:8.1f} ms a batch, {wall['our step'] / wait:.1f} x as fast as our step takes them"
    )
    pairs = [t / o for (t, _), (o, _) in zip(times["torch's step"], times["our step"], strict=True)]
    print("torch / ours in each pair: " + " ".join(f"{ratio:.2f}" for ratio in pairs))
    print(f"ratio {statistics.median(pairs):.2f}")


if __name__ == "__main__":
    main()
