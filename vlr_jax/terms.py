"""`config.losses` → one number: the only place that knows directions, validity, reduction and weights of losses.

A loss ranks one axis of one score matrix and returns one number per query. Here it is applied along both axes of the
batch's `[V, T]` block, padding rows are taken out, and the results are reduced, weighted and added.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from vlr_jax import ranking, relevance
from vlr_jax.resolve import resolve

# Direction → the axis of its candidates.
AXES = {"v2t": 1, "t2v": 0}
# What a loss takes besides its knobs.
CONTRACT = ("scores", "relevance", "where", "axis")
# Batch keys of each side that relevance functions read, under the name that they read.
VISUAL_KEYS = ("visual_id", "visual_facts")
TEXT_KEYS = ("visual_id", "text_id", "text_facts")


@dataclasses.dataclass(frozen=True)
class Term:
    """One entry of `config.losses`, checked when it is made.

    Attributes:
        key: its name in the log.
        loss: the function of `losses/`.
        knobs: keyword arguments passed to the loss.
        weight: a number, or `(at, before, after)`: a switch at that step.
        takes: keyword argument of the loss → name of the score matrix that fills it.
        directions: "v2t", "t2v" or both.
        reduce: "mean" over the queries and over the directions, or "sum" over both (the VSE++ lineage).
    """

    key: str
    loss: Callable[..., Array]
    knobs: Mapping[str, Any]
    weight: float | tuple[float, float, float]
    takes: Mapping[str, str]
    directions: tuple[str, ...]
    reduce: str

    @classmethod
    def from_config(cls, key: str, config: Mapping) -> "Term":
        """Read the reserved keys; everything else is a knob of the loss.

        Raises:
            ValueError: unknown loss, knob, direction or reduction, or a weight of another form.
        """
        config = dict(config)
        loss = resolve("losses", config.pop("name", key))
        weight = _weight(key, config.pop("weight", 1.0))
        takes = dict(config.pop("takes", {}))
        directions = config.pop("directions", tuple(AXES))
        directions = (directions,) if isinstance(directions, str) else tuple(directions)
        reduce = config.pop("reduce", "mean")
        if not directions or len(set(directions)) < len(directions) or not set(directions) <= set(AXES):
            raise ValueError(f"losses.{key}.directions is {directions}; choose from {', '.join(AXES)}, each once.")
        if reduce not in ("mean", "sum"):
            raise ValueError(f"losses.{key}.reduce is {reduce!r}; choose mean or sum.")
        valid = [name for name in inspect.signature(loss).parameters if name not in CONTRACT]
        for name in (*config, *takes):
            if name not in valid:
                reserved = "name, weight, takes, directions, reduce"
                raise ValueError(
                    f"losses.{key} has no knob {name!r}; the loss has: {', '.join(valid)}; every term has: {reserved}"
                )
        for name, value in config.items():
            if isinstance(value, str) and (name, value) != ("temperature", "model"):
                raise ValueError(f"losses.{key}.{name} is {value!r}; it must be a number.")
        return cls(key, loss, config, weight, takes, directions, reduce)

    def weight_at(self, step: Array | int) -> Array | float:
        """The weight at `step`."""
        if not isinstance(self.weight, tuple):
            return self.weight
        at, before, after = self.weight
        return jnp.where(step < at, before, after)

    def __call__(self, scores: Mapping[str, Array], grades: Array, where: Array, axis: int, temperature) -> Array:
        """The loss of every query, `[Q]`; 0 for padding queries, whose `where` is False all along."""
        for name in self.takes.values():
            if name not in scores:
                raise ValueError(
                    f"losses.{self.key} takes {name!r}; the model's scores are: {', '.join(sorted(scores))}"
                )
        arguments = {**self.knobs, **{argument: scores[name] for argument, name in self.takes.items()}}
        if arguments.get("temperature") == "model":
            if temperature is None:
                raise ValueError(f"losses.{self.key} wants temperature='model', but the model has none to learn.")
            arguments["temperature"] = temperature
        return self.loss(scores["sim"], grades, where=where, axis=axis, **arguments)


class Terms:
    """The ranking terms of a task: `Terms(config.losses, config.relevance)`.

    Args:
        losses: name in the log → term; see `Term`.
        relevance: `{"name": a function of relevance.py}`.

    Raises:
        ValueError: no term, or anything in them that does not exist; before any compilation.
    """

    def __init__(self, losses: Mapping[str, Mapping], relevance: Mapping | None = None):
        if not losses:
            raise ValueError("config.losses is empty: name at least one term, for example dict(triplet_hard={}).")
        self.terms = [Term.from_config(key, term) for key, term in dict(losses).items()]
        self.relevance = _relevance({"name": "identity"} if relevance is None else relevance)

    def __call__(
        self,
        similarity: Callable[[Any, Any], Mapping[str, Array]],
        visual: Any,
        text: Any,
        batch: Mapping[str, Array],
        *,
        step: Array | int,
        temperature: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """The weighted sum of all terms, and what to log.

        Needs a mesh with an axis "data" in context (`jax.set_mesh`): the scores are laid out by rows over it, once.

        Args:
            similarity: (visual, text) → named `[V, T]` score matrices, "sim" among them.
            visual: encodings of the batch's visuals, passed to `similarity`.
            text: encodings of its texts.
            batch: the batch's arrays; `visual_id` and `valid` are read, and what the relevance needs.
            step: of the training, for weights that switch.
            temperature: the model's learned one, for terms with `temperature="model"`.

        Returns:
            The loss, and scalars: `loss/<term>/<direction>` (unweighted) and the monitors `batch/...`.
        """
        scores = jax.tree.map(lambda s: jax.lax.with_sharding_constraint(s, P("data", None)), similarity(visual, text))
        rows = {"row": jnp.arange(len(batch["valid"])), "valid": batch["valid"]}
        visual_rows = rows | {key: batch[key] for key in VISUAL_KEYS if key in batch}
        text_rows = rows | {key: batch[key] for key in TEXT_KEYS if key in batch}
        grades, where = self.relevance(visual_rows, text_rows)
        where &= visual_rows["valid"][:, None] & text_rows["valid"][None, :]
        valid = {"v2t": visual_rows["valid"], "t2v": text_rows["valid"]}
        total, metrics = 0.0, {}
        for term in self.terms:
            values = []
            for direction in term.directions:
                queries = term(scores, grades, where, AXES[direction], temperature)  # [Q]
                values.append(_reduce(queries, valid[direction], term.reduce))
                metrics[f"loss/{term.key}/{direction}"] = values[-1]
            value = sum(values) / (len(values) if term.reduce == "mean" else 1)
            total += term.weight_at(step) * value
        return total, metrics | monitors(scores["sim"], grades, where)

    def plateaus(self, queries: int) -> dict[str, float]:
        """Term → its value when all scores are equal, for terms whose hardest negative can trap training there.

        `queries` is the batch size: a summed term stands at B × margin a direction, as vsepp issue 27 has it.
        """
        found = {}
        for term in self.terms:
            if term.loss.__name__ == "triplet_hard":
                margin = term.knobs.get("margin", inspect.signature(term.loss).parameters["margin"].default)
                found[term.key] = margin * (queries if term.reduce == "sum" else 1)
        return found


def monitors(scores: Array, grades: Array, where: Array) -> dict[str, Array]:
    """What a block of scores looks like, without gradient.

    `batch/v2t_R@1`, `batch/t2v_R@1`: percent of the queries (those that have a positive) whose best positive
    ranks first in the block. `batch/positive`, `batch/negative`: mean score of the best positive and of the hardest
    negative, over the queries of both directions. `batch/spread`: standard deviation of all valid scores. A loss at
    its margin with a spread near zero is the collapse of hard-negative mining.
    """
    scores = jax.lax.stop_gradient(scores)
    metrics, best, hardest = {}, [], []
    positive, negative = ranking.positives(grades, where), ranking.negatives(grades, where)
    for direction, axis in AXES.items():
        has = ranking.has_positive(grades, where, axis)
        first = ranking.ranks(scores, grades, where=where, axis=axis) == 1
        metrics[f"batch/{direction}_R@1"] = 100 * ranking.masked_mean(first.astype(scores.dtype), has, 0)
        best.append(ranking.masked_mean(ranking.best_positive(scores, positive, axis), has, 0))
        top = jnp.max(jnp.where(negative, scores, ranking.NEG), axis=axis)
        hardest.append(ranking.masked_mean(top, jnp.any(negative, axis=axis), 0))
    metrics["batch/positive"], metrics["batch/negative"] = sum(best) / 2, sum(hardest) / 2
    metrics["batch/spread"] = jnp.std(scores, where=where)
    return metrics


def _reduce(queries: Array, valid: Array, reduce: str) -> Array:
    if reduce == "mean":
        return ranking.masked_mean(queries, valid, 0)
    return jnp.sum(jnp.where(valid, queries, 0.0))


def _weight(key: str, weight) -> float | tuple[float, float, float]:
    if isinstance(weight, (int, float)) and not isinstance(weight, bool):
        return float(weight)
    if isinstance(weight, Mapping) or hasattr(weight, "items"):
        switch = dict(weight)
        if set(switch) == {"at", "before", "after"} and all(isinstance(v, (int, float)) for v in switch.values()):
            return (switch["at"], float(switch["before"]), float(switch["after"]))
    raise ValueError(f"losses.{key}.weight is {weight!r}; it must be a number or dict(at=step, before=.., after=..).")


def _relevance(config: Mapping):
    config = dict(config)
    function = relevance.named(config.pop("name"))
    if config:
        raise ValueError(f"config.relevance has only the key name; found also: {', '.join(config)}")
    return function
