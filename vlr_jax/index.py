"""An index on disk: one `.npy` per leaf of an `Encoded`, and `index.json` with the names of the items and who made it.

Opened memory-mapped, so that a gallery larger than memory is searched block by block (`search.top_k`).
"""

import json
import os
import pathlib
import shutil
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from vlr_jax import search, tiles
from vlr_jax.types import Encoded

FORMAT = 1


class Index(NamedTuple):
    """An opened index: memory-mapped encodings of N items, their N names, and what `build` was told about them."""

    encoded: Encoded
    names: list[str]
    meta: dict


def build(folder, encoded: Encoded, names: list[str], meta: dict) -> pathlib.Path:
    """Writes an index; complete or not at all, since the folder gets its name last. Replaces an older index.

    Args:
        folder: where; its parent is made if needed.
        encoded: N items on the host. Leaves that numpy has no type for (bfloat16) are stored as float32.
        names: N names, as `query` returns them.
        meta: JSON values that say which model and data these are; `load` can insist on them.

    Raises:
        ValueError: unequal numbers of names and items, or `folder` exists and is no index.
    """
    folder, leaves = pathlib.Path(folder), _leaves(encoded)
    if unequal := {name: len(leaf) for name, leaf in leaves.items() if len(leaf) != len(names)}:
        raise ValueError(f"{len(names)} names, but the encodings have {unequal} rows")
    if folder.exists() and not (folder / "index.json").is_file():
        raise ValueError(f"{folder} exists and is not an index; it is left alone, choose another folder")
    partial, old = (folder.with_name(f".{folder.name}.{what}-{os.getpid()}") for what in ("partial", "old"))
    partial.mkdir(parents=True)
    try:
        for name, leaf in leaves.items():
            np.save(partial / f"{name}.npy", leaf.astype(np.float32) if leaf.dtype.kind == "V" else leaf)
        about = {"format": FORMAT, "count": len(names), "leaves": list(leaves), "meta": meta, "names": list(names)}
        (partial / "index.json").write_text(json.dumps(about))
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load(folder, expect: dict | None = None) -> Index:
    """Opens an index.

    Args:
        folder: from `build`.
        expect: entries that its `meta` must have, such as the fingerprint of the model that will encode the queries.

    Raises:
        ValueError: no index, one of another format, a damaged one, or one that `expect` does not describe.
    """
    folder = pathlib.Path(folder)
    if not (folder / "index.json").is_file():
        raise ValueError(f"{folder} is not an index: it has no index.json; --mode index makes one")
    try:
        about = json.loads((folder / "index.json").read_text())
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, this version reads {FORMAT}")
        leaves = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in about["leaves"]}
        if unequal := {name: len(leaf) for name, leaf in leaves.items() if len(leaf) != about["count"]}:
            raise ValueError(f"expected {about['count']} rows, found {unequal}")
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"the index {folder} can't be read: {error}; build it again") from error
    for key, value in (expect or {}).items():
        if about["meta"].get(key) != value:
            raise ValueError(
                f"the index {folder} was built with {key} = {about['meta'].get(key)!r}, expected {value!r}: its "
                "encodings can't be compared with this model's; build it again with --mode index"
            )
    return Index(_encoded(leaves), about["names"], about["meta"])


def query(
    similarity, variables, index: Index, text: Encoded, k: int = 10, *, mesh: Mesh | None = None, block=tiles.BLOCK
) -> list[list[tuple[str, float]]]:
    """The k best items of an index of visuals for each text: (name, score), best first."""
    scores = tiles.blocks(similarity, variables, index.encoded, text, block=block, mesh=mesh)
    found = zip(*search.top_k(scores, k, axis=0), strict=True)
    return [[(index.names[i], float(s)) for s, i in zip(scores, ids, strict=True)] for scores, ids in found]


def _leaves(encoded: Encoded) -> dict[str, np.ndarray]:
    named = {"pooled": encoded.pooled, "tokens": encoded.tokens, "mask": encoded.mask}
    named |= {f"extra.{name}": leaf for name, leaf in encoded.extra.items()}
    return {name: np.asarray(leaf) for name, leaf in named.items() if leaf is not None}


def _encoded(leaves: dict[str, np.ndarray]) -> Encoded:
    extra = {name.removeprefix("extra."): leaf for name, leaf in leaves.items() if name.startswith("extra.")}
    return Encoded(leaves["pooled"], leaves.get("tokens"), leaves.get("mask"), extra)
