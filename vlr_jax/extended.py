"""COCO test with more positives than its captions say: ECCV Caption (2204.03359), Crisscrossed Captions (2004.15020).

Read from the published files of the `eccv_caption` package: who is right for whom by COCO ids, each direction by
itself. ECCV Caption asks 1,261 images and 1,332 captions among all 5,000 × 25,000; CxC asks all images and 24,972
captions. The protocol order of COCO test is that of `coco_test_ids.npy`.
"""

import json
import pathlib
import re
from typing import NamedTuple

import numpy as np

from vlr_jax import metrics
from vlr_jax.search import Ranking, Truth

ORDER = "coco_test_ids.npy"  # caption ids, the captions of an image one after the other
CAPTIONS = "original_caption_to_image.json"  # caption id → [the image it was written for]
FILES = {"eccv": ("eccv_image_to_caption.json", "eccv_caption_to_image.json"),
         "cxc": ("cxc_image_to_caption.json", "cxc_caption_to_image.json")}  # fmt: skip
MEASURED = {"eccv": ("mAP@R", "R-Precision", "R@1"), "cxc": ("R@1", "R@5", "R@10")}


class Extended(NamedTuple):
    """The gallery in protocol order, and its ground truths.

    Attributes:
        visual_ids, text_ids: int64 `[V]`, `[T]`, COCO ids of images and captions.
        text_visual: int64 `[T]`, the place of the image that each caption was written for.
        truths: `eccv` and `cxc`; a positive that is not in the gallery is −1 (two of ECCV Caption's are not).
    """

    visual_ids: np.ndarray
    text_ids: np.ndarray
    text_visual: np.ndarray
    truths: dict[str, Truth]


def load(folder) -> Extended:
    """Reads a folder with the data files of the `eccv_caption` package.

    Raises:
        ValueError: a file is absent or can't be read, ids that do not fit together, or a query outside the gallery.
    """
    folder = pathlib.Path(folder)
    names = [ORDER, CAPTIONS, *(name for pair in FILES.values() for name in pair)]
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"{folder} lacks {', '.join(absent)}; expected the data folder of the eccv_caption package")
    try:
        text_ids = np.load(folder / ORDER, allow_pickle=False).astype(np.int64)
        written = {caption: images[0] for caption, images in _read(folder / CAPTIONS).items()}
        lists = {name: [_read(folder / file) for file in pair] for name, pair in FILES.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"the files of {folder} can't be read as those of eccv_caption: {error}") from error
    if unknown := [int(i) for i in text_ids if i not in written]:
        raise ValueError(f"{CAPTIONS} has no image for {len(unknown)} captions of {ORDER}, the first is {unknown[0]}")
    owners = np.array([written[i] for i in text_ids.tolist()])
    visual_ids, first, text_visual = np.unique(owners, return_index=True, return_inverse=True)
    place = np.argsort(np.argsort(first))  # by first appearance
    text_visual, visual_ids = place[text_visual], visual_ids[np.argsort(first)]
    if np.any(np.diff(text_visual) < 0) or len(np.unique(text_ids)) < len(text_ids):
        raise ValueError(f"{ORDER} must name every caption once, those of an image one after the other")
    visuals, texts = ({int(i): n for n, i in enumerate(ids)} for ids in (visual_ids, text_ids))
    truths = {}
    for name, (of_images, of_captions) in lists.items():
        v2t = _pairs(of_images, visuals, texts, f"{name}: image")
        t2v = _pairs(of_captions, texts, visuals, f"{name}: caption")
        truths[name] = Truth(v2t, t2v[:, ::-1])
    return Extended(visual_ids, text_ids, text_visual, truths)


