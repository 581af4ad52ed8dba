"""The best parameters of one of our own runs, to begin another one with."""

import pathlib

from vlr_jax.checkpoint import Checkpoints


def load(path) -> dict:
    """The variables that the run in `path` is served with, `{"params": tree, …}`: of its best step, or else its latest.

    Raises:
        FileNotFoundError: there is no run, or it has no readable checkpoint.
    """
    if not (pathlib.Path(path) / "config.json").is_file():
        raise FileNotFoundError(f"{path} holds no run (no config.json)")
    with Checkpoints(path) as checkpoints:
        return checkpoints.variables()
