"""What a batch's scores look like, in the numbers that the papers plot: per query, from any block, without gradient.

| name under `batch/` | meaning, over the queries that it can be said of |
|---|---|
| `<direction>_R@1` | percent whose best positive ranks first in the batch |
| `<direction>_delta` | mean distance of the best positive's score from the hardest negative's (δ of SelHN) |
| `positive`, `negative` | mean score of the best positive, and of the hardest negative, over both directions |
| `spread` | standard deviation of all valid scores; a loss at its margin with a spread near zero has collapsed |
| `<direction>_NDCG` | NDCG of the whole batch, ties against the model; where relevance is graded |
| `<direction>_tau` | (concordant - discordant) / pairs of unequal relevance, equal scores discordant; likewise |
| `<direction>_smooth_NDCG` | 1 - the term `smooth_ndcg`; with the term's name before it where there are several |
| `<term>_<direction>_mined_hard` | percent for which a term that selects (SelHN) takes the hardest negative |
"""

import jax
import jax.numpy as jnp
from jax import Array

from vlr_jax import discordance, ranking, sorting

# Relevances of right and wrong only, of which NDCG and tau tell no more than R@1 does.
BINARY = ("identity", "diagonal", "moment")

# Name → one value a query, and the queries that it can be said of.
Values = dict[str, tuple[Array, Array]]


def of_queries(scores: Array, grades: Array, where: Array, direction: str, axis: int) -> Values:
    """The monitors of every query of a block `[V, T]` with all candidates along `axis`; to be handed to `reduced`."""
    scores = ranking.as_float(jax.lax.stop_gradient(scores))
    positive, negative = ranking.positives(grades, where), ranking.negatives(grades, where)
    has, contested = jnp.any(positive, axis=axis), jnp.any(negative, axis=axis)
    best = ranking.best_positive(scores, positive, axis)
    hardest = jnp.max(jnp.where(negative, scores, ranking.NEG), axis=axis)
    mean = ranking.masked_mean(scores, where, axis)
    centred = jnp.where(where, scores - jnp.expand_dims(mean, axis), 0.0)
    return {
        # As `ranking.ranks` counts: ties and NaN are no first place.
        f"{direction}_R@1": (100.0 * ((best > hardest) | ~contested), has),
        f"{direction}_delta": (jnp.abs(best - hardest), has & contested),
        f"{direction}_positive": (best, has),
        f"{direction}_negative": (hardest, contested),
        f"{direction}_mean": (mean, jnp.sum(where, axis=axis)),
        f"{direction}_centred": (jnp.sum(centred**2, axis=axis), jnp.any(where, axis=axis)),
    }


def of_grades(scores: Array, grades: Array, where: Array, direction: str, axis: int) -> Values:
    """NDCG and tau of the same; they sort the candidates."""
    scores = ranking.as_float(jax.lax.stop_gradient(scores))
    scores, grades, where = (jnp.moveaxis(x, axis, 1) for x in (scores, grades, where))
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    counted = discordance.discordance(scores, grades, where)
    tau = 1.0 - 2.0 * jnp.sum(counted.too_high, axis=1) / jnp.maximum(counted.pairs, 1)

    grades, by_grade = sorting.ascending(jnp.where(where, grades, -jnp.inf))  # what is not valid comes first
    _, by_score = sorting.ascending(jnp.where(where, -scores, jnp.inf))
    candidates = scores.shape[1]
    if candidates <= 2**16:  # both places in one integer
        keys = by_score.astype(jnp.uint32) * candidates + by_grade.astype(jnp.uint32)
        found = (jax.lax.sort(keys, dimension=1, is_stable=False) % candidates).astype(jnp.int32)
    else:
        _, found = jax.lax.sort((by_score, by_grade), dimension=1, num_keys=2)
    gains = jnp.where(jnp.isinf(grades), 0.0, jnp.exp2(grades) - 1.0)
    discount = 1.0 / jnp.log2(jnp.arange(candidates, dtype=gains.dtype) + 2.0)
    reached = jnp.sum(sorting.take(gains, found) * discount, axis=1)
    ideal = jnp.sum(gains[:, ::-1] * discount, axis=1)
    answered = counted.pairs > 0
    return {
        f"{direction}_NDCG": (reached / jnp.where(ideal > 0, ideal, 1.0), answered & (ideal > 0)),
        f"{direction}_tau": (tau, answered),
    }


def gradable(values: Values, direction: str) -> Array:
    """The queries whose candidates are not all equally relevant, `[Q]`."""
    return values.get(f"{direction}_tau", values[f"{direction}_delta"])[1]


def reduced(values: Values) -> dict[str, Array]:
    """What `of_queries` gives of all queries, of both directions in one dict → the numbers to log."""
    values = dict(values)
    metrics = {"spread": _spread(*values.pop("v2t_mean"), values.pop("v2t_centred")[0])}
    del values["t2v_mean"], values["t2v_centred"]  # of the same scores
    metrics |= {name: ranking.masked_mean(value, counts, 0) for name, (value, counts) in values.items()}
    for name in ("positive", "negative"):
        metrics[name] = (metrics.pop(f"v2t_{name}") + metrics.pop(f"t2v_{name}")) / 2
    return {f"batch/{name}": value for name, value in metrics.items()}


def _spread(means: Array, counts: Array, squares: Array) -> Array:
    """Standard deviation of all scores, from every query's mean, number, and sum of squares about its mean.

    Deviations only, no difference of large sums: in a collapse it is far below the mean.
    """
    total = jnp.maximum(jnp.sum(counts), 1)
    mean = jnp.sum(counts * means) / total
    return jnp.sqrt((jnp.sum(squares) + jnp.sum(counts * (means - mean) ** 2)) / total)
