"""The builder of the embedded dataset: what is built is what the world says, and read back without TensorFlow."""

import inspect
import io
import pathlib
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from vlr_jax import film, motion, narration, prepare, reel, stories, world
from vlr_jax.data.scenes import LONG, Builder

DEFAULTS = {name: p.default for name, p in inspect.signature(Builder.__init__).parameters.items()}

SMALL = {"train": 7, "val": 0, "test": 4}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    builder = Builder(data_dir=str(tmp_path_factory.mktemp("scenes")), file_format="array_record", **SMALL)
    builder.download_and_prepare()
    return builder


def test_records(built):
    assert "tensorflow" not in sys.modules
    sources = built.as_data_source()
    assert {split: len(source) for split, source in sources.items()} == {"train": 7, "test": 4}
    assert built.quarantine == [] and built.sources() == [] and built.fact_names == list(world.FACTS)
    for i in range(4):
        record = sources["test"][i]
        scene = world.scene(world.random_stream(0, "test", i, "graph"))
        assert record["name"].decode() == f"test-{i:06d}"
        assert len(record["text"]) == 5 and all(isinstance(text, bytes) for text in record["text"])
        assert record["visual"].dtype == np.float16 and record["visual"].shape[1] == 64
        assert len(record["visual"]) == len(record["boxes"]) == min(8, len(scene.things) + DEFAULTS["clutter"])
        assert record["boxes"].dtype == np.float32
        np.testing.assert_array_equal(record["visual_facts"], world.fact_vector(world.facts(scene)))
        assert record["text_facts"].shape == (5, len(world.FACTS))
        assert not (record["text_facts"] & ~record["visual_facts"]).any()
        (frame,) = record["frames"]
        assert Image.open(io.BytesIO(frame)).size == (96, 96)
        assert Image.open(io.BytesIO(record["thumb"])).size == (96, 96)


def test_a_scene_does_not_depend_on_the_counts_or_on_other_options(tmp_path):
    small = Builder(data_dir=str(tmp_path), **SMALL)._record("test", 2)
    large = Builder(data_dir=str(tmp_path), **{**SMALL, "test": 99, "train": 1})._record("test", 2)
    harder = Builder(data_dir=str(tmp_path), noise=0.5, mention=0.3, clutter=0, size=256)._record("test", 2)
    other = Builder(data_dir=str(tmp_path), seed=1)._record("test", 2)
    for key, value in small.items():
        np.testing.assert_array_equal(value, large[key])
    np.testing.assert_array_equal(small["visual_facts"], harder["visual_facts"])
    assert small["text"] != harder["text"] and small["frames"] != other["frames"] and small["text"] != other["text"]
    assert Image.open(io.BytesIO(harder["thumb"])).size == (128, 128)


def test_pickles_with_its_options(built):
    assert pickle.loads(pickle.dumps(built)).options == built.options


@pytest.mark.parametrize("size", [0, 32])
def test_videos(tmp_path, size):
    options = dict(kind="videos", spread=2, clutter=1, length=4, size=size)
    builder = Builder(data_dir=str(tmp_path), file_format="array_record", train=3, val=0, test=2, **options)
    builder.download_and_prepare()
    assert builder.fact_names == list(motion.FACTS) and builder.facts_complete
    source = builder.as_data_source(split="test")
    for i, texts in enumerate(builder.texts("test")):
        record, streams = source[i], [world.random_stream(0, "test", i, stream) for stream in world.STREAMS]
        video = motion.video(streams[0])
        told = narration.captions(video, streams[1], count=5, mention=DEFAULTS["mention"], synonyms=3)
        features, regions, boxes = film.regions(video, streams[2], length=4, spread=2, dim=64, noise=DEFAULTS["noise"],
                                                clutter=1, seed=0)  # fmt: skip
        assert texts == [text for text, _ in told] == [text.decode() for text in record["text"]]
        for key, expected in (("visual", features), ("regions", regions), ("boxes", boxes)):
            np.testing.assert_array_equal(record[key], expected)
            assert record[key].dtype == expected.dtype
        np.testing.assert_array_equal(record["visual_facts"], motion.fact_vector(motion.facts(video)))
        assert not (record["text_facts"] & ~record["visual_facts"]).any() and record["text_facts"].any(1).all()
        if size:
            assert [Image.open(io.BytesIO(frame)).size for frame in record["frames"]] == [(32, 32)] * 4
            assert record["thumb"] == record["frames"][2]
        else:
            assert "frames" not in record and "thumb" not in record


