"""Prepared records → views → grain → batches of few fixed shapes: the tokenizer, what the data look like, splits.

What a view is, and how its batches are made, is in `split.py`. With `data.texts="paragraphs"` the texts are the
paragraphs: of each visual its texts in order, joined by a space.
"""

import json
import pathlib
from collections.abc import Iterable

from vlr_jax import prepare, reading, text
from vlr_jax.split import Split, text_dim


def tokenizer(config: dict):
    """The tokenizer that `config.text` asks for, where it needs one with the vocabulary of the prepared training texts.

    Raises:
        ValueError: it can't be made; or the vocabulary is needed, and the prepared folder is not there.
    """
    counted = pathlib.Path(config["data"]["root"]) / "words.json"
    counts = json.loads(counted.read_text(encoding="utf-8"))["counts"] if counted.exists() else None
    try:
        return text.tokenizer(config["text"], counts)
    except ValueError:
        if counts is None:
            prepare.read(config["data"]["root"])  # where it is missing, that is what there is to say
        raise


def open_split(data: dict, tokenizer, keys: Iterable[str] | None = None) -> "Split":
    """One split of a prepared dataset.

    Args:
        data: as in config.data: `root`, `split`, `visual`, `frame_size`, `frames`, `sampling`, `texts`, `buckets`.
        tokenizer: of the texts.
        keys: those of `batching.FACTS` and `batching.VECTORS` that batches carry, such as `Task.reads`; None: all that
            the data have.

    Raises:
        ValueError: no such split, the data lack what `keys` asks for, or another value has no sense.
    """
    return Split(data, tokenizer, keys)


def spec(data: dict, tokenizer) -> dict:
    """What the data look like, for the Model fields of these names.

    `vocabulary`, `visual_dim` (None for frames), `mask_word` where the tokenizer has one that stands for a hidden word;
    of data with moments `backbones`, their features by name and in order, and `text_dim`, the width of precomputed
    states of tokens, None where the tokenizer is one of words.

    Raises:
        ValueError: `data.buckets` of data without moments, which have one padded length; or as `text_dim`.
    """
    prepared = prepare.read(data["root"])
    if data.get("buckets") and not prepared.get("moments"):
        raise ValueError(f"config.data.buckets are for videos with moments, which {data['root']} has not; leave it out")
    kind = reading.kind(data, prepared)
    found = {
        "vocabulary": tokenizer.size,
        "visual_dim": prepared["visual"]["shape"][-1] if kind == "features" else None,
    }
    if moments := prepared.get("moments"):
        found |= {"backbones": moments["backbones"], "text_dim": text_dim(data, prepared, tokenizer)}
    return found | ({} if tokenizer.mask_word is None else {"mask_word": tokenizer.mask_word})


def row(data: dict, tokenizer) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each key of a row of pairs that models read, without the leading axis; no split is opened."""
    prepared = prepare.read(data["root"])
    states = text_dim(data, prepared, tokenizer)
    length = (tokenizer.length,) if states else tokenizer.encode("a")[0].shape
    tokens = ((*length, states), "float16") if states else (length, "int32")
    texts = {"text": tokens, "text_mask": (length, "bool"), "visual_id": ((), "int32")}
    shapes = reading.plan(data, prepared).shapes(prepared)
    return shapes | texts | {"text_id": ((), "int32"), "valid": ((), "bool")}
