"""The training step of ViSERN beside the same step in PyTorch eager, on the same CPU cores.

    pip install -e .[benchmark] && python benchmarks/video_models.py

One step = 32 videos of 8 frames of 12 regions of 256 features and captions of 20 words (of 4,000) into D = 256: two
layers of walks of two steps, multi-level encoders on both sides, triplet loss with hard negatives in both directions,
gradients, Adam. Dropout is off in both, so that they have to give the same losses: checked over three steps, from the
same first parameters. PyTorch has its own linear maps, GRU, convolutions and batch normalisation, a product of its own
for every map, and the bag of words as a vector of counts, as the official code of Dual Encoding has it. The runs
alternate; the ratio is the median over pairs of torch's time / ours: above 1, ours is faster.

Environment and threads: as in train_step.py.
"""

import argparse
import os
import statistics
import sys

from train_step import ALLOCATOR, seconds

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--pairs", type=int, default=9, help="pairs of timed runs")
PARSER.add_argument("--steps", type=int, default=5, help="steps in one run")
PARSER.add_argument("--regions", type=int, default=12, help="of a frame")
PARSER.add_argument("--batch", type=int, default=32, help="videos of a step")
PARSER.add_argument("--reasoning", default="walk", choices=("walk", "attention", "mean"), help="of the model")
PARSER.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch; XLA takes the cores")

F, L, V_DIM, WORDS, MARGIN, LR = 8, 20, 256, 4000, 0.2, 1e-4
SIZES = dict(vocabulary=WORDS, visual_dim=V_DIM, dim=256, word_dim=300, dropout=0.0)
KERNELS = {"visual": (2, 3, 4, 5), "text": (2, 3, 4)}


def batch(rng, rows, regions):
    """One batch as it leaves the pipeline: everything in it is real."""
    import numpy as np

    return {
        "visual": np.maximum(rng.normal(size=(rows, F, regions, V_DIM)), 0).astype(np.float16),
        "visual_mask": np.ones((rows, F, regions), bool),
        "text": rng.integers(1, WORDS, (rows, L)).astype(np.int32),
        "text_mask": np.ones((rows, L), bool),
        "visual_id": np.arange(rows, dtype=np.int32),
        "text_id": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
    }


