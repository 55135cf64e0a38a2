"""The figure of curves over layers: its data, how to read it, and what else it can be drawn as."""

from __future__ import annotations

from typing import Any

from lm_eval_moe.report.figures._base import Folded, ReportFigure
from lm_eval_moe.report.figures._curve_drawing import draw_by_family, draw_curves
from lm_eval_moe.report.figures._curves import Curves
from lm_eval_moe.report.wording import listing, plural

__all__ = ["curve_figure"]

_COLUMNS = ("language", "layer", "mean", "low", "high", "items")


def curve_figure(curves: Curves, title: str, caption: str, what: str, *, within: str = "", **more: Any) -> ReportFigure:
    """Return the figure of some curves.

    Args:
        curves: The curves.
        title: The figure's title.
        caption: What the values are; how to read the figure is added.
        what: What the lines are, for the text alternative.
        within: What follows the languages there.
        more: The rest, as `ReportFigure` has it.
    """
    plotted = f"Line plot of {what} over {len(curves.layers)} layers for"
    folded: tuple[Folded, ...] = ()
    alternative = f"{plotted} {listing([line.language for line in curves.lines])}{within}."
    if curves.are_many:
        names = listing([line.language for line in curves.extremes])
        count = plural(len(curves.drawn), "language")
        alternative = f"{plotted} {count}{within}, with the median of each resource tier; {names} are named."
        folded = (
            Folded(
                "by_family",
                "By language family",
                f"{caption} One panel per family of at least three languages, coloured by resource tier; grey: the "
                "median of all languages.",
                f"Line plots of {what} for {count}{within}, one panel per family.",
                lambda colours: draw_by_family(curves, colours),
            ),
        )
    return ReportFigure(
        title,
        f"{caption}{_how_to_read(curves)}",
        alternative,
        _COLUMNS,
        [(line.language, at, *point, line.items) for line in curves.lines for at, point in sorted(line.points.items())],
        lambda colours: draw_curves(curves, colours),
        folded=folded,
        choices=tuple(line.language for line in curves.drawn) if curves.are_many else (),
        **more,
    )


def _how_to_read(curves: Curves) -> str:
    text = ""
    if curves.are_many:
        text += (
            " Bold: the median over the languages of a resource tier; shaded: the middle 80 % of them; thin: every "
            "language. Named are the lowest and the highest in the middle layers, and those with the lowest and the "
            "highest value of all."
        )
    if curves.from_zero and curves.limits[0] > 0:
        text += " The axis does not begin at 0."
    if curves.steered:
        same_layers = len({run.layers for run in curves.steered}) == 1
        text += f" {'Shaded, and strips below' if same_layers else 'Strips below'}: the layers that each run steers."
    return text
