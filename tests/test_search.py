"""Tiles, ranking and search against full numpy matrices; integers, so that arithmetic is exact in any order."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vlr_jax import index, metrics, ranking, search, tiles
from vlr_jax.types import Encoded

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "evaluation.npz")


def dot(variables, visual, text):
    return {"sim": variables["scale"] * jnp.einsum("vd,td->vt", visual.pooled, text.pooled, precision="highest")}


ONE = {"scale": np.float32(1)}


def mesh(devices=8):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def embeddings(visuals=37, texts=101, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    return [Encoded(rng.integers(-3, 4, (n, dim)).astype(np.float32)) for n in (visuals, texts)]


def brute_force(scores, positive):
    """Positions of the positives, and ties, of every row."""
    positions, tied = [], []
    for row, own in zip(scores, positive, strict=True):
        levels = sorted(row[own], reverse=True) if not np.isnan(row[own]).any() else [np.nan] * own.sum()
        positions.append([1 + place + int((~(row[~own] < s)).sum()) for place, s in enumerate(levels)])
        tied.append(bool(len(levels) and (row[~own] == levels[0]).any()))
    return positions, tied


def check(found, expected):
    assert [[int(p) for p in row if p] for row in found.positions] == expected[0]
    assert found.tied.tolist() == expected[1]


def check_all(scores, text_visual, **where):
    """Every block size and mesh gives the positions of the whole matrix."""
    positive = np.zeros(scores.shape, bool)
    owners = np.asarray(text_visual).reshape(scores.shape[1], -1)
    for t, own in enumerate(owners):
        positive[own[own >= 0], t] = True
    v2t, t2v = search.rank_all(tiles.matrix(scores, **where), text_visual)
    check(v2t, brute_force(scores, positive))
    check(t2v, brute_force(scores.T, positive.T))


@pytest.mark.parametrize("block", [(10, 17), (64, 128), (1, 101)])
@pytest.mark.parametrize("devices", [1, 8])
def test_blockwise_is_full(block, devices):
    visual, text = embeddings()
    scores = visual.pooled @ text.pooled.T
    owner = np.random.default_rng(1).integers(0, 37, 101)  # any order, 0 to 7 texts a visual
    assert np.bincount(owner, minlength=37).min() == 0
    positive = np.arange(37)[:, None] == owner
    made = tiles.blocks(dot, ONE, visual, text, block=block, mesh=mesh(devices))
    assert made.block[0] % devices == 0
    v2t, t2v = search.rank_all(made, owner)
    check(v2t, brute_force(scores, positive))
    check(t2v, brute_force(scores.T, positive.T))
    for side, axis in ((v2t, 1), (t2v, 0)):  # the ranks that losses and monitors see
        best = np.asarray(ranking.ranks(jnp.asarray(scores), jnp.asarray(positive, jnp.float32), axis=axis))
        has = positive.any(axis)
        np.testing.assert_array_equal(side.positions[has, 0], best[has])
    whole = np.full((37, 101), np.nan, np.float32)
    for rows, columns, tile in made:
        assert tile.shape == made.block
        whole[rows, columns] = np.asarray(tile)[: rows.stop - rows.start, : columns.stop - columns.start]
    np.testing.assert_array_equal(whole, scores)
    for axis, full in ((1, scores), (0, scores.T)):
        strips = list(tiles.strips(made, axis=axis))
        np.testing.assert_array_equal(np.concatenate([s for _, s in strips]), full)
        assert [span.stop - span.start for span, _ in strips] == [len(s) for _, s in strips]


def test_texts_of_several_visuals():
    visual, text = embeddings(seed=2)
    owner = np.random.default_rng(2).permuted(np.tile(np.arange(37), (101, 1)), axis=1)[:, :3]
    owner[::2, 1:] = -1
    scores = visual.pooled @ text.pooled.T
    check_all(scores, owner, block=(16, 40))
    texts_of = search.positives_of(owner, 37)
    for v, texts in enumerate(texts_of):
        assert texts[texts >= 0].tolist() == np.flatnonzero((owner == v).any(1)).tolist()


def test_order_of_candidates_does_not_matter():
    visual, text = embeddings()
    owner = np.arange(101) % 37
    scores, order = visual.pooled @ text.pooled.T, np.random.default_rng(0).permutation(101)
    plain = search.rank_all(tiles.matrix(scores, block=(10, 17)), owner)
    moved = search.rank_all(tiles.matrix(scores[:, order], block=(10, 17)), owner[order])
    np.testing.assert_array_equal(plain[0].positions, moved[0].positions)
    np.testing.assert_array_equal(plain[1].positions[order], moved[1].positions)


@pytest.mark.parametrize("value", [0.5, np.nan, -np.inf, np.inf])
def test_collapsed_and_broken_models_rank_last(value):
    scores, owner = np.full((12, 60), value, np.float32), np.arange(60) // 5
    v2t, t2v = search.rank_all(tiles.matrix(scores, block=(5, 13)), owner)
    assert v2t.positions.tolist() == [[56, 57, 58, 59, 60]] * 12
    assert t2v.positions.tolist() == [[12]] * 60
    tied = 0.0 if np.isnan(value) else 1.0
    assert v2t.tied.mean() == t2v.tied.mean() == tied


def test_partly_broken_scores():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (12, 60)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = np.nan
    scores[rng.random(scores.shape) < 0.05] = -np.inf
    check_all(scores, np.arange(60) // 5, block=(5, 13))
    check_all(scores, np.arange(60) // 5, block=(5, 13), mesh=mesh())


def test_bad_ground_truth():
    made = tiles.matrix(np.zeros((4, 6), np.float32))
    for owner in (np.arange(5) % 4, np.full(6, 4), np.full(6, -1)):
        with pytest.raises(ValueError, match="expected 6 texts"):
            search.rank_all(made, owner)


def test_scores_of_few_bits_are_refused():
    def half(_, visual, text):
        return {"sim": jnp.zeros((len(visual.pooled), len(text.pooled)), jnp.bfloat16)}

    with pytest.raises(ValueError, match="bfloat16 .*expected float32"):
        search.rank_all(tiles.blocks(half, {}, *embeddings()), np.arange(101) % 37)


def official(name, kind="metrics"):
    return [GOLDEN[f"{name}/{direction}_{kind}"] for direction in ("i2t", "t2i")]


def measured(scores, owner):
    with jax.enable_x64(True):
        sides = search.rank_all(tiles.matrix(scores, block=(64, 300)), owner)
    return sides, [[metrics.retrieval(s.positions)[n] for n in ("R@1", "R@5", "R@10", "medR", "meanR")] for s in sides]


def test_official_numbers():
    visual, text = (GOLDEN[f"n200/{k}_emb"].astype(np.float64) for k in ("img", "cap"))
    sides, values = measured(visual @ text.T, np.arange(1000) // 5)
    for side, value, ranks, pessimistic, expected in zip(
        sides, values, official("n200", "ranks"), official("n200", "rank_pessimistic"), official("n200"), strict=True
    ):
        np.testing.assert_array_equal(side.positions[:, 0] - 1, ranks)
        np.testing.assert_array_equal(side.positions[:, 0] - 1, pessimistic)
        assert value == expected.tolist()
    assert sum(sum(v[:3]) for v in values) == GOLDEN["n200/rsum"]
    # The same from float32 embeddings through the model's path.
    encoded = [Encoded(GOLDEN[f"n200/{k}_emb"]) for k in ("img", "cap")]
    single = search.rank_all(tiles.blocks(dot, ONE, *encoded, block=(64, 300)), np.arange(1000) // 5)
    for side, ranks in zip(single, official("n200", "ranks"), strict=True):
        np.testing.assert_array_equal(side.positions[:, 0] - 1, ranks)


@pytest.mark.parametrize("name", ["ties", "collapsed"])
def test_official_scores_with_ties(name):
    sides, _ = measured(GOLDEN[f"{name}/sims"], np.arange(200) // 5)
    for side, pessimistic in zip(sides, official(name, "rank_pessimistic"), strict=True):
        np.testing.assert_array_equal(side.positions[:, 0] - 1, pessimistic)
        assert side.tied.mean() == 1.0 if name == "collapsed" else side.tied.mean() > 0


@pytest.mark.parametrize(("k", "block"), [(5, (10, 17)), (25, (10, 17)), (500, (64, 64))])
@pytest.mark.parametrize("axis", [0, 1])
def test_top_k_is_a_stable_sort(k, block, axis):
    visual, text = embeddings()
    scores = visual.pooled @ text.pooled.T
    scores[3, 5], scores[7] = np.nan, np.nan
    rows = np.where(np.isnan(scores), -np.inf, scores)
    rows = rows if axis == 1 else rows.T
    order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    found = search.top_k(tiles.matrix(scores, block=block, mesh=mesh(8 if k == 5 else 1)), k, axis=axis)
    np.testing.assert_array_equal(found[1], order)
    np.testing.assert_array_equal(found[0], np.take_along_axis(rows, order, 1))


def encoder(variables, batch):
    pooled = batch["x"] * variables["scale"]
    return Encoded(pooled, tokens=pooled[:, None], mask=batch["x"][:, :1] > 0, extra={"twice": 2 * pooled})


def batches(n=10, size=8):
    for start in range(0, n, size):
        rows = np.arange(start, start + size)
        yield {"x": np.where(rows < n, rows, 0)[:, None].astype(np.float32), "valid": rows < n}


@pytest.mark.parametrize("devices", [1, 8])
def test_encode_all_drops_padding(devices):
    encoded = tiles.encode_all(encoder, ONE, batches(), mesh=mesh(devices))
    assert isinstance(encoded.pooled, np.ndarray)
    np.testing.assert_array_equal(encoded.pooled[:, 0], np.arange(10))
    assert encoded.tokens.shape == (10, 1, 1) and encoded.mask.dtype == bool
    np.testing.assert_array_equal(encoded.extra["twice"][:, 0], 2 * np.arange(10))
    with pytest.raises(ValueError, match="nothing to encode"):
        tiles.encode_all(encoder, ONE, batches(0))


def gallery():
    visual, text = embeddings()
    tokens = np.ones((37, 2, 3), jnp.bfloat16)
    return Encoded(visual.pooled, tokens, np.ones((37, 2), bool), {"spread": visual.pooled}), text


def test_index_round_trip(tmp_path):
    encoded, text = gallery()
    names = [f"visual {i}" for i in range(37)]
    folder = index.build(tmp_path / "new" / "index", encoded, names, {"model": "abc"})
    opened = index.load(folder, expect={"model": "abc"})
    assert opened.names == names and opened.meta == {"model": "abc"}
    assert jax.tree.structure(opened.encoded) == jax.tree.structure(encoded)
    jax.tree.map(np.testing.assert_array_equal, opened.encoded, encoded)
    assert isinstance(opened.encoded.pooled, np.memmap)
    hits = index.query(dot, ONE, opened, text, 3, block=(10, 101))
    order = np.argsort(-(text.pooled @ encoded.pooled.T), axis=1, kind="stable")[:, :3]
    assert [[name for name, _ in row] for row in hits] == [[names[i] for i in row] for row in order]
    assert hits[0][0][1] == (encoded.pooled[order[0, 0]] * text.pooled[0]).sum()


def test_index_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    encoded, _ = gallery()
    names, folder = ["a"] * 37, tmp_path / "index"
    index.build(folder, encoded, names, {"model": 1})
    index.build(folder, encoded, names, {"model": 2})
    assert index.load(folder).meta == {"model": 2}

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        index.build(folder, encoded, names, {"model": 3})
    assert index.load(folder).meta == {"model": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_index_errors(tmp_path):
    encoded, _ = gallery()
    with pytest.raises(ValueError, match="36 names"):
        index.build(tmp_path / "index", encoded, ["a"] * 36, {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="not an index"):
        index.build(tmp_path / "mine", encoded, ["a"] * 37, {})
    assert (tmp_path / "mine" / "photo.jpg").exists()
    with pytest.raises(ValueError, match="not an index"):
        index.load(tmp_path / "mine")
    folder = index.build(tmp_path / "index", encoded, ["a"] * 37, {"model": "abc"})
    with pytest.raises(ValueError, match="model = 'abc', expected 'xyz'"):
        index.load(folder, expect={"model": "xyz"})
    (folder / "pooled.npy").unlink()
    with pytest.raises(ValueError, match="build it again"):
        index.load(folder)
    (folder / "index.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        index.load(folder)
