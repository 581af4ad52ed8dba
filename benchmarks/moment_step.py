"""The training step of QD-DETR beside the same step in PyTorch eager, on the same CPU cores or the same accelerator.

    pip install -e .[benchmark] scipy && python benchmarks/moment_step.py [--repeats 5] [--batch 32]
    python benchmarks/moment_step.py gpu [--dtype bfloat16]

One step of the real size: 32 videos of 75 clips of 2816 + 2 features, sentences of up to 32 words of 512, hidden width
256, 2 + 2 + 2 layers, 10 moments; the layers twice (negative pairs), matching, all losses, gradients, clipping, AdamW;
dropout 0.5 of the inputs and 0.1. Ours is the step that `vlr_jax.train` compiles, from float16 features as the pipeline
delivers them. Theirs is `torch_moment.py`, in the official form and in the leanest of the same numbers (`lean`, with
fused AdamW), from float32 features that have the places of the clips already. All start from the same parameters, and
without dropout have to give the same loss and norm of gradients. Sides alternate; the ratio is the median over rounds
of torch's time / ours: above 1, ours is faster. Also printed: matching alone, and its share of either's step.

Environment and threads: as in train_step.py; set OMP_WAIT_POLICY=PASSIVE where others use the cores too.
`gpu` is for a machine where jax and torch see one: both with TF32 products or, by `--dtype`, bfloat16 (in torch by
autocast); peak memory too. There torch's matching waits for the device, then the device for it. NEVER RUN: there was no
such machine; it may need repair.
"""

import argparse
import os
import statistics
import sys

from train_step import ALLOCATOR, seconds

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("device", nargs="?", default="cpu", choices=("cpu", "gpu"))
PARSER.add_argument("--repeats", type=int, default=5, help="rounds in which every side is timed once")
PARSER.add_argument("--steps", type=int, default=0, help="steps in one timing; 0 = 3, on a GPU 20")
PARSER.add_argument("--batch", type=int, default=32)
PARSER.add_argument("--clips", type=int, default=75)
PARSER.add_argument("--words", type=int, default=32)
PARSER.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of products")
PARSER.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch; XLA takes the cores")

VISUAL, TEXT, MOST, RATE, DECAY, CLIP, SEED = 2816, 512, 5, 1e-4, 1e-4, 0.1, 0
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
# Ours → the official name, of the decoder's linear maps.
DECODER = {
    "self_query": "sa_qcontent_proj", "self_query_position": "sa_qpos_proj", "self_key": "sa_kcontent_proj",
    "self_key_position": "sa_kpos_proj", "self_value": "sa_v_proj", "self_out": "self_attn.out_proj",
    "cross_query": "ca_qcontent_proj", "cross_query_position": "ca_qpos_proj", "cross_key": "ca_kcontent_proj",
    "cross_key_position": "ca_kpos_proj", "cross_value": "ca_v_proj", "cross_query_code": "ca_qpos_sine_proj",
    "cross_out": "cross_attn.out_proj",
}  # fmt: skip


def batch(rng, options):
    """One batch as it leaves the pipeline: all clips are real, words and windows differ in number."""
    import numpy as np

    rows, clips, words = options.batch, options.clips, options.words
    features = lambda *shape: (rng.normal(size=shape) / shape[-1] ** 0.5).astype(np.float16)
    windows = rng.integers(1, MOST + 1, rows)
    width = rng.uniform(0.05, 0.3, (rows, MOST))
    start = rng.uniform(size=(rows, MOST)) * (1 - width)
    mask, place = np.arange(MOST) < windows[:, None], (np.arange(clips) + 0.5) / clips
    inside = (place >= start[..., None]) & (place < (start + width)[..., None]) & mask[..., None]  # [B, G, F]
    saliency = np.where(inside.any(1), rng.integers(1, 13, (rows, clips)), 0).astype(np.float32)
    best = np.argsort(saliency + rng.uniform(size=saliency.shape), axis=1)
    return {
        "visual": features(rows, clips, VISUAL),
        "visual_mask": np.ones((rows, clips), bool),
        "text": features(rows, words, TEXT),
        "text_mask": np.arange(words) < rng.integers(min(6, words), words + 1, (rows, 1)),
        "visual_id": np.arange(rows, dtype=np.int32),
        "text_id": np.arange(rows, dtype=np.int32),
        "source_id": np.arange(rows, dtype=np.int32),
        "duration": np.full(rows, 2.0 * clips, np.float32),
        "valid": np.ones(rows, bool),
        "spans": np.stack([start, start + width], -1).astype(np.float32),
        "spans_mask": mask,
        "saliency": saliency,
        "saliency_pairs": np.stack([best[:, -2:], best[:, :2]], -1).astype(np.int32),
    }


