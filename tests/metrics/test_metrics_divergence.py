"""Divergence and entropy against hand-worked examples, SciPy, and what must hold for any two distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from lm_eval_moe.metrics import entropy, js_divergence, normalized_entropy, normalized_js_divergence

LN2 = math.log(2)


@st.composite
def distribution_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two stacks of distributions, with exact zeros, one-hot rows and values down to 1e-300 among them."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 12)))
    weights = st.one_of(st.just(0.0), st.floats(1e-300, 1.0), st.floats(0.1, 1.0))
    pair = []
    for _ in range(2):
        raw = draw(hnp.arrays(np.float64, shape, elements=weights))
        raw[~raw.any(axis=-1), draw(st.integers(0, shape[1] - 1))] = 1.0
        raw /= raw.max(axis=-1, keepdims=True)
        pair.append(raw / raw.sum(axis=-1, keepdims=True))
    return pair[0], pair[1]


def test_js_of_disjoint_rows_is_ln_2() -> None:
    assert js_divergence([1, 0, 0], [0, 0.5, 0.5]) == pytest.approx(LN2, abs=1e-15)


def test_js_hand_worked() -> None:
    # p = (1/2, 1/2), q = (1, 0), m = (3/4, 1/4):
    # KL(p||m) = 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3); KL(q||m) = ln(4/3); JS = 3/4 ln(4/3).
    expected = 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)) + 0.5 * math.log(4 / 3)
    assert expected == pytest.approx(0.75 * math.log(4 / 3))
    assert float(js_divergence([0.5, 0.5], [1, 0])) == pytest.approx(expected, abs=1e-15)


def test_normalized_js_hand_worked() -> None:
    # The same p and q: H(p) = ln 2, H(q) = 0, so the gap is ln 2 - ln 2 / 2 = ln 2 / 2.
    expected = 0.75 * math.log(4 / 3) / (LN2 / 2)
    assert float(normalized_js_divergence([0.5, 0.5], [1, 0])) == pytest.approx(expected, abs=1e-14)


def test_normalized_js_of_two_different_experts_is_ln_2_over_ln_e() -> None:
    one, other = np.eye(8)[2], np.eye(8)[5]
    assert float(normalized_js_divergence(one, other)) == pytest.approx(LN2 / math.log(8), abs=1e-15)


def test_normalized_js_of_uniform_rows_is_zero_not_nan() -> None:
    uniform = np.full(16, 1 / 16)
    assert normalized_js_divergence(uniform, uniform) == 0


def test_the_floor_holds_the_denominator_at_1e_6() -> None:
    # Rows so flat that ln E - H is about 1e-10: without the floor the ratio would be of order 1.
    bump = 1e-5
    p, q = np.array([0.5 + bump, 0.5 - bump]), np.array([0.5 - bump, 0.5 + bump])
    assert float(normalized_js_divergence(p, q)) == pytest.approx(jensenshannon(p, q) ** 2 / 1e-6, rel=1e-4)


def test_entropy_hand_worked() -> None:
    assert float(entropy([0.5, 0.25, 0.25, 0])) == pytest.approx(1.5 * LN2, abs=1e-15)
    assert float(normalized_entropy([0.5, 0.25, 0.25, 0])) == pytest.approx(0.75, abs=1e-15)


@pytest.mark.parametrize("experts", [2, 8, 128])
def test_entropy_bounds_are_reached(experts: int) -> None:
    assert entropy(np.eye(experts)[0]) == 0
    assert not np.signbit(entropy(np.eye(experts)[0]))
    assert float(normalized_entropy(np.full(experts, 1 / experts))) == pytest.approx(1, abs=1e-15)


def _scipy(p: Any, q: Any) -> Any:
    """Return SciPy's divergence; of equal distributions, it may take the root of a rounding error below zero."""
    return np.nan_to_num(jensenshannon(p, q, axis=-1)) ** 2


@given(distribution_pairs())
def test_js_equals_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = pair
    np.testing.assert_allclose(js_divergence(p, q), _scipy(p, q), rtol=0, atol=1e-12)


@given(distribution_pairs())
def test_normalized_js_equals_its_formula_in_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = pair
    gap = math.log(p.shape[-1]) - 0.5 * (scipy_entropy(p, axis=-1) + scipy_entropy(q, axis=-1))
    expected = _scipy(p, q) / np.maximum(gap, 1e-6)
    np.testing.assert_allclose(normalized_js_divergence(p, q), expected, rtol=0, atol=1e-8)


