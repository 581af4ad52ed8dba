"""Slideshow videos of real photographs in the own-data form, and what a closed form finds in them.

    python benchmarks/slideshows.py make --slideshows FOLDER --flickr8k FLICKR8K --out SLIDES
    python benchmarks/slideshows.py closed_form --slides SLIDES --flickr8k FLICKR8K

FOLDER holds train.jsonl and dev.jsonl (lines as QVHighlights', with `clip_images`: [first clip, end clip, photograph]),
FLICKR8K captions.jsonl and features_global1280.npz. Pictures and sentences are real, **the timeline is made up**: hard
cuts between photographs that stand still, which a threshold on neighbouring clips finds.

`make`: each clip shows one photograph; its features are the photograph's, square-rooted (they are rectified), reduced
by a PCA of the training photographs, plus gaussian noise, anew for every clip, of `--noise` times the deviation of all
such numbers. The last `--held_out` training videos become the split val, which checkpoints are picked by. SLIDES gets
captions.jsonl and features.npz, which the configs `*_slideshows.py` prepare.

`closed_form`: TF-IDF → ridge on the features of the training photographs' captions; the video is cut where neighbouring
clips differ by more than `--cut` times the median difference; the answer is the segment whose mean feature has the
largest cosine with what the ridge expects. `--given` takes the true cuts, `--random` any segment.
"""

import argparse
import collections
import json
import pathlib

import numpy as np
import scipy.sparse

TERMS = 4000  # of the closed form: a system of so many equations is solved