class Ours:
    """The step of `vlr_jax`: `tasks/moment.py` with `models/qd_detr.py`, as `train.py` compiles it."""

    def __init__(self, example, options):
        import jax
        import jax.numpy as jnp

        from vlr_jax import optim, sharding, train
        from vlr_jax import state as states
        from vlr_jax.models.qd_detr import Model
        from vlr_jax.tasks.moment import Task

        self.jax, self.mesh, self.put = jax, sharding.make_mesh({"data": 1}), sharding.put
        jax.set_mesh(self.mesh)
        settings = dict(name="adamw", lr=RATE, decay=DECAY, clip=CLIP)
        config = dict(spans={}, losses={}, relevance=None, regularisers={}, optim=settings, seed=SEED)
        model = Model(visual_dim=VISUAL, text_dim=TEXT, dtype=jnp.dtype(options.dtype))
        task = Task(model, config)
        self.plain = Task(model.clone(dropout=0.0, input_dropout=0.0), config)
        here = self.put(example, self.mesh)
        params = jax.eval_shape(task.init, jax.random.key(0), here)["params"]
        tx, schedule = optim.make(settings, params, steps=1000, steps_per_epoch=100)
        _, places = states.shardings(task, here, tx, self.mesh, [(".*", ())], SEED)
        self.state = states.create(task, here, tx, places, SEED)
        self.start = jax.device_get(self.state.params)  # before the state is donated
        self.update = train.make_update(task, tx, schedule, config, places, jax.tree.map(lambda a: a.sharding, here))

    def step(self, b) -> float:
        """One update; the loss before it, waited for."""
        self.state, metrics = self.update(self.state, self.put(b, self.mesh))
        self.jax.block_until_ready(self.state)
        return float(metrics["loss"])

    def check(self, b) -> tuple[float, float]:
        """Loss and norm of the gradients at the start, without dropout."""
        import optax

        rng = self.jax.random.key(0)
        loss = lambda params, b: self.plain.loss({"params": params}, b, rng=rng, step=0)
        value = lambda params, b: self.jax.value_and_grad(loss, has_aux=True)(params, b)
        (found, _), grads = self.jax.jit(value)(self.start, b)
        return float(found), float(optax.tree.norm(grads))

    def matching(self, b):
        """What is matched in a step, of all layers, as a function that waits for it."""
        from vlr_jax.tasks import moment

        apply = lambda params, b: self.plain.model.apply({"params": params}, b)
        moments = self.jax.jit(apply)(self.start, b)
        matched, here = self.jax.jit(moment.matched), self.put(b, self.mesh)
        return lambda: matched(moments, here).block_until_ready()


