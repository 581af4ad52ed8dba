"""`--mode localize`: where in videos what texts say is to be seen, by the model of a run.

Many texts in many videos, batched through `localize.locate`; beside the raw saliency of every clip, which has no scale,
the probability that the clip is relevant, where the run's own evaluation has fitted one (`calibration.py`). Or in which
video of all, by the two stages of `corpus.py`.
"""

import difflib
import json
import pathlib
import sys

import numpy as np

from vlr_jax import answers, calibration, corpus, localize, pieces, pipeline, prepare, sharding
from vlr_jax.split import text_dim
from vlr_jax.text import States

SHOWN = 3  # windows of a video in the table
FEATURES = "prepare features of its clips: --features clip=FOLDER --option clip_length=2 (docs/moments.md)"


def data(run, asked: dict) -> dict:
    """config.data of what is looked through.

    Args:
        run: `opened.Run`.
        asked: config.data with the folder and the split that are wanted.

    Returns:
        the same; of another folder than the run's, and where the run pads to no `buckets`, with that of the longest
        video that it was trained on, so that longer ones are gone through in pieces.

    Raises:
        ValueError: the run is none of moments, or the folder's features are others than the checkpoint's.
    """
    if run.config["task"] != "moment":
        raise ValueError(
            f"this run has config.task={run.config['task']!r}: it ranks whole visuals (--mode index, --mode search). "
            "Finding moments needs a run of task 'moment', such as configs/qd_detr_scenes.py"
        )
    fits(run, asked)
    if asked.get("buckets") is None and asked["root"] != run.config["data"]["root"]:
        return asked | {"buckets": [int(run.seen["row"]["visual"][0][0])]}
    return asked


def fits(run, asked: dict) -> None:
    """Refuses a folder whose features are not those that the checkpoint was trained on.

    Raises:
        ValueError: other backbones, widths, normalisation or order; no moments; or other states of tokens.
    """
    prepared, known = prepare.read(asked["root"]), run.seen["spec"]
    if not prepared.get("moments"):
        raise ValueError(f"{asked['root']} has no clips to find moments in; {FEATURES}")
    there = prepared["moments"]["backbones"]
    if there != known["backbones"]:
        raise ValueError(
            f"{asked['root']} has other features than the checkpoint was trained on: expected "
            f"{_told(known['backbones'])}; found {_told(there)}. Prepare them from the same extractors, by the same "
            "names and in the same order"
        )
    found = text_dim(asked, prepared, run.tokenizer)
    if isinstance(run.tokenizer, States) and found != known["text_dim"]:
        raise ValueError(
            f"{asked['root']} has states of tokens of width {found}; the checkpoint reads {known['text_dim']}"
        )


def _told(backbones: list[dict]) -> str:
    return ", ".join(f"{one['name']} ({one['dim']}, normalised: {one['normalise']})" for one in backbones)


def open_split(run, asked: dict):
    """The `split.Split` of `data(run, asked)`; raises as that."""
    return pipeline.open_split(data(run, asked), run.tokenizer, keys=())


def videos(split, names: list[str]) -> list[int]:
    """The numbers of videos by their names, in that order; of all where no name is given.

    Raises:
        ValueError: unknown names; says which are like them.
    """
    number = {name: i for i, name in enumerate(split.names)}
    if unknown := [name for name in names if name not in number]:
        like = difflib.get_close_matches(unknown[0], split.names, 3, 0.0)
        where = f"the {len(number):,} videos of split {split.name!r}"
        raise ValueError(f"{', '.join(unknown)}: not among {where}; most like it: {', '.join(like)}")
    return [number[name] for name in dict.fromkeys(names)] or list(range(len(number)))


def encoded(tokenizer, queries: list[str]):
    """Number of a query → its `text`, `text_mask`, as `localize.locate` takes it; tells on stderr what is not
    understood of a query.

    Raises:
        ValueError: a query of which no word is known, or without any word; or a model that reads states of tokens.
    """
    rows = []
    for query in queries:
        if notes := tokenizer.notes(query):
            print(f"{query!r}: {notes}", file=sys.stderr)
        rows.append(dict(zip(("text", "text_mask"), tokenizer.encode(query), strict=True)))
    return lambda number: rows[number]


def scale(workdir, config: dict) -> tuple[float, float] | None:
    """`calibration.fit` of the evaluation that selected the run's checkpoint, from its result.json; None without."""
    path = pathlib.Path(workdir) / "result.json"
    if not config["best"] or not path.exists():
        return None
    evaluation = json.loads(path.read_text(encoding="utf-8"))["evals"].get(config["best"].split("/")[0], {})
    found = evaluation.get("calibration")
    return found and (float(found[0]), float(found[1]))


def find(run, split, queries: list[str], numbers: list[int], mesh, *, scale=None) -> list[dict]:
    """All queries in all of the videos.

    Args:
        run: `opened.Run`.
        split: from `open_split`.
        queries: texts.
        numbers: of videos.
        mesh: devices.
        scale: of `scale`; None for no probabilities of clips.

    Returns:
        JSON values, query by query, the videos in the order given: `query`, `video`, `duration` and `clip_length` in
        seconds; `windows` [[start, end, probability], …], most probable first, within the video; `saliency` of each
        clip, raw; `saliency_probability`, in (0, 1), or None.

    Raises:
        ValueError: as `encoded`; or the model's answer is not finite.
    """
    at, of_text = split.timeline, encoded(run.tokenizer, queries)
    pairs = [(visual, t) for visual in numbers for t in range(len(queries))]
    most = len(queries) * sum(len(pieces.starts(int(at.clips[i]), at.bucket(i))) for i in numbers)
    rows = sharding.rows(min(run.config["batch_size"], most), mesh)
    predict = run.task.predict()["moments"]
    options = dict(text=of_text, batch_size=rows, mesh=mesh, progress=True)
    found = {}
    for one in localize.locate(predict, run.variables, split, pairs, **options):
        asked = dict(qid=one.text, query=queries[one.text])
        line = answers.line_of(finite(one, split), split, answers.PROCESSING["exact"], **asked)
        found[one.text, one.visual] = {
            "query": line["query"],
            "video": line["vid"],
            "duration": float(at.covered[one.visual]),
            "clip_length": float(at.clip_lengths[one.visual]),
            "windows": line["pred_relevant_windows"],
            "saliency": line["pred_saliency_scores"],
            "saliency_probability": scale and calibration.apply(one.saliency, scale).tolist(),
        }
    return [found[t, visual] for t in range(len(queries)) for visual in numbers]


