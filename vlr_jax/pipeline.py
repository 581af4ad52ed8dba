"""Prepared records → views → grain → batches of one fixed shape.

A view says what one row is: `pairs` (one per visual and text, for training), `visuals` and `texts` (each item once, for
evaluation and search). With `data.texts="paragraphs"` the texts are the paragraphs: of each visual its texts in order,
joined by a space. The position in the data is the step: a number, valid for any number of processes; what is chosen at
random (`data.sampling`) follows from the seed and the row's place in the whole epoch.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator

import grain
import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import batching, prepare, reading, text
from vlr_jax.batching import FACTS, VECTORS

TEXTS = ("each", "paragraphs")  # config.data.texts


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
        data: as in config.data: `root`, `split`, `visual`, `frame_size`, `frames`, `sampling`, `texts`.
        tokenizer: of the texts.
        keys: those of `batching.FACTS` and `batching.VECTORS` that batches carry, such as `Task.reads`; None: all that
            the data have.

    Raises:
        ValueError: no such split, the data lack what `keys` asks for, or another value has no sense.
    """
    return Split(data, tokenizer, keys)


def spec(data: dict, tokenizer) -> dict:
    """What the data look like, for the Model fields of these names.

    `vocabulary`, `visual_dim` (None for frames), `mask_word` where the tokenizer has one that stands for a hidden word.
    """
    prepared = prepare.read(data["root"])
    kind = reading.kind(data, prepared)
    found = {
        "vocabulary": tokenizer.size,
        "visual_dim": prepared["visual"]["shape"][-1] if kind == "features" else None,
    }
    return found | ({} if tokenizer.mask_word is None else {"mask_word": tokenizer.mask_word})