def test_a_video_does_not_depend_on_the_counts_or_on_other_options(tmp_path):
    def record(**options):
        return Builder(data_dir=str(tmp_path), kind="videos", **{**SMALL, "size": 0, **options})._record("test", 2)

    plain, more, harder = record(), record(test=99), record(spread=3, clutter=9, noise=0.5, length=3, size=16)
    for key, value in plain.items():
        np.testing.assert_array_equal(value, more[key])
    assert plain["text"] == harder["text"] != record(mention=0.3)["text"] and plain["text"] != record(seed=1)["text"]
    np.testing.assert_array_equal(plain["visual_facts"], harder["visual_facts"])


@pytest.mark.parametrize("size", [0, 200])
def test_moments(tmp_path, size):
    """The records of a prepared folder are what the stories say, and its index says the same."""
    options = dict(kind="moments", train=3, val=0, test=4, clips=24, queries=2, noise=0.5, background=1.0, size=size)
    content = prepare.prepare("scenes", tmp_path / "made", options=options, progress=False)
    assert content["facts"] == list(stories.FACTS) and content["has_thumbs"] == bool(size)
    assert content["splits"]["test"] == {"visuals": 4, "texts": 8, "max_length": 24} and content["frames"] is None
    assert content["moments"] == {
        "clip_length": 2.0, "annotators": 3, "backbones": [{"name": "world", "dim": 64, "normalise": "none"}],
        "text_features": None, "defects": {},
    }  # fmt: skip
    source = Builder(data_dir=str(tmp_path / "made"), file_format="array_record", **options).as_data_source("test")
    for i, record in enumerate(source):
        rng, words, camera = (world.random_stream(0, "test", i, stream) for stream in world.STREAMS)
        story, name = stories.story(rng, clips=24, queries=2), f"test-{i:06d}"
        cover = reel.coverage(story, blur=1.0, jitter=0.5)
        told = stories.ask(story, words, synonyms=3)
        visual = reel.features(story, cover, camera, background=1.0, clutter=2, noise=0.5, dim=64, seed=0)
        np.testing.assert_array_equal(record["visual"], visual)
        assert record["name"].decode() == record["source"].decode() == name and record["visual"].dtype == np.float16
        assert [text.decode() for text in record["text"]] == [text for text, _ in told]
        assert [text.decode() for text in record["text_name"]] == [f"{name}#0", f"{name}#1"]
        assert record["clip_length"] == 2 and record["duration"] == 48
        windows = [story.windows(values) for values in story.queries]
        np.testing.assert_array_equal(record["windows"], [window for row in windows for window in row])
        np.testing.assert_array_equal(record["n_windows"], list(map(len, windows)))
        rated = [reel.saliency(story, cover, values) for values in story.queries]
        np.testing.assert_array_equal(record["saliency_clips"], [clip for clips, _ in rated for clip in clips])
        np.testing.assert_array_equal(record["saliency_scores"], [row for _, rows in rated for row in rows])
        np.testing.assert_array_equal(record["n_saliency"], [len(clips) for clips, _ in rated])
        np.testing.assert_array_equal(record["shown"], [(event.start, event.end) for event in story.events])
        assert [key.decode() for key in record["shown_key"]] == [stories.key(event.values) for event in story.events]
        np.testing.assert_array_equal(record["visual_facts"], stories.fact_vector(stories.facts(story.events)))
        assert (record["text_facts"].sum(1) == 7).all() and not (record["text_facts"] & ~record["visual_facts"]).any()
        if size:
            assert Image.open(io.BytesIO(record["thumb"])).size == (128, 128)
    with np.load(tmp_path / "made" / "test.index.npz", allow_pickle=False) as index:
        for key, field in (("windows", "windows"), ("n_windows", "n_windows"), ("saliency_scores", "saliency_scores"),
                           ("saliency_clips", "saliency_clips"), ("shown", "shown")):  # fmt: skip
            np.testing.assert_array_equal(index[key], np.concatenate([record[field] for record in source]))
        assert index["durations"].tolist() == [48] * 4 and index["n_shown"].tolist() == [4] * 4


