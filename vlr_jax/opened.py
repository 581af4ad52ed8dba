"""A model opened to be used: the best parameters of a run, or a model as its weights are loaded, and what it needs."""

import hashlib
import json
import pathlib
from typing import NamedTuple

import jax
import optax

from vlr_jax import config as configs
from vlr_jax import initial, pipeline, sharding, train
from vlr_jax import state as states
from vlr_jax import text as texts
from vlr_jax.checkpoint import Checkpoints, digest


class Run(NamedTuple):
    """A model that serves.

    Attributes:
        config, tokenizer, task: what it was made of.
        variables: its parameters and collections, on the mesh.
        step: of the checkpoint; 0 where nothing was trained.
        digest: tells this model from others; kept in an index and in features made by it.
        selected_on: by what its parameters were picked, in words.
        seen: `spec` and `row` (`pipeline.spec`, `pipeline.row`) of the data that it was built for.
    """

    config: dict
    tokenizer: object
    task: object
    variables: dict
    step: int
    digest: str
    selected_on: str
    seen: dict


def exists(workdir) -> bool:
    """Whether a folder holds a run, however far it came."""
    return (pathlib.Path(workdir) / "config.json").exists()


def restore(workdir: str, mesh) -> Run:
    """The run in `workdir`, finished or not, with its best parameters on the mesh.

    Raises:
        FileNotFoundError: no run there, or one without a checkpoint.
    """
    workdir = pathlib.Path(workdir).absolute()
    config = {**configs.DEFAULTS, **configs.load(workdir)}  # a run of before a key had its default's value
    everywhere = [(".*", ())]  # whatever the run's own mesh was: one that serves is a mesh of data alone
    with Checkpoints(workdir) as checkpoints:
        meta = checkpoints.meta()
        tokenizer = texts.from_json(json.dumps(meta["tokenizer"]))
        task = train.make_task(config, meta["spec"])
        abstract, places = states.shardings(
            task, _batch(meta["row"], mesh), optax.identity(), mesh, everywhere, config["seed"],
            average="average" in config["optim"],
        )  # fmt: skip
        variables, meta = checkpoints.restore_params(abstract, places)
    seen = {"spec": meta["spec"], "row": meta["row"]}
    return Run(
        config, tokenizer, task, variables, meta["step"], meta["digest"]["params"], configs.selected_on(config), seen
    )


def untrained(config: dict, mesh, *, data: dict | None = None, seen: dict | None = None) -> Run:
    """The model of a config with all its parameters from `config.init`, as in zero-shot evaluation.

    Args:
        config: completed.
        mesh: of data alone.
        data: as config.data, the visuals that the model will meet; None: config.data.
        seen: `Run.seen` of the same model, instead of `data`, where those are not at hand.

    Raises:
        ValueError: parameters that `config.init` does not give: they are named. Or as in training.
        FileNotFoundError: what `config.init` names is not there.
    """
    tokenizer = pipeline.tokenizer(config)
    if seen is None:
        data = data or config["data"]
        spec = pipeline.spec(data, tokenizer) | initial.sizes(config["init"])
        seen = {"spec": spec, "row": pipeline.row(data, tokenizer)}
    task = train.make_task(config, seen["spec"])
    has = jax.eval_shape(lambda batch: task.init(jax.random.key(0), batch), _batch(seen["row"], mesh))
    variables = initial.whole(config["init"], has)
    made_of = [digest(variables), config["model"], tokenizer.to_json()]  # a model is more than its parameters
    name = hashlib.blake2b(json.dumps(made_of, sort_keys=True).encode(), digest_size=16).hexdigest()
    variables = jax.device_put(variables, sharding.replicated(mesh))
    return Run(config, tokenizer, task, variables, 0, name, "nothing trained (weights as loaded)", seen)


def _batch(row: dict, mesh) -> dict:
    """A batch of the least size, as shapes."""
    rows = sharding.rows(1, mesh)
    return {key: jax.ShapeDtypeStruct((rows, *shape), dtype) for key, (shape, dtype) in row.items()}
