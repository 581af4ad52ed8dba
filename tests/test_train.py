"""The loop: learns, stops on NaN, names a collapse, refuses what does not fit."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vlr_jax import batching, config, log, main, opened, pipeline, sharding, train


def test_learns_and_writes_everything(small_config, tmp_path):
    plan = small_config | dict(steps=60, log_every=10)
    plan["evals"] = dict(
        val=dict(name="retrieval", every=30, data=dict(split="val")),
        seen=dict(name="retrieval", data=dict(split="train")),
    )
    plan["optim"] = dict(name="adam", lr=1e-2)
    result = train.train(plan, tmp_path)
    lines = log.read(tmp_path)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < 0.7 * losses[0]
    assert [line["step"] for line in lines if "val/rsum" in line] == [30, 60]
    # Time under an evaluation is taken off once: off twice, the step rate after it knows no bounds.
    assert max(line["train/steps_per_second"] for line in lines if "train/steps_per_second" in line) < 1e5
    for name in ("config.json", "tokenizer.json", "report.html", "checkpoints/60", "best", "tensorboard"):
        assert (tmp_path / name).exists(), name
    seen = result["evals"]["seen"]
    assert seen["metrics"]["t2v_R@1"] > 3 * seen["chance"]["t2v_R@1"]
    for evaluation in result["evals"].values():
        assert evaluation["oracle"]["t2v_R@1"] > evaluation["chance"]["t2v_R@1"]
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))


def test_relevance_by_captions_needs_sentence_vectors(small_config, tmp_path):
    with pytest.raises(ValueError, match="has no caption_vec and no visual_caption_vecs; prepare another folder"):
        train.train(small_config | dict(relevance=dict(name="caption")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_config_that_can_not_run_claims_no_workdir(small_config, tmp_path):
    bad = dict(adamm=r"optimizers: adam, adamw", adamw=r"needs optim.decay")
    for name, message in bad.items():
        with pytest.raises(ValueError, match=message):
            train.train(small_config | dict(optim=dict(name=name, lr=1e-3)), tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_relevance_by_captions(small_config, tmp_path):
    """From the config's option to graded metrics; a batch carries vectors, and no facts, which nothing reads."""
    options = dict(train=32, val=8, test=0, sentence_encoder="tfidf:8")
    plan = small_config | dict(relevance=dict(name="caption"), losses=dict(smooth_ndcg={}), steps=2)
    plan["data"] = dict(name="scenes", root=str(tmp_path / "data"), split="train", options=options)
    plan["evals"] = dict(val=dict(name="retrieval", every=2, data=dict(split="val"), relevance="caption"))
    main.prepare_if_absent(plan["data"])
    main.prepare_if_absent(plan["data"] | dict(options=options | dict(sentence_encoder="tfidf:8")))
    with pytest.raises(ValueError, match="sentence_encoder .'tfidf:8' there, 'tfidf:256' asked for"):
        main.prepare_if_absent(plan["data"] | dict(options=options | dict(sentence_encoder="tfidf")))
    found = train.train(plan, tmp_path / "run")["evals"]["val"]
    assert found["relevance"]["origin"]["encoder"] == "tfidf:8" and 0 < found["metrics"]["t2v_NDCG@10"] <= 1
    line = next(line for line in log.read(tmp_path / "run") if "train/batch/v2t_NDCG" in line)
    assert 0 < line["train/batch/v2t_NDCG"] <= 1


