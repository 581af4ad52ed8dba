"""The state of training: one pytree, created already sharded."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlr_jax import sharding


@flax.struct.dataclass
class TrainState:
    """Everything an update changes. The rng is not here: it is `fold_in(key(seed), step)`, so resuming is exact.

    Attributes:
        step: int32 scalar, updates done.
        params: the model's parameters, float32.
        collections: other variables (batch statistics); empty for most models.
        opt_state: of the optax transformation.
        averaged: running mean of the parameters, which is what is evaluated and served; {} where config has none.
    """

    step: jax.Array
    params: Any
    collections: Any
    opt_state: Any
    averaged: Any

    def serving(self) -> Any:
        """The parameters to evaluate: the averaged ones where there are any."""
        return self.averaged or self.params


def shardings(task, batch, tx: optax.GradientTransformation, mesh, rules, seed: int, *, average: bool = False):
    """Shapes and shardings of the state without computing it: `(abstract TrainState, TrainState of NamedSharding)`."""

    def init(batch):
        return _create(task, batch, tx, seed, average)

    abstract = jax.eval_shape(init, batch)
    params = sharding.param_shardings(rules, abstract.params, mesh)
    everywhere = sharding.replicated(mesh)
    # With rules, each group's moments have a hole (MaskedNode) at every parameter of another group.
    hole = lambda leaf: isinstance(leaf, optax.MaskedNode)
    opt_state = optax.tree_map_params(
        tx,
        lambda leaf, place: leaf if hole(leaf) else place,
        abstract.opt_state,
        params,
        transform_non_params=lambda _: everywhere,
        is_leaf=hole,
    )
    collections = jax.tree.map(lambda _: everywhere, abstract.collections)
    averaged = params if average else {}
    return abstract, TrainState(everywhere, params, collections, opt_state, averaged)


def create(
    task, batch, tx: optax.GradientTransformation, state_shardings: TrainState, seed: int, given: dict | None = None
) -> TrainState:
    """The initial state, each array born on the devices that hold it.

    `given`: path in the variables (`params/words/embedding`) → array to begin with instead of a random one.
    """
    average = bool(jax.tree.leaves(state_shardings.averaged))
    jitted = jax.jit(lambda b, s, given: _create(task, b, tx, s, average, given), out_shardings=state_shardings)
    return jitted(batch, seed_number(seed), given or {})


def seed_number(seed: int) -> np.int32:
    """A seed as an argument of a compiled function; `jax.random.key` of it is that of the seed itself."""
    return np.int64(seed).astype(np.int32)


def _create(task, batch, tx, seed, average, given=None) -> TrainState:
    variables = dict(task.init(jax.random.key(seed), batch))
    if given:
        begin = lambda path, leaf: given.get(sharding.path_name(path), leaf).astype(leaf.dtype)
        variables = jax.tree_util.tree_map_with_path(begin, variables)
    params = variables.pop("params")
    averaged = jax.tree.map(jnp.copy, params) if average else {}
    return TrainState(jnp.zeros((), jnp.int32), params, variables, tx.init(params), averaged)
