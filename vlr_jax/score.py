"""Metrics of scores made elsewhere, without any model: `python -m vlr_jax.score ranking --scores sims.npy …`.

The same tiles and the same counting as in training, on blocks of a memory-mapped file.
"""

import argparse
import contextlib
import hashlib
import json
import pathlib
import sys

import jax
import numpy as np

from vlr_jax import files, metrics, protocols, search, tiles


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the subcommand; 0, or 2 with one line on stderr where the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m vlr_jax.score", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    ranking = commands.add_parser("ranking", help="a matrix of similarities → R@K, ranks, rsum, mAP@R, R-Precision")
    ranking.add_argument("--scores", required=True, help=".npy (memory-mapped) or .npz with one array: [V, T] floats")
    ranking.add_argument("--protocol", default=protocols.NONE, help=", ".join([*protocols.PROTOCOLS, protocols.NONE]))
    ranking.add_argument("--text_visual", help=".npy: the visual (row) of each text; else the protocol's order")
    ranking.add_argument("--output", help="the result as JSON")
    options = parser.parse_args(arguments)
    try:
        result = rank_file(options.scores, protocol=options.protocol, text_visual=options.text_visual)
        if options.output:
            files.write(options.output, json.dumps(result, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 2
    print(table(result))
    return 0


def rank_file(scores: str, *, protocol: str = protocols.NONE, text_visual: str | None = None) -> dict:
    """Ranks a score file.

    Args:
        scores: path of a `.npy` or `.npz` with one `[V, T]` floating array.
        protocol: asserts the counts, and says that text t belongs to visual t // (texts per visual).
        text_visual: path of an int `.npy` `[T]`, or `[T, P]` padded with −1 where texts have several visuals.

    Returns:
        the dict that `evaluators.retrieval` returns, without examples; `ids` is a hash of the ground truth, `nan` the
        number of NaN scores.

    Raises:
        ValueError: missing or unreadable file, wrong shape or type, counts that are not the protocol's.
    """
    matrix = _load(scores)
    if matrix.ndim != 2 or matrix.dtype.kind != "f" or 0 in matrix.shape:
        raise ValueError(f"{scores} holds {matrix.dtype} {matrix.shape}; expected floats [visuals, texts]")
    n_visuals, n_texts = matrix.shape
    owner = _truth(text_visual, protocol, n_visuals, n_texts)
    values, tied, chances, missing = [], [], [], 0
    for visuals, texts in protocols.folds(protocol, owner if owner.ndim == 1 else owner.max(1), n_visuals):
        part = matrix[visuals[0] : visuals[-1] + 1]
        part = part if len(texts) == n_texts else part[:, texts]
        local = np.where(owner[texts] >= 0, owner[texts] - visuals[0], -1)
        missing += sum(int(np.isnan(part[i : i + 256]).sum()) for i in range(0, len(part), 256))
        # Scores that differ only in float64 must not become ties.
        with jax.enable_x64(True) if part.dtype == np.float64 else contextlib.nullcontext():
            sides = search.rank_all(tiles.matrix(part), local, progress="ranking" if sys.stderr.isatty() else None)
        values.append(metrics.both_directions(*(metrics.retrieval(side.positions) for side in sides)))
        tied.append({d: float(np.mean(side.tied)) for d, side in zip(("v2t", "t2v"), sides, strict=True)})
        counts = [(side.positions > 0).sum(1) for side in sides]
        chances.append(metrics.both_directions(*map(metrics.chance, part.shape[::-1], counts)))
    return {
        "metrics": metrics.mean(values),
        "oracle": None,
        "chance": metrics.mean(chances),
        "protocol": protocol,
        "visuals": n_visuals,
        "texts": n_texts,
        "ids": hashlib.sha256(np.ascontiguousarray(owner).tobytes()).hexdigest(),
        "tied": metrics.mean(tied),
        "finite": missing == 0,
        "nan": missing,
        "examples": [],
    }


def _truth(text_visual: str | None, protocol: str, n_visuals: int, n_texts: int) -> np.ndarray:
    """The visual of each text, int64 `[T]` or `[T, P]`, in accord with the protocol."""
    if text_visual:
        owner = _load(text_visual)
        if owner.ndim not in (1, 2) or owner.dtype.kind not in "iu" or len(owner) != n_texts:
            raise ValueError(
                f"{text_visual} holds {owner.dtype} {owner.shape}; expected integers, one of {n_texts} a text"
            )
        owner = np.asarray(owner).astype(np.int64)
        if not 0 <= owner.max() < n_visuals:
            raise ValueError(f"{text_visual} names visuals up to {owner.max()}; the scores have {n_visuals} rows")
    elif protocol in protocols.PROTOCOLS:
        owner = np.arange(n_texts) // protocols.PROTOCOLS[protocol].texts_per_visual
    else:
        protocols.check(protocol, n_visuals, n_texts, 0)  # refuses an unknown name
        raise ValueError("which text belongs to which visual? Name a --protocol, or give --text_visual")
    protocols.check(protocol, n_visuals, n_texts, np.bincount(owner[owner >= 0], minlength=n_visuals))
    return owner


def table(result: dict) -> str:
    """The result for people."""
    values, rows = result["metrics"], []
    names = list(dict.fromkeys(name.split("_", 1)[1] for name in values if "_" in name))
    width = max(map(len, names)) + 2
    rows.append(" " * 5 + "".join(f"{name:>{width}}" for name in names))
    for direction in ("v2t", "t2v"):
        cells = (values.get(f"{direction}_{name}") for name in names)
        rows.append(f"{direction:5}" + "".join(f"{'' if v is None else f'{v:.2f}':>{width}}" for v in cells))
    rows.append(f"rsum {values['rsum']:.2f}   (chance {result['chance']['rsum']:.2f})")
    rows.append(f"protocol {result['protocol']}: {result['visuals']:,} visuals, {result['texts']:,} texts")
    rows.append("tied queries: " + ", ".join(f"{d} {100 * share:.2f} %" for d, share in result["tied"].items()))
    if result["nan"]:
        rows.append(f"WARNING: {result['nan']:,} scores are NaN; they count against the model")
    return "\n".join(rows)


def _load(path: str) -> np.ndarray:
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f"no file {file}")
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                raise ValueError(f"it holds {', '.join(loaded.files) or 'nothing'}, expected one array")
            return loaded[loaded.files[0]]
    except Exception as error:  # numpy raises many kinds on damaged files
        raise ValueError(f"{file} can't be read as .npy or .npz without pickled objects: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
