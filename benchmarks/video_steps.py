"""Training steps of CLIP4Clip (meanP) and ProTA beside the same steps in PyTorch eager, on the same CPU cores.

    pip install -e .[benchmark] && python benchmarks/video_steps.py tiny|b32|interaction [--model prota]

tiny: CLIP of 3 + 3 layers of 128 on frames of 64 x 64, 32 videos of 8 frames, texts of 24. b32: ViT-B/32, 2 videos of
12 frames of 224 x 224, texts of 32. One step = towers, similarity, loss (InfoNCE; adaptive contrastive + 1e-3 KL),
gradients, AdamW, from the same parameters and uint8 frames in host memory; `--dtype bfloat16`: in torch by autocast.
Losses have to agree for three steps. interaction: ProTA's three similarities alone, 512 videos of 12 tokens x 512 texts
of 32 tokens of 512, forward and backward, beside the direct PyTorch formulation (`torch_video.py`; some 8 GB); values
and gradients have to agree. Sides alternate; the ratio is the median over pairs of torch's / ours: above 1, ours is
faster.

Environment and threads: as in train_step.py. `--fused` gives torch its fused AdamW (not the default of eager).

    python benchmarks/video_steps.py gpu --model prota    # ViT-B/32, 128 videos of 12 frames, texts of 32, bfloat16

is for a machine where jax and torch see a GPU: step time, model FLOP utilisation against the measured product, peak
memory; torch eager and `torch.compile`. NEVER RUN: there was no such machine; it may need repair.
"""

import argparse
import os
import statistics
import sys

from train_step import ALLOCATOR, seconds

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("case", choices=("tiny", "b32", "interaction", "gpu"))
PARSER.add_argument("--model", default="clip4clip", choices=("clip4clip", "prota"))
PARSER.add_argument("--pairs", type=int, default=5, help="pairs of timed runs")
PARSER.add_argument("--steps", type=int, default=0, help="steps in one run; 0 = 5 of tiny, 3 on a GPU, else 1")
PARSER.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of products")
PARSER.add_argument("--fused", action="store_true", help="torch's fused AdamW")
PARSER.add_argument("--attention", default=None, help="of our transformers, as layers/transformer.py has it")
PARSER.add_argument("--rows", type=int, default=512, help="videos and texts of the interaction")
PARSER.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch; XLA takes the cores")

TINY = dict(image_size=64, patch=16, vision_width=128, vision_layers=3, vision_heads=2, text_width=128, text_layers=3,
            text_heads=2, positions=32, dim=128)  # fmt: skip
B32 = dict(image_size=224, patch=32, vision_width=768, vision_layers=12, vision_heads=12, text_width=512,
           text_layers=12, text_heads=8, positions=77, dim=512)  # fmt: skip
# CLIP's sizes, vocabulary, temporal layers, videos, frames, words, learning rate (so that losses move, and not wildly).
CASES = {
    "tiny": (TINY, 1000, 2, 32, 8, 24, 1e-3),
    "b32": (B32, 49408, 4, 2, 12, 32, 1e-5),
    "gpu": (B32, 49408, 4, 128, 12, 32, 1e-5),
}
LOSSES = {"clip4clip": {"info_nce": {}}, "prota": {"adaptive_contrastive": {"margin": 0.2}}}
DECAY, BETA, TOLERANCE = 0.2, 1e-3, {"float32": 1e-3, "bfloat16": 2e-2}
TEMPORARIES = "our temporaries by compiled memory analysis: {:.3f} GB"
SIZE = 2048, 8192  # of the square matrices whose product tells the rate of the machine; the second on a GPU


