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
        texts_per_visual: every visual has exactly so many texts.
        folds: the visuals, in order, fall into so many equal parts; each is ranked alone and metrics are averaged.
        about: the published split it stands for.
    """

    visuals: int
    texts_per_visual: int
    folds: int = 1
    about: str = ""

    @property
    def texts(self) -> int:
        """Number of texts."""
        return self.visuals * self.texts_per_visual


PROTOCOLS = {
    "flickr8k-1k": Protocol(1000, 5, about="Flickr8k dev or test"),
    "flickr8k-testA": Protocol(500, 5, about="the half of Flickr8k test called testA in the prepared data"),
    "flickr30k-1k": Protocol(1000, 5, about="Flickr30K test, Karpathy split"),
    "coco-5k": Protocol(5000, 5, about="MS-COCO test, Karpathy split, all at once"),
    "coco-1k-5fold": Protocol(5000, 5, folds=5, about="MS-COCO test, Karpathy split, mean of five folds of 1000"),
}
NONE = "none"
GROUPS = {"coco": ("coco-5k", "coco-1k-5fold")}  # one name for several protocols on the same data


def check(name: str | None, visuals: int, texts: int, texts_per_visual) -> None:
    """Refuses data that are not what the protocol's name promises; None and "none" promise nothing.

    Args:
        name: a key of `PROTOCOLS`, "none" or None.
        visuals, texts: how many there are.
        texts_per_visual: int, or int `[V]`, the number of texts of each visual.

    Raises:
        ValueError: an unknown name, or other counts.
    """
    if name in (None, NONE):
        return
    if name not in PROTOCOLS:
        raise ValueError(f"No protocol {name!r}; protocols: {', '.join([*PROTOCOLS, NONE])}")
    protocol, each = PROTOCOLS[name], np.unique(texts_per_visual)
    if (visuals, texts, each.tolist()) != (protocol.visuals, protocol.texts, [protocol.texts_per_visual]):
        found = str(each[0]) if len(each) == 1 else f"{each[0]} to {each[-1]}"
        fits = [n for n, p in PROTOCOLS.items() if [p.visuals, p.texts, p.texts_per_visual] == [visuals, texts, *each]]
        exchanged = (
            " (visuals and texts look exchanged)" if (texts, visuals) == (protocol.visuals, protocol.texts) else ""
        )
        raise ValueError(
            f"protocol {name!r} is {protocol.visuals} visuals × {protocol.texts_per_visual} texts = {protocol.texts} "
            f"texts; found {visuals} visuals and {texts} texts, {found} per visual{exchanged}. "
            f"Protocols: {', '.join(PROTOCOLS)}; of these counts: {', '.join(fits) or 'none of them'}; "
            f"{NONE!r} asserts nothing"
        )


def folds(name: str | None, text_visual: np.ndarray, n_visuals: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(visuals, texts) of every fold, positions in the split; one fold with everything where the protocol has none.

    A fold is a run of consecutive visuals with all of their texts.
    """
    count = PROTOCOLS[name].folds if name in PROTOCOLS else 1
    parts = np.split(np.arange(n_visuals), count)
    return [(part, np.flatnonzero((text_visual >= part[0]) & (text_visual <= part[-1]))) for part in parts]
