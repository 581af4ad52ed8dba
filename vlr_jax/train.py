"""The training loop: mesh, data, state, update, resume, evaluations, loop. One for every task."""

import contextlib
import dataclasses
import json
import pathlib
import signal
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from vlr_jax import config as configs
from vlr_jax import optim, pipeline, report, sharding
from vlr_jax import state as states
from vlr_jax import text as texts
from vlr_jax.checkpoint import Checkpoints
from vlr_jax.log import CollapseGuard, Log, check_finite
from vlr_jax.resolve import resolve


def make_task(config: dict, spec: dict):
    """The task of a config, its model built for data that look like `spec` (`pipeline.spec`)."""
    fields = dict(config["model"])
    Model = resolve("models", fields.pop("name", None) or "two_tower")
    known = {f.name for f in dataclasses.fields(Model)} - {"parent", "name"}
    found = {k: v for k, v in spec.items() if k in known}
    configs.refuse_unknown(fields, known - set(found), f"config.model ({config['model'].get('name')})")
    return resolve("tasks", config["task"])(Model(**found, **fields), config)


def make_evaluators(config: dict, task, tokenizer, mesh) -> dict:
    """Evaluation name → `(Evaluator, every, split)`; `every` 0 = at the end only."""
    evaluators, predict = {}, task.predict()
    for name, options in config["evals"].items():
        options = dict(options)
        split = pipeline.open_split(config["data"] | options.pop("data", {}), tokenizer)
        every, kind = options.pop("every", 0), resolve("evaluators", options.pop("name"))
        evaluators[name] = kind(predict, split=split, mesh=mesh, **options), every, split
    return evaluators


def make_update(task, tx, schedule, seed: int, state_shardings, batch_shardings):
    """The jitted step: `(state, batch) -> (state, metrics)`; the state is donated."""

    def update(state, batch):
        rng = jax.random.fold_in(jax.random.key(seed, impl="rbg"), state.step)

        def loss(params):
            return task.loss({"params": params, **state.collections}, batch, rng=rng, step=state.step)

        (_, (metrics, collections)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "param_norm": optax.tree.norm(params),
            "lr": jnp.asarray(schedule(state.step), jnp.float32),
        }
        return states.TrainState(state.step + 1, params, collections, opt_state), metrics

    return jax.jit(
        update, in_shardings=(state_shardings, batch_shardings), out_shardings=(state_shardings, None), donate_argnums=0
    )


class Stop:
    """Turns SIGTERM and the first Ctrl-C into a request to save and leave after the current step."""

    def __init__(self):
        self.asked = False

    def __call__(self, signum, frame):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def listening(self):
        before = {s: signal.signal(s, self) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)


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
    if config["batch_size"] % mesh.shape["data"]:
        raise ValueError(
            f"batch_size {config['batch_size']} is not a multiple of the {mesh.shape['data']} devices of the data axis"
        )

    # ---------------------------------------------------------------- Data
    tokenizer = pipeline.tokenizer(config)
    split = pipeline.open_split(config["data"], tokenizer)
    steps_per_epoch = split.steps_per_epoch(config["batch_size"])
    spec = pipeline.spec(config["data"], tokenizer)
    task = make_task(config, spec)
    tx_of = lambda params: optim.make(config["optim"], params, steps=config["steps"], steps_per_epoch=steps_per_epoch)
    batches = lambda start: split.train(
        batch_size=config["batch_size"], seed=config["seed"], start=start, threads=config["threads"],
        process=(jax.process_index(), jax.process_count()),
    )  # fmt: skip
    first = next(batches(0))
    pipeline.check(first, task.view)
    row = {k: (list(v.shape[1:]), v.dtype.name) for k, v in first.items()}  # what restoring needs of the data
    configs.claim(workdir, config)
    configs.write_text(workdir / "tokenizer.json", tokenizer.to_json())

    with jax.set_mesh(mesh), Checkpoints(workdir, keep=config["keep"]) as checkpoints:
        # ------------------------------------------------------------ State
        first = sharding.put(first, mesh)
        abstract_params = jax.eval_shape(lambda b: task.init(jax.random.key(0), b)["params"], first)
        tx, schedule = tx_of(abstract_params)
        abstract, places = states.shardings(task, first, tx, mesh, config["sharding"], config["seed"])

        # ------------------------------------------------------------ Update
        update = make_update(task, tx, schedule, config["seed"], places, jax.tree.map(lambda a: a.sharding, first))

        # ------------------------------------------------------------ Resume
        restored = checkpoints.restore(abstract, places)
        if restored:
            state, meta = restored
            start, best = meta["step"], meta["best"]
        else:
            state, start, best = states.create(task, first, tx, places, config["seed"]), 0, None
        del first

        # ------------------------------------------------------------ Evaluations
        evaluators = make_evaluators(config, task, tokenizer, mesh)
        plateaus = task.terms.plateaus(config["batch_size"])
        guard = CollapseGuard(plateaus) if plateaus else None
        log = Log(workdir, total_steps=config["steps"], first_step=start, every=config["log_every"],
                  active=jax.process_index() == 0)  # fmt: skip
        if start:
            log.message(f"continuing at step {start} of {config['steps']}")
        else:
            log.message(_summary(state.params, split, tokenizer))

        def evaluate(step):
            """The due evaluations; keeps the parameters if they are the best so far."""
            nonlocal best
            due = [name for name, (_, every, _) in evaluators.items() if every and not step % every]
            variables = {"params": state.params, **state.collections}
            for name in due:
                try:
                    with log.pause():
                        values = {f"{name}/{metric}": value for metric, value in evaluators[name][0].run(variables)}
                except Exception as error:
                    error.add_note(f"in evaluation {name!r} at step {step}")
                    raise
                log.write(step, values)
                value = values.get(config["best"])
                if config["best"].split("/")[0] == name and value is None:
                    raise ValueError(f"config.best={config['best']!r} is not among the metrics: {', '.join(values)}")
                if value is not None and (best is None or value > best):
                    best = value
                    checkpoints.save_best(state, meta_of(step))
            return bool(due)

        def meta_of(step):
            return {"step": step, "best": best, "tokenizer": json.loads(tokenizer.to_json()), "spec": spec, "row": row}

        def look(pending):
            """Every step since the last look, on the host: stops at the first that is not finite."""
            for number, values in (pending := jax.device_get(pending)):
                check_finite(number, number, values)
            return pending[-1][1]

        # ------------------------------------------------------------ Loop
        pending, data, saved = [], batches(start), start
        with Stop().listening() as stop, contextlib.closing(log):
            step = start
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
            return finish(workdir, config, checkpoints, evaluators, abstract, places, state, log)


