"""Agreement with people on Flickr8k: the Expert and CrowdFlower judgments (`vlr_jax.judgments`).

Only the judged pairs are scored, by the model's own `similarity` on tiles, so late interaction works as well.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from vlr_jax import judgments, search, sharding, tiles


class Evaluator:
    """Evaluates on one split.

    Args:
        predict: from `Task.predict()`: `encode_visual`, `encode_text`, `similarity`.
        split: from `pipeline.open_split`; visuals are named as the images in the files.
        mesh: devices; encodes and scores over its `data` axis.
        expert, crowdflower: Flickr8k's annotation files; at least one.
        partial: leave out judgments about what the split does not have, rather than refuse them.
        batch_size: rows encoded at once, raised to a multiple of the data axis.
        block: largest tile of scores.
        progress: show progress bars.

    Raises:
        ValueError: no file, one that can't be read, or judgments about images that the split does not have.
    """

    def __init__(
        self,
        predict: dict,
        *,
        split,
        mesh: Mesh,
        expert: str | None = None,
        crowdflower: str | None = None,
        partial: bool = False,
        batch_size: int = 256,
        block: tuple[int, int] = tiles.BLOCK,
        progress: bool = False,
    ):
        given = {name: path for name, path in (("expert", expert), ("crowdflower", crowdflower)) if path}
        self.judged = judgments.load(given, split.names, split.text_visual, partial=partial)
        self.predict, self.split, self.mesh, self.progress = predict, split, mesh, progress
        self.batch_size, self.block = sharding.rows(batch_size, mesh), tuple(block)

    @functools.cached_property
    def limits(self) -> dict:
        """`chance`, a random order, and `oracle`, the order of the mean grades; neither needs a model."""
        oracle, chance = {}, {}
        for name, judged in self.judged.items():
            oracle |= judgments.measure(name, judged.grades.mean(1), judged)
            chance |= judgments.chance(name, judged)
        return {"oracle": oracle, "chance": chance}

    def names(self) -> list[str]:
        """The metrics that `run` gives."""
        return list(self.limits["chance"])

    def run(self, variables) -> Iterator[tuple[str, float]]:
        """(name, value) of every metric: `expert_tau_c`, `crowdflower_tau_b`, `expert_NDCG`, …"""
        yield from self.result(variables)["metrics"].items()

    def result(self, variables) -> dict:
        """The dict that `evaluators.retrieval` returns, without examples, and `judgments`: how many of each file.

        `used` rows enter the metrics; `own` (a caption judged against its own image) and `unknown` ones do not. The
        `tied` share is of judged pairs that have an equal among them.
        """
        values, tied = {}, {}
        with jax.set_mesh(self.mesh):
            options = dict(mesh=self.mesh, progress=self.progress)
            visual, text = (
                tiles.encode_split(self.predict, variables, self.split, view, self.batch_size, **options)
                for view in ("visuals", "texts")
            )
            scores = tiles.blocks(self.predict["similarity"], variables, visual, text, block=self.block, mesh=self.mesh)
            finite = tiles.finite(visual) and tiles.finite(text)
            for name, judged in self.judged.items():
                found = search.scores_of(scores, judged.visuals, judged.texts)
                values |= judgments.measure(name, found, judged)
                _, inverse, counts = np.unique(found, return_inverse=True, return_counts=True)
                tied[name] = float(np.mean(counts[inverse] > 1))
                finite &= bool(np.isfinite(found).all())
        return {
            "metrics": values,
            **self.limits,
            "protocol": "none",
            "judgments": {name: judgments.counts(judged) for name, judged in self.judged.items()},
            "visuals": self.split.n_visuals,
            "texts": self.split.n_texts,
            "ids": self.split.ids_hash,
            "truncated": self.split.truncated,
            "tied": tied,
            "finite": finite,
            "examples": [],
        }
