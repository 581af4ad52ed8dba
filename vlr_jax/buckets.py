"""Batches of videos of different lengths: every batch has one padded length, of few that are declared.

A plan is a pure function of the seed and the epoch, so every process plans the same and takes its share, and a batch's
number is all that there is to resume.
"""

import functools

import numpy as np


def plan(buckets: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    """One epoch: (padded length, int `[batch_size]` rows) of each batch, shuffled.

    Rows that fill no batch of their bucket move up to the next larger one, so that no more than `batch_size - 1` rows
    of an epoch, other ones in each, are left over.

    Args:
        buckets: int `[n]`, the padded length of each row.
        batch_size: rows of a batch, of all processes together.
        rng: for the order.
    """
    order, batches, carried = rng.permutation(len(buckets)), [], np.zeros(0, int)
    for length in np.unique(buckets):
        rows = np.concatenate([carried, order[buckets[order] == length]])
        whole = len(rows) // batch_size * batch_size
        batches += [(int(length), part) for part in rows[:whole].reshape(-1, batch_size)]
        carried = rows[whole:]
    return [batches[i] for i in rng.permutation(len(batches))]


class Batches:
    """Batch number i of an endless training, in random access: `[i]` → (padded length, rows, epoch).

    Args:
        buckets: int `[n]`, the padded length of each row.
        batch_size: of all processes together.
        seed: of the order.
    """

    def __init__(self, buckets: np.ndarray, batch_size: int, seed: int):
        self.per_epoch = len(buckets) // batch_size
        self._epoch = functools.lru_cache(maxsize=2)(
            lambda epoch: plan(buckets, batch_size, np.random.default_rng([seed, epoch]))
        )

    def __getitem__(self, i: int) -> tuple[int, np.ndarray, int]:
        epoch, place = divmod(int(i), self.per_epoch)
        return *self._epoch(epoch)[place], epoch
