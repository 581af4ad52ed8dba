"""Metrics of scores made elsewhere, without any model: `python -m vlr_jax.score ranking --scores sims.npy …`.

`ranking` and `judgments` take a matrix of similarities or two files of embeddings, `ranking` also rankings. The same
tiles and the same counting as in training, on blocks of a memory-mapped file. `moments` takes predicted windows.
"""

import argparse
import functools
import hashlib
import json
import sys

import numpy as np

from vlr_jax import (
    extended,
    files,
    given,
    judgments,
    metrics,
    moment_metrics,
    moment_protocols,
    protocols,
    retrieved,
    search,
)

DIRECTIONS = ("v2t", "t2v")


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the subcommand; 0, or 2 with one line on stderr where the input is wrong."""
    options = vars(_parser().parse_args(arguments))
    command, output = options.pop("command"), options.pop("output")
    moments = functools.partial(moment_metrics.evaluate_files, warn=lambda line: print(line, file=sys.stderr))
    try:
        result = {"ranking": rank_file, "judgments": judge_file, "moments": moments}[command](**options)
        if output:
            files.write(output, json.dumps(result, indent=1) + "\n")
    except (ValueError, OSError) as error:
        print(f"score: {error}", file=sys.stderr)
        return 2
    if command == "moments":
        name = options["protocol"]
        print(f"{moment_metrics.table(result)}\nprotocol {name}: {moment_protocols.PROTOCOLS[name].about}")
    elif command == "ranking":
        print("\n\n".join(map(table, [result] if "metrics" in result else result.values())))
    else:
        print(table(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vlr_jax.score", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    ranking = commands.add_parser("ranking", help="R@K, ranks, rsum, mAP@R, R-Precision; ECCV Caption and CxC of COCO")
    human = commands.add_parser("judgments", help="agreement with people: Flickr8k's grades, CxC's similarities")
    moments = commands.add_parser("moments", help="R@k at IoU, mIoU, mAP and highlights of predicted windows")
    moments.add_argument(
        "--predictions", dest="predicted", required=True, help="JSON lines as submitted to QVHighlights"
    )
    moments.add_argument("--ground_truth", required=True, help="the annotations, JSON lines of the same qid")
    moments.add_argument("--protocol", default="qvhighlights", help=", ".join(moment_protocols.PROTOCOLS))
    moments.add_argument("--clip_length", type=float, default=2.0, help="seconds of a clip of saliency")
    moments.add_argument("--lenient", action="store_true", help="count defects instead of refusing them")
    moments.add_argument("--output", help="the result as JSON, in the official form")
    known = ", ".join([*protocols.PROTOCOLS, *protocols.GROUPS, protocols.NONE])
    for command in (ranking, human):
        command.add_argument("--scores", help=".npy (memory-mapped) or .npz with one array: [V, T] floats")
        command.add_argument("--visual", help="embeddings instead, [V, D]; compared by cosine with")
        command.add_argument("--text", help="[T, D]")
        command.add_argument("--protocol", default=protocols.NONE, help=known)
        command.add_argument("--text_visual", help=".npy: the visual (row) of each text; else the protocol's order")
        command.add_argument("--output", help="the result as JSON")
    ranking.add_argument("--rankings", help="retrieved ids instead, .json or .npz with i2t and t2i (docs/protocols.md)")
    ranking.add_argument("--eccv", help="with --protocol coco: data folder of the eccv_caption package")
    human.add_argument("--expert", help="ExpertAnnotations.txt of Flickr8k")
    human.add_argument("--crowdflower", help="CrowdFlowerAnnotations.txt of Flickr8k")
    human.add_argument("--cxc", nargs="+", default=(), help="sits, sis and sts csv files of CxC")
    human.add_argument("--visual_ids", help="image name or COCO id of each visual: .txt, one a line, or .npy")
    human.add_argument("--text_ids", help="COCO id of each caption, for CxC")
    human.add_argument("--partial", action="store_true", help="leave out judgments about other images and captions")
    return parser


def rank_file(
    scores: str | None = None,
    *,
    visual: str | None = None,
    text: str | None = None,
    rankings: str | None = None,
    protocol: str = protocols.NONE,
    text_visual: str | None = None,
    eccv: str | None = None,
) -> dict:
    """Ranks a file of scores, or measures given rankings.

    Args:
        scores: path of a `.npy` or `.npz` with one `[V, T]` floating array.
        visual, text: embeddings `[V, D]`, `[T, D]` instead.
        rankings: retrieved ids instead (`vlr_jax.retrieved`): COCO ids with `eccv`, else places.
        protocol: asserts the counts, and says that text t belongs to visual t // (texts per visual). `coco` is COCO 5K
            and the five folds of 1K.
        text_visual: path of an int `.npy` `[T]`, or `[T, P]` padded with −1 where texts have several visuals.
        eccv: with `coco`, the data folder of `eccv_caption`: adds ECCV Caption and CxC.

    Returns:
        the dict that `evaluators.retrieval` returns, without examples; `ids` is a hash of the ground truth, `nan` the
        number of NaN scores; `finite` is False for any NaN or infinite score. For `coco` a dict of these by name:
        `coco-5k`, `coco-1k-5fold`, `eccv`, `cxc`.
        Cut-off rankings have no medR and meanR.

    Raises:
        ValueError: missing or unreadable file, wrong shape or type, counts that are not the protocol's.
    """
    if eccv and protocol not in protocols.GROUPS:
        raise ValueError(f"--eccv needs --protocol {' or '.join(protocols.GROUPS)}, the data that its positives are of")
    known = extended.load(eccv) if eccv else None
    source = _source(scores, visual, text, rankings, protocol, text_visual, known)
    names = protocols.GROUPS.get(protocol, (protocol,))
    owner, results, first = _truth(text_visual, names[0], *source.shape), {}, None
    if known:
        extended.check_order(known, [""] * source.shape[0], owner)
    nan, infinite = source.missing() if isinstance(source, given.Given) else (0, 0)
    for name in names:
        more = list(known.truths.values()) if known and first is None else []
        values, found = _measure(source, name, owner, more)
        first = first or found
        about = {"protocol": name, "visuals": source.shape[0], "texts": source.shape[1]}
        ids = hashlib.sha256(np.ascontiguousarray(owner).tobytes()).hexdigest()
        results[name] = values | about | {"ids": ids, "finite": not nan + infinite, "nan": nan, "examples": []}
    for name, sides in zip(known.truths if known else (), first[1:], strict=True):
        values = {"metrics": extended.measure(name, sides), "oracle": None, "chance": extended.chance(name, known)}
        tied = {d: float(np.mean(s.tied[s.positions[:, 0] > 0])) for d, s in zip(DIRECTIONS, sides, strict=True)}
        more = {"protocol": name, "queries": extended.queries(name, known), "tied": tied}
        results[name] = results[names[0]] | values | more
    return results if len(names) > 1 else results[protocol]


def judge_file(
    scores: str | None = None,
    *,
    visual: str | None = None,
    text: str | None = None,
    protocol: str = protocols.NONE,
    text_visual: str | None = None,
    visual_ids: str | None = None,
    text_ids: str | None = None,
    expert: str | None = None,
    crowdflower: str | None = None,
    cxc=(),
    partial: bool = False,
) -> dict:
    """Agreement of scores with people.

    Args:
        scores, visual, text, protocol, text_visual: as for `rank_file`.
        visual_ids: file of the image name (Flickr8k) or COCO id of each visual.
        text_ids: file of the COCO id of each caption, for `cxc`.
        expert, crowdflower: Flickr8k's files, which name captions `image#k`: the k-th text of that visual.
        cxc: csv files of CxC; `sis` and `sts` need embeddings.
        partial: leave out judgments about what the data do not have, rather than refuse them.

    Returns:
        `metrics`, `oracle` (the order of the mean grades; of Flickr8k's files), `chance`, and `judgments`, how many.

    Raises:
        ValueError: missing or unreadable file, no judgments, or judgments about other images or captions.
    """
    source = given.read(scores, visual, text)
    flickr = {name: path for name, path in (("expert", expert), ("crowdflower", crowdflower)) if path}
    if not flickr and not cxc:
        raise ValueError("no judgments; give --expert, --crowdflower or --cxc")
    ids = [given.names(path) if path else None for path in (visual_ids, text_ids)]
    for found, count, option in zip(ids, source.shape, ("--visual_ids", "--text_ids"), strict=True):
        if found and (len(found) != count or len(set(found)) != count):
            raise ValueError(f"{option} has {len(found):,} names, {len(set(found)):,} different; expected {count:,}")
    result = {"metrics": {}, "oracle": {}, "chance": {}, "judgments": {}}
    if flickr:
        if not ids[0]:
            raise ValueError("Flickr8k's judgments are about named images; give --visual_ids")
        owner = _truth(text_visual, protocols.GROUPS.get(protocol, (protocol,))[0], *source.shape)
        if owner.ndim != 1:
            raise ValueError("captions are named by their image; expected one visual a text")
        for name, judged in judgments.load(flickr, ids[0], owner, partial=partial).items():
            found = source.scores_of(judged.visuals, judged.texts)
            result["metrics"] |= judgments.measure(name, found, judged)
            result["oracle"] |= judgments.measure(name, judged.grades.mean(1), judged)
            result["chance"] |= judgments.chance(name, judged)
            result["judgments"][name] = judgments.counts(judged) | {"nan": int(np.isnan(found).sum())}
    for path in cxc:
        kind, values, count = _similarities(path, source, ids, partial)
        result["metrics"] |= values
        result["judgments"][kind] = count
    return result | {"protocol": protocol, "visuals": source.shape[0], "texts": source.shape[1]}


def _similarities(path: str, source: given.Given, ids, partial: bool) -> tuple[str, dict, dict]:
    """CxC's correlation on one csv: (kind, metrics, counts)."""
    kind, places, grades, unknown = judgments.locate_cxc(path, *ids, partial=partial)
    if kind == "sits":
        found = source.scores_of(places[1], places[0])
    elif source.text is None:
        raise ValueError(f"{path} compares within one modality; give embeddings (--visual and --text), not --scores")
    else:
        found = given.cosines(*(source[side] for side in judgments.SIDES[kind]), *places)
    mean, std = judgments.bootstrap(places[0], found, grades)
    values = {f"{kind}_spearman": mean, f"{kind}_spearman_std": std}
    return kind, values, {"used": len(grades), "unknown": unknown, "nan": int(np.isnan(found).sum())}


def _source(scores, visual, text, rankings, protocol, text_visual, known) -> given.Given | retrieved.Lists:
    """What is to be ranked; rankings need the number of visuals and texts from the protocol or the ground truth."""
    if rankings is None:
        return given.read(scores, visual, text)
    if scores or visual or text:
        raise ValueError("--rankings stand for themselves; give no --scores, --visual or --text with them")
    if known:
        return retrieved.read(rankings, known.visual_ids, known.text_ids)
    name = protocols.GROUPS.get(protocol, (protocol,))[0]
    if name in protocols.PROTOCOLS:
        counts = protocols.PROTOCOLS[name].visuals, protocols.PROTOCOLS[name].texts
    elif text_visual:
        counts = int(given.load(text_visual).max()) + 1, len(given.load(text_visual))
    else:
        protocols.check(name, 0, 0, 0)  # refuses an unknown name
        raise ValueError("how many visuals and texts are there? Name a --protocol, or give --text_visual")
    return retrieved.read(rankings, *map(np.arange, counts))


def _measure(source, protocol: str, owner: np.ndarray, more: list[search.Truth]) -> tuple[dict, list]:
    """A protocol's `metrics`, `oracle`, `chance`, `tied`; and the rankings of its first fold, by `more` truths too."""
    values, chances, tied, first, whole = [], [], [], None, True
    progress = "ranking" if sys.stderr.isatty() else None
    lists = isinstance(source, retrieved.Lists)
    for visuals, texts in protocols.folds(protocol, owner if owner.ndim == 1 else owner.max(1), source.shape[0]):
        local = np.where(owner[texts] >= 0, owner[texts] - visuals[0], -1)
        shape = len(visuals), len(texts)
        truths = [search.truth_of(local, shape), *(more if first is None else ())]
        if lists:
            part = source if shape == source.shape else retrieved.restrict(source, visuals, texts)
            found = [retrieved.rank(part, truth) for truth in truths]
            whole &= retrieved.complete(part)
        else:
            with source.exact():
                found = search.rank_each(source.tiles(visuals, texts), truths, progress=progress)
        sides, first = found[0], first or found
        counts = [(side.positions > 0).sum(1) for side in sides]
        values.append(metrics.both_directions(*(metrics.retrieval(side.positions) for side in sides)))
        chances.append(metrics.both_directions(*map(metrics.chance, shape[::-1], counts)))
        tied.append({d: float(np.mean(side.tied)) for d, side in zip(DIRECTIONS, sides, strict=True)})
    means = {
        "metrics": metrics.mean(values),
        "oracle": None,
        "chance": metrics.mean(chances),
        "tied": metrics.mean(tied),
    }
    if not whole:  # where a positive stands beyond the end of a list is not known
        for name in ("metrics", "chance"):
            means[name] = {k: v for k, v in means[name].items() if not k.endswith(("medR", "meanR"))}
    return means, first


def _truth(text_visual: str | None, protocol: str, n_visuals: int, n_texts: int) -> np.ndarray:
    """The visual of each text, int64 `[T]` or `[T, P]`, in accord with the protocol."""
    if text_visual:
        owner = given.load(text_visual)
        if owner.ndim not in (1, 2) or owner.dtype.kind not in "iu" or len(owner) != n_texts:
            raise ValueError(
                f"{text_visual} holds {owner.dtype} {owner.shape}; expected integers, one of {n_texts} a text"
            )
        owner = np.asarray(owner).astype(np.int64)
        if not 0 <= owner.max() < n_visuals:
            raise ValueError(f"{text_visual} names visuals up to {owner.max()}; the scores have {n_visuals} rows")
    elif protocol in protocols.PROTOCOLS and protocols.PROTOCOLS[protocol].texts_per_visual:
        owner = np.arange(n_texts) // protocols.PROTOCOLS[protocol].texts_per_visual
    else:
        protocols.check(protocol, n_visuals, n_texts, 0)  # refuses an unknown name
        raise ValueError("which text belongs to which visual? Name a --protocol, or give --text_visual")
    protocols.check(protocol, n_visuals, n_texts, np.bincount(owner[owner >= 0], minlength=n_visuals))
    return owner


def table(result: dict) -> str:
    """The result for people."""
    values, rows, limits = result["metrics"], [], result.get("chance") or {}
    names = list(dict.fromkeys(name.split("_", 1)[1] for name in values if name.startswith(("v2t_", "t2v_"))))
    digits = 4 if "judgments" in result else 2  # correlations and NDCG are not in percent
    if names:
        width = max(map(len, names)) + 2
        rows.append(" " * 5 + "".join(f"{name:>{width}}" for name in names))
    for direction in DIRECTIONS if names else ():
        cells = (values.get(f"{direction}_{name}") for name in names)
        rows.append(f"{direction:5}" + "".join(f"{'' if v is None else f'{v:.{digits}f}':>{width}}" for v in cells))
    for name in (name for name in values if not name.startswith(("v2t_", "t2v_"))):
        beside = f"   (chance {limits[name]:.{digits}f})" if name in limits else ""
        rows.append(f"{name} {values[name]:.{digits}f}{beside}")
    rows.append(f"protocol {result['protocol']}: {result['visuals']:,} visuals, {result['texts']:,} texts")
    if "queries" in result:
        rows.append("queries: " + ", ".join(f"{d} {n:,}" for d, n in result["queries"].items()))
    if "tied" in result:
        rows.append("tied queries: " + ", ".join(f"{d} {100 * share:.2f} %" for d, share in result["tied"].items()))
    for name, count in result.get("judgments", {}).items():
        rows.append(f"judgments, {name}: " + ", ".join(f"{n:,} {what}" for what, n in count.items()))
    if result.get("nan"):
        rows.append(f"WARNING: {result['nan']:,} scores are NaN; they count against the model")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
