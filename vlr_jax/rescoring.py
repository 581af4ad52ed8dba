"""Scores changed by what other queries found: dual softmax (DSL), querybank normalisation, the best text per video.

Numbers of these are not those of the plain ranking and are never shown as such (docs/protocols.md). All of it is numpy
on the host: the matrix `[V, T]` is float32 and whole, what becomes of its entries is float64 and exists a block at a
time, since a softmax at temperature 0.01 leaves the range of float32. `axis` is that of the candidates: 1 = v2t.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

TEMPERATURE = 0.01  # of the dual softmax: cosines times CLIP's logit scale of 100
INVERSE_TEMPERATURE = 20.0  # of querybank normalisation: β of its authors, on cosines
STRIP = 2**21  # entries of a strip of float64


@dataclasses.dataclass(frozen=True)
class Rescored:
    """A matrix `[V, T]` made block by block: `rescored[rows, columns]`, two slices, is float64 on the host.

    Attributes:
        scores: float32 `[V, T]`, what it is made from.
        block: `block(scores[rows, columns] as float64, rows, columns)` → float64 of the same shape.
    """

    scores: np.ndarray
    block: Callable[[np.ndarray, slice, slice], np.ndarray]
    dtype = np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(V, T)."""
        return self.scores.shape

    def __getitem__(self, places: tuple[slice, slice]) -> np.ndarray:
        with np.errstate(all="ignore"):  # NaN and inf stay what they are, and are ranked last
            return self.block(self.scores[places].astype(np.float64), *places)


class Bank(NamedTuple):
    """What querybank normalisation keeps of its queries.

    Attributes:
        log_sums: float64 `[C]`, log Σ_b exp(β · s_bc) over the bank's queries b, of each candidate c.
        active: bool `[C]`, candidates that some query of the bank has among its first k.
        queries: their number.
    """

    log_sums: np.ndarray
    active: np.ndarray
    queries: int


