"""Moments in a corpus: which video, and when. Two stages.

Stage 1 ranks whole videos by a `similarity` of encodings, of the moment model itself where it has one (CDNet: the
largest cosine of a clip with the sentence) or of any retrieval run with an index of the same videos. Stage 2 looks for
the text in the best N with the moment model. A window w of a candidate v of query q scores

    P(v, w | q) = P(v | q) · P(w | v, q),    P(v | q) = exp(s(v, q) / τ) / Σ_{v' of the N} exp(s(v', q) / τ)

with s the similarity of stage 1, τ its temperature: that which its model has learned, else `TEMPERATURE`; P(w | v, q)
is the moment model's foreground probability of the window. Equal scores stay in the order of stage 1, within a video in
the model's order. Corpus moment retrieval is the task of TVR (Lei et al. 2020, arXiv 2001.09099), which combines the
scores of its two stages by a product as well; this softmax over the candidates is ours.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from vlr_jax import batching, index, localize, opened, search, sharding, tiles
from vlr_jax.types import Encoded

TEMPERATURE = 0.07  # where cosines' own was not learned: what CLIP starts with
CORPUS = ("encode_visual", "encode_text", "similarity")


class Stage1(NamedTuple):
    """What ranks videos.

    Attributes:
        predict: from `Task.predict()`: `encode_text`, `similarity` (and `encode_visual`).
        variables: their first argument.
        visual: `Encoded` of the split's V videos, in its order.
        temperature: τ.
        tokenizer: of its texts; None: that of the split.
    """

    predict: dict
    variables: dict
    visual: Encoded
    temperature: float
    tokenizer: object | None = None


class Candidates(NamedTuple):
    """The N best videos of each query, best first: `visuals` int `[Q, N]`, `probabilities` `[Q, N]`, P(v | q)."""

    visuals: np.ndarray
    probabilities: np.ndarray


class Hits(NamedTuple):
    """All windows of a query's candidates, best first.

    Attributes:
        query: its number.
        visuals: int `[W]`, the video of each window.
        windows: `[W, 2]` (start, end) in seconds, in their video.
        scores: `[W]`, P(v, w | q).
        video_probabilities, window_probabilities: `[W]`, its two factors.
    """

    query: int
    visuals: np.ndarray
    windows: np.ndarray
    scores: np.ndarray
    video_probabilities: np.ndarray
    window_probabilities: np.ndarray


def check_stage1(predict: dict) -> None:
    """Refuses a model that can't rank videos: ValueError says what can."""
    if lacking := [name for name in CORPUS if name not in predict]:
        raise ValueError(
            f"this moment model can't rank videos, it has no {lacking[0]} (of those here, cdnet has): name a retrieval "
            "run with an index of the same videos, by --stage1 RUN or the evaluation's stage1"
        )


def own_stage1(predict: dict, variables, split, batch_size: int, *, mesh, temperature=None, progress=False) -> Stage1:
    """Stage 1 by the moment model itself, all videos encoded now.

    Raises:
        ValueError: it can't rank videos; says what can. Or a temperature that is not above 0.
    """
    check_stage1(predict)
    rows = sharding.rows(batch_size, mesh)
    visual = tiles.encode_split(predict, variables, split, "visuals", rows, mesh=mesh, progress=progress)
    return Stage1(predict, variables, visual, _tau(temperature))


def indexed_stage1(run: opened.Run, folder, names: list[str], *, temperature=None) -> Stage1:
    """Stage 1 by a run and its index, which may hold other videos too: those are passed over.

    Args:
        run: of any model with `similarity`.
        folder: the index that `--mode index` of this run made.
        names: of the videos that are wanted, in order.

    Raises:
        ValueError: no index, one of another checkpoint, one without some of the videos or with one twice.
    """
    predict = run.task.predict()
    items = index.load(folder, expect={"model": run.digest})
    place = {name: i for i, name in enumerate(items.names)}
    if missing := [name for name in names if name not in place]:
        raise ValueError(
            f"the index {folder} lacks {len(missing):,} of {len(names):,} videos, such as {missing[0]!r} (it has "
            f"{items.names[0]!r}, …): build it from the same videos, by the same names"
        )
    if len(place) < len(items.names):
        raise ValueError(f"{len(items.names) - len(place)} names stand twice in the index {folder}")
    visual = items.encoded
    if names != items.names:
        rows = np.array([place[name] for name in names])
        visual = jax.tree.map(lambda leaf: leaf[rows], visual)
    learned = run.task.model.apply(run.variables, method="temperature")
    return Stage1(predict, run.variables, visual, _tau(temperature, learned), run.tokenizer)