def batch(rng, case):
    """One batch as it leaves the pipeline; frames of coarse random colours, so that videos differ."""
    import numpy as np

    clip, vocabulary, _, rows, frames, words, _ = CASES[case]
    edge = clip["image_size"] // 4
    coarse = rng.integers(0, 256, (rows, frames, 4, 4, 3), np.uint8)
    length = lambda most, shape: np.arange(most) < rng.integers(most // 2, most + 1, (shape, 1))
    mask = length(words, rows)
    return {
        "visual": coarse.repeat(edge, 2).repeat(edge, 3),
        "visual_mask": length(frames, rows),
        "text": np.where(mask, rng.integers(1, vocabulary, (rows, words)), 0).astype(np.int32),
        "text_mask": mask,
        "visual_id": np.arange(rows, dtype=np.int32),
        "text_id": np.arange(rows, dtype=np.int32),
        "valid": np.ones(rows, bool),
    }


def flops(case, model) -> float:
    """Multiplications and additions of the step's matrix products, forward and twice that backward."""
    clip, _, temporal, rows, frames, words, _ = CASES[case]
    body = lambda n, s, width, layers: layers * n * s * (2 * 12 * width**2 + 2 * 2 * s * width)
    width, dim, patches = clip["vision_width"], clip["dim"], (clip["image_size"] // clip["patch"]) ** 2
    total = body(rows * frames, patches + 1, width, clip["vision_layers"]) + 2 * rows * frames * width * dim
    pixels = 2 * rows * frames * patches * 3 * clip["patch"] ** 2 * width  # which need no gradient
    total += body(rows, words, clip["text_width"], clip["text_layers"])
    total += 2 * rows * clip["text_width"] * dim * (words if model == "prota" else 1)
    if model == "prota":
        total += body(rows, frames, dim, temporal) + 4 * 2 * rows * (frames + words) * dim**2
        total += 3 * 2 * rows * frames * rows * words * dim
    return 3 * total + 2 * pixels


class Ours:
    """The step of `vlr_jax`: task, terms and optax under one `jax.jit` with donated state."""

    def __init__(self, example, options):
        import jax
        import optax

        from vlr_jax.models import clip4clip, prota
        from vlr_jax.tasks.retrieval import Task

        self.jax, name = jax, options.model
        clip, vocabulary, layers, *_, rate = CASES[options.case]
        fields = dict(vocabulary=vocabulary, clip_sizes=clip, attention=options.attention, dtype=options.dtype)
        model = clip4clip.Model(**fields) if name == "clip4clip" else prota.Model(**fields, temporal_layers=layers)
        losses = {key: knobs | dict(temperature="model") for key, knobs in LOSSES[name].items()}
        config = dict(losses=losses, relevance=dict(name="identity"), query_chunk=0, encode_chunk=0)
        task = Task(model, config | dict(regularisers={} if name == "clip4clip" else dict(kl=BETA)))
        optimizer, rng = optax.adamw(rate, weight_decay=DECAY), jax.random.key(0, impl="rbg")
        jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)))
        params = jax.jit(task.init)(jax.random.key(0), example)["params"]
        self.start = jax.device_get(params)  # before the state is donated
        self.state = params, optimizer.init(params)

        def step(state, b):
            params, slow = state
            loss = lambda params: task.loss({"params": params}, b, rng=rng, step=0)
            (_, (metrics, _)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, slow = optimizer.update(grads, slow, params)
            return (optax.apply_updates(params, updates), slow), metrics

        self.compiled = jax.jit(step, donate_argnums=0).lower(self.state, example).compile()

    def step(self, b) -> float:
        """One update; the loss before it, waited for."""
        self.state, metrics = self.compiled(self.state, self.jax.device_put(b))
        self.jax.block_until_ready(self.state)
        return float(metrics["loss"])

    def matmul(self, a, b, dtype):
        """A large product, as a function that waits for it."""
        a, b = (self.jax.device_put(x).astype(dtype) for x in (a, b))
        f = self.jax.jit(lambda a, b: a @ b)
        return lambda: f(a, b).block_until_ready()


class Torch:
    """The same step in PyTorch, from the same first parameters."""

    def __init__(self, start, options, device="cpu", compiled=False):
        import torch
        import torch_video

        torch.set_num_threads(options.threads)
        self.torch, self.device, self.half = torch, device, options.dtype == "bfloat16"
        self.parameters = torch_video.parameters(start, device)
        clip, _, layers, *_, rate = CASES[options.case]
        loss = getattr(torch_video, options.model)
        more = {} if options.model == "clip4clip" else dict(layers=layers)
        self.loss = lambda b: loss(torch_video.Part(self.parameters), b, clip, **more)
        if compiled:
            self.loss = torch.compile(self.loss)
        fused = dict(fused=True) if options.fused or device != "cpu" else {}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=rate, weight_decay=DECAY, **fused)

    def step(self, b) -> float:
        """One update; the loss before it."""
        torch = self.torch
        b = {key: torch.from_numpy(b[key]).to(self.device) for key in ("visual", "visual_mask", "text", "text_mask")}
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            loss = self.loss(b)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())  # waits for the device

    def matmul(self, a, b, dtype):
        """A large product, as a function that waits for it."""
        a, b = (self.torch.from_numpy(x).to(self.device, getattr(self.torch, dtype)) for x in (a, b))
        wait = (lambda: None) if self.device == "cpu" else self.torch.cuda.synchronize
        return lambda: (a @ b, wait())


