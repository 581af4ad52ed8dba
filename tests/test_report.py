"""The pages, of a run and of two: what they hold, what they leave out, and that they need nothing from outside."""

import html.parser
import json
import re

import numpy as np
import pytest
from test_timelines import example as timed

from vlr_jax import compare, curves, media, moment_metrics, moment_protocols, page, predictions, report

JPEG, PNG = b"\xff\xd8\xff\xe0 a jpeg", b"\x89PNG\r\n\x1a\n a png"
NAMES = ("v2t_R@1", "v2t_R@5", "v2t_R@10", "v2t_medR", "v2t_meanR", "v2t_NDCG@10", "v2t_tau", "v2t_mAP@R")


class Page(html.parser.HTMLParser):
    """Tags, their attributes, and the visible text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.shown = [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.shown).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] != "style":
            self.shown.append(data)


def result(**changes) -> dict:
    metrics = {name: 12.25 for name in NAMES} | {name.replace("v2t", "t2v"): 41.5 for name in NAMES} | {"rsum": 161.25}
    example = {"query": "a <script>alert('x')</script> & dog", "direction": "t2v", "rank": 1, "kind": "best"}
    found = [
        {"visual": 7, "name": "dog.jpg", "score": 0.75, "right": True},
        {"visual": 8, "name": "<b>cat</b>", "score": 0.5, "right": False},
        {"visual": 9, "name": "bird.png", "score": 0.25, "right": False},
    ]
    return {
        "metrics": metrics,
        "oracle": {name: 2 * value for name, value in metrics.items()},
        "chance": {name: 0.125 for name in metrics},
        "protocol": "flickr8k-1k",
        "visuals": 1000,
        "texts": 5000,
        "ids": "0123456789abcdef" * 4,
        "tied": {"v2t": 0.0, "t2v": 0.25},
        "truncated": 1234,
        "finite": False,
        "examples": [example | {"retrieved": found}, example | {"kind": "worst", "rank": 1234, "retrieved": found}],
    } | changes


def workdir(tmp_path, *, results=None, points=3, tail="", selected="val/rsum (split val)", **changes):
    config = {"steps": 30, "model": {"name": "two_tower"}, "losses": {"hard": {"name": "triplet_hard", "margin": 0.2}}}
    config |= changes
    tmp_path.mkdir(exist_ok=True)
    lines = []
    for step in range(10, 10 * points + 1, 10):
        train = {"loss": 1 / step, "loss/hard/t2v": 0.2, "lr": 1e-3, "grad_norm": 1.0, "batch/positive": 0.5}
        lines.append({"step": step, "time": step / 2, **{f"train/{k}": v for k, v in train.items()}})
        lines.append({"step": step, "time": step / 2, "val/rsum": 10.0 * step, "val/t2v_R@1": 1.0, "val/v2t_tau": None})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    if results:
        found = {"step": 20, "selected_on": selected, "evals": results}
        (tmp_path / "result.json").write_text(json.dumps(found))
    return tmp_path


def thumb(name, position):
    assert name == "test"
    return {7: JPEG, 8: PNG, 9: None}[position]


def test_page_of_a_finished_run(tmp_path):
    path = report.write(workdir(tmp_path, results={"test": result()}), thumbs=thumb)
    assert path == tmp_path / "report.html"
    shown = Page(path)
    for part in (
        f"{tmp_path.name} finished",
        "step 30 of 30",
        "model two_tower",
        "losses triplet_hard",
        "hard.margin 0.2",
        "Results on test checkpoint of step 20",
        "R@1 % R@5 % R@10 % medR meanR NDCG@10 τ mAP@R %",
        "text → visual model 41.5 41.5 41.5 41.5 41.5 41.500 41.500 41.5 oracle 83.0",
        "visual → text model 12.2",
        "50 % of oracle 322.5, chance 0.1",
        "protocol flickr8k-1k visuals 1,000 texts 5,000",
        "tied queries, text → visual 25 %",
        "truncated texts 1,234",
        "finite NO",
        "ids 0123456789ab",
        "right answer at rank 1,234",
        "a <script>alert('x')</script> & dog",
        "1. 0.750",
    ):
        assert part in shown.text, part
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", path.read_text())
    assert titles[:3] == ["Training loss", "Sum of recalls (rsum)", "val: recall, %"]
    assert {"Learning rate", "Norms", "Similarities in the batch"} <= set(titles)
    assert not (tmp_path / "report.html.partial").exists()


def test_everything_is_escaped_and_nothing_comes_from_outside(tmp_path):
    shown = Page(report.write(workdir(tmp_path, results={"test": result()}), thumbs=thumb))
    kinds = {tag for tag, _ in shown.tags}
    assert not kinds & {"script", "link", "iframe", "object"} and ("b", {}) in shown.tags
    assert "<b>cat</b>" not in (tmp_path / "report.html").read_text()
    sources = [
        attributes[key] for _, attributes in shown.tags for key in ("src", "href", "srcset") if key in attributes
    ]
    assert sources and all(re.match(r"data:image/(jpeg|png|svg\+xml);base64,", source) for source in sources)
    assert not re.search(r"https?://|url\(|@import", (tmp_path / "report.html").read_text())


def test_right_answers_are_marked_and_missing_thumbnails_are_names(tmp_path):
    text = report.write(workdir(tmp_path, results={"test": result()}), thumbs=thumb).read_text()
    items = re.findall(r"<li.*?</li>", text, re.DOTALL)[:3]
    assert "image/jpeg" in items[0] and 'class="right"' in items[0] and "✓ right" in items[0]
    assert "graded" not in items[0] and "Colour and number" not in text
    assert "image/png" in items[1] and "right" not in items[1]
    assert "<img" not in items[2] and "<span>bird.png</span>" in items[2]


def test_queries_by_a_visual_show_texts(tmp_path):
    found = [{"visual": 8, "name": "a cat", "score": 0.5, "right": True}]
    example = {"query": "cat.jpg", "visual": 7, "direction": "v2t", "rank": 1, "kind": "best", "retrieved": found}
    shown = Page(report.write(workdir(tmp_path, results={"test": result(examples=[example])}), thumbs=thumb))
    assert "Queries on test" in shown.text and "Best, visual → text" in shown.text
    assert "a cat" in shown.text and "Worst" not in shown.text
    assert sum("image/jpeg" in a.get("src", "") for t, a in shown.tags) == 1
    assert not any("image/png" in a.get("src", "") for t, a in shown.tags)


def test_grades_colour_what_was_retrieved(tmp_path):
    found = [
        {"visual": 7, "name": "dog", "score": 0.75, "right": False, "grade": 0.25},
        {"visual": 8, "name": "cat", "score": 0.5, "right": True, "grade": 1.0},
        {"visual": 9, "name": "cats", "score": 0.25, "right": False, "grade": 1 - 2**-24},
    ]
    example = {"query": "a cat", "direction": "t2v", "rank": 2, "kind": "sample", "retrieved": found}
    folder = workdir(tmp_path, results={"test": result(examples=[example])}, points=1)
    text = report.write(folder, thumbs=thumb).read_text()
    items = re.findall(r"<li.*?</li>", text, re.DOTALL)
    shown = ((0.25, "<b>0.25</b>"), (1.0, "<b>1.00 ✓ right</b>"), (1.0, "<b>0.99</b>"))
    for item, (grade, words) in zip(items, shown, strict=True):
        assert f"--grade: {page.shade(grade)[0]}" in item and words in item
    assert "the share of the text&#39;s facts that are true in the visual" in text and "Sample, text → visual" in text
    evals = {"test": {"relevance": "caption"}}
    caption = workdir(tmp_path, results={"test": result(examples=[example])}, points=1, evals=evals)
    assert "own captions" in report.write(caption, thumbs=thumb).read_text()
    origin = {"name": "caption_cosine", "origin": {"encoder": "tfidf:8", "dim": 8}}
    told = workdir(tmp_path, results={"test": result(examples=[example], relevance=origin)}, points=1)
    assert (
        "the best cosine of" in (text := report.write(told, thumbs=thumb).read_text()) and "vectors of tfidf:8" in text
    )


def test_shades_darken_steadily_and_words_on_them_are_readable():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    shades = [page.shade(grade) for grade in np.linspace(0, 1, 101)]
    light = [luminance(colour) for colour, _ in shades]
    assert np.all(np.diff(light) < 0) and light[0] > 0.9 and light[-1] < 0.02
    for (_, ink), ground in zip(shades, light, strict=True):
        levels = sorted((luminance(ink), ground))
        assert (levels[1] + 0.05) / (levels[0] + 0.05) >= 4.5  # WCAG AA
    assert page.shade(-1) == page.shade(0) and page.shade(7) == page.shade(1)


def test_selected_on_test_is_a_badge(tmp_path):
    shown = Page(report.write(workdir(tmp_path, results={"test": result()}, points=1), thumbs=thumb))
    assert "selected on val/rsum (split val)" in shown.text and "selected on test" not in shown.text
    folder = workdir(
        tmp_path, results={"test": result()}, points=3, selected="selected on test: test/rsum (split test)"
    )
    shown = Page(report.write(folder, thumbs=thumb))
    assert f"{tmp_path.name} finished selected on test step" in shown.text
    assert ("span", {"class": "badge warning"}) in shown.tags and "selected on test/rsum (split test)" in shown.text


def test_metrics_of_no_direction_are_shown(tmp_path):
    metrics = {"expert_tau_b": 0.5123, "coverage": 12.0}
    found = result(metrics=metrics, oracle={"expert_tau_b": 0.75}, chance=None, examples=[])
    shown = Page(report.write(workdir(tmp_path, results={"human": found}, points=1), thumbs=thumb))
    assert "model oracle expert_tau_b 0.512 0.750 coverage 12.0 –" in shown.text


def two(tmp_path, a, b, *, points=1, **changes):
    """What the page and the printed table say of two runs, and the warnings; `changes` are b's."""
    one = workdir(tmp_path / "a", results=a, points=points, batch_size=16)
    other = workdir(tmp_path / "b", results=b, points=points, **changes)
    runs = compare.read(one, other)
    shown = Page(compare.write(*runs, tmp_path / "compare.html"))
    return shown, compare.table(*runs), compare.warnings(*runs)


