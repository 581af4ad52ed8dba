"""Views, fixed shapes, shuffling, shares of processes, exact positions, refusals."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from vlr_jax import batching, pipeline, prepare, text


def words_of(root):
    return pipeline.tokenizer(dict(data=dict(root=root), text=dict(name="words", length=8)))


@pytest.fixture(scope="module")
def split(scenes_root):
    words = words_of(scenes_root)
    return pipeline.open_split(dict(name="scenes", root=scenes_root, split="train"), words)


def take(split, n, **options):
    return list(itertools.islice(split.train(**dict(dict(batch_size=16, seed=1), **options)), n))


def test_views_agree_on_ids(split):
    visuals = [b for b in split.epoch("visuals", 20)]
    texts = [b for b in split.epoch("texts", 33)]
    for batches, view in ((visuals, "visuals"), (texts, "texts")):
        for batch in batches:
            batching.check(batch, view)
            assert {k: v.shape for k, v in batch.items()} == {k: v.shape for k, v in batches[0].items()}
        assert sum(b["valid"].sum() for b in batches) == split.size(view)
    ids = np.concatenate([b["visual_id"][b["valid"]] for b in visuals])
    np.testing.assert_array_equal(ids, np.arange(split.n_visuals))
    of_text = np.concatenate([b["visual_id"][b["valid"]] for b in texts])
    np.testing.assert_array_equal(of_text, split.text_visual)
    batch = take(split, 1)[0]
    batching.check(batch, "pairs")
    features = np.concatenate([b["visual"] for b in visuals])
    for row in range(16):
        np.testing.assert_array_equal(batch["visual"][row], features[batch["visual_id"][row]])
        assert split.text_visual[batch["text_id"][row]] == batch["visual_id"][row]
        np.testing.assert_array_equal(batch["text"][row], split.tokens[batch["text_id"][row]])
    assert not batch["visual"][~batch["visual_mask"]].any()


def test_a_pass_holds_every_pair_at_most_once_and_shuffles_anew(split):
    per_epoch = split.steps_per_epoch(16)
    batches = take(split, 2 * per_epoch)
    first, second = ([b["text_id"].tolist() for b in half] for half in (batches[:per_epoch], batches[per_epoch:]))
    for epoch in (first, second):
        flat = sum(epoch, [])
        assert len(set(flat)) == len(flat) == split.n_texts // 16 * 16
    assert first != second


def test_position_is_the_step(split):
    whole = take(split, 40)
    for start in (1, 17, 33):
        again = take(split, 3, start=start)
        for a, b in zip(whole[start:], again, strict=False):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])


def test_processes_share_the_global_batch(split):
    """The rows of two processes are disjoint, and together are those of one process, batch by batch."""
    one = take(split, 20)
    shares = [take(split, 20, process=(i, 2)) for i in range(2)]
    for whole, a, b in zip(one, *shares, strict=True):
        assert len(a["text_id"]) == len(b["text_id"]) == 8
        assert sorted(whole["text_id"]) == sorted([*a["text_id"], *b["text_id"]])


def test_truncation_is_counted(split):
    assert split.tokens.shape[1] == 8
    assert split.truncated == sum(len(text.split_words(t)) + 2 > 8 for t in split.texts) > 0


@pytest.fixture(scope="module")
def vectored_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("vectored") / "root"
    options = dict(train=12, val=4, test=0, captions=2, sentence_encoder="tfidf:5")
    prepare.prepare("scenes", root, options=options, progress=False)
    return str(root)


def test_sentence_vectors(vectored_root):
    split = pipeline.open_split(dict(root=vectored_root, split="train"), words_of(vectored_root))
    visual, text = split.vectors()
    assert visual.shape == (12, 2, 5) and text.shape == (24, 5) and visual.dtype == text.dtype == np.float16
    np.testing.assert_array_equal(visual.reshape(24, 5), text)
    np.testing.assert_allclose(np.linalg.norm(text.astype(float), axis=1), 1, atol=1e-3)
    batch = take(split, 1, batch_size=8)[0]
    batching.check(batch)
    np.testing.assert_array_equal(batch["caption_vec"], text[batch["text_id"]])
    np.testing.assert_array_equal(batch["visual_caption_vecs"], visual[batch["visual_id"]])
    for view, key, rows in (("visuals", "visual_caption_vecs", visual), ("texts", "caption_vec", text)):
        batch = next(split.epoch(view, 6))
        batching.check(batch, view)
        np.testing.assert_array_equal(batch[key], rows[:6])


def test_fewer_texts_repeat_the_first():
    """Zeros would have a cosine of 0, and so win over negative ones."""
    rows = np.arange(6.0).reshape(3, 2)
    assert batching.repeated(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [0, 1]]
    np.testing.assert_array_equal(batching.repeated(rows, 3), rows)


def test_batches_carry_what_is_asked_for(vectored_root, scenes_root):
    data, words = dict(root=vectored_root, split="val"), words_of(vectored_root)
    for asked in (batching.FACTS, batching.VECTORS, {"caption_vec"}, ()):
        batch = take(pipeline.open_split(data, words, asked), 1, batch_size=4)[0]
        batching.check(batch)
        assert batch.keys() & (batching.FACTS | batching.VECTORS) == set(asked) and "boxes" in batch
    assert pipeline.open_split(data, words, ()).facts() is not None
    plain = dict(root=scenes_root, split="val")
    assert pipeline.open_split(plain, words).vectors() is None
    with pytest.raises(
        ValueError, match="has no caption_vec and no visual_caption_vecs; prepare another folder with --sen"
    ):
        pipeline.open_split(plain, words, batching.VECTORS)


def test_frames(scenes_root):
    words = words_of(scenes_root)
    data = dict(name="scenes", root=scenes_root, split="val", visual="frames", frame_size=32)
    batch = next(pipeline.open_split(data, words).epoch("visuals", 4))
    assert batch["visual"].dtype == np.uint8 and batch["visual"].shape == (4, batch["visual_mask"].shape[1], 32, 32, 3)
    assert batch["visual_mask"].sum() == 4 and batch["visual"][0, 0].std() > 5


def test_refusals(split, scenes_root, tmp_path):
    words = words_of(scenes_root)
    with pytest.raises(ValueError, match="no split 'dev'; splits: test, train, val"):
        pipeline.open_split(dict(root=scenes_root, split="dev"), words)
    with pytest.raises(ValueError, match="prepared with features and frames"):
        pipeline.open_split(dict(root=scenes_root, split="val", visual="video"), words)
    with pytest.raises(ValueError, match="does not fit .* pairs"):
        take(split, 1, batch_size=100_000)
    batch = take(split, 1)[0]
    with pytest.raises(ValueError, match="lacks .*text_mask"):
        batching.check({k: v for k, v in batch.items() if k != "text_mask"})
    with pytest.raises(ValueError, match="unknown keys .*extra"):
        batching.check(batch | {"extra": batch["valid"]})
    with pytest.raises(ValueError, match="int64; expected int32"):
        batching.check(batch | {"text": batch["text"].astype(np.int64)})
    with pytest.raises(ValueError, match="rows"):
        batching.check(batch | {"text": batch["text"][:3]})


@pytest.mark.parametrize("at", [100, 6000, 65536])  # a chunk's head, a record's content, the end's directory
def test_corrupt_array_record_is_named(tmp_path, at):
    root = tmp_path / "root"
    prepare.prepare("scenes", root, options=dict(train=8, val=2, test=2), progress=False)
    (path,) = (p for p in pathlib.Path(root).rglob("*train*array_record*"))
    raw = bytearray(path.read_bytes())
    raw[at : at + 20] = b"\x55" * 20
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="split 'train'.* can't be read.*prepare it again"):
        split = pipeline.open_split(dict(root=str(root), split="train"), words_of(root))
        list(split.epoch("visuals", 4))


def test_index_is_pickle_free(scenes_root):
    for path in pathlib.Path(scenes_root).glob("*.index.npz"):
        with np.load(path, allow_pickle=False) as index:
            assert {k: index[k].dtype.kind for k in index.files}["names"] == "U"
    assert json.loads((pathlib.Path(scenes_root) / "words.json").read_text())["split"] == "train"
