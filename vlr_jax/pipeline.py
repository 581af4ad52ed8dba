"""Prepared records → views → grain → batches of one fixed shape.

A view says what one row is: `pairs` (one per visual and text, for training), `visuals` and `texts` (each item once, for
evaluation and search). The position in the data is the step: a number, valid for any number of processes.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator

import grain
import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import media, prepare, text

FACTS, VECTORS = {"visual_facts", "text_facts"}, {"visual_caption_vecs", "caption_vec"}
VIEWS = {  # keys of a batch: required, optional (types.py says what they mean)
    "pairs": ({"visual", "visual_mask", "text", "text_mask", "visual_id", "text_id", "valid"},
              {"boxes"} | FACTS | VECTORS),
    "visuals": ({"visual", "visual_mask", "visual_id", "valid"}, {"boxes", "visual_facts", "visual_caption_vecs"}),
    "texts": ({"text", "text_mask", "text_id", "visual_id", "valid"}, {"text_facts", "caption_vec"}),
}  # fmt: skip
DTYPES = {
    "visual": ("float16", "float32", "uint8"), "visual_mask": ("bool",), "boxes": ("float32",), "text": ("int32",),
    "text_mask": ("bool",), "visual_id": ("int32",), "text_id": ("int32",), "visual_facts": ("bool",),
    "text_facts": ("bool",), "visual_caption_vecs": ("float16", "float32"), "caption_vec": ("float16", "float32"),
    "valid": ("bool",),
}  # fmt: skip
FRAME_SIZE = 96


def tokenizer(config: dict):
    """The tokenizer that `config.text` asks for, with the vocabulary of the prepared training texts."""
    prepare.read(config["data"]["root"])
    counted = pathlib.Path(config["data"]["root"]) / "words.json"
    counts = json.loads(counted.read_text(encoding="utf-8"))["counts"] if counted.exists() else None
    return text.tokenizer(config["text"], counts)


def open_split(data: dict, tokenizer, keys: Iterable[str] | None = None) -> "Split":
    """One split of a prepared dataset.

    Args:
        data: as in config.data: `root`, `split`, `visual`, `frame_size`.
        tokenizer: of the texts.
        keys: those of `FACTS` and `VECTORS` that batches carry, such as `Task.reads`; None: all that the data have.

    Raises:
        ValueError: no such split, or the data lack what `keys` asks for.
    """
    return Split(data, tokenizer, keys)


def spec(data: dict, tokenizer) -> dict:
    """What the data look like, for the Model fields of these names.

    `vocabulary`, `visual_dim` (None for frames), `mask_word` where the tokenizer has one that stands for a hidden word.
    """
    prepared = prepare.read(data["root"])
    kind = visual_kind(data, prepared)
    found = {
        "vocabulary": tokenizer.size,
        "visual_dim": prepared["visual"]["shape"][-1] if kind == "features" else None,
    }
    return found | ({} if tokenizer.mask_word is None else {"mask_word": tokenizer.mask_word})


def visual_kind(data: dict, prepared: dict) -> str:
    """`features` or `frames`, what enters the batch as `visual`; features where the dataset has both and none is named.

    Raises:
        ValueError: the dataset has no such thing.
    """
    has = [kind for kind, key in (("features", "visual"), ("frames", "frames")) if prepared[key]]
    kind = data.get("visual") or has[0]
    if kind not in has:
        raise ValueError(f"config.data.visual={kind!r}, but {data['root']} was prepared with {' and '.join(has)}")
    return kind


class Split:
    """A split in random access. Everything but the visuals themselves is read from `<split>.index.npz` at once.

    Attributes:
        names: `[V]` keys of the visuals. texts: `[T]` strings. text_visual: int32 `[T]`, the visual of each text.
        tokens, token_mask: int32, bool `[T, L]`. truncated: texts longer than L.
        kind: `features` or `frames`. length: elements a visual is padded to. fact_names: list or None.
        keys: the facts and vectors that batches carry. sentence: of prepared.json, how the texts' vectors were made, or
            None.
        facts_complete: the facts are all that there is to know, as in a procedural world.
        ids_hash: sha256 of names and texts, which says what exactly was evaluated.
    """

    def __init__(self, data: dict, tokenizer, keys: Iterable[str] | None = None):
        root = pathlib.Path(data["root"])
        self.prepared = prepare.read(root)
        splits = self.prepared["splits"]
        if data.get("split") not in splits:
            raise ValueError(f"{root} has no split {data.get('split')!r}; splits: {', '.join(sorted(splits))}")
        self.name, self.kind = data["split"], visual_kind(data, self.prepared)
        with np.load(root / f"{self.name}.index.npz", allow_pickle=False) as index:
            self.names = index["names"].tolist()
            counts, self.lengths = index["texts"], index["lengths"]
            raw, offsets = index["text_bytes"].tobytes(), index["text_offsets"]
        self.texts = [raw[a:b].decode() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        self.text_visual = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.text_within = np.concatenate([np.arange(c) for c in counts]).astype(np.int32)
        self.n_visuals, self.n_texts = len(self.names), len(self.texts)
        self.length = max(s["max_length"] for s in splits.values())
        self.frame_size, self.fact_names = data.get("frame_size") or FRAME_SIZE, self.prepared["facts"]
        self.facts_complete, self.sentence = self.prepared["facts_complete"], self.prepared.get("sentence")
        self.keys = _keys(self.prepared, root, keys)
        self.most_texts = int(max(counts))
        self.tokens, self.token_mask = (np.stack(a) for a in zip(*map(tokenizer.encode, self.texts), strict=True))
        self.truncated = sum(tokenizer.n_tokens(t) > self.tokens.shape[1] for t in self.texts)
        identity = "\0".join([*self.names, *self.texts]).encode()
        self.ids_hash = hashlib.sha256(identity).hexdigest()
        builder = tfds.builder_from_directory(root / self.prepared["dataset"] / self.prepared["version"])
        self._records = builder.as_data_source(split=self.name)

    def record(self, i: int) -> dict:
        """The record of visual i as numpy; names the file's trouble if it can't be read."""
        try:
            return self._records[i]
        except Exception as error:  # array_record and protobuf raise their own kinds
            raise ValueError(
                f"record {i} ({self.names[i]}) of split {self.name!r} can't be read: {type(error).__name__}: {error}. "
                "The prepared file is damaged; remove the folder and prepare it again"
            ) from error

    def visual(self, i: int, record: dict | None = None) -> dict[str, np.ndarray]:
        """The keys of visual i that enter a batch, padded to the fixed length; reads its record unless given."""
        record, row = record or self.record(i), {"visual_id": np.int32(i)}
        if self.kind == "features":
            row["visual"], row["visual_mask"] = _pad(record["visual"], self.length)
        else:
            frames = np.stack([media.fit(media.decode(f), self.frame_size) for f in record["frames"]])
            row["visual"], row["visual_mask"] = _pad(frames, self.length)
        if "boxes" in record:
            row["boxes"] = _pad(record["boxes"], self.length)[0]
        if "visual_facts" in self.keys:
            row["visual_facts"] = record["visual_facts"]
        if "visual_caption_vecs" in self.keys:
            row["visual_caption_vecs"] = _repeated(record["text_vectors"], self.most_texts)
        return row

    def text(self, t: int) -> dict[str, np.ndarray]:
        """The keys of text t that enter a batch."""
        return {
            "text": self.tokens[t],
            "text_mask": self.token_mask[t],
            "text_id": np.int32(t),
            "visual_id": self.text_visual[t],
        }

    def row(self, view: str, i: int) -> dict[str, np.ndarray]:
        """Row i of a view."""
        if view == "visuals":
            return self.visual(i)
        row = self.text(i)
        if view == "pairs":
            owner = int(self.text_visual[i])
            record = self.record(owner)
            row = self.visual(owner, record) | row
        fields = {"text_facts": ("text_facts", self.facts), "caption_vec": ("text_vectors", self.vectors)}
        for key, (field, of_all) in fields.items():
            if key in self.keys:
                row[key] = record[field][self.text_within[i]] if view == "pairs" else of_all()[1][i]
        return row

    def size(self, view: str) -> int:
        """Rows of a view."""
        return self.n_visuals if view == "visuals" else self.n_texts

    @functools.cached_property
    def _facts(self) -> tuple[np.ndarray, np.ndarray]:
        records = [self.record(i) for i in range(self.n_visuals)]
        return np.stack([r["visual_facts"] for r in records]), np.concatenate([r["text_facts"] for r in records])

    def facts(self) -> tuple[np.ndarray, np.ndarray] | None:
        """`(visual_facts bool [V, K], text_facts bool [T, K])`; None where the data have none. Read once."""
        return self._facts if self.fact_names else None

    @functools.cached_property
    def _vectors(self) -> tuple[np.ndarray, np.ndarray]:
        own = [self.record(i)["text_vectors"] for i in range(self.n_visuals)]
        return np.stack([_repeated(vectors, self.most_texts) for vectors in own]), np.concatenate(own)

    def vectors(self) -> tuple[np.ndarray, np.ndarray] | None:
        """`(visual_caption_vecs float16 [V, K, E], caption_vec float16 [T, E])`; None without them. Read once."""
        return self._vectors if self.sentence else None

    def thumbs(self, i: int) -> bytes | None:
        """A small JPEG of visual i for the report, where one was kept."""
        return (self.record(i)["thumb"] or None) if self.prepared["has_thumbs"] else None

    def train(self, *, batch_size: int, seed: int, start: int = 0, process=(0, 1), threads: int = 2) -> Iterator[dict]:
        """Endless shuffled batches of pairs, this process's share of each; begins at batch `start`.

        Every epoch is shuffled anew and trimmed to whole global batches, so a batch never spans two epochs.

        Raises:
            ValueError: fewer pairs than one batch, or a batch that the processes can't share.
        """
        index, count = process
        whole = self.n_texts // batch_size * batch_size
        if not whole or batch_size % count:
            raise ValueError(
                f"batch_size {batch_size} does not fit {self.n_texts} pairs and {count} process(es): expected at most "
                f"{self.n_texts} and a multiple of {count}"
            )
        ds = grain.MapDataset.source(_View(self, "pairs")).seed(seed).shuffle()[:whole][index::count].repeat()
        ds = ds.batch(batch_size // count, drop_remainder=True, batch_fn=_stack)
        iterator = iter(ds.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))
        iterator.set_state({"next_index": start})
        return iterator

    def epoch(self, view: str, batch_size: int, threads: int = 2) -> Iterator[dict]:
        """Every row of a view once, in order; the last batch is filled with row 0 marked `valid=False`."""
        rows = -(-self.size(view) // batch_size) * batch_size
        ds = grain.MapDataset.source(_View(self, view, rows)).batch(batch_size, batch_fn=_stack)
        yield from ds.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches of one pass over the pairs."""
        return max(self.n_texts // batch_size, 1)


class _View:
    """A view as a grain source; indices beyond its size are padding rows."""

    def __init__(self, split: Split, view: str, rows: int | None = None):
        self.split, self.view, self.rows = split, view, rows or split.size(view)

    def __len__(self):
        return self.rows

    def __getitem__(self, i):
        i = int(i)
        valid = i < self.split.size(self.view)
        return self.split.row(self.view, i if valid else 0) | {"valid": np.bool_(valid)}


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


def _keys(prepared: dict, root, asked: Iterable[str] | None) -> set[str]:
    """Those of `FACTS` and `VECTORS` that batches carry.

    Raises:
        ValueError: `asked` for what the data do not have.
    """
    has = (FACTS if prepared["facts"] else set()) | (VECTORS if prepared.get("sentence") else set())
    asked = has if asked is None else set(asked)
    if missing := sorted(asked - has):
        again = "; prepare another folder with --sentence_encoder (config.data.options.sentence_encoder)"
        raise ValueError(f"{root} has no {' and no '.join(missing)}{again if VECTORS & set(missing) else ''}")
    return asked


def _repeated(vectors: np.ndarray, count: int) -> np.ndarray:
    """`[n, E]` → `[count, E]` by repeating the first, which changes no maximum over them, as zeros might."""
    return vectors[np.where(np.arange(count) < len(vectors), np.arange(count), 0)]


def _pad(array: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """`[n, …]` → `[length, …]` with zeros, and the mask of the real rows."""
    if len(array) == length:
        return array, np.ones(length, bool)
    padded = np.zeros((length, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded, np.arange(length) < len(array)


def _stack(rows: list[dict]) -> dict[str, np.ndarray]:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
