"""Ranking 5,000 visuals × 25,000 texts at D = 1024 into all metrics, against the per-query argsort of the field.

    python benchmarks/evaluation.py [--rounds 3]

Ours: `search.rank_all` and `metrics.retrieval`, both directions, complete. Theirs, in NumPy, in the way of VSE++
(`i2t`, `t2i`): for each image a product with all captions, an argsort, a search for its five captions; for each image's
five captions a product with all images and five argsorts; R@K and ranks only. It is timed on a sample of queries and
scaled up. A second line shows the other habit of the field, the whole matrix first, then an argsort per query.
Every round runs both, one after the other; medians over rounds; the ratio is printed last.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from vlr_jax import metrics, search, tiles
from vlr_jax.types import Encoded

VISUALS, EACH, DIM = 5000, 5, 1024
SAMPLE = 500  # visual queries, and as many text queries


def embeddings() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors `[V, D]` and `[V · EACH, D]`, each text near its visual; made in place, so that no copy counts."""
    rng = np.random.default_rng(0)
    visual, text = (rng.standard_normal((n, DIM), dtype=np.float32) for n in (VISUALS, VISUALS * EACH))
    visual /= np.linalg.norm(visual, axis=1, keepdims=True)
    for k in range(EACH):
        text[k::EACH] *= 0.25
        text[k::EACH] += visual
        text[k::EACH] /= np.linalg.norm(text[k::EACH], axis=1, keepdims=True)
    return visual, text


def similarity(_, visual, text):
    """Inner products in full float32."""
    return {"sim": jnp.einsum("vd,td->vt", visual.pooled, text.pooled, precision="highest")}


def ours(visual, text) -> tuple[search.Ranking, search.Ranking, dict]:
    """Everything, both directions."""
    scores = tiles.blocks(similarity, {}, Encoded(visual), Encoded(text))
    sides = search.rank_all(scores, np.arange(len(text)) // EACH)
    return *sides, metrics.both_directions(*(metrics.retrieval(side.positions) for side in sides))


def visual_queries(visual, text, sample, scores=None) -> np.ndarray:
    """0-based ranks in the way of VSE++ `i2t`: the best of the five captions by their places in the argsort."""
    ranks = np.zeros(len(sample))
    for place, index in enumerate(sample):
        row = np.dot(visual[index].reshape(1, -1), text.T).flatten() if scores is None else scores[place]
        order = np.argsort(row)[::-1]
        ranks[place] = min(np.where(order == i)[0][0] for i in range(EACH * index, EACH * index + EACH))
    return ranks


def text_queries(visual, text, sample, scores=None) -> np.ndarray:
    """0-based ranks in the way of VSE++ `t2i`: the five captions of an image at a time."""
    ranks = np.zeros(EACH * len(sample))
    for place, index in enumerate(sample):
        mine = slice(EACH * index, EACH * index + EACH)
        rows = np.dot(text[mine], visual.T) if scores is None else scores[:, EACH * place : EACH * place + EACH].T
        for k, row in enumerate(rows):
            order = np.argsort(row)[::-1]
            ranks[EACH * place + k] = np.where(order == index)[0][0]
    return ranks


def theirs(visual, text, rng) -> tuple[float, float, tuple]:
    """Seconds for all queries, scaled from a sample: per query, and with the matrix first. And the sampled ranks."""
    images = np.sort(rng.choice(VISUALS, SAMPLE, replace=False))
    owners = images[::EACH][: SAMPLE // EACH]
    start = time.perf_counter()
    of_visuals = visual_queries(visual, text, images)
    middle = time.perf_counter()
    of_texts = text_queries(visual, text, owners)
    end = time.perf_counter()
    per_query = (middle - start) * VISUALS / len(images) + (end - middle) * VISUALS / len(owners)

    start = time.perf_counter()
    rows = visual[images] @ text.T
    product = time.perf_counter() - start
    columns = visual @ text.reshape(VISUALS, EACH, DIM)[owners].reshape(-1, DIM).T
    start = time.perf_counter()
    visual_queries(visual, text, images, rows)
    middle = time.perf_counter()
    text_queries(visual, text, owners, columns)
    end = time.perf_counter()
    matrix_first = (product + middle - start) * VISUALS / len(images) + (end - middle) * VISUALS / len(owners)
    texts = (EACH * owners[:, None] + np.arange(EACH)).ravel()
    return per_query, matrix_first, (images, of_visuals, texts, of_texts)


def memory(kind: str) -> float:
    """MB of this process: `VmRSS` now, `VmHWM` at most so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(kind))


def main():
    """Runs and prints; the ratio last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    visual, text = embeddings()
    machine = f"{os.cpu_count()} cores, {jax.devices()[0].platform}, jax {jax.__version__}, numpy {np.__version__}"
    print(f"{VISUALS} visuals × {VISUALS * EACH} texts, D = {DIM}; {machine}")
    print(f"load average at the start {os.getloadavg()[0]:.1f}")
    jnp.zeros(1).block_until_ready()
    before = memory("VmRSS")
    start = time.perf_counter()
    v2t, t2v, values = ours(visual, text)
    first = time.perf_counter() - start
    above, whole = memory("VmHWM") - before, 4 * VISUALS * len(text) / 2**20
    print(f"memory: {before:.0f} MB with the embeddings, peak {above:.0f} MB above; the matrix would be {whole:.0f} MB")
    print(", ".join(f"{name} {value:.1f}" for name, value in values.items()))

    rng, times, queries, matrices = np.random.default_rng(1), [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        ours(visual, text)
        times.append(time.perf_counter() - start)
        per_query, matrix_first, (images, of_visuals, texts, of_texts) = theirs(visual, text, rng)
        queries.append(per_query)
        matrices.append(matrix_first)
        other = (v2t.positions[images, 0] - 1 != of_visuals).sum() + (t2v.positions[texts, 0] - 1 != of_texts).sum()
        scaled = f"(both scaled from {len(images)} + {len(texts)} queries; {other} of their ranks differ from ours)"
        print(
            f"ours {times[-1]:.2f} s; per-query argsort {per_query:.1f} s, matrix first {matrix_first:.1f} s {scaled}"
        )
    print(f"load average at the end {os.getloadavg()[0]:.1f}; the first call, with compilation, took {first:.1f} s")
    mine = statistics.median(times)
    print(f"ours {mine:.2f} s; matrix first, then argsort: {statistics.median(matrices) / mine:.1f} × as long")
    ratio = statistics.median(q / t for q, t in zip(queries, times, strict=True))
    print(f"per-query argsort {statistics.median(queries):.1f} s; ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
