"""What a batch is: its keys and dtypes by view, their check, and batches of texts that belong to no dataset."""

from collections.abc import Iterator

import numpy as np

FACTS, VECTORS = {"visual_facts", "text_facts"}, {"visual_caption_vecs", "caption_vec"}
VIEWS = {  # keys of a batch: required, optional (types.py says what they mean)
    "pairs": ({"visual", "visual_mask", "text", "text_mask", "visual_id", "text_id", "valid"},
              {"boxes"} | FACTS | VECTORS),
    "visuals": ({"visual", "visual_mask", "visual_id", "valid"}, {"boxes", "visual_facts", "visual_caption_vecs"}),
    "texts": ({"text", "text_mask", "text_id", "visual_id", "valid"}, {"text_facts", "caption_vec"}),
    "moments": ({"visual", "visual_mask", "text", "text_mask", "visual_id", "text_id", "source_id", "duration", "spans",
                 "spans_mask", "saliency", "saliency_pairs", "valid"}, set()),
}  # fmt: skip
DTYPES = {
    "visual": ("float16", "float32", "uint8"), "visual_mask": ("bool",), "boxes": ("float32",),
    "text": ("int32", "float16"),
    "text_mask": ("bool",), "visual_id": ("int32",), "text_id": ("int32",), "visual_facts": ("bool",),
    "text_facts": ("bool",), "visual_caption_vecs": ("float16", "float32"), "caption_vec": ("float16", "float32"),
    "valid": ("bool",), "source_id": ("int32",), "duration": ("float32",), "spans": ("float32",),
    "spans_mask": ("bool",), "saliency": ("float32",), "saliency_pairs": ("int32",),
}  # fmt: skip


def check(batch: dict[str, np.ndarray], view: str = "pairs") -> None:
    """Refuses a batch with missing or unknown keys, other dtypes, or unequal leading axes.

    Raises:
        ValueError: says what was expected and found.
    """
    required, optional = VIEWS[view]
    if missing := required - batch.keys():
        raise ValueError(f"a batch of {view} lacks {sorted(missing)}; it has {sorted(batch)}")
    if unknown := batch.keys() - required - optional:
        raise ValueError(f"a batch of {view} has unknown keys {sorted(unknown)}; known: {sorted(required | optional)}")
    for key, array in batch.items():
        if array.dtype.name not in DTYPES[key]:
            raise ValueError(f"batch[{key!r}] is {array.dtype}; expected {' or '.join(DTYPES[key])}")
        if len(array) != len(batch["valid"]):
            raise ValueError(f"batch[{key!r}] has {len(array)} rows, batch['valid'] has {len(batch['valid'])}")


def text_batches(tokenizer, texts: list[str], batch_size: int) -> Iterator[dict]:
    """Batches of the view `texts` from strings that belong to no dataset; ids are their places in the list."""
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        part_ids = np.arange(start, start + batch_size, dtype=np.int32)
        tokens, mask = (
            np.stack(a) for a in zip(*map(tokenizer.encode, part + part[:1] * (batch_size - len(part))), strict=True)
        )
        yield {
            "text": tokens,
            "text_mask": mask,
            "text_id": part_ids,
            "visual_id": part_ids,
            "valid": part_ids < len(texts),
        }


def repeated(vectors: np.ndarray, count: int) -> np.ndarray:
    """`[n, E]` → `[count, E]` by repeating the first, which changes no maximum over them, as zeros might."""
    if not len(vectors):  # a visual without texts is positive with none
        return np.zeros((count, vectors.shape[1]), vectors.dtype)
    return vectors[np.where(np.arange(count) < len(vectors), np.arange(count), 0)]


def stack(rows: list[dict]) -> dict[str, np.ndarray]:
    """Rows of equal keys and shapes → one batch."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
