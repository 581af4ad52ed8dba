"""Named protocols of moment retrieval as plain data: the scripts that the field's numbers come from, and the datasets.

Scripts differ in their length ranges, thresholds, strictness, suppression and the names of their short list; what they
do not differ in is in `moment_metrics`. Which paper used which: docs/protocols.md.
"""

import dataclasses
import math

SHORT, MIDDLE = ("short", 0.0, 10.0), ("middle", 10.0, 30.0)
LONG, LONGER = ("long", 30.0, 150.0), ("long", 30.0, math.inf)
FULL = ("full", -math.inf, math.inf)


def steps(first: float, last: float = 0.95) -> tuple[float, ...]:
    """Thresholds from first to last by 0.05."""
    return tuple(i / 100 for i in range(round(100 * first), round(100 * last) + 1, 5))


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How predicted moments are measured.

    Attributes:
        about: the script it stands for, or the dataset.
        brief: names of the short list, keys of `moment_metrics.flatten`; a script may hang `-key` on them.
        ranges: (name, above, at most): of each query, the true windows with above < length ≤ at most, in seconds.
            Predictions are not filtered. `full` of most scripts is everything.
        recalls: k of R@k: the first k windows as listed, not those of highest score.
        recall_thresholds, precision_thresholds: of IoU, for R@k and for AP.
        strict: a hit needs IoU > threshold, not ≥.
        mean_iou: report the mean IoU of the first window, with the true window of the query that fits best.
        most_windows: of AP: no more than the first so many windows as listed; 0 = the script has no AP.
        nms: `suppression.listed_nms` before R@k, by this IoU; None = none.
        empty: a range in which no query has a true window: `none` leaves it without values, `zeros` gives 0,
            `all` measures all queries instead.
    """

    about: str
    brief: tuple[str, ...]
    ranges: tuple[tuple[str, float, float], ...] = (SHORT, MIDDLE, LONG, FULL)
    recalls: tuple[int, ...] = (1,)
    recall_thresholds: tuple[float, ...] = steps(0.5)
    precision_thresholds: tuple[float, ...] = steps(0.5)
    strict: bool = False
    mean_iou: bool = False
    most_windows: int = 10
    nms: float | None = None
    empty: str = "none"


def _recalls(ks: tuple[int, ...], thresholds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(f"MR-full-R{k}@{t}" for k in ks for t in thresholds)


PRECISIONS = ("MR-full-mAP", "MR-full-mAP@0.5", "MR-full-mAP@0.75")
BY_LENGTH = ("MR-long-mAP", "MR-middle-mAP", "MR-short-mAP")
THIRDS = (0.3, 0.5, 0.7)

QVHIGHLIGHTS = Protocol(
    "standalone_eval of Moment-DETR, the official evaluation of QVHighlights",
    (*_recalls((1,), (0.5, 0.7)), *PRECISIONS, *BY_LENGTH),
)
CGDETR = dataclasses.replace(
    QVHIGHLIGHTS,
    about="standalone_eval of CG-DETR on Charades-STA and TACoS: R1 from 0.3, and mIoU",
    brief=(*_recalls((1,), THIRDS), *PRECISIONS, "MR-full-mIoU", *BY_LENGTH),
    recall_thresholds=steps(0.3),
    mean_iou=True,
    empty="zeros",
)
UNIVTG = dataclasses.replace(
    CGDETR,
    about="eval of UniVTG: adds R5; long has no upper end",
    brief=(
        *(f"{name}-key" for name in (*_recalls((1, 5), THIRDS), *PRECISIONS, "MR-full-mIoU")),
        *(f"MR-{name}-{value}" for name in ("long", "middle", "short") for value in ("mAP", "mIoU")),
    ),
    ranges=(SHORT, MIDDLE, LONGER, FULL),
    recalls=(1, 5),
    empty="all",
)
EATR = dataclasses.replace(
    QVHIGHLIGHTS,
    about="standalone_eval of EaTR on ActivityNet Captions: adds R5",
    brief=(*_recalls((1, 5), (0.5, 0.7)), *PRECISIONS, "MR-middle-mAP", "MR-short-mAP"),
    recalls=(1, 5),
)
EATR_CHARADES = dataclasses.replace(
    EATR,
    about="standalone_eval of EaTR on Charades-STA: full means up to 30 s",
    ranges=(SHORT, MIDDLE, ("full", 0.0, 30.0)),
)
TAN = Protocol(
    "eval of 2D-TAN on ActivityNet Captions: IoU > threshold, suppression before R5",
    (*_recalls((1, 5), THIRDS), "MR-full-mIoU"),
    ranges=(FULL,),
    recalls=(1, 5),
    recall_thresholds=THIRDS,
    strict=True,
    mean_iou=True,
    most_windows=0,
    nms=0.5,
)
DATASET = dataclasses.replace(
    UNIVTG,
    about="R@1, R@5 and mIoU by UniVTG's rules; ranges without a true window have no value",
    brief=(*_recalls((1, 5), THIRDS), *PRECISIONS, "MR-full-mIoU", *BY_LENGTH),
    empty="none",
)
PROTOCOLS = {
    "qvhighlights": QVHIGHLIGHTS,
    "charades_sta": dataclasses.replace(DATASET, about=f"Charades-STA: {DATASET.about}"),
    "tacos": dataclasses.replace(DATASET, about=f"TACoS: {DATASET.about}"),
    "activitynet": dataclasses.replace(DATASET, about=f"ActivityNet Captions: {DATASET.about}"),
    "cgdetr": CGDETR,
    "univtg": UNIVTG,
    "eatr": EATR,
    "eatr_charades": EATR_CHARADES,
    "2dtan_charades": dataclasses.replace(
        TAN, about=TAN.about.replace("ActivityNet Captions", "Charades-STA"), nms=0.45
    ),
    "2dtan_tacos": dataclasses.replace(TAN, about=TAN.about.replace("ActivityNet Captions", "TACoS"), nms=0.4),
    "2dtan_activitynet": TAN,
}


def protocol(name: "str | Protocol") -> Protocol:
    """A protocol by its name; one that is there already is returned as it is.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r} for moments; protocols: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