def alike(name, a, b, tolerance=1e-3):
    """Print a number of both sides; stop where they differ."""
    print(f"{name}: ours {a:.6f}, theirs {b:.6f}", flush=True)
    if not abs(a - b) <= tolerance * abs(b):
        raise SystemExit("The two do not compute the same: no comparison.")


def steps(options):
    """tiny and b32: check, then measure in turns."""
    import numpy as np

    rng = np.random.default_rng(0)
    example = batch(rng, options.case)
    ours = Ours(example, options)
    torch = Torch(ours.start, options)
    for i in range(3):  # also warms both up
        alike(f"loss {i}", ours.step(example), torch.step(example), TOLERANCE[options.dtype])
    print(TEMPORARIES.format(ours.compiled.memory_analysis().temp_size_in_bytes / 1e9))
    big = [rng.normal(size=(SIZE[0], SIZE[0])).astype(np.float32) for _ in range(2)]
    work, times = flops(options.case, options.model), options.steps or (5 if options.case == "tiny" else 1)
    functions = {
        "our step": (lambda: ours.step(example), times, work),
        "torch's step": (lambda: torch.step(example), times, work),
        "our product": (ours.matmul(*big, options.dtype), 5, 2 * SIZE[0] ** 3),
        "torch's product": (torch.matmul(*big, options.dtype), 5, 2 * SIZE[0] ** 3),
    }
    compare(functions, options)


def tokens_of(rng, count, rows, dim):
    """One side of the interaction, `[rows, count, …]`: arrays that are differentiated, and the mask."""
    import numpy as np

    mask = np.arange(count) < rng.integers(count // 2, count + 1, (rows, 1))
    tokens, high = ((rng.normal(size=(rows, count, dim)) + rng.normal(size=dim)).astype(np.float32) for _ in range(2))
    log_var = (-np.log(dim) - 2 + 0.3 * rng.normal(size=tokens.shape)).astype(np.float32)
    weights = np.where(mask, rng.uniform(0.5, 1.5, mask.shape), 0).astype(np.float32)
    return dict(tokens=tokens, high=high, log_var=log_var, weights=weights / weights.sum(1, keepdims=True)), mask


def interaction(options):
    """ProTA's similarities alone, forward and backward: check, then measure in turns."""
    import jax
    import numpy as np
    import torch
    import torch_video

    from vlr_jax.models.prota import Model
    from vlr_jax.types import Encoded

    rng, rows, counts, dim = np.random.default_rng(0), options.rows, (12, 32), 512
    sides, masks = zip(*(tokens_of(rng, count, rows, dim) for count in counts), strict=True)
    pull = {n: rng.normal(size=(rows, rows)).astype(np.float32) / rows for n in torch_video.SIMILARITIES}
    model = Model(vocabulary=1, dim=dim)

    def value(sides):
        both = zip(sides, masks, strict=True)
        encoded = [Encoded(mask[:, 0], side["tokens"], mask, side) for side, mask in both]
        found = model.apply({}, *encoded, method="similarity")
        return sum((found[n] * pull[n]).sum() for n in pull)

    compiled = jax.jit(jax.value_and_grad(value)).lower(sides).compile()
    here = jax.device_put(sides)
    ours = lambda: jax.block_until_ready(compiled(here))
    torch.set_num_threads(options.threads)
    given = [{k: torch.from_numpy(x).requires_grad_() for k, x in side.items()} for side in sides]
    hidden, pulls = [{"mask": torch.from_numpy(x)} for x in masks], {n: torch.from_numpy(x) for n, x in pull.items()}

    def theirs():
        found = torch_video.similarities(*(g | h for g, h in zip(given, hidden, strict=True)))
        total = sum((found[n] * pulls[n]).sum() for n in found)
        return float(total.detach()), torch.autograd.grad(total, [x for side in given for x in side.values()])

    (a, grads), (b, expected) = ours(), theirs()
    alike("value", float(a), b)
    gaps = {}
    for (place, key), y in zip([(i, k) for i in range(2) for k in sides[0]], expected, strict=True):
        gaps[("visual ", "text ")[place] + key] = np.abs(grads[place][key] - y.numpy()).max() / y.abs().max().item()
    print("largest differences of gradients:", ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items()))
    if not max(gaps.values()) <= 1e-3:
        raise SystemExit("The two do not compute the same: no comparison.")
    del grads, expected, y
    print(TEMPORARIES.format(compiled.memory_analysis().temp_size_in_bytes / 1e9))
    work = 3 * 3 * 2 * rows * counts[0] * rows * counts[1] * dim
    compare({"our step": (ours, options.steps or 1, work), "torch's step": (theirs, options.steps or 1, work)}, options)


