"""Every config: short, complete, and its smoke variant trains, evaluates, keeps a checkpoint, and is searched."""

import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from absl import flags as absl_flags
from ml_collections import ConfigDict, config_flags

from vlr_jax import (
    compare,
    config,
    log,
    main,
    moment_metrics,
    moment_protocols,
    optim,
    prepare,
    protocols,
    sentence,
    sharding,
    train,
)
from vlr_jax.resolve import resolve

REPO = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((REPO / "configs").glob("*.py"))


VIDEOS = ("msrvtt", "msvd", "lsmdc", "didemo", "activitynet", "qvhighlights", "tacos", "activitynet_moments")
VIDEO_SPLITS = {name: ("train", "val", "test") for name in VIDEOS}


def load(path, arg="") -> ConfigDict:
    scope = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    return scope["get_config"](arg)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_is_short_and_complete(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 80
    assert f"--config configs/{path.name}" in source.split('"""')[1]
    assert "RESULT" not in source, "the number to expect is still to be measured"
    for arg in ("", "smoke"):
        plan = config.complete(load(path, arg))
        fits_the_release(plan)
        if "zeroshot" in path.stem:
            assert config.selected_on(plan) == "last step (nothing selected)"
        else:
            assert re.fullmatch(r"(dev|val)\w*/\S+ \(split (dev|val)\w*\)", config.selected_on(plan)), (
                "no dev split selects"
            )
            if "held_out" in plan["data"].get("options", {}):  # the field selects on test there: settable by a flag
                assert load(path, arg).select_on_test is False
        assert not plan["select_on_test"]


MOMENTS = [path for path in FILES if load(path).get("task") == "moment"]


@pytest.mark.parametrize("path", MOMENTS, ids=lambda p: p.stem)
def test_moments_are_selected_by_a_metric_of_their_protocol(path):
    """And where the field selects on test, the documented flags do so, and it is said."""
    for arg in ("", "smoke"):
        plan = config.complete(load(path, arg))
        evaluation, metric = plan["best"].split("/")
        assert metric in moment_metrics.names(plan["evals"][evaluation]["protocol"], saliency=False)
    told = re.findall(r"--config\.(?:best|evals|select)\S+", path.read_text().split('"""')[1])
    assert bool(told) == path.stem.endswith(("charades_sta", "tacos"))
    if told:
        values, line = absl_flags.FlagValues(), ["main", "--config", str(path), *told]
        given = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=line)
        values(line)
        chosen = config.complete(given.value)
        assert config.selected_on(chosen) == "selected on test: test/MR-full-R1@0.7 (split test)"
        assert chosen["evals"]["test"]["every"] == load(path).evals[evaluation].every


def fits_the_release(plan):
    """Options and splits that such a dataset has, protocols that there are: seen without the data."""
    name, options = plan["data"]["name"], dict(plan["data"].get("options", {}))
    sentence.parse(options.pop("sentence_encoder", "tfidf"))
    prepare._options(name, resolve("data", name), options)
    counts = {"scenes": ("train", "val", "test"), "folder": None} | VIDEO_SPLITS
    if name in ("flickr30k", "coco"):
        counts[name] = importlib.import_module(f"vlr_jax.data.{name}").RELEASE.counts
    if "held_out" in options:
        counts[name] = ("train", "dev", "test")
    for evaluation in plan["evals"].values():
        assert counts[name] is None or evaluation["data"]["split"] in counts[name]
        known = moment_protocols.PROTOCOLS if evaluation["name"] == "moment" else protocols.PROTOCOLS
        assert evaluation.get("protocol", protocols.NONE) in {*known, protocols.NONE}
    assert counts[name] is None or plan["data"]["split"] in counts[name]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem in ("bcls_coco", "listwise_coco")], ids=lambda p: p.stem
)
def test_eccv_is_asked_for_by_an_argument(path):
    plan = config.complete(load(path, "eccv=some/folder"))
    assert plan["evals"]["eccv"] == dict(name="extended", data=dict(split="testall"), files="some/folder")
    assert plan["evals"].keys() - config.complete(load(path))["evals"].keys() == {"eccv"}
    assert f"{path.name}:eccv=" in path.read_text().split('"""')[1]


