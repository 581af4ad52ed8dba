"""The training loop: mesh, data, state, update, resume, evaluations, loop. One for every task."""

import contextlib
import dataclasses
import inspect
import json
import operator
import pathlib
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vlr_jax import batching, files, initial, optim, pipeline, report, sharding
from vlr_jax import config as configs
from vlr_jax import state as states
from vlr_jax.checkpoint import Checkpoints
from vlr_jax.log import CollapseGuard, Log, check_finite
from vlr_jax.resolve import resolve
from vlr_jax.stop import Stop


def make_task(config: dict, spec: dict):
    """The task of a config, its model built for data that look like `spec` (`pipeline.spec`)."""
    fields = dict(config["model"])
    Model = resolve("models", fields.pop("name", None) or "two_tower")
    known = {f.name for f in dataclasses.fields(Model)} - {"parent", "name"}
    found = {k: v for k, v in spec.items() if k in known}
    configs.refuse_unknown(fields, known - set(found), f"config.model ({config['model'].get('name')})")
    return resolve("tasks", config["task"])(Model(**found, **fields), config)


LOWER_IS_BETTER = ("medR", "meanR")


def make_evaluators(config: dict, task, tokenizer, mesh, *, progress: bool = False) -> dict:
    """Evaluation name → `(Evaluator, every, split)`; `every` 0 = at the end only.

    Raises:
        ValueError: an option that the evaluator does not have, a split without texts, or `config.best` is not among its
            metrics.
    """
    evaluators, predict = {}, task.predict()
    for name, options in config["evals"].items():
        options = dict(options)
        split = pipeline.open_split(config["data"] | options.pop("data", {}), tokenizer, keys=())
        split.size("texts")  # refuses a split without any
        every, kind = options.pop("every", 0), resolve("evaluators", options.pop("name"))
        parameters = set(inspect.signature(kind).parameters) - {"predict", "split", "mesh", "progress"}
        configs.refuse_unknown(options, parameters, f"config.evals.{name}")
        evaluators[name] = kind(predict, split=split, mesh=mesh, progress=progress, **options), every, split
    if config["best"]:
        name, _, metric = config["best"].partition("/")
        if metric not in (names := evaluators[name][0].names()):
            raise ValueError(
                f"config.best={config['best']!r} is no metric of that evaluation; it has: {', '.join(names)}"
            )
    return evaluators


@dataclasses.dataclass(frozen=True)
class Update:
    """The jitted step: `(state, batch) -> (state, metrics)`; the state is donated."""

    jitted: Callable
    seed: jax.Array

    def __call__(self, state, batch):
        return self.jitted(state, batch, self.seed)

    def compile(self, state, batch) -> None:
        """Compiles the step for a batch of these shapes, so that calling it with one does not.

        All shapes need the sharding that the arrays will have: it is part of what a traced step is looked up by.
        """
        self.jitted.lower(state, batch, self.seed).compile()


def make_update(task, tx, schedule, config: dict, state_shardings, batch_shardings) -> Update:
    """The step of a task.

    Of the task it uses `loss`, and `probe(variables, batch)`: name → zeros that the loss adds to what is encoded under
    that name, or {} where a task has nothing to show. The gradient with respect to a probe is the one that reaches the
    encodings; its norm is logged as `embedding_grad/<name>`.

    The seed enters the compiled program as an argument: runs that differ in nothing else share it (jax's persistent
    compilation cache).
    """

    def update(state, batch, seed):
        rng = jax.random.fold_in(jax.random.key(seed, impl="rbg"), state.step)

        def loss(params, probe):
            variables = {"params": params, **state.collections}
            return task.loss(variables, batch, rng=rng, step=state.step, probe=probe)

        probe = task.probe({"params": state.params, **state.collections}, batch)
        differentiate = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, (metrics, collections)), (grads, reaching) = differentiate(state.params, probe)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged = optim.average(config["optim"], state.averaged, params, state.step) if state.averaged else {}
        metrics |= {f"embedding_grad/{name}": optax.tree.norm(grad) for name, grad in reaching.items()}
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
            "lr": jnp.asarray(schedule(state.step), jnp.float32),
        }
        return states.TrainState(state.step + 1, params, collections, opt_state, averaged), metrics

    everywhere = state_shardings.step
    seed = jax.device_put(states.seed_number(config["seed"]), everywhere)
    jitted = jax.jit(
        update,
        in_shardings=(state_shardings, batch_shardings, everywhere),
        out_shardings=(state_shardings, None),
        donate_argnums=0,
    )
    return Update(jitted, seed)


