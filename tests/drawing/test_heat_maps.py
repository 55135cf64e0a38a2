"""The two heat maps: what is framed, faded, grey and written, at the width of a page and wider."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lm_eval_moe.drawing.canvas import WIDTH, few_of
from lm_eval_moe.drawing.cells_by_languages import Gains, draw_cells_by_languages
from lm_eval_moe.drawing.layers_by_experts import HeatMap, Panel, draw_layers_by_experts
from lm_eval_moe.drawing.palette import file_colours
from lm_eval_moe.drawing.picture import picture, put_title
from lm_eval_moe.drawing.raster import NOTHING
from lm_eval_moe.shape import RoutingShape

SHAPE = RoutingShape(layers=(1, 2, 3, 4), experts=8, top_k=2, depth=5)
VALUES = np.linspace(-0.5, 0.4, 32).reshape(4, 8)
NONE = np.where(np.arange(8) == 7, np.nan, VALUES)


def pixels(figure: Figure, axes: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[axes].images[0].get_array())


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_selected_experts_are_framed_rows_that_were_not_looked_at_fade() -> None:
    panel = Panel(["what it is of"], VALUES, selected=[(2, 5)], faded=[0])
    figure = draw_layers_by_experts([HeatMap([panel], "a difference")], SHAPE, file_colours())
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert {(patch.get_x(), patch.get_y(), patch.get_width()) for patch in patches} == {(-0.5, -0.5, 8), (4.5, 1.5, 1)}
    assert texts(figure) == ["what it is of", "middle", "late"]  # no layer is early
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["1", "2", "3", "4"]


def test_a_place_without_a_value_is_grey_and_zero_is_without_colour() -> None:
    values = NONE.copy()
    values[0, 0] = 0.0
    shown = pixels(draw_layers_by_experts([HeatMap([Panel(["x"], values)], "x")], SHAPE, file_colours()))
    np.testing.assert_allclose(shown[:, 7], [NOTHING] * 4)
    assert shown[0, 0, 3] == 0
    assert shown[3, 6, 3] < shown[0, 1, 3] <= 0.85  # the nearer to 0, the less colour
    assert not np.allclose(shown[0, 1, :3], shown[3, 6, :3])  # below and above 0


def test_where_nothing_was_compared_the_selected_are_filled() -> None:
    figure = draw_layers_by_experts([HeatMap([Panel(["x"], None, [(0, 1)])])], SHAPE, file_colours())
    assert len(figure.axes) == 1, "there is no scale"
    assert any(patch.get_fill() for patch in figure.axes[0].patches)


@pytest.mark.parametrize(("experts", "cell", "wider"), [(8, 0.085, False), (128, 0.0, False), (128, 0.085, True)])
def test_a_page_is_as_wide_as_a_phone_shows_and_a_file_as_wide_as_its_marks_need(
    experts: int, cell: float, wider: bool
) -> None:
    shape = RoutingShape(layers=tuple(range(6)), experts=experts, top_k=2, depth=6)
    panels = [Panel([name], np.zeros((6, experts))) for name in ("sw", "zh", "de")]
    figure = draw_layers_by_experts([HeatMap(panels, "x")], shape, file_colours(), cell=cell)
    assert (figure.get_figwidth() > WIDTH) == wider
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[:number])


def test_the_values_of_a_sweep_stand_in_its_cells_with_true_minus_signs() -> None:
    grids = {"steered": np.array([[1.25, -2.0], [0.04, np.nan]]), "random controls": np.zeros((2, 2))}
    gains = Gains(["early, 0.5", "late, 1"], ["en", "mean"], True, grids, "percentage points", 1)
    figure = draw_cells_by_languages(gains, file_colours())
    assert [axes.get_yticklabels()[0].get_text() for axes in figure.axes[:2]] == ["early, 0.5"] * 2
    written = texts(figure)
    assert {"+1.2", "\N{MINUS SIGN}2.0", "0.0", "steered", "random controls"} <= set(written)
    np.testing.assert_allclose(pixels(figure)[1, 1], NOTHING)


def test_equal_figures_give_equal_files() -> None:
    def files() -> list[bytes]:
        figure = draw_layers_by_experts([HeatMap([Panel(["x"], VALUES)], "x")], SHAPE, file_colours())
        put_title(figure, "A title")
        return [picture(figure, "png", "A title"), picture(figure, "svg", "A title")]

    first = files()
    assert first == files()
    assert first[0].startswith(b"\x89PNG")
    assert b"A title" in first[1]


def test_ticks_are_few_and_at_even_steps() -> None:
    assert list(few_of(8, 8)) == list(range(8))
    assert list(few_of(128, 8)) == list(range(0, 128, 16))
    assert len(few_of(9, 8)) == 5