def sampled(rank, name, **changes):
    found = [{"visual": 7, "name": name, "score": 0.75, "right": False, "grade": 0.5}]
    example = {"query": "a <u>cat</u>", "text": 3, "direction": "t2v", "rank": rank, "kind": "sample"}
    return example | {"retrieved": found} | changes


def test_two_runs(tmp_path):
    better = result()["metrics"] | {"rsum": 170.5, "t2v_medR": 3.0, "v2t_NDCG@10": 12.125}
    alone = sampled(1, "only in one", kind="best", query="another")
    one, other = (
        result(finite=True, examples=[sampled(1, "of a"), alone]),
        result(finite=True, examples=[sampled(20, "of b")], metrics=better),
    )
    shown, printed, warned = two(tmp_path, {"test": one}, {"test": other}, points=3, seed=1, batch_size=8)
    for part in (
        "A a B b",
        "model two_tower two_tower",
        "rsum, all recalls together A 161.2 B 170.5 ▲ +9.2",
        "text → visual A 41.5 41.5 41.5 41.5",
        "B − A 0.0 0.0 0.0 ▲ −38.5 0.0 0.000",
        "▼ −0.125",
        "Configuration that differs",
        "seed – 1",
        "a step is 16 pairs in A and 8 in B",
        "Training loss · total",
        "val: recall, % · t2v R@1",
        "a <u>cat</u> A right answer at rank 1 of a 0.50 1. 0.750 B right answer at rank 20 of b 0.50",
        "No pictures",
    ):
        assert part in shown.text, part
    assert "only in one" not in shown.text and "model.name" not in shown.text and not warned
    assert re.search(r"rsum +161.2 +170.5 +\+9.2", printed) and "WARNING" not in printed
    sources = [attributes["src"] for _, attributes in shown.tags if "src" in attributes]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert not {"script", "link", "u"} & {tag for tag, _ in shown.tags}


