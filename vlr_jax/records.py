"""A builder's records → ArrayRecord files in tensorflow-datasets' layout, and beside them what is read without them:
one index a split, the word counts of the training texts, the quarantine. docs/datasets.md has the layout.
"""

import collections
import contextlib
import functools
import io
import json
import pathlib
import types

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging

from vlr_jax import media
from vlr_jax.text import split_words


def texts(builder) -> dict[str, list[list[str]]]:
    """Of each split the texts of each visual, before anything is written.

    A builder's `texts(split)` gives them without making visuals; where it has none, all records are made for it.
    """
    read = getattr(builder, "texts", None)
    return {
        split: list(read(split)) if read else [record["text"] for _, record in examples]
        for split, examples in builder._split_generators(None).items()
    }


def _with_vectors(builder, examples, texts: list[list[str]], vectors: np.ndarray):
    """Records with their rows of `vectors`; texts of visuals that are quarantined meanwhile are passed over.

    Raises:
        ValueError: a record has other texts than those that were encoded for it.
    """
    start, passed, before, encoded = 0, 0, len(builder.quarantine), iter(texts)
    for key, record in examples:
        own = next(encoded, None)
        while own != record["text"]:
            if own is None:
                raise ValueError(f"the builder's texts(split) are not those of its records: [], {record['text']}")
            start, passed = start + len(own), passed + 1
            own = next(encoded, None)
        end = start + len(own)
        yield key, record | {"text_vectors": np.array(vectors[start:end])}
        start = end
    if passed + len(list(encoded)) != len(builder.quarantine) - before:
        raise ValueError(f"the builder's texts(split) are not those of its records: {len(vectors)}, {start}")


# Of videos with moments: the field of a record → its array in the index, and what one entry of that is (text: str).
MOMENTS = {
    "duration": ("durations", np.float64, ()), "clip_length": ("clip_lengths", np.float32, ()),
    "source": ("sources", np.str_, ()), "text_name": ("text_names", np.str_, ()),
    "windows": ("windows", np.float64, (2,)), "n_windows": ("n_windows", np.int32, ()),
    "saliency_clips": ("saliency_clips", np.int32, ()), "saliency_scores": ("saliency_scores", np.float32, (-1,)),
    "n_saliency": ("n_saliency", np.int32, ()), "n_text_features": ("n_text_features", np.int32, ()),
    "shown": ("shown", np.float64, (2,)), "shown_key": ("shown_keys", np.str_, ()),
}  # fmt: skip


class Index:
    """What is known of a split's records without reading them, gathered while they are written.

    Attributes:
        names, counts, lengths: of each visual its name, number of texts and number of elements: of regions, or of
            frames where it has frames, or regions of frames (`regions`).
        texts: all texts in record order.
        frames, sizes, thumbs: the most frames of a visual, all (H, W) of frames, the number of thumbnails.
        regions: the most regions of a frame; None where the features are not those of a frame's regions.
        moments: of each field of `MOMENTS` that the records have, what each of them holds, as a list.
    """

    def __init__(self):
        self.names, self.counts, self.lengths, self.texts = [], [], [], []
        self.frames, self.sizes, self.thumbs, self.regions = 0, set(), 0, None
        self.moments: dict[str, list[np.ndarray]] = {}

    def add(self, record: dict) -> None:
        """Takes note of the next record.

        Raises:
            ValueError: nothing to see in it, or the regions of its frames are not as many as its features.
        """
        frames, regions = record.get("frames", []), record.get("regions")
        length = len(frames) if "visual" not in record else len(record["visual"] if regions is None else regions)
        if regions is not None and sum(regions) != len(record["visual"]):
            raise ValueError(
                f"{record['name']}: its frames have {sum(regions)} regions, but there are {len(record['visual'])} rows"
            )
        if not length:
            raise ValueError(f"{record['name']} has no frame and no features")
        if regions is not None:
            self.regions = max(self.regions or 0, int(max(regions)))
        self.names.append(record["name"])
        self.counts.append(len(record["text"]))
        self.lengths.append(length)
        self.texts.extend(record["text"])
        self.frames = max(self.frames, len(frames))
        self.sizes.update(map(media.size, frames))
        self.thumbs += bool(record.get("thumb"))
        if "text_name" in record:
            for field in MOMENTS.keys() & record.keys():
                self.moments.setdefault(field, []).append(record[field])

    def save(self, path: pathlib.Path) -> None:
        """Writes `names texts lengths text_bytes text_offsets` as one npz, and of videos with moments the arrays of
        `MOMENTS`, all records' one after the other (and `n_shown`, of each record)."""
        encoded = [text.encode() for text in self.texts]
        np.savez(
            path,
            names=np.array(self.names),
            texts=np.array(self.counts, np.int32),
            lengths=np.array(self.lengths, np.int32),
            text_bytes=np.frombuffer(b"".join(encoded), np.uint8),
            text_offsets=np.cumsum([0, *map(len, encoded)], dtype=np.int64),
            **self._flat(),
        )

    def _flat(self) -> dict[str, np.ndarray]:
        """The arrays of `MOMENTS` that there are."""
        flat = {}
        for field, own in self.moments.items():
            name, dtype, shape = MOMENTS[field]
            width = (max(np.shape(rows)[-1] for rows in own),) if shape == (-1,) else shape
            parts = [np.asarray(rows, dtype).reshape(-1, *width) for rows in own]
            flat[name] = np.concatenate([np.empty((0, *width), dtype), *parts])
        if "shown" in self.moments:
            flat["n_shown"] = np.array(list(map(len, self.moments["shown"])), np.int32)
        return flat


