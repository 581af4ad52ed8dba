"""Text → video on 1,000 short clips of exercises, ten folds: the video models beside a linear baseline.

    python benchmarks/exercise.py --source FOLDER            runs what is missing, then writes runs/exercise/table.md
    python benchmarks/exercise.py --source FOLDER --list     only says what would run
    python benchmarks/exercise.py --source FOLDER --document runs nothing, writes from the cached rows
    python benchmarks/exercise.py --source FOLDER --dev      the same on the folds' dev clips, to choose settings by

FOLDER holds captions.jsonl (own-data form, one text a clip) and frames8_mbv2pca256.npz (8 frames a clip, 256 numbers
each). Fold of a clip: its place in the order of sha256(id), modulo 10, so that every fold has 100 clips; a fold's test
clips are those of this number, its dev clips those of the next one, all else is trained on, with the dev clips too once
the settings stand. Nothing is selected on the way: every run is measured at its last step.

The baseline: TF-IDF of words and pairs of words → ridge → mean frame feature, its λ chosen on dev. Vocabularies are of
the training texts alone, filled up to one size so that the folds share a compiled step. Names are alike ("smith reverse
calf raises" stands there twice), so no ranking could be perfect.

The settings of the models were chosen on the dev clips of folds 0 to 5, which are test clips of folds 1 to 6.
"""

import argparse
import hashlib
import json
import pathlib
import statistics

import claims_plan as plans
import claims_runs as runs
import numpy as np

FEATURES = "frames8_mbv2pca256.npz"
FOLDS = 10
WORDS = 520  # rows of the vocabulary, filled up
RIDGES = (0.1, 0.3, 1.0, 3.0)
METRICS = ("R@1", "R@5", "R@10", "medR")