def test_two_runs_that_do_not_compare(tmp_path):
    one = {"test": result(finite=True, examples=[sampled(1, "of a")]), "val": result()}
    other = result(ids="f" * 64, protocol="flickr8k-testA", visuals=500, texts=2500, examples=[sampled(1, "of b")])
    evals = {"test": {"data": {"split": "testA"}, "relevance": "caption"}}
    selected = "selected on test: test/rsum (split testA)"
    shown, printed, warned = two(tmp_path, one, {"test": other}, selected=selected, evals=evals)
    for part in (
        "B is selected on test, by test/rsum (split testA)",
        "picked in different ways: A by val/rsum (split val), B by test/rsum",
        "only A has the evaluation val",
        "test: other candidates (A 1,000 visuals, 5,000 texts; B 500 visuals",
        "protocol flickr8k-1k in A, flickr8k-testA in B",
        "split None in A, testA in B",
        "facts in A, caption in B",
        "scores of B are not numbers",
    ):
        assert any(part in words for words in warned) and part in shown.text and part in printed, part
    assert "not comparable" in shown.text and "The same queries" not in shown.text
    assert not re.search(r"[▲▼] [+−]", shown.text)


def test_other_grades_and_other_judgments_give_no_difference(tmp_path):
    """NDCG and tau by facts beside those by captions; agreement with more pairs beside that with fewer."""
    counts = {"used": 1352, "own": 80, "unknown": 0}
    judged = dict(metrics={"expert_tau_c": 0.5, "crowdflower_tau_b": 0.25}, chance=None, oracle=None, examples=[])
    one = {
        "test": result(finite=True, relevance={"name": "facts"}),
        "human": result(finite=True, judgments={"expert": counts, "crowdflower": counts}, **judged),
    }
    other = {
        "test": result(finite=True, relevance={"name": "caption", "origin": {"encoder": "tfidf"}}),
        "human": result(finite=True, judgments={"expert": counts | {"used": 7}, "crowdflower": counts}, **judged),
    }
    shown, printed, warned = two(tmp_path, one, other)
    assert warned == [
        "test: NDCG and tau are of other grades: facts in A, caption by tfidf in B",
        "human: other judgments, expert: 1,352 used, 80 own, 0 unknown in A; 7 used, 80 own, 0 unknown in B",
    ]
    lines = {line.split()[0]: line.split()[-1] for line in printed.splitlines() if line.strip()}
    assert [lines[key] for key in ("v2t_NDCG@10", "t2v_tau", "expert_tau_c")] == ["–"] * 3
    assert [lines[key] for key in ("v2t_R@1", "crowdflower_tau_b")] == ["0.0", "0.000"]
    assert all(words in shown.text for words in warned)
    shown, printed, warned = two(tmp_path, {"test": one["test"]}, {"test": one["test"]})
    assert not warned and re.search(r"v2t_NDCG@10 .* 0\.000", printed)