def compare(functions, options):
    """Time them in turns; medians, rates, and as the last lines the ratios by both clocks."""
    times = {name: [] for name in functions}
    for _ in range(options.pairs):
        for name, (function, repeats, _) in functions.items():
            times[name].append(seconds(function, repeats))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"load average {load:.2f} on {cores} cores; {options.threads} threads for torch")
    for name in ("XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", *ALLOCATOR):
        print(f"{name}={os.environ.get(name, '')}")
    for name, values in times.items():
        wall, cpu = (statistics.median(value[i] for value in values) for i in (0, 1))
        rates = f"{functions[name][2] / wall / 1e9:6.1f} GFLOP/s, {functions[name][2] / cpu / 1e9:6.1f} per CPU-second"
        print(f"{name:15s} {wall * 1e3:9.1f} ms, {cpu * 1e3:9.1f} CPU-ms, {rates}")
    for i, clock in enumerate(("wall clock", "CPU time")):
        ratios = [t[i] / o[i] for t, o in zip(times["torch's step"], times["our step"], strict=True)]
        print(f"torch / ours, {clock}: {' '.join(f'{r:.2f}' for r in ratios)}; ratio {statistics.median(ratios):.2f}")


def gpu(options):
    """ViT-B/32 at batch 128 in bfloat16; never run (see above)."""
    import jax
    import numpy as np
    import torch

    rng, options.dtype = np.random.default_rng(0), "bfloat16"
    example = batch(rng, "gpu")
    ours = Ours(example, options)
    sides = {"ours": ours, "torch eager": Torch(ours.start, options, "cuda")}
    sides["torch.compile"] = Torch(ours.start, options, "cuda", compiled=True)
    for i in range(3):  # also compiles and warms up
        found = {f"loss {i}, {name}": side.step(example) for name, side in sides.items()}
        [alike(name, found[f"loss {i}, ours"], value, TOLERANCE[options.dtype]) for name, value in found.items()]
    big = [rng.normal(size=(SIZE[1], SIZE[1])).astype(np.float32) for _ in range(2)]
    product = [side.matmul(*big, options.dtype) for side in (ours, sides["torch eager"])]
    [f() for f in product]
    best = max(2 * SIZE[1] ** 3 / min(seconds(f, 20)[0] for _ in range(3)) for f in product)
    print(f"measured product: {best / 1e12:.0f} TFLOP/s of bfloat16")
    times = {name: [] for name in sides}
    for _ in range(options.pairs):
        for name, side in sides.items():
            torch.cuda.reset_peak_memory_stats()
            times[name].append(seconds(lambda side=side: side.step(example), options.steps or 3)[0])
            print(f"{name}: torch's peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    peak, work = jax.devices()[0].memory_stats()["peak_bytes_in_use"], flops("gpu", options.model)
    print(f"our peak {peak / 1e9:.1f} GB; torch's have the parameters of both of its sides")
    for name, values in times.items():
        middle, ratio = statistics.median(values), statistics.median(values) / statistics.median(times["ours"])
        print(f"{name:14s} {middle * 1e3:8.1f} ms, {work / middle / best:.0%} of the product, {ratio:.2f} x ours")


def main():
    """Run the case."""
    options = PARSER.parse_args()
    wanted = ALLOCATOR | (dict(XLA_PYTHON_CLIENT_PREALLOCATE="false") if options.case == "gpu" else {})
    if not wanted.items() <= os.environ.items():  # read when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
    {"interaction": interaction, "gpu": gpu}.get(options.case, steps)(options)


if __name__ == "__main__":
    main()
