"""Spans: goldens of the official code, a NumPy twin, limits, gradients at the corners."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlr_jax import spans

GOLDEN = pathlib.Path(__file__).parent / "golden" / "moment_spans.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as archive:
        return dict(archive)


def twin(a, b):
    """IoU and generalised IoU of two intervals, in plain Python; NaN-free."""
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    hull = max(a[1], b[1]) - min(a[0], b[0])
    iou = inter / union if union > 0 else 0.0
    return iou, iou - ((hull - union) / hull if hull > 0 else 0.0)


def test_goldens_of_span_utils(golden):
    a, b = golden["span_utils/xx1"], golden["span_utils/xx2"]
    intersection, union = spans.overlap(a, b)
    found = {
        "cxw1": spans.xx_to_cxw(a),
        "xx1_back": spans.cxw_to_xx(golden["span_utils/cxw1"]),
        "iou": spans.iou(a, b),
        "union": union,
        "giou": spans.generalised_iou(a, b),
        "inter_over_pred": np.where(b[:, 1] > b[:, 0], intersection / (b[:, 1] - b[:, 0]), np.nan),  # 0 / 0 upstream
    }
    assert {f"span_utils/{name}" for name in found} | {"span_utils/xx1", "span_utils/xx2"} == {
        name for name in golden if name.startswith("span_utils")
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, golden[f"span_utils/{name}"], rtol=1e-6, atol=1e-6, err_msg=name)


def test_golden_of_numpy_evaluation(golden):
    with jax.enable_x64(True):
        found = spans.iou(golden["np_iou/a"], golden["np_iou/b"])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, golden["np_iou/cross_iou"], rtol=1e-12, atol=1e-15)


def test_twin_batched_jitted_and_paired():
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.integers(0, 9, (4, n, 2)), axis=-1).astype(np.float32) for n in (5, 3))
    expected = np.array([[[twin(x, y) for y in row_b] for x in row_a] for row_a, row_b in zip(a, b, strict=True)])
    np.testing.assert_allclose(jax.jit(spans.iou)(a, b), expected[..., 0], atol=1e-6)
    np.testing.assert_allclose(jax.vmap(spans.generalised_iou)(a, b), expected[..., 1], atol=1e-6)
    np.testing.assert_allclose(spans.paired_iou(a[:, :3], b), expected[:, range(3), range(3), 0], atol=1e-6)
    np.testing.assert_allclose(spans.paired_generalised_iou(a[:, :3], b), expected[:, range(3), range(3), 1], atol=1e-6)


def test_half_precision_is_computed_in_single():
    a = jnp.asarray([[0.25, 0.75]], jnp.bfloat16)
    for found in (spans.cxw_to_xx(a), spans.iou(a, a), spans.generalised_iou(a, a)):
        assert found.dtype == jnp.float32


def test_limits():
    unit = np.array([0.0, 1.0], np.float32)
    assert spans.paired_generalised_iou(unit, unit) == 1
    assert spans.paired_iou(unit, unit + 1) == 0  # touching
    assert spans.paired_generalised_iou(unit, unit + 1) == 0  # the hull is the union
    assert spans.paired_generalised_iou(unit, unit + 9) == pytest.approx(-0.8)  # 1 − 2 / 10 of the hull is empty


@pytest.mark.parametrize("function", [spans.paired_iou, spans.paired_generalised_iou])
def test_points_have_no_nan_in_value_or_gradient(function):
    point = jnp.array([0.5, 0.5])
    for other in (point, jnp.array([0.2, 0.8]), jnp.array([0.7, 0.7])):
        value, gradient = jax.value_and_grad(lambda a, b=other: function(a, b))(point)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    assert function(point, point) == 0


def test_touching_spans_attract():
    """The overlap's gradient at the border, as torch's clamp has it: 1, not 0."""
    gradient = jax.grad(lambda a: spans.paired_overlap(a, jnp.array([1.0, 2.0]))[0])(jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(gradient, [0, 1])


def test_round_trip():
    xx = np.random.default_rng(1).uniform(size=(6, 2)).astype(np.float32)
    np.testing.assert_allclose(spans.cxw_to_xx(spans.xx_to_cxw(xx)), xx, atol=1e-6)
