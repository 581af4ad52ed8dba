"""Moments in a corpus: the score of both stages, positives in other videos, the evaluation beside its plain twin."""

import itertools
import json
import math

import jax
import moment_runs
import numpy as np
import pytest
from absl import flags as absl_flags

from vlr_jax import config as configs
from vlr_jax import corpus, finding, gallery, index, main, opened, pipeline, prepare, suppression, tiles, train
from vlr_jax.evaluators.corpus import COVERED, RECALLS, THRESHOLDS, Evaluator, positives
from vlr_jax.types import Encoded

VIDEOS = 24
ASKED = ["a red circle spins", "a green square grows", "a blue triangle moves left"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Prepared data, a moment run that can rank videos, and a retrieval run of the same data."""
    folder = tmp_path_factory.mktemp("corpus")
    prepare.prepare(
        "scenes", folder / "root", options=moment_runs.OPTIONS | dict(test=VIDEOS, background=1.0), progress=False
    )
    moment_runs.make(folder / "run", moment_runs.plan(folder / "root"))
    fields = dict(task="retrieval", evals=dict(test=dict(name="retrieval", data=dict(split="test"))), best="",
                  model=dict(name="two_tower", dim=8, word_dim=8, text="mean", temperature_start=0.2),
                  losses=dict(info_nce=dict(temperature="model")))  # fmt: skip
    moment_runs.make(folder / "other", moment_runs.plan(folder / "root", **fields))
    return folder


def open_all(place, split="test", run="run"):
    run = opened.restore(place / run, tiles.one_device())
    return run, pipeline.open_split(run.config["data"] | {"split": split}, run.tokenizer, ())


@pytest.fixture(scope="module")
def made(place):
    return open_all(place)


def twin(stage_scores, windows, temperature, top_n):
    """Both stages in plain Python: stage-1 scores of V videos, windows of each [(start, end, p)] → sorted hits."""
    order = sorted(range(len(stage_scores)), key=lambda v: (-stage_scores[v], v))[:top_n]
    total = sum(math.exp(stage_scores[v] / temperature) for v in order)
    hits = []
    for v in order:
        share = math.exp(stage_scores[v] / temperature) / total
        hits += [(share * p, v, start, end) for start, end, p in windows[v]]
    return sorted(hits, key=lambda hit: -hit[0])  # sorted is stable: ties stay in the order of stage 1


@pytest.mark.parametrize("block", [1, 3, 64])
def test_score_of_both_stages(block):
    """Integers as stage-1 scores, with ties; a model that is certain to different degrees; every block the same."""
    lengths, true = [6, 9, 4, 8], {(0, 0): (1, 3), (1, 0): (2, 8), (3, 2): (3, 7), (2, 1): (0, 4), (0, 1): (5, 6)}
    videos = moment_runs.Videos(lengths, true, things=3, buckets=[10])
    scores = np.array([[2, 1, 2, 0], [0, 0, 0, 0], [1, 3, 2, 3]], np.float32)  # [T, V]
    eye = Encoded(np.eye(4, dtype=np.float32))
    similar = lambda variables, visual, text: {
        "sim": jax.numpy.einsum("vd,td->vt", visual.pooled, text.pooled, precision="highest")
    }
    stage = corpus.Stage1({"similarity": similar}, {}, eye, 0.5)
    found = corpus.candidates(stage, Encoded(scores), 3, mesh=tiles.one_device())
    assert found.visuals.tolist() == [[0, 2, 1], [0, 1, 2], [1, 3, 2]]
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    ranked = list(
        corpus.rank(moment_runs.knows, {"certainty": np.float32(1)}, videos, found, batch_size=2, block=block,
                    mesh=tiles.one_device())
    )  # fmt: skip
    assert [hits.query for hits in ranked] == [0, 1, 2]
    for t, hits in enumerate(ranked):
        windows = []
        for v in range(4):
            span = true.get((v, t))
            sure = [(2 * span[0], 2 * span[1], 0.9)] if span else [(0, 0, 0.1)]
            windows.append([*sure, (0, 0, 0.05)])
        wanted = twin(scores[t], windows, 0.5, 3)
        assert hits.visuals.tolist() == [v for _, v, _, _ in wanted]
        np.testing.assert_allclose(hits.scores, [score for score, *_ in wanted], rtol=1e-6)
        np.testing.assert_allclose(hits.windows, [window for _, _, *window in wanted], atol=1e-4)
        np.testing.assert_allclose(hits.scores, hits.video_probabilities * hits.window_probabilities)


def test_probabilities_and_temperatures():
    scores = np.array([[0.9, 0.1, -0.5], [1e4, 1e4, 0]], np.float32)
    found = corpus.probabilities(scores, 0.07)
    np.testing.assert_allclose(found.sum(1), 1)
    assert found[1].tolist() == [0.5, 0.5, 0]
    assert corpus.probabilities(scores, 1e-3)[0].tolist() == [1, 0, 0]  # cold: stage 1 decides
    np.testing.assert_allclose(corpus.probabilities(scores, 1e9)[0], 1 / 3)  # hot: stage 2 does
    assert corpus._tau(None) == 0.07 and corpus._tau(None, np.float32(0.5)) == 0.5 and corpus._tau(0.1, 0.5) == 0.1
    for bad in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature of stage 1 is .*above 0"):
            corpus._tau(bad)


def test_positives_are_all_times_that_show_the_same(made):
    """Against a plain search through the records; scenes show what some asks for in videos of others too."""
    _, split = made
    found = positives(split, np.arange(split.n_texts))
    records, elsewhere = [split.record(v) for v in range(split.n_visuals)], 0
    for t, own in enumerate(found):
        visual, windows = int(split.text_visual[t]), split.timeline.windows[t]
        keys = set()
        for start, end in windows:
            for (first, last), key in zip(records[visual]["shown"], records[visual]["shown_key"], strict=True):
                if min(end, last) - max(start, first) >= (end - start) / 2:
                    keys.add(key)
        wanted = {(visual, *map(float, window)) for window in windows}
        for v, record in enumerate(records):
            for (first, last), key in zip(record["shown"], record["shown_key"], strict=True):
                wanted |= {(v, float(first), float(last))} if key in keys else set()
        assert {(v, *window) for v, rows in own.items() for window in rows.tolist()} == wanted
        elsewhere += len(own) > 1
    assert COVERED == 0.5 and elsewhere > 3


def shown_split(windows, shown):
    """A split of one text in the first of several videos, of which only what is shown when is known."""
    at = type("Timeline", (), {"shown": lambda self, v: shown[v], "windows": [np.array(windows, float)]})()
    return type("Split", (), {"timeline": at, "n_visuals": len(shown), "text_visual": [0]})()


def test_a_picture_that_covers_half_of_the_window_is_what_it_shows():
    other = (np.array([[50.0, 60], [80, 90]]), ["b.jpg", "a.jpg"])
    rows = lambda *shown: (np.array([row[:2] for row in shown], float), [row[2] for row in shown])
    of = lambda first: positives(shown_split([[10, 20]], [first, other]), [0])[0]
    assert list(of(rows((0, 15, "a.jpg"), (15, 30, "x.jpg")))) == [0, 1]  # a half each: both
    assert of(rows((0, 15, "a.jpg"), (15, 30, "x.jpg")))[1].tolist() == [[80, 90]]
    assert list(of(rows((0, 14.9, "a.jpg"), (14.9, 30, "x.jpg")))) == [0]
    assert of(rows((8, 13, "b.jpg"), (13, 17, "x.jpg"), (17, 22, "b.jpg")))[1].tolist() == [[50, 60]]  # 3 + 3 s
    assert of(rows((10, 20, "a.jpg"), (30, 40, "a.jpg")))[0].tolist() == [[10, 20], [30, 40]]  # own ones once
    assert list(positives(shown_split([[10, 20]], [None, None]), [0])[0]) == [0]  # not known what is shown


def plain_metrics(run, split, stage, top_n, temperature):
    """The evaluation text by text: full scores, own windows of every video, hits by IoU in plain Python."""
    predict = run.task.predict()
    text = corpus.encode_texts(stage, split, 8, mesh=tiles.one_device())
    table = np.asarray(stage.predict["similarity"](stage.variables, stage.visual, text)["sim"])
    pairs = list(itertools.product(range(split.n_visuals), range(split.n_texts)))
    options = dict(batch_size=8, mesh=tiles.one_device())
    every = {(one.visual, one.text): one.windows.tolist()
             for one in corpus.localize.locate(predict["moments"], run.variables, split, pairs, **options)}  # fmt: skip
    hit, reached = {(k, m): 0 for k in RECALLS for m in THRESHOLDS}, {1: 0, top_n: 0}
    for t, own in enumerate(positives(split, np.arange(split.n_texts))):
        windows = [every[v, t] for v in range(split.n_visuals)]
        hits = twin(table[:, t], windows, temperature, top_n)
        order = sorted(range(split.n_visuals), key=lambda v: (-table[v, t], v))
        for n in reached:
            reached[n] += any(v in own for v in order[:n])
        for k, m in hit:
            hit[k, m] += any(
                v in own and suppression.iou(np.clip([start, end], 0, 48)[None], own[v]).max() >= m
                for _, v, start, end in hits[:k]
            )
    share = lambda count: 100 * count / split.n_texts
    return {f"VCMR-R{k}@{m}": share(hit[k, m]) for m in THRESHOLDS for k in RECALLS} | {
        f"VR-R{n}": share(count) for n, count in reached.items()
    }


@pytest.mark.parametrize("top_n,temperature", [(3, 0.07), (8, 0.5)])
def test_evaluation_is_its_plain_twin(made, top_n, temperature):
    run, split = made
    options = dict(split=split, mesh=tiles.one_device(), top_n=top_n, temperature=temperature, batch_size=8)
    evaluator = Evaluator(run.task.predict(), **options)
    result = evaluator.result(run.variables)
    with jax.set_mesh(tiles.one_device()):
        stage = corpus.own_stage1(run.task.predict(), run.variables, split, 8, mesh=tiles.one_device())
        wanted = plain_metrics(run, split, stage, top_n, temperature)
    assert result["metrics"] == pytest.approx(wanted) and list(result["metrics"]) == evaluator.names()
    assert any(0 < value < 100 for name, value in wanted.items() if name.startswith("VCMR"))
    assert dict(evaluator.run(run.variables)) == result["metrics"]  # again, and the same
    assert result["finite"] and result["oracle"]["VCMR-R1@0.5"] == result["metrics"][f"VR-R{top_n}"]
    assert all(value <= result["oracle"][name] for name, value in wanted.items() if name in result["oracle"])
    json.dumps(result, allow_nan=False)


def test_chance_is_the_mean_of_all_orders(made):
    """Counted over every choice of N videos."""
    run, split = made
    result = Evaluator(run.task.predict(), split=split, mesh=tiles.one_device(), top_n=3).result(run.variables)
    every = [set(some) for some in itertools.combinations(range(split.n_visuals), 3)]
    rights = [set(own) for own in positives(split, np.arange(split.n_texts))]
    wanted = np.mean([np.mean([bool(some & right) for some in every]) for right in rights])
    assert result["chance"]["VR-R3"] == pytest.approx(100 * wanted)
    assert result["chance"]["VR-R1"] == pytest.approx(100 * np.mean([len(right) / VIDEOS for right in rights]))
    assert result["positives"]["videos"] == np.mean([len(right) for right in rights])


def test_a_perfect_model_finds_everything(place, monkeypatch):
    """True windows as the answer, videos ranked by whether they are right: all is 100; by the opposite: all is 0."""
    run, split = open_all(place, "val")
    rights = positives(split, np.arange(split.n_texts))

    def rank(moments, variables, split, found, *, numbers, **_):
        for q, t in enumerate(numbers):
            own = [(int(v), np.array([[*w, 0.9] for w in rights[t].get(int(v), [[0.0, 0.0]])]))
                   for v in found.visuals[q]]  # fmt: skip
            yield corpus.order(int(t), own, found.probabilities[q])

    monkeypatch.setattr(corpus, "rank", rank)
    evaluator = Evaluator(run.task.predict(), split=split, mesh=tiles.one_device(), top_n=1)
    for sign, wanted in ((1, 100), (-1, 0)):
        table = np.array([[sign * (v in right) for v in range(split.n_visuals)] for right in rights], np.float32)
        best = np.argsort(-table, axis=1, kind="stable")[:, :1]
        monkeypatch.setattr(evaluator, "_candidates", lambda _, best=best: corpus.Candidates(best, np.ones(best.shape)))
        assert set(evaluator.result({})["metrics"].values()) == {wanted}


@pytest.fixture
def command(place, monkeypatch, capsys):
    """The command in this process: `command(mode, "--query", "…")` → what it printed; errors are SystemExit."""
    values = absl_flags.FLAGS
    before = {flag.name: flag.value for flag in values.get_flags_for_module(main)}
    monkeypatch.setattr(main.sharding, "make_mesh", lambda axes: tiles.one_device())

    def reset():
        for name, value in before.items():
            values[name].value = value
        for name in ("query", "video"):
            values[name].value = []

    def run(mode, *more, workdir="run"):
        reset()
        main.parse(["main", "--workdir", str(place / workdir), "--mode", mode, *more])
        main.main([])
        return capsys.readouterr().out

    yield run
    reset()


def asked(texts):
    return [part for text in texts for part in ("--query", text)]


def test_command_in_a_corpus(command, place, made, tmp_path):
    """By the model itself, encoding now; by its own index; by another run's index. Beside the library."""
    run, split = made
    out = tmp_path / "found.json"
    find = ("localize", "--corpus", *asked(ASKED), "--top_n", "4", "--top_k", "6", "--output", str(out))
    told = command(*find)
    found = json.loads(out.read_text())
    assert [one["query"] for one in found] == ASKED
    for one in found:
        scores = [hit["score"] for hit in one["results"]]
        assert len(scores) == 6 and scores == sorted(scores, reverse=True)
        for place_, hit in enumerate(one["results"], 1):
            assert hit["score"] == pytest.approx(hit["video_probability"] * hit["window_probability"])
            window = f"{finding.clock(hit['start'])} – {finding.clock(hit['end'])}"
            assert any(line.split()[:3] == [str(place_), f"{hit['score']:.4f}", hit["video"]] and window in line
                       for line in told.splitlines())  # fmt: skip
    stage = corpus.own_stage1(run.task.predict(), run.variables, split, 8, mesh=tiles.one_device())
    own = finding.find_in_corpus(run, split, ASKED, stage, tiles.one_device(), top_n=4, top_k=6)
    assert own == found  # the same, by the library: deterministic
    assert f"{VIDEOS} visuals" in command("index", "--split", "test")
    assert "test-0" in command("search", *asked(ASKED[:1]))
    command(*find)
    assert json.loads(out.read_text()) == found
    with pytest.raises(SystemExit, match="lacks 8 of 8 videos, such as 'val-000000' .*build it from the same videos"):
        command(*find, "--split", "val")
    with pytest.raises(SystemExit, match="other.index is not an index"):
        command(*find, "--stage1", str(place / "other"))
    command("index", workdir="other")
    command(*find, "--stage1", str(place / "other"))
    other = json.loads(out.read_text())
    command("search", *asked(ASKED), "--top_k", "4", "--output", str(tmp_path / "ranked.json"), workdir="other")
    learned = corpus.opened_stage1(place / "other", split.names, tiles.one_device()).temperature
    for one, best in zip(other, json.loads((tmp_path / "ranked.json").read_text()), strict=True):
        raised = {hit["name"]: math.exp(hit["score"] / learned) for hit in best["results"]}
        for hit in one["results"]:
            assert hit["video_probability"] == pytest.approx(raised[hit["video"]] / sum(raised.values()), rel=1e-4)
    with pytest.raises(SystemExit, match="temperature of stage 1 is -1.0"):
        command(*find, "--temperature", "-1")


def test_another_runs_learned_temperature_and_larger_index(place, made):
    run, split = made
    other = opened.restore(place / "other", tiles.one_device())
    data = other.config["data"] | {"split": "test"}
    folder = place / "larger"
    gallery.build(other, data, folder, tiles.one_device())
    items = index.load(folder)
    twice = jax.tree.map(lambda leaf: np.concatenate([leaf[::-1], leaf]), items.encoded)
    index.build(folder, twice, items.names[::-1] + [f"more-{name}" for name in items.names], items.meta)
    stage = corpus.indexed_stage1(other, folder, split.names)
    np.testing.assert_array_equal(stage.visual.pooled, items.encoded.pooled)
    learned = float(np.exp(other.variables["params"]["log_temperature"]))
    assert stage.temperature == pytest.approx(learned) and learned != 0.07
    assert corpus.indexed_stage1(other, folder, split.names, temperature=0.3).temperature == 0.3
    index.build(folder, twice, items.names * 2, items.meta)
    with pytest.raises(ValueError, match=f"{VIDEOS} names stand twice"):
        corpus.indexed_stage1(other, folder, split.names)
    with pytest.raises(ValueError, match="was built with model"):
        corpus.indexed_stage1(run, folder, split.names)


def test_evaluation_by_another_run(place, made, monkeypatch):
    """As a config names it; that run is not trained, so its ranking is made once."""
    run, split = made
    other = opened.restore(place / "other", tiles.one_device())
    gallery.build(other, other.config["data"] | {"split": "test"}, place / "other" / "index", tiles.one_device())
    evals = dict(corpus=dict(name="corpus", data=dict(split="test"), stage1=str(place / "other"), top_n=2))
    plan = configs.complete(run.config | dict(evals=evals, best=""))
    with jax.set_mesh(tiles.one_device()):
        evaluator, every, _ = train.make_evaluators(plan, run.task, run.tokenizer, tiles.one_device())["corpus"]
    monkeypatch.setattr(opened, "restore", None)
    result = evaluator.result(run.variables)
    assert not every and result["stage1"] == str(place / "other") and "VR-R2" in result["metrics"]
    stage = corpus.indexed_stage1(other, place / "other" / "index", split.names)
    with jax.set_mesh(tiles.one_device()):
        wanted = plain_metrics(run, split, stage, 2, stage.temperature)
    assert result["metrics"] == pytest.approx(wanted)
    table = main.table({"evals": {"corpus": result}})
    assert "VCMR-R10@0.7" in table and "oracle" in table and "chance" in table


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(top_n=0), "top_n is 0; expected a whole number"),
        (dict(processing="round"), "processing 'round' of an evaluation"),
        (dict(stage1="nowhere"), "nowhere holds no run"),
        (dict(temperature=0.0), "temperature of stage 1 is 0.0"),
    ],
)
def test_bad_options_are_refused(made, options, message):
    run, split = made
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Evaluator(run.task.predict(), split=split, mesh=tiles.one_device(), **options).result(run.variables)


