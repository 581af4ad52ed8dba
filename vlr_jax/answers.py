"""From a model's windows and scores to the line of a prediction file, in the order of Moment-DETR's inference.

Fractions × duration, sorted by score, every number rounded to four decimals; then the dataset's post-processing: clip,
round to multiples of the clip length (half to even), not sorted again; then suppression, off by default.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from vlr_jax import suppression


@dataclasses.dataclass(frozen=True)
class Processing:
    """What a dataset's predictions go through.

    Attributes:
        limit: windows are clipped to [0, limit] seconds; None = to what the features cover, where the official code
            clips nothing.
        clips: round to multiples of the clip length of the features.
        shortest, longest: seconds that a window is widened or cut to, before it is clipped; None = as it is.
        keep: what stays where it is then: `left`, `center` or `right`.
        nms: `suppression.temporal_nms` at this IoU, at last; None = none.
    """

    limit: float | None = None
    clips: bool = True
    shortest: float | None = None
    longest: float | None = None
    keep: str = "center"
    nms: float | None = None

    def __post_init__(self):
        if self.keep not in ("left", "center", "right"):
            raise ValueError(f"keep is left, center or right, not {self.keep!r}")


PROCESSING = {
    "qvhighlights": Processing(limit=150.0),  # clips of 2 s
    "charades_sta": Processing(limit=150.0),  # SlowFast and CLIP, clips of 1 s
    "charades_sta_vgg": Processing(limit=360.0),  # VGG, clips of 1/6 s
    "tacos": Processing(),  # clips of 2 s
    "activitynet": Processing(),
    "exact": Processing(clips=False),  # boundaries that need not lie between clips
}


def processing_of(protocol: str, name: str | None = None, nms: float | None = None) -> Processing:
    """What an evaluation's predictions go through.

    Args:
        protocol: whose own processing it is, where `PROCESSING` has that, and else "exact".
        name: another one of `PROCESSING`; None = the protocol's.
        nms: suppression at this IoU at last; None = as the processing has it.

    Raises:
        ValueError: an unknown name; an IoU that is not in [0, 1].
    """
    chosen = name or (protocol if protocol in PROCESSING else "exact")
    if chosen not in PROCESSING:
        raise ValueError(f"processing {chosen!r} of an evaluation; there is: {', '.join(PROCESSING)}")
    if nms is not None and not 0 <= nms <= 1:
        raise ValueError(f"nms {nms!r} of an evaluation; expected an IoU from 0 to 1, or None for no suppression")
    return PROCESSING[chosen] if nms is None else dataclasses.replace(PROCESSING[chosen], nms=nms)


def line(
    windows: Float[np.ndarray, "m 2"],
    scores: Float[np.ndarray, " m"],
    saliency: Float[np.ndarray, " f"] | None = None,
    *,
    duration: float,
    clip_length: float,
    qid: int | str,
    query: str,
    vid: str,
    processing: Processing = PROCESSING["qvhighlights"],
) -> dict:
    """One line of a prediction file.

    Args:
        windows: (start, end) as fractions of `duration`, as a model gives them, not clipped.
        scores: probability of each; equal ones stay in order, NaN comes last.
        saliency: raw scores of the real clips, float32: half precision would make ties. For the bytes of the official
            files, cast it to float16 first, as that code does.
        duration: seconds covered by the features.
        clip_length: seconds of a clip.
        qid, query, vid: as in the ground truth.
    """
    seconds = np.asarray(windows, np.float64) * duration
    rows = np.concatenate([seconds, np.asarray(scores, np.float32)[:, None]], axis=1)
    rows = rows[np.argsort(-rows[:, 2], kind="stable")].tolist()
    rows = np.array([[round(x, 4) for x in row] for row in rows]).reshape(-1, 3)  # as decimals: np.round is not exact
    rows[:, :2] = process(rows[:, :2], processing, duration=duration, clip_length=clip_length)
    if processing.nms is not None:
        rows = suppression.temporal_nms(rows, processing.nms)
    found = {"qid": qid, "query": query, "vid": vid, "pred_relevant_windows": rows.tolist()}
    return found if saliency is None else found | {"pred_saliency_scores": np.asarray(saliency).tolist()}


def line_of(found, split, processing: Processing, *, qid: int | str, query: str | None = None, saliency=True) -> dict:
    """`line` of what a model found.

    Args:
        found: a `localize.Found`.
        split: the `split.Split` of its video.
        processing: what the windows go through.
        qid: of the line.
        query: None: the text of that number of the split.
        saliency: whether the line has some.
    """
    at, visual = split.timeline, found.visual
    return line(
        found.windows[:, :2] / at.covered[visual],
        found.windows[:, 2],
        found.saliency if saliency else None,
        duration=float(at.covered[visual]),
        clip_length=float(at.clip_lengths[visual]),
        qid=qid,
        query=split.texts[found.text] if query is None else query,
        vid=split.names[visual],
        processing=processing,
    )


def process(
    windows: Float[np.ndarray, "... 2"], processing: Processing, *, duration: float, clip_length: float
) -> Float[np.ndarray, "... 2"]:
    """Lengths, clipping, rounding, of (start, end) in seconds; a window may come out without length.

    Raises:
        ValueError: a clip length that is not above 0.
    """
    if not clip_length > 0:
        raise ValueError(f"a clip length must be above 0 s, found {clip_length}")
    windows = np.array(windows, np.float64)
    lengths = windows[..., 1] - windows[..., 0]
    for wrong, wanted in ((lengths < (processing.shortest or -np.inf), processing.shortest),
                          (lengths > (processing.longest or np.inf), processing.longest)):  # fmt: skip
        if wanted is not None:
            windows[wrong] = _of_length(windows[wrong], wanted, processing.keep)
    windows = np.clip(windows, 0.0, duration if processing.limit is None else processing.limit)
    return np.round(windows / clip_length) * clip_length if processing.clips else windows


def _of_length(windows, length, keep):
    start, end = windows[..., 0], windows[..., 1]
    if keep == "left":
        end = start + length
    elif keep == "right":
        start = end - length
    else:
        centre = (start + end) / 2
        start, end = centre - length / 2, centre + length / 2
    return np.stack([start, end], axis=-1)