def one_of_each_model(files) -> list[pathlib.Path]:
    """The first graded config of every model, or its first one, and the quickstart: compiling all takes minutes."""
    models = {}
    for path in files:
        plan = load(path, "smoke")
        graded = plan.get("relevance", {}).get("name", "").startswith("caption")
        if plan.model.name not in models or (graded and not models[plan.model.name][0]):
            models[plan.model.name] = graded, path
    return sorted({path for _, path in models.values()} | {path for path in files if path.stem == "quickstart"})


TRACED = ("clip4clip_didemo", "prota_msrvtt", "visern_msrvtt", "cdnet_charades_sta", "qd_detr_qvhighlights")  # of many


def _full(path):
    big = path.stem.startswith(("clip4clip_", "clip_", "prota_", "visern_", "moment_detr_", "qd_detr_", "cdnet_"))
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (big and path.stem not in TRACED))


def moments_of_full_size(plan) -> tuple[dict, dict]:
    """What such data look like, and a batch, as shapes."""
    rows, make = plan["batch_size"], jax.ShapeDtypeStruct
    states = plan["text"]["name"] == "states"
    clips = (plan["data"].get("buckets") or [75])[-1]
    length = plan["text"].get("length", 18)
    text = ((rows, length, 512), "float16") if states else ((rows, length), "int32")
    batch = dict(visual=make((rows, clips, 2816), "float16"), visual_mask=make((rows, clips), bool),
                 text=make(*text), text_mask=make((rows, length), bool), saliency=make((rows, clips), "float32"),
                 spans=make((rows, 5, 2), "float32"), spans_mask=make((rows, 5), bool),
                 saliency_pairs=make((rows, 2, 2), "int32"), duration=make((rows,), "float32"),
                 source_id=make((rows,), "int32"))  # fmt: skip
    return dict(vocabulary=5000, visual_dim=2816, text_dim=512 if states else None, backbones=[]), batch


@pytest.mark.parametrize("path", map(_full, FILES))
def test_step_fits_together_at_full_size(path):
    """Model, losses, relevance and optimizer of the config itself, traced on data of its usual widths."""
    plan = config.complete(load(path))
    if plan["task"] == "moment":
        spec, batch = moments_of_full_size(plan)
        return traced(plan, spec, batch)
    rows, length = plan["batch_size"], plan["text"]["length"]
    make, frames, wide = jax.ShapeDtypeStruct, plan["data"].get("frames"), plan["data"].get("frame_size")
    shape, dtype = ((36, 2048), "float16") if frames is None else ((frames, 36, 2048), "float16")
    if wide:  # CLIP on frames
        shape, dtype = (frames or 1, wide, wide, 3), "uint8"
    batch = dict(visual=make((rows, *shape), dtype), visual_mask=make((rows, *shape[:1 if wide else -1]), bool),
                 text=make((rows, length), "int32"), text_mask=make((rows, length), bool),
                 caption_vec=make((rows, 64), "float16"),
                 visual_caption_vecs=make((rows, 5, 64), "float16"))  # fmt: skip
    return traced(plan, dict(vocabulary=5000, visual_dim=None if wide else 2048), batch)


def traced(plan, spec, batch):
    """Init and loss of a config's task, as shapes."""
    rows, make = plan["batch_size"], jax.ShapeDtypeStruct
    ids = dict(visual_id=make((rows,), "int32"), text_id=make((rows,), "int32"), valid=make((rows,), bool))
    task, batch = train.make_task(plan, spec), batch | ids
    with jax.set_mesh(sharding.make_mesh({"data": -1})):
        variables = jax.eval_shape(task.init, jax.random.key(0), batch)
        optim.make(plan["optim"], variables["params"], steps=plan["steps"], steps_per_epoch=100)
        loss = lambda v, b: task.loss(v, b, rng=jax.random.key(1, impl="rbg"), step=jnp.int32(0))
        value, _ = jax.eval_shape(loss, variables, batch)
    assert value.shape == () and value.dtype == jnp.float32


