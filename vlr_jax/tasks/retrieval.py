"""Retrieval: a batch of pairs → encodings → ranking terms. Here every model of `models/` meets every loss."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vlr_jax import chunks, terms

SIDES = ("visual", "text")


class Task:
    """What one batch of pairs means.

    Args:
        model: a retrieval model (`encode_visual`, `encode_text`, `similarity`, `regularisers`, `temperature`).
        config: the completed config; reads `losses`, `relevance`, `regularisers`, `query_chunk`, `encode_chunk`.

    Attributes:
        view: of the pipeline, what a batch's row is.
        reads: those facts and sentence vectors that a batch must carry.

    Raises:
        ValueError: unknown loss, knob, relevance or key in config, or weights of moments' losses.
    """

    view = "pairs"

    def __init__(self, model, config: dict):
        if config.get("spans"):
            raise ValueError("config.spans weighs the losses of task moment; those of retrieval are config.losses")
        self.model = model
        self.terms = terms.Terms(config["losses"], config["relevance"], config["query_chunk"])
        self.reads = self.terms.reads
        self.regularisers = dict(config["regularisers"])
        self.encode_chunk = config["encode_chunk"]

    def init(self, rng, batch) -> dict:
        """Variables of the model: `{"params": …, collections…}`.

        Raises:
            ValueError: `config.encode_chunk` with a model that has collections; already when it is traced.
        """

        def touch(model, batch):
            return model.encode_visual(batch), model.encode_text(batch), model.temperature()

        variables = self.model.init(rng, batch, method=touch)
        collections = sorted(set(variables) - {"params"})
        if self.encode_chunk and collections:
            raise ValueError(
                f"config.encode_chunk is {self.encode_chunk}, but this model of {type(self.model).__module__} has the "
                f"collection {', '.join(collections)} (batch normalisation), which must see the batch whole; set "
                "encode_chunk=0, or switch it off in config.model"
            )
        return variables

    def loss(self, variables, batch, *, rng, step, probe=None):
        """`(scalar, (metrics, new collections))`, differentiable in `variables["params"]`, and in `probe` if given.

        metrics are scalars: every term per direction unweighted, in-batch monitors, every regulariser, the total.
        `probe` is what `self.probe` gave: zeros, added to the encodings.

        Raises:
            ValueError: `config.regularisers` names one that the model does not have.
        """
        encoded, collections = self._encode(variables, batch, rng)
        if probe is not None:
            encoded = {side: jax.tree.map(_add, encoded[side], probe[side]) for side in SIDES}
        visual, text = (encoded[side] for side in SIDES)

        def rest(model, visual, text):
            return model.regularisers(visual, text), model.temperature()

        extra, temperature = self.model.apply(variables, visual, text, method=rest)

        def similarity(visual, text):
            return self.model.apply(variables, visual, text, method="similarity")

        total, metrics = self.terms(similarity, visual, text, batch, step=step, temperature=temperature)
        if unknown := sorted(set(self.regularisers) - set(extra)):
            raise ValueError(f"config.regularisers names {unknown}; the model has: {', '.join(extra) or 'none'}")
        for name, value in extra.items():
            metrics[f"regulariser/{name}"] = value
            total = total + self.regularisers.get(name, 0.0) * value
        if temperature is not None:
            metrics["temperature"] = temperature
        return total, (jax.lax.stop_gradient(metrics | {"loss": total}), collections)

    def probe(self, variables, batch) -> dict:
        """`{"visual": zeros, "text": zeros}` as the encodings are, None where they are not floating.

        The gradient of `loss` with respect to it is the gradient with respect to the encodings.
        """

        def zeros(leaf):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                return jax.lax.with_sharding_constraint(jnp.zeros(leaf.shape, leaf.dtype), P("data"))

        encode = lambda variables, batch: self._apply(variables, batch, jax.random.key(0, impl="rbg"))[0]
        return jax.tree.map(zeros, jax.eval_shape(encode, variables, batch))

    def plateaus(self, batch_size: int) -> dict[str, float]:
        """Term → its value when training is trapped, see `terms.Terms.plateaus`."""
        return self.terms.plateaus(batch_size)

    def predict(self) -> dict:
        """Pure, un-jitted functions `f(variables, …)` that evaluators and the index are made of."""

        def method(name):
            return lambda variables, *arguments: self.model.apply(variables, *arguments, method=name)

        return {name: method(name) for name in ("encode_visual", "encode_text", "similarity")}

    def _encode(self, variables, batch, rng):
        """`({"visual": Encoded, "text": Encoded}, new collections)`; only here is `encode_chunk`."""
        if not self.encode_chunk:
            return self._apply(variables, batch, rng)
        part = lambda rows, index: self._apply(variables, rows, jax.random.fold_in(rng, index))[0]
        return chunks.over(part, batch, self.encode_chunk, "config.encode_chunk"), {}

    def _apply(self, variables, batch, rng):
        def both(model, batch):
            return {"visual": model.encode_visual(batch, train=True), "text": model.encode_text(batch, train=True)}

        collections = [name for name in variables if name != "params"]
        return self.model.apply(variables, batch, method=both, rngs={"dropout": rng}, mutable=collections)


def _add(x, zeros):
    return x if zeros is None else x + zeros