def main() -> None:
    """Parses the command line and runs the subcommand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("make", "closed_form"))
    parser.add_argument("--flickr8k", type=pathlib.Path, required=True)
    parser.add_argument("--slideshows", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--slides", type=pathlib.Path)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--held_out", type=int, default=250)
    parser.add_argument("--cut", type=float, default=3.0)
    parser.add_argument("--ridge", type=float, default=1.0)
    parser.add_argument("--given", action="store_true")
    parser.add_argument("--random", action="store_true")
    options = parser.parse_args()
    if options.command == "make":
        make(options.slideshows, options.flickr8k, options.out, options.dim, options.noise, options.held_out)
    else:
        print(json.dumps(closed_form(options), indent=1))


def photographs(flickr8k: pathlib.Path) -> dict[str, np.ndarray]:
    """Name → square-rooted features of a photograph, float64."""
    with np.load(flickr8k / "features_global1280.npz", allow_pickle=False) as file:
        features = np.sqrt(np.maximum(file["feat"].astype(np.float64), 0))
        return dict(zip(file["names"].tolist(), features, strict=True))


def lines_of(path: pathlib.Path) -> list[dict]:
    """A JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def components(photos: dict[str, np.ndarray], flickr8k: pathlib.Path, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[D]` and the first `dim` directions `[D, dim]` of the training photographs."""
    train = [photos[line["media"]] for line in lines_of(flickr8k / "captions.jsonl") if line["split"] == "train"]
    mean = np.mean(train, axis=0)
    _, _, directions = np.linalg.svd(np.cov(np.array(train) - mean, rowvar=False))
    return mean, directions[:dim].T


def make(
    slideshows: pathlib.Path, flickr8k: pathlib.Path, out: pathlib.Path, dim: int, noise: float, held_out: int
) -> None:
    """Writes `captions.jsonl` and `features.npz` into `out`, which must not hold them yet."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / "features.npz").exists():
        raise SystemExit(f"{out} holds slides already")
    photos = photographs(flickr8k)
    mean, directions = components(photos, flickr8k, dim)
    reduced = {name: (row - mean) @ directions for name, row in photos.items()}
    spread, names, features, captions = np.std(list(reduced.values())), [], [], []
    for split in ("train", "dev"):
        videos = collections.defaultdict(list)
        for line in lines_of(slideshows / f"{split}.jsonl"):
            videos[line["vid"]].append(line)
        for place, (vid, queries) in enumerate(videos.items()):
            images, duration = queries[0]["clip_images"], queries[0]["duration"]
            clip = duration / images[-1][1]
            rows = np.concatenate([np.repeat(reduced[name][None], end - start, 0) for start, end, name in images])
            rng = np.random.default_rng(queries[0]["jitter_seed"])
            features.append((rows + noise * spread * rng.standard_normal(rows.shape)).astype(np.float16))
            names.append(vid)
            texts = [{"id": q["qid"], "text": q["query"], "windows": q["relevant_windows"]} for q in queries]
            shown = [[start * clip, end * clip, name] for start, end, name in images]
            named = "val" if split == "train" and place >= len(videos) - held_out else split
            captions.append({"media": vid, "split": named, "duration": duration, "texts": texts, "shown": shown})
    np.savez(out / "features.npz", names=np.array(names), feat=np.stack(features))
    with open(out / "captions.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in captions)
    print(f"{len(names)} slideshows in {out}, {dim} numbers a clip, noise {noise * spread:.3f}")


class TfIdf:
    """The most frequent words and pairs of words of training texts → unit rows."""

    def __init__(self, texts: list[str]):
        counts = collections.Counter(term for text in texts for term in set(self._terms(text)))
        self._ids = {term: i for i, (term, _) in enumerate(counts.most_common(TERMS))}
        self._idf = np.array([np.log(len(texts) / counts[term]) for term in self._ids])

    def _terms(self, text: str) -> list[str]:
        words = text.lower().split()
        return words + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]

    def __call__(self, texts: list[str]) -> scipy.sparse.csr_matrix:
        rows = [collections.Counter(self._ids[t] for t in self._terms(text) if t in self._ids) for text in texts]
        place = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        term = np.array([term for row in rows for term in row], int)
        count = np.array([n for row in rows for n in row.values()], float)
        matrix = scipy.sparse.csr_matrix((count * self._idf[term], (place, term)), (len(texts), len(self._ids)))
        length = np.sqrt(matrix.multiply(matrix).sum(1))
        return scipy.sparse.csr_matrix(matrix.multiply(1 / np.maximum(length, 1e-12)))


def ridge(x: scipy.sparse.csr_matrix, y: np.ndarray, weight: float) -> np.ndarray:
    """The map `[X, Y]` that is closest to y, its size paid with `weight`."""
    return np.linalg.solve((x.T @ x).toarray() + weight * np.eye(x.shape[1]), x.T @ y)


def segments(features: np.ndarray, cut: float) -> list[tuple[int, int]]:
    """(first clip, end clip) between the places where neighbouring clips differ much more than they usually do."""
    steps = np.linalg.norm(np.diff(features, axis=0), axis=1)
    edges = [0, *(np.flatnonzero(steps > cut * np.median(steps)) + 1), len(features)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def closed_form(options) -> dict[str, float]:
    """R1@0.5 and R1@0.7 on dev."""
    from vlr_jax import moment_metrics

    photos = photographs(options.flickr8k)
    mean, directions = components(photos, options.flickr8k, options.dim)
    train = [line for line in lines_of(options.flickr8k / "captions.jsonl") if line["split"] == "train"]
    texts = [text for line in train for text in line["texts"]]
    targets = np.array([(photos[line["media"]] - mean) @ directions for line in train for _ in line["texts"]])
    tfidf = TfIdf(texts)
    weights = ridge(tfidf(texts), targets / np.linalg.norm(targets, axis=1, keepdims=True), options.ridge)
    with np.load(options.slides / "features.npz", allow_pickle=False) as file:
        features = dict(zip(file["names"].tolist(), file["feat"].astype(np.float64), strict=True))
    rng, predictions, truths = np.random.default_rng(0), [], []
    for line in lines_of(options.slides / "captions.jsonl"):
        if line["split"] != "dev":
            continue
        rows, clip = features[line["media"]], line["duration"] / len(features[line["media"]])
        parts = segments(rows, options.cut)
        if options.given:
            parts = [(round(start / clip), round(end / clip)) for start, end, _ in line["shown"]]
        means = np.array([rows[start:end].mean(0) for start, end in parts])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        for text in line["texts"]:
            score = rng.random(len(parts)) if options.random else means @ (tfidf([text["text"]]) @ weights)[0]
            windows = [[parts[i][0] * clip, parts[i][1] * clip, float(score[i])] for i in np.argsort(-score)]
            same = {"qid": text["id"], "query": text["text"], "vid": line["media"]}
            predictions.append(same | {"pred_relevant_windows": windows})
            truths.append(same | {"duration": line["duration"], "relevant_windows": text["windows"]})
    return moment_metrics.evaluate(predictions, truths, "qvhighlights")["brief"]


if __name__ == "__main__":
    main()
