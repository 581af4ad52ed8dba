"""Texts as precomputed states of their tokens, from files to predictions; and videos of several lengths in training."""

import json

import jax
import jax.numpy as jnp
import moment_runs
import numpy as np
import pytest

from vlr_jax import batching, finding, localize, opened, pipeline, prepare, submission, text, tiles, train
from vlr_jax import config as configs

LENGTH, WIDTH = 5, 8  # of a text: tokens and the width of their states
SIZES = dict(train=(6, 10) * 6, val=(10, 6, 6, 10))
PARTS = {"train": range(0, 12), "val": range(12, 16)}
DATA = dict(name="folder", split="train", buckets=[6, 10])


class Watched(moment_runs.Tiny):
    """Notes the shapes of clips that it is traced with in training."""

    def __call__(self, batch, *, train=False):
        traced.extend([batch["visual"].shape[1]] * train)
        return super().__call__(batch, train=train)


traced: list[int] = []


def states(qid: str) -> np.ndarray:
    """The states of a text's tokens, as its file has them: 2 to 7, so that some are cut."""
    rng = np.random.default_rng(list(qid.encode()))
    return rng.normal(size=(2 + int(rng.integers(6)), WIDTH)).astype(np.float32)


def sizes() -> list[int]:
    return [*SIZES["train"], *SIZES["val"]]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Sixteen videos of 6 or 10 clips of 2 s with two texts each, of which the second of the last has no window."""
    folder = tmp_path_factory.mktemp("states")
    lines = []
    (folder / "clip").mkdir()
    (folder / "words").mkdir()
    for v, n in enumerate(sizes()):
        texts = [{"text": f"text {k}", "id": str(2 * v + k), "windows": [[2 * k, 4 + 2 * k]]} for k in range(2)]
        texts[1] |= {"windows": []} if v == 15 else {}
        lines.append({"media": f"v{v}", "split": "train" if v < 12 else "val", "duration": 2 * n, "texts": texts})
        np.save(folder / "clip" / f"v{v}.npy", np.random.default_rng(v).normal(size=(n, 4)).astype(np.float32))
        for k in range(2):
            np.savez(folder / "words" / f"qid{2 * v + k}.npz", last_hidden_state=states(str(2 * v + k)))
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = dict(features="clip=clip", text_features="words", clip_length=2.0, normalise="none")
    prepare.prepare("folder", folder / "root", source=folder, options=options, progress=False)
    return folder


def split_of(place, name="val", **data):
    data = DATA | dict(root=str(place / "root"), split=name) | data
    return pipeline.open_split(data, text.States(LENGTH), ())


def wanted(qid: str) -> np.ndarray:
    """As a batch has them: float16, cut and padded."""
    own = states(qid)[:LENGTH].astype(np.float16)
    return np.pad(own, ((0, LENGTH - len(own)), (0, 0)))


def test_every_view_has_the_states_of_its_text(place):
    split = split_of(place)
    assert split.truncated == sum(len(states(name)) > LENGTH for name in split.timeline.text_names) > 0
    for t, name in enumerate(split.timeline.text_names):
        for row in (split.text(t), split.row("pairs", t), split.row("texts", t)):
            np.testing.assert_array_equal(row["text"], wanted(name))
            assert row["text_mask"].sum() == min(len(states(name)), LENGTH) and row["text_id"] == t
    batches = list(split.epoch("texts", 8))
    for batch in batches:
        batching.check(batch, "texts")
    assert np.concatenate([batch["text"] for batch in batches]).dtype == np.float16
    spec = pipeline.spec(DATA | dict(root=str(place / "root")), text.States(LENGTH))
    assert spec["text_dim"] == WIDTH and spec["vocabulary"] == 0
    row = pipeline.row(DATA | dict(root=str(place / "root")), text.States(LENGTH))
    assert row["text"] == ((LENGTH, WIDTH), "float16") and row["text_mask"] == ((LENGTH,), "bool")
    again = text.from_json(text.States(LENGTH).to_json())
    assert again == text.States(LENGTH)


def test_a_text_has_its_own_states_in_the_videos_of_others(place):
    """They lie in the record of its own video, whichever video it is looked for in."""
    split = split_of(place)

    def reads(variables, batch):
        seen = jnp.where(batch["text_mask"][..., None], batch["text"], 0).astype(jnp.float32).sum((1, 2))
        rows, clips = batch["visual_mask"].shape
        saliency = jnp.broadcast_to(seen[:, None], (rows, clips))
        return {"windows": jnp.zeros((rows, 1, 2)), "scores": jnp.ones((rows, 1)), "saliency": saliency, "extra": {}}

    pairs = [(v, t) for v in range(split.n_visuals) for t in range(split.n_texts)]
    found = list(localize.locate(reads, {}, split, pairs, batch_size=8, mesh=tiles.one_device()))
    assert sorted((one.visual, one.text) for one in found) == pairs
    for one in found:
        own = wanted(split.timeline.text_names[one.text]).astype(np.float32).sum()
        np.testing.assert_allclose(one.saliency, own, rtol=1e-5, atol=1e-5)


def test_batches_of_two_lengths_are_shared_and_resumed(place):
    split = split_of(place, "train")
    taken = lambda n, **options: [
        batch for batch, _ in zip(split.train(batch_size=8, seed=3, view="moments", **options), range(n), strict=False)
    ]
    whole = taken(6)
    for batch in whole:
        batching.check(batch, "moments")
        clips = np.array(sizes())[batch["visual_id"]]
        assert batch["visual"].shape[1] in (6, 10) and (batch["visual_mask"].sum(1) == clips).all()
        assert (clips <= batch["visual"].shape[1]).all() and (batch["duration"] == 2 * clips).all()
        for row, t in enumerate(batch["text_id"]):
            np.testing.assert_array_equal(batch["text"][row], wanted(split.timeline.text_names[t]))
    assert {batch["visual"].shape[1] for batch in whole} == {6, 10} and split.steps_per_epoch(8, "moments") == 3
    epochs = [np.concatenate([batch["text_id"] for batch in whole[i : i + 3]]) for i in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(24)) and not np.array_equal(*epochs)
    for made, other in zip(taken(2, start=4), whole[4:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, made, other)
    for first, second, all_ in zip(*(taken(4, process=(i, 2)) for i in range(2)), whole[:4], strict=True):
        for key, rows in all_.items():
            np.testing.assert_array_equal(first[key], rows[::2])
            np.testing.assert_array_equal(second[key], rows[1::2])


def test_from_files_to_predictions(place, tmp_path):
    """Two steps, with evaluations and a checkpoint; then the run's predictions are those of its evaluation."""
    evals = dict(val=dict(name="moment", every=1, data=dict(split="val"), batch_size=8, protocol="tacos"))
    evals |= dict(corpus=dict(name="corpus", data=dict(split="val"), batch_size=8, top_n=2))
    model = dict(name="test_states:Watched")
    data = DATA | dict(root=str(place / "root"))
    plan = moment_runs.plan(
        place / "root", data=data, text=dict(name="states", length=LENGTH), evals=evals, model=model
    )
    traced.clear()
    result = train.train(configs.complete(plan | dict(steps=2, best="val/MR-full-mIoU")), tmp_path / "run")
    assert sorted(traced) == [6, 10]  # one compilation for each length, before the first step
    assert result["evals"]["val"]["texts"] == 7 and result["evals"]["val"]["unlabelled"] == 1
    assert all(evaluation["finite"] for evaluation in result["evals"].values())
    run = opened.restore(tmp_path / "run", tiles.one_device())
    assert run.tokenizer == text.States(LENGTH)
    split = finding.open_split(run, plan["data"] | dict(split="val"))
    lines = submission.lines(run, split, tiles.one_device())
    assert [line["qid"] for line in lines] == list(range(24, 32))
    mean = np.mean([_iou(line, split, t) for t, line in enumerate(lines[:7])])
    assert result["evals"]["val"]["metrics"]["MR-full-mIoU"] == pytest.approx(100 * mean, abs=0.01)
    with pytest.raises(ValueError, match="'a dog' can't be encoded: this model reads precomputed states"):
        finding.find(run, split, ["a dog"], [0], tiles.one_device())