def row(data: dict, tokenizer) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each key of a row of pairs that models read, without the leading axis; no split is opened."""
    prepared = prepare.read(data["root"])
    length = tokenizer.encode("a")[0].shape
    texts = {"text": (length, "int32"), "text_mask": (length, "bool"), "visual_id": ((), "int32")}
    shapes = reading.plan(data, prepared).shapes(prepared)
    return shapes | texts | {"text_id": ((), "int32"), "valid": ((), "bool")}


class Split:
    """A split in random access. Everything but the visuals themselves is read from `<split>.index.npz` at once.

    Attributes:
        names: `[V]` keys of the visuals. texts: `[T]` strings. text_visual: int32 `[T]`, the visual of each text.
        tokens, token_mask: int32, bool `[T, L]`. truncated: texts longer than L.
        reading: `reading.Reading`, how visuals are read. fact_names: list or None.
        keys: the facts and vectors that batches carry. sentence: of prepared.json, how the texts' vectors were made, or
            None.
        facts_complete: the facts are all that there is to know, as in a procedural world.
        ids_hash: sha256 of names and texts, which says what exactly was evaluated.
        missing: names of visuals that belong to the split and were not there when it was prepared.
    """

    def __init__(self, data: dict, tokenizer, keys: Iterable[str] | None = None):
        root = pathlib.Path(data["root"])
        self.prepared = prepare.read(root)
        splits = self.prepared["splits"]
        if data.get("split") not in splits:
            raise ValueError(f"{root} has no split {data.get('split')!r}; splits: {', '.join(sorted(splits))}")
        self.name, self.reading = data["split"], reading.plan(data, self.prepared)
        self._opened = data, tokenizer
        with np.load(root / f"{self.name}.index.npz", allow_pickle=False) as index:
            self.names, counts = index["names"].tolist(), index["texts"]
            raw, offsets = index["text_bytes"].tobytes(), index["text_offsets"]
        self.texts = [raw[a:b].decode() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
        self.paragraphs = _paragraphs(data)
        if self.paragraphs:
            ends = np.cumsum(counts)
            self.texts = [" ".join(self.texts[end - n : end]) for end, n in zip(ends, counts, strict=True) if n]
            counts = np.minimum(counts, 1)
        self.text_visual = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.text_within = np.concatenate([np.arange(c) for c in counts]).astype(np.int32)
        self.n_visuals, self.n_texts = len(self.names), len(self.texts)
        self.fact_names = self.prepared["facts"]
        self.missing = (self.prepared.get("missing") or {}).get(self.name, [])
        self.facts_complete, self.sentence = self.prepared["facts_complete"], self.prepared.get("sentence")
        self.keys = _keys(self.prepared, root, keys)
        self.most_texts = int(max(counts))
        encoded = [tokenizer.encode(text) for text in self.texts or ["a"]]  # "a" for its shape alone
        self.tokens, self.token_mask = (np.stack(a)[: self.n_texts] for a in zip(*encoded, strict=True))
        self.truncated = sum(tokenizer.n_tokens(t) > self.tokens.shape[1] for t in self.texts)
        identity = "\0".join([*self.names, *self.texts]).encode()
        self.ids_hash = hashlib.sha256(identity).hexdigest()
        there = [path.parent for path in root.glob(f"*/{self.prepared['version']}/dataset_info.json")]
        if len(there) != 1:  # its folder has the builder's own name
            raise ValueError(f"{root} has {len(there)} folders of records, not one; remove it and prepare it again")
        builder = tfds.builder_from_directory(there[0])
        self._records = builder.as_data_source(split=self.name)

    def beside(self, name: str) -> "Split":
        """Another split of the same data, read in the same way."""
        data, tokenizer = self._opened
        return Split(data | {"split": name}, tokenizer, self.keys)

    def record(self, i: int) -> dict:
        """The record of visual i as numpy; names the file's trouble if it can't be read."""
        try:
            return self._records[i]
        except Exception as error:  # array_record and protobuf raise their own kinds
            raise ValueError(
                f"record {i} ({self.names[i]}) of split {self.name!r} can't be read: {type(error).__name__}: {error}. "
                "The prepared file is damaged; remove the folder and prepare it again"
            ) from error

    def visual(self, i: int, record: dict | None = None, rng=None) -> dict[str, np.ndarray]:
        """The keys of visual i that enter a batch, padded to the fixed shape; reads its record unless given."""
        record = record or self.record(i)
        row = self.reading.read(record, rng) | {"visual_id": np.int32(i)}
        if "visual_facts" in self.keys:
            row["visual_facts"] = record["visual_facts"]
        if "visual_caption_vecs" in self.keys:
            row["visual_caption_vecs"] = batching.repeated(self._of_texts(record, "text_vectors"), self.most_texts)
        return row

    def _of_texts(self, record: dict, field: str) -> np.ndarray:
        """`text_facts` or `text_vectors` of a visual's texts. A paragraph says what any of its texts says; its vector
        is the sum of theirs, at unit length."""
        rows = record[field]
        if not self.paragraphs or len(rows) < 2:
            return rows
        if field == "text_facts":
            return rows.any(0, keepdims=True)
        total = rows.sum(0, keepdims=True, dtype=np.float64)
        return (total / max(np.linalg.norm(total), 1e-12)).astype(rows.dtype)

    def text(self, t: int) -> dict[str, np.ndarray]:
        """The keys of text t that enter a batch."""
        return {
            "text": self.tokens[t],
            "text_mask": self.token_mask[t],
            "text_id": np.int32(t),
            "visual_id": self.text_visual[t],
        }

    def row(self, view: str, i: int, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """Row i of a view; `rng` makes the choices that are random in training."""
        if view == "visuals":
            return self.visual(i, rng=rng)
        row = self.text(i)
        if view == "pairs":
            owner = int(self.text_visual[i])
            record = self.record(owner)
            row = self.visual(owner, record, rng) | row
        fields = {"text_facts": ("text_facts", self.facts), "caption_vec": ("text_vectors", self.vectors)}
        for key, (field, of_all) in fields.items():
            if key in self.keys:
                of_visual = view == "pairs" and self._of_texts(record, field)
                row[key] = of_visual[self.text_within[i]] if view == "pairs" else of_all()[1][i]
        return row

    def size(self, view: str) -> int:
        """Rows of a view.

        Raises:
            ValueError: a view of texts, and the split has none.
        """
        if view != "visuals" and not self.n_texts:
            raise ValueError(
                f"the split {self.name!r} has no texts: it can be indexed and searched, not trained or evaluated on"
            )
        return self.n_visuals if view == "visuals" else self.n_texts

    @functools.cached_property
    def _facts(self) -> tuple[np.ndarray, np.ndarray]:
        records = [self.record(i) for i in range(self.n_visuals)]
        said = [self._of_texts(record, "text_facts") for record in records]
        return np.stack([record["visual_facts"] for record in records]), np.concatenate(said)

    def facts(self) -> tuple[np.ndarray, np.ndarray] | None:
        """`(visual_facts bool [V, K], text_facts bool [T, K])`; None where the data have none. Read once."""
        return self._facts if self.fact_names else None

    @functools.cached_property
    def _vectors(self) -> tuple[np.ndarray, np.ndarray]:
        own = [self._of_texts(self.record(i), "text_vectors") for i in range(self.n_visuals)]
        return np.stack([batching.repeated(vectors, self.most_texts) for vectors in own]), np.concatenate(own)

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
            ValueError: fewer pairs than one batch, or a batch that the processes can't share, or no texts at all.
        """
        (index, count), pairs = process, self.size("pairs")
        whole = pairs // batch_size * batch_size
        if not whole or batch_size % count:
            raise ValueError(
                f"batch_size {batch_size} does not fit {pairs} pairs and {count} process(es): expected at most "
                f"{pairs} and a multiple of {count}"
            )
        ds = grain.MapDataset.range(pairs).seed(seed).shuffle()
        # Before the processes' shares: a row's random numbers follow from its place among all.
        ds = ds.random_map(lambda i, rng: self.row("pairs", i, rng) | {"valid": np.bool_(True)})
        ds = ds[:whole][index::count].repeat()
        ds = ds.batch(batch_size // count, drop_remainder=True, batch_fn=batching.stack)
        iterator = iter(ds.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))
        iterator.set_state({"next_index": start})
        return iterator

    def epoch(self, view: str, batch_size: int, threads: int = 2, only: np.ndarray | None = None) -> Iterator[dict]:
        """Every row of a view once, in order; the last batch is filled with row 0 of them marked `valid=False`.

        Args:
            view: "visuals", "texts" or "pairs".
            batch_size: rows of a batch.
            threads: that read.
            only: int `[n]`, the rows wanted; None for all.
        """
        ids = np.arange(self.size(view)) if only is None else only
        places = np.arange(-(-len(ids) // batch_size) * batch_size)

        def row(place):
            valid = place < len(ids)
            return self.row(view, int(ids[place if valid else 0])) | {"valid": np.bool_(valid)}

        ds = grain.MapDataset.source(places).map(row).batch(batch_size, batch_fn=batching.stack)
        yield from ds.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches of one pass over the pairs."""
        return max(self.n_texts // batch_size, 1)


def _keys(prepared: dict, root, asked: Iterable[str] | None) -> set[str]:
    """Those of `batching.FACTS` and `batching.VECTORS` that batches carry.

    Raises:
        ValueError: `asked` for what the data do not have.
    """
    has = (FACTS if prepared["facts"] else set()) | (VECTORS if prepared.get("sentence") else set())
    asked = has if asked is None else set(asked)
    if missing := sorted(asked - has):
        again = "; prepare another folder with --sentence_encoder (config.data.options.sentence_encoder)"
        raise ValueError(f"{root} has no {' and no '.join(missing)}{again if VECTORS & set(missing) else ''}")
    return asked


def _paragraphs(data: dict) -> bool:
    asked = data.get("texts") or "each"
    if asked not in TEXTS:
        raise ValueError(f"config.data.texts is {asked!r}; expected one of {', '.join(TEXTS)}")
    return asked == "paragraphs"
