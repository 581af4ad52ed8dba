"""Named evaluation protocols as plain data, so that a number says what it was measured on.

The same model scores very differently on 1,000 and on 5,000 candidates; a name is given only to data of its counts.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Counts of a protocol.

    Attributes:
        visuals: number of visuals.
        texts_per_visual: every visual has exactly so many texts; None where their numbers differ.
        folds: the visuals, in order, fall into so many equal parts; each is ranked alone and metrics are averaged.
        about: the published split it stands for.
        total: number of texts, where `texts_per_visual` does not say it.
    """

    visuals: int
    texts_per_visual: int | None
    folds: int = 1
    about: str = ""
    total: int | None = None

    @property
    def texts(self) -> int:
        """Number of texts."""
        return self.total if self.texts_per_visual is None else self.visuals * self.texts_per_visual

    def __str__(self) -> str:
        each = "one or more" if self.texts_per_visual is None else self.texts_per_visual
        return f"{self.visuals} visuals × {each} texts = {self.texts} texts"


PROTOCOLS = {
    "flickr8k-1k": Protocol(1000, 5, about="Flickr8k dev or test"),
    "flickr8k-testA": Protocol(500, 5, about="the half of Flickr8k test called testA in the prepared data"),
    "flickr30k-1k": Protocol(1000, 5, about="Flickr30K test, Karpathy split"),
    "coco-5k": Protocol(5000, 5, about="MS-COCO test, Karpathy split, all at once"),
    "coco-1k-5fold": Protocol(5000, 5, folds=5, about="MS-COCO test, Karpathy split, mean of five folds of 1000"),
    "msrvtt-1ka": Protocol(1000, 1, about="MSR-VTT 1k-A (JSFUSION), one caption a video"),
    "msrvtt-full": Protocol(2990, 20, about="MSR-VTT official test"),
    "msvd-multi": Protocol(670, None, total=27763, about="MSVD test, every caption of a video"),
    "lsmdc-1k": Protocol(1000, 1, about="LSMDC 2016 public test, 1,000 clips"),
    "didemo-paragraph": Protocol(1004, 1, about="DiDeMo test, descriptions of a video joined"),
    "activitynet-paragraph": Protocol(4917, 1, about="ActivityNet Captions val_1, sentences of a video joined"),
}
NONE = "none"
GROUPS = {"coco": ("coco-5k", "coco-1k-5fold")}  # one name for several protocols on the same data


def check(
    name: str | None, visuals: int, texts: int, texts_per_visual, missing: int = 0, incomplete: bool = False
) -> None:
    """Refuses data that are not what the protocol's name promises; None and "none" promise nothing.

    Args:
        name: a key of `PROTOCOLS`, "none" or None.
        visuals, texts: how many there are.
        texts_per_visual: int, or int `[V]`, the number of texts of each visual.
        missing: visuals of the split that were not there when it was prepared; their texts are not there either.
        incomplete: the missing ones are counted as if they were there. Fewer candidates are easier, so whoever says
            this says so beside the number (`gallery`).

    Raises:
        ValueError: an unknown name, other counts, or a gallery that is incomplete.
    """
    if name in (None, NONE):
        return
    if name not in PROTOCOLS:
        raise ValueError(f"No protocol {name!r}; protocols: {', '.join([*PROTOCOLS, NONE])}")
    protocol, each = PROTOCOLS[name], np.unique(texts_per_visual)
    if missing and not incomplete:
        raise ValueError(
            f"protocol {name!r}: {gallery(visuals, missing)}. Fewer candidates make every number too good; add the "
            "missing visuals (prepared.json names them) and prepare again, or allow it by the evaluation's option "
            "incomplete=True, which the result, its table and its report then say"
        )
    counts, expected = [visuals + missing, texts, each.tolist()], [protocol.visuals, protocol.texts, []]
    if protocol.texts_per_visual is None:
        counts[2] = [n for n in each.tolist() if n < 1]
    else:
        expected[2] = [protocol.texts_per_visual]
    if missing:  # how many texts they had is known only where all have as many
        counts[1] = expected[1] = 0
    if counts != expected or not visuals:
        found = str(each[0]) if len(each) == 1 else f"{each[0]} to {each[-1]}"
        fits = [n for n, p in PROTOCOLS.items() if _fits(p, visuals, texts, each.tolist())]
        exchanged = (
            " (visuals and texts look exchanged)" if (texts, visuals) == (protocol.visuals, protocol.texts) else ""
        )
        raise ValueError(
            f"protocol {name!r} is {protocol}; found {visuals} visuals and {texts} texts, {found} per visual{exchanged}"
            f"{f', and {missing} missing visuals' if missing else ''}. "
            f"Protocols: {', '.join(PROTOCOLS)}; of these counts: {', '.join(fits) or 'none of them'}; "
            f"{NONE!r} asserts nothing"
        )


def _fits(protocol: Protocol, visuals: int, texts: int, each: list[int]) -> bool:
    same = protocol.texts_per_visual is None or each == [protocol.texts_per_visual]
    return same and (visuals, texts) == (protocol.visuals, protocol.texts)


def check_split(name: str | None, split, incomplete: bool = False) -> str | None:
    """`check` of a `pipeline.Split`; returns what is to be said of its gallery, None for nothing."""
    each, missing = np.bincount(split.text_visual, minlength=split.n_visuals), len(split.missing)
    check(name, split.n_visuals, split.n_texts, each, missing, incomplete)
    return gallery(split.n_visuals, missing)


def gallery(visuals: int, missing: int) -> str | None:
    """`gallery incomplete: 993 of 1000`; None where nothing is missing."""
    return f"gallery incomplete: {visuals} of {visuals + missing}" if missing else None


def folds(name: str | None, text_visual: np.ndarray, n_visuals: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(visuals, texts) of every fold, positions in the split; one fold with everything where the protocol has none.

    A fold is a run of consecutive visuals with all of their texts.
    """
    count = PROTOCOLS[name].folds if name in PROTOCOLS else 1
    parts = np.split(np.arange(n_visuals), count)
    return [(part, np.flatnonzero((text_visual >= part[0]) & (text_visual <= part[-1]))) for part in parts]
