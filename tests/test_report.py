"""The report: what the page holds, what it leaves out, and that it needs nothing from outside."""

import html.parser
import json
import re

import numpy as np
import pytest

from vlr_jax import curves, report

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


def workdir(tmp_path, *, results=None, points=3, tail=""):
    config = {"steps": 30, "model": {"name": "two_tower"}, "losses": {"hard": {"name": "triplet_hard", "margin": 0.2}}}
    lines = []
    for step in range(10, 10 * points + 1, 10):
        train = {"loss": 1 / step, "loss/hard/t2v": 0.2, "lr": 1e-3, "grad_norm": 1.0, "batch/positive": 0.5}
        lines.append({"step": step, "time": step / 2, **{f"train/{k}": v for k, v in train.items()}})
        lines.append({"step": step, "time": step / 2, "val/rsum": 10.0 * step, "val/t2v_R@1": 1.0, "val/v2t_tau": None})
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    if results:
        (tmp_path / "result.json").write_text(json.dumps({"step": 20, "evals": results}))
    return tmp_path


def thumb(name, position):
    assert name == "test"
    return {7: JPEG, 8: PNG, 9: None}[position]


def test_page_of_a_finished_run(tmp_path):
    path = report.write(workdir(tmp_path, results={"test": result()}), thumbs=thumb)
    assert path == tmp_path / "report.html"
    page = Page(path)
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
        assert part in page.text, part
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", path.read_text())
    assert titles[:3] == ["Training loss", "Sum of recalls (rsum)", "val: recall, %"]
    assert {"Learning rate", "Norms", "Similarities in the batch"} <= set(titles)
    assert not (tmp_path / "report.html.partial").exists()


def test_everything_is_escaped_and_nothing_comes_from_outside(tmp_path):
    page = Page(report.write(workdir(tmp_path, results={"test": result()}), thumbs=thumb))
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "link", "iframe", "object"} and ("b", {}) in page.tags
    assert "<b>cat</b>" not in (tmp_path / "report.html").read_text()
    sources = [attributes[key] for _, attributes in page.tags for key in ("src", "href", "srcset") if key in attributes]
    assert sources and all(re.match(r"data:image/(jpeg|png|svg\+xml);base64,", source) for source in sources)
    assert not re.search(r"https?://|url\(|@import", (tmp_path / "report.html").read_text())


def test_right_answers_are_marked_and_missing_thumbnails_are_names(tmp_path):
    text = report.write(workdir(tmp_path, results={"test": result()}), thumbs=thumb).read_text()
    items = re.findall(r"<li.*?</li>", text, re.DOTALL)[:3]
    assert "image/jpeg" in items[0] and 'class="right"' in items[0] and "✓ right" in items[0]
    assert "image/png" in items[1] and "right" not in items[1]
    assert "<img" not in items[2] and "<span>bird.png</span>" in items[2]


def test_queries_by_a_visual_show_texts(tmp_path):
    found = [{"visual": 8, "name": "a cat", "score": 0.5, "right": True}]
    example = {"query": "cat.jpg", "visual": 7, "direction": "v2t", "rank": 1, "kind": "best", "retrieved": found}
    page = Page(report.write(workdir(tmp_path, results={"test": result(examples=[example])}), thumbs=thumb))
    assert "Best queries on test, visual → text" in page.text and "a cat" in page.text and "Worst" not in page.text
    assert sum("image/jpeg" in a.get("src", "") for t, a in page.tags) == 1
    assert not any("image/png" in a.get("src", "") for t, a in page.tags)


def test_sections_without_numbers_are_left_out(tmp_path):
    bare = result(oracle=None, chance=None, examples=[], tied={}, protocol=None)
    page = Page(report.write(workdir(tmp_path, results={"test": bare}, points=1), thumbs=thumb))
    for absent in ("oracle", "chance", "Best queries", "Worst queries", "Curves", "tied", "protocol"):
        assert absent not in page.text
    assert "unfinished" in page.text and "41.5" in page.text
    (tmp_path / "result.json").unlink()
    assert "Results" not in Page(report.write(tmp_path, thumbs=thumb)).text
    (tmp_path / "config.json").unlink()
    page = Page(report.write(tmp_path, thumbs=thumb))
    assert "Configuration" not in page.text and "step 10" in page.text


def test_a_metric_that_is_not_finite_is_a_dash(tmp_path):
    found = result(metrics=result()["metrics"] | {"rsum": float("nan"), "t2v_tau": None})
    page = Page(report.write(workdir(tmp_path, results={"test": found}), thumbs=thumb))
    assert "41.500 – 41.5 oracle" in page.text and "rsum, all recalls together" not in page.text


def test_a_run_in_progress(tmp_path):
    page = Page(report.write(workdir(tmp_path, points=2, tail='{"step": 30, "time'), thumbs=thumb))
    assert "unfinished" in page.text and "step 20 of 30" in page.text and "Curves" in page.text


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
    ],
)
def test_place(name, chart):
    assert curves.place(name) == chart


def test_the_same_numbers_give_the_same_picture():
    series = {"t2v R@1": (np.arange(5), np.arange(5.0)), "v2t R@1": (np.arange(5), np.arange(5.0) ** 2)}
    assert curves.draw(series, {"oracle": 20.0}) == curves.draw(series, {"oracle": 20.0})
