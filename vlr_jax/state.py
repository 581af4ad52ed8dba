"""The state of training: one pytree, created already sharded."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
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
    opt_state = optax.tree_map_params(
        tx, lambda _, s: s, abstract.opt_state, params, transform_non_params=lambda _: everywhere
    )
    collections = jax.tree.map(lambda _: everywhere, abstract.collections)
    averaged = params if average else {}
    return abstract, TrainState(everywhere, params, collections, opt_state, averaged)


def create(task, batch, tx: optax.GradientTransformation, state_shardings: TrainState, seed: int) -> TrainState:
    """The initial state, each array born on the devices that hold it."""
    average = bool(jax.tree.leaves(state_shardings.averaged))
    return jax.jit(lambda b: _create(task, b, tx, seed, average), out_shardings=state_shardings)(batch)


def _create(task, batch, tx, seed, average) -> TrainState:
    variables = dict(task.init(jax.random.key(seed), batch))
    params = variables.pop("params")
    averaged = jax.tree.map(jnp.copy, params) if average else {}
    return TrainState(jnp.zeros((), jnp.int32), params, variables, tx.init(params), averaged)