class Torch:
    """The same step in PyTorch eager, from the same first parameters."""

    def __init__(self, start, example, options, lean):
        import torch
        import torch_moment

        torch.set_num_threads(options.threads)
        torch.set_float32_matmul_precision("high")  # TF32, as XLA has it on a GPU; on CPUs nothing changes
        self.torch, self.moment = torch, torch_moment
        self.device, self.half = {"gpu": "cuda"}.get(options.device, "cpu"), options.dtype == "bfloat16"
        self.model = torch_moment.QDDETR(VISUAL + 2, TEXT, words=options.words, lean=lean)
        with torch.no_grad():
            fill(self.model, start, torch)
        self.model.to(self.device)
        fused = dict(fused=True) if lean else {}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=DECAY, **fused)
        self.inputs, self.targets = self.loaded(example)

    def loaded(self, b) -> tuple[dict, dict]:
        """The batch as the official loader delivers it, in memory from which a device may copy."""
        import numpy as np

        clips = b["visual"].shape[1]
        place = np.broadcast_to(
            np.stack([np.arange(clips), np.arange(1, clips + 1)], -1) / clips, (*b["visual"].shape[:2], 2)
        )
        centre, width = b["spans"].mean(-1), b["spans"][..., 1] - b["spans"][..., 0]
        spans = [row[mask] for row, mask in zip(np.stack([centre, width], -1), b["spans_mask"], strict=True)]
        tensor = lambda x, kind=np.float32: self.torch.from_numpy(np.ascontiguousarray(x, kind))
        inputs = {
            "src_vid": tensor(np.concatenate([b["visual"], place], -1)),
            "src_vid_mask": tensor(b["visual_mask"]),
            "src_txt": tensor(b["text"]),
            "src_txt_mask": tensor(b["text_mask"]),
        }
        if self.device != "cpu":
            inputs = {name: x.pin_memory() for name, x in inputs.items()}
        better, worse = (tensor(b["saliency_pairs"][..., i], np.int64) for i in (0, 1))
        saliency = {"pos": better, "neg": worse, "all": tensor(b["saliency"])}
        named = {f"saliency_{name}_labels": x for name, x in saliency.items()}
        return inputs, {"spans": [tensor(x) for x in spans]} | named

    def loss(self):
        """The weighted sum of all losses, and what the model gave."""
        move = lambda x: x.to(self.device, non_blocking=True)
        targets = {k: [move(y) for y in x] if isinstance(x, list) else move(x) for k, x in self.targets.items()}
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.half):
            outputs = self.model(**{name: move(x) for name, x in self.inputs.items()})
        return self.moment.total(self.moment.losses(outputs, targets)), outputs | targets

    def step(self) -> float:
        """One update; the loss before it, which waits for the device."""
        loss, _ = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        return float(loss.detach())

    def check(self) -> tuple[float, float]:
        """Loss and norm of the gradients at the start, without dropout."""
        self.model.eval()
        loss, _ = self.loss()
        loss.backward()
        norms = [p.grad.norm() for p in self.model.parameters() if p.grad is not None]
        self.model.train()
        return float(loss.detach()), float(self.torch.stack(norms).norm())

    def matching(self):
        """What is matched in a step, of all layers, as a function; the pairs end on the host."""
        with self.torch.no_grad():
            _, found = self.loss()
        return lambda: [self.moment.match(layer, found["spans"]) for layer in (found, *found["aux_outputs"])]

    def operations(self) -> float:
        """Multiplications and additions of a step's matrix products."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.loss()[0].backward()
        return counter.get_total_flops()


def fill(model, tree, torch):
    """Put our parameters `tree` into theirs."""
    tensor = lambda x: torch.tensor(x)

    def linear(part, ours):
        part.weight.copy_(tensor(ours["kernel"]).T), part.bias.copy_(tensor(ours["bias"]))

    def norm(part, ours):
        part.weight.copy_(tensor(ours["scale"])), part.bias.copy_(tensor(ours["bias"]))

    def mlp(part, ours):
        [linear(layer, ours[f"layer_{i}"]) for i, layer in enumerate(part.layers)]

    def forward(layer, ours):  # and the norms
        linear(layer.linear1, ours["forward"]["widen"]), linear(layer.linear2, ours["forward"]["narrow"])
        layer.activation.weight.fill_(float(ours["forward"]["slope"]))
        [norm(getattr(layer, n.replace("_", "")), part) for n, part in ours.items() if n.startswith("norm_")]

    for side, projection in (("visual", model.input_vid_proj), ("text", model.input_txt_proj)):
        for i, part in enumerate(projection):
            norm(part.LayerNorm, tree[side][f"norm_{i}"]), linear(part.net[1], tree[side][f"dense_{i}"])
    for name, encoder in (("interaction", model.transformer.t2v_encoder), ("encoder", model.transformer.encoder)):
        for i, layer in enumerate(encoder.layers):
            forward(layer, ours := tree[name][f"layer_{i}"])
            parts = [ours["attention"][n] for n in ("query", "key", "value")]
            layer.self_attn.in_proj_weight.copy_(torch.cat([tensor(part["kernel"]).T for part in parts]))
            layer.self_attn.in_proj_bias.copy_(torch.cat([tensor(part["bias"]) for part in parts]))
            linear(layer.self_attn.out_proj, ours["attention"]["out"])
    answer, decoder = tree["answer"], model.transformer.decoder
    for i, layer in enumerate(decoder.layers):
        forward(layer, ours := answer["decoder"][f"layer_{i}"])
        [linear(layer.get_submodule(name), ours[own]) for own, name in DECODER.items() if own in ours]
    mlps = {"place": "ref_point_head", "scale": "query_scale", "modulate": "ref_anchor_head", "move": "bbox_embed"}
    [mlp(getattr(decoder, name), answer["decoder"][own]) for own, name in mlps.items()]
    norm(decoder.norm, answer["decoder"]["norm"])
    model.query_embed.weight.copy_(tensor(answer["decoder"]["anchors"]))
    mlp(model.span_embed, answer["heads"]["span"]), linear(model.class_embed, answer["heads"]["label"])
    linear(model.saliency_proj1, answer["saliency"]["clips"])
    linear(model.saliency_proj2, answer["saliency"]["overview"])
    model.global_rep_token.copy_(tensor(tree["overview"]["token"]))
    model.global_rep_pos.copy_(tensor(tree["overview"]["position"]))


def report(times, steps, work, options):
    """Print medians, rates, shares of matching, and as the last lines the ratios by both clocks."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"load average {load:.2f} on {cores} cores; {options.threads} threads for torch")
    for name in ("XLA_FLAGS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", *ALLOCATOR):
        print(f"{name}={os.environ.get(name, '')}")
    middle = {name: [statistics.median(v[i] for v in values) for i in (0, 1)] for name, values in times.items()}
    for name in steps:
        (wall, cpu), (alone, busy) = middle[name], middle[f"{name}, matching"]
        print(
            f"{name:10s} {wall * 1e3:8.1f} ms, {cpu * 1e3:8.1f} CPU-ms, {work / wall / 1e9:7.1f} GFLOP/s; matching "
            f"{alone * 1e3:6.2f} ms = {alone / wall:.2%} of the step, {busy * 1e3:6.2f} CPU-ms = {busy / cpu:.2%}"
        )
    for name in steps[1:]:
        for i, clock in enumerate(("wall clock", "CPU time")):
            ratios = [t[i] / o[i] for t, o in zip(times[name], times["ours"], strict=True)]
            each = " ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{name} / ours, {clock}: {each}; ratio {statistics.median(ratios):.2f}")