def test_models_that_rank_no_videos(made):
    run, split = made
    moments = {"moments": run.task.predict()["moments"]}
    with pytest.raises(ValueError, match="can't rank videos, it has no encode_visual .of those here, cdnet"):
        Evaluator(moments, split=split, mesh=tiles.one_device())
    task = type("Task", (), {"predict": lambda self: moments})()
    for use in (
        lambda run: gallery.build(run, run.config["data"], "nowhere", tiles.one_device()),
        lambda run: gallery.search(run, "nowhere", ASKED, 3, tiles.one_device()),
    ):
        with pytest.raises(ValueError, match="encodes no visual by itself; --mode localize"):
            use(run._replace(task=task))


def test_a_model_that_is_not_finite(made):
    run, split = made
    spoiled = jax.tree.map(lambda leaf: leaf * np.nan, run.variables)
    evaluator = Evaluator(run.task.predict(), split=split, mesh=tiles.one_device(), top_n=2)
    with pytest.raises(ValueError, match="stage 1 scores some videos as NaN"):
        evaluator.result(spoiled)


def test_cdnet_is_indexed_and_finds_its_own_videos(command, place):
    """The model of the paper, small: what its index says of a pair is its similarity, of a video the best clip's."""
    model = dict(name="cdnet", dim=16, heads=2, hidden=32, queries=4, word_dim=8, gru_dim=8, t2v_layers=1,
                 encoder_layers=1, decoder_layers=1)  # fmt: skip
    moment_runs.make(place / "cdnet", moment_runs.plan(place / "root", model=model))
    assert f"{VIDEOS} visuals" in command("index", "--split", "test", workdir="cdnet")
    told = command("localize", "--corpus", *asked(ASKED[:1]), "--top_n", "2", "--top_k", "3", workdir="cdnet")
    assert told.count("test-0000") == 3
    run, split = open_all(place, run="cdnet")
    stage = corpus.indexed_stage1(run, place / "cdnet" / "index", split.names)
    text = corpus.encode_queries(stage, ASKED[:1], None, 8, mesh=tiles.one_device())
    sentence = np.asarray(text.pooled[0], np.float64)
    cosines = np.where(stage.visual.mask, stage.visual.tokens.astype(np.float64) @ sentence, -1).max(1)
    best = np.argsort(-cosines, kind="stable")[:2]
    found = corpus.candidates(stage, text, 2, mesh=tiles.one_device())
    assert found.visuals[0].tolist() == best.tolist()
    assert {split.names[v] for v in best} >= {word for word in told.split() if word.startswith("test-")}
