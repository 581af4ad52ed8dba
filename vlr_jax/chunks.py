"""Rows in blocks: exact large batches on small memory, on every device the same share of each block.

The leading axis of a batch is split over the mesh's axis "data". Every block takes the same number of rows from each
device, so nothing moves between devices when a batch is cut into blocks and put together again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P


def check(rows: int, size: int, devices: int, name: str) -> None:
    """Raises ValueError, naming the setting, if `rows` cannot be cut into blocks of `size` shared by `devices`."""
    if rows % size or size % devices:
        raise ValueError(
            f"{name} is {size}; it must divide the batch size, {rows}, and be a multiple of the {devices} devices of "
            "the data axis"
        )


def over(function: Callable[[Any, Any], Any], rows: Any, size: int, name: str) -> Any:
    """`function(block, index)` for one block of rows after the other, recomputed in the backward pass.

    Needs a mesh with an axis "data" in context (`jax.set_mesh`).

    Args:
        function: (a block of `rows`, its number) → arrays with the block's leading axis.
        rows: a tree of arrays of one leading axis B, split over "data".
        size: rows of a block, over all devices.
        name: of the setting that `size` is, for the error.

    Returns:
        What `function` returns, for all rows in their order.

    Raises:
        ValueError: `size` does not divide B or is no multiple of the devices.
    """
    count = len(jax.tree.leaves(rows)[0])
    devices = jax.sharding.get_abstract_mesh().shape["data"]
    check(count, size, devices, name)
    blocks, share = count // size, size // devices

    def cut(x):  # [B, ...] → [B/n, n, ...]
        x = x.reshape(devices, blocks, share, *x.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x.reshape(blocks, size, *x.shape[3:]), P(None, "data"))

    def join(x):  # [B/n, n, ...] → [B, ...]
        x = x.reshape(blocks, devices, share, *x.shape[2:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(x.reshape(count, *x.shape[3:]), P("data"))

    body = jax.checkpoint(lambda block: function(*block), prevent_cse=False)
    return jax.tree.map(join, jax.lax.map(body, (jax.tree.map(cut, rows), jnp.arange(blocks))))
