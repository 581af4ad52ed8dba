"""`config.losses` → one number: the only place that knows directions, validity, reduction and weights of losses.

A loss ranks one axis of one score matrix and returns one number per query. Here it is applied along both axes of the
batch's `[V, T]` block, or of blocks of some queries and all candidates; padding rows are taken out, and the results are
reduced, weighted and added.
"""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from vlr_jax import chunks, monitors, ranking, relevance
from vlr_jax.relevance import READS
from vlr_jax.resolve import resolve

# Direction → the axis of its candidates.
AXES = {"v2t": 1, "t2v": 0}
# Layouts of a block: its queries split over the devices, each with all of its candidates.
BY_QUERY = {"v2t": P("data", None), "t2v": P(None, "data")}
# What a loss takes besides its knobs.
CONTRACT = ("scores", "relevance", "where", "axis")
# Batch keys of each side that relevance functions read, under the name that they read.
VISUAL_KEYS = ("visual_id", "source_id", "visual_facts", "visual_caption_vecs")
TEXT_KEYS = ("visual_id", "text_id", "source_id", "text_facts", "caption_vec")


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
        parameters = inspect.signature(loss).parameters
        valid = [name for name in parameters if name not in CONTRACT]
        for name in (*config, *takes):
            if name not in valid:
                reserved = "name, weight, takes, directions, reduce"
                raise ValueError(
                    f"losses.{key} has no knob {name!r}; the loss has: {', '.join(valid)}; every term has: {reserved}"
                )
        for name, value in config.items():
            word = isinstance(parameters[name].default, str) or (name, value) == ("temperature", "model")
            if isinstance(value, str) and not word:
                raise ValueError(f"losses.{key}.{name} is {value!r}; it must be a number.")
        return cls(key, loss, config, weight, takes, directions, reduce)

    def weight_at(self, step: Array | int) -> Array | float:
        """The weight at `step`."""
        if not isinstance(self.weight, tuple):
            return self.weight
        at, before, after = self.weight
        return jnp.where(step < at, before, after)

    def beside(self, name: str) -> Callable[..., Array] | None:
        """The function `name` of the loss's file, given those of the term's knobs that it takes; None if none is."""
        function = getattr(sys.modules[self.loss.__module__], name, None)
        if function is None:
            return None
        shared = inspect.signature(function).parameters
        return functools.partial(function, **{knob: value for knob, value in self.knobs.items() if knob in shared})

    def pairs(self) -> Callable[..., Array] | None:
        """`<loss>_pairs` of a loss that is divided by the mean of it over the batch; None for all others.

        Raises:
            ValueError: the loss takes `pairs`, but there is no such function beside it.
        """
        if "pairs" not in inspect.signature(self.loss).parameters or "pairs" in self.knobs:
            return None
        name = f"{self.loss.__name__}_pairs"
        function = self.beside(name)
        if function is None:
            raise ValueError(f"losses.{self.key} takes pairs, so in chunks its file must have the function {name}.")
        return function

    def __call__(
        self, scores: Mapping[str, Array], grades: Array, where: Array, axis: int, **given: Array | None
    ) -> Array:
        """The loss of every query, `[Q]`; 0 for padding queries, whose `where` is False all along.

        `given`: the model's `temperature`, None if it has none; `pairs` where the block has not all queries.
        """
        for name in self.takes.values():
            if name not in scores:
                raise ValueError(
                    f"losses.{self.key} takes {name!r}; the model's scores are: {', '.join(sorted(scores))}"
                )
        temperature = given.pop("temperature")
        arguments = {**self.knobs, **{argument: scores[name] for argument, name in self.takes.items()}, **given}
        if arguments.get("temperature") == "model":
            if temperature is None:
                raise ValueError(f"losses.{self.key} wants temperature='model', but the model has none to learn.")
            arguments["temperature"] = temperature
        return self.loss(scores["sim"], grades, where=where, axis=axis, **arguments)


