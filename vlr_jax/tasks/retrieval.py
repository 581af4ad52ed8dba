"""Retrieval: a batch of pairs → encodings → ranking terms. Here every model of `models/` meets every loss."""

import jax

from vlr_jax import terms


class Task:
    """What one batch of pairs means.

    Args:
        model: a retrieval model (`encode_visual`, `encode_text`, `similarity`, `regularisers`, `temperature`).
        config: the completed config; reads `losses`, `relevance`, `regularisers`.

    Raises:
        ValueError: unknown loss, knob, relevance or key in config.
    """

    view = "pairs"

    def __init__(self, model, config: dict):
        self.model = model
        self.terms = terms.Terms(config["losses"], config["relevance"])
        self.regularisers = dict(config["regularisers"])

    def init(self, rng, batch) -> dict:
        """Variables of the model: `{"params": …, collections…}`."""

        def touch(model, batch):
            return model.encode_visual(batch), model.encode_text(batch), model.temperature()

        return self.model.init(rng, batch, method=touch)

    def loss(self, variables, batch, *, rng, step):
        """`(scalar, (metrics, new collections))`, differentiable in `variables["params"]`.

        metrics are scalars: every term per direction unweighted, in-batch monitors, every regulariser, the total.

        Raises:
            ValueError: `config.regularisers` names one that the model does not have.
        """

        def forward(model, batch):
            visual, text = model.encode_visual(batch, train=True), model.encode_text(batch, train=True)
            return visual, text, model.regularisers(visual, text), model.temperature()

        (visual, text, extra, temperature), collections = self.model.apply(
            variables, batch, method=forward, rngs={"dropout": rng}, mutable=[n for n in variables if n != "params"]
        )

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

    def predict(self) -> dict:
        """Pure, un-jitted functions `f(variables, …)` that evaluators and the index are made of."""

        def method(name):
            return lambda variables, *arguments: self.model.apply(variables, *arguments, method=name)

        return {name: method(name) for name in ("encode_visual", "encode_text", "similarity")}
