"""Videos with moments: records and index, features of several backbones, the sets of the field and their defects."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vlr_jax import moments, prepare, records

VIDEOS = [
    moments.Video(
        "a_0.0_6.0", 6.1, [moments.Query("7", "a dog", [(0.1, 2.3), (4, 6.1)], [0, 2], [[1, 2], [4, 0]]),
                           moments.Query("8", "a cat", [])], "a", shown=[(0, 2.5, "x.jpg")],
    ),
    moments.Video("b", 4.0, [moments.Query("9", "birds", [(1, 2)])], "b"),
]  # fmt: skip


class Builder(tfds.core.GeneratorBasedBuilder):
    """`VIDEOS`, with everything that a record of moments may have."""

    name, VERSION = "timed", tfds.core.Version("1.0.0")
    moments = {"clip_length": 2.0, "annotators": 2, "backbones": [], "text_features": None, "defects": {"odd": 3}}

    def __init__(self, *, source=None, **tfds_arguments):
        self.quarantine, self.fact_names = [], None
        super().__init__(**tfds_arguments)

    def _info(self):
        kinds = tfds.features
        visual = kinds.Tensor(shape=(None, 4), dtype=np.float16, encoding="bytes")
        form = {"name": kinds.Text(), "text": kinds.Sequence(kinds.Text()), "visual": visual}
        form |= moments.form(annotators=2, text_dim=3, shown=True)
        return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict(form), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for key, video in enumerate(VIDEOS):
            texts = [np.full((i + 2, 3), i, np.float16) for i, _ in enumerate(video.queries)]
            record = {"name": video.name, "text": [query.text for query in video.queries]}
            record["visual"] = np.ones((3, 4), np.float16)
            yield key, record | moments.fields(video, 2.0, annotators=2, texts=texts, shown=True)


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    root = tmp_path_factory.mktemp("timed") / "root"
    prepare.prepare(f"{__name__}:Builder", root, progress=False)
    return root


def test_records_of_moments_read_back(timed):
    first, second = tfds.builder_from_directory(timed / "timed" / "1.0.0").as_data_source(split="train")
    assert [name.decode() for name in first["text_name"]] == ["7", "8"] and first["source"] == b"a"
    assert first["duration"] == np.float32(6.1) and first["clip_length"] == 2 and first["windows"].dtype == np.float64
    np.testing.assert_array_equal(first["windows"], [[0.1, 2.3], [4, 6.1]])
    np.testing.assert_array_equal(first["n_windows"], [2, 0])
    np.testing.assert_array_equal(first["saliency_clips"], [0, 2])
    np.testing.assert_array_equal(first["saliency_scores"], [[1, 2], [4, 0]])
    np.testing.assert_array_equal(first["n_saliency"], [2, 0])
    np.testing.assert_array_equal(first["text_features"][:, 0], [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(first["n_text_features"], [2, 3])
    assert first["shown"].tolist() == [[0, 2.5]] and first["shown_key"] == [b"x.jpg"]
    assert second["saliency_scores"].shape == (0, 2) and second["shown"].shape == (0, 2)
    assert len(second["shown_key"]) == 0 and second["text_features"].dtype == np.float16


def test_index_of_moments_is_the_records_flat(timed):
    content = prepare.read(timed)
    assert content["moments"] == Builder.moments
    told = prepare.summary(content, timed)
    assert "clips of 2 s; saliency of 2 annotators" in told and "3 × odd" in told
    with np.load(timed / "train.index.npz", allow_pickle=False) as index:
        found = dict(index)
    assert found["durations"].tolist() == [6.1, 4] and found["clip_lengths"].tolist() == [2, 2]
    assert found["windows"].tolist() == [[0.1, 2.3], [4, 6.1], [1, 2]] and found["n_windows"].tolist() == [2, 0, 1]
    assert found["text_names"].tolist() == ["7", "8", "9"] and found["sources"].tolist() == ["a", "b"]
    assert found["saliency_clips"].tolist() == [0, 2] and found["n_saliency"].tolist() == [2, 0, 0]
    assert found["saliency_scores"].tolist() == [[1, 2], [4, 0]] and found["saliency_scores"].dtype == np.float32
    assert found["shown"].tolist() == [[0, 2.5]] and found["shown_keys"].tolist() == ["x.jpg"]
    assert found["n_shown"].tolist() == [1, 0] and found["n_windows"].dtype == np.int32
    kinds = {"durations": "f8", "windows": "f8", "clip_lengths": "f4", "saliency_clips": "i4"}
    assert all(found[name].dtype == kind for name, kind in kinds.items())


def test_index_without_moments_has_no_such_arrays(tmp_path):
    index = records.Index()
    index.add({"name": "a", "text": ["b"], "visual": np.ones((1, 2)), "windows": np.zeros((0, 2)), "duration": 3.0})
    index.save(tmp_path / "i.npz")
    with np.load(tmp_path / "i.npz") as found:
        assert sorted(found.files) == ["lengths", "names", "text_bytes", "text_offsets", "texts"]


def test_named_features_are_remembered_by_their_names():
    options = {"features": "clip=/far/clip_features,slowfast=slow", "text_features": "/far/words", "media": "/a/b=c/d"}
    assert prepare.by_name(options) == {"features": "clip=clip_features,slowfast=slow"} | {
        "text_features": "words", "media": "d"
    }  # fmt: skip