class Terms:
    """The ranking terms of a task: `Terms(config.losses, config.relevance, config.query_chunk)`.

    Args:
        losses: name in the log → term; see `Term`.
        relevance: `{"name": a function of relevance.py}`.
        query_chunk: queries of one block, over all devices: similarity, relevance, losses and monitors go block by
            block, each direction by itself, and no `[V, T]` matrix is ever whole, forward or backward. 0 = all at
            once, where one block serves both directions.

    Raises:
        ValueError: no term, or anything in them that does not exist; before any compilation.
    """

    def __init__(self, losses: Mapping[str, Mapping], relevance: Mapping | None = None, query_chunk: int = 0):
        if not losses:
            raise ValueError("config.losses is empty: name at least one term, for example dict(triplet_hard={}).")
        self.terms = [Term.from_config(key, term) for key, term in dict(losses).items()]
        self.relevance = _relevance({"name": "identity"} if relevance is None else relevance)
        self.reads = READS.get(self.relevance.__name__, ())
        self.graded = self.relevance.__name__ not in monitors.BINARY
        self.query_chunk = query_chunk
        self.counters = {term.key: term.pairs() for term in self.terms if query_chunk}

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

        Needs a mesh with an axis "data" in context (`jax.set_mesh`): every block of scores is split over it, once.

        Args:
            similarity: (visual, text) → named `[V, T]` score matrices, "sim" among them; exact on any block.
            visual: encodings of the batch's visuals, passed to `similarity`.
            text: encodings of its texts.
            batch: the batch's arrays; `visual_id` and `valid` are read, and what the relevance needs.
            step: of the training, for weights that switch.
            temperature: the model's learned one, for terms with `temperature="model"`.

        Returns:
            The loss, and scalars: `loss/<term>/<direction>` (unweighted) and `batch/...` (`monitors.py`).

        Raises:
            ValueError: `query_chunk` does not divide the batch or is no multiple of the devices of the data axis.
        """
        rows = {"row": jnp.arange(len(batch["valid"])), "valid": batch["valid"]}
        visual_rows = rows | {key: batch[key] for key in VISUAL_KEYS if key in batch}
        text_rows = rows | {key: batch[key] for key in TEXT_KEYS if key in batch}
        pairs = self._pairs(visual_rows, text_rows)

        def block(visual, text, directions, layout):
            (visual, visual_rows), (text, text_rows) = visual, text
            scores = _laid_out(similarity(visual, text), layout)
            grades, where = self._grades(visual_rows, text_rows, layout)
            return {d: self._queries(scores, grades, where, d, temperature, pairs[d]) for d in directions}

        queries = self._over_queries(block, (visual, visual_rows), (text, text_rows))
        total, metrics = 0.0, {}
        for term in self.terms:
            values = []
            for direction in term.directions:
                values.append(_reduce(queries[direction]["losses"][term.key], batch["valid"], term.reduce))
                metrics[f"loss/{term.key}/{direction}"] = values[-1]
            value = sum(values) / (len(values) if term.reduce == "mean" else 1)
            total += term.weight_at(step) * value
        return total, metrics | monitors.reduced(queries["v2t"]["monitors"] | queries["t2v"]["monitors"])

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

    def _over_queries(self, block: Callable, visual: Any, text: Any) -> dict[str, Any]:
        """Direction → `block(visual, text, directions, layout)[direction]` of all queries; only here is `query_chunk`.

        In chunks the candidates stay where they are. A block's queries go to all devices, each scores its own
        candidates, and what losses reduce over candidates is added up: nothing of the size of all encodings moves.
        """
        if not self.query_chunk:
            return block(visual, text, tuple(AXES), BY_QUERY["v2t"])
        v2t = lambda part, _: block(part, text, ("v2t",), BY_QUERY["t2v"])
        t2v = lambda part, _: block(visual, part, ("t2v",), BY_QUERY["v2t"])
        some = functools.partial(chunks.over, size=self.query_chunk, name="config.query_chunk")
        return some(v2t, visual) | some(t2v, text)

    def _grades(self, visual_rows: Mapping, text_rows: Mapping, layout: P) -> tuple[Array, Array]:
        """Relevance of a block, and where it counts."""
        grades, where = self.relevance(visual_rows, text_rows)
        where &= visual_rows["valid"][:, None] & text_rows["valid"][None, :]
        return _laid_out((grades, where), layout)

    def _pairs(self, visual_rows: Mapping, text_rows: Mapping) -> dict[str, dict[str, Array]]:
        """Direction → term → the mean over all queries that divides its loss; empty where one block has them all."""
        counters = {key: counter for key, counter in self.counters.items() if counter}
        if not counters:
            return {direction: {} for direction in AXES}

        def block(visual_rows, text_rows, directions, layout):
            found = {}
            for d in directions:
                grades, where = self._grades(visual_rows, text_rows, layout)
                grades, where = _laid_out((grades, where), BY_QUERY[d])  # for counting sorts them
                any_where = jnp.any(where, axis=AXES[d])
                values = {key: counter(grades, where=where, axis=AXES[d]) for key, counter in counters.items()}
                found[d] = {key: (value, any_where) for key, value in values.items()}
            return found

        counts = self._over_queries(block, visual_rows, text_rows)
        return {d: {key: ranking.masked_mean(*count, 0) for key, count in found.items()} for d, found in counts.items()}

    def _queries(self, scores, grades, where, direction: str, temperature, pairs: Mapping[str, Array]) -> dict:
        """Losses and monitors of every query of a block: `{"losses": term → [Q], "monitors": …}`."""
        axis, losses = AXES[direction], {}
        # All candidates of a query on one device, for those who sort them; where nobody does, nothing moves.
        gathered = _laid_out((scores, grades, where), BY_QUERY[direction])
        sim = scores["sim"]
        seen = monitors.of_queries(sim, grades, where, direction, axis)
        if self.graded:
            seen |= monitors.of_grades(gathered[0]["sim"], *gathered[1:], direction, axis)
        smooth = [term.key for term in self.terms if term.loss.__name__ == "smooth_ndcg"]
        for term in self.terms:
            if direction not in term.directions:
                continue
            given = {"pairs": pairs[term.key]} if term.key in pairs else {}
            block = gathered if getattr(term.loss, "listwise", False) else (scores, grades, where)
            losses[term.key] = term(*block, axis, temperature=temperature, **given)
            if term.key in smooth:
                name = f"{direction}_smooth_NDCG" if len(smooth) == 1 else f"{term.key}_{direction}_smooth_NDCG"
                seen[name] = 1 - jax.lax.stop_gradient(losses[term.key]), monitors.gradable(seen, direction)
            if mines := term.beside("mines_hardest"):
                hard = 100.0 * mines(sim, grades, where=where, axis=axis)
                seen[f"{term.key}_{direction}_mined_hard"] = hard, seen[f"{direction}_delta"][1]
        return {"losses": losses, "monitors": seen}


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


def _laid_out(tree: Any, layout: P) -> Any:
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, layout), tree)