def main():
    """Check that all compute the same, then measure in turns."""
    options = PARSER.parse_args()
    wanted = ALLOCATOR | (dict(XLA_PYTHON_CLIENT_PREALLOCATE="false") if options.device == "gpu" else {})
    if not wanted.items() <= os.environ.items():  # read when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)
    import numpy as np

    example = batch(np.random.default_rng(0), options)
    ours = Ours(example, options)
    theirs = {
        name: Torch(ours.start, example, options, lean) for name, lean in (("torch", False), ("torch lean", True))
    }
    wanted = ours.check(example)
    for name, side in theirs.items():
        for what, a, b in zip(("loss", "norm of gradients"), wanted, side.check(), strict=True):
            print(f"{what}: ours {a:.6f}, {name} {b:.6f}", flush=True)
            if not abs(a - b) <= TOLERANCE[options.dtype] * abs(b):
                raise SystemExit("They do not compute the same: no comparison.")
    functions = {"ours": lambda: ours.step(example), "ours, matching": ours.matching(example)}
    for name, side in theirs.items():
        functions |= {name: side.step, f"{name}, matching": side.matching()}
    work, times = theirs["torch lean"].operations(), {name: [] for name in functions}
    count = options.steps or (20 if options.device == "gpu" else 3)
    [function() for _ in range(2) for function in functions.values()]  # compiles and warms up
    for _ in range(options.repeats):
        for name, function in functions.items():
            times[name].append(seconds(function, count * (10 if "matching" in name else 1)))
    report(times, ["ours", *theirs], work, options)
    if options.device == "gpu":
        peak = ours.jax.devices()[0].memory_stats()["peak_bytes_in_use"]
        found = theirs["torch"].torch.cuda.max_memory_allocated()
        print(f"peak memory: ours {peak / 1e9:.2f} GB, both of torch's sides together {found / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
