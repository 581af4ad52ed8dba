"""Ranking losses, one per file: `fn(scores, relevance, *, where=None, axis=-1, ...) -> [Q]`; see `triplet_hard`."""

from vlr_jax.losses.adaptive_contrastive import adaptive_contrastive
from vlr_jax.losses.adaptive_margin import adaptive_margin
from vlr_jax.losses.info_nce import info_nce
from vlr_jax.losses.kendall import kendall, kendall_pairs
from vlr_jax.losses.kendall_window import kendall_window
from vlr_jax.losses.selhn import selhn
from vlr_jax.losses.sigmoid import sigmoid
from vlr_jax.losses.smooth_ndcg import smooth_ndcg
from vlr_jax.losses.triplet_hard import triplet_hard
from vlr_jax.losses.triplet_soft import triplet_soft
from vlr_jax.losses.triplet_sum import triplet_sum
from vlr_jax.losses.unified import unified

__all__ = [
    "adaptive_contrastive",
    "adaptive_margin",
    "info_nce",
    "kendall",
    "kendall_pairs",
    "kendall_window",
    "selhn",
    "sigmoid",
    "smooth_ndcg",
    "triplet_hard",
    "triplet_soft",
    "triplet_sum",
    "unified",
]
