"""Counts of discordant pairs beside a loop over all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax.discordance import discordance, pairs


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (4, 31), (4, 32), (4, 33), (2, 97)])
@pytest.mark.parametrize("digits", [1, 9])
def test_counts(shape, digits):
    rng = np.random.default_rng(shape[1])
    scores, relevance = (rng.random(shape).round(digits).astype(np.float32) for _ in range(2))
    where = rng.random(shape) < 0.8
    for gap in (0.0, 0.1, 0.3, 2.0):
        better = (relevance[:, None, :] - relevance[:, :, None]) + np.float32(gap) < 0  # [Q, j, k], j better than k
        better &= where[:, None, :] & where[:, :, None]
        wrong = better & (scores[:, :, None] <= scores[:, None, :])
        found = jax.jit(discordance)(*map(jnp.asarray, (scores, relevance, where)), jnp.float32(gap))
        np.testing.assert_array_equal(found.too_high, wrong.sum(1))
        np.testing.assert_array_equal(found.too_low, wrong.sum(2))
        np.testing.assert_array_equal(found.pairs, better.sum((1, 2)))
        np.testing.assert_array_equal(pairs(jnp.asarray(relevance), jnp.asarray(where), gap), found.pairs)
