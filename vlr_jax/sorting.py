"""Sorting the rows of a block by way of integers, and counting in sorted rows.

XLA sorts one array of integers several times faster than floats, or than keys with a payload (on CPU 4-5 times), and
a binary search costs no more than a sort. So places and orders are made of these. None of it carries a gradient.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def ascending(values: Float[Array, "q c"]) -> tuple[Float[Array, "q c"], Int[Array, "q c"]]:
    """Every row sorted, NaN last, and the place of every entry: how many of its row are smaller (equals share it)."""
    keys = _keys(values)
    ordered = jax.lax.sort(keys, dimension=1, is_stable=False)
    place = count_first(lambda at: take(ordered, at) < keys, values.shape)
    return _values(ordered, values.dtype), place


def order(values: Float[Array, "q c"]) -> Int[Array, "q c"]:
    """The indices that sort every row ascending, equals in the order they come (`jnp.argsort`, but faster)."""
    keys = _keys(values)
    if keys.dtype == jnp.int64:
        index = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
        return jax.lax.sort((keys, index), dimension=1, num_keys=1)[1]
    with jax.enable_x64(True):  # key and index in one integer of 64 bits
        index = jax.lax.broadcasted_iota(jnp.int64, values.shape, 1)
        packed = (keys.astype(jnp.int64) << 32) | index
        return (jax.lax.sort(packed, dimension=1, is_stable=False) & 0xFFFFFFFF).astype(jnp.int32)


def count_first(holds: Callable[[Array], Array], shape: tuple[int, int]) -> Int[Array, "q c"]:
    """How many places of a row `holds` is true for, where it is true up to some place and false from there on.

    Args:
        holds: places `[Q, C]` → bool `[Q, C]`, for every entry at its own place.
        shape: `[Q, C]`; the places are 0 … C − 1.
    """
    rounds, last = shape[1].bit_length(), shape[1] - 1

    def halve(i, count):
        step = 1 << (rounds - 1 - i)
        at = count + (step - 1)
        return jnp.where((at <= last) & holds(jnp.minimum(at, last)), count + step, count)

    # A loop, since in a row of rounds XLA holds what every one of them gathered.
    return jax.lax.fori_loop(0, rounds, halve, jnp.zeros(shape, jnp.int32))


def take(rows: Array, index: Int[Array, "q c"]) -> Array:
    """`rows[q, index[q, c]]`."""
    return jnp.take_along_axis(rows, index, axis=1, mode="promise_in_bounds")


def put(rows: Array, index: Int[Array, "q c"]) -> Array:
    """The inverse of `take` for a permutation: entry c of a row goes to place `index[q, c]`."""
    one = lambda row, at: jnp.zeros_like(row).at[at].set(row, mode="promise_in_bounds", unique_indices=True)
    return jax.vmap(one)(rows, index)


def _keys(values: Array) -> Array:
    """Integers that order as the values do: a float's bits do above zero and are reversed below."""
    kind = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    # -0.0 is 0.0, and a NaN is a NaN of positive sign: processors make both.
    values = jnp.where(values == 0, 0, jnp.where(jnp.isnan(values), jnp.nan, values)).astype(values.dtype)
    bits = jax.lax.bitcast_convert_type(values, kind)
    # Behind the barrier the compiler sees no constant: it would sort one itself, a thousand times slower than its code.
    return jax.lax.optimization_barrier(jnp.where(bits < 0, bits ^ jnp.iinfo(kind).max, bits))


def _values(keys: Array, dtype) -> Array:
    return jax.lax.bitcast_convert_type(jnp.where(keys < 0, keys ^ jnp.iinfo(keys.dtype).max, keys), dtype)
