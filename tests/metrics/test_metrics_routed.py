"""Curves of layers of which some routed no token."""

from __future__ import annotations

import numpy as np
import pytest

from lm_eval_moe.metrics import (
    expert_overlap,
    normalized_entropy,
    normalized_js_divergence,
    where_routed,
)

P = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
Q = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.5, 0.5, 0.0]])


def test_a_layer_that_routed_nothing_has_no_value_and_the_others_have_theirs() -> None:
    np.testing.assert_array_equal(
        where_routed(normalized_js_divergence, P, Q),
        [normalized_js_divergence(P[0], Q[0]), np.nan, normalized_js_divergence(P[2], Q[2])],
    )
    np.testing.assert_array_equal(
        where_routed(normalized_entropy, P), [normalized_entropy(P[0]), np.nan, normalized_entropy(P[2])]
    )


def test_items_broadcast_against_one() -> None:
    both = where_routed(normalized_js_divergence, P, np.stack([Q, P]))
    assert both.shape == (2, 3)
    np.testing.assert_array_equal(both[0], where_routed(normalized_js_divergence, P, Q))
    np.testing.assert_array_equal(both[1], [0.0, np.nan, 0.0])


def test_overlap_needs_counts_and_weights_of_both() -> None:
    counts = np.array([[3, 2, 1], [3, 2, 1], [0, 0, 0]])
    weights = np.array([[0.5, 0.4, 0.1], [0.0, 0.0, 0.0], [0.5, 0.4, 0.1]])
    other = np.array([[1, 2, 3]] * 3)
    overlap = where_routed(lambda a, b, c, d: expert_overlap(a, b, 2, c, d), counts, other, weights, other)
    np.testing.assert_array_equal(overlap, [expert_overlap(counts[0], other[0], 2), np.nan, np.nan])


def test_what_is_no_distribution_is_still_refused() -> None:
    with pytest.raises(ValueError, match="not a distribution"):
        where_routed(normalized_entropy, P * 2)


def test_nothing_routed_at_all_is_all_nan() -> None:
    assert np.isnan(where_routed(normalized_js_divergence, P * 0, Q)).all()
