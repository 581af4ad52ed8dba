"""Which predicted moment stands for which true one: the cheapest assignment of DETR, on the device.

Costs are those of Moment-DETR (Lei et al., NeurIPS 2021, `matcher.py`). For the few true moments that a row has, the
cheapest assignment comes from dynamic programming over sets of them, query by query: exact, without loops of unknown
length, which under `vmap` run until the last row is done, and row by row, so that a batch that is split over devices
stays where it is. More than `MOST` true moments go through `optax.assignment`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vlr_jax import spans as intervals

LABEL, SPAN_L1, SPAN_GIOU = 4.0, 10.0, 1.0  # weights of the three costs
MOST = 8  # true moments of a row whose 2^G sets are gone through
FAR = 1e3  # a cost above any real one


def costs(logits: Array, spans: Array, targets: Array) -> Array:
    """What it costs that a query stands for a true moment, float32 `[..., M, G]`.

    -4 · probability + 10 · |Δ centre| + 10 · |Δ width| - generalised IoU.

    Args:
        logits: `[..., M, 2]`, index 0 = a moment.
        spans: `[..., M, 2]`, (centre, width).
        targets: `[..., G, 2]`, (centre, width); leading axes broadcast.
    """
    logits, spans, targets = (x.astype(jnp.float32) for x in (logits, spans, targets))
    probability = jax.nn.softmax(logits, axis=-1)[..., :1]
    distance = jnp.sum(jnp.abs(spans[..., :, None, :] - targets[..., None, :, :]), axis=-1)
    overlap = intervals.generalised_iou(intervals.cxw_to_xx(spans), intervals.cxw_to_xx(targets))
    return SPAN_L1 * distance - SPAN_GIOU * overlap - LABEL * probability


def assign(costs: Array, where: Array) -> Array:
    """The pairs of the cheapest assignment, bool `[..., M, G]`: at most one True in a row or column.

    As many pairs as there are queries or true moments, whichever are fewer. Equal to `linear_sum_assignment` of SciPy
    on the columns where `where`, up to assignments of equal cost. No gradient.

    Args:
        costs: float `[..., M, G]`, finite.
        where: bool, broadcasts to `[..., G]`, the columns that are true moments and no padding.
    """
    where = jnp.broadcast_to(where, (*costs.shape[:-2], costs.shape[-1]))
    costs = jax.lax.stop_gradient(costs).astype(jnp.float32)
    one = _by_sets if costs.shape[-1] <= MOST else _hungarian
    for _ in costs.shape[:-2]:  # not flat: layers and rows of a batch in one axis would not stay on their devices
        one = jax.vmap(one)
    return one(costs, where) & where[..., None, :]


def _by_sets(costs: Array, where: Array) -> Array:
    """`[M, G]`, bool `[G]` → bool `[M, G]`.

    cheapest[S]: with the queries so far, each member of S having one. The next query takes none, or one member g of S:
    min(cheapest[S], cheapest[S \\ g] + cost of g).
    """
    queries, count = costs.shape
    sets, members = np.arange(2**count), np.arange(count)
    inside = (sets >> members[:, None]) & 1 > 0  # [G, 2^G]
    without = np.where(inside, sets ^ (1 << members[:, None]), 0)

    def forward(cheapest, cost):
        taking = jnp.where(inside, cheapest[without] + cost[:, None], jnp.inf)  # [G, 2^G]
        best = jnp.min(taking, axis=0)
        taken = jnp.where(best < cheapest, jnp.argmin(taking, axis=0), count)  # [2^G]
        return jnp.minimum(best, cheapest), taken

    nothing = jnp.where(sets == 0, 0.0, jnp.inf)
    cheapest, taken = jax.lax.scan(forward, nothing, costs, unroll=True)
    wanted = jnp.minimum(jnp.sum(where), queries)
    foreign = jnp.any(inside & ~where[:, None], axis=0)
    last = jnp.argmin(jnp.where((inside.sum(0) == wanted) & ~foreign, cheapest, jnp.inf))

    def backward(left, taken):
        member = jnp.sum(jnp.where(sets == left, taken, 0))
        pair = members == member  # [G]
        return left - jnp.sum(jnp.where(pair, 1 << members, 0)), pair

    return jax.lax.scan(backward, last, taken, reverse=True, unroll=True)[1]


def _hungarian(costs: Array, where: Array) -> Array:
    """`[M, G]`, bool `[G]` → bool `[M, G]`; padding costs the same everywhere, and is taken last."""
    query, target = optax.assignment.hungarian_algorithm(jnp.where(where, costs, FAR))
    return jnp.zeros(costs.shape, bool).at[query, target].set(True)
