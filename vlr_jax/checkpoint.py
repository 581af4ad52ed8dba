"""Checkpoints: one orbax manager for the latest states of a run, one for its best parameters.

    workdir/checkpoints/<step>/{params,collections,opt_state,averaged,meta}    what a resume needs
    workdir/best/<step>/{params,collections,meta}                              what evaluation and search use

Items are separate, so parameters are restored without the optimizer. `meta` holds the step, the tokenizer, the best
metric so far and a digest of the arrays, because orbax itself restores a flipped byte silently.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vlr_jax import sharding
from vlr_jax.state import TrainState

ITEMS = ("params", "collections", "opt_state", "averaged")
# What orbax and tensorstore raise for a truncated, empty or half-deleted step folder.
UNREADABLE = (ValueError, KeyError, FileNotFoundError, OSError)


def digest(tree) -> str:
    """BLAKE2 of every array's path, dtype, shape and bytes."""
    state = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(jax.device_get(leaf))
        state.update(f"{sharding.path_name(path)} {array.dtype} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def _manager(folder: str | os.PathLike, keep: int) -> ocp.CheckpointManager:
    # max_to_keep deletes only after the newer step is complete; a step being written is a *-tmp folder, never read.
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    handlers = {name: ocp.StandardCheckpointHandler() for name in ITEMS} | {"meta": ocp.JsonCheckpointHandler()}
    return ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options, item_handlers=handlers)


def _save(manager, step: int, items: dict[str, Any], meta: dict) -> None:
    args = {name: ocp.args.StandardSave(tree) for name, tree in items.items() if jax.tree.leaves(tree)}
    meta = dict(meta, step=step)
    meta["digest"] = {name: digest(tree) for name, tree in items.items()} | {"meta": _text_digest(meta)}
    with _named(f"the checkpoint {manager.directory}/{step} can't be written"):
        if not manager.save(step, args=ocp.args.Composite(**args, meta=ocp.args.JsonSave(meta)), force=True):
            raise OSError("orbax would not write it")


