"""Moment retrieval measured as the official scripts do, all queries at once: R@k at IoU, mIoU, mAP, and highlights.

    evaluate(predictions, ground_truth, "qvhighlights")
    → {"brief": {"MR-full-R1@0.5": 53.94, …}, "HL-min-Fair": {…}, …, "full": {"MR-mAP": {"0.5": …}, "MR-R1": …}, …}

The nesting, names, order and rounding of the scripts (`moment_protocols`), percent to two decimals. In NumPy, float64.
Q queries, P predicted windows of each as listed, G true ones, T thresholds; padding is windows (0, 0), whose IoU is 0.
What the official codes do and one might not expect: R@1 takes the first window listed, whatever its score; AP takes the
first ten as listed, of more true windows too; mAP is the mean of the queries' APs, not pooled.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from vlr_jax import highlights, moment_protocols, predictions, suppression
from vlr_jax.moment_protocols import Protocol

ZEROS = tuple(str(t) for t in np.linspace(0.5, 0.95, 19))  # CG-DETR's keys of a range without queries


def evaluate(
    predicted: predictions.File | list[dict],
    ground_truth: predictions.File | list[dict],
    protocol: str | Protocol = "qvhighlights",
    *,
    lenient: bool = False,
    clip_length: float = 2.0,
    warn=print,
) -> dict:
    """The official evaluation of predictions (forms: `predictions`).

    Args:
        predicted, ground_truth: JSON lines as read, or lists of their objects.
        protocol: a name of `moment_protocols.PROTOCOLS`, or a protocol.
        lenient: do as `predictions` says where it would refuse.
        clip_length: seconds of a clip of saliency.
        warn: called with a line for each thing that was counted.

    Returns:
        `brief` and the details, as the official JSON; `HL-min-…` where both files have saliency. None where a length
        range has no true window (`Protocol.empty`).

    Raises:
        ValueError: an unknown protocol, or predictions that can't be measured.
    """
    protocol = moment_protocols.protocol(protocol)
    checked = predictions.check(predicted, ground_truth, lenient=lenient, clip_length=clip_length)
    for what, count in checked.notes.items():
        warn(f"WARNING: {what} ({count:,})")
    return measure(checked, protocol)


def evaluate_files(predicted: str, ground_truth: str, protocol: str | Protocol = "qvhighlights", **options) -> dict:
    """`evaluate` of the files at two paths, with its options."""
    protocol = moment_protocols.protocol(protocol)  # an unknown name is refused before anything is read
    files = (predictions.read(predicted, "predictions"), predictions.read(ground_truth, "ground truth"))
    return evaluate(*files, protocol, **options)


def measure(checked: predictions.Checked, protocol: Protocol) -> dict:
    """`evaluate` of what is checked already."""
    found = {name: _range(*part) for name, part in _ranges(checked, protocol).items()}
    if checked.saliency:
        s = checked.saliency
        parts = highlights.measure(s.scores, s.top, s.grades, s.n_clips)
        found |= {name: {k: _percent(100 * v) for k, v in values.items()} for name, values in parts.items()}
    flat = _flat(found)
    levels = [f"HL-min-{name}" for name in highlights.LEVELS if f"HL-min-{name}" in found]
    brief = {name: flat[name.removesuffix("-key")] for name in protocol.brief}
    brief |= {name: flat[name] for level in levels for name in (f"{level}-mAP", f"{level}-Hit1")}
    return {"brief": brief} | {name: found[name] for name in sorted(found)}


def per_query(checked: predictions.Checked, protocol: Protocol) -> dict[str, np.ndarray]:
    """Of every query, in [0, 1]: `iou` of the first window, and `ap`, the mean over thresholds where there is AP."""
    overlaps, hulls, scores, listed, lengths = _overlaps(checked, protocol)
    everything = ~np.isnan(lengths)
    found = {"iou": best_iou(overlaps[:, :1], hulls[:, :1], everything)}
    if protocol.most_windows:
        precisions = average_precision(overlaps, scores, listed, everything, protocol.precision_thresholds)
        found["ap"] = precisions.mean(1)
    return found


def flatten(result: dict) -> dict[str, float]:
    """All numbers of an evaluation by one name: `MR-full-R1@0.5`, `MR-short-mAP`, `HL-min-VeryGood-Hit1`, …

    `mAP` alone is the mean over thresholds. What has no value is left out.
    """
    return {name: value for name, value in _flat(result).items() if value is not None}


def names(protocol: str | Protocol, saliency: bool) -> tuple[str, ...]:
    """What `flatten` gives where every length range has queries.

    Args:
        saliency: whether predictions and ground truth have saliency.
    """
    protocol, parts = moment_protocols.protocol(protocol), {}
    if saliency:
        parts = {f"HL-min-{name}": {"HL-mAP": 0.0, "HL-Hit1": 0.0} for name in highlights.LEVELS}
    parts |= {name: _nothing(protocol) for name, *_ in protocol.ranges}
    return tuple(_flat({name: parts[name] for name in sorted(parts)}))


def table(result: dict) -> str:
    """The result for people: a line a length range, then the highlights. `–` where a range has no true window."""
    flat, rows = _flat(result), []
    parts = [name for name in result if name != "brief" and not name.startswith("HL-")]
    wanted = [f"R{k}@{t}" for k in (1, 5) for t in moment_protocols.THIRDS]
    wanted = [name for name in (*wanted, "mAP", "mAP@0.5", "mAP@0.75", "mIoU") if f"MR-full-{name}" in flat]
    rows.append(" " * 8 + "".join(f"{name:>9}" for name in wanted))
    for part in parts:
        values = [flat.get(f"MR-{part}-{name}") for name in wanted]
        rows.append(f"{part:8}" + "".join(f"{'–' if v is None else f'{v:.2f}':>9}" for v in values))
    levels = [name for name in result if name.startswith("HL-")]
    if levels:
        rows.append(" " * 16 + "".join(f"{name.removeprefix('HL-min-'):>9}" for name in levels))
        for key, about in (("HL-mAP", "highlight mAP"), ("HL-Hit1", "HIT@1")):
            rows.append(f"{about:16}" + "".join(f"{result[name][key]:>9.2f}" for name in levels))
    return "\n".join(rows)


def best_iou(
    overlaps: Float[np.ndarray, "q p g"], hulls: Float[np.ndarray, "q p g"], where: Bool[np.ndarray, "q g"]
) -> Float[np.ndarray, " q"]:
    """The IoU of the best pair of a predicted and a valid true window: chosen by the true IoU, told by the hull's.

    So do the scripts, which matters where IoU meets a threshold to the last bit.
    """
    flat = np.where(where[:, None, :], overlaps, -1.0).reshape(len(overlaps), -1)
    return np.take_along_axis(hulls.reshape(flat.shape), flat.argmax(1)[:, None], axis=1)[:, 0]


def average_precision(
    overlaps: Float[np.ndarray, "q p g"],
    scores: Float[np.ndarray, "q p"],
    listed: Int[np.ndarray, " q"],
    where: Bool[np.ndarray, "q g"],
    thresholds: tuple[float, ...],
) -> Float[np.ndarray, "q t"]:
    """AP of every query at every threshold of IoU, interpolated as in PASCAL VOC 2011.

    Windows by score, equal ones as listed. Each takes the true window that fits best of those not yet taken (of equal
    fits the last), if their IoU ≥ threshold; else it is false.

    Args:
        overlaps: true IoU.
        listed: windows that each query really has.
        where: true windows that count; every query has one.
    """
    valid = np.arange(scores.shape[1]) < listed[:, None]
    order = np.argsort(np.where(valid, -scores, np.inf), axis=1, kind="stable")
    overlaps = np.take_along_axis(overlaps, order[:, :, None], axis=1)
    free = np.repeat(where[:, None, :], len(thresholds), axis=1)
    hits = np.zeros((*free.shape[:2], scores.shape[1]), bool)
    fits = ((overlaps >= min(thresholds)) & where[:, None, :]).any(2) & valid  # the rest hit nothing
    for place in range(scores.shape[1]):
        rows = np.flatnonzero(fits[:, place])
        fit = np.where(free[rows], overlaps[rows, place, None, :], -1.0)
        best = fit.shape[2] - 1 - fit[:, :, ::-1].argmax(2)
        at = rows[:, None], np.arange(len(thresholds)), best
        hit = fit.max(2) >= np.array(thresholds)
        hits[rows, :, place] = hit
        free[at] &= ~hit
    found = np.cumsum(hits, axis=2)
    recall = found / where.sum(1)[:, None, None]
    precision = np.maximum.accumulate((found / np.arange(1, scores.shape[1] + 1))[:, :, ::-1], axis=2)[:, :, ::-1]
    return (np.diff(recall, axis=2, prepend=0.0) * precision).sum(2)


def padded(
    rows: Float[np.ndarray, "n c"], counts: Int[np.ndarray, " q"], most: int | None = None
) -> tuple[Float[np.ndarray, "q p c"], Bool[np.ndarray, "q p"]]:
    """The first `most` rows of each query side by side, zeros behind them; and where rows are."""
    kept = counts if most is None else np.minimum(counts, most)
    places = np.arange(max(1, int(kept.max())))
    valid = places < kept[:, None]
    found = np.zeros((*valid.shape, rows.shape[1]))
    found[valid] = rows[((np.cumsum(counts) - counts)[:, None] + places)[valid]]
    return found, valid


def _overlaps(checked: predictions.Checked, protocol: Protocol) -> tuple[np.ndarray, ...]:
    """IoU `[Q, P, G]`, hull IoU of the first `[Q, k, G]`, scores `[Q, P]`, their number `[Q]`, true lengths `[Q, G]`.

    The length is NaN where there is no true window.
    """
    windows, counts = checked.windows, checked.n_windows
    if protocol.nms is not None:
        parts = np.split(windows, np.cumsum(counts)[:-1])
        parts = [suppression.listed_nms(part, protocol.nms, max(protocol.recalls)) for part in parts]
        windows, counts = np.concatenate(parts), np.array([len(part) for part in parts])
    windows, listed = padded(windows, counts, max(protocol.most_windows, *protocol.recalls))
    truth, real = padded(checked.truth, checked.n_truth)
    pairs = windows[:, :, None, :2], truth[:, None, :, :]
    lengths = np.where(real, truth[:, :, 1] - truth[:, :, 0], np.nan)
    first = pairs[0][:, : max(protocol.recalls)], pairs[1]
    return suppression.iou(*pairs), suppression.hull_iou(*first), windows[:, :, 2], listed.sum(1), lengths


def _ranges(checked: predictions.Checked, protocol: Protocol) -> dict[str, tuple]:
    """The arguments of `_range` for every length range."""
    overlaps, hulls, scores, listed, lengths = _overlaps(checked, protocol)
    parts = {}
    for name, above, most in protocol.ranges:
        where = (lengths > above) & (lengths <= most)
        if protocol.empty == "all" and not where.any():
            where = ~np.isnan(lengths)
        asked = where.any(1)
        parts[name] = (protocol, overlaps[asked], hulls[asked], scores[asked], listed[asked], where[asked])
    return parts


def _range(protocol: Protocol, overlaps, hulls, scores, listed, where) -> dict:
    """R@k, mIoU and mAP of the queries of one length range, by the names of the scripts."""
    if not len(overlaps):
        empty = {"MR-mAP": dict.fromkeys((*ZEROS, "average"), 0.0), "MR-R1": dict.fromkeys((*ZEROS, "average"), 0.0)}
        return empty if protocol.empty == "zeros" else _nothing(protocol)
    found, recalls = {}, {}
    for k in protocol.recalls:
        best = best_iou(overlaps[:, :k], hulls[:, :k], where)
        if protocol.mean_iou and k == 1:
            found["MR-mIoU"] = _percent(np.mean(best) * 100)
        hits = [best > t if protocol.strict else best >= t for t in protocol.recall_thresholds]
        values = [_percent(np.mean(hit) * 100) for hit in hits]
        recalls[f"MR-R{k}"] = dict(zip(map(str, protocol.recall_thresholds), values, strict=True))
    if protocol.most_windows:
        n = protocol.most_windows
        counted = np.minimum(listed, n)
        each = average_precision(overlaps[:, :n], scores[:, :n], counted, where, protocol.precision_thresholds).mean(0)
        values = dict(zip(map(str, protocol.precision_thresholds), each, strict=True)) | {"average": np.mean(each)}
        found["MR-mAP"] = {name: _percent(100 * value) for name, value in values.items()}
    return found | recalls


def _nothing(protocol: Protocol) -> dict:
    """The names of a range, without values."""
    found = {"MR-mIoU": None} if protocol.mean_iou else {}
    if protocol.most_windows:
        found["MR-mAP"] = dict.fromkeys([*map(str, protocol.precision_thresholds), "average"])
    return found | {f"MR-R{k}": dict.fromkeys(map(str, protocol.recall_thresholds)) for k in protocol.recalls}


def _flat(result: dict) -> dict[str, float | None]:
    flat = {}
    for name, values in result.items():
        if name == "brief":
            continue
        start = f"{name}-" if name.startswith("HL-") else f"MR-{name}-"
        for key, value in values.items():
            key = key.split("-", 1)[1]
            for threshold, number in value.items() if isinstance(value, dict) else [("average", value)]:
                flat[f"{start}{key}" if threshold == "average" else f"{start}{key}@{threshold}"] = number
    return flat


def _percent(value: float) -> float:
    """Two decimals, in the way of the scripts."""
    return float(f"{value:.2f}")
