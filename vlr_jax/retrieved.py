"""Rankings made elsewhere: for every query the ids of what it retrieved, best first, perhaps cut off.

The form of the `eccv_caption` package: `{"i2t": {image id: [caption ids]}, "t2i": {caption id: [image ids]}}` as JSON,
or an npz with int arrays `i2t` `[V, K]` and `t2i` `[T, K]`, and the queries' ids `i2t_ids`, `t2i_ids` (without: all
queries in order). Ids are places in the protocol's order where nothing else says what they are.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from vlr_jax.search import Ranking, Truth

KEYS = ("i2t", "t2i")
ROWS = 512  # queries at once: complete rankings of COCO are 125 million places


class Lists(NamedTuple):
    """int32 `[V, K]` and `[T, K']`: places of what each query retrieved, best first, −1 behind the end."""

    v2t: np.ndarray
    t2v: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(V, T)."""
        return len(self.v2t), len(self.t2v)


def read(path, visual_ids: np.ndarray, text_ids: np.ndarray) -> Lists:
    """Reads rankings.

    Args:
        path: `.json` or `.npz`.
        visual_ids, text_ids: int `[V]`, `[T]`, the ids in the order of the data; `arange` where ids are places.

    Raises:
        ValueError: no such file, another form, unknown ids, negative ids of queries, an id twice in a list, or queries
            without a list.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        raw = _read_json(path) if path.suffix == ".json" else _read_npz(path)
    except Exception as error:  # numpy and json raise many kinds on damaged files
        raise ValueError(f"{path} can't be read as rankings (.json or .npz with i2t and t2i): {error}") from error
    ids, found = (visual_ids, text_ids), []
    for side, key in enumerate(KEYS):
        of_queries, lists = raw[key]
        of_queries = ids[side] if of_queries is None and len(lists) == len(ids[side]) else of_queries
        if of_queries is None or len(of_queries) != len(lists):
            raise ValueError(f"{path}: {key} has {len(lists):,} lists; expected one for each of {len(ids[side]):,}")
        if len(of_queries) and of_queries.min() < 0:  # only lists are filled up with negative ids
            raise ValueError(f"{path}: a query of {key}, {of_queries.min()}, is no id of the data")
        queries = _places(of_queries, ids[side], f"{path}: a query of {key}")
        if len(np.unique(queries)) < len(ids[side]):
            raise ValueError(f"{path}: {key} ranks for {len(np.unique(queries)):,} of {len(ids[side]):,} queries")
        table = np.full((len(ids[side]), lists.shape[1]), -1, np.int32)
        for start in range(0, len(lists), ROWS):
            rows = slice(start, start + ROWS)
            places = _places(lists[rows], ids[1 - side], f"{path}: an item of {key}")
            ordered = np.sort(places, 1)
            if np.any((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)):
                raise ValueError(f"{path}: a list of {key} has the same id twice")
            table[queries[rows]] = places
        found.append(table)
    return Lists(*found)


def restrict(lists: Lists, visuals: np.ndarray, texts: np.ndarray) -> Lists:
    """The rankings of some visuals and texts among themselves: what else was retrieved is taken out."""
    parts = []
    for table, other, queries, candidates in (
        (lists.v2t, lists.t2v, visuals, texts),
        (lists.t2v, lists.v2t, texts, visuals),
    ):
        local = np.full(len(other) + 1, -1, np.int32)  # the last place is that of −1, behind the end of a list
        local[candidates] = np.arange(len(candidates))
        part = local[table[queries]]
        kept = np.take_along_axis(part, np.argsort(part < 0, axis=1, kind="stable"), 1)
        parts.append(kept[:, : max(1, int((kept >= 0).sum(1).max(initial=0)))])
    return Lists(*parts)


def rank(lists: Lists, truth: Truth, deepest: int = 10) -> tuple[Ranking, Ranking]:
    """Positions of the positives; one that a cut-off list lacks stands behind all candidates. Nothing is tied.

    Args:
        lists: of V visuals and T texts.
        truth: positives.
        deepest: R@`deepest` must be known, and so must the first R places of a query with R positives.

    Raises:
        ValueError: a list too short for that.
    """
    return tuple(_rank(table, truth[side][:, side], truth[side][:, 1 - side], len(lists[1 - side]), deepest, KEYS[side])
                 for side, table in enumerate(lists))  # fmt: skip


def _rank(table, queries, positives, candidates: int, deepest: int, key: str) -> Ranking:
    at = np.zeros(len(queries), np.int64)
    for start in range(0, len(at), ROWS):
        rows = slice(start, start + ROWS)
        hits = (table[queries[rows]] == positives[rows, None]) & (positives[rows, None] >= 0)
        at[rows] = np.where(hits.any(1), hits.argmax(1) + 1, 0)
    owned, found = (np.bincount(queries[kept], minlength=len(table)) for kept in (slice(None), at > 0))
    order = np.lexsort((at, at == 0, queries))
    within = np.arange(len(order)) - np.repeat(np.cumsum(owned) - owned, owned)
    ordered = queries[order]
    positions = np.zeros((len(table), max(1, owned.max(initial=0))), np.int64)
    positions[ordered, within] = np.where(at[order] > 0, at[order], candidates + 1 + within - found[ordered])
    lengths, need = (table >= 0).sum(1), np.minimum(np.maximum(deepest, owned), candidates)
    inside = np.bincount(queries[positives >= 0], minlength=len(table))
    if short := np.flatnonzero((found < inside) & (lengths < need)).tolist():
        raise ValueError(
            f"the {key} ranking of query {short[0]} has {lengths[short[0]]} of {candidates:,} candidates; its first "
            f"{need[short[0]]} are needed: give longer (or complete) rankings"
        )
    return Ranking(positions, np.zeros(len(table), bool), np.zeros(len(table)))


def complete(lists: Lists) -> bool:
    """Whether every list ranks all candidates, so that mean and median rank are known."""
    return all(int((table >= 0).sum(1).min()) == n for table, n in zip(lists, lists.shape[::-1], strict=True))


def _read_json(path: pathlib.Path) -> dict:
    content, raw = json.loads(path.read_text(encoding="utf-8")), {}
    for key in KEYS:
        lists = list(content[key].values())
        table = np.full((len(lists), max(map(len, lists))), np.iinfo(np.int64).min)
        for row, found in zip(table, lists, strict=True):
            row[: len(found)] = found
        raw[key] = np.array([int(query) for query in content[key]]), table
    return raw


def _read_npz(path: pathlib.Path) -> dict:
    with np.load(path, allow_pickle=False) as content:
        raw = {key: (content.get(f"{key}_ids"), content[key]) for key in KEYS}
    for key, (_, lists) in raw.items():
        if lists.ndim != 2 or lists.dtype.kind not in "iu":
            raise ValueError(f"{key} is {lists.dtype} {lists.shape}, expected integers [queries, places]")
    return raw


def _places(found: np.ndarray, ids: np.ndarray, what: str) -> np.ndarray:
    """Ids → their places; −1 for negative ones, which fill up lists."""
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids, found, sorter=order), len(ids) - 1)
    unknown = (ids[order[at]] != found) & (found >= 0)
    if unknown.any():
        raise ValueError(f"{what}, {found[unknown][0]}, is no id of the data ({len(ids):,} ids, up to {ids.max()})")
    return np.where(found >= 0, order[at], -1).astype(np.int32)
