"""relevance.py beside loops; a block is a part of the whole; exactly 1.0 on true pairs and nowhere else."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import relevance

rng = np.random.default_rng(0)
VISUAL = {
    "visual_id": np.array([4, 7, 4, 9], np.int32),
    "source_id": np.array([1, 2, 1, 2], np.int32),
    "row": np.arange(4),
    "visual_facts": rng.random((4, 6)) < 0.6,
    "visual_caption_vecs": rng.normal(size=(4, 3, 6)),
    "valid": np.ones(4, bool),
}
TEXT = {
    "visual_id": np.array([7, 4, 9, 9, 1], np.int32),
    "source_id": np.array([2, 1, 3, 2, 4], np.int32),
    "row": np.arange(5),
    "text_facts": rng.random((5, 6)) < 0.4,
    "caption_vec": rng.normal(size=(5, 6)),
    "valid": np.ones(5, bool),
}
VISUAL["visual_facts"][3], TEXT["text_facts"][4] = True, False  # a visual where all holds, a text that says nothing
TEXT["caption_vec"][0], TEXT["caption_vec"][3] = 7 * VISUAL["visual_caption_vecs"][0, 2], 0  # no true pair; no caption
GOLDEN = pathlib.Path(__file__).parent / "golden" / "losses.npz"


def test_identity_and_diagonal():
    same, where = relevance.identity(VISUAL, TEXT)
    assert same.tolist() == (VISUAL["visual_id"][:, None] == TEXT["visual_id"]).astype(float).tolist()
    assert where.all() and where.shape == (4, 5)
    assert relevance.diagonal(VISUAL, TEXT)[0].tolist() == np.eye(4, 5).tolist()


def test_moments_of_one_source_are_neither_right_nor_wrong():
    pair, where = relevance.moment(VISUAL, TEXT)
    for v in range(4):
        for t in range(5):
            assert float(pair[v, t]) == (v == t)
            assert bool(where[v, t]) == (v == t or VISUAL["source_id"][v] != TEXT["source_id"][t])


def test_facts():
    share = relevance.fact_share(VISUAL["visual_facts"], TEXT["text_facts"])
    grades, _ = relevance.facts(VISUAL, TEXT)
    assert jnp.any((share == 1) & (grades < 1))  # right in every fact, yet no true pair
    for v in range(4):
        for t in range(5):
            said = TEXT["text_facts"][t]
            expected = (VISUAL["visual_facts"][v] & said).sum() / max(said.sum(), 1)
            assert float(share[v, t]) == pytest.approx(expected)
            pair = VISUAL["visual_id"][v] == TEXT["visual_id"][t]
            assert (float(grades[v, t]) == 1.0) == pair
            assert pair or float(grades[v, t]) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "tolerance"), [("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 0.02)])
def test_captions(kind, tolerance):
    vectors = VISUAL["visual_caption_vecs"], TEXT["caption_vec"]
    with jax.enable_x64(kind == "float64"):
        own, said = (jnp.asarray(a, kind) for a in vectors)
        visual, text = VISUAL | {"visual_caption_vecs": own}, TEXT | {"caption_vec": said}
        cosines, where = relevance.caption_cosine(visual, text)
        scores, _ = relevance.caption(visual, text)
    assert cosines.dtype == scores.dtype == ("float64" if kind == "float64" else "float32") and where.all()
    lengths = np.linalg.norm(vectors[0], axis=2)
    for v in range(4):
        for t, vec in enumerate(vectors[1]):
            expected = max(vectors[0][v] @ vec / lengths[v] / (np.linalg.norm(vec) or 1))
            pair = VISUAL["visual_id"][v] == TEXT["visual_id"][t]
            assert float(cosines[v, t]) == pytest.approx(1 if pair else expected, abs=tolerance)
            assert float(scores[v, t]) == pytest.approx(1 if pair else (1 + expected) / 2, abs=tolerance)
            assert (float(cosines[v, t]) == 1.0) == (float(scores[v, t]) == 1.0) == pair


@pytest.mark.parametrize("file", ["sndcg", "lgloss", "rcloss_kendall"])
def test_captions_are_the_official_ones(file):
    with np.load(GOLDEN) as golden, jax.enable_x64():
        for source in ("B2", "B8", "B8_sameimage"):
            own, said = (jnp.asarray(golden[f"{source}/{side}_text_emb"], jnp.float64) for side in "vt")
            rows = np.arange(len(said))
            visual = dict(visual_id=rows, visual_caption_vecs=own)
            name = "caption" if file == "sndcg" else "caption_cosine"
            found, _ = relevance.named(name)(visual, dict(visual_id=rows, caption_vec=said))
            expected = golden[f"{file}/{source}/aux_relevance" + ("_text" if file == "rcloss_kendall" else "")]
            # rcloss_kendall was made from the unit vectors as they are in float32.
            np.testing.assert_allclose(found, expected, atol=2e-7 if file == "rcloss_kendall" else 1e-12)


def test_captions_never_hold_a_matrix_per_caption():
    shapes = {"visual_id": (512,), "visual_caption_vecs": (512, 5, 16)}, {"visual_id": (512,), "caption_vec": (512, 16)}
    rows = [
        {k: jax.ShapeDtypeStruct(s, jnp.int32 if k == "visual_id" else jnp.float32) for k, s in x.items()}
        for x in shapes
    ]
    memory = jax.jit(relevance.caption).lower(*rows).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 3.5 * 512 * 512 * 4


@pytest.mark.parametrize("name", relevance.choices())
def test_any_block_and_jit(name):
    function = relevance.named(name)
    whole = function(VISUAL, TEXT)
    part = jax.jit(function)({k: x[1:3] for k, x in VISUAL.items()}, {k: x[2:] for k, x in TEXT.items()})
    for a, b in zip(whole, part, strict=True):
        assert (a[1:3, 2:] == b).all()


@pytest.mark.parametrize("name", relevance.choices())
def test_what_is_read_is_told(name):
    ids = {"visual_id", "source_id", "row"}
    of_visual, of_text = relevance.READS.get(name, ("visual_id", "visual_id"))
    visual, text = (
        {k: x for k, x in rows.items() if k in ids | {key}} for rows, key in ((VISUAL, of_visual), (TEXT, of_text))
    )
    relevance.named(name)(visual, text)
    if name in relevance.READS:
        with pytest.raises(ValueError, match=f"needs '{of_text}'"):
            relevance.named(name)(visual, {k: x for k, x in text.items() if k != of_text})


def test_errors_name_what_exists():
    with pytest.raises(
        ValueError,
        match="No relevance 'fact_share'; relevance.py has: caption, caption_cosine, diagonal, facts, identity",
    ):
        relevance.named("fact_share")
    with pytest.raises(ValueError, match="'facts' needs 'text_facts'.*the rows have: row, visual_id"):
        relevance.facts(VISUAL, {"row": TEXT["row"], "visual_id": TEXT["visual_id"]})
    with pytest.raises(ValueError, match="'caption' needs 'visual_caption_vecs'.*the rows have: row"):
        relevance.caption({"row": VISUAL["row"]}, TEXT)
