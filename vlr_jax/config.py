"""What a config may say: its keys and defaults, refused misspellings, and the workdir's copy of it."""

import json
import os
import pathlib

from ml_collections import ConfigDict

from vlr_jax import files

REQUIRED = ("data", "text", "model", "losses", "optim", "batch_size", "steps")
DEFAULTS = {
    "task": "retrieval",
    "seed": 0,
    "relevance": {"name": "identity"},
    "regularisers": {},
    "spans": {},             # task "moment": weights of its losses that are not the defaults of tasks/moment.py
    "init": [],              # weights to begin with: [dict(name="bert", path=FOLDER, into="bert")], see initial.py
    "evals": {},
    "best": "",              # "val/rsum": the metric that picks the best checkpoint
    "select_on_test": False, # True: `best` may be of a test split; every result then says so
    "query_chunk": 0,        # queries whose scores are in memory at once; 0 = all
    "encode_chunk": 0,       # rows that are encoded at once; 0 = all
    "mesh": {"data": -1},
    "sharding": [(".*", ())],
    "log_every": 50,         # steps
    "save_every": 0,         # steps; 0 = with the evaluations only, and at the end
    "keep": 2,
    "threads": 2,            # reading batches
}  # fmt: skip
DATA_KEYS = {
    "name", "root", "split", "visual", "frame_size", "frames", "sampling", "texts", "buckets", "options", "source",
}  # fmt: skip
# A run may be continued with other values of these.
CONTINUABLE = ("steps", "log_every", "save_every", "keep", "threads", "query_chunk", "encode_chunk", "mesh", "sharding")
CHUNKS = ("query_chunk", "encode_chunk")


def complete(config) -> dict:
    """Config → plain dict with defaults filled in.

    Raises:
        ValueError: unknown or missing keys; the message lists the valid ones.
    """
    given = json.loads(config.to_json_best_effort()) if isinstance(config, ConfigDict) else dict(config)
    known = [*REQUIRED, *DEFAULTS]
    refuse_unknown(given, known, "config")
    missing = [key for key in REQUIRED if given.get(key) is None]
    if missing:
        raise ValueError(f"config lacks {', '.join(missing)}; required: {', '.join(REQUIRED)}")
    merged = json.loads(json.dumps({**DEFAULTS, **given}))
    refuse_unknown(merged["data"], DATA_KEYS, "config.data")
    for key in ("name", "root", "split"):
        if not merged["data"].get(key):
            raise ValueError(f"config.data lacks {key}; it is {merged['data']}")
    if not merged["optim"].get("lr"):
        raise ValueError("config.optim lacks lr, the learning rate")
    for name, evaluation in merged["evals"].items():
        if "name" not in evaluation:
            raise ValueError(f"config.evals.{name} lacks name, the file in evaluators/")
        refuse_unknown(evaluation.get("data", {}), DATA_KEYS, f"config.evals.{name}.data")
    if not isinstance(merged["init"], list) or not all(isinstance(e, dict) for e in merged["init"]):
        raise ValueError(f"config.init is {merged['init']!r}; expected a list of dict(name=…, path=…, into=…)")
    for entry in merged["init"]:
        if lacking := [key for key in ("name", "path") if not entry.get(key)]:
            raise ValueError(f"config.init has {entry}, which lacks {' and '.join(lacking)}")
    if merged["best"]:
        chosen = merged["evals"].get(merged["best"].split("/")[0])
        if chosen is None:
            raise ValueError(f"config.best={merged['best']!r} names no evaluation; evals: {', '.join(merged['evals'])}")
        if not chosen.get("every"):
            raise ValueError(f"config.best={merged['best']!r} needs that evaluation's `every`, its steps in between")
    if not isinstance(merged["select_on_test"], bool):
        raise ValueError(f"config.select_on_test is {merged['select_on_test']!r}; expected True or False")
    if (split := _selection_split(merged)) and _is_test(split) and not merged["select_on_test"]:
        raise ValueError(
            f"config.best={merged['best']!r} picks the checkpoint on {split!r}, a test split: its numbers would be too "
            "good. Name an evaluation on a dev or val split in config.best, or allow it by config.select_on_test=True, "
            "which the result, its table and its report then say"
        )
    for key in ("batch_size", "steps", "log_every", "keep", "threads"):
        if not isinstance(merged[key], int) or merged[key] < 1:
            raise ValueError(f"config.{key} is {merged[key]!r}; expected a whole number of at least 1")
    for key in CHUNKS:
        size = merged[key]
        if not isinstance(size, int) or isinstance(size, bool) or size < 0 or (size and merged["batch_size"] % size):
            raise ValueError(
                f"config.{key} is {size!r}; expected a whole number that divides batch_size "
                f"{merged['batch_size']}, or 0 for all at once"
            )
    return merged


def selected_on(config: dict) -> str:
    """By what a run's checkpoint was picked, in words: `dev/rsum (split dev)`.

    A test split is said first: `selected on test: test/rsum (split test)`. Without `best`: `last step (nothing
    selected)`.
    """
    split = _selection_split(config)
    if split is None:
        return "last step (nothing selected)"
    return ("selected on test: " if _is_test(split) else "") + f"{config['best']} (split {split})"


def _selection_split(config: dict) -> str | None:
    """The split of the evaluation that `best` names; None where nothing is selected."""
    if not config["best"]:
        return None
    chosen = config["evals"][config["best"].split("/")[0]]
    return (config["data"] | chosen.get("data", {}))["split"]


def _is_test(split: str) -> bool:
    return split.lower().startswith("test")


def refuse_unknown(given, valid, where: str) -> None:
    """Raises ValueError naming the keys of `given` that are not in `valid`, and what is valid."""
    unknown = sorted(set(given) - set(valid))
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)} in {where}; valid keys: {', '.join(sorted(valid))}")


def claim(workdir: str | os.PathLike, config: dict) -> dict:
    """Writes `workdir/config.json` where there is none, or checks that the run found there is the same one.

    Returns:
        the config that was there before; the given one where there was none.

    Raises:
        ValueError: the workdir holds a run of another config; names the keys that differ. Nothing is overwritten.
    """
    folder = pathlib.Path(workdir)
    path, stored = folder / "config.json", config
    if path.exists():
        stored = json.loads(path.read_text())
        there = {**DEFAULTS, **stored}  # a run of before a key had its default's value
        different = [key for key in sorted(there.keys() | config.keys())
                     if key not in CONTINUABLE and there.get(key) != config.get(key)]  # fmt: skip
        if different:
            lines = [f"  {key}: there {there.get(key)!r}, here {config.get(key)!r}" for key in different]
            raise ValueError(
                f"{folder} holds a run of another config; it differs in\n"
                + "\n".join(lines)
                + "\nchoose another --workdir"
            )
    else:
        files.write(path, json.dumps(config, indent=1))
    return stored


def load(workdir: str | os.PathLike) -> dict:
    """The config of the run in `workdir`.

    Raises:
        FileNotFoundError: there is none.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{workdir} holds no run (no config.json); train first, or name the run by --workdir")
    return json.loads(path.read_text())
