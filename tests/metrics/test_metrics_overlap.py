"""Expert-set overlap against examples worked by hand and plain Python sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lm_eval_moe.metrics import expert_overlap


def test_overlap_hand_worked() -> None:
    # Top 3 of p: experts 0, 1, 2. Top 3 of q: 1, 2, 4. Two shared of four.
    assert expert_overlap([0.9, 0.8, 0.7, 0.1, 0.0], [0.1, 0.8, 0.7, 0.0, 0.9], top=3) == pytest.approx(0.5)


def test_overlap_of_disjoint_and_of_equal_sets() -> None:
    assert expert_overlap([5, 4, 0, 0], [0, 0, 1, 1], top=2) == 0
    assert expert_overlap([5, 4, 0, 0], [1, 2, 0, 0], top=2) == 1


def test_ties_go_to_the_lowest_index() -> None:
    # All of p are equal: its top 2 are experts 0 and 1.
    assert expert_overlap([1, 1, 1, 1], [9, 8, 0, 0], top=2) == 1
    assert expert_overlap([1, 1, 1, 1], [0, 0, 8, 9], top=2) == 0


def test_ties_are_broken_by_the_second_array_where_it_is_given() -> None:
    f_p, f_q = [2, 2, 2, 1], [0, 0, 8, 9]
    assert expert_overlap(f_p, f_q, top=2) == 0
    # Gate mass puts expert 2 before 0 and 1, but cannot lift expert 3 over a higher frequency.
    assert expert_overlap(f_p, f_q, top=2, tie_p=[0.1, 0.2, 0.9, 5.0]) == pytest.approx(1 / 3)
    # The same on the other side only.
    assert expert_overlap(f_q, f_p, top=2, tie_q=[0.1, 0.2, 0.9, 5.0]) == pytest.approx(1 / 3)


def test_equal_tie_breakers_go_to_the_lowest_index() -> None:
    assert expert_overlap([1, 1, 1, 1], [9, 8, 0, 0], top=2, tie_p=[0.5] * 4) == 1


def test_experts_never_selected_are_in_no_set() -> None:
    # Each has one active expert; filling up to 3 with idle experts would report an overlap of 1/2.
    assert expert_overlap([1, 0, 0, 0], [0, 0, 0, 1], top=3) == 0
    assert expert_overlap([1, 0, 0, 0], [1, 1, 0, 0], top=3) == pytest.approx(0.5)


def test_layers_are_compared_one_by_one() -> None:
    f_p = np.array([[3, 2, 1, 0], [0, 1, 2, 3]])
    f_q = np.array([[3, 2, 1, 0], [3, 2, 1, 0]])
    np.testing.assert_allclose(expert_overlap(f_p, f_q, top=2), [1.0, 0.0])
    np.testing.assert_allclose(expert_overlap(f_p, f_q[0], top=2), [1.0, 0.0])


counts = hnp.arrays(np.int64, (3, 6), elements=st.integers(0, 4)).filter(lambda a: a.any(axis=-1).all())


@given(counts, counts, st.integers(1, 6), hnp.arrays(np.float64, (3, 6), elements=st.floats(0, 1)))
def test_overlap_equals_sets_in_plain_python(f_p, f_q, top, tie) -> None:
    def best(frequencies, ties):
        ranked = sorted(range(6), key=lambda k: (-frequencies[k], -ties[k], k))
        return {k for k in ranked[:top] if frequencies[k] > 0}

    expected = []
    for row in range(3):
        a, b = best(f_p[row], tie[row]), best(f_q[row], [0] * 6)
        expected.append(len(a & b) / len(a | b))
    np.testing.assert_array_equal(expert_overlap(f_p, f_q, top, tie_p=tie), expected)


@given(counts, counts, st.integers(1, 6))
def test_overlap_is_symmetric_bounded_and_one_on_equality(f_p, f_q, top) -> None:
    forth = expert_overlap(f_p, f_q, top)
    np.testing.assert_array_equal(forth, expert_overlap(f_q, f_p, top))
    assert ((forth >= 0) & (forth <= 1)).all()
    np.testing.assert_array_equal(expert_overlap(f_p, f_p, top), np.ones(3))


@given(st.permutations(range(6)), st.integers(1, 6))
def test_overlap_of_untied_rows_does_not_depend_on_the_order_of_experts(order, top) -> None:
    f_p, f_q = np.array([6, 5, 4, 3, 2, 1]), np.array([1, 6, 2, 5, 3, 4])
    assert expert_overlap(f_p[order], f_q[order], top) == expert_overlap(f_p, f_q, top)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0], [0, 0], 1), "f_q has a row of zeros: no tokens"),
        (([1, -1], [1, 0], 1), "f_p holds negative values"),
        (([1, float("nan")], [1, 0], 1), "f_p holds NaN"),
        (([1], [1], 1), r"f_p has shape \(1,\): the last axis holds the experts, at least 2"),
        (([1, 0], [1, 0, 0], 1), r"f_p has shape \(2,\), f_q has shape \(3,\): the last axes"),
        (([1, 0], [1, 0], 0), "top must be a whole number from 1 to 2, the number of experts, got 0"),
        (([1, 0], [1, 0], 3), "from 1 to 2"),
        (([1, 0], [1, 0], 1.0), r"got 1\.0"),
        (([1, 0], [1, 0], True), "got True"),
        (([1, 0], [1, 0], 1, [1, 2, 3]), r"tie_p has shape \(3,\), the frequencies have \(2,\)"),
        (([1, 0], [1, 0], 1, None, [1, float("nan")]), "tie_q holds NaN"),
    ],
)
def test_overlap_refuses_what_cannot_be_ranked(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        expert_overlap(*arguments)
