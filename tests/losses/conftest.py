"""Reference numbers of the official codes: `golden/losses.npz`, keys `<file>/<input>/<case>/<dtype>/<loss|grad_S>`."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "losses.npz"


@pytest.fixture(scope="session")
def check_golden():
    """check(file, pattern, total): loss and gradient of `total(S, *numbers of the case)` against every case.

    float64 to 1e-9, float32 to 2e-5, the tolerances of the reference's authors.
    """
    with np.load(GOLDEN) as archive:
        golden = dict(archive)

    def check(file, pattern, total, rtol=1e-9):
        function = jax.jit(jax.value_and_grad(total))
        count = 0
        for key, loss in golden.items():
            match = re.fullmatch(f"{file}/(\\w+)/{pattern}/(f32|f64)/loss", key)
            if not match:
                continue
            source, *numbers, dtype = match.groups()
            with jax.enable_x64(dtype == "f64"):
                kind = jnp.float64 if dtype == "f64" else jnp.float32
                scores = jnp.asarray(golden[f"{source}/S"], kind)
                value, grad = function(scores, *(jnp.asarray(float(n), kind) for n in numbers))
            tolerance = dict(rtol=rtol, atol=1e-12) if dtype == "f64" else dict(rtol=2e-5, atol=1e-6)
            np.testing.assert_allclose(value, loss, **tolerance, err_msg=key)
            np.testing.assert_allclose(grad, golden[key[:-4] + "grad_S"], **tolerance, err_msg=key)
            count += 1
        return count

    return check


@pytest.fixture(scope="session")
def block():
    """A block that is not square, with several positives, none, and invalid pairs: scores, relevance, where."""
    rng = np.random.default_rng(3)
    scores = rng.uniform(-1, 1, (5, 7)).astype(np.float32)
    relevance = np.where(rng.random((5, 7)) < 0.3, 1.0, rng.uniform(0, 0.9, (5, 7))).astype(np.float32)
    where = rng.random((5, 7)) < 0.8
    relevance[2] = 0.5  # a visual without a positive
    return scores, relevance, where


@pytest.fixture(scope="session")
def check_twin(block):
    """check(loss, formula): `loss` on the block, both ways, beside `formula(positives, negatives)` in Python floats."""

    def check(loss, formula):
        scores, relevance, where = block
        for axis in (1, 0):
            values = loss(*(jnp.asarray(a) for a in (scores, relevance)), where=jnp.asarray(where), axis=axis)
            s, r, w = (a if axis == 1 else a.T for a in (scores, relevance, where))
            for q in range(len(s)):
                positives = [float(x) for x, y, z in zip(s[q], r[q], w[q], strict=True) if z and y == 1]
                negatives = [float(x) for x, y, z in zip(s[q], r[q], w[q], strict=True) if z and y < 1]
                expected = formula(positives, negatives) if positives else 0.0
                assert float(values[q]) == pytest.approx(expected, rel=1e-5, abs=1e-6), (axis, q)

    return check
