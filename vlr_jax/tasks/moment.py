"""Moment retrieval: a batch of videos and texts → spans, matched with the true ones → set losses, saliency, terms.

The losses of Moment-DETR and QD-DETR (`SetCriterion` of jayleicn/moment_detr, wjun0830/QD-DETR): every decoder layer's
spans and labels, the last one's saliency. Everything is a mean over the whole global batch; padding rows count nowhere.
"""

import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax import matching, ranking, saliency, spans, terms

# What `config.spans` weights, and the official weights.
WEIGHTS = {"span_l1": 10.0, "span_giou": 1.0, "label": 4.0, "saliency": 1.0, "contrastive": 0.02}
BACKGROUND = 0.1  # weight of a query that no true moment is matched with, in the label loss
LABELS = ("spans", "spans_mask", "saliency", "saliency_pairs")
CORPUS = ("encode_visual", "encode_text", "similarity")  # of models that can also find the video


class Task:
    """What one batch of videos with moments means.

    Args:
        model: a moment model: a batch → `types.Moments`.
        config: the completed config; reads `spans` (weights, see `WEIGHTS`), `losses` and `relevance` (ranking terms
            on `Moments.scores`; may be empty), `regularisers`, `query_chunk`, `encode_chunk`.

    Attributes:
        view: of the pipeline, what a batch's row is.
        reads: those facts and sentence vectors that a batch must carry.

    Raises:
        ValueError: unknown weight, loss, knob or relevance in config, or a chunk size, as a batch is one piece here.
    """

    view = "moments"

    def __init__(self, model, config: dict):
        given = dict(config.get("spans") or {})
        if unknown := sorted(set(given) - set(WEIGHTS)):
            raise ValueError(f"unknown key {', '.join(unknown)} in config.spans; valid keys: {', '.join(WEIGHTS)}")
        for name in ("query_chunk", "encode_chunk"):
            if config.get(name):
                raise ValueError(f"config.{name} is {config[name]}; task moment has no chunks, leave it 0")
        self.model = model
        self.weights = WEIGHTS | given
        self.terms = terms.Terms(config["losses"], config["relevance"]) if config["losses"] else None
        self.reads = self.terms.reads if self.terms else ()
        self.regularisers = dict(config["regularisers"])

    def init(self, rng, batch) -> dict:
        """Variables of the model: `{"params": …, collections…}`."""
        return self.model.init(rng, batch)

    def loss(self, variables, batch, *, rng, step, probe=None):
        """`(scalar, (metrics, new collections))`, differentiable in `variables["params"]`.

        metrics are scalars, unweighted: each loss of the last decoder layer and, with the layer's number behind its
        name, of those before it, every ranking term, every regulariser, in-batch monitors, the total. `probe` is {}.

        Raises:
            ValueError: the batch lacks labels; config names ranking terms or regularisers that the model has not.
        """
        if lacking := [key for key in LABELS if key not in batch]:
            raise ValueError(f"training on moments needs {', '.join(lacking)} in every batch; it has {sorted(batch)}")
        batch = batch | negatives(batch)
        collections = [name for name in variables if name != "params"]
        moments, new = self.model.apply(variables, batch, train=True, rngs={"dropout": rng}, mutable=collections)
        total, metrics = self._sets(moments, batch)
        found = saliencies(moments, batch)
        total = total + self.weights["saliency"] * sum(found.values())
        metrics |= {f"loss/{name}": value for name, value in found.items()}
        if self.terms:
            if not moments.scores:
                raise ValueError(f"config.losses is given, but {type(self.model).__module__} has no scores to rank by")
            value, seen = self.terms(lambda *_: moments.scores, None, None, batch, step=step)
            total, metrics = total + value, metrics | seen
        if unknown := sorted(set(self.regularisers) - set(moments.regularisers)):
            has = ", ".join(moments.regularisers) or "none"
            raise ValueError(f"config.regularisers names {unknown}; the model has: {has}")
        for name, value in moments.regularisers.items():
            metrics[f"regulariser/{name}"] = value
            total = total + self.regularisers.get(name, 0.0) * value
        return total, (jax.lax.stop_gradient(metrics | {"loss": total}), new)

    def probe(self, variables, batch) -> dict:
        """{}: nothing to show of encodings."""
        return {}

    def plateaus(self, batch_size: int) -> dict[str, float]:
        """`terms.Terms.plateaus` of the ranking terms."""
        return self.terms.plateaus(batch_size) if self.terms else {}

    def predict(self) -> dict:
        """Pure, un-jitted functions that evaluators are made of; labels in a batch are not looked at.

        `moments(variables, batch)` → `windows [B, M, 2]` (start, end) as fractions of the duration, not clipped;
        `scores [B, M]`, the probability of each; `saliency [B, F]`; `extra`. All float32, in the order of the queries.
        Models that can also find the video have `encode_visual`, `encode_text`, `similarity` as in `tasks.retrieval`.
        """

        def method(name):
            return lambda variables, *arguments: self.model.apply(variables, *arguments, method=name)

        def answer(variables, batch):
            found = self.model.apply(variables, {key: batch[key] for key in batch if key not in LABELS})
            return {
                "windows": spans.cxw_to_xx(found.spans[-1]),
                "scores": jax.nn.softmax(found.logits[-1].astype(jnp.float32), axis=-1)[..., 0],
                "saliency": found.saliency.astype(jnp.float32),
                "extra": found.extra,
            }

        return {"moments": answer} | {name: method(name) for name in CORPUS if hasattr(self.model, name)}

    def _sets(self, moments, batch) -> tuple[Array, dict[str, Array]]:
        """The weighted sum of the losses of all decoder layers, and what to log."""
        losses = set_losses(moments, batch)
        total = sum(self.weights[name] * jnp.sum(values) for name, values in losses.items())
        metrics = {}
        for name, (*before, last) in losses.items():
            metrics |= {f"loss/{name}": last} | {f"loss/{name}_{k}": value for k, value in enumerate(before)}
        return total, metrics | {"batch/R1@0.5": first_right(moments, batch)}