def read(source: pathlib.Path) -> list[dict]:
    """The clips as the lines of captions.jsonl say, each with its `fold`."""
    lines = [json.loads(line) for line in (source / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    order = sorted(range(len(lines)), key=lambda i: hashlib.sha256(lines[i]["media"].encode()).hexdigest())
    for place, i in enumerate(order):
        lines[i]["fold"] = place % FOLDS
    return lines


def roles(lines: list[dict], fold: int, dev: bool) -> list[str]:
    """`train`, `test` or "" (left out) of each clip; with `dev` the dev clips are what is tested on."""
    shown = (fold + 1) % FOLDS if dev else fold
    return ["test" if line["fold"] == shown else "" if line["fold"] == fold else "train" for line in lines]


def write_fold(lines: list[dict], fold: int, dev: bool, data: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """The fold's own captions and its vocabulary in the field's form; (captions, vocabulary)."""
    from vlr_jax import files
    from vlr_jax.text import MARKS, split_words

    name = f"exercise-{'dev' if dev else 'test'}-{fold}"
    captions, vocabulary = data / f"{name}.jsonl", data / f"{name}-words.json"
    part = [(line, role) for line, role in zip(lines, roles(lines, fold, dev), strict=True) if role]
    rows = [{"media": line["media"], "texts": line["texts"], "split": role} for line, role in part]
    known = {w for line, role in part if role == "train" for w in split_words(line["texts"][0])}
    words = [*MARKS, *sorted(known)]
    words += [f"<free {i}>" for i in range(WORDS - len(words))]
    ids = {word: i for i, word in enumerate(words)}
    content = {"word2idx": ids, "idx2word": {str(i): word for word, i in ids.items()}, "idx": len(ids)}
    data.mkdir(parents=True, exist_ok=True)
    for path, text in ((captions, "".join(json.dumps(row) + "\n" for row in rows)), (vocabulary, json.dumps(content))):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            files.write(path, text)
    return captions, vocabulary


def recalls(scores: np.ndarray) -> dict[str, float]:
    """t2v metrics of a square matrix, rows are texts, the right ones on the diagonal; ties against the model."""
    from vlr_jax import metrics

    own = np.diag(scores)[:, None]
    found = metrics.retrieval((~(scores < own)).sum(1)[:, None])
    return {name: found[name] for name in METRICS}


def ridge(lines: list[dict], features: np.ndarray, roles: list[str], penalty: float) -> dict[str, float]:
    """The baseline on one fold. Features `[N, D]` are means over frames; targets are centred and of length 1."""
    from vlr_jax.text import split_words

    train, test = (np.array([role == name for role in roles]) for name in ("train", "test"))
    words = [split_words(line["texts"][0]) for line in lines]
    words = [one + [" ".join(pair) for pair in zip(one, one[1:], strict=False)] for one in words]
    known = {w: i for i, w in enumerate(sorted({w for one, t in zip(words, train, strict=True) if t for w in one}))}
    table = np.zeros((len(lines), len(known)))
    for row, one in zip(table, words, strict=True):
        np.add.at(row, [known[w] for w in one if w in known], 1)
    table *= np.log((1 + train.sum()) / (1 + (table[train] > 0).sum(0))) + 1
    table, target = (_unit(x) for x in (table, features - features[train].mean(0)))
    square = table[train].T @ table[train] + penalty * np.eye(len(known))
    weights = np.linalg.solve(square, table[train].T @ target[train])
    return recalls(_unit(table[test] @ weights) @ target[test].T)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def baseline(lines: list[dict], source: pathlib.Path, dev: bool) -> list[dict[str, float]]:
    """The ridge on every fold, λ by R@1 on the fold's dev clips."""
    with np.load(source / FEATURES, allow_pickle=False) as file:
        rows = dict(zip(file["ids"].tolist(), file["feat"].astype(np.float64).mean(1), strict=True))
    features, found = np.stack([rows[line["media"]] for line in lines]), []
    for fold in range(FOLDS):
        tried = {p: ridge(lines, features, roles(lines, fold, True), p) for p in RIDGES}
        best = max(tried, key=lambda p: tried[p]["R@1"])
        found.append(tried[best] if dev else ridge(lines, features, roles(lines, fold, False), best))
    return found


NCE = dict(info_nce=dict(temperature=0.07))
SMALL = dict(text="gru", dim=128, word_dim=128, visual_dropout=0.3, text_dropout=0.3)
MODELS = {  # key → title, model, losses, regularisers
    "two_tower": (
        "two towers, maximum over frames, bag of words",
        dict(name="two_tower", dim=1024, word_dim=512, text="mean", pool="max", visual_dropout=0.5, text_dropout=0.3,
             word_dropout=0.1),
        dict(info_nce=dict(temperature=0.1)),
        {},
    ),
    "meanp": ("CLIP4Clip meanP", dict(name="clip4clip", **SMALL | dict(visual_dropout=0.5)), NCE, {}),
    "seqtransf": (
        "CLIP4Clip seqTransf, 1 block",
        dict(name="clip4clip", temporal="transformer", temporal_layers=1, **SMALL),
        NCE,
        {},
    ),
    "wti": ("CLIP4Clip with WTI", dict(name="clip4clip", interaction="wti", **SMALL), NCE, {}),
    "prota": (
        "ProTA, without temporal blocks",
        dict(name="prota", temporal_layers=0, **SMALL),
        dict(adaptive_contrastive=dict(margin=0.2, temperature=0.05)),
        dict(kl=1e-3),
    ),
}  # fmt: skip
OPTIM = dict(name="adamw", lr=2e-3, decay=0.1, clip=1.0, schedule=dict(name="cosine", warmup=0.1), average=0.99)
STEPS, BATCH = 300, 100


def plan(lines: list[dict], options) -> list[plans.Configuration]:
    """Every model on every fold, one model after the other."""
    from vlr_jax import config as configs

    folds = [write_fold(lines, fold, options.dev, options.data) for fold in range(FOLDS)]
    found = []
    for key, (title, model, losses, regularisers) in MODELS.items():
        for fold, (captions, vocabulary) in enumerate(folds):
            data = dict(name="folder", root=str(captions.with_suffix("")), source=str(options.source), split="train",
                        options=dict(captions=str(captions.absolute()), features=FEATURES))  # fmt: skip
            evaluation = dict(name="retrieval", relevance="identity", examples=0, data=dict(split="test"))
            config = configs.complete(dict(
                data=data, text=dict(name="words", vocabulary=str(vocabulary), length=16), model=model, losses=losses,
                regularisers=regularisers, optim=OPTIM, batch_size=BATCH, steps=STEPS, log_every=50, threads=1,
                evals=dict(test=evaluation),
            ))  # fmt: skip
            found.append(plans.Configuration(f"{key}/{fold}", f"{title}, fold {fold}", config, 40))
    return found


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean ± standard deviation over the folds."""
    lines = [f"| text → video | {' | '.join(METRICS)} | folds |", "|---" * (len(METRICS) + 2) + "|"]
    for title, found in rows.items():
        cells = []
        for name in METRICS:
            values = [one[name] for one in found]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}")
        lines.append(f"| {title} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join(lines) + "\n"


def main():
    """Lists, runs what is missing, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=pathlib.Path, required=True, help="folder of captions.jsonl and the features")
    parser.add_argument("--dev", action="store_true", help="measure on the folds' dev clips, trained without them")
    parser.add_argument("--list", action="store_true", help="only list the runs")
    parser.add_argument("--only", nargs="*", choices=MODELS, default=[*MODELS], help="only these models")
    parser.add_argument("--document", action="store_true", help="run nothing, write from the rows that are cached")
    parser.add_argument("--folds", type=int, default=FOLDS, help="only the first so many folds")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("runs/exercise"), help="rows, one JSON each")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data"), help="gets the folders exercise-*")
    options = parser.parse_args()
    runs.begin(options.list)
    lines = read(options.source)
    parts = lambda c: c.key.split("/")  # model, fold
    made = [c for c in plan(lines, options) if parts(c)[0] in options.only and int(parts(c)[1]) < options.folds]
    todo = runs.told(made, 1, options.cache)
    if options.list:
        return
    if not options.document:
        runs.missing(todo, options.cache, "test/t2v_R@1")
    done, failed = runs.cached(made, 1, options.cache)
    rows = {"TF-IDF ridge on the mean frame": baseline(lines, options.source, options.dev)}
    for key in options.only:
        title = MODELS[key][0]
        found = [row[0]["metrics"] for name, row in done.items() if name.partition("/")[0] == key]
        if len(found) == options.folds:  # some folds alone are not comparable
            rows[title] = [{name: one[f"test/t2v_{name}"] for name in METRICS} for one in found]
    text = table(rows)
    path = options.cache / ("dev.md" if options.dev else "table.md")
    path.write_text(text, encoding="utf-8")
    print(text + (f"\nnot finite: {len(failed)} runs\n" if failed else "") + f"written: {path}")


if __name__ == "__main__":
    main()