def _read(path: pathlib.Path) -> dict[int, list[int]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {int(query): [int(i) for i in found] for query, found in content.items()}


def _pairs(lists: dict[int, list[int]], queries: dict, candidates: dict, what: str) -> np.ndarray:
    """(query, candidate) places `[N, 2]`, −1 for a candidate that is not there."""
    if unknown := [query for query in lists if query not in queries]:
        raise ValueError(f"{what} {unknown[0]} and {len(unknown) - 1} more queries are not in the gallery of {ORDER}")
    pairs = [(queries[query], candidates.get(i, -1)) for query, found in lists.items() for i in dict.fromkeys(found)]
    return np.array(pairs, np.int64).reshape(-1, 2)


def check_order(extended: Extended, names: list[str], text_visual: np.ndarray) -> str:
    """Refuses a split that is not the gallery in protocol order.

    The texts are compared by their counts per visual, the visuals by the number at the end of their names
    (`COCO_val2014_000000391895.jpg`, `391895`) where the names carry image ids. Names without a number, or numbered
    from 0, say nothing, and then order is taken on trust.

    Returns:
        "names" where the names prove the order, else "trust".

    Raises:
        ValueError: other counts, another order, or names of other images.
    """
    found, expected = len(names), len(extended.visual_ids)
    if found != expected or not np.array_equal(text_visual, extended.text_visual):
        raise ValueError(
            f"expected the {expected:,} visuals and {len(extended.text_ids):,} texts of COCO test in protocol order, "
            f"each visual's texts together; found {found:,} visuals and {len(text_visual):,} texts"
        )
    numbers = [re.search(r"(\d+)(?:\.\w+)?$", name) for name in names]
    if not any(numbers):
        return "trust"
    ids = np.array([int(number[1]) if number else -1 for number in numbers])
    if np.array_equal(ids, np.arange(found)):
        return "trust"
    if wrong := np.flatnonzero(ids != extended.visual_ids).tolist():
        other = "in another order" if set(ids.tolist()) == set(extended.visual_ids.tolist()) else "or other images"
        raise ValueError(
            f"the visuals are not COCO test in protocol order but {other}: {len(wrong):,} places differ, the first is "
            f"{wrong[0]}: {names[wrong[0]]!r}, expected image {extended.visual_ids[wrong[0]]}"
        )
    return "names"


def measure(name: str, sides: tuple[Ranking, Ranking]) -> dict[str, float]:
    """The published metrics of a ground truth, in percent: `v2t_eccv_mAP@R`, …, `t2v_cxc_R@10`, and a summary.

    The summary is the mean of both directions for `eccv_mAP@R` and `eccv_R-Precision`, the sum of six for `cxc_rsum`.
    """
    return _named(name, [metrics.retrieval(side.positions) for side in sides])


def chance(name: str, extended: Extended) -> dict[str, float]:
    """`measure` in expectation over random orders; positives outside the gallery are left out."""
    truth, shape, found = extended.truths[name], (len(extended.visual_ids), len(extended.text_ids)), []
    for side, pairs in enumerate(truth):
        owned = np.bincount(pairs[(pairs >= 0).all(1), side], minlength=shape[side])
        found.append(metrics.chance(shape[1 - side], owned[owned > 0]))
    return _named(name, found)


def queries(name: str, extended: Extended) -> dict[str, int]:
    """How many queries a ground truth asks in each direction."""
    return {d: len(np.unique(pairs[:, i])) for i, (d, pairs) in enumerate(extended.truths[name]._asdict().items())}


def _named(name: str, sides: list[dict[str, float]]) -> dict[str, float]:
    # A ground truth of one positive a query has no mAP@R of its own: it is R@1 then.
    pick = lambda side, metric: side.get(metric, side["R@1"])
    values = {f"{d}_{name}_{m}": pick(s, m) for d, s in zip(("v2t", "t2v"), sides, strict=True) for m in MEASURED[name]}
    if name == "cxc":
        return values | {"cxc_rsum": sum(values.values())}
    return values | {f"{name}_{m}": sum(pick(s, m) for s in sides) / 2 for m in ("mAP@R", "R-Precision")}
