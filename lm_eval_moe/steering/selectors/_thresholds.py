"""Which experts meet a threshold, and the error where none does: how far off it is, which one would select how many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import NothingSelectedError
from lm_eval_moe.shape import format_ranges
from lm_eval_moe.steering.selectors._base import Scope

__all__ = ["difference", "meeting", "selected"]

_Values = NDArray[np.float64]

_GRID = (*(0.001, 0.002, 0.005, 0.01, 0.02), *(step / 20 for step in range(1, 20)), 0.99, 1.0)
_DECIMALS = 12


def difference(first: _Values, second: _Values) -> _Values:
    """Return ``first - second`` to 12 decimals.

    Frequencies are ratios of counts, so that a difference is often exactly the threshold, 0.8 - 0.5 against 0.3 say.
    In binary it then comes out a little above or below, and with it the expert.
    """
    return np.round(first - second, _DECIMALS)


def selected(
    scope: Scope,
    values: _Values,
    threshold: float,
    what: str,
    compared: Mapping[str, _Values],
    meets: Callable[[_Values, float], NDArray[np.bool_]] = np.greater,
) -> Iterator[tuple[int, int, float, dict[str, float]]]:
    """Yield layer, expert, its value and the numbers that were compared, of those that meet a threshold, in order.

    Args:
        scope: What is selected from.
        values: ``[layers, E]`` what is compared with the threshold; NaN where an expert is out of the question.
        threshold: The threshold.
        what: What the values are, in the singular.
        compared: Arrays of the same shape that say more of every expert.
        meets: ``np.greater``, ``np.greater_equal`` or ``np.less``.

    Raises:
        NothingSelectedError: There are none.
    """
    for row, expert in meeting(scope, values, threshold, what, meets):
        numbers = {name: float(array[row, expert]) for name, array in compared.items()}
        yield scope.layers[row], expert, float(values[row, expert]), numbers


def meeting(
    scope: Scope,
    values: _Values,
    threshold: float,
    what: str,
    meets: Callable[[_Values, float], NDArray[np.bool_]] = np.greater,
) -> list[tuple[int, int]]:
    """Return row and expert of those that `selected` yields.

    Raises:
        NothingSelectedError: There are none.
    """
    rows = [(row, expert) for row, expert in np.argwhere(meets(values, threshold)).tolist()]
    if rows:
        return rows
    problem = f"threshold {threshold:g} selects no expert in layers {format_ranges(scope.layers)}"
    fix = "give other profiles, or widen `layers`"
    if not np.isnan(values).all():
        below = meets is np.less
        row, expert = np.unravel_index(np.nanargmin(values) if below else np.nanargmax(values), values.shape)
        value = float(values[row, expert])
        number = f"{value:.4g}"
        if float(number) == threshold != value:
            number = repr(value)  # just short of it: say by how much
        extreme = "smallest" if below else "largest"
        problem += f": the {extreme} {what} is {number} (layer {scope.layers[row]}, expert {expert})"
        grid = [step for step in _GRID if step > threshold] if below else [s for s in _GRID[::-1] if s < threshold]
        table: dict[int, float] = {}  # one threshold a count
        for step in grid:
            if count := int(meets(values, step).sum()):
                table.setdefault(count, step)
        entries = [f"{step:g}: {count}" for count, step in table.items()][:3]
        if entries:
            direction = "raise" if below else "lower"
            fix = f"{direction} `threshold` (threshold: experts selected, {', '.join(entries)}), or widen `layers`"
    raise NothingSelectedError(problem, fix=fix, where=(scope.place / "threshold").where)