def dual_softmax(scores: np.ndarray, *, axis: int, temperature: float = TEMPERATURE) -> Rescored:
    """DSL: S ∘ softmax of S / τ over all queries, times their number (CAMoE, Cheng et al. 2109.04290; UATVR's code).

    A candidate that many queries want is worth less to each of them. The softmax is over the whole matrix, all test
    queries at once: of a tile alone it would be another number. CAMoE and UATVR apply it with τ = 1 to logits, that is
    cosines times their logit scale; on cosines that is τ = 1 / logit scale, and the same order. As in their code the
    product is with S itself, so among negative scores the order turns: DSL is for cosines of matching pairs.

    Args:
        scores: float32 `[V, T]`, every test query.
        axis: of the candidates; the softmax runs along the other one.
        temperature: τ.

    Raises:
        ValueError: a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of the dual softmax is {temperature!r}; expected a positive number")
    sums, queries = log_sums(scores, 1 / temperature, axis=1 - axis), scores.shape[1 - axis]

    def block(s, rows, columns):
        level = sums[rows, None] if axis == 0 else sums[columns]  # of each candidate
        return s * np.exp(s / temperature - level) * queries

    return Rescored(scores, block)


def bank_of(
    strips: Iterable[np.ndarray], candidates: int, *, inverse_temperature=INVERSE_TEMPERATURE, k: int = 1
) -> Bank:
    """The bank, from rows of scores of its queries.

    Args:
        strips: float `[q, C]`, scores of some queries of the bank against all candidates; those of a model on training
            queries and the test gallery.
        candidates: C.
        inverse_temperature: β.
        k: a candidate is active if it is among the first k of a query.

    Raises:
        ValueError: no query, or no C candidates.
    """
    total, active, queries = np.full(candidates, -np.inf), np.zeros(candidates, bool), 0
    for strip in strips:
        if strip.ndim != 2 or strip.shape[1] != candidates:
            raise ValueError(f"a strip of the bank is {strip.shape}; expected [queries, {candidates} candidates]")
        step = max(1, STRIP // candidates)
        for part in (strip[i : i + step].astype(np.float64) for i in range(0, len(strip), step)):
            active[np.argpartition(-part, min(k, candidates) - 1, axis=1)[:, :k]] = True
            with np.errstate(all="ignore"):
                total = np.logaddexp(total, _log_sum(inverse_temperature * part, 0))
        queries += len(strip)
    if not queries:
        raise ValueError("the bank has no query; expected those of a training split")
    return Bank(total, active, queries)


def querybank(scores: np.ndarray, bank: Bank, *, axis: int, inverse_temperature=INVERSE_TEMPERATURE) -> Rescored:
    """QB-Norm with the dynamic inverted softmax (Bogolin et al., CVPR 2022, eqs. 3 and 5; their code, k = 1, β = 20).

    log of exp(β s_qc) / Σ_b exp(β s_bc): a candidate that the bank's queries like is worth less. That is done only for
    queries whose own best candidate is active in the bank; the others keep their scores, so it can't harm a query that
    finds no hub. Queries are normalised one by one: no test query sees another one.

    Args:
        scores: float32 `[V, T]`.
        bank: `bank_of` training queries against the same candidates, with the same β.
        axis: of the candidates.

    Raises:
        ValueError: a bank of another number of candidates.
    """
    if len(bank.active) != scores.shape[axis]:
        raise ValueError(f"the bank knows {len(bank.active)} candidates; the scores have {scores.shape[axis]}")
    step = max(1, STRIP // scores.shape[axis])
    queries = scores if axis == 1 else scores.T
    best = np.concatenate([queries[i : i + step].argmax(1) for i in range(0, len(queries), step)])
    chosen = bank.active[best]

    def block(s, rows, columns):
        level = bank.log_sums[rows, None] if axis == 0 else bank.log_sums[columns]
        query = chosen[columns] if axis == 0 else chosen[rows, None]
        return np.where(query, inverse_temperature * s - level, s)

    return Rescored(scores, block)


def per_video(scores: np.ndarray, text_visual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maximum over the texts of each visual: v2t as CLIP4Clip's code measures it on MSVD.

    A visual then ranks visuals by their best text, which is easier than ranking all texts: a visual of many texts is
    one candidate instead of many. Never compare the two.

    Args:
        scores: float32 `[V, T]`.
        text_visual: int `[T]`, the visual of each text.

    Returns:
        float32 `[V, O]` for the O visuals with texts, and int `[O]`, which those are. NaN wins every maximum.
    """
    order = np.argsort(text_visual, kind="stable")
    owners, starts = np.unique(text_visual[order], return_index=True)
    best = np.empty((len(scores), len(owners)), scores.dtype)
    step = max(1, STRIP // scores.shape[1])
    for i in range(0, len(scores), step):
        best[i : i + step] = np.maximum.reduceat(scores[i : i + step, order], starts, axis=1)
    return best, owners


def log_sums(scores: np.ndarray, factor: float, *, axis: int) -> np.ndarray:
    """log Σ exp(factor · s) along `axis`, float64, strip by strip."""
    rows = scores if axis == 1 else scores.T
    step = max(1, STRIP // rows.shape[1])
    parts = (rows[i : i + step].astype(np.float64) * factor for i in range(0, len(rows), step))
    with np.errstate(all="ignore"):
        return np.concatenate([_log_sum(part, 1) for part in parts])


def memory(visuals: int, texts: int, *, best_texts: bool) -> int:
    """Bytes at the most: the float32 matrix, for `per_video` that of its maxima too, and strips of float64."""
    return 4 * visuals * texts + best_texts * 4 * visuals * min(visuals, texts) + 8 * 8 * STRIP


def _log_sum(x: np.ndarray, axis: int) -> np.ndarray:
    most = x.max(axis, keepdims=True)
    return np.log(np.exp(x - most).sum(axis)) + most.squeeze(axis)