def test_evaluations_of_other_names_and_one_set_of_ids_belong_together(tmp_path):
    other = result(finite=True, metrics={"expert_tau_b": 0.5}, oracle=None, chance=None)
    shown, _, warned = two(tmp_path, {"test": result(finite=True)}, {"human": other, "testA": result(finite=True)})
    assert "Results on test and testA" in shown.text and warned == ["only B has the evaluation human"]


def test_two_runs_without_results_and_what_is_no_run(tmp_path, capsys):
    shown, _, warned = two(tmp_path, None, None)
    assert len(warned) == 2 and "Results" not in shown.text
    a, b = (str(tmp_path / name) for name in "ab")
    assert compare.main([a, b, "--output", str(tmp_path / "again.html")]) == 0
    assert "again.html" in capsys.readouterr().out and (tmp_path / "again.html").exists()
    assert compare.main([a, a]) == 2 and "the same run; name two" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert compare.main([a, str(tmp_path / "empty")]) == 2 and "holds no run" in capsys.readouterr().err
    (tmp_path / "x").mkdir()
    assert [run.name for run in compare.read(a, workdir(tmp_path / "x" / "a"))] == [f"{tmp_path.name}/a", "x/a"]


def test_sections_without_numbers_are_left_out(tmp_path):
    bare = result(oracle=None, chance=None, examples=[], tied={}, protocol=None)
    shown = Page(report.write(workdir(tmp_path, results={"test": bare}, points=1), thumbs=thumb))
    for absent in ("oracle", "chance", "Queries on", "Best,", "Worst,", "Curves", "tied", "protocol"):
        assert absent not in shown.text
    assert "unfinished" in shown.text and "41.5" in shown.text
    (tmp_path / "result.json").unlink()
    assert "Results" not in Page(report.write(tmp_path, thumbs=thumb)).text
    (tmp_path / "config.json").unlink()
    shown = Page(report.write(tmp_path, thumbs=thumb))
    assert "Configuration" not in shown.text and "step 10" in shown.text