def _smoke(path):
    """These compile for 15 s and more; what their training needs of the loop, other tests have."""
    slow = path.stem.startswith(("rvse", "clip", "prota", "visern", "moment_detr", "qd_detr", "cdnet"))
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize("path", map(_smoke, one_of_each_model(FILES)))
def test_smoke(path, tmp_path, monkeypatch):
    """In-process: 4 steps, evaluations, a checkpoint, the report."""
    monkeypatch.chdir(tmp_path)
    plan = config.complete(load(path, "smoke"))
    main.prepare_if_absent(plan["data"])
    result = train.train(plan, "run")
    assert set(result["evals"]) == set(plan["evals"]) and result["step"] in range(1, 5)
    assert result["selected_on"] == config.selected_on(plan)
    assert pathlib.Path("run/report.html").stat().st_size > 10_000
    for name, evaluation in result["evals"].items():
        if plan["evals"][name]["name"] == "corpus":
            assert 0 <= evaluation["metrics"]["VCMR-R1@0.5"] <= evaluation["metrics"]["VCMR-R10@0.5"] <= 100
            continue
        if plan["task"] == "moment":
            names = moment_metrics.names(plan["evals"][name]["protocol"], saliency=True)
            assert set(evaluation["metrics"]) <= set(names)
            assert evaluation["finite"] and evaluation["texts"] and evaluation["examples"]
            continue
        sums = [value for name, value in evaluation["metrics"].items() if name.endswith("rsum")]
        assert sums and all(0 <= value <= 600 for value in sums)
    if path.stem == "quickstart":
        pictures_of_two_runs(pathlib.Path("run"))


def pictures_of_two_runs(run):
    """The comparison with a copy: every query was kept by both, and their pictures come from the prepared data."""
    copy = run.with_name("copy")
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "best", "tensorboard", "metrics.jsonl"))
    assert compare.main([str(run), str(copy)]) == 0
    text = pathlib.Path("compare.html").read_text()
    assert "data:image/jpeg" in text and "No pictures" not in text and "grade" in text
    found = json.loads((run / "result.json").read_text())["evals"]["test"]["examples"]
    assert text.count("<article") >= len({(e["direction"], e["query"]) for e in found})


def command(*flags, cwd) -> subprocess.CompletedProcess:
    env = dict(os.environ, XLA_FLAGS="--xla_backend_optimization_level=0")
    run = [sys.executable, "-m", "vlr_jax.main", *flags]
    return subprocess.run(run, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)