def padded_forms(batch: dict, lengths) -> list[dict]:
    """The shapes of all batches of a training, from one of them and the padded length of every row: of clips, the keys
    `[B, F, …]` that `visual_mask` and `saliency` share. One form where nothing is padded to several lengths.
    """
    own, forms = batch["visual_mask"].shape[1], []
    for length in sorted({int(n) or own for n in lengths}):
        form = {}
        for key, value in batch.items():
            by_clip = key in ("visual", "visual_mask", "saliency")
            shape = (value.shape[0], length, *value.shape[2:]) if by_clip else value.shape
            form[key] = jax.ShapeDtypeStruct(shape, value.dtype, sharding=value.sharding)
        forms.append(form)
    return forms


def train(config: dict, workdir: str) -> dict | None:
    """Runs, or continues, the run of `config` in `workdir`.

    Args:
        config: a completed config (`config.complete`).
        workdir: gets config.json, tokenizer.json, metrics.jsonl, checkpoints/, best/, result.json, report.html.

    Returns:
        The content of result.json; None if SIGTERM stopped the run before its end (the same call continues it).

    Raises:
        ValueError: something in config that does not fit, before anything is compiled.
        FloatingPointError: loss or gradients are no longer finite.
    """
    workdir = pathlib.Path(workdir).absolute()

    # ---------------------------------------------------------------- Mesh
    mesh = sharding.make_mesh(config["mesh"])
    for key in ("batch_size", *configs.CHUNKS):
        if config[key] % mesh.shape["data"]:
            raise ValueError(
                f"{key} {config[key]} is not a multiple of the {mesh.shape['data']} devices of the data axis"
            )

    # ---------------------------------------------------------------- Data
    tokenizer = pipeline.tokenizer(config)
    spec = pipeline.spec(config["data"], tokenizer) | initial.sizes(config["init"])
    task = make_task(config, spec)
    split = pipeline.open_split(config["data"], tokenizer, task.reads)
    steps_per_epoch = split.steps_per_epoch(config["batch_size"], task.view)
    batches = lambda start: split.train(
        batch_size=config["batch_size"], seed=config["seed"], start=start, threads=config["threads"],
        process=(jax.process_index(), jax.process_count()), view=task.view,
    )  # fmt: skip
    first = next(batches(0))
    batching.check(first, task.view)
    row = {k: (list(v.shape[1:]), v.dtype.name) for k, v in first.items()}  # what restoring needs of the data
    evaluators = make_evaluators(config, task, tokenizer, mesh)
    variables = jax.eval_shape(lambda b: task.init(jax.random.key(0), b), first)
    tx, schedule = optim.make(
        config["optim"], variables["params"], steps=config["steps"], steps_per_epoch=steps_per_epoch
    )
    given = None if (workdir / "config.json").exists() else initial.arrays(config["init"], variables)
    before = configs.claim(workdir, config)

    with jax.set_mesh(mesh), Checkpoints(workdir, keep=config["keep"]) as checkpoints:
        # ------------------------------------------------------------ State
        first = sharding.put(first, mesh)
        abstract, places = states.shardings(
            task, first, tx, mesh, config["sharding"], config["seed"], average="average" in config["optim"]
        )

        # ------------------------------------------------------------ Update
        update = make_update(task, tx, schedule, config, places, jax.tree.map(lambda a: a.sharding, first))
        placed = jax.tree.map(lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), abstract, places)
        for shapes in padded_forms(first, split.padded(task.view)):
            update.compile(placed, shapes)

        # ------------------------------------------------------------ Resume
        restored = checkpoints.restore(abstract, places)
        identity = {"data": split.prepared["fingerprint"], "tokenizer": json.loads(tokenizer.to_json())}
        if restored:
            state, meta = restored
            start, best = meta["step"], meta["best"]
            if changed := [key for key, value in identity.items() if meta[key] != value]:
                raise ValueError(f"{workdir} was trained on another {' and '.join(changed)}; choose another --workdir")
            if start > config["steps"]:
                raise ValueError(f"{workdir} is at step {start} already, beyond config.steps={config['steps']}")
        else:
            given = initial.arrays(config["init"], variables) if given is None else given
            state, start, best = states.create(task, first, tx, places, config["seed"], given), 0, None
        files.write(workdir / "config.json", json.dumps(config, indent=1))
        files.write(workdir / "tokenizer.json", tokenizer.to_json())
        del first, given

        # ------------------------------------------------------------ Evaluations
        better = operator.lt if config["best"].endswith(LOWER_IS_BETTER) else operator.gt
        plateaus = task.plateaus(config["batch_size"])
        guard = CollapseGuard(plateaus) if plateaus else None
        log = Log(workdir, total_steps=config["steps"], first_step=start, every=config["log_every"],
                  active=jax.process_index() == 0)  # fmt: skip
        if start:
            log.message(f"continuing at step {start} of {config['steps']}")
            if before["steps"] != config["steps"] and config["optim"].get("schedule", {}).get("name") == "cosine":
                log.message(f"the cosine schedule ended at step {before['steps']} before, now at {config['steps']}")
        else:
            log.message(_summary(state.params, split, tokenizer, row["text"][0][0]))

        def evaluate(step):
            """The due evaluations; keeps the parameters if they are the best so far."""
            nonlocal best
            due = [name for name, (_, every, _) in evaluators.items() if every and not step % every]
            variables = {"params": state.serving(), **state.collections}
            for name in due:
                try:
                    values = {f"{name}/{metric}": value for metric, value in evaluators[name][0].run(variables)}
                except Exception as error:
                    error.add_note(f"in evaluation {name!r} at step {step}")
                    raise
                log.write(step, values)
                value = values.get(config["best"])
                if value is not None and (best is None or better(value, best)):
                    best = value
                    checkpoints.save_best(state, meta_of(step))

        def meta_of(step):
            return identity | {"step": step, "best": best, "spec": spec, "row": row}

        def look(pending):
            """Every step since the last look, on the host: stops at the first that is not finite."""
            for number, values in (pending := jax.device_get(pending)):
                check_finite(number, number, values)
            return pending[-1][1]

        # ------------------------------------------------------------ Loop
        pending, data, saved = [], batches(start), start
        step = start
        with Stop().listening() as stop, contextlib.closing(log):
            with jax.transfer_guard_device_to_host("disallow"), jax.transfer_guard_host_to_device("disallow"):
                while step < config["steps"] and not stop.asked:
                    state, metrics = update(state, sharding.put(next(data), mesh))
                    step += 1
                    pending.append((step, metrics))
                    log.advance(step)
                    saving = config["save_every"] and not step % config["save_every"]
                    evaluating = any(every and not step % every for _, every, _ in evaluators.values())
                    if log.due(step) or saving or evaluating or stop.asked:
                        values = look(pending)
                        pending.clear()
                        if log.due(step):
                            log.write(step, {f"train/{k}": float(v) for k, v in values.items()})
                            warning = guard and guard.update(step, {k: float(v) for k, v in values.items()})
                            if warning:
                                log.message(warning)
                    if evaluating or saving:
                        with jax.transfer_guard("allow"), log.pause():
                            evaluate(step)
                            checkpoints.save(state, meta_of(step))
                            saved = step
            if pending:
                look(pending)
            if saved < step:
                checkpoints.save(state, meta_of(step))
            checkpoints.wait()
            if step < config["steps"]:
                log.message(f"stopped at step {step} of {config['steps']}, saved; the same command continues")
                return None
        return finish(workdir, config, checkpoints, evaluators, abstract, places, state)