def test_nan_stops_with_step_and_term(small_config, tmp_path, monkeypatch):
    """A diverging learning rate is not logged on as if nothing were wrong; nothing non-finite is saved."""
    real = pipeline.Split.train

    def poisoned(self, **options):
        for i, batch in enumerate(real(self, **options)):
            if i == 3:
                batch = batch | {"visual": np.full_like(batch["visual"], np.nan)}
            yield batch

    monkeypatch.setattr(pipeline.Split, "train", poisoned)
    with pytest.raises(FloatingPointError, match="at step 4: grad_norm = nan.*loss/info_nce/t2v = nan"):
        train.train(small_config | dict(log_every=6, save_every=2), tmp_path)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_collapse_is_named(small_config, tmp_path, capfd):
    """All visuals equal: nothing to learn, all similarities equal, the loss stands at its margin."""
    plan = small_config | dict(
        losses=dict(hard=dict(name="triplet_hard", reduce="sum")), steps=10, log_every=1, evals={}, best="",
        optim=dict(name="sgd", lr=0.0), model=dict(name="two_tower", dim=16, word_dim=8, text="mean"),
    )  # fmt: skip
    real = pipeline.Split.row

    def constant(self, *arguments):
        row = real(self, *arguments)
        return row | {"visual": np.ones_like(row["visual"]), "text": np.full_like(row["text"], 5),
                      "text_mask": np.ones_like(row["text_mask"])}  # fmt: skip

    pipeline_row, pipeline.Split.row = pipeline.Split.row, constant
    try:
        train.train(plan, tmp_path)
    finally:
        pipeline.Split.row = pipeline_row
    told = capfd.readouterr().err
    assert "the embeddings have collapsed" in told and "triplet_sum" in told and "its margin being 3.2" in told


def test_mesh_and_rules():
    assert sharding.make_mesh({"data": -1}).shape == {"data": 8}
    assert sharding.make_mesh({"data": -1, "model": 2}).shape == {"data": 4, "model": 2}
    for axes in ({"data": 3}, {"model": 8}, {"data": -1, "model": -1}, {"data": -1, "model": 3}):
        with pytest.raises(ValueError, match="does not fit 8 device"):
            sharding.make_mesh(axes)
    params = {"text": {"kernel": np.zeros((4, 8))}, "visual": {"kernel": np.zeros((4, 8))}}
    mesh = sharding.make_mesh({"data": 4, "model": 2})
    placed = sharding.param_shardings([("text/.*", (None, "model")), (".*", ())], params, mesh)
    assert placed["text"]["kernel"].spec == P(None, "model") and placed["visual"]["kernel"].spec == P()
    with pytest.raises(ValueError, match="no sharding rule matches visual/kernel"):
        sharding.param_shardings([("text/.*", ())], params, mesh)


@pytest.mark.slow
def test_chunks_train_alike(small_config, tmp_path):
    """A run may be continued with other chunks: they change nothing but memory."""
    base = small_config | dict(evals={}, best="", steps=4, log_every=1, relevance=dict(name="facts"))
    base["losses"] = dict(info_nce={}, kendall=dict(gap=0.1), smooth_ndcg=dict(temperature=0.1))
    train.train(base, tmp_path / "whole")
    train.train(base | dict(steps=2), tmp_path / "parts")
    train.train(base | dict(query_chunk=8, encode_chunk=8), tmp_path / "parts")
    whole, parts = (
        [{key: value for key, value in line.items() if key not in ("time", "train/steps_per_second")} for line in lines]
        for lines in (log.read(tmp_path / "whole"), log.read(tmp_path / "parts"))
    )
    for expected, found in zip(whole, parts, strict=True):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    assert all(line[f"train/embedding_grad/{side}"] > 0 for line in whole for side in ("visual", "text"))


def test_parameters_sharded_by_rule_train_alike(small_config, tmp_path):
    """Data × model axes, and a rule that cuts a kernel, against everything replicated."""
    base = small_config | dict(evals={}, best="", steps=4, log_every=1)
    train.train(base, tmp_path / "a")
    cut = base | dict(mesh={"data": 4, "model": 2}, sharding=[[".*projection/kernel", [None, "model"]], [".*", []]])
    train.train(config.complete(cut), tmp_path / "b")
    losses = [[line["train/loss"] for line in log.read(tmp_path / run)] for run in "ab"]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_restore_run_needs_only_the_workdir(small_config, tmp_path):
    train.train(small_config, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["data"]["root"] = "gone"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    mesh = sharding.make_mesh({"data": -1})
    run = opened.restore(tmp_path, mesh)
    tokens = next(batching.text_batches(run.tokenizer, ["a red circle", "two stars"], 8))
    with jax.set_mesh(mesh):
        encoded = jax.jit(run.task.predict()["encode_text"])(run.variables, tokens)
    np.testing.assert_allclose(np.linalg.norm(encoded.pooled, axis=1), 1.0, rtol=1e-5)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        opened.restore(tmp_path / "nowhere", mesh)