@given(distribution_pairs())
def test_entropy_equals_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(entropy(pair[0]), scipy_entropy(pair[0], axis=-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("measure", "upper"), [(js_divergence, LN2), (normalized_js_divergence, 1.0)])
@given(pair=distribution_pairs())
def test_divergences_are_symmetric_bounded_and_zero_on_equality(measure, upper, pair) -> None:
    p, q = pair
    forth, back = measure(p, q), measure(q, p)
    np.testing.assert_array_equal(forth, back)
    assert ((forth >= 0) & (forth <= upper)).all()
    np.testing.assert_array_equal(measure(p, p), np.zeros(len(p)))


@pytest.mark.parametrize("measure", [js_divergence, normalized_js_divergence])
@given(pair=distribution_pairs(), seed=st.integers(0, 2**32 - 1))
def test_divergences_do_not_depend_on_the_order_of_experts(measure, pair, seed) -> None:
    p, q = pair
    order = np.random.default_rng(seed).permutation(p.shape[-1])
    np.testing.assert_allclose(measure(p[:, order], q[:, order]), measure(p, q), rtol=0, atol=1e-9)


def test_divergence_tells_different_rows_apart() -> None:
    assert js_divergence([0.6, 0.4], [0.4, 0.6]) > 0


def test_leading_axes_broadcast() -> None:
    rng = np.random.default_rng(0)
    items, reference = rng.dirichlet(np.ones(8), size=(5, 3)), rng.dirichlet(np.ones(8), size=3)
    together = js_divergence(items, reference)
    assert together.shape == (5, 3)
    one_by_one = [[jensenshannon(items[i, j], reference[j]) ** 2 for j in range(3)] for i in range(5)]
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=1e-12)


def test_float32_rows_are_computed_in_float64() -> None:
    p = np.random.default_rng(1).dirichlet(np.ones(64), size=2).astype(np.float32)
    result = js_divergence(p[0], p[1])
    assert result.dtype == np.float64
    exact = p.astype(np.float64)
    assert float(result) == pytest.approx(jensenshannon(exact[0], exact[1]) ** 2, abs=1e-12)


def test_no_layers_give_no_values() -> None:
    assert js_divergence(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([1.5, -0.5], HALF, r"p holds negative values \(smallest -0\.5\)"),
        (HALF, [float("nan"), 1.0], "q holds NaN or infinite values"),
        (HALF, [float("inf"), 1.0], "q holds NaN or infinite values"),
        ([3, 5], HALF, "p is not a distribution over the last axis: a row sums to 8, not to 1"),
        ([[0.5, 0.5], [0.5, 0.4]], HALF, r"a row sums to 0\.9, not to 1"),
        (HALF, [0.0, 0.0], "q has a row of zeros: no tokens were counted there"),
        ([[0.5, 0.5], [0, 0]], HALF, "p has a row of zeros"),
        ([1.0], [1.0], r"p has shape \(1,\): the last axis holds the experts, at least 2"),
        (1.0, HALF, r"p has shape \(\): the last axis holds the experts"),
        (HALF, [0.5, 0.25, 0.25], r"p has shape \(2,\), q has shape \(3,\): the last axes, the experts, differ"),
        (np.full((2, 2), 0.5), np.full((3, 2), 0.5), "the leading axes do not broadcast"),
    ],
)
@pytest.mark.parametrize("measure", [js_divergence, normalized_js_divergence])
def test_what_is_not_a_pair_of_distributions_is_refused(measure, p, q, message) -> None:
    with pytest.raises(ValueError, match=message):
        measure(p, q)


@pytest.mark.parametrize("measure", [entropy, normalized_entropy])
@pytest.mark.parametrize("q", [[0.0, 0.0], [1.0], [0.7, 0.7], [-1.0, 2.0], [float("nan"), 1.0]])
def test_entropy_of_what_is_not_a_distribution_is_refused(measure, q) -> None:
    with pytest.raises(ValueError, match=r"^q (has|is|holds)"):
        measure(q)


@pytest.mark.parametrize(("off", "refused"), [(9e-4, False), (-9e-4, False), (1.1e-3, True), (-1.1e-3, True)])
def test_a_row_may_be_off_by_a_thousandth_and_is_then_scaled(off: float, refused: bool) -> None:
    row = np.array([0.25, 0.75]) * (1 + off)
    if refused:
        with pytest.raises(ValueError, match="is not a distribution"):
            js_divergence(row, HALF)
    else:
        assert js_divergence(row, HALF) == pytest.approx(js_divergence([0.25, 0.75], HALF), rel=1e-12)