def finish(workdir, config, checkpoints, evaluators, abstract, places, state) -> dict:
    """All evaluations on the best parameters (the last ones where no best was kept) → result.json and report.html."""
    path = workdir / "result.json"
    variables, step = {"params": state.serving(), **state.collections}, int(state.step)
    if config["best"]:
        variables, meta = checkpoints.restore_params(abstract, places)
        step = meta["step"]
    result = {"step": step, "steps": config["steps"], "selected_on": configs.selected_on(config), "evals": {}}
    for name, (evaluator, _, split) in evaluators.items():
        print(f"final evaluation {name!r}: split {split.name}, checkpoint of step {step}", file=sys.stderr)
        evaluator.progress = True
        result["evals"][name] = evaluator.result(variables)
    files.write(path, json.dumps(result, indent=1))
    seen = dict(
        thumbs=lambda name, i: evaluators[name][2].thumbs(i), frames=lambda name, i: evaluators[name][2].frames(i)
    )
    report.write(workdir, **seen)
    return result


def _summary(params, split, tokenizer, length: int) -> str:
    count = sum(p.size for p in jax.tree.leaves(params))
    return (
        f"{count:,} parameters on {jax.device_count()} {jax.devices()[0].platform} device(s); {split.n_visuals:,} "
        f"visuals and {split.n_texts:,} texts to train on; vocabulary {tokenizer.size:,}; "
        f"{split.truncated:,} texts cut at {length} tokens"
    )
