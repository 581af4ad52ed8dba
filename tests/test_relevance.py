"""relevance.py beside loops; a block is a part of the whole; exactly 1.0 on true pairs and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import relevance

rng = np.random.default_rng(0)
VISUAL = {
    "visual_id": np.array([4, 7, 4, 9], np.int32),
    "row": np.arange(4),
    "visual_facts": rng.random((4, 6)) < 0.6,
    "valid": np.ones(4, bool),
}
TEXT = {
    "visual_id": np.array([7, 4, 9, 9, 1], np.int32),
    "row": np.arange(5),
    "text_facts": rng.random((5, 6)) < 0.4,
    "valid": np.ones(5, bool),
}
VISUAL["visual_facts"][3], TEXT["text_facts"][4] = True, False  # a visual where all holds, a text that says nothing


def test_identity_and_diagonal():
    same, where = relevance.identity(VISUAL, TEXT)
    assert same.tolist() == (VISUAL["visual_id"][:, None] == TEXT["visual_id"]).astype(float).tolist()
    assert where.all() and where.shape == (4, 5)
    assert relevance.diagonal(VISUAL, TEXT)[0].tolist() == np.eye(4, 5).tolist()


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


@pytest.mark.parametrize("name", relevance.choices())
def test_any_block_and_jit(name):
    function = relevance.named(name)
    whole = function(VISUAL, TEXT)
    part = jax.jit(function)({k: x[1:3] for k, x in VISUAL.items()}, {k: x[2:] for k, x in TEXT.items()})
    for a, b in zip(whole, part, strict=True):
        assert (a[1:3, 2:] == b).all()


def test_errors_name_what_exists():
    with pytest.raises(ValueError, match="No relevance 'fact_share'; relevance.py has: diagonal, facts, identity"):
        relevance.named("fact_share")
    with pytest.raises(ValueError, match="'facts' needs 'text_facts'.*the rows have: row, visual_id"):
        relevance.facts(VISUAL, {"row": TEXT["row"], "visual_id": TEXT["visual_id"]})
