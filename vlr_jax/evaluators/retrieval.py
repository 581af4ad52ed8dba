"""Cross-modal retrieval in both directions, beside chance and, where the facts are known, the best reachable score.

Every visual and every text is encoded once; ranks are counted tile by tile with ties against the model, so neither the
number of candidates nor a collapsed network can flatter a result.
"""

import functools
import operator
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from vlr_jax import metrics, protocols, search, sharding, tiles
from vlr_jax import relevance as relevances
from vlr_jax.types import Encoded

AXIS = {"v2t": 1, "t2v": 0}  # of the candidates
STRIP = 2**22  # entries of a strip of grades or fact shares on the host
GRADED = tuple(relevances.READS)  # relevances with grades


class Evaluator:
    """Evaluates on one split.

    Args:
        predict: from `Task.predict()`: `encode_visual`, `encode_text`, `similarity`.
        split: from `pipeline.open_split`.
        mesh: devices; encodes and scores over its `data` axis.
        protocol: a name of `protocols.PROTOCOLS`, whose counts are asserted now; None for none.
        incomplete: report a protocol although visuals of its gallery are missing in the data, and say so in `result`.
        relevance: graded relevance for NDCG and Kendall's tau: `facts`, where the split has facts; `caption` or
            `caption_cosine`, the pseudo grades of its sentence vectors; `identity` for none of it.
        batch_size: rows encoded at once, raised to a multiple of the data axis.
        block: largest tile of scores.
        ndcg_at: cut-off of NDCG.
        examples: best, worst and sampled queries in `result`, so many of each in each direction; 0 for none.
        progress: show progress bars.

    Raises:
        ValueError: unknown protocol or relevance, sentence vectors that the split does not have, other counts than the
            protocol's, or a protocol on an incomplete gallery.
    """

    def __init__(
        self,
        predict: dict,
        *,
        split,
        mesh: Mesh,
        protocol: str | None = None,
        incomplete: bool = False,
        relevance: str = "facts",
        batch_size: int = 256,
        block: tuple[int, int] = tiles.BLOCK,
        ndcg_at: int = 10,
        examples: int = 5,
        progress: bool = False,
    ):
        if relevance not in GRADED and relevance != "identity":
            raise ValueError(f"relevance {relevance!r} of an evaluation; expected {', '.join(GRADED)} or identity")
        self.gallery = protocols.check_split(protocol, split, incomplete)
        self.predict, self.split, self.mesh, self.protocol = predict, split, mesh, protocol or protocols.NONE
        self.batch_size, self.block = sharding.rows(batch_size, mesh), tuple(block)
        self.k, self.examples, self.progress = ndcg_at, examples, progress
        self.facts = split.facts()
        self.relevance, self.columns = relevance, self.facts if relevance == "facts" else None
        if relevance not in ("facts", "identity"):
            self.columns = split.vectors()
            if self.columns is None:
                raise ValueError(
                    f"relevance {relevance!r} of an evaluation needs sentence vectors, which split {split.name!r} was "
                    "prepared without; prepare another folder with --sentence_encoder"
                )
        self.graded = self.columns is not None
        self.folds = protocols.folds(protocol, split.text_visual, split.n_visuals)

    def names(self) -> list[str]:
        """The metrics that `run` gives."""
        return list(self.limits["chance"])

    def run(self, variables) -> Iterator[tuple[str, float]]:
        """(name, value) of every metric: `t2v_R@1`, `v2t_medR`, `rsum`, …"""
        yield from self._evaluate(variables, 0)["metrics"].items()

    def result(self, variables) -> dict:
        """All of it, as JSON values.

        `metrics`, `oracle` (or None) and `chance` share their names; `protocol`, `visuals`, `texts` and `ids` (a hash
        of what was evaluated) say what was measured, `gallery` (or None) that some of it is missing; `truncated` texts
        lost words to `text.length`; `tied` is the share of queries whose best positive has an equal among the
        negatives; `relevance` (or None) says by which grades NDCG and tau are, and where those come from; `finite` is
        False if an embedding or a best positive's score was NaN or infinite, or any positive's NaN; `examples` are the
        best and worst queries, and a sample that is the same for every model, with what was retrieved (none for a model
        that is not finite).
        """
        return self._evaluate(variables, self.examples)

    def _evaluate(self, variables, examples: int) -> dict:
        with jax.set_mesh(self.mesh):
            options = dict(mesh=self.mesh, progress=self.progress)
            visual, text = (
                tiles.encode_split(self.predict, variables, self.split, view, self.batch_size, **options)
                for view in ("visuals", "texts")
            )
            finite, values, tied, shown = tiles.finite(visual) and tiles.finite(text), [], [], []
            for visuals, texts in self.folds:
                scores = self._tiles(variables, visual, text, visuals, texts)
                sides = search.rank_all(scores, self._local(visuals, texts), progress=self._bar("ranking"))
                finite &= all(side.finite(n) for side, n in zip(sides, scores.shape[::-1], strict=True))
                found = {d: metrics.retrieval(side.positions) for d, side in zip(AXIS, sides, strict=True)}
                if self.graded:
                    for direction, more in found.items():
                        more |= self._grades(scores, visuals, texts, AXIS[direction])
                values.append(metrics.both_directions(**found))
                tied.append({d: float(np.mean(side.tied)) for d, side in zip(AXIS, sides, strict=True)})
                if examples and finite and not shown:
                    shown = self._examples(variables, visual, text, visuals, texts, sides, examples)
        return {
            "metrics": metrics.mean(values),
            **self.limits,
            "protocol": self.protocol,
            "visuals": self.split.n_visuals,
            "texts": self.split.n_texts,
            "gallery": self.gallery,
            "ids": self.split.ids_hash,
            "truncated": self.split.truncated,
            "tied": metrics.mean(tied),
            "relevance": {"name": self.relevance, "origin": self._origin()} if self.graded else None,
            "finite": finite,
            "examples": shown if finite else [],
        }

    @functools.cached_property
    def limits(self) -> dict:
        """`oracle` and `chance`: what the data allow, whatever the model. Computed once.

        `oracle` is None unless the facts are all that can be known (`split.facts_complete`: the procedural world).

        The oracle knows all facts and ranks by the share of a text's facts that are true in a visual. Of the texts that
        are wholly true in a visual it prefers those true in few: a text true in n visuals is about this one with
        probability 1/n. What it cannot tell apart is ordered at random. Its metrics, like those of chance, are
        expectations in closed form.
        """
        oracles, chances = [], []
        for visuals, texts in self.folds:
            owner = self._local(visuals, texts)
            positives = {"v2t": search.positives_of(owner, len(visuals)), "t2v": owner[:, None]}
            oracle, chance = {}, {}
            for direction, candidates in (("v2t", len(texts)), ("t2v", len(visuals))):
                chance[direction] = metrics.chance(candidates, (positives[direction] >= 0).sum(1))
                if self.graded:
                    chance[direction] |= self._chance_grades(visuals, texts, AXIS[direction])
                if self.facts and self.split.facts_complete:
                    oracle[direction] = self._oracle(visuals, texts, positives[direction], AXIS[direction])
            chances.append(metrics.both_directions(**chance))
            oracles += [metrics.both_directions(**oracle)] if oracle else []
        return {"oracle": metrics.mean(oracles) if oracles else None, "chance": metrics.mean(chances)}

    def _origin(self) -> dict:
        """Where the grades come from: the split's facts, or the encoder of its sentence vectors."""
        if self.relevance != "facts":
            return self.split.sentence
        return {"facts": self.facts[0].shape[1], "complete": self.split.facts_complete}

    def _chance_grades(self, visuals, texts, axis) -> dict:
        """NDCG and tau of a random order, in one direction."""
        ndcg, (queries, candidates) = [], (visuals, texts) if axis == 1 else (texts, visuals)
        step = max(1, STRIP // len(candidates))
        for span in (slice(i, i + step) for i in range(0, len(queries), step)):
            grade = self._relevance(*((visuals[span], texts) if axis == 1 else (visuals, texts[span])), axis)
            ndcg.append(metrics.expected_ndcg_at(np.zeros_like(grade), grade, self.k))
        return self._means(ndcg, [np.zeros(1)])

    def _oracle(self, visuals, texts, positives, axis) -> dict:
        """Metrics of the ranking by facts in one direction; the graded ones where the grades are facts too."""
        queries, candidates = (visuals, texts) if axis == 1 else (texts, visuals)
        probable = 1 / np.maximum(self._true_in(visuals, texts), 1)
        better, tied, ndcg, tau = [], [], [], []
        step = max(1, STRIP // len(candidates))
        for span in (slice(i, i + step) for i in range(0, len(queries), step)):
            rows, columns = (visuals[span], texts) if axis == 1 else (visuals, texts[span])
            share = _host(_fact_share, self.facts[0][rows], self.facts[1][columns])
            share = share if axis == 1 else share.T
            scores = share + (share >= 1) * (probable if axis == 1 else probable[span, None])  # the same for one text
            own = positives[span]
            level = np.where(own >= 0, np.take_along_axis(scores, np.maximum(own, 0), 1), -1.0)
            level = -np.sort(-level, axis=1)
            counts = [((scores > one[:, None]).sum(1), (scores == one[:, None]).sum(1)) for one in level.T]
            better.append(np.stack([b for b, _ in counts], 1))
            tied.append(np.where(level >= 0, np.stack([t for _, t in counts], 1), 0))
            if self.relevance == "facts":
                grade = self._relevance(rows, columns, axis)
                ndcg.append(metrics.expected_ndcg_at(share, grade, self.k))
                tau.append(metrics.kendall_tau(share, grade))
        return metrics.expected(np.concatenate(better), np.concatenate(tied)) | (self._means(ndcg, tau) if ndcg else {})

    def _true_in(self, visuals, texts) -> np.ndarray:
        """In how many of the visuals each text is wholly true."""
        step = max(1, STRIP // len(visuals))
        said, true = self.facts[1][texts], self.facts[0][visuals]
        parts = [(_host(_fact_share, true, said[i : i + step]) >= 1).sum(0) for i in range(0, len(texts), step)]
        return np.concatenate(parts)

    def _grades(self, scores: tiles.Tiles, visuals, texts, axis: int) -> dict:
        """NDCG and Kendall's tau of the model in one direction, in strips of complete rows."""
        ndcg, tau = [], []
        for span, strip in tiles.strips(scores, axis=axis):
            rows, columns = (visuals[span], texts) if axis == 1 else (visuals, texts[span])
            grade = self._relevance(rows, columns, axis)
            ndcg.append(_host(_ndcg, strip, grade, k=self.k))
            tau.append(metrics.kendall_tau(strip, grade))
        return self._means(ndcg, tau)

    def _means(self, ndcg: list, tau: list) -> dict:
        """Means over queries; tau leaves out queries whose candidates are all equally relevant."""
        tau = np.concatenate(tau)
        tau = tau[~np.isnan(tau)]
        return {
            f"NDCG@{self.k}": float(np.mean(np.concatenate(ndcg), dtype=np.float64)),
            "tau": float(np.mean(tau)) if len(tau) else 0.0,
        }

    def _relevance(self, visuals, texts, axis: int) -> np.ndarray:
        """Graded relevance `[q, C]` of a strip."""
        of_visuals, of_texts = relevances.READS[self.relevance]
        visual = {"visual_id": visuals, of_visuals: self.columns[0][visuals]}
        text = {"visual_id": self.split.text_visual[texts], "text_id": texts, of_texts: self.columns[1][texts]}
        grade = _host(_grade(self.relevance), visual, text)
        return grade if axis == 1 else grade.T

    def _examples(self, variables, visual, text, visuals, texts, sides, count: int) -> list[dict]:
        """The queries with the best and the worst ranks, one per visual, and a sample spread over the fold, which does
        not depend on the model; each with the five best candidates, and how relevant they are where that is known."""
        shown = []
        for direction, side in (("t2v", sides[1]), ("v2t", sides[0])):
            axis, rank = AXIS[direction], side.positions[:, 0]
            queries, candidates = (texts, visuals) if axis == 0 else (visuals, texts)
            owner = self.split.text_visual[texts] if axis == 0 else visuals
            some = np.flatnonzero(rank > 0)  # those with a positive
            order = some[np.lexsort((-side.best[some], rank[some]))]
            kinds = {
                "best": _first_of_each(order, owner, count),
                "worst": _first_of_each(order[::-1], owner, count),
                "sample": some[np.unique((np.arange(count) + 0.5) * len(some) // count).astype(int)],
            }
            chosen = np.concatenate(list(kinds.values()))
            part = (visuals, texts[chosen]) if axis == 0 else (visuals[chosen], texts)
            found = search.top_k(self._tiles(variables, visual, text, *part), 5, axis=axis)
            named = [kind for kind, places in kinds.items() for _ in places]
            key, words = ("text", self.split.texts) if axis == 0 else ("visual", self.split.names)
            for kind, place, scores, ids in zip(named, chosen, *found, strict=True):
                query = int(queries[place])
                retrieved = self._retrieved(axis, query, scores, candidates[ids])
                what = {key: query, "query": words[query], "direction": direction, "rank": int(rank[place])}
                shown.append(what | {"kind": kind, "retrieved": retrieved})
        return shown

    def _retrieved(self, axis: int, query: int, scores: np.ndarray, ids: np.ndarray) -> list[dict]:
        """What a query found, best first; `grade`, exactly 1.0 on true pairs, where the evaluation has grades."""
        visuals, texts = (ids, np.array([query])) if axis == 0 else (np.array([query]), ids)
        right = self.split.text_visual[texts] == visuals
        key, words = ("visual", self.split.names) if axis == 0 else ("text", self.split.texts)
        items = [
            {key: int(i), "name": words[i], "score": float(s), "right": bool(r)}
            for i, s, r in zip(ids, scores, right, strict=True)
        ]
        if not self.graded:
            return items
        grades = self._relevance(visuals, texts, axis)[0]
        return [item | {"grade": float(grade)} for item, grade in zip(items, grades, strict=True)]

    def _tiles(self, variables, visual, text, visuals, texts) -> tiles.Tiles:
        visual, text = _take(visual, visuals), _take(text, texts)
        return tiles.blocks(self.predict["similarity"], variables, visual, text, block=self.block, mesh=self.mesh)

    def _local(self, visuals, texts) -> np.ndarray:
        """The visual of each text as a position in the fold."""
        return self.split.text_visual[texts] - visuals[0]

    def _bar(self, words: str) -> str | None:
        return words if self.progress else None


_ndcg = jax.jit(metrics.ndcg_at, static_argnames=("k", "axis"))
_fact_share = jax.jit(relevances.fact_share)


@functools.cache
def _grade(name: str):
    """A relevance, compiled, without its `where`."""
    return jax.jit(lambda visual, text: relevances.named(name)(visual, text)[0])


def _host(function, *arguments, **options):
    """Calls a compiled function with numpy arguments; explicit transfers, since training forbids silent ones."""
    return jax.device_get(function(*jax.device_put(arguments), **options))


def _take(encoded: Encoded, rows: np.ndarray) -> Encoded:
    """Some rows; everything, in order, is not copied."""
    return encoded if len(rows) == len(encoded.pooled) else jax.tree.map(operator.itemgetter(rows), encoded)


def _first_of_each(order: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of `order` that belong to different owners."""
    first = np.unique(owner[order], return_index=True)[1]
    return order[np.sort(first)[:count]]
