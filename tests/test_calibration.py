"""Raw scores as probabilities: the likelihood is at its top, whatever the scale, and ends are finite."""

import numpy as np
import pytest

from vlr_jax import calibration


def likelihood(scores, right, scale):
    """Mean log-likelihood of Platt's targets, by the formula."""
    n, m = right.sum(), (~right).sum()
    target = np.where(right, (n + 1) / (n + 2), 1 / (m + 2))
    p = 1 / (1 + np.exp(-(scale[0] * scores.astype(np.float64) + scale[1])))
    return np.mean(target * np.log(p) + (1 - target) * np.log(1 - p))


def drawn(seed=0, n=2000, scale=(2.0, -1.0)):
    rng = np.random.default_rng(seed)
    scores = rng.normal(-0.5, 1.5, n).astype(np.float32)
    return scores, rng.random(n) < 1 / (1 + np.exp(-(scale[0] * scores + scale[1])))


def test_the_top_of_the_likelihood_near_what_it_was_drawn_from():
    scores, right = drawn()
    found = calibration.fit(scores, right)
    assert found == pytest.approx((2, -1), abs=0.25)
    best = likelihood(scores, right, found)
    for step in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (0.1, 0.1), (-0.5, 0.3)):
        assert likelihood(scores, right, np.add(found, step)) < best
    # At the top the mean probability is the mean target.
    n, m = right.sum(), (~right).sum()
    mean = (n * (n + 1) / (n + 2) + m / (m + 2)) / (n + m)
    assert calibration.apply(scores, found).mean() == pytest.approx(mean, abs=1e-8)


def test_any_scale_and_offset_of_the_scores_gives_the_same_probabilities():
    scores, right = drawn(1, 300)
    wanted = calibration.apply(scores, calibration.fit(scores, right))
    for factor, offset in ((1e4, 0.0), (1e-4, 0.0), (-3.0, 7.0), (1.0, 100.0)):
        other = (factor * scores.astype(np.float64) + offset).astype(np.float32)
        found = calibration.apply(other, calibration.fit(other, right))
        np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_what_separates_wholly_or_not_at_all_stays_finite():
    scores, right = np.arange(10, dtype=np.float32), np.arange(10) > 5
    probabilities = calibration.apply(scores, calibration.fit(scores, right))
    assert (probabilities[6:] > 0.5).all() and (probabilities[:6] < 0.5).all()
    assert (np.diff(probabilities) > 0).all() and 0 < probabilities[0] and probabilities[-1] < 1
    a, b = calibration.fit(np.ones(10, np.float32), right)
    np.testing.assert_allclose(calibration.apply(np.ones(1), (a, b)), (4 * 5 / 6 + 6 / 8) / 10, atol=1e-6)
    assert calibration.fit(-scores, right)[0] < 0  # worse than none, and said so
    assert np.isfinite(calibration.apply(np.float32([-1e30, 1e30]), (1.0, 0.0))).all()


def test_nothing_to_fit():
    scores = np.arange(4, dtype=np.float32)
    for right in (np.zeros(4, bool), np.ones(4, bool)):
        assert calibration.fit(scores, right) is None
    assert calibration.fit(np.float32([0, np.nan, 1, 2]), scores > 1) is None