def _iou(line, split, t):
    (start, end, _), (first, last) = line["pred_relevant_windows"][0], split.timeline.windows[t][0]
    return max(0.0, min(end, last) - max(start, first)) / (max(end, last) - min(start, first))


def test_refusals(place, tmp_path, scenes_root):
    with pytest.raises(
        ValueError, match="12 of 24 texts to train on are of videos longer than 6 clips, .*the longest has 10"
    ):
        next(split_of(place, "train", buckets=[6]).train(batch_size=8, seed=0, view="moments"))
    with pytest.raises(ValueError, match="paragraphs' has no states of tokens"):
        split_of(place, texts="paragraphs")
    for data in (dict(texts="paragraphs"), dict(frames=4)):  # rows of moments know nothing of these
        split = pipeline.open_split(DATA | dict(root=str(place / "root")) | data, text.Words(("text",), 5), ())
        with pytest.raises(ValueError, match="moments of single texts are found in features of all clips"):
            split.size("moments")
    options = dict(features="clip=clip", clip_length=2.0)
    prepare.prepare("folder", tmp_path / "bare", source=place, options=options, progress=False)
    with pytest.raises(ValueError, match="needs texts with precomputed states .* which .*bare has not"):
        pipeline.open_split(dict(name="folder", root=str(tmp_path / "bare"), split="val"), text.States(5), ())
    with pytest.raises(ValueError, match="config.data.buckets are for videos with moments, which .* has not"):
        pipeline.spec(dict(root=scenes_root, buckets=[6]), text.Words(("text",), 5))
    for length in (0, True, 2.0, None):
        with pytest.raises(ValueError, match="text.length must be a whole number of at least 1"):
            text.States(length)
    with pytest.raises(ValueError, match="states takes: length, given"):
        text.tokenizer(dict(name="states", length=5, path="x"), None)
