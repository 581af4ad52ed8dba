"""The house's rules: who may import whom, what every room exports, file and function lengths."""

import ast
import compileall
import pathlib
import subprocess
import sys

import pytest

from vlr_jax.resolve import WORD, choices, resolve

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "vlr_jax"
REPO = PACKAGE.parent

# docs/architecture.md shows the same table.
ALLOWED = {
    "ranking": set(),
    "types": set(),
    "resolve": set(),
    "wordpiece": set(),
    "bpe": {"wordpiece"},
    "text": {"bpe", "wordpiece"},
    "media": set(),
    "animated": {"media"},
    "containers": set(),
    "workers": set(),
    "bigfile": set(),
    "raw": set(),
    "features": {"bigfile", "raw"},
    "jsonl": set(),
    "files": set(),
    "curves": set(),
    "world": set(),
    "config": {"files"},
    "log": {"files"},
    "grammar": {"world"},
    "motion": {"world"},
    "film": {"motion", "world"},
    "narration": {"grammar", "motion", "world"},
    "relevance": {"ranking"},
    "sorting": set(),
    "soft_ranks": {"ranking", "sorting"},
    "discordance": {"ranking", "sorting"},
    "losses": {"discordance", "ranking", "soft_ranks", "sorting"},
    "metrics": {"ranking"},
    "layers": {"layers"},
    "models": {"layers", "types"},
    "captions": set(),
    "mapped": {"captions"},
    "precomputed": {"captions", "features", "mapped", "media", "raw"},
    "released": {"features", "media", "precomputed"},
    "annotations": set(),
    "sentence": {"text"},
    "records": {"media", "text"},
    "sampling": set(),
    "video": {"animated", "containers", "media", "sampling"},
    "footage": {"annotations", "features", "media", "raw", "video", "workers"},
    "clips": {"annotations", "features", "footage", "media", "raw", "video"},
    "visuals": {"animated", "media", "video"},
    "batching": set(),
    "reading": {"media", "sampling"},
    "chunks": set(),
    "monitors": {"discordance", "ranking", "sorting"},
    "terms": {"chunks", "monitors", "ranking", "relevance", "resolve"},
    "protocols": set(),
    "sharding": set(),
    "tiles": {"types"},
    "search": {"tiles"},
    "extended": {"metrics", "search"},
    "retrieved": {"search"},
    "judgments": {"metrics"},
    "rescoring": set(),
    "given": {"tiles", "types"},
    "index": {"search", "tiles", "types"},
    "state": {"sharding"},
    "optim": {"config", "sharding"},
    "initial": {"config", "resolve"},
    "checkpoint": {"sharding", "state"},
    "weights": set(),
    "stop": set(),
    "pretrained": {"checkpoint", "weights"},
    "page": {"log"},
    "extract": {"features", "files", "tiles", "types"},
    "backbones": {"features", "media", "raw"},
    "buckets": set(),
    "calibration": set(),
    "highlights": set(),
    "moment_protocols": set(),
    "moments": set(),
    "page_retrieval": {"page"},
    "predictions": set(),
    "queries": {"annotations", "moments"},
    "saliency": {"ranking"},
    "spans": set(),
    "matching": {"spans"},
    "tasks": {"chunks", "matching", "ranking", "saliency", "spans", "terms"},
    "stories": {"grammar", "motion", "narration", "world"},
    "reel": {"stories", "world"},
    "summary": set(),
    "prepare": {"files", "records", "resolve", "sentence", "summary"},
    "suppression": set(),
    "answers": {"suppression"},
    "moment_metrics": {"highlights", "moment_protocols", "predictions", "suppression"},
    "score": {
        "extended", "files", "given", "judgments", "metrics", "moment_metrics", "moment_protocols", "protocols",
        "retrieved", "search",
    },
    "pieces": {"suppression"},
    "timed": {"annotations", "backbones", "features", "moments", "queries", "raw", "workers"},
    "own": {"backbones", "features", "jsonl", "moments", "raw", "timed"},
    "data": {
        "annotations", "clips", "features", "film", "grammar", "jsonl", "media", "moments", "motion", "narration",
        "own", "precomputed", "queries", "raw", "reel", "released", "stories", "timed", "video", "visuals",
        "workers", "world",
    },
    "timeline": {"reading"},
    "localize": {"batching", "pieces", "sharding", "timeline"},
    "split": {"batching", "buckets", "prepare", "reading", "text", "timeline"},
    "pipeline": {"prepare", "reading", "split", "text"},
    "timelines": {"curves", "media", "sampling"},
    "page_moment": {"moment_protocols", "page", "timelines"},
    "report": {"curves", "files", "page", "page_moment", "page_retrieval"},
    "compare": {"curves", "files", "page", "page_retrieval", "pipeline", "report", "text"},
    "train": {
        "batching", "checkpoint", "config", "files", "initial", "log", "optim", "pipeline", "report", "resolve",
        "sharding", "state", "stop",
    },
    "opened": {"checkpoint", "config", "initial", "pipeline", "sharding", "state", "text", "train"},
    "corpus": {"batching", "index", "localize", "opened", "search", "sharding", "tiles", "types"},
    "evaluators": {
        "answers", "calibration", "corpus", "extended", "judgments", "localize", "metrics", "moment_metrics",
        "moment_protocols", "predictions", "protocols", "relevance", "rescoring", "search", "sharding",
        "suppression", "tiles", "types",
    },
    "finding": {
        "answers", "calibration", "corpus", "localize", "pieces", "pipeline", "prepare", "sharding", "split",
        "text",
    },
    "gallery": {"batching", "extract", "finding", "index", "pipeline", "prepare", "sharding", "tiles"},
    "submission": {"answers", "files", "finding", "localize"},
    "main": {
        "config", "files", "finding", "gallery", "index", "opened", "prepare", "resolve", "sharding", "submission",
        "train",
    },
}  # fmt: skip
WITHOUT_JAX = (
    "text", "media", "features", "jsonl", "world", "grammar", "motion", "film", "narration", "records", "data.scenes",
    "data.folder", "data.coco",
    "data.msrvtt", "sentence", "prepare", "log", "config", "report",
    "stories", "reel", "moments", "queries", "backbones", "timed", "own", "summary", "timeline", "answers",
    "moment_metrics", "data.qvhighlights", "data.charades_sta", "data.tacos", "data.activitynet_moments",
)  # fmt: skip