def opened_stage1(workdir, names: list[str], mesh, temperature=None) -> Stage1:
    """`indexed_stage1` of the run in a folder.

    Raises:
        FileNotFoundError: no run there.
        ValueError: as `indexed_stage1`.
    """
    run = opened.restore(workdir, mesh)
    return indexed_stage1(run, pathlib.Path(workdir) / "index", names, temperature=temperature)


def _tau(given: float | None, learned=None) -> float:
    """The temperature: as given, else as learned, else `TEMPERATURE`."""
    if given is not None and not 0 < given < np.inf:
        raise ValueError(f"the temperature of stage 1 is {given!r}; expected a number above 0")
    chosen = (number for number in (given, learned, TEMPERATURE) if number is not None)
    return float(next(chosen))


def encode_queries(stage: Stage1, queries: list[str], tokenizer, batch_size: int, *, mesh) -> Encoded:
    """Texts that belong to no dataset, for stage 1; `tokenizer` where stage 1 has none of its own."""
    batches = batching.text_batches(stage.tokenizer or tokenizer, queries, sharding.rows(batch_size, mesh))
    return tiles.encode_all(stage.predict["encode_text"], stage.variables, batches, mesh=mesh)


def encode_texts(stage: Stage1, split, batch_size: int, *, mesh, progress: bool = False) -> Encoded:
    """All texts of a split, for stage 1."""
    if stage.tokenizer is not None:
        return encode_queries(stage, split.texts, None, batch_size, mesh=mesh)
    rows = sharding.rows(batch_size, mesh)
    return tiles.encode_split(stage.predict, stage.variables, split, "texts", rows, mesh=mesh, progress=progress)


def candidates(stage: Stage1, text: Encoded, most: int, *, mesh, progress: str | None = None) -> Candidates:
    """The `most` best videos (or all that there are) of each of the encoded texts; equal scores in their order.

    Raises:
        ValueError: scores that are no numbers.
    """
    scored = tiles.blocks(stage.predict["similarity"], stage.variables, stage.visual, text, mesh=mesh)
    scores, visuals = search.top_k(scored, most, axis=0, progress=progress)
    if not np.isfinite(scores).all():
        raise ValueError("stage 1 scores some videos as NaN or infinite: its model is not finite")
    return Candidates(visuals, probabilities(scores, stage.temperature))


def probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """P(v | q) `[Q, N]` of scores, in float64."""
    scaled = scores.astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def rank(
    moments: Callable, variables, split, found: Candidates, *, numbers=None, text=None, batch_size: int,
    block: int = 64, mesh, progress: bool = False,
) -> Iterator[Hits]:  # fmt: skip
    """Stage 2: looks for each query in its candidates, some queries at a time, and orders all windows.

    Args:
        moments: of `Task.predict()`. variables: its first argument.
        split: of the videos.
        found: of stage 1.
        numbers: of the queries, for `text`; None: 0, 1, ….
        text: as in `localize.locate`; None: the texts of the split.
        batch_size: rows at once.
        block: queries whose windows are in memory at once.
        mesh: devices.
        progress: show a bar for each block.
    """
    numbers = np.arange(len(found.visuals)) if numbers is None else np.asarray(numbers)
    for start in range(0, len(numbers), block):
        own = range(start, min(start + block, len(numbers)))
        # By videos, so that a record is read once for all of a block that look into it.
        places = sorted((int(found.visuals[q, n]), q, n) for q in own for n in range(found.visuals.shape[1]))
        pairs = [(visual, int(numbers[q])) for visual, q, _ in places]
        options = dict(text=text, batch_size=batch_size, mesh=mesh, progress=progress)
        windows = {}
        for one in localize.locate(moments, variables, split, pairs, **options):
            windows[one.visual, one.text] = one.windows
        for q in own:
            named = [(int(visual), windows[int(visual), int(numbers[q])]) for visual in found.visuals[q]]
            yield order(int(numbers[q]), named, found.probabilities[q])


def order(query: int, windows: list[tuple[int, np.ndarray]], probability: np.ndarray) -> Hits:
    """All windows of a query by the score of both stages.

    Args:
        query: its number.
        windows: of each candidate, best first, its number and its windows `[M, 3]`.
        probability: P(v | q) of each.
    """
    counts = [len(own) for _, own in windows]
    visuals, of_video = np.repeat([visual for visual, _ in windows], counts), np.repeat(probability, counts)
    rows = np.concatenate([own for _, own in windows])
    scores = of_video * rows[:, 2]
    best = np.argsort(-scores, kind="stable")
    return Hits(query, visuals[best], rows[best, :2], scores[best], of_video[best], rows[best, 2])
