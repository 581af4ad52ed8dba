"""The assignment beside SciPy's and beside the official matcher's cases, and its padding."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vlr_jax import matching, sharding

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden" / "matcher.npz"
assign = jax.jit(matching.assign)


def random_costs(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 10, jnp.float32)


@pytest.mark.parametrize("case", range(20))
def test_official_cases(case):
    with np.load(GOLDEN) as archive:
        numbers = {key.partition("/")[2]: archive[key] for key in archive if key.startswith(f"c{case}/")}
    rows = len(numbers["logits"])
    targets = [numbers[f"tgt{i}"] for i in range(rows)]
    most = max(map(len, targets))
    padded = np.stack([np.pad(t, ((0, most - len(t)), (0, 0)), constant_values=0.3) for t in targets])
    where = np.arange(most) < np.array([len(t) for t in targets])[:, None]
    costs = matching.costs(*(jnp.asarray(x) for x in (numbers["logits"], numbers["spans"], padded)))
    pairs = np.asarray(matching.assign(costs, where))
    for i in range(rows):
        query, target = np.nonzero(pairs[i])
        np.testing.assert_array_equal(query, numbers[f"pred_idx{i}"])
        np.testing.assert_array_equal(target, numbers[f"tgt_idx{i}"])


def cheapest(costs):
    """The least sum of all assignments, one after the other."""
    costs = costs if costs.shape[0] >= costs.shape[1] else costs.T
    columns = range(costs.shape[1])
    return min(costs[list(rows), columns].sum() for rows in itertools.permutations(range(len(costs)), len(columns)))


@pytest.mark.parametrize(("queries", "most"), [(6, 1), (6, 3), (4, 4), (3, 5), (1, 4), (7, 2)])
def test_no_assignment_is_cheaper(queries, most):
    costs = random_costs(queries * 10 + most, 4, queries, most)
    where = jnp.arange(most) < jnp.array([[most], [1], [0], [max(1, most - 1)]])
    pairs = np.asarray(assign(costs, where))
    assert (
        (pairs.sum(1) <= 1).all() and (pairs.sum(2) <= 1).all() and not pairs[~np.asarray(where)[:, None] & pairs].any()
    )
    for of_row, cost, real in zip(pairs, np.asarray(costs), np.asarray(where), strict=True):
        assert of_row.sum() == min(queries, real.sum())
        if real.any():
            np.testing.assert_allclose(cost[of_row].sum(), cheapest(cost[:, real]), rtol=1e-5)


@pytest.mark.parametrize(("queries", "most"), [(10, 5), (10, 8), (12, 9), (5, 11)])
def test_scipy(queries, most):
    """Both ways that there are, by sets and beyond `MOST`."""
    scipy = pytest.importorskip("scipy.optimize")
    costs, rng = random_costs(most, 6, queries, most), np.random.default_rng(1)
    where = jnp.asarray(np.arange(most) < rng.integers(0, most + 1, (6, 1)))
    pairs = np.asarray(assign(costs, where))
    for of_row, cost, real in zip(pairs, np.asarray(costs), np.asarray(where), strict=True):
        expected = np.zeros_like(of_row)
        query, target = scipy.linear_sum_assignment(cost[:, real])
        expected[query, np.flatnonzero(real)[target]] = True
        np.testing.assert_array_equal(of_row, expected)


def test_both_ways_agree():
    costs = random_costs(3, 40, 10, 5)
    where = jnp.arange(5) < jnp.arange(40)[:, None] % 6
    by_sets = assign(costs, where)
    other = jax.vmap(matching._hungarian)(costs, where) & where[:, None]
    np.testing.assert_array_equal(by_sets, other)
    assert optax.assignment.hungarian_algorithm(costs[0])[0].shape == (5,)


def test_padding_and_layers():
    """What stands in padding changes nothing, and leading axes are rows."""
    costs, where = random_costs(5, 2, 3, 6, 4), jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    pairs = assign(costs, where)
    np.testing.assert_array_equal(pairs, assign(jnp.where(where[:, None], costs, 1e6), where))
    np.testing.assert_array_equal(pairs[1], assign(costs[1], where))
    assert not pairs[:, 2].any() and pairs.dtype == bool
    grads = jax.grad(lambda c: jnp.sum(jnp.where(matching.assign(c, where), c, 0.0)))(costs)
    np.testing.assert_array_equal(grads, pairs.astype(jnp.float32))


def test_rows_stay_on_their_devices():
    """Split over eight devices the pairs are the same, and the compiled program sends nothing."""
    mesh = sharding.make_mesh({"data": -1})
    costs, where = random_costs(7, 2, 16, 10, 5), jnp.arange(5) < jnp.arange(16)[:, None] % 6
    split = (
        jax.device_put(costs, NamedSharding(mesh, P(None, "data"))),
        jax.device_put(where, NamedSharding(mesh, P("data"))),
    )
    compiled = jax.jit(matching.assign, out_shardings=NamedSharding(mesh, P(None, "data"))).lower(*split).compile()
    np.testing.assert_array_equal(compiled(*split), assign(costs, where))
    assert mesh.size == 8
    assert not any(word in compiled.as_text() for word in ("all-gather", "all-reduce", "all-to-all", "permute("))
