"""`config.init` → arrays that a new run's model begins with instead of its random ones.

init = [dict(name="bert", path=FOLDER, into="bert")]

Each entry names a file of `pretrained/`, what it loads, and where in the model it belongs (`into`; "" = all of it).
What is loaded and what the model has there must be the same names and shapes. `only`, a regex on names below `into`,
narrows both sides: what it does not match in full is neither loaded nor expected. Other keys are options of that file's
`load`.
"""

import inspect
import re
import sys

import flax.traverse_util
import jax
import numpy as np

from vlr_jax.config import refuse_unknown
from vlr_jax.resolve import resolve

KEYS = ("name", "path", "into", "only")
MOST = 20  # names that an error lists of each kind


def sizes(entries: list[dict]) -> dict:
    """`{"<into>_sizes": …}`: what the files to be loaded say of the sizes of the part they are for.

    Only a file of `pretrained/` with a function `dims` says anything. A model that has a field of this name gets it.
    """
    found = {}
    for entry in entries:
        module = inspect.getmodule(resolve("pretrained", entry["name"]))
        if entry.get("into") and hasattr(module, "dims"):
            found[f"{entry['into'].replace('/', '_')}_sizes"] = module.dims(entry["path"])
    return found


def arrays(entries: list[dict], variables) -> dict[str, np.ndarray]:
    """What `entries` give: path in the variables (`params/bert/words/embedding`) → array.

    Args:
        entries: `config.init`.
        variables: the model's, as shapes: `{"params": tree, …}`.

    Raises:
        ValueError: an entry's names or shapes are not the model's; the message lists those of both sides.
        FileNotFoundError: what an entry names is not there.
    """
    has = {path: tuple(leaf.shape) for path, leaf in _flat(variables).items()}
    given = {}
    for entry in entries:
        load = resolve("pretrained", entry["name"])
        options = {key: value for key, value in entry.items() if key not in KEYS}
        refuse_unknown(options, set(inspect.signature(load).parameters) - {"path"}, f"config.init ({entry['name']})")
        into, only = entry.get("into", ""), entry.get("only", ".*")
        loaded = {
            f"{collection}/{into}/{name}".replace("//", "/"): np.asarray(array)
            for collection, tree in load(entry["path"], **options).items()
            for name, array in _flat(tree).items()
            if re.fullmatch(only, name)
        }
        what = f"config.init: {entry['name']} of {entry['path']}"
        _check(what, into, only, {path: array.shape for path, array in loaded.items()}, has)
        if twice := sorted(given.keys() & loaded.keys()):
            raise ValueError(f"{what} gives what an entry before it gave: {_some(twice)}")
        given |= loaded
        if jax.process_index() == 0:
            print(f"{what}: {len(loaded)} arrays into {into or 'the model'}", file=sys.stderr)
    return given


def whole(entries: list[dict], variables):
    """The model's variables with every array from `entries`, numpy in the model's dtypes: nothing is random.

    Args:
        entries: `config.init`.
        variables: the model's, as shapes.

    Raises:
        ValueError: as `arrays`; or arrays of the model that no entry gives, which training would begin with at random.
    """
    given, has = arrays(entries, variables), _flat(variables)
    if random := sorted(has.keys() - given.keys()):
        raise ValueError(
            f"{len(random)} of the model's {len(has)} arrays are not in config.init and would stay random: "
            f"{_some(random)}. Without training a model must be loaded whole: add what gives them to config.init, "
            "change config.model, or train first"
        )
    filled = {path: given[path].astype(leaf.dtype, copy=False) for path, leaf in has.items()}
    return flax.traverse_util.unflatten_dict(filled, sep="/")


def _check(what: str, into: str, only: str, loaded: dict, has: dict) -> None:
    start = f"{into}/" if into else ""
    wanted = {}
    for path, shape in has.items():
        name = path.split("/", 1)[1]
        if name.startswith(start) and re.fullmatch(only, name.removeprefix(start)):
            wanted[path] = shape
    if not wanted:
        tops = sorted({path.split("/")[1] for path in has})
        raise ValueError(f"{what}: the model has nothing in {into!r} that {only!r} matches; it has: {', '.join(tops)}")
    lines = []
    for title, names in (("only in the file", loaded.keys() - wanted), ("only in the model", wanted.keys() - loaded)):
        lines += [f"  {title}: {_some(sorted(names))}"] if names else []
    other = [
        f"{n} (file {loaded[n]}, model {wanted[n]})" for n in sorted(loaded.keys() & wanted) if loaded[n] != wanted[n]
    ]
    lines += [f"  other shapes: {_some(other)}"] if other else []
    if lines:
        raise ValueError(f"{what} does not fit the model:\n" + "\n".join(lines))


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + rest


def _flat(tree) -> dict:
    return flax.traverse_util.flatten_dict(tree, sep="/")