def stage1(run, workdir, split, mesh, *, named: str | None, temperature: float | None) -> corpus.Stage1:
    """What ranks the videos of a split: the run that is named and its index; else the moment model itself, with its own
    index where there is one. Raises as `corpus.opened_stage1` and `corpus.own_stage1`."""
    if named:
        return corpus.opened_stage1(named, split.names, mesh, temperature)
    corpus.check_stage1(run.task.predict())
    folder = pathlib.Path(workdir) / "index"
    if (folder / "index.json").is_file():
        stage = corpus.indexed_stage1(run, folder, split.names, temperature=temperature)
        return stage._replace(tokenizer=None)
    options = dict(mesh=mesh, temperature=temperature, progress=True)
    return corpus.own_stage1(run.task.predict(), run.variables, split, run.config["batch_size"], **options)


def find_in_corpus(run, split, queries: list[str], stage: corpus.Stage1, mesh, *, top_n: int, top_k: int) -> list[dict]:
    """All queries in all videos of a split: of each the `top_k` best windows of its `top_n` best videos.

    Returns:
        JSON values: `query` and `results`, best first: `video`, `start` and `end` in seconds, `score`, and its factors
        `video_probability` (of stage 1, among the candidates) and `window_probability`.

    Raises:
        ValueError: as `encoded`; or a model is not finite.
    """
    of_text, rows = encoded(run.tokenizer, queries), run.config["batch_size"]
    text = corpus.encode_queries(stage, queries, run.tokenizer, rows, mesh=mesh)
    best = corpus.candidates(stage, text, top_n, mesh=mesh)
    options = dict(text=of_text, batch_size=sharding.rows(rows, mesh), mesh=mesh, progress=True)
    found = []
    for hits in corpus.rank(run.task.predict()["moments"], run.variables, split, best, **options):
        if not np.isfinite(hits.scores).all() or not np.isfinite(hits.windows).all():
            raise ValueError(f"what the model finds for {queries[hits.query]!r} is NaN or infinite")
        covered = split.timeline.covered[hits.visuals, None]
        windows = np.clip(hits.windows, 0, covered).round(4).tolist()
        factors = (hits.scores, hits.video_probabilities, hits.window_probabilities)
        results = [
            {"video": split.names[visual], "start": start, "end": end}
            | dict(zip(("score", "video_probability", "window_probability"), map(float, numbers), strict=True))
            for visual, (start, end), *numbers in zip(hits.visuals, windows, *factors, strict=True)
        ]
        found.append({"query": queries[hits.query], "results": results[:top_k]})
    return found


def finite(one: localize.Found, split) -> localize.Found:
    """The same; raises ValueError where what the model said is no number."""
    if not np.isfinite(one.windows).all() or not np.isfinite(one.saliency).all():
        raise ValueError(f"what the model finds in {split.names[one.visual]} is NaN or infinite")
    return one


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def table(found: list[dict], most: int) -> str:
    """For people: of each query the videos with the most probable windows, `most` of them, and some windows of each."""
    lines = []
    for query in dict.fromkeys(one["query"] for one in found):
        own = sorted((one for one in found if one["query"] == query), key=lambda one: -one["windows"][0][2])
        width = max(map(len, (one["video"] for one in own[:most])))
        lines += ["", query, f"{'video':{width}}  {'from – to':>17}  {'prob.':>6}   most salient clip"]
        for one in own[:most]:
            for place, (start, end, probability) in enumerate(one["windows"][:SHOWN]):
                window = f"{clock(start)} – {clock(end)}"
                name, peak = ("", "") if place else (one["video"], _peak(one))
                lines.append(f"{name:{width}}  {window:>17}  {probability:6.3f}   {peak}".rstrip())
        if len(own) > most:
            lines.append(f"and {len(own) - most:,} more videos (--top_k shows more, --output has all)")
    return "\n".join(lines)


def _peak(one: dict) -> str:
    """Where saliency is highest, and how high: the probability where there is one."""
    at = int(np.argmax(one["saliency"]))
    raw, probability = one["saliency"][at], one["saliency_probability"]
    value = f"raw {raw:.2f}" if probability is None else f"{probability[at]:.2f}, raw {raw:.2f}"
    return f"{clock(at * one['clip_length'])} ({value})"


def corpus_table(found: list[dict]) -> str:
    """For people: of each query the best windows of all videos."""
    lines = []
    for one in found:
        width = max(len(hit["video"]) for hit in one["results"])
        lines += ["", one["query"], f"{'':4}  {'score':>7}  {'video':{width}}  {'from – to':>17}"]
        for place, hit in enumerate(one["results"], 1):
            window = f"{clock(hit['start'])} – {clock(hit['end'])}"
            lines.append(f"{place:4d}  {hit['score']:7.4f}  {hit['video']:{width}}  {window:>17}")
    return "\n".join(lines)
