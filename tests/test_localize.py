"""Moments in videos of any length: pieces and what they make together, the command, submission files."""

import json
import shutil
import tracemalloc

import jax
import moment_runs
import numpy as np
import PIL.Image
import pytest
from absl import flags as absl_flags
from jax.sharding import AxisType

from vlr_jax import (
    answers,
    batching,
    finding,
    gallery,
    localize,
    main,
    moment_metrics,
    opened,
    pieces,
    pipeline,
    prepare,
    score,
    submission,
    tiles,
    timeline,
    train,
)


def seen(moments, n, length=20, clip=2.0, score=lambda start, end: 0.9):
    """What a perfect model finds in each piece: the parts of the true moments that the piece shows, as it sees them."""
    found = []
    for start in pieces.starts(n, length):
        first, last = start * clip, (start + length) * clip
        parts = [(max(a, first), min(b, last)) for a, b in moments if min(b, last) > max(a, first)]
        rows = [(a, b, score(a, b)) for a, b in parts]
        found.append(pieces.Piece(first, last, np.array(rows, float).reshape(-1, 3)))
    return found


@pytest.mark.parametrize("n,length", [(1, 20), (20, 20), (21, 20), (45, 20), (40, 20), (75, 1), (9, 2), (5400, 75)])
def test_pieces_cover_the_video(n, length):
    starts = pieces.starts(n, length)
    assert starts == sorted(set(starts)) and starts[0] == 0
    assert starts[-1] == max(0, n - length)
    covered = np.zeros(n, int)
    for start in starts:
        covered[start : start + length] += 1
    assert covered.min() >= 1
    assert all(b - a <= max(1, length // 2) for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize(
    "moments",
    [
        [(4, 10), (90, 99)],
        [(18, 24)],  # over the border where the second piece begins
        [(36, 44)],  # over the end of the first piece
        [(21, 39)],  # within the first two pieces
        [(30, 95)],  # longer than half a piece
        [(0, 130)],  # the whole video
        [(39, 41), (79, 81), (119, 121)],  # a clip at every end of a piece
        [(10, 16), (16, 22), (22, 28), (38, 42), (42, 60)],  # one after the other
    ],
)
def test_perfect_pieces_make_the_true_windows(moments):
    """Each moment once, whole, wherever the borders of the pieces cut it."""
    joined = pieces.join(seen(moments, 65), 2.0)
    assert sorted(map(tuple, joined[:, :2])) == moments


@pytest.mark.parametrize("seed", range(20))
def test_perfect_pieces_of_random_videos(seed):
    rng = np.random.default_rng(seed)
    n, length = int(rng.integers(21, 200)), 20
    borders = np.sort(rng.choice(np.arange(0, n + 1), 2 * int(rng.integers(1, 5)), replace=False)) * 2.0
    moments = [(a, b) for a, b in zip(borders[::2], borders[1::2], strict=True)]
    scores = {}
    score = lambda a, b: scores.setdefault((a, b), float(rng.uniform(0.5, 1)))
    joined = pieces.join(seen(moments, n, length, score=score), 2.0)
    assert sorted(map(tuple, joined[:, :2])) == sorted(moments)
    assert (np.diff(joined[:, 2]) <= 0).all()


def test_windows_of_two_pieces():
    """By hand: what is the same, whose borders count, and what stays apart."""
    made = lambda first, second: [pieces.Piece(0, 40, np.array(first, float).reshape(-1, 3)),
                                  pieces.Piece(20, 60, np.array(second, float).reshape(-1, 3))]  # fmt: skip
    join = lambda first, second: pieces.join(made(first, second), 2.0).tolist()
    # The better of two that nothing cuts, as it is; the other goes.
    assert join([[24, 30, 0.6]], [[25, 31, 0.8]]) == [[25, 31, 0.8]]
    # Cut at the end of the first piece: the start of the one, the end of the other.
    assert join([[31, 40, 0.9]], [[30, 50, 0.5]]) == [[31, 50, 0.9]]
    assert join([[31, 39, 0.4]], [[30, 50, 0.5]]) == [[30, 50, 0.5]]  # the other is whole and better
    # Cut at the start of the second.
    assert join([[10, 33, 0.3]], [[20, 32, 0.7]]) == [[10, 32, 0.7]]
    # What they say of the common time differs: two moments.
    assert join([[10, 22, 0.3]], [[20, 50, 0.7]]) == [[20, 50, 0.7], [10, 22, 0.3]]
    # One of two in the second piece goes on: the better of those that agree.
    assert join([[30, 40, 0.9]], [[30, 44, 0.2], [31, 52, 0.3]]) == [[30, 52, 0.9]]
    # Of one piece: IoU above a half goes, below it stays.
    assert join([[2, 10, 0.5], [2, 11, 0.4], [8, 14, 0.3]], []) == [[2, 10, 0.5], [8, 14, 0.3]]
    # Beyond the piece there is nothing to be seen; at the ends of the video no border cuts.
    assert join([[-3, 5, 0.5]], [[55, 70, 0.4]]) == [[0, 5, 0.5], [55, 60, 0.4]]
    assert join([[30, 40, 0.9]], []) == [[30, 40, 0.9]]
    assert len(join([[2 * i, 2 * i + 1, i / 20] for i in range(15)], [])) == pieces.KEPT


def test_equal_and_undefined_scores():
    two = [pieces.Piece(0, 40, np.array([[0, 4, 0.5], [10, 14, 0.5], [16, 18, np.nan]])),
           pieces.Piece(20, 60, np.array([[50, 54, 0.5], [np.nan, 30, 0.1]]))]  # fmt: skip
    joined = pieces.join(two, 2.0)
    assert joined[:3, 0].tolist() == [0, 10, 50] and joined[3, 2] == 0.1 and np.isnan(joined[4, 2])
    assert np.isnan(joined[3, 0])  # not lost: an evaluation says that the model is not finite


def located(videos, pairs, *, devices=1, batch_size=4, moments=moment_runs.knows, **options):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    return list(localize.locate(moments, ONE, videos, pairs, batch_size=batch_size, mesh=mesh, **options))


ONE = {"certainty": np.float32(1)}
LENGTHS = [5, 40, 12, 90, 7, 23, 20]
TRUE = {(0, 0): (1, 3), (1, 0): (15, 26), (2, 1): (0, 12), (3, 0): (12, 60), (3, 1): (80, 90), (5, 0): (18, 22)}


@pytest.mark.parametrize("devices,batch_size", [(1, 1), (1, 4), (1, 64), (8, 3)])
def test_every_pair_once_and_right(devices, batch_size):
    """Videos of one piece and of many, padding rows, any batch; the shortest length first, in order within each."""
    videos = moment_runs.Videos(LENGTHS, TRUE, things=2, buckets=[8, 20])
    pairs = [(v, t) for t in (1, 0) for v in range(len(LENGTHS))]
    found = located(videos, pairs, devices=devices, batch_size=batch_size)
    short = [(v, t) for v, t in pairs if LENGTHS[v] <= 8]
    assert [(one.visual, one.text) for one in found] == short + [pair for pair in pairs if pair not in short]
    for one in found:
        n = LENGTHS[one.visual]
        first, behind = TRUE.get((one.visual, one.text), (0, 0))
        assert one.saliency.shape == (n,) and one.saliency.dtype == np.float32
        np.testing.assert_array_equal(one.saliency, np.isin(np.arange(n), np.arange(first, behind)))
        start, end, probability = one.windows[0]
        if behind:
            assert (start, end) == pytest.approx((2 * first, 2 * behind), abs=1e-4) and probability == np.float32(0.9)
            assert all(w[1] == w[0] for w in one.windows[1:])  # one moment, found once, whatever the pieces
        else:
            assert probability == np.float32(0.1)
    assert len(located(videos, pairs[:1])) == 1 and located(videos, []) == []


def test_the_same_pair_twice_and_texts_of_ones_own():
    videos = moment_runs.Videos([5, 6], {(0, 0): (1, 3), (0, 1): (3, 4)}, things=2, buckets=[8])
    swapped = lambda t: videos.text(1 - t)
    found = located(videos, [(0, 0), (0, 0), (0, 1)], text=swapped)
    assert [one.windows[0, 0] for one in found] == pytest.approx([6, 6, 2], abs=1e-5)


def test_long_videos_in_bounded_memory():
    """Three hours: the model never sees more than a piece, the record is read a few times, and memory stays small."""
    wide = 256  # all pieces together would be 5.6 MB; of the record, all columns are one

    class Hours(moment_runs.Videos):
        def record(self, visual):
            return {"visual": np.broadcast_to(super().record(visual)["visual"], (5400, wide))}

    hours = Hours([5400], {(0, 0): (2000, 2090)}, buckets=[75])
    shapes = []

    def watched(variables, batch):
        shapes.append(batch["visual"].shape)  # while it is traced
        return moment_runs.knows(variables, batch)

    located(hours, [(0, 0)], moments=watched, batch_size=8)  # compiles
    tracemalloc.start()
    (one,) = located(hours, [(0, 0)], moments=watched, batch_size=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shapes == [(8, 75, wide)]
    assert hours.reads <= 2 * 8  # of 145 pieces; two threads, twice
    assert one.windows[0].tolist() == pytest.approx([4000, 4180, 0.9], abs=1e-2) and one.saliency.sum() == 90
    assert peak < 4e6, peak


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of a tiny model and its data; result.json as training leaves it, with the calibration alone."""
    folder = tmp_path_factory.mktemp("localize")
    prepare.prepare("scenes", folder / "root", options=moment_runs.OPTIONS, progress=False)
    moment_runs.make(folder / "run", moment_runs.plan(folder / "root"))
    evals = {"val": {"calibration": [2.0, -1.0]}, "test": {"calibration": [9.0, 9.0]}}
    (folder / "run" / "result.json").write_text(json.dumps({"evals": evals}))
    return folder


def opened_run(place):
    return opened.restore(place / "run", tiles.one_device())


def test_a_video_that_fits_is_found_as_if_there_were_no_pieces(place):
    """Bit for bit what the model says of the same batch; and in a longer piece the same to rounding."""
    run, rows = opened_run(place), 8
    data = run.config["data"] | {"split": "val"}
    split = pipeline.open_split(data | {"buckets": [12, 24, 75]}, run.tokenizer, ())
    moments = run.task.predict()["moments"]
    pairs = [(int(split.text_visual[t]), t) for t in range(8)]
    made = [timeline.row(split, t, 24, np.random.default_rng(0)) | {"valid": np.bool_(True)} for _, t in pairs]
    plain = jax.device_get(jax.jit(moments)(run.variables, batching.stack(made)))
    found = list(localize.locate(moments, run.variables, split, pairs, batch_size=rows, mesh=tiles.one_device()))
    covered = split.timeline.covered[0]
    for i, one in enumerate(found):
        np.testing.assert_array_equal(one.windows[:, :2], plain["windows"][i].astype(np.float64) * covered)
        np.testing.assert_array_equal(one.windows[:, 2], plain["scores"][i])
        np.testing.assert_array_equal(one.saliency, plain["saliency"][i])
        np.testing.assert_array_equal(one.extra["weights"], plain["extra"]["weights"][i])
    longer = pipeline.open_split(data | {"buckets": [75]}, run.tokenizer, ())
    again = localize.locate(moments, run.variables, longer, pairs, batch_size=rows, mesh=tiles.one_device())
    for one, other in zip(found, again, strict=True):
        np.testing.assert_allclose(one.windows, other.windows, atol=1e-4)
        np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-5)


@pytest.fixture
def command(place, monkeypatch, capsys):
    """The command in this process: `command("--query", "…")` → what it printed; errors are SystemExit."""
    values = absl_flags.FLAGS
    before = {flag.name: flag.value for flag in values.get_flags_for_module(main)}
    monkeypatch.setattr(main.sharding, "make_mesh", lambda axes: tiles.one_device())

    def reset():
        for name, value in before.items():
            values[name].value = value
        for name in ("query", "video"):
            values[name].value = []

    def run(*more, workdir="run"):
        reset()
        main.parse(["main", "--workdir", str(place / workdir), "--mode", "localize", *more])
        main.main([])
        return capsys.readouterr()

    yield run
    reset()


def test_many_queries_in_some_videos(command, place, tmp_path):
    out = tmp_path / "found.json"
    (tmp_path / "queries.txt").write_text("a red circle spins\n\nblue thing quuxes\n", encoding="utf-8")
    told = command("--queries", str(tmp_path / "queries.txt"), "--query", "a green square grows", "--split", "val",
                   "--video", "val-000003", "--video", "val-000001", "--output", str(out))  # fmt: skip
    found = json.loads(out.read_text())
    wanted = [(q, v) for q in ("a green square grows", "a red circle spins", "blue thing quuxes")
              for v in ("val-000003", "val-000001")]  # fmt: skip
    assert [(one["query"], one["video"]) for one in found] == wanted
    assert "'blue thing quuxes': unknown words: " in told.err and "quuxes" in told.err
    for one in found:
        windows = np.array(one["windows"])
        assert one["duration"] == 48 and one["clip_length"] == 2 and len(windows) == 3
        assert (np.diff(windows[:, 2]) <= 0).all() and windows[:, :2].min() >= 0 and windows[:, :2].max() <= 48
        raw, probability = np.array(one["saliency"]), np.array(one["saliency_probability"])
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(1 - 2 * raw)), rtol=1e-6)
        peak = f"{finding.clock(2 * raw.argmax())} ({probability.max():.2f}, raw {raw.max():.2f})"
        assert peak in told.out  # every video of every query is in the table
        assert f"{finding.clock(windows[0, 0])} – {finding.clock(windows[0, 1])}" in told.out
    # Beside the model itself, one text in one video.
    run = opened_run(place)
    split = finding.open_split(run, run.config["data"] | {"split": "val"})
    (one,) = finding.find(run, split, ["a red circle spins"], [1], tiles.one_device())
    assert one["saliency_probability"] is None and one["video"] == "val-000001"
    np.testing.assert_allclose(one["windows"], found[3]["windows"], atol=2e-4)


def test_table_has_the_best_videos():
    rest = {"saliency": [-2.0, 1.5], "saliency_probability": None, "clip_length": 90.0}
    made = lambda query, video, p: {"query": query, "video": video, "windows": [[0, 3700.2, p], [1, 2, 0.1]]} | rest
    found = [made("a", "x", 0.2), made("a", "y", 0.5), made("a", "z", 0.3), made("b", "x", 0.4)]
    text = finding.table(found, 2)
    assert [line.split()[0] for line in text.splitlines() if "raw" in line] == ["y", "z", "x"]
    assert "and 1 more videos" in text and "0:00 – 1:01:40" in text and "1:30 (raw 1.50)" in text


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--query", "a red circle", "--video", "val-000009", "--split", "val"],
         "val-000009: not among the 8 videos of split 'val'; most like it: val-00000"),
        (["--query", "xyzzy plugh"], "no word of 'xyzzy plugh' occurs in the training texts"),
        (["--query", "…"], "without any word"),
        ([], 'nothing to look for; give --query "…" or --queries FILE .* FILE.jsonl'),
        (["--video", "val-000001", "--output", "x.jsonl"], "nothing to look for"),
        (["--query", "a red circle", "--split", "dev"], "no split 'dev'; splits: test, train, val"),
        (["--query", "a red circle", "--corpus", "--video", "val-000001"], "--corpus looks in all videos"),
        (["--query", "a red circle", "--top_n", "3"], "--top_n is for --mode localize --corpus"),
        (["--query", "a red circle", "--data", "nowhere"], "nowhere does not exist"),
        (["--mode", "search", "--query", "a", "--corpus"], "--corpus is for --mode localize, not for search"),
        (["--mode", "eval", "--video", "val-000001"], "--video is for --mode localize, not for eval"),
    ],
)  # fmt: skip
def test_misuse_is_one_message(command, flags, message):
    with pytest.raises(SystemExit, match=message):
        command(*flags)


def changed(place, folder, change):
    """A copy of the prepared data with another prepared.json."""
    shutil.copytree(place / "root", folder)
    content = json.loads((folder / "prepared.json").read_text())
    change(content)
    (folder / "prepared.json").write_text(json.dumps(content))
    return folder


def test_features_of_others_are_refused(command, place, tmp_path):
    """Two backbones of equal width in another order look like the right data; and every other difference."""
    two = [{"name": "clip", "dim": 32, "normalise": "l2"}, {"name": "slowfast", "dim": 32, "normalise": "l2"}]
    backbones = lambda given: lambda content: content["moments"].update(backbones=given)
    root = changed(place, tmp_path / "two", backbones(two))
    moment_runs.make(place / "two", moment_runs.plan(root))
    ask = ["--query", "a red circle", "--split", "val", "--video", "val-000001"]
    assert "val-000001" in command(*ask, workdir="two").out
    other = [{**two[0], "name": "blip"}, two[1]], [two[0], {**two[1], "normalise": "none"}], [{**two[0], "dim": 64}]
    for number, given in enumerate((two[::-1], *other)):
        data = changed(place, tmp_path / str(number), backbones(given))
        with pytest.raises(SystemExit, match="has other features than the checkpoint was trained on: expected clip "):
            command(*ask, "--data", str(data), workdir="two")
    swapped = "expected clip .32, normalised: l2., slowfast .*; found slowfast .32, normalised: l2., clip "
    with pytest.raises(SystemExit, match=swapped):
        command(*ask, "--data", str(tmp_path / "0"), workdir="two")
    bare = changed(place, tmp_path / "bare", lambda content: content.update(moments=None))
    with pytest.raises(SystemExit, match="has no clips to find moments in; prepare features"):
        command(*ask, "--data", str(bare), workdir="two")


def test_a_run_of_another_task_is_refused(command, place):
    fields = dict(task="retrieval", model=dict(name="two_tower", dim=8, word_dim=8, text="mean"), evals={}, best="",
                  losses=dict(info_nce=dict(temperature=0.1)))  # fmt: skip
    moment_runs.make(place / "retrieval", moment_runs.plan(place / "root", **fields))
    with pytest.raises(SystemExit, match="config.task='retrieval': it ranks whole visuals"):
        command("--query", "a red circle", workdir="retrieval")


def test_other_data_in_pieces_of_what_was_trained_on(place):
    run = opened_run(place)
    own = run.config["data"] | {"split": "val"}
    assert finding.data(run, own) == own  # as in its evaluations
    assert finding.data(run, own | {"root": str(place / "root") + "/."})["buckets"] == [24]
    assert finding.data(run, own | {"root": str(place / "root") + "/.", "buckets": [9, 12]})["buckets"] == [9, 12]


def test_submission_has_the_numbers_of_the_evaluation(command, place, tmp_path):
    """The file, scored as any file, has every number of the run's evaluator; all texts in the official form."""
    out, truth = tmp_path / "hl_test_submission.jsonl", tmp_path / "truth.jsonl"
    assert "16 texts of split 'test'" in command("--split", "test", "--output", str(out)).out
    run = opened_run(place)
    with jax.set_mesh(tiles.one_device()):
        evaluators = train.make_evaluators(run.config, run.task, run.tokenizer, tiles.one_device())
        evaluator, _, split = evaluators["test"]
        wanted = evaluator.result(run.variables)["metrics"]
    vids = [split.names[v] for v in split.text_visual]
    lines = [split.timeline.truth(t) | {"query": split.texts[t], "vid": vids[t]} for t in range(split.n_texts)]
    truth.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scored = ["moments", "--predictions", str(out), "--ground_truth", str(truth), "--output", str(tmp_path / "s.json")]
    assert score.main(scored) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert moment_metrics.flatten(found) == wanted and len(wanted) > 20
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["qid"] for line in made] == split.timeline.text_names and [line["vid"] for line in made] == vids
    official = ["qid", "query", "vid", "pred_relevant_windows", "pred_saliency_scores"]
    assert all(list(line) == official and len(line["pred_saliency_scores"]) == 24 for line in made)
    starts = [start for line in made for start, _, _ in line["pred_relevant_windows"]]
    assert all(start % 2 == 0 for start in starts)  # whole clips, as protocol qvhighlights wants


def test_texts_without_windows_are_predicted_too(place):
    run = opened_run(place)
    split = finding.open_split(run, run.config["data"] | {"split": "test"})
    whole = submission.lines(run, split, tiles.one_device())
    at = split.timeline
    at.windows, at.annotated = [np.zeros((0, 2))] * split.n_texts, np.zeros(0, int)  # as labels kept back
    at.text_names = [str(100 + t) for t in range(split.n_texts)]
    again = submission.lines(run, split, tiles.one_device())
    assert [line["qid"] for line in again] == list(range(100, 116))
    assert [line | {"qid": 0} for line in again] == [line | {"qid": 0} for line in whole]


def test_ids_and_processing():
    assert submission.ids(["7", "12"]) == [7, 12] and submission.ids(["7", "s1_0"]) == ["7", "s1_0"]
    assert submission.ids(["007"]) == ["007"] and submission.ids(["²"]) == ["²"]
    last = lambda **options: submission.processing(options)
    assert last(protocol="tacos") is answers.PROCESSING["tacos"] and last(protocol="2dtan_tacos").clips is False
    assert last(protocol="tacos", processing="exact") is answers.PROCESSING["exact"]
    evals = dict(val=dict(name="moment", protocol="a"), test=dict(name="moment", protocol="b"), c=dict(name="corpus"))
    assert submission.evaluation(dict(evals=evals))["protocol"] == "b" and submission.evaluation(dict(evals={})) == {}


def test_a_model_that_is_not_finite_is_not_written(place, monkeypatch):
    run = opened_run(place)
    spoiled = run._replace(variables=jax.tree.map(lambda leaf: leaf * np.nan, run.variables))
    split = finding.open_split(run, run.config["data"] | {"split": "test"})
    with pytest.raises(ValueError, match="finds in test-0.* is NaN or infinite"):
        submission.lines(spoiled, split, tiles.one_device())
    with pytest.raises(ValueError, match="NaN or infinite"):
        finding.find(spoiled, split, ["a red circle"], [0], tiles.one_device())


def test_from_raw_videos_to_their_moments(tmp_path):
    """The chain of docs/moments.md: frames every 2 s → a model's feature of each → records of clips → moments."""
    mesh, raw = tiles.one_device(), tmp_path / "raw"
    raw.mkdir()
    for number, seconds in enumerate((9, 22)):  # one picture a second, none like the one before
        pictures = [PIL.Image.new("RGB", (40, 32), (9 * number, 10 * i, 255 - 10 * i)) for i in range(seconds)]
        pictures[0].save(raw / f"v{number}.gif", save_all=True, append_images=pictures[1:], duration=1000)
    prepare.prepare("folder", tmp_path / "frames", source=raw, options=dict(fps=0.5, most_frames=6000), progress=False)
    words = dict(kind="videos", train=16, val=8, test=8, size=32, length=3)
    prepare.prepare("scenes", tmp_path / "words", options=words, progress=False)
    tower = dict(image_size=32, patch=16, vision_width=16, vision_layers=1, vision_heads=2, text_width=16,
                 text_layers=1, text_heads=2, positions=16, dim=16)  # fmt: skip
    data = dict(name="scenes", root=str(tmp_path / "words"), split="train", visual="frames", frame_size=32)
    fields = dict(task="retrieval", evals={}, best="", losses=dict(info_nce=dict(temperature="model")), data=data,
                  model=dict(name="clip4clip", clip_sizes=tower))  # fmt: skip
    moment_runs.make(tmp_path / "clip", moment_runs.plan(tmp_path / "words", **fields))
    clip = opened.restore(tmp_path / "clip", mesh)
    frames = clip.config["data"] | {"root": str(tmp_path / "frames"), "split": "gallery"}
    with jax.set_mesh(mesh):
        gallery.features(clip, frames, None, tmp_path / "features", mesh)
    made = {name: np.load(tmp_path / "features" / f"{name}.npy") for name in ("v0.gif", "v1.gif")}
    assert [rows.shape for rows in made.values()] == [(5, 16), (11, 16)]
    texts = [{"text": "a red circle spins", "windows": [[2, 6]]}]
    lines = [{"media": name, "texts": texts, "duration": seconds} for name, seconds in zip(made, (9, 22), strict=True)]
    (raw / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = dict(features=f"clip={tmp_path / 'features'}", clip_length=2.0)
    content = prepare.prepare("folder", tmp_path / "mine", source=raw, options=options, progress=False)
    assert content["moments"]["backbones"] == [{"name": "clip", "dim": 16, "normalise": "l2"}]
    plan = moment_runs.plan(tmp_path / "mine", data=dict(name="folder", root=str(tmp_path / "mine"), split="train"),
                            evals={}, best="", batch_size=2)  # fmt: skip
    moment_runs.make(tmp_path / "run", plan, rows=2)
    run = opened.restore(tmp_path / "run", mesh)
    split = finding.open_split(run, run.config["data"])
    unit = made["v1.gif"].astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(split.record(1)["visual"], unit, atol=1e-3)
    short, long = finding.find(run, split, ["red"], finding.videos(split, ["v0.gif", "v1.gif"]), mesh)
    assert (short["duration"], long["duration"]) == (10, 22) and len(long["saliency"]) == 11
    assert all(0 <= start <= end <= 10 for start, end, _ in short["windows"])