def test_a_metric_that_is_not_finite_is_a_dash(tmp_path):
    found = result(metrics=result()["metrics"] | {"rsum": float("nan"), "t2v_tau": None})
    shown = Page(report.write(workdir(tmp_path, results={"test": found}), thumbs=thumb))
    assert "41.500 – 41.5 oracle" in shown.text and "rsum, all recalls together" not in shown.text


def test_a_run_in_progress(tmp_path):
    shown = Page(report.write(workdir(tmp_path, points=2, tail='{"step": 30, "time'), thumbs=thumb))
    assert "unfinished" in shown.text and "step 20 of 30" in shown.text and "Curves" in shown.text


def test_a_folder_without_a_run_and_a_broken_file_are_errors(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        report.write(tmp_path, thumbs=thumb)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ValueError, match="result.json"):
        report.write(tmp_path, thumbs=thumb)
    assert not (tmp_path / "report.html").exists()


def test_long_curves_are_thinned_out_and_keep_their_spikes():
    steps, values = np.arange(10_000), np.random.default_rng(0).normal(size=10_000)
    values[7001] = 99.0
    x, y = curves.thin(steps, values)
    assert len(x) <= curves.POINTS and x[0] == 0 and x[-1] == 9_999 and np.all(np.diff(x) > 0)
    assert y.max() == 99.0 and y.min() == values.min() and np.array_equal(y, values[x])
    few = np.arange(3), np.ones(3)
    assert curves.thin(*few) is not few and np.array_equal(curves.thin(*few)[0], few[0])
    assert len(curves.draw({"loss": (steps, values)}, {})) < 120_000


def test_smooth_keeps_a_constant_and_averages():
    assert np.allclose(curves.smooth(np.ones(9), 5), 1.0)
    assert np.allclose(curves.smooth(np.arange(9.0), 3)[1:-1], np.arange(1.0, 8.0))


