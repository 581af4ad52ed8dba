"""A split of a prepared folder in random access, and batches of it through grain.

A view says what one row is: `pairs` (one per visual and text, for training), `moments` (the same of videos whose texts
have windows, in batches of few padded lengths), `visuals` and `texts` (each item once, for evaluation and search). The
position in the data is the step: a number, valid for any number of processes; what is chosen at random
(`data.sampling`, windows and pairs of clips) follows from the seed and the row's place in the whole epoch.
"""

import functools
import hashlib
import pathlib
from collections.abc import Iterable, Iterator

import grain
import numpy as np
import tensorflow_datasets as tfds

from vlr_jax import batching, buckets, prepare, reading, text, timeline
from vlr_jax.batching import FACTS, VECTORS

TEXTS = ("each", "paragraphs")  # config.data.texts
MOST_BATCHES = 2**40  # of an endless training


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
        timeline: `timeline.Timeline`, the moments of videos; None where the data have none.
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
            index = dict(index) if self.prepared.get("moments") else None
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
        self.timeline = index and timeline.Timeline(index, self.prepared, data, self.text_visual)
        self._encode(tokenizer)
        identity = "\0".join([*self.names, *self.texts]).encode()
        self.ids_hash = hashlib.sha256(identity).hexdigest()
        there = [path.parent for path in root.glob(f"*/{self.prepared['version']}/dataset_info.json")]
        if len(there) != 1:  # its folder has the builder's own name
            raise ValueError(f"{root} has {len(there)} folders of records, not one; remove it and prepare it again")
        builder = tfds.builder_from_directory(there[0])
        self._records = builder.as_data_source(split=self.name)

    def _encode(self, tokenizer) -> None:
        """Tokens of all texts; where the records have states of them, those are read with each record."""
        self.states, self.tokens = isinstance(tokenizer, text.States) and tokenizer.length, None
        if self.states:
            text_dim(self._opened[0], self.prepared, tokenizer)
            if self.paragraphs:
                raise ValueError("config.data.texts='paragraphs' has no states of tokens: those are of single texts")
            self.truncated = int((self.timeline.n_states > self.states).sum())
            return
        encoded = [tokenizer.encode(text) for text in self.texts or ["a"]]  # "a" for its shape alone
        self.tokens, self.token_mask = (np.stack(a)[: self.n_texts] for a in zip(*encoded, strict=True))
        self.truncated = sum(tokenizer.n_tokens(t) > self.tokens.shape[1] for t in self.texts)

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

    def text(self, t: int, record: dict | None = None) -> dict[str, np.ndarray]:
        """The keys of text t that enter a batch; reads its visual's record, unless given, for states of tokens."""
        ids = {"text_id": np.int32(t), "visual_id": self.text_visual[t]}
        if not self.states:
            return {"text": self.tokens[t], "text_mask": self.token_mask[t]} | ids
        states = timeline.states(record or self.record(int(self.text_visual[t])), int(self.text_within[t]))
        padded, mask = reading.pad(states[: self.states], self.states)
        return {"text": padded, "text_mask": mask} | ids

    def row(self, view: str, i: int, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """Row i of a view; `rng` makes the choices that are random in training."""
        if view == "visuals":
            return self.visual(i, rng=rng)
        if view == "texts":
            row = self.text(i)
        else:
            owner = int(self.text_visual[i])
            record = self.record(owner)
            row = self.visual(owner, record, rng) | self.text(i, record)
        fields = {"text_facts": ("text_facts", self.facts), "caption_vec": ("text_vectors", self.vectors)}
        for key, (field, of_all) in fields.items():
            if key in self.keys:
                of_visual = view == "pairs" and self._of_texts(record, field)
                row[key] = of_visual[self.text_within[i]] if view == "pairs" else of_all()[1][i]
        return row

    def size(self, view: str) -> int:
        """Rows of a view.

        Raises:
            ValueError: a view of texts, and the split has none; `moments`, and no text has windows, or config.data
                asks for something else than all features of clips and single texts.
        """
        return len(self.ids(view))

    def ids(self, view: str) -> np.ndarray:
        """What the rows of a view are: numbers of visuals or of texts. Raises as `size`."""
        if view == "visuals":
            return np.arange(self.n_visuals)
        if not self.n_texts:
            raise ValueError(
                f"the split {self.name!r} has no texts: it can be indexed and searched, not trained or evaluated on"
            )
        if view != "moments":
            return np.arange(self.n_texts)
        if self.timeline is None or not len(self.timeline.annotated):
            raise ValueError(
                f"no text of the split {self.name!r} has windows: there are no moments to train on or to measure; "
                "--mode localize --output FILE.jsonl predicts them"
            )
        if self.paragraphs or self.reading.kind != "features" or self.reading.most is not None:
            raise ValueError(
                "moments of single texts are found in features of all clips: leave config.data.texts, "
                "config.data.visual and config.data.frames out"
            )
        return self.timeline.annotated

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

    def frames(self, i: int) -> list[bytes]:
        """The encoded frames of visual i that its record keeps; none where it keeps none."""
        return self.record(i)["frames"] if self.prepared["frames"] else []

    def train(
        self, *, batch_size: int, seed: int, start: int = 0, process=(0, 1), threads: int = 2, view: str = "pairs"
    ) -> Iterator[dict]:
        """Endless shuffled batches of `pairs` or `moments`, this process's share of each; begins at batch `start`.

        Every epoch is shuffled anew and trimmed to whole global batches, so a batch never spans two epochs.

        Raises:
            ValueError: fewer rows than one batch, or a batch that the processes can't share, or no rows at all; videos
                longer than the largest bucket.
        """
        (index, count), pairs = process, self.size(view)
        whole = pairs // batch_size * batch_size
        if not whole or batch_size % count:
            raise ValueError(
                f"batch_size {batch_size} does not fit {pairs} {view} and {count} process(es): expected at most "
                f"{pairs} and a multiple of {count}"
            )
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        if view == "moments":
            self.timeline.check_fits(self.ids("moments"))
            planned = buckets.Batches(self.padded("moments"), batch_size, seed)
            ds = grain.MapDataset.range(MOST_BATCHES).map(lambda i: self._planned(planned[i], seed, process))
            iterator = iter(ds.to_iter_dataset(options))
            iterator.set_state({"next_index": start})
            return iterator
        ds = grain.MapDataset.range(pairs).seed(seed).shuffle()
        # Before the processes' shares: a row's random numbers follow from its place among all.
        ds = ds.random_map(lambda i, rng: self.row("pairs", i, rng) | {"valid": np.bool_(True)})
        ds = ds[:whole][index::count].repeat()
        ds = ds.batch(batch_size // count, drop_remainder=True, batch_fn=batching.stack)
        iterator = iter(ds.to_iter_dataset(options))
        iterator.set_state({"next_index": start})
        return iterator

    def padded(self, view: str) -> np.ndarray:
        """The number of clips that each row of `moments` is padded to, int `[n]`; of other views, which have one form,
        zeros."""
        if view != "moments":
            return np.zeros(self.size(view), int)
        return np.array([self.timeline.bucket(int(self.text_visual[t])) for t in self.ids(view)])

    def _planned(self, batch: tuple, seed: int, process: tuple[int, int]) -> dict[str, np.ndarray]:
        """This process's rows of a planned batch of moments; a row's random numbers follow from its number alone."""
        (length, rows, epoch), (index, count), texts = batch, process, self.ids("moments")
        made = []
        for i in rows[index::count]:
            rng = np.random.default_rng([seed, epoch, int(i)])
            made.append(timeline.row(self, int(texts[i]), length, rng) | {"valid": np.bool_(True)})
        return batching.stack(made)

    def epoch(self, view: str, batch_size: int, threads: int = 2, only: np.ndarray | None = None) -> Iterator[dict]:
        """Every row of a view once, in order; the last batch is filled with row 0 of them marked `valid=False`.

        Args:
            view: "visuals", "texts" or "pairs" (`localize.py` makes the batches that moments are found in).
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

    def steps_per_epoch(self, batch_size: int, view: str = "pairs") -> int:
        """Batches of one pass over the rows of a view."""
        return max(self.size(view) // batch_size, 1)


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


def text_dim(data: dict, prepared: dict, tokenizer) -> int | None:
    """The width of the precomputed states that the tokenizer stands for; None for words.

    Raises:
        ValueError: the data have none.
    """
    if not isinstance(tokenizer, text.States):
        return None
    states = (prepared.get("moments") or {}).get("text_features")
    if not states:
        raise ValueError(
            f"text.name='states' needs texts with precomputed states of their tokens, which {data['root']} has not; "
            "prepare it with --option text_features=FOLDER, or use words"
        )
    return states["dim"]