def finish(workdir, config, checkpoints, evaluators, abstract, places, state, log) -> dict:
    """All evaluations on the best parameters (the last ones where no best was kept) → result.json and report.html."""
    path = workdir / "result.json"
    variables, step = {"params": state.params, **state.collections}, int(state.step)
    if config["best"]:
        variables, meta = checkpoints.restore_params(abstract, places)
        step = meta["step"]
    result = {"step": step, "steps": config["steps"], "evals": {}}
    for name, (evaluator, _, split) in evaluators.items():
        log.message(
            f"final evaluation {name!r}: split {split.name} of {config['data']['root']}, checkpoint of step {step}"
        )
        result["evals"][name] = evaluator.result(variables)
    configs.write_text(path, json.dumps(result, indent=1))
    page = report.write(workdir, thumbs=lambda name, i: evaluators[name][2].thumbs(i))
    log.message(f"report: {page}")
    return result


class Run(NamedTuple):
    """A finished or unfinished run, opened to be used: its best parameters, and what they need."""

    config: dict
    tokenizer: object
    task: object
    variables: dict
    step: int
    digest: str


def restore_run(workdir: str, mesh) -> Run:
    """The run in `workdir`, with its best parameters on the mesh.

    Raises:
        FileNotFoundError: no run there, or one without a checkpoint.
    """
    workdir = pathlib.Path(workdir).absolute()
    config = configs.load(workdir)
    with Checkpoints(workdir) as checkpoints:
        meta = checkpoints.meta()
        if meta is None:
            raise FileNotFoundError(f"{workdir} holds no checkpoint yet; train first")
        tokenizer = texts.from_json(json.dumps(meta["tokenizer"]))
        task = make_task(config, meta["spec"])
        rows = sharding.rows(1, mesh)
        batch = {k: jax.ShapeDtypeStruct((rows, *shape), dtype) for k, (shape, dtype) in meta["row"].items()}
        abstract, places = states.shardings(task, batch, optax.identity(), mesh, config["sharding"], config["seed"])
        variables, meta = checkpoints.restore_params(abstract, places)
    return Run(config, tokenizer, task, variables, meta["step"], meta["digest"])


def _summary(params, split, tokenizer) -> str:
    count = sum(p.size for p in jax.tree.leaves(params))
    return (
        f"{count:,} parameters on {jax.device_count()} {jax.devices()[0].platform} device(s); {split.n_visuals:,} "
        f"visuals and {split.n_texts:,} texts to train on; vocabulary {tokenizer.size:,}; "
        f"{split.truncated:,} texts cut at {split.tokens.shape[1]} tokens"
    )
