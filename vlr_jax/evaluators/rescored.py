"""Extra rows that are not the plain ranking: dual softmax, querybank normalisation, best text per video.

One whole score matrix, changed by `vlr_jax.rescoring`, then ranked as everything is, ties against the model. The plain
numbers are those of `evaluators/retrieval.py` and stand beside; `docs/protocols.md` says what the rows may be compared
with.
"""

import functools
import itertools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from vlr_jax import metrics, protocols, rescoring, search, sharding, tiles

ROWS = ("dsl", "qb_norm", "per_video")
AXIS = {"v2t": 1, "t2v": 0}  # of the candidates
GROUP = 4096  # queries of the bank that are encoded at once: their tokens need not be whole in memory
GIB = 2**30


class Evaluator:
    """Evaluates on one split.

    Args:
        predict: from `Task.predict()`: `encode_visual`, `encode_text`, `similarity`.
        split: from `pipeline.open_split`.
        mesh: devices; encodes and scores over its `data` axis.
        rows: which of `dsl` (dual softmax), `qb_norm` (querybank normalisation), `per_video` (v2t over the best text of
            each visual).
        protocol: a name of `protocols.PROTOCOLS` of one gallery, whose counts are asserted; None for none.
        incomplete: report a protocol although visuals of its gallery are missing in the data, and say so in `result`.
        temperature: of the dual softmax, on the model's cosines; 0.01 is CLIP's logit scale of 100.
        bank: the split of the same data whose texts and visuals are the querybank: training queries.
        inverse_temperature: β of the querybank, on the model's cosines.
        memory_limit: GiB that the whole float32 matrix, and for `per_video` that of its maxima, may take on the host.
        batch_size: rows encoded at once, raised to a multiple of the data axis.
        block: largest tile of scores.
        progress: show progress bars.

    Raises:
        ValueError: an unknown row or protocol, one of several folds or on an incomplete gallery, a bank that is the
            split itself, a test split or not there, or a matrix beyond `memory_limit`; all before anything is encoded.
    """

    def __init__(
        self,
        predict: dict,
        *,
        split,
        mesh: Mesh,
        rows: tuple[str, ...] = ROWS,
        protocol: str | None = None,
        incomplete: bool = False,
        temperature: float = rescoring.TEMPERATURE,
        bank: str = "train",
        inverse_temperature: float = rescoring.INVERSE_TEMPERATURE,
        memory_limit: float = 4.0,
        batch_size: int = 256,
        block: tuple[int, int] = tiles.BLOCK,
        progress: bool = False,
    ):
        if not rows or isinstance(rows, str) or not set(rows) <= set(ROWS):
            raise ValueError(f"rows {rows!r} of a rescored evaluation; expected a list of some of {', '.join(ROWS)}")
        if not (temperature > 0 and inverse_temperature > 0):
            raise ValueError(
                f"temperature {temperature!r}, inverse_temperature {inverse_temperature!r}; expected positive numbers"
            )
        self.rows = [row for row in ROWS if row in rows]
        self.owner, self.shape = np.asarray(split.text_visual), (split.n_visuals, split.n_texts)
        self.gallery = protocols.check_split(protocol, split, incomplete)
        if len(protocols.folds(protocol, self.owner, split.n_visuals)) > 1:
            raise ValueError(f"protocol {protocol!r} has several galleries; rescored rows are of one whole matrix")
        need = rescoring.memory(*self.shape, best_texts="per_video" in self.rows) / GIB
        if need > memory_limit:
            raise ValueError(
                f"the score matrix of {split.n_visuals} visuals and {split.n_texts} texts needs {need:.1f} GiB on the "
                f"host; memory_limit is {memory_limit:g}. Give more, or evaluate a smaller split"
            )
        self.bank = self._bank(split, bank) if "qb_norm" in self.rows else None
        self.predict, self.split, self.mesh, self.protocol = predict, split, mesh, protocol or protocols.NONE
        self.temperature, self.beta, self.progress = temperature, inverse_temperature, progress
        self.batch_size, self.block = sharding.rows(batch_size, mesh), tuple(block)

    @staticmethod
    def _bank(split, name: str):
        if name == split.name:
            raise ValueError(f"bank {name!r} is the evaluated split: the querybank is of training queries")
        if name.lower().startswith("test"):
            raise ValueError(f"bank {name!r} is a test split: the querybank is of training queries, such as train")
        return split.beside(name)

    @functools.cached_property
    def chance(self) -> dict[str, float]:
        """Every metric in expectation over random orders."""
        truth = search.truth_of(self.owner, self.shape)
        owned = {d: np.bincount(truth[side][:, side], minlength=self.shape[side]) for side, d in enumerate(AXIS)}
        plain = {d: metrics.chance(self.shape[AXIS[d]], owned[d]) for d in AXIS}
        visuals = np.unique(self.owner)
        values = {"per_video": {f"v2t_{k}": v for k, v in metrics.chance(len(visuals), np.ones_like(visuals)).items()}}
        values |= {row: metrics.both_directions(**plain) for row in ("dsl", "qb_norm")}
        return {f"{row}/{name}": value for row in self.rows for name, value in values[row].items()}

    def names(self) -> list[str]:
        """The metrics that `run` gives."""
        return list(self.chance)

    def run(self, variables) -> Iterator[tuple[str, float]]:
        """(name, value) of every metric: `dsl/t2v_R@1`, `qb_norm/rsum`, `per_video/v2t_R@1`, …"""
        yield from self.result(variables)["metrics"].items()

    def result(self, variables) -> dict:
        """The dict that `evaluators.retrieval` returns, without oracle and examples, and `rows`.

        `rows` says how each row was made: the temperature, the bank with the numbers of its queries and the share of
        the gallery that was active in it, the number of candidates. `tied` is per row and direction.
        """
        values, tied, made = {}, {}, {}
        with jax.set_mesh(self.mesh):
            options = dict(mesh=self.mesh, progress=self.progress)
            visual, text = (
                tiles.encode_split(self.predict, variables, self.split, view, self.batch_size, **options)
                for view in ("visuals", "texts")
            )
            finite, scores = tiles.finite(visual) and tiles.finite(text), np.empty(self.shape, np.float32)
            for span, strip in tiles.strips(self._tiles(variables, visual, text), axis=1):
                scores[span] = strip
            for row in self.rows:
                matrices, made[row] = getattr(self, f"_{row}")(scores, variables, visual, text)
                found = {direction: self._rank(*matrix, direction) for direction, matrix in matrices.items()}
                measured = {direction: metrics.retrieval(side.positions) for direction, side in found.items()}
                both = metrics.both_directions(**measured) if len(measured) > 1 else _named(measured)
                values |= {f"{row}/{name}": value for name, value in both.items()}
                tied |= {f"{direction}_{row}": float(np.mean(side.tied)) for direction, side in found.items()}
        return {
            "metrics": values,
            "oracle": None,
            "chance": self.chance,
            "protocol": self.protocol,
            "gallery": self.gallery,
            "rows": made,
            "visuals": self.split.n_visuals,
            "texts": self.split.n_texts,
            "ids": self.split.ids_hash,
            "truncated": self.split.truncated,
            "tied": tied,
            "finite": finite and bool(np.isfinite(scores).all()),
            "examples": [],
        }

    def _dsl(self, scores, variables, visual, text):
        made = {
            d: (rescoring.dual_softmax(scores, axis=AXIS[d], temperature=self.temperature), self.owner) for d in AXIS
        }
        return made, {"temperature": self.temperature}

    def _qb_norm(self, scores, variables, visual, text):
        made, said = {}, {"bank": self.bank.name, "inverse_temperature": self.beta}
        for direction, view in (("v2t", "visuals"), ("t2v", "texts")):
            axis = AXIS[direction]
            strips = self._bank_strips(variables, view, text if axis else visual)
            bank = rescoring.bank_of(strips, scores.shape[axis], inverse_temperature=self.beta)
            made[direction] = (
                rescoring.querybank(scores, bank, axis=axis, inverse_temperature=self.beta),
                self.owner,
            )
            said |= {f"{direction}_queries": bank.queries, f"{direction}_active": float(np.mean(bank.active))}
        return made, said

    def _per_video(self, scores, variables, visual, text):
        best, owners = rescoring.per_video(scores, self.owner)
        return {"v2t": (best, owners)}, {"candidates": len(owners)}

    def _bank_strips(self, variables, view: str, gallery) -> Iterator[np.ndarray]:
        """Scores `[q, C]` of the bank's visuals or texts against the encoded gallery, some queries at a time."""
        encode = self.predict["encode_visual" if view == "visuals" else "encode_text"]
        batches, size = self.bank.epoch(view, self.batch_size), max(1, GROUP // self.batch_size)
        while some := list(itertools.islice(batches, size)):
            queries = tiles.encode_all(encode, variables, some, mesh=self.mesh)
            sides = (queries, gallery) if view == "visuals" else (gallery, queries)
            axis = 1 if view == "visuals" else 0
            yield from (strip for _, strip in tiles.strips(self._tiles(variables, *sides), axis=axis))

    def _tiles(self, variables, visual, text) -> tiles.Tiles:
        return tiles.blocks(self.predict["similarity"], variables, visual, text, block=self.block, mesh=self.mesh)

    def _rank(self, matrix, owner: np.ndarray, direction: str) -> search.Ranking:
        """Ranks one direction, in float64 where the matrix is."""
        with jax.enable_x64(matrix.dtype == np.float64):
            given = tiles.matrix(matrix, block=self.block, mesh=self.mesh)
            words = f"ranking {direction}" if self.progress else None
            return search.rank_all(given, owner, progress=words)[1 - AXIS[direction]]


def _named(measured: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{direction}_{name}": value for direction, values in measured.items() for name, value in values.items()}
