"""ECCV Caption and CxC: COCO test with more positives than its captions say (`vlr_jax.extended`).

A split of the 5,000 images and 25,000 captions of COCO test in protocol order; both ground truths in one pass of tiles.
"""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from vlr_jax import extended, search, sharding, tiles


class Evaluator:
    """Evaluates on one split.

    Args:
        predict: from `Task.predict()`: `encode_visual`, `encode_text`, `similarity`.
        split: from `pipeline.open_split`.
        mesh: devices; encodes and scores over its `data` axis.
        files: folder with the data files of the `eccv_caption` package.
        batch_size: rows encoded at once, raised to a multiple of the data axis.
        block: largest tile of scores.
        progress: show progress bars.

    Raises:
        ValueError: files that can't be read, or a split that is not COCO test in protocol order.
    """

    def __init__(
        self,
        predict: dict,
        *,
        split,
        mesh: Mesh,
        files: str,
        batch_size: int = 256,
        block: tuple[int, int] = tiles.BLOCK,
        progress: bool = False,
    ):
        self.known = extended.load(files)
        self.order = extended.check_order(self.known, split.names, split.text_visual)
        self.predict, self.split, self.mesh, self.progress = predict, split, mesh, progress
        self.batch_size, self.block = sharding.rows(batch_size, mesh), tuple(block)

    @functools.cached_property
    def chance(self) -> dict[str, float]:
        """Every metric in expectation over random orders."""
        parts = [extended.chance(name, self.known) for name in self.known.truths]
        return {metric: value for part in parts for metric, value in part.items()}

    def names(self) -> list[str]:
        """The metrics that `run` gives."""
        return list(self.chance)

    def run(self, variables) -> Iterator[tuple[str, float]]:
        """(name, value) of every metric: `v2t_eccv_mAP@R`, `t2v_cxc_R@1`, `cxc_rsum`, …"""
        yield from self.result(variables)["metrics"].items()

    def result(self, variables) -> dict:
        """The dict that `evaluators.retrieval` returns, without oracle and examples, and more.

        `order` is "names" where the visuals' names prove the protocol order and "trust" where they say nothing;
        `queries` are the numbers of queries of each ground truth and direction.
        """
        with jax.set_mesh(self.mesh):
            options = dict(mesh=self.mesh, progress=self.progress)
            visual, text = (
                tiles.encode_split(self.predict, variables, self.split, view, self.batch_size, **options)
                for view in ("visuals", "texts")
            )
            scores = tiles.blocks(self.predict["similarity"], variables, visual, text, block=self.block, mesh=self.mesh)
            progress = "ranking" if self.progress else None
            found = search.rank_each(scores, list(self.known.truths.values()), progress=progress)
        values, tied, finite = {}, {}, tiles.finite(visual) and tiles.finite(text)
        for name, sides in zip(self.known.truths, found, strict=True):
            values |= extended.measure(name, sides)
            asked = [side.positions[:, 0] > 0 for side in sides]
            tied |= {
                f"{d}_{name}": float(np.mean(s.tied[a])) for d, s, a in zip(("v2t", "t2v"), sides, asked, strict=True)
            }
            finite &= all(side.finite(n) for side, n in zip(sides, scores.shape[::-1], strict=True))
        return {
            "metrics": values,
            "oracle": None,
            "chance": self.chance,
            "protocol": "coco-5k with extended positives",
            "queries": {name: extended.queries(name, self.known) for name in self.known.truths},
            "order": self.order,
            "visuals": self.split.n_visuals,
            "texts": self.split.n_texts,
            "ids": self.split.ids_hash,
            "truncated": self.split.truncated,
            "tied": tied,
            "finite": finite,
            "examples": [],
        }
