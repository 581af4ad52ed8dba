"""Where arrays live: the mesh, ordered regex rules for parameters, host batches as global arrays.

All mathematics is written for the global batch. What is here is the only place that knows of devices.
"""

import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh(axes: dict[str, int]) -> Mesh:
    """A mesh over all devices, e.g. `{"data": -1}`; one size may be -1, the rest of the devices.

    Axes are Auto: plain jnp code on sharded arrays, the compiler inserts the communication.

    Raises:
        ValueError: sizes do not multiply to the number of devices, or there is no `data` axis.
    """
    count, sizes = jax.device_count(), dict(axes)
    free = [name for name, size in sizes.items() if size == -1]
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(free) == 1 and count % known == 0:
        sizes[free[0]] = count // known
    if "data" not in sizes or len(free) > 1 or int(np.prod(list(sizes.values()))) != count:
        raise ValueError(
            f"mesh {axes} does not fit {count} device(s): expected a 'data' axis, at most one size of -1, "
            f"and sizes that multiply to {count}; for instance {{'data': -1}}"
        )
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def path_name(path) -> str:
    """A tree path as `visual/fc/kernel`, which the regex rules of sharding and optimisation match."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def match_rules(rules, tree, what: str):
    """The value of the first rule `(regex, value)` that matches each leaf's path in full.

    Raises:
        ValueError: a leaf that no rule matches; the message names it and the rules.
    """

    def first(path, _):
        for pattern, value in rules:
            if re.fullmatch(pattern, path_name(path)):
                return value
        raise ValueError(f"no {what} rule matches {path_name(path)}; rules: {[r[0] for r in rules]} (end with '.*')")

    return jax.tree_util.tree_map_with_path(first, tree, is_leaf=lambda x: x is None)


def param_shardings(rules, params, mesh: Mesh):
    """Parameter tree → tree of NamedSharding, by ordered rules `(regex, spec)`, spec a tuple of axis names or None."""
    specs = match_rules([(pattern, P(*spec)) for pattern, spec in rules], params, "sharding")
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda x: isinstance(x, P))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, P())


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows → global arrays, the leading axis split over `data`."""
    sharding = NamedSharding(mesh, P("data"))
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def rows(wanted: int, mesh: Mesh) -> int:
    """The smallest number of rows, at least `wanted`, that the data axis can share."""
    share = mesh.shape["data"]
    return -(-wanted // share) * share