@pytest.mark.parametrize(
    "name, chart",
    [
        ("train/loss", ("Training loss", "total")),
        ("train/loss/hard/t2v", ("Training loss", "hard, t2v")),
        ("train/loss/span_l1", ("Training loss", "span_l1")),
        ("train/loss/span_l1_0", ("Losses of earlier decoder layers in training", "span l1, 0")),
        ("train/loss/saliency_rank", ("Losses of saliency in training", "rank")),
        ("train/lr", ("Learning rate", "")),
        ("train/lr/text", ("Learning rate", "text")),
        ("train/update_norm", ("Norms", "updates")),
        ("train/batch/negative", ("Similarities in the batch", "hardest negatives")),
        ("train/batch/t2v_R@1", ("In the batch, %", "t2v R@1")),
        ("train/batch/selhn_t2v_mined_hard", ("In the batch, %", "selhn t2v mined hard")),
        ("train/batch/v2t_smooth_NDCG", ("Graded relevance in the batch", "v2t smooth NDCG")),
        ("train/batch/t2v_tau", ("Graded relevance in the batch", "t2v tau")),
        ("train/batch/t2v_delta", ("Right pairs less hardest negatives in the batch", "t2v")),
        ("train/embedding_grad/text", ("Norms of the gradient on the embeddings", "text")),
        ("train/regulariser/kl", ("In training: regulariser", "kl")),
        ("train/steps_per_second", (None, "")),
        ("val/rsum", ("Sum of recalls (rsum)", "val")),
        ("val/t2v_R@10", ("val: recall, %", "t2v R@10")),
        ("val/v2t_NDCG@10", ("val: graded relevance", "v2t NDCG@10")),
        ("val/t2v_medR", (None, "")),
        ("val/loss", ("val: further numbers", "loss")),
        ("val/MR-full-R1@0.7", ("val: moments, %", "R1@0.7")),
        ("val/MR-full-R1@0.75", (None, "")),
        ("val/MR-short-mAP", ("val: moments by length, mAP %", "short")),
        ("val/HL-min-VeryGood-Hit1", ("val: highlights, VeryGood, %", "HIT@1")),
        ("val/HL-min-Fair-mAP", (None, "")),
    ],
)
def test_place(name, chart):
    assert curves.place(name) == chart


def test_the_same_numbers_give_the_same_picture():
    series = {"t2v R@1": (np.arange(5), np.arange(5.0)), "v2t R@1": (np.arange(5), np.arange(5.0) ** 2)}
    assert curves.draw(series, {"oracle": 20.0}) == curves.draw(series, {"oracle": 20.0})