def files():
    return sorted(p for p in PACKAGE.rglob("*.py") if p.stem != "__init__")


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vlr_jax":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlr_jax."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("vlr_jax.")}
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} has no line in the import table"
    assert imported(path) <= ALLOWED[room], f"{path.name} imports {imported(path) - ALLOWED[room]}"


def table() -> str:
    """The import table as docs/architecture.md shows it."""
    width = max(map(len, ALLOWED)) + 1
    return "\n".join(f"{room:{width}}→ {' '.join(sorted(needs)) or '-'}" for room, needs in ALLOWED.items())


def test_the_documented_table_is_this_one():
    assert table() in (REPO / "docs" / "architecture.md").read_text(), table()


def test_import_table_has_no_circle():
    done = set()
    while len(done) < len(ALLOWED):
        ready = {room for room, needs in ALLOWED.items() if room not in done and needs - {room} <= done}
        assert ready, f"circle among {sorted(set(ALLOWED) - done)}"
        done |= ready


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_lengths(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 320
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (path.stem, node.name) != ("train", "train"):
            assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name} is longer than 60 lines"


def test_every_room_file_exports_its_word():
    for room in WORD:
        for name in choices(room):
            assert resolve(room, name) is not None
    with pytest.raises(ValueError, match="models has: .*two_tower"):
        resolve("models", "twotower")
    with pytest.raises(ValueError, match="could not be imported"):
        resolve("losses", "no_such_package.file:loss")
    assert resolve("losses", "vlr_jax.losses:info_nce") is resolve("losses", "info_nce")


def test_documented_and_no_init_logic():
    for path in files():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert all(isinstance(n, ast.Expr | ast.ImportFrom | ast.Assign) for n in body), path


def test_compiles():
    for folder in ("vlr_jax", "configs", "benchmarks", "tests"):
        assert compileall.compile_dir(str(REPO / folder), quiet=1)


def test_ruff():
    for command in (["check"], ["format", "--check"]):
        run = subprocess.run([sys.executable, "-m", "ruff", *command, str(REPO)], capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


def test_data_workers_stay_light():
    code = "import sys\n" + "".join(f"import vlr_jax.{name}\n" for name in WITHOUT_JAX)
    code += "heavy = {'jax', 'torch', 'tensorflow'} & set(sys.modules)\nassert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_library_imports_without_torch_and_other_extras():
    names = [".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in files()]
    code = f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
    code += "heavy = {'torch', 'tensorflow', 'transformers', 'tokenizers', 'safetensors'} & set(sys.modules)\n"
    code += "assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)
