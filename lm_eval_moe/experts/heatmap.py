"""The heat map of ``experts``: what the rule compared, and the experts that it chose."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from lm_eval_moe.drawing.layers_by_experts import HeatMap, Panel, draw_layers_by_experts
from lm_eval_moe.drawing.palette import file_colours
from lm_eval_moe.drawing.picture import picture
from lm_eval_moe.experts.selection import ComparedNumber, Found, FoundByRule, compared
from lm_eval_moe.experts.words import count, layers_in_words, rule_with_size
from lm_eval_moe.extras import require_extra
from lm_eval_moe.files import write_whole

__all__ = ["save_heat_map"]

_CELL = 0.085  # inches: a frame around it has to be seen


def save_heat_map(selection: Found, path: str | Path) -> None:
    """Draw a panel for every intervention, one below the other.

    Args:
        selection: What was selected.
        path: A ``.png`` or ``.svg`` file.

    Raises:
        UserError: Matplotlib is not installed, or the file cannot be written.
    """
    require_extra("a picture", "matplotlib", where="--plot")
    maps = [_map(selection, rule, compared(selection, index)) for index, rule in enumerate(selection.rules)]
    figure = draw_layers_by_experts(maps, selection.plan.shape, file_colours(), cell=_CELL)
    form: Literal["png", "svg"] = "svg" if Path(path).suffix == ".svg" else "png"
    write_whole(Path(path), picture(figure, form, selection.plan.name), "heat map")


def _map(selection: Found, rule: FoundByRule, numbers: ComparedNumber | None) -> HeatMap:
    layers = selection.plan.shape.layers
    selected = [(layers.index(choice.layer), choice.expert) for choice in rule.choices]
    faded = [row for row, layer in enumerate(layers) if layer not in rule.layers]
    if numbers is None:
        return HeatMap([Panel([_title(selection, rule), "black: selected"], None, selected, faded)])
    legend = ["framed: selected"] + ["grey: no share"] * bool(np.isnan(numbers.values).any())
    legend += ["faded: not looked at"] * bool(faded)
    panel = Panel([_title(selection, rule), "; ".join(legend)], numbers.values, selected, faded)
    if numbers.signed:
        return HeatMap([panel], numbers.label, "{:+.2f}")
    return HeatMap([panel], numbers.label, "{:.2f}", limit=1.0, signed=False)


def _title(selection: Found, rule: FoundByRule) -> str:
    counts = rule.counts(selection.plan.shape)["all"]
    return (
        f"{rule_with_size(rule.rule, selection.plan.seed)}: {count(counts.experts, 'expert')} in {counts.layers} of "
        f"{counts.looked_at} layers ({layers_in_words(rule)})"
    )