def negatives(batch: dict[str, Array]) -> dict[str, Array]:
    """`negative_where`: for which rows the next row's text is a wrong one. A model sees those texts beside its own.

    False where the next row is of the same source video, or either row is padding; and in a batch
    of one, where the next row is the row itself.
    """
    source, valid = (jnp.roll(batch[key], -1, axis=0) for key in ("source_id", "valid"))
    return {"negative_where": batch["valid"] & valid & (batch["source_id"] != source)}


def matched(moments, batch) -> Array:
    """Which query stands for which true moment in each decoder layer, bool `[K, B, M, G]`; in padding rows none."""
    where = batch["spans_mask"] & batch["valid"][:, None]
    return matching.assign(matching.costs(moments.logits, moments.spans, spans.xx_to_cxw(batch["spans"])), where)


def set_losses(moments, batch) -> dict[str, Array]:
    """Name → loss of every decoder layer `[K]`, unweighted, float32.

    span_l1 and span_giou: means over all matched pairs (the first also over centre and width). label: mean over all
    queries of the cross entropy, times 0.1 for queries without a pair; not divided by the sum of these weights.
    contrastive, where a model has it: mean over rows of logsumexp over the queries - mean over the matched ones.
    """
    predicted, logits = moments.spans.astype(jnp.float32), moments.logits.astype(jnp.float32)  # [K, B, M, 2]
    targets = spans.xx_to_cxw(batch["spans"])  # [B, G, 2]
    pairs = matched(moments, batch)  # [K, B, M, G]
    taken = jnp.any(pairs, axis=-1)
    rows = jnp.broadcast_to(batch["valid"][:, None], taken.shape)

    distance = jnp.mean(jnp.abs(predicted[:, :, :, None] - targets[:, None]), axis=-1)
    overlap = spans.generalised_iou(spans.cxw_to_xx(predicted), spans.cxw_to_xx(targets))
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    entropy = -jnp.where(taken, log_probability[..., 0], BACKGROUND * log_probability[..., 1])
    mean = lambda values, where: ranking.masked_mean(*(x.reshape(len(x), -1) for x in (values, where)), 1)
    losses = {
        "span_l1": mean(distance, pairs),
        "span_giou": mean(1 - overlap, pairs),
        "label": mean(entropy, rows),
    }
    if "alignment_logits" in moments.extra:
        aligned = moments.extra["alignment_logits"]
        of_row = jax.nn.logsumexp(aligned, axis=-1) - ranking.masked_mean(aligned, taken, -1)
        losses["contrastive"] = ranking.masked_mean(of_row, jnp.any(taken, axis=-1), 1)
    return losses


def saliencies(moments, batch) -> dict[str, Array]:
    """Name → loss, unweighted: the margin loss; where a model scores clips beside wrong texts, those two as well."""
    valid, mask = batch["valid"], batch["visual_mask"]
    losses = {"saliency_margin": saliency.margin(moments.saliency, batch["saliency_pairs"], valid)}
    if moments.saliency_negative is not None:
        beside = mask & batch["negative_where"][:, None]
        scores = (moments.saliency, moments.saliency_negative, batch["saliency"])
        losses["saliency_rank"] = saliency.rank(*scores, mask, beside, valid)
        losses["saliency_negative"] = saliency.wrong(moments.saliency_negative, mask, batch["negative_where"])
    return losses


def first_right(moments, batch) -> Array:
    """Percent of rows whose most probable span has an IoU ≥ 0.5 with a true one."""
    logits, predicted = jax.lax.stop_gradient((moments.logits[-1], moments.spans[-1]))
    confidence = logits[..., 0] - logits[..., 1]  # [B, M]
    best = confidence == jnp.max(confidence, axis=1, keepdims=True)
    where = batch["spans_mask"] & batch["valid"][:, None]
    overlap = spans.iou(spans.cxw_to_xx(predicted), batch["spans"])  # [B, M, G]
    right = jnp.any((overlap >= 0.5) & best[..., None] & where[:, None], axis=(1, 2))
    return 100 * ranking.masked_mean(right, jnp.any(where, axis=1), 0)
