"""Reference numbers: `golden/losses.npz`, keys `<file>/<input>/<case>/<dtype>/<loss|grad_S|...>`.

Those of files `inferred_...` are derived from the papers' text; the others were made by running the official codes. The
inputs are at `<input>/<S|R|v|t|v_text_emb|...>`; an input lists only what differs from B8. Of dtype `f64_emb` are those
whose scores are the products of the encodings v and t. `launch/golden_losses.py` makes the file.
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import relevance

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "losses.npz"


@pytest.fixture(scope="session")
def golden():
    """The whole archive as a dict."""
    with np.load(GOLDEN) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def golden_input(golden):
    """golden_input(source, key): the array `key` of an input, that of B8 where the input has none of its own."""
    return lambda source, key: golden[f"{source}/{key}" if f"{source}/{key}" in golden else f"B8/{key}"]


@pytest.fixture(scope="session")
def golden_relevance(golden, golden_input):
    """golden_relevance(source, name, dtype): a relevance function's matrix, `image` (cosine), `R` or `official`."""

    @functools.cache
    def matrix(source, name, dtype):
        def array(key):
            return jnp.asarray(golden_input(source, key), dtype)

        if name == "R":
            return array("R")
        if name == "official":
            return jnp.asarray(golden[f"sndcg/{source}/aux_relevance"], dtype)
        size = np.arange(len(array("image_emb")))
        if name == "image":
            return jnp.where(size[:, None] == size, 1.0, array("image_emb") @ array("image_emb").T)
        visual = dict(visual_id=size, visual_caption_vecs=array("v_text_emb"))
        return jax.jit(relevance.named(name))(visual, dict(visual_id=size, caption_vec=array("t_text_emb")))[0]

    return matrix


@pytest.fixture(scope="session")
def check_golden(golden, golden_input, golden_relevance):
    """check(file, pattern, total): loss and gradient of `total(S, *numbers of the case)` against every case.

    With `grades="caption"` (a name of `golden_relevance`) it is `total(S, R, *numbers)`. `total` may also give a dict
    of the loss and its parts, under their names in the file. float64 to 1e-9, float32 to 2e-5, the tolerances of the
    reference's authors; numeric gradients to 1e-7. `rounding(B, *numbers)` are absolute errors that the official code's
    own float64 has, of the value and of its gradient. Where an official number is NaN (0 / 0) there is nothing to
    compare with. Returns the number of cases.
    """

    def check(file, pattern, total, grades=None, rounding=lambda size, *numbers: (0.0, 0.0)):
        function = _with_gradient(total)
        count = 0
        for key in golden:
            match = re.fullmatch(f"{file}/(\\w+)/{pattern}/(f32|f64|f64_emb)/loss", key)
            if not match:
                continue
            source, *numbers, dtype = match.groups()
            numbers = [float(n) for n in numbers]
            with jax.enable_x64(dtype != "f32"):
                kind = jnp.float32 if dtype == "f32" else jnp.float64
                v, t = (
                    (jnp.asarray(golden_input(source, k), kind) for k in "vt") if dtype == "f64_emb" else (None, None)
                )
                scores = jnp.asarray(golden_input(source, "S"), kind) if v is None else v @ t.T
                matrices = [scores] + ([] if grades is None else [golden_relevance(source, grades, kind)])
                grad, found = function(*matrices, *(jnp.asarray(n, kind) for n in numbers))
                if dtype == "f32":  # where a gradient is large (1 / τ), so are the official code's own roundings
                    exact, steep = (dict(rtol=2e-5, atol=1e-6 * size) for size in (1.0, max(1.0, np.abs(grad).max())))
                else:
                    exact, steep = (dict(rtol=1e-9, atol=1e-12 + e) for e in rounding(len(scores), *numbers))
                found = {name: (value, exact) for name, value in found.items()}
                found |= {"grad_S": (grad, steep), "grad_S_numeric": (grad, dict(rtol=1e-6, atol=1e-7))}
                if v is not None:
                    found |= {"grad_v": (grad @ t, steep), "grad_t": (grad.T @ v, steep)}
            for name, (value, tolerance) in found.items():
                expected = golden.get(key[:-4] + name, np.nan)
                if not np.isnan(expected).any():
                    np.testing.assert_allclose(value, expected, **tolerance, err_msg=key[:-4] + name)
            count += 1
        return count

    return check


@functools.cache
def _with_gradient(total):
    """A `total` of `check_golden` → (gradient by S, dict of values), compiled once for all checks of it."""

    def parts(*arguments):
        values = total(*arguments)
        values = values if isinstance(values, dict) else {"loss": values}
        return values["loss"], values

    return jax.jit(jax.grad(parts, has_aux=True))


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
