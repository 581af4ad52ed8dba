"""ECCV Caption and CxC against brute force on a small gallery, and against the published package on random rankings."""

import json

import jax
import numpy as np
import pytest
from test_evaluator import Split, mesh, predict

from vlr_jax import extended, retrieved, search, tiles
from vlr_jax.evaluators.extended import Evaluator

VISUALS, EACH = 12, 3


def write(folder, lists, order, owner):
    """The files of the package: `lists[name] = (of images, of captions)`."""
    np.save(folder / extended.ORDER, np.array(order))
    (folder / extended.CAPTIONS).write_text(json.dumps({str(k): [v] for k, v in owner.items()}))
    for name, pair in lists.items():
        for file, content in zip(extended.FILES[name], pair, strict=True):
            (folder / file).write_text(json.dumps({str(k): v for k, v in content.items()}))


def make(folder):
    """Twelve images of three captions with ids in no order, and positives that the directions do not share."""
    rng = np.random.default_rng(3)
    images, captions = rng.permutation(900)[:VISUALS] + 100, rng.permutation(5000)[: VISUALS * EACH] + 1000
    owner = {int(c): int(images[n // EACH]) for n, c in enumerate(captions)}

    def some(queries, candidates, share):
        own = {q: [c for c in candidates if owner.get(c) == q or owner.get(q) == c] for q in queries}
        other = {q: rng.permutation(candidates)[: rng.integers(0, 4)].tolist() for q in queries}
        return {q: [*dict.fromkeys([*own[q], *other[q]])] for q in queries if rng.random() < share}

    images, captions = images.tolist(), captions.tolist()
    lists = {n: (some(images, captions, s), some(captions, images, s)) for n, s in (("eccv", 0.5), ("cxc", 1.0))}
    next(iter(lists["eccv"][0].values())).append(77)  # a caption that is not in the gallery
    write(folder, lists, captions, owner)
    return lists


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eccv")
    return folder, make(folder)


def brute_force(order, positives):
    """(R@1, R@5, R@10, mAP@R, R-Precision) of a ranked list, as their papers define them."""
    hits = [item in positives for item in order]
    r = len(positives)
    ap = sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r
    return [any(hits[:1]), any(hits[:5]), any(hits[:10]), ap, sum(hits[:r]) / r]


def expected(scores, known, lists):
    """The metrics by sorting whole rows; equal scores have the positives last."""
    ids, values = (known.visual_ids.tolist(), known.text_ids.tolist()), {}
    for name, sides in lists.items():
        for direction, side, queries in (("v2t", 0, sides[0]), ("t2v", 1, sides[1])):
            found = []
            for query, positives in queries.items():
                row = scores[ids[0].index(query)] if side == 0 else scores[:, ids[1].index(query)]
                keys = [(-s if s == s else np.inf, ids[1 - side][c] in positives) for c, s in enumerate(row)]
                order = [ids[1 - side][c] for c in sorted(range(len(row)), key=lambda c, keys=keys: keys[c])]
                found.append(brute_force(order, set(positives)))
            r1, r5, r10, ap, rp = 100 * np.mean(found, 0)
            more = (
                {"mAP@R": ap, "R-Precision": rp, "R@1": r1} if name == "eccv" else {"R@1": r1, "R@5": r5, "R@10": r10}
            )
            values |= {f"{direction}_{name}_{metric}": value for metric, value in more.items()}
    for metric in ("mAP@R", "R-Precision"):
        values[f"eccv_{metric}"] = (values[f"v2t_eccv_{metric}"] + values[f"t2v_eccv_{metric}"]) / 2
    return values | {"cxc_rsum": sum(v for k, v in values.items() if "_cxc_" in k)}


def measured(known, found):
    values = [extended.measure(name, sides) for name, sides in zip(known.truths, found, strict=True)]
    return {k: v for part in values for k, v in part.items()}


@pytest.mark.parametrize("kind", ["continuous", "ties", "nan"])
def test_brute_force(gallery, kind):
    folder, lists = gallery
    known, rng = extended.load(folder), np.random.default_rng(0)
    scores = rng.standard_normal((VISUALS, VISUALS * EACH)).astype(np.float32)
    scores += 2 * (np.arange(VISUALS)[:, None] == known.text_visual)
    if kind == "ties":
        scores = np.round(scores)
    if kind == "nan":  # of negatives only: a positive that is NaN spoils its query, see below
        everyone = {tuple(pair) for truth in known.truths.values() for side in truth for pair in side.tolist()}
        where = [(v, t) for v in range(VISUALS) for t in range(0, VISUALS * EACH, 5) if (v, t) not in everyone]
        scores[tuple(np.array(where).T)] = np.nan
    found = search.rank_each(tiles.matrix(scores, block=(5, 17)), list(known.truths.values()))
    if kind == "nan":  # NaN counts against the model: it is ahead of every positive
        scores = np.where(np.isnan(scores), np.inf, scores)
    assert measured(known, found) == pytest.approx(expected(scores, known, lists))


def test_several_truths_at_once_are_each_alone(gallery):
    known, rng = extended.load(gallery[0]), np.random.default_rng(1)
    scores = np.round(rng.standard_normal((VISUALS, VISUALS * EACH)), 1).astype(np.float32)
    scores[2, 6], scores[4, 1] = np.nan, np.nan
    plain = search.truth_of(known.text_visual, scores.shape)
    truths = [plain, *known.truths.values()]
    together = search.rank_each(tiles.matrix(scores, block=(5, 17)), truths)
    for truth, sides in zip(truths, together, strict=True):
        (alone,) = search.rank_each(tiles.matrix(scores, block=(5, 17)), [truth])
        for one, other in zip(sides, alone, strict=True):
            np.testing.assert_array_equal(one.positions, other.positions)
            np.testing.assert_array_equal(one.tied, other.tied)
            np.testing.assert_array_equal(one.best, other.best)


def test_positives_outside_the_gallery_are_never_found(gallery):
    known = extended.load(gallery[0])
    pairs = known.truths["eccv"].v2t
    query = pairs[pairs[:, 1] < 0, 0]
    assert len(query) == 1
    scores = np.zeros((VISUALS, VISUALS * EACH), np.float32)
    scores[tuple(pairs[pairs[:, 1] >= 0].T)] = 1
    side = search.rank_each(tiles.matrix(scores), [known.truths["eccv"]])[0][0]
    own = side.positions[query[0]]
    own = own[own > 0]
    assert own.tolist() == [*range(1, len(own)), VISUALS * EACH + 1]
    with pytest.raises(ValueError, match="not among 12 visuals and 36 texts"):
        search.rank_each(tiles.matrix(scores), [search.Truth(np.array([[0, 36]]), np.array([[0, 0]]))])


def test_the_published_package(shared_data, tmp_path):
    """Random rankings of the whole gallery; ours from scores, and from the package's own form of rankings."""
    package = pytest.importorskip("eccv_caption")
    known = extended.load(shared_data / "eccv_caption")
    assert (len(known.visual_ids), len(known.text_ids)) == (5000, 25000)
    assert extended.queries("eccv", known) == {"v2t": 1261, "t2v": 1332}
    assert extended.queries("cxc", known) == {"v2t": 5000, "t2v": 24972}
    rng, depth = np.random.default_rng(0), 60
    asked = {n: [np.unique(pairs[:, side]) for side, pairs in enumerate(t)] for n, t in known.truths.items()}
    places, lists = [], []
    ids = known.visual_ids, known.text_ids
    for side, (n, candidates) in enumerate(((5000, 25000), (25000, 5000))):
        table = rng.integers(0, candidates, (n, depth))
        for truth in known.truths.values():  # so that something is found
            pairs = truth[side][rng.permutation(len(truth[side]))[: len(truth[side]) // 2]]
            pairs = pairs[pairs[:, 1 - side] >= 0]
            table[pairs[:, side], rng.integers(0, 20, len(pairs))] = pairs[:, 1 - side]
        for row in table:  # distinct, in the order of first appearance
            row[:] = list(dict.fromkeys([*row.tolist(), *range(depth)]))[:depth]
        places.append(table.astype(np.int32))
        lists.append({int(q): ids[1 - side][row].tolist() for q, row in zip(ids[side], table, strict=True)})
    theirs = package.Metrics().compute_all_metrics(
        *lists, target_metrics=("eccv_map_at_r", "eccv_rprecision", "eccv_r1", "cxc_recalls"), Ks=(1, 5, 10)
    )
    sides = retrieved.Lists(*places)
    ours = measured(known, [retrieved.rank(sides, truth) for truth in known.truths.values()])
    names = {"eccv_map_at_r": "eccv_mAP@R", "eccv_rprecision": "eccv_R-Precision", "eccv_r1": "eccv_R@1",
             "cxc_r1": "cxc_R@1", "cxc_r5": "cxc_R@5", "cxc_r10": "cxc_R@10"}  # fmt: skip
    assert theirs.keys() == names.keys()
    for name, values in theirs.items():
        for direction, value in (("v2t", values["i2t"]), ("t2v", values["t2i"])):
            assert ours[f"{direction}_{names[name]}"] == pytest.approx(100 * value, rel=1e-12)
    assert 10 < ours["v2t_eccv_mAP@R"] < 90 and len(asked["eccv"][0]) == 1261
    np.savez(tmp_path / "ranks.npz", i2t=known.text_ids[places[0]], t2i=known.visual_ids[places[1]])
    again = retrieved.read(tmp_path / "ranks.npz", *ids)
    assert all(np.array_equal(a, b) for a, b in zip(again, sides, strict=True))


def test_restricted_rankings():
    """Texts of some visuals need not lie together: what is left is what ranking them alone gives."""
    rng = np.random.default_rng(0)
    scores, owner = rng.standard_normal((6, 18)), np.arange(18) % 6
    lists = retrieved.Lists(*(np.argsort(-side, 1).astype(np.int32) for side in (scores, scores.T)))
    visuals = np.array([1, 2, 4])
    texts = np.flatnonzero(np.isin(owner, visuals))
    part = scores[np.ix_(visuals, texts)]
    alone = retrieved.Lists(*(np.argsort(-side, 1) for side in (part, part.T)))
    found = retrieved.restrict(lists, visuals, texts)
    assert all(np.array_equal(a, b) for a, b in zip(found, alone, strict=True))
    cut = retrieved.Lists(np.where(np.arange(18) < 7, lists.v2t, -1), lists.t2v)
    kept = retrieved.restrict(cut, visuals, texts).v2t
    for row, (own, table) in enumerate(zip(alone.v2t, lists.v2t[visuals], strict=True)):
        count = int(np.isin(table[:7], texts).sum())
        assert kept[row][kept[row] >= 0].tolist() == own[:count].tolist() and (kept[row, count:] == -1).all()


def test_evaluator(gallery):
    folder, lists = gallery
    known, rng = extended.load(folder), np.random.default_rng(0)
    visual = rng.standard_normal((VISUALS, 8)).astype(np.float32)
    text = visual[known.text_visual] + rng.standard_normal((VISUALS * EACH, 8)).astype(np.float32)
    split = Split(visual, text, known.text_visual)
    evaluate = lambda: Evaluator(predict(), split=split, mesh=mesh(), files=str(folder), batch_size=16, block=(7, 25))
    variables = {"matrix": np.eye(8, dtype=np.float32)}
    evaluator = evaluate()
    result = evaluator.result(variables)
    assert result["order"] == "trust" and result["finite"] and list(result["chance"]) == evaluator.names()
    assert dict(evaluator.run(variables)) == result["metrics"]
    assert result["metrics"] == pytest.approx(expected(visual @ text.T, known, lists))
    assert result["queries"]["cxc"] == {"v2t": VISUALS, "t2v": VISUALS * EACH}
    split.names = [f"COCO_val2014_{i:012d}.jpg" for i in known.visual_ids]
    assert evaluate().order == "names"
    split.names[3:5] = split.names[4:2:-1]
    with pytest.raises(ValueError, match="in another order: 2 places differ, the first is 3"):
        evaluate()
    split.names[3] = "7.jpg"
    with pytest.raises(ValueError, match="or other images"):
        evaluate()
    split.text_visual = np.roll(split.text_visual, 1)
    with pytest.raises(ValueError, match="expected the 12 visuals and 36 texts"):
        evaluate()


def test_chance_is_the_mean_over_random_orders(gallery):
    known, rng, runs = extended.load(gallery[0]), np.random.default_rng(9), []
    for _ in range(150):
        scores = rng.standard_normal((VISUALS, VISUALS * EACH))
        lists = retrieved.Lists(np.argsort(-scores, 1), np.argsort(-scores.T, 1))
        runs.append(measured(known, [retrieved.rank(lists, truth) for truth in known.truths.values()]))
    for name in known.truths:
        for metric, value in extended.chance(name, known).items():
            found = [run[metric] for run in runs]
            assert np.mean(found) == pytest.approx(value, abs=4 * np.std(found) / np.sqrt(len(found)) + 0.3)


def test_damaged_files(gallery, tmp_path):
    folder, lists = gallery
    with pytest.raises(ValueError, match="lacks coco_test_ids.npy, original_caption_to_image.json"):
        extended.load(tmp_path)
    order, owner = np.load(folder / extended.ORDER), json.loads((folder / extended.CAPTIONS).read_text())
    owner = {int(k): v[0] for k, v in owner.items()}
    write(tmp_path, lists, np.roll(order, 1), owner)
    with pytest.raises(ValueError, match="one after the other"):
        extended.load(tmp_path)
    write(tmp_path, lists, [*order[:-1], 1], owner)
    with pytest.raises(ValueError, match="no image for 1 captions"):
        extended.load(tmp_path)
    write(tmp_path, lists | {"cxc": ({5: [6]}, {})}, order, owner)
    with pytest.raises(ValueError, match="cxc: image 5 .*not in the gallery"):
        extended.load(tmp_path)
    (tmp_path / extended.CAPTIONS).write_text("[1")
    with pytest.raises(ValueError, match="can't be read"):
        extended.load(tmp_path)


def test_truths_on_eight_devices(gallery):
    known, rng = extended.load(gallery[0]), np.random.default_rng(5)
    scores = np.round(rng.standard_normal((VISUALS, VISUALS * EACH)), 1).astype(np.float32)
    truths = list(known.truths.values())
    one, many = (search.rank_each(tiles.matrix(scores, mesh=mesh(n)), truths) for n in (1, len(jax.devices())))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_array_equal(a, b)
