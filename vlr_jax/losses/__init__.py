"""Ranking losses, one per file: `fn(scores, relevance, *, where=None, axis=-1, ...) -> [Q]`; see `triplet_hard`."""

from vlr_jax.losses.info_nce import info_nce
from vlr_jax.losses.triplet_hard import triplet_hard
from vlr_jax.losses.triplet_sum import triplet_sum
from vlr_jax.losses.unified import unified

__all__ = ["info_nce", "triplet_hard", "triplet_sum", "unified"]
