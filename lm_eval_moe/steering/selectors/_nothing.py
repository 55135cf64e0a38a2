"""Which experts meet a threshold, and the error where none does: how far off it is, which one would select how many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import NothingSelectedError
from lm_eval_moe.shape import format_ranges
from lm_eval_moe.steering.selectors._base import Scope

__all__ = ["nothing_selected", "selected"]

_GRID = (*(0.001, 0.002, 0.005, 0.01, 0.02), *(step / 20 for step in range(1, 20)), 0.99, 1.0)


def selected(
    scope: Scope,
    values: NDArray[np.float64],
    threshold: float,
    what: str,
    meets: Callable[[NDArray[np.float64], float], NDArray[np.bool_]] = np.greater,
) -> list[tuple[int, int]]:
    """Return row and expert of those that meet a threshold, in order.

    Args:
        scope: What is selected from.
        values: ``[layers, E]`` what is compared with the threshold; NaN where an expert is out of the question.
        threshold: The threshold.
        what: What the values are, in the singular.
        meets: ``np.greater``, ``np.greater_equal`` or ``np.less``.

    Raises:
        NothingSelectedError: There are none.
    """
    rows = np.argwhere(meets(values, threshold)).tolist()
    if not rows:
        extreme = "smallest" if meets is np.less else "largest"
        raise nothing_selected(scope, values, threshold, what, lambda at: int(meets(values, at).sum()), extreme=extreme)
    return [(row, expert) for row, expert in rows]


def nothing_selected(
    scope: Scope,
    values: NDArray[np.float64],
    threshold: float,
    what: str,
    count: Callable[[float], int],
    *,
    extreme: str = "largest",
) -> NothingSelectedError:
    """Return the error to raise.

    Args:
        scope: What was selected from.
        values: ``[layers, E]`` what is compared with the threshold; NaN where an expert is out of the question.
        threshold: As given.
        what: What the values are, in the singular.
        count: How many experts a threshold would select.
        extreme: ``largest`` where values must exceed the threshold, ``smallest`` where they must fall below it.
    """
    problem = f"threshold {threshold:g} selects no expert in layers {format_ranges(scope.layers)}"
    fix = "give other profiles, or widen `layers`"
    if not np.isnan(values).all():
        at = np.nanargmax(values) if extreme == "largest" else np.nanargmin(values)
        row, expert = np.unravel_index(at, values.shape)
        value = float(values[row, expert])
        shown = f"{value:.4g}"
        if float(shown) == threshold != value:
            shown = repr(value)  # just short of it: say by how much
        problem += f": the {extreme} {what} is {shown} (layer {scope.layers[row]}, expert {expert})"
        lower = extreme == "largest"
        grid = [step for step in _GRID if (step < threshold if lower else step > threshold)]
        table: dict[int, float] = {}  # one threshold a count
        for step in reversed(grid) if lower else grid:
            if selected := count(step):
                table.setdefault(selected, step)
        entries = [f"{step:g}: {selected}" for selected, step in table.items()][:3]
        if entries:
            direction = "lower" if lower else "raise"
            fix = f"{direction} `threshold` (threshold: experts selected, {', '.join(entries)}), or widen `layers`"
    return NothingSelectedError(problem, fix=fix, where=(scope.place / "threshold").where)
