"""Moments of texts in their videos, measured by the official evaluation of a named protocol.

Every text of the split that has windows is looked for in its own video; predictions become the lines of a prediction
file and are measured exactly as such a file would be (`vlr_jax.score moments`).
"""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from vlr_jax import answers, calibration, localize, moment_metrics, moment_protocols, predictions


class Evaluator:
    """Evaluates on one split.

    Args:
        predict: from `Task.predict()`: `moments`.
        split: from `pipeline.open_split`, of data with moments.
        mesh: devices; rows are split over its `data` axis.
        protocol: a name of `moment_protocols.PROTOCOLS`: thresholds, strictness, length ranges.
        processing: a name of `answers.PROCESSING`: clipping and rounding of what a model says; None: the protocol's,
            or "exact" where it has none.
        nms: suppression of windows at this IoU; None: as the processing has it, which is none.
        batch_size: texts at once.
        examples: best, worst and sampled texts in `result`, so many of each; 0 for none.
        progress: show progress bars.

    Raises:
        ValueError: an unknown protocol or processing, a split without moments, or with saliency whose clips have
            different lengths.
    """

    def __init__(
        self,
        predict: dict,
        *,
        split,
        mesh: Mesh,
        protocol: str = "qvhighlights",
        processing: str | None = None,
        nms: float | None = None,
        batch_size: int = 32,
        examples: int = 4,
        progress: bool = False,
    ):
        self.protocol, self.name = moment_protocols.protocol(protocol), protocol
        self.processing = answers.processing_of(protocol, processing, nms)
        self.texts = split.ids("moments")
        self.predict, self.split, self.mesh = predict, split, mesh
        self.batch_size, self.examples, self.progress = batch_size, examples, progress
        at = split.timeline
        rated = [at.graded(t)[0] for t in self.texts if at.graded(t) is not None]
        self.saliency = len(rated) == len(self.texts)
        lengths = {round(clip, 6): clip for clip in at.clip_lengths[split.text_visual[self.texts]].tolist()}
        if self.saliency and len(lengths) > 1:
            raise ValueError(f"split {split.name!r} has saliency of clips of {sorted(lengths)} s; expected one length")
        self.clip_length = min(lengths.values())
        self.truth = [self._truth(t) for t in self.texts]
        left_out = sum(map(len, rated)) - sum(len(line.get("relevant_clip_ids", ())) for line in self.truth)
        counted = {"rated clips after the last whole clip of their video, left out": left_out}
        if not self.saliency:
            counted["texts with rated clips; others have none, so highlights are not measured"] = len(rated)
        self.notes = {what: n for what, n in counted.items() if n}

    def names(self) -> list[str]:
        """The metrics that `run` gives: the official names, such as `MR-full-mAP` and `HL-min-VeryGood-Hit1`."""
        return list(moment_metrics.names(self.protocol, self.saliency))

    def run(self, variables) -> Iterator[tuple[str, float]]:
        """(name, value) of every metric, in percent."""
        yield from self._evaluate(variables, 0)["metrics"].items()

    def result(self, variables) -> dict:
        """All of it, as JSON values.

        `metrics`; `brief`, the official short list; `protocol`, `visuals`, `texts` and `ids` (a hash of what was
        evaluated) say what was measured; `unlabelled` texts have no windows and are not; `truncated` texts lost words;
        `notes` are what the evaluation counted; `calibration` is (scale, offset) of σ, which makes of raw saliency the
        probability that a clip is relevant; `finite` is False if a window, score or saliency was not; `examples` are
        the best and worst texts, and a sample that is the same for every model, with what was found (none for a model
        that is not finite).
        """
        return self._evaluate(variables, self.examples)

    def _evaluate(self, variables, examples: int) -> dict:
        pairs = [(int(self.split.text_visual[t]), int(t)) for t in self.texts]
        with jax.set_mesh(self.mesh):
            options = dict(batch_size=self.batch_size, mesh=self.mesh, progress=self.progress)
            found = list(localize.locate(self.predict["moments"], variables, self.split, pairs, **options))
        found.sort(key=lambda one: one.text)
        finite = all(np.isfinite(one.windows).all() and np.isfinite(one.saliency).all() for one in found)
        names, options = self.split.timeline.text_names, dict(saliency=self.saliency)
        lines = [answers.line_of(one, self.split, self.processing, qid=names[one.text], **options) for one in found]
        # A model that is not finite is measured as it is, in the documented lenient way, and said to be that.
        checked = predictions.check(lines, self.truth, lenient=not finite, clip_length=self.clip_length)
        measured = moment_metrics.measure(checked, self.protocol)
        return {
            "metrics": moment_metrics.flatten(measured),
            "brief": measured["brief"],
            "protocol": self.name,
            "visuals": len({visual for visual, _ in pairs}),
            "texts": len(pairs),
            "unlabelled": self.split.n_texts - len(pairs),
            "ids": self.split.ids_hash,
            "truncated": self.split.truncated,
            "notes": self.notes | checked.notes,
            "calibration": self._calibration(found),
            "finite": bool(finite),
            "examples": self._examples(found, lines, checked, examples) if examples and finite else [],
        }

    def _truth(self, t: int) -> dict:
        """The line of a ground-truth file; of rated clips only those that the evaluation has."""
        vid = self.split.names[self.split.text_visual[t]]
        line = self.split.timeline.truth(t) | {"query": self.split.texts[t], "vid": vid}
        if not self.saliency:
            return line
        (n,) = predictions.whole_clips([line["duration"]], self.clip_length)
        kept = [i for i, clip in enumerate(line["relevant_clip_ids"]) if clip < n]
        return line | {key: [line[key][i] for i in kept] for key in ("relevant_clip_ids", "saliency_scores")}

    def _calibration(self, found: list[localize.Found]) -> tuple[float, float] | None:
        """Of raw saliency, on all clips of the split."""
        right = [self.split.timeline.relevant(one.text) for one in found]
        return calibration.fit(np.concatenate([one.saliency for one in found]), np.concatenate(right))

    def _examples(self, found, lines, checked, count: int) -> list[dict]:
        """The texts that the model did best and worst with, one a video, and a sample spread over the split."""
        numbers = moment_metrics.per_query(checked, self.protocol)
        place = {qid: i for i, qid in enumerate(checked.qids)}
        quality = np.array([numbers["iou"][place[line["qid"]]] if line["qid"] in place else np.nan for line in lines])
        some = np.flatnonzero(~np.isnan(quality))
        order = some[np.lexsort((some, -quality[some]))]
        kinds = {
            "best": _one_a_video(order, found, count),
            "worst": _one_a_video(order[::-1], found, count),
            "sample": some[np.unique((np.arange(count) + 0.5) * len(some) // count).astype(int)],
        }
        return [self._example(kind, found[i], lines[i], quality[i]) for kind, ids in kinds.items() for i in ids]

    def _example(self, kind: str, one: localize.Found, line: dict, quality: float) -> dict:
        at = self.split.timeline
        shown, keys = at.shown(one.visual) or (np.zeros((0, 2)), [])
        what = {"kind": kind, "text": one.text, "visual": one.visual, "query": line["query"], "vid": line["vid"]}
        extra = {name: np.asarray(value, np.float64).round(4).tolist() for name, value in one.extra.items()}
        return what | {
            "iou": float(quality),
            "duration": float(at.covered[one.visual]),
            "clip_length": float(at.clip_lengths[one.visual]),
            "truth": at.windows[one.text].tolist(),
            "shown": [[*seconds, key] for seconds, key in zip(shown.tolist(), keys, strict=True)],
            "windows": line["pred_relevant_windows"][:5],
            "saliency": one.saliency.astype(float).round(4).tolist(),
            "relevant": at.relevant(one.text).tolist(),
            "extra": extra,
        }


def _one_a_video(order: np.ndarray, found: list[localize.Found], count: int) -> list[int]:
    """The first `count` places whose videos differ."""
    chosen, seen = [], set()
    for i in order:
        if found[i].visual not in seen:
            chosen.append(int(i))
            seen.add(found[i].visual)
    return chosen[:count]
