"""Which frames and regions of a record enter a batch, paragraphs, and records without texts."""

import itertools
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vlr_jax import batching, media, pipeline, prepare, reading

FRAMES = {"train": (2, 7, 9, 5), "gallery": (3, 1)}  # of each visual
TEXTS = {"train": (2, 3, 0, 1), "gallery": (0, 0)}


def regions(split, v):
    """How many regions each frame has: 0 to 3."""
    return np.array([(v + f) % 4 if f else 1 for f in range(FRAMES[split][v])], np.int32)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Clips whose frames and features tell their own place."""

    name, VERSION = "clips", tfds.core.Version("1.0.0")
    recipe = {"fps": 1.0, "most": 64, "decoder": "by hand"}

    def __init__(self, *, source=None, wrong: bool = False, **tfds_arguments):
        self.quarantine, self.fact_names, self.wrong = [], ["odd=yes", "first=yes"], wrong
        self.missing = {"train": ["gone.mp4", "lost.mp4"], "gallery": [], "test": ["all.mp4"]}
        super().__init__(**tfds_arguments)

    def _info(self):
        kinds = tfds.features
        array = lambda dtype, *shape: kinds.Tensor(shape=shape, dtype=dtype, encoding="bytes")
        record = {
            "name": kinds.Text(), "text": kinds.Sequence(kinds.Text()), "visual": array(np.float16, None, 2),
            "regions": array(np.int32, None), "boxes": array(np.float32, None, 4),
            "frames": kinds.Sequence(kinds.Tensor(shape=(), dtype=np.object_)),
            "visual_facts": array(np.bool_, 2), "text_facts": array(np.bool_, None, 2),
        }  # fmt: skip
        return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(record), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in FRAMES}

    def _generate_examples(self, split):
        for v, n in enumerate(FRAMES[split]):
            counts = regions(split, v)
            rows = np.array([(f, r) for f, c in enumerate(counts) for r in range(c)], np.float16)
            pictures = [media.encode_jpeg(np.full((12, 16, 3), 20 * f, np.uint8)) for f in range(n)]
            texts = [f"word{v} part{t}" for t in range(TEXTS[split][v])]
            facts = np.array([[t % 2, t == 0] for t in range(len(texts))], bool).reshape(-1, 2)
            yield v, {
                "name": f"{split}/{v}.mp4", "text": texts, "visual": rows[self.wrong :], "regions": counts,
                "boxes": np.repeat(rows.astype(np.float32), 2, axis=1), "frames": pictures,
                "visual_facts": np.array([True, False]), "text_facts": facts,
            }  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips") / "root"
    prepare.prepare("test_reading:Builder", root, progress=False)
    return str(root)


def words_of(root):
    return pipeline.tokenizer(dict(data=dict(root=root), text=dict(name="words", length=6)))


def open_split(root, split="train", **data):
    return pipeline.open_split(dict(root=root, split=split, **data), words_of(root))


def frames_of(row):
    """Which frames a row of either kind shows."""
    real = row["visual_mask"] if row["visual_mask"].ndim == 1 else row["visual_mask"].any(1)
    values = row["visual"][real]
    return [round(float(v[..., 0].max()) / (20 if row["visual"].dtype == np.uint8 else 1)) for v in values]


def test_prepared_says_what_it_is(root, tmp_path):
    content = prepare.read(root)
    assert content["regions"] == 3 and content["recipe"] == Builder.recipe and content["frames"]["count"] == 9
    assert content["missing"] == {"train": ["gone.mp4", "lost.mp4"], "test": ["all.mp4"]}
    assert content["splits"]["train"] == {"visuals": 4, "texts": 6, "max_length": 9}
    told = prepare.summary(content, root)
    for part in (
        "gallery: 2 visuals, 0 texts", "MISSING: 2 visuals, such as gone.mp4", "test: MISSING, all of its 1 visuals",
        "of up to 3 regions in each frame", "videos decoded with fps 1.0, most 64, decoder by hand",
    ):  # fmt: skip
        assert part in told
    with pytest.raises(ValueError, match=r"train/0.mp4: its frames have 2 regions, but there are 1 rows"):
        prepare.prepare("test_reading:Builder", tmp_path / "wrong", options=dict(wrong=True), progress=False)


def test_regions_of_frames(root):
    split = open_split(root)
    batch = next(split.epoch("visuals", 4))
    batching.check(batch, "visuals")
    assert batch["visual"].shape == (4, 9, 3, 2) and batch["visual_mask"].shape == (4, 9, 3)
    for v, (x, mask, boxes) in enumerate(zip(batch["visual"], batch["visual_mask"], batch["boxes"], strict=True)):
        counts = regions("train", v)
        np.testing.assert_array_equal(mask[: len(counts)].sum(1), counts)
        assert not mask[len(counts) :].any() and not x[~mask].any()
        for f, r in zip(*np.nonzero(mask), strict=True):
            assert x[f, r].tolist() == [f, r] and boxes[f, r].tolist() == [f, f, r, r]
    shapes = pipeline.row(dict(root=root), words_of(root))
    for key, (shape, dtype) in shapes.items():
        found = next(split.epoch("pairs", 2))[key]
        assert (found.shape[1:], found.dtype.name) == (shape, dtype), key


@pytest.mark.parametrize("kind", ["features", "frames"])
def test_chosen_frames(root, kind, monkeypatch):
    decoded, decode = [], media.decode
    monkeypatch.setattr(reading.media, "decode", lambda data: decoded.append(data) or decode(data))
    expected = {"uniform": [0, 2, 5, 8], "segments": [0, 2, 4, 7], "head": [0, 1, 2, 3], "tail": [5, 6, 7, 8]}
    for policy, chosen in expected.items():
        split = open_split(root, visual=kind, frames=4, sampling=policy, frame_size=8)
        decoded.clear()
        row = split.visual(2)
        assert row["visual"].shape[0] == 4
        if kind == "frames":
            assert frames_of(row) == chosen and len(decoded) == 4
            assert frames_of(split.visual(0)) == [0, 1] and split.visual(0)["visual_mask"].tolist() == [1, 1, 0, 0]
        else:
            np.testing.assert_array_equal(row["visual_mask"].sum(1), regions("train", 2)[chosen])
            assert set(row["visual"][row["visual_mask"]][:, 0]) <= set(chosen)
    batch = next(split.epoch("visuals", 2))
    shapes = pipeline.row(dict(root=root, visual=kind, frames=4, frame_size=8), words_of(root))
    assert batch["visual"].shape[1:] == shapes["visual"][0] and batch["visual"].dtype == shapes["visual"][1]
    assert open_split(root, visual=kind, frames=100, frame_size=8).visual(0)["visual"].shape[0] == 9


def test_random_segments_follow_from_the_seed_and_the_step(root):
    """Also with two processes, and from the middle; evaluation takes the middle of each segment, always."""
    split = open_split(root, visual="frames", frames=3, sampling="segments", frame_size=8)

    def chosen(start, n, process=(0, 1), seed=1):
        batches = itertools.islice(split.train(batch_size=6, seed=seed, start=start, process=process), n)
        return [[(t, *frames_of(dict(visual=x, visual_mask=m))) for t, x, m in zip(b["text_id"].tolist(), b["visual"],
                 b["visual_mask"], strict=True)] for b in batches]  # fmt: skip

    whole = chosen(0, 8)
    assert chosen(3, 5) == whole[3:] == chosen(3, 5) and chosen(0, 8, seed=2) != whole
    halves = [chosen(0, 8, process=(i, 2)) for i in range(2)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]
    of_second = {row[1:] for batch in whole for row in batch if row[0] in (2, 3, 4)}  # 7 frames: 0 1, 2 3, 4 5 6
    assert len(of_second) > 3 and all(a in (0, 1) and b in (2, 3) and c in (4, 5, 6) for a, b, c in of_second)
    for _ in range(2):
        assert frames_of(split.visual(1)) == [0, 2, 5]


def test_paragraphs(root):
    split = open_split(root, texts="paragraphs")
    assert split.texts == ["word0 part0 word0 part1", "word1 part0 word1 part1 word1 part2", "word3 part0"]
    assert split.text_visual.tolist() == [0, 1, 3] and split.n_texts == 3 and split.truncated == 1  # 8 of 6 tokens
    np.testing.assert_array_equal(split.facts()[1], [[True, True], [True, True], [False, True]])
    batch = next(split.train(batch_size=3, seed=0))
    batching.check(batch)
    np.testing.assert_array_equal(batch["text_facts"], split.facts()[1][batch["text_id"]])
    assert split.ids_hash != open_split(root).ids_hash
    with pytest.raises(ValueError, match="texts is 'paragraph'; expected one of each, paragraphs"):
        open_split(root, texts="paragraph")


def test_paragraphs_of_vectors(tmp_path):
    root = tmp_path / "root"
    options = dict(train=3, val=1, test=0, captions=2, sentence_encoder="tfidf:3")
    prepare.prepare("scenes", root, options=options, progress=False)
    each, joined = (open_split(root, texts=texts) for texts in ("each", "paragraphs"))
    visual, text = (vectors.astype(float) for vectors in joined.vectors())
    total = each.vectors()[1].astype(float).reshape(3, 2, 3).sum(1)
    np.testing.assert_allclose(text, total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-3)
    np.testing.assert_array_equal(visual, text[:, None])


def test_a_split_without_texts(root):
    split = open_split(root, "gallery", visual="frames", frame_size=8)
    assert split.n_visuals == 2 and split.n_texts == 0 and split.tokens.shape == (0, 6)
    batch = next(split.epoch("visuals", 4))
    batching.check(batch, "visuals")
    assert batch["valid"].tolist() == [True, True, False, False]
    for rows in (lambda: split.train(batch_size=1, seed=0), lambda: next(split.epoch("texts", 2))):
        with pytest.raises(ValueError, match="'gallery' has no texts: it can be indexed and searched, not trained"):
            rows()


def test_refusals(root):
    for data, message in (
        (dict(frames=0), "data.frames is 0; expected a whole number of at least 1, or None"),
        (dict(sampling="middle"), "sampling 'middle' .*uniform, segments, head, tail"),
        (dict(visual="video"), "prepared with features and frames"),
    ):
        with pytest.raises(ValueError, match=message):
            open_split(root, **data)


def test_folders_of_before_open(root, tmp_path):
    """prepared.json without the newer keys: features are rows of one kind."""
    content = prepare.read(root)
    old = {k: v for k, v in content.items() if k not in ("regions", "recipe", "missing")}
    (tmp_path / "prepared.json").write_text(json.dumps(old))
    assert reading.plan(dict(root=str(tmp_path)), prepare.read(tmp_path)).regions is None
    assert "MISSING" not in prepare.summary(old, tmp_path)