def moments(protocol="qvhighlights", shift=0.0, kinds=("best", "sample"), **changes) -> dict:
    """A result as `evaluators/moment.py` gives it, of two texts with saliency; `timed` is its example of each kind."""
    truth, lines = [], []
    for qid, start in (("a", 4.0), ("b", 12.0)):
        video = {"qid": qid, "query": "q", "vid": "v", "duration": 24.0}
        grades = {"relevant_clip_ids": [int(start // 2)], "saliency_scores": [[4, 4, 3]]}
        truth.append(video | {"relevant_windows": [[start, start + 6.0]]} | grades)
        windows = [[start + shift, start + shift + 6.0, 0.9], [0.0, 20.0, 0.5]]
        lines.append(video | {"pred_relevant_windows": windows, "pred_saliency_scores": [*map(float, range(12))]})
    measured = moment_metrics.measure(predictions.check(lines, truth), moment_protocols.protocol(protocol))
    return {
        "metrics": moment_metrics.flatten(measured),
        "brief": measured["brief"],
        "protocol": protocol,
        "visuals": 250,
        "texts": 1550,
        "unlabelled": 3,
        "ids": "0123456789abcdef" * 4,
        "truncated": 0,
        "notes": {"saliency is shorter than its video: <padded> with 0": 17},
        "calibration": [2.5, -0.75],
        "finite": True,
        "examples": [timed(kind=kind) for kind in kinds],
    } | changes


def nothing(name, position):
    return None


def test_page_of_moments(tmp_path):
    folder = workdir(tmp_path, results={"te st": moments()}, task="moment")
    path = report.write(folder, thumbs=nothing)
    shown, text = Page(path), path.read_text()
    for part in (
        "R1@0.5 100.00 % first windows with IoU ≥ 0.5",
        "R1@0.7 100.00 % first windows with IoU ≥ 0.7",
        "highlight HIT@1 0.00 %",
        "length R1@0.5 R1@0.7 mAP mAP@0.5 mAP@0.75",
        "full 100.00 100.00 100.00 100.00 100.00 short 0–10 s 100.00 100.00 100.00 100.00 100.00 middle 10–30 s – – –",
        "highlights, at least mAP HIT@1 Fair",
        f"All {len(moments()['metrics'])} numbers",
        "protocol qvhighlights videos 250 texts 1,550 without windows, not evaluated 3",
        "saliency is shorter than its video: <padded> with 0 17",
        "P(relevant) σ(2.5 · saliency −0.75)",
        "Queries on te st",
        "Best whose first window fits a true one best",
        "a <u>dog</u> & a cat <b>v</b> · 24 s · context moved by",
        "IoU 0.60",
        "alignment of each clip with the text",
    ):
        assert part in shown.text, part
    assert not {"script", "link", "u"} & {tag for tag, _ in shown.tags} and "<u>" not in text
    assert not re.search(r"https?://|url\(|@import", text) and "NO:" not in shown.text
    assert re.search(r'<td class="brief" title="MR-short-mAP">100.00', text)
    assert re.search(r'<td title="MR-short-R1@0.5">100.00', text)
    assert all(f'title="{name}"' in text for name in moments()["metrics"])


def test_timelines_are_told_to_those_who_do_not_see_them(tmp_path):
    path = report.write(workdir(tmp_path, results={"te st": moments(), "val": moments()}), thumbs=nothing)
    shown, text = Page(path), path.read_text()
    drawn = [attributes for tag, attributes in shown.tags if tag == "svg"]
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(drawn) == 4 and len(ids) == len(set(ids)) == 8
    for attributes in drawn:
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split(" ")) <= set(ids)
    assert "True: 2.0 to 6.0 s, 18.0 to 24.0 s. Predicted: 2.0 to 8.0 s (score 0.90), 12.0 to 62.0 s" in text
    assert "“a &lt;u&gt;dog&lt;/u&gt; &amp; a cat” in &lt;b&gt;v&lt;/b&gt;" in text
    assert text.count('class="window first"') == 4 and text.count('class="true"') == 4 * 2 + 2
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))


def test_timelines_show_frames_or_else_the_thumbnail(tmp_path):
    folder = workdir(tmp_path, results={"test": moments(kinds=("worst",))})
    jpegs = [media.encode_jpeg(np.full((30, 40, 3), 20 * i, np.uint8)) for i in range(10)]
    asked = []
    frames = lambda name, position: asked.append((name, position)) or jpegs
    text = report.write(folder, thumbs=thumb, frames=frames).read_text()
    assert text.count("<image ") == text.count("data:image/jpeg") == 8 and asked == [("test", 7)]
    text = report.write(folder, thumbs=thumb).read_text()
    assert "<image " not in text and text.count('<img src="data:image/jpeg') == 1


def test_the_last_evaluation_that_has_examples_is_open(tmp_path):
    without = moments(kinds=()) | {"brief": {}}
    folder = workdir(tmp_path, results={"val": moments(kinds=("best",)), "corpus": without}, points=1)
    text = report.write(folder, thumbs=nothing).read_text()
    assert re.search(r"<details[^>]* open", text)
    folder = workdir(tmp_path / "none", results={"corpus": without}, points=1)
    assert not re.search(r"<details[^>]* open", report.write(folder, thumbs=nothing).read_text())


@pytest.mark.parametrize("protocol", moment_protocols.PROTOCOLS)
def test_moments_of_every_protocol(tmp_path, protocol):
    found = moments(protocol)
    path = report.write(workdir(tmp_path, results={"test": found}, points=1), thumbs=nothing)
    shown, text = Page(path), path.read_text()
    brief = [name.removesuffix("-key") for name in found["brief"]]
    assert all(f'title="{name}"' in text for name in (*found["metrics"], *brief))
    assert set(re.findall(r'class="brief" title="([^"]+)"', text)) == set(brief)
    assert ("mIoU" in shown.text) == moment_protocols.protocol(protocol).mean_iou
    assert shown.text.count("R1@0.5 100.00 %") == 1