@contextlib.contextmanager
def _quiet():
    """tensorflow-datasets prints of downloads, and there are none; under absl's `app.run` it logs every step."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


def _write_splits(
    builder, indexes: dict[str, Index], vectors: dict, progress: bool, dl_manager, download_config
) -> None:
    """tensorflow-datasets' `_download_and_prepare`, but record by record into one file a split.

    Its own writer keeps a split in memory up to 1 GB and needs TensorFlow beyond that.
    """
    features = builder.info.features
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    writer = tfds.core.writer.ExampleWriter(file_format=builder.info.file_format)
    splits = []
    for split, examples in builder._split_generators(dl_manager).items():
        index = indexes[split] = Index()
        if vectors:
            examples = _with_vectors(builder, examples, *vectors[split])
        template = builder._get_filename_template(split_name=split)
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        total = getattr(builder, "counts", {}).get(split)

        def records(examples=examples, index=index, split=split, total=total):
            bar = tqdm.tqdm(examples, f"writing {split}", total, unit="visual", disable=not progress, leave=False)
            for key, record in bar:
                serialized = serializer.serialize_example(features.encode_example(record))
                index.add(record)
                yield key, serialized

        try:
            writer.write(path, records())
        except RuntimeError as error:  # the ArrayRecord writer's only kind of error
            if str(path) in str(error):
                raise OSError(str(error)) from error
            raise
        if not index.names:
            raise ValueError(f"The split {split!r} of {builder.name} has no records")
        info = tfds.core.SplitInfo(
            name=split, shard_lengths=[len(index.names)], num_bytes=path.stat().length, filename_template=template
        )
        splits.append(info)
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))


def write(builder, folder: pathlib.Path, progress: bool, vectors: dict | None = None) -> dict[str, Index]:
    """Writes all but prepared.json into an empty folder, and reads the ends of every split back.

    Args:
        builder: made with `data_dir=folder, file_format="array_record"`.
        folder: the folder.
        progress: show bars.
        vectors: split → the texts of each visual, and their vectors float16 `[T, E]`, the field `text_vectors`.

    Returns:
        the index of each split.

    Raises:
        OSError: the files cannot be written, or do not read back.
        ValueError: a split without records, or whatever the builder raises.
    """
    indexes: dict[str, Index] = {}
    if vectors:
        dim = next(iter(vectors.values()))[1].shape[1]
        field = tfds.features.Tensor(shape=(None, dim), dtype=np.float16, encoding="bytes")
        builder.info._features = tfds.features.FeaturesDict({**builder.info.features, "text_vectors": field})
    builder._download_and_prepare = functools.partial(_write_splits, builder, indexes, vectors, progress)
    # Nothing is downloaded. (Making tensorflow-datasets' manager needs a package that it does not declare.)
    builder._make_download_manager = lambda **_: types.SimpleNamespace(downloaded_size=0)
    with _quiet():
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        written = tfds.builder_from_directory(builder.data_dir)
    for split, index in tqdm.tqdm(indexes.items(), "indexing", unit="split", disable=not progress, leave=False):
        records = written.as_data_source(split=split)
        ends = [records[i]["name"].decode() for i in (0, len(index.names) - 1)]
        if len(records) != len(index.names) or ends != [index.names[0], index.names[-1]]:
            raise OSError(f"the records of {split} do not read back as they were written")
        index.save(folder / f"{split}.index.npz")
    if "train" in indexes:
        counts = collections.Counter(word for text in indexes["train"].texts for word in split_words(text))
        ordered = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
        words = json.dumps({"split": "train", "counts": ordered}, ensure_ascii=False)
        (folder / "words.json").write_text(words, encoding="utf-8")
    with open(folder / "quarantine.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(problem, ensure_ascii=True) + "\n" for problem in builder.quarantine)
    return indexes