def test_documented_commands(tmp_path):
    """Train, train again (finished), eval, index, search, through the command line."""
    quick = ["--config", f"{REPO}/configs/quickstart.py:smoke", "--workdir", "run"]
    first = command(*quick, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "t2v_R@1" in first.stdout and "oracle" in first.stdout and "report.html" in first.stdout
    again = command(*quick, cwd=tmp_path)
    assert again.returncode == 0 and "is finished" in again.stdout and "t2v_R@1" in again.stdout
    evaluated = command(*quick, "--mode", "eval", "--output", "eval.json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    stored = json.loads((tmp_path / "run/result.json").read_text())["evals"]["test"]["metrics"]
    assert json.loads((tmp_path / "eval.json").read_text())["evals"]["test"]["metrics"] == stored
    refused = command(*quick, "--config.steps=1", "--mode", "eval", cwd=tmp_path)
    assert refused.returncode == 1 and "takes no --config.steps" in refused.stderr
    refused = command(*quick, "--mode", "search", "--query", "a red circle", cwd=tmp_path)
    assert refused.returncode == 1 and "--mode index" in refused.stderr
    indexed = command(*quick, "--mode", "index", cwd=tmp_path)
    assert indexed.returncode == 0 and "16 visuals" in indexed.stdout, indexed.stderr
    found = command(*quick, "--mode", "search", "--query", "a red circle", "--query", "blue", "--top_k", "3",
                    "--output", "found.json", cwd=tmp_path)  # fmt: skip
    assert found.returncode == 0, found.stderr
    results = json.loads((tmp_path / "found.json").read_text())
    assert [len(r["results"]) for r in results] == [3, 3] and results[0]["query"] == "a red circle"
    scores = [hit["score"] for hit in results[0]["results"]]
    assert scores == sorted(scores, reverse=True)


def test_features_are_named_on_the_command_line():
    line = ["main", "--config", f"{REPO}/configs/rvse_coco.py", "--config.data.options.features=regions.npy"]
    values = absl_flags.FlagValues()
    given = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=line)
    values(line)
    assert config.complete(given.value)["data"]["options"] == {"features": "regions.npy"}
    assert config.complete(load(REPO / "configs/rvse_coco.py"))["data"]["options"] == {"features": None}


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--config", "configs/quick.py"], "no config 'configs/quick.py'.*quickstart.py"),
        (["--config", "configs/quickstart.py", "--config.losses.info_nce.temprature=1"], "temprature.*(?s:.*)keys of"),
        (["--config", "configs/quickstart.py", "--config.stps=1"], "stps.*(?s:.*)keys of .*batch_size.*steps"),
        (["--config", "configs/quickstart.py", "--config.steps=abc"], "steps"),
        (["--mode", "search", "--workdir", "nowhere", "--query", "a"], "nowhere holds no run"),
        (["--workdir", "x"], "training needs --config"),
    ],
)
def test_misuse_ends_with_one_message(flags, message, monkeypatch):
    """In-process through the same parser that the command uses."""
    monkeypatch.chdir(REPO)
    values = absl_flags.FLAGS
    names = [f.name for f in values.get_flags_for_module(main)]
    before = {name: values[name].value for name in names}
    try:
        with pytest.raises(SystemExit) as stopped:
            main.parse(["main", *flags])
            main.main([])
        assert re.search(message, str(stopped.value)), stopped.value
    finally:
        for name, value in before.items():
            values[name].value = value


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(optm={}), "unknown key optm in config; valid keys: .*optim"),
        (dict(data=dict(name="scenes", rot="x")), "unknown key rot in config.data"),
        (dict(best="dev/rsum"), "names no evaluation; evals: val"),
        (dict(batch_size=0), "batch_size is 0"),
        (dict(steps=None), "lacks steps"),
        (dict(keep=0), "keep is 0"),
        (dict(query_chunk=3), "query_chunk is 3; expected a whole number that divides batch_size 16, or 0"),
        (dict(encode_chunk=-8), "encode_chunk is -8"),
        (dict(encode_chunk=8.0), "encode_chunk is 8.0"),
        (dict(query_chunk=True), "query_chunk is True"),
        (dict(query_chunk=None), "query_chunk is None"),
        (dict(optim=dict(name="adam")), "optim lacks lr"),
        (dict(data=dict(name="scenes", split="train")), "config.data lacks root"),
        (dict(evals=dict(val=dict(name="retrieval"))), "needs that evaluation's `every`"),
        (dict(evals=dict(val={})), "config.evals.val lacks name"),
        (
            dict(evals=dict(val=dict(name="retrieval", every=1, data=dict(split="testA")))),
            "picks the checkpoint on 'testA', a test split.* dev or val split .*select_on_test=True",
        ),
        (
            dict(data=dict(name="scenes", root="x", split="Test"), evals=dict(val=dict(name="retrieval", every=1))),
            "picks the checkpoint on 'Test'",
        ),
        (dict(select_on_test="yes"), "select_on_test is 'yes'; expected True or False"),
    ],
)
def test_bad_config_is_refused(small_config, change, message):
    with pytest.raises(ValueError, match=message):
        config.complete(small_config | change)


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(model=dict(name="two_towers")), "No models/two_towers.py; models has: .*two_tower"),
        (dict(model=dict(name="two_tower", dims=3)), "unknown key dims in config.model"),
        (dict(losses=dict(infonce={})), "No losses/infonce.py; losses has: .*info_nce"),
        (dict(losses=dict(info_nce=dict(margin=1.0))), "no knob 'margin'"),
        (dict(relevance=dict(name="identical")), "identity"),
        (dict(text=dict(name="sentencepiece", length=8)), "words"),
        (dict(batch_size=100_000), "does not fit"),
        (dict(batch_size=12), "not a multiple of the 8 devices"),
        (dict(query_chunk=4), "query_chunk 4 is not a multiple of the 8 devices"),
        (dict(encode_chunk=4), "encode_chunk 4 is not a multiple of the 8 devices"),
        (
            dict(encode_chunk=8, model=dict(name="two_tower", dim=16, word_dim=8, text="mean", visual_norm=True)),
            "encode_chunk is 8, .* vlr_jax.models.two_tower has the collection batch_stats",
        ),
        (dict(mesh=dict(data=3)), "does not fit 8 device"),
        (dict(optim=dict(name="adan", lr=1.0)), "optimizers: adam"),
        (dict(regularisers=dict(kl=1.0)), "the model has: none"),
        (dict(spans=dict(label=2.0)), "config.spans weighs the losses of task moment"),
        (
            dict(evals=dict(val=dict(name="retrieval", every=1, block_size=3)), best=""),
            "unknown key block_size in config.evals.val; valid keys: .*batch_size",
        ),
        (dict(best="val/rsun"), "best='val/rsun' is no metric .* it has: .*rsum"),
    ],
)
def test_bad_choice_is_refused_before_a_step(small_config, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        train.train(small_config | change, tmp_path / "run")
    assert not log.read(tmp_path / "run")


def test_selecting_on_test_has_to_be_asked_for_and_is_said():
    test = dict(name="retrieval", every=1, data=dict(split="testA"))
    plan = dict(data=dict(name="scenes", root="x", split="train"), text={}, model={}, losses={}, optim=dict(lr=1.0),
                batch_size=2, steps=2, evals=dict(test=test), best="test/rsum")  # fmt: skip
    chosen = config.selected_on(config.complete(plan | dict(select_on_test=True)))
    assert chosen == "selected on test: test/rsum (split testA)"
    assert config.selected_on(config.complete(plan | dict(best=""))) == "last step (nothing selected)"
    evals = {"test": dict(metrics={"rsum": 1.0}, visuals=1, texts=1, protocol="none")}
    assert main.table(dict(selected_on=chosen, evals=evals)).splitlines()[1] == chosen
    assert "selected" not in main.table(dict(selected_on="dev/rsum (split dev)", evals=evals))


def test_a_run_of_before_a_key_is_continued(small_config, tmp_path):
    config.claim(tmp_path, {k: v for k, v in small_config.items() if k != "select_on_test"})
    config.claim(tmp_path, small_config)
    with pytest.raises(ValueError, match="select_on_test: there False, here True"):
        config.claim(tmp_path, small_config | dict(select_on_test=True))


def test_data_prepared_from_something_else_are_refused(scenes_root):
    data = dict(name="folder", root=scenes_root, split="train", options=dict(features="other.npz"))
    with pytest.raises(ValueError, match="dataset scenes, here folder; features=None, here 'other.npz'"):
        main.prepare_if_absent(data)
    with pytest.raises(ValueError, match="option train .48 there, 6000 asked for"):
        main.prepare_if_absent(dict(name="scenes", root=scenes_root, split="train", options={}))
    plan = json.loads((pathlib.Path(scenes_root) / "prepared.json").read_text())["options"]
    main.prepare_if_absent(dict(name="scenes", root=scenes_root, split="train", options=plan | dict(features=None)))
