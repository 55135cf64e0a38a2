"""The interval of a single score."""

from __future__ import annotations

import math

from lm_eval_moe.statistics.differences import Z95, Estimate
from lm_eval_moe.statistics.judgement import ALPHA, Interval, half_width

__all__ = ["score_interval"]

_SAME = 1e-6  # relative; results are written with so many digits


def score_interval(score: Estimate, items: int = 0, *, share: bool) -> Interval | None:
    """Return the 95 % interval of a score of which the mean and the standard error are known.

    Right-or-wrong items have Wilson's interval (E. B. Wilson, Journal of the American Statistical Association 22,
    1927). Other shares, graded or of several tasks, have that of as many right-or-wrong items as would have their
    standard error, reduced by the square of the ratio of the normal quantile to Student's (E. Korn and B. Graubard,
    Survey Methodology 24, 1998). Values without bounds have Student's t.

    Args:
        score: A mean.
        items: How many it is over; fewer than two: not known, as if many.
        share: Whether every item has a value from 0 to 1.

    Returns:
        None without a standard error, and where it is 0 but for items that are all right or all wrong: an interval of
        no width would claim certainty.
    """
    value, stderr = score.value, score.stderr
    if stderr is None:
        return None
    has_count = items > 1
    if not share:
        half = half_width(ALPHA / 2, stderr, items - 1 if has_count else None)
        return (value - half, value + half) if half else None
    spread = value * (1 - value)
    # Values from 0 to 1 spread as much as right-or-wrong ones only if they are all 0 or 1.
    if has_count and math.isclose(stderr**2 * (items - 1), spread, rel_tol=_SAME, abs_tol=_SAME**2):
        return _wilson(value, items)
    if spread <= 0 or stderr == 0:
        return None
    equivalent_items = 1 + spread / stderr**2 if not has_count else items * spread / (items - 1) / stderr**2
    quantile = half_width(ALPHA / 2, 1.0, items - 1) if has_count else Z95
    return _wilson(value, equivalent_items * (Z95 / quantile) ** 2)


def _wilson(share: float, items: float) -> Interval:
    square = Z95 * Z95 / items
    centre, half = share + square / 2, math.sqrt(square * (share * (1 - share) + square / 4))
    return max((centre - half) / (1 + square), 0.0), min((centre + half) / (1 + square), 1.0)
