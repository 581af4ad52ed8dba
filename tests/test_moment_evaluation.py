"""The evaluator of moments on own data: what is measured, what is not and is counted, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import moment_metrics, pipeline, predictions, prepare, text, tiles
from vlr_jax.evaluators.moment import Evaluator

WORDS = text.Words(("a", "dog"), 4)
ROWS = {"a": 10, "b": 11, "c": 10}  # of 2 s; the last of b is not whole


def data(folder, *, rated=("a", "b"), durations=(20, 20.9, 20), **options):
    """Videos a and b with a text that has windows, c with one that has not."""
    lines = []
    for (name, n), duration in zip(ROWS.items(), durations, strict=True):
        query = {"text": "a dog", "id": f"q-{name}"}
        query |= {"windows": [[2, 6]]} if name == "a" else {"windows": [[14, 20.5]]} if name == "b" else {}
        grades = [[4, 4, 4] if i in ((1, 2) if name == "a" else (7, 8, 9, 10)) else [0, 0, 0] for i in range(n)]
        query |= {"saliency": grades} if name in rated else {}
        lines.append({"media": name, "split": "val", "duration": duration, "texts": [query]})
    source = folder / "source"
    source.mkdir(exist_ok=True, parents=True)
    (source / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (source / "clip").mkdir(exist_ok=True)
    for name, n in ROWS.items():
        np.save(source / "clip" / f"{name}.npy", np.ones((n, 3), np.float32))
    asked = dict(features="clip=clip", clip_length=2.0) | options
    prepare.prepare("folder", folder / "root", source=source, options=asked, progress=False)
    return pipeline.open_split(dict(name="folder", root=str(folder / "root"), split="val"), WORDS, ())


def said(windows, saliency):
    """A model that says the same of a text in whatever batch: fractions `[T, M, 2]`, saliency `[T, F]`."""

    def moments(variables, batch):
        own = jax.tree.map(lambda rows: jnp.asarray(rows)[batch["text_id"]], variables)
        scores = jnp.broadcast_to(jnp.array([0.9, 0.4]), own["windows"].shape[:2])
        return own | {"scores": scores, "extra": {}}

    return {"moments": moments}, {"windows": np.float32(windows), "saliency": np.float32(saliency)}


def perfect(split):
    at, longest = split.timeline, max(ROWS.values())
    windows = [np.resize(own / at.covered[v], (2, 2)) for v, own in enumerate(at.windows[:2])] + [np.zeros((2, 2))]
    return said(windows, [np.resize(np.pad(at.relevant(t), (0, 1)), longest) for t in range(2)] + [np.zeros(longest)])


def test_what_has_windows_is_measured_and_the_rest_is_counted(tmp_path):
    split = data(tmp_path)
    assert not split.timeline.relevant(2).any()  # of a text that says nothing of clips
    predict, variables = perfect(split)
    evaluator = Evaluator(predict, split=split, mesh=tiles.one_device(), processing="exact", batch_size=2)
    result = evaluator.result(variables)
    assert json.loads(json.dumps(result))["metrics"] == result["metrics"]
    assert set(result["metrics"]) <= set(evaluator.names()) and dict(evaluator.run(variables)) == result["metrics"]
    assert result["metrics"]["MR-full-R1@0.95"] == result["metrics"]["HL-min-VeryGood-Hit1"] == 100
    assert (result["texts"], result["visuals"], result["unlabelled"], result["finite"]) == (2, 2, 1, True)
    # 20.9 s have ten whole clips: what was rated behind them no evaluation has, and the file's list is cut.
    assert result["notes"] == {
        "rated clips after the last whole clip of their video, left out": 1,
        "saliency lists longer than the video, cut": 1,
    }
    assert result["calibration"][0] > 0 and {one["vid"] for one in result["examples"]} == {"a", "b"}
    truth = [split.timeline.truth(t) for t in range(2)]
    lines = [{"qid": q, "pred_relevant_windows": [[0, 1, 1]], "pred_saliency_scores": [0.0]} for q in ("q-a", "q-b")]
    with pytest.raises(ValueError, match=r"qid 'q-b'.*10 of 10: a relevant clip beyond the video"):
        predictions.check(lines, truth)  # in a file that is an error


def test_highlights_need_ratings_of_all_texts_and_that_is_told(tmp_path):
    split = data(tmp_path, rated=("a",))
    predict, variables = perfect(split)
    evaluator = Evaluator(predict, split=split, mesh=tiles.one_device(), protocol="tacos", processing="exact")
    assert not any(name.startswith("HL") for name in evaluator.names())
    result = evaluator.result(variables)
    assert set(result["metrics"]) <= set(moment_metrics.names("tacos", saliency=False))
    assert result["metrics"]["MR-full-mIoU"] == 100
    assert result["notes"] == {"texts with rated clips; others have none, so highlights are not measured": 1}
    nothing = Evaluator(predict, split=data(tmp_path / "none", rated=()), mesh=tiles.one_device(), processing="exact")
    assert nothing.notes == {}


def test_a_model_that_is_not_finite_is_measured_and_said_to_be(tmp_path):
    split = data(tmp_path)
    predict, variables = perfect(split)
    spoiled = variables | {"windows": variables["windows"] * np.float32(np.nan)}
    result = Evaluator(predict, split=split, mesh=tiles.one_device()).result(spoiled)
    assert not result["finite"] and result["examples"] == [] and result["metrics"]["MR-full-R1@0.5"] == 0
    assert result["notes"]["start and end must be finite: the window never hits"] == 4


def test_refusals(tmp_path):
    split = data(tmp_path, clip_length=None)
    predict, _ = perfect(split)
    with pytest.raises(ValueError, match=r"'val' has saliency of clips of \[1.9, 2.0\] s; expected one length"):
        Evaluator(predict, split=split, mesh=tiles.one_device())
    for options, message in ((dict(processing="round"), "processing 'round' of"), (dict(protocol="x"), "no protocol")):
        with pytest.raises(ValueError, match=message):
            Evaluator(predict, split=split, mesh=tiles.one_device(), **options)