def _text_digest(meta: dict) -> str:
    content = {key: value for key, value in meta.items() if key != "digest"}
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def _named(what: str):
    """Errors of writing, which reach us from orbax's threads as OSError or ValueError, say which checkpoint it was."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise OSError(f"{what}: {error}") from error


def _target(abstract, shardings):
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract, shardings
    )


class Checkpoints:
    """The checkpoints of one workdir. Use as a context manager; leaving it waits for the last write.

    Args:
        workdir: the run's folder.
        keep: how many of the latest states to keep.
    """

    def __init__(self, workdir, *, keep: int = 2):
        self.latest = _manager(pathlib.Path(workdir) / "checkpoints", keep)
        self.best = _manager(pathlib.Path(workdir) / "best", 1)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for manager in (self.best, self.latest):
            try:
                with _named(f"a checkpoint in {manager.directory} can't be written"):
                    manager.close()
            except OSError:
                if kind is None:  # else the error on its way is the same one, or the more important
                    raise

    def save(self, state: TrainState, meta: dict) -> None:
        """Writes the state in the background; the arrays may be donated right after. An existing step is left alone.

        The best parameters that `meta` speaks of are on disk before, or a kill in between would leave the older ones.

        Raises:
            OSError: this or an earlier checkpoint can't be written.
        """
        with _named(f"a checkpoint in {self.best.directory} can't be written"):
            self.best.wait_until_finished()
        step = int(state.step)
        if step in self.latest.all_steps():
            return
        _save(self.latest, step, {name: getattr(state, name) for name in ITEMS}, meta)

    def save_best(self, state: TrainState, meta: dict) -> None:
        """Replaces the best parameters by these. The older ones go only when the new ones are complete."""
        step = int(state.step)
        if step in self.best.all_steps():
            return
        _save(self.best, step, {"params": state.serving(), "collections": state.collections}, meta)

    def restore(self, abstract: TrainState, shardings: TrainState, warn=print) -> tuple[TrainState, dict] | None:
        """The newest readable state and its meta; None where there is none.

        Broken steps are named, passed over, and renamed to `<step>.unreadable` once an older one has been read.

        Raises:
            OtherModel: the checkpoint is of another model; says which parameters differ.
            OSError: there are checkpoints, and none of them is readable. They are left as they are.
        """
        broken = []
        for step in sorted(self.latest.all_steps(), reverse=True):
            if found := self._load(self.latest, step, ITEMS, abstract, shardings, warn):
                items, meta = found
                # Out of the way, or they would count as the latest steps, and newer ones be deleted in their stead.
                for path in broken:
                    path.rename(path.with_name(f"{path.name}.unreadable"))
                self.latest.reload()
                number = jax.device_put(np.int32(meta["step"]), shardings.step)
                return TrainState(step=number, **items), meta
            broken.append(pathlib.Path(self.latest.directory) / str(step))
        if broken:
            raise OSError(
                f"none of the checkpoints in {self.latest.directory} can be read; move them away to begin anew"
            )
        return None

    def restore_params(self, abstract: TrainState, shardings: TrainState, warn=print) -> tuple[dict, dict]:
        """`({"params": …, **collections}, meta)` of the best step, or of the latest where no best was kept.

        Raises:
            FileNotFoundError: there is no readable checkpoint.
        """
        averaged = "averaged" if jax.tree.leaves(abstract.averaged) else "params"
        for manager, params in ((self.best, "params"), (self.latest, averaged)):
            for step in sorted(manager.all_steps(), reverse=True):
                if found := self._load(manager, step, (params, "collections"), abstract, shardings, warn):
                    items, meta = found
                    return {"params": items[params], **items["collections"]}, meta
        raise FileNotFoundError(f"no readable checkpoint in {self.latest.directory}; train first")

    def variables(self, warn=print) -> dict:
        """`{"params": …, **collections}` as `restore_params` finds them, without the model that they are of.

        Raises:
            FileNotFoundError: there is no readable checkpoint.
        """
        for manager in (self.best, self.latest):
            for step in sorted(manager.all_steps(), reverse=True):
                try:
                    metadata = manager.item_metadata(step)
                    stored = {name: _stored(metadata.get(name)) for name in ("params", "collections", "averaged")}
                except UNREADABLE as error:
                    warn(_skipped(manager, step, error))
                    continue
                params = "averaged" if manager is self.latest and stored["averaged"] else "params"
                abstract = TrainState(None, stored["params"], stored["collections"], {}, stored["averaged"])
                here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
                places = jax.tree.map(lambda _: here, abstract)  # noqa: B023
                # Where the digest knows of averaged parameters, their absence makes the step unreadable.
                names = (params, "collections", *(["averaged"] if manager is self.latest else []))
                if found := self._load(manager, step, dict.fromkeys(names), abstract, places, warn):
                    items, _ = found
                    return {"params": items[params], **items["collections"]}
        raise FileNotFoundError(f"no readable checkpoint in {self.latest.directory}; train first")

    def meta(self, warn=print) -> dict:
        """The meta of the step that `restore_params` would give. Raises as it does."""
        for manager in (self.best, self.latest):
            for step in sorted(manager.all_steps(), reverse=True):
                try:
                    return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
                except UNREADABLE as error:
                    warn(_skipped(manager, step, error))
        raise FileNotFoundError(f"no readable checkpoint in {self.latest.directory}; train first")

    def wait(self) -> None:
        """Until everything saved so far is on disk.

        Raises:
            OSError: something of it can't be written.
        """
        for manager in (self.best, self.latest):
            with _named(f"a checkpoint in {manager.directory} can't be written"):
                manager.wait_until_finished()

    def _load(self, manager, step, names, abstract, shardings, warn):
        targets = {n: _target(getattr(abstract, n), getattr(shardings, n)) for n in names}
        saved = {n: t for n, t in targets.items() if jax.tree.leaves(t)}
        try:
            stored = manager.item_metadata(step)
            _check_same_model(getattr(stored, "params", None), abstract.params, f"{manager.directory}/{step}")
            args = {n: ocp.args.StandardRestore(t) for n, t in saved.items()}
            restored = manager.restore(step, args=ocp.args.Composite(**args, meta=ocp.args.JsonRestore()))
            items = {n: restored[n] if n in saved else targets[n] for n in names}
            meta = restored.meta
            found = {name: digest(tree) for name, tree in items.items()} | {"meta": _text_digest(meta)}
            if different := [name for name in found if found[name] != meta["digest"][name]]:
                raise OSError(f"{' and '.join(different)} do not match the digest saved with them")
        except OtherModel:
            raise
        except UNREADABLE as error:
            warn(_skipped(manager, step, error))
            return None
        return items, meta


def _stored(item) -> dict:
    """The shapes of an item's metadata; {} where it was not saved."""
    tree = getattr(item, "tree", item) or {}
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


class OtherModel(ValueError):
    """The checkpoint's parameters have other names or shapes than the model's."""


def _check_same_model(stored, expected, where: str) -> None:
    if stored is None:
        raise FileNotFoundError("no params in it")
    tree = getattr(stored, "tree", stored)
    found = {sharding.path_name(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    wanted = {sharding.path_name(p): tuple(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(expected)}
    if found and found != wanted:
        lines = [f"  {n}: checkpoint {found.get(n, 'absent')}, model {wanted.get(n, 'absent')}"
                 for n in sorted(found.keys() | wanted.keys()) if found.get(n) != wanted.get(n)]  # fmt: skip
        raise OtherModel(
            f"the checkpoint {where} is of another model; parameters that differ:\n" + "\n".join(lines[:20])
        )


def _skipped(manager, step, error) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return f"checkpoint {manager.directory}/{step} can't be read ({reason}); trying the one before it"