def test_moments_without_saliency_examples_and_finite_numbers(tmp_path):
    metrics = {name: value for name, value in moments()["metrics"].items() if not name.startswith("HL")}
    bare = dict(examples=[], calibration=None, notes={}, unlabelled=0, finite=False)
    found = moments(metrics=metrics, brief={"MR-full-mAP": 1.0, "MR-long-mAP": None}, **bare)
    shown = Page(report.write(workdir(tmp_path, results={"test": found}, points=1), thumbs=nothing))
    for absent in ("highlights, at least", "HIT@1", "P(relevant)", "not evaluated", "Queries on"):
        assert absent not in shown.text
    assert "NO: windows, scores or saliency are not numbers" in shown.text and "long 30–150 s –" in shown.text


def test_retrieval_and_moments_of_one_run(tmp_path):
    """A moment model that also finds the video."""
    both = {"test": result(examples=[]), "moments": moments()}
    shown = Page(report.write(workdir(tmp_path, results=both, task="moment"), thumbs=nothing))
    assert "text → visual, R@1" in shown.text and "Queries on moments" in shown.text


def test_two_moment_runs(tmp_path):
    one = {"test": moments(), "val": result(finite=True, examples=[])}
    other = {"test": moments(shift=2.5, kinds=("worst", "sample")), "val": moments(examples=[])}
    shown, printed, warned = two(tmp_path, one, other, points=3)
    for part in (
        "R1@0.5 A 100.00 B 0.00 ▼ −100.00",
        "full A 100.00",
        "short 0–10 s A 100.00",
        "▼ −100.00",
        "highlight mAP highlight HIT@1 Fair",
        f"All {len(moments()['metrics'])} numbers by their official names A B B − A HL-min-Fair-mAP",
        "The same queries on test",
        "A IoU 0.60 B IoU 0.60",
        "A: context moved by",
    ):
        assert part in shown.text, part
    drawn = [attributes for tag, attributes in shown.tags if tag == "svg"]
    assert len(drawn) == 1
    assert [a["class"] for tag, a in shown.tags if tag == "g"] == ["model a", "model b"]
    assert warned == ["only A has the evaluation val", "only B has the evaluation val"]
    assert re.search(r"MR-full-R1@0.5 +100.00 +0.00 +−100.00", printed)


def test_a_moment_run_and_a_retrieval_run_are_not_compared(tmp_path, capsys):
    a = workdir(tmp_path / "a", results={"test": moments()}, task="moment")
    b = workdir(tmp_path / "b", results={"test": result()}, task="retrieval")
    for pair in ((a, b), (b, a)):
        with pytest.raises(ValueError, match="a run of task .*, . of task .*name two runs of one task"):
            compare.read(*pair)
    assert compare.main([str(a), str(b), "--output", str(tmp_path / "no.html")]) == 2
    assert "a is a run of task moment, b of task retrieval" in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()
    for folder in (a, b):  # without their configs, what was evaluated tells
        (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="task moment, b of task retrieval"):
        compare.read(a, b)


def test_curves_of_moments_are_few():
    names = [*moments()["metrics"], *moments("charades_sta")["metrics"]]
    found = {curves.place(f"val/{name}") for name in names} - {(None, "")}
    assert {title for title, _ in found} == {
        "val: moments, %",
        "val: moments by length, mAP %",
        "val: highlights, VeryGood, %",
    }
    assert {label for title, label in found if title == "val: moments, %"} == {*curves.MOMENTS}
    lines = [{"step": step} | {f"val/{name}": 1.0 for name in names} for step in (1, 2)]
    assert 3 == len(list(curves.charts(lines, {})))
    heads = [title for title, _, head in curves.overlays({"A": lines, "B": lines}) if head]
    assert heads[0] == "val: moments, % · mAP" and "val: highlights, VeryGood, % · HIT@1" in heads and len(heads) == 5