class Ours:
    """The step of `vlr_jax`: task, terms and optax under one `jax.jit` with donated state."""

    def __init__(self, example, reasoning):
        import jax
        import optax

        from vlr_jax.models.visern import Model
        from vlr_jax.tasks.retrieval import Task

        self.jax = jax
        config = dict(losses=dict(triplet_hard=dict(margin=MARGIN)), relevance=dict(name="identity"), regularisers={})
        task = Task(Model(**SIZES, reasoning=reasoning), config | dict(query_chunk=0, encode_chunk=0))
        optimizer = optax.adam(LR)
        jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)))
        variables = jax.jit(task.init)(jax.random.key(0), example)
        self.start = jax.device_get(variables["params"])  # before the state is donated
        self.state = variables, optimizer.init(variables["params"])
        rng = jax.random.key(0, impl="rbg")

        def step(state, b):
            variables, slow = state

            def loss(params):
                value, (metrics, new) = task.loss(variables | {"params": params}, b, rng=rng, step=0)
                return value, (metrics, new)

            (_, (metrics, new)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
            updates, slow = optimizer.update(grads, slow, variables["params"])
            return ({"params": optax.apply_updates(variables["params"], updates)} | new, slow), metrics

        self.compiled = jax.jit(step, donate_argnums=0)

    def step(self, b) -> float:
        """One update; the loss before it, waited for."""
        self.state, metrics = self.compiled(self.state, self.jax.device_put(b))
        self.jax.block_until_ready(self.state)
        return float(metrics["loss"])


class Torch:
    """The same step in PyTorch eager, from the same first parameters."""

    def __init__(self, start, reasoning, threads):
        import torch

        torch.set_num_threads(threads)
        self.torch, self.reasoning = torch, reasoning
        tensor = lambda a: torch.nn.Parameter(torch.tensor(a))
        self.words = tensor(start["words"]["embedding"])
        self.graph = [self._maps(start[name]) for name in sorted(start) if name.startswith("reason_")]
        self.grus, self.convolutions, self.maps, self.norms = {}, {}, {}, {}
        for side, kernels in KERNELS.items():
            levels, common = start[f"{side}_levels"], start[f"{side}_common"]
            self.grus[side] = self._gru(levels["course"])
            pieces = levels["pieces"]
            self.convolutions[side] = [
                (k, tensor(pieces[f"kernel_{k}"].transpose(2, 1, 0).copy()), tensor(pieces[f"bias_{k}"]))
                for k in kernels
            ]
            kernel = torch.tensor(common["linear"]["kernel"].T)
            if "words" in common:
                kernel = torch.cat([kernel, torch.tensor(common["words"].T)], 1)
            self.maps[side] = torch.nn.Linear(kernel.shape[1], kernel.shape[0])
            self.maps[side].weight = torch.nn.Parameter(kernel)
            self.maps[side].bias = tensor(common["linear"]["bias"])
            self.norms[side] = torch.nn.BatchNorm1d(kernel.shape[0])
        self.parameters = [self.words, *(p for maps in self.graph for m in maps for p in m.parameters())]
        for side in KERNELS:
            for module in (self.grus[side], self.maps[side], self.norms[side]):
                self.parameters += module.parameters()
            self.parameters += [p for _, *both in self.convolutions[side] for p in both]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LR)

    def _maps(self, params):
        """φ, ϕ and W of one layer."""
        maps = [self.torch.nn.Linear(V_DIM, V_DIM, bias=i < 2) for i in range(3)]
        for i, linear in enumerate(maps):
            columns = slice(i * V_DIM, (i + 1) * V_DIM)
            linear.weight = self.torch.nn.Parameter(self.torch.tensor(params["kernel"][:, columns].T.copy()))
            if i < 2:
                linear.bias = self.torch.nn.Parameter(self.torch.tensor(params["bias"][columns]))
        return maps

    def _gru(self, params):
        weight = params["forward"]["weight_ih"]
        gru = self.torch.nn.GRU(weight.shape[0], weight.shape[1] // 3, batch_first=True, bidirectional=True)
        with self.torch.no_grad():
            for ours, end in (("forward", ""), ("reverse", "_reverse")):
                for name, value in params[ours].items():
                    getattr(gru, f"{name}_l0{end}").copy_(self.torch.tensor(value.T))
        return gru

    def frames(self, x):
        """`[N, R, C]` → `[N, C]`."""
        for phi, psi, w in self.graph:
            edges = phi(x) @ psi(x).transpose(1, 2)
            if self.reasoning == "walk":
                p = ((edges + edges.transpose(1, 2)) / 2).softmax(-1)
                p = p @ p
            else:
                p = edges.softmax(-1)
            x = (w(p @ x)).relu() + x
        return x.mean(1)

    def common(self, side, x, overall):
        """`[B, S, C]` and the global level → the unit vector `[B, D]`."""
        torch = self.torch
        states = self.grus[side](x)[0]
        pieces = [
            torch.nn.functional.conv1d(states.transpose(1, 2), weight, bias, padding=k - 1).relu().max(2)[0]
            for k, weight, bias in self.convolutions[side]
        ]
        x = self.norms[side](self.maps[side](torch.cat([states.mean(1), *pieces, overall], 1)))
        return x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-8)

    def step(self, b) -> float:
        """One update; the loss before it."""
        torch = self.torch
        x, ids = torch.from_numpy(b["visual"]).float(), torch.from_numpy(b["text"]).long()
        x = self.frames(x.flatten(0, 1)).view(*x.shape[:2], -1)
        visual = self.common("visual", x, x.mean(1))
        bag = torch.zeros(len(ids), WORDS).scatter_add_(1, ids, torch.ones(ids.shape))
        text = self.common("text", torch.nn.functional.embedding(ids, self.words), bag)
        scores = visual @ text.T
        positive, eye = scores.diagonal(), torch.eye(len(ids), dtype=torch.bool)
        v2t = (MARGIN + scores - positive[:, None]).clamp(min=0).masked_fill(eye, 0).max(1)[0]
        t2v = (MARGIN + scores - positive[None, :]).clamp(min=0).masked_fill(eye, 0).max(0)[0]
        loss = (v2t.mean() + t2v.mean()) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def main():
    """Check that both compute the same, then measure in turns."""
    options = PARSER.parse_args()
    if not ALLOCATOR.items() <= os.environ.items():  # read by glibc when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR)
    import numpy as np

    example = batch(np.random.default_rng(0), options.batch, options.regions)
    ours = Ours(example, options.reasoning)
    torch = Torch(ours.start, options.reasoning, options.threads)
    for i in range(3):  # also warms both up
        a, b = ours.step(example), torch.step(example)
        print(f"loss {i}: ours {a:.6f}, torch {b:.6f}")
        if abs(a - b) > 1e-3 * abs(b):
            raise SystemExit("The two steps do not compute the same: no comparison.")
    pairs = []
    for _ in range(options.pairs):
        pairs.append([seconds(lambda side=side: side.step(example), options.steps) for side in (ours, torch)])
    print(f"load average {os.getloadavg()[0]:.2f} on {len(os.sched_getaffinity(0))} cores")
    for place, name in enumerate(("our step", "torch's step")):
        wall, cpu = (statistics.median(pair[place][i] for pair in pairs) for i in (0, 1))
        print(f"{name:15s} {wall * 1e3:8.1f} ms, {cpu * 1e3:8.1f} CPU-ms")
    for i, clock in enumerate(("wall clock", "CPU time")):
        ratios = [theirs[i] / mine[i] for mine, theirs in pairs]
        print(f"torch / ours, {clock}: {' '.join(f'{r:.2f}' for r in ratios)}; ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