def test_a_story_does_not_depend_on_the_counts_or_on_how_hard_it_is(tmp_path):
    def record(**options):
        return Builder(data_dir=str(tmp_path), kind="moments", **{**SMALL, **options})._record("test", 2)

    plain, more = record(), record(test=99, train=0)
    for key, value in plain.items():
        np.testing.assert_array_equal(value, more[key])
    harder = record(background=1.0, blur=4.0, jitter=1.5, noise=2.0, clutter=9, feature_dim=16, size=0)
    for key in ("text", "text_name", "windows", "n_windows", "saliency_clips", "text_facts"):
        np.testing.assert_array_equal(plain[key], harder[key])
    assert set(plain["shown_key"]) < set(harder["shown_key"]) and harder["visual"].shape == (60, 16)
    assert harder["saliency_scores"].sum() < plain["saliency_scores"].sum() and "thumb" not in harder
    assert record(synonyms=1)["text"] != plain["text"] != record(seed=1)["text"]
    np.testing.assert_array_equal(record(synonyms=1)["visual"], plain["visual"])


@pytest.mark.parametrize(
    "options, fingerprint",
    [({}, "4966192bb7565661"), ({"kind": "videos", "spread": 3, "length": 5}, "63d01148841d02e2")],
)
def test_folders_made_before_there_were_moments_are_still_the_same(options, fingerprint):
    """The options of moments, at their defaults, are not in what tells a folder; these are the numbers of before."""
    given = prepare._options("scenes", Builder, options)
    identity = prepare._identity("scenes", Builder, None, given, None, (), pathlib.Path("nowhere"), False)
    assert identity["fingerprint"].startswith(fingerprint)
    assert LONG.items() <= DEFAULTS.items()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"kind": "films"}, "no kind 'films'; it has: images, videos, moments"),
        ({"spread": 2}, "spread=2 is for kind='videos'"),
        ({"length": 4}, "length=4 is for kind='videos'"),
        ({"kind": "videos", "spread": 6}, "spread must be a whole number from 1 to 5"),
        ({"kind": "videos", "length": 2}, "length must be a whole number from 3"),
        ({"kind": "videos", "regions": 9}, "regions=9 is for kind='images'"),
        ({"clips": 30}, "clips=30 is for kind='moments', not for images"),
        ({"kind": "videos", "background": 0.1}, "background=0.1 is for kind='moments', not for videos"),
        ({"kind": "moments", "captions": 4}, "captions=4 is for kind='images' or 'videos', not for moments"),
        ({"kind": "moments", "length": 60}, "length=60 is for kind='videos', not for moments"),
        ({"kind": "moments", "clips": 11}, "clips must be a whole number from 12 to 6000"),
        ({"kind": "moments", "clips": 24, "queries": 3}, "24 clips have room for at most 2 queries"),
        ({"kind": "moments", "background": 1.1}, r"background must be in \[0, 1\]"),
        ({"kind": "moments", "blur": -1}, r"blur must be in \[0, 20\] clips"),
        ({"kind": "moments", "jitter": 2}, r"jitter must be in \[0, 1.5\] clips"),
        ({"size": 8}, "size must be a whole number from 16 to 4096"),
        ({"train": -1}, "train must be a whole number"),
        ({"captions": 2.5}, "captions must be a whole number from 1 to 20"),
        ({"synonyms": True}, "synonyms must be a whole number from 1 to 3"),
        ({"regions": 5}, "regions must be a whole number from 6"),
        ({"mention": 0}, r"mention must be in \(0, 1\]"),
        ({"noise": float("nan")}, "noise must be in"),
        ({"train": 0, "val": 0, "test": 0}, "at least one of"),
        ({"source": "here"}, "read no source"),
    ],
)
def test_bad_options_are_named(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Builder(data_dir=str(tmp_path), **arguments)
    assert not list(tmp_path.iterdir())
