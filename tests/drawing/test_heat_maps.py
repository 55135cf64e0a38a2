"""The two heat maps: what is framed, faded, grey and written, at the width of a page and wider."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from lm_eval_moe.drawing.canvas import WIDTH, few_of
from lm_eval_moe.drawing.cells_by_languages import Gains, draw_cells_by_languages
from lm_eval_moe.drawing.layers_by_experts import HeatMap, Panel, draw_layers_by_experts
from lm_eval_moe.drawing.palette import file_colours, page_colours
from lm_eval_moe.drawing.picture import picture, put_caption, put_title
from lm_eval_moe.drawing.raster import NOTHING, limit_of
from lm_eval_moe.report.svg import to_svg
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


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_lowest_panel_of_every_column_names_its_experts(count: int) -> None:
    figure = draw_layers_by_experts(
        [HeatMap([Panel([str(n)], VALUES) for n in range(count)], "x")], SHAPE, file_colours()
    )
    panels = figure.axes[:count]
    lowest = {
        axes.get_position().x0: axes for axes in sorted(panels, key=lambda axes: -axes.get_position().y0)
    }  # the last of a column wins
    named = {axes for axes in panels if axes.get_xlabel() == "expert"}
    assert named == set(lowest.values())


def test_one_extreme_value_does_not_take_the_colour_of_the_others_and_the_scale_says_so() -> None:
    values = np.full((4, 32), 0.1)
    values[0, 0] = 9.0
    shape = RoutingShape(layers=(0, 1, 2, 3), experts=32, top_k=2, depth=4)
    figure = draw_layers_by_experts([HeatMap([Panel(["x"], values)], "x")], shape, file_colours())
    assert pixels(figure)[3, 3, 3] == pytest.approx(0.85)
    ends = [tick.get_text() for tick in figure.axes[1].get_xticklabels()]
    assert ends == ["\N{LESS-THAN OR EQUAL TO} \N{MINUS SIGN}0.1", "0", "\N{GREATER-THAN OR EQUAL TO} +0.1"]
    small = draw_layers_by_experts([HeatMap([Panel(["x"], VALUES)], "x")], SHAPE, file_colours())
    assert [tick.get_text() for tick in small.axes[1].get_xticklabels()] == ["\N{MINUS SIGN}0.5", "0", "+0.5"]


@pytest.mark.parametrize(
    ("values", "noise", "limit"),
    [
        ([1.0, -2.0, np.nan], 0.0, 2.0),
        ([1.0, -2.0], 3.0, 6.0),  # all noise: nothing has more than half of the colour
        ([0.0, 0.0], 0.0, 1.0),
        ([np.nan], 0.0, 1.0),
        ([0.0] * 99 + [4.0], 0.0, 4.0),  # 98 % are 0, which is no scale
    ],
)
def test_the_full_colour_is_never_that_of_noise(values: list[float], noise: float, limit: float) -> None:
    assert limit_of(np.array(values), noise) == limit


def test_what_is_within_noise_is_grey_and_the_rest_has_its_colour() -> None:
    beyond = np.arange(32).reshape(4, 8) % 2 == 0
    shown = pixels(draw_layers_by_experts([HeatMap([Panel(["x"], VALUES, beyond=beyond)], "x")], SHAPE, file_colours()))
    plain = pixels(draw_layers_by_experts([HeatMap([Panel(["x"], VALUES)], "x")], SHAPE, file_colours()))
    np.testing.assert_allclose(shown[beyond], plain[beyond])
    np.testing.assert_allclose(shown[~beyond][:, :3], 0.5)
    np.testing.assert_allclose(shown[..., 3], plain[..., 3])


def sweep_figure(**more: Any) -> Figure:
    grids = {
        "steered": np.array([[3.0, -2.0], [0.0, np.nan]]),
        "random controls": np.array([[0.5, -0.5], [0.0, np.nan]]),
    }
    return draw_cells_by_languages(Gains(["a", "b"], ["en", "mean"], True, grids, "points", 1, **more), file_colours())


def test_gains_beyond_noise_are_framed_and_missing_ones_crossed_out() -> None:
    figure = sweep_figure(beyond=np.array([[True, False], [False, False]]))
    frames = [[(p.get_x(), p.get_y()) for p in axes.patches if isinstance(p, Rectangle)] for axes in figure.axes[:2]]
    assert [[(round(x), round(y)) for x, y in of] for of in frames] == [[(0, 0)], []]
    crosses = [
        [line for line in axes.lines if len(line.get_xdata()) == 2 and np.ptp(line.get_xdata())]
        for axes in figure.axes[:2]
    ]
    for lines in crosses:
        diagonal = [line for line in lines if np.ptp(line.get_ydata())]
        assert [(np.mean(line.get_xdata()), np.mean(line.get_ydata())) for line in diagonal] == [(1, 1)] * 2


def test_a_sweep_of_noise_has_little_colour() -> None:
    assert pixels(sweep_figure())[0, 0, 3] == pytest.approx(0.85)
    assert pixels(sweep_figure(noise=3.0))[0, 0, 3] == pytest.approx(0.85 / 2)


def test_page_and_file_have_the_same_colours_for_the_same_values() -> None:
    """The raster in the page's SVG, the right way up, against that of the file."""
    grids = {"steered": np.array([[3.0, -2.0], [0.0, 1.0]])}
    gains = Gains(["a", "b"], ["en", "mean"], True, grids, "points", 1)
    page = to_svg(draw_cells_by_languages(gains, page_colours()), "x", "x")
    tags = re.findall(r"<image[^>]*>", page)
    assert len(tags) == 2  # the grid and its scale
    encoded = re.search(r'base64,\s*([^"]*)"', tags[0])
    matrix = re.search(r'transform="matrix\(([-\d.]+) 0 0 ([-\d.]+) ', tags[0])
    assert encoded is not None
    assert matrix is not None
    assert min(map(float, matrix.groups())) > 0, "it is not mirrored"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1]))).convert("RGBA")) / 255
    expected = pixels(draw_cells_by_languages(gains, file_colours()))
    np.testing.assert_allclose(shown[..., 3], expected[..., 3], atol=0.005)
    coloured = expected[..., 3] > 0
    np.testing.assert_allclose(shown[coloured], expected[coloured], atol=0.005)
    above, below = expected[0, 0, :3], expected[0, 1, :3]
    assert above[0] > above[2]  # orange
    assert below[0] < below[2]  # blue


def test_a_file_carries_its_caption() -> None:
    figure = sweep_figure()
    put_caption(figure, "How to read it: " + "word " * 60 + "\x1b the end.")
    text = picture(figure, "svg", "A title").decode()
    assert "How to read it:" in text
    assert "the end." in text
    plain, captioned = (Image.open(io.BytesIO(picture(each, "png", ""))).size for each in (sweep_figure(), figure))
    assert captioned[1] > plain[1] + 60
    assert captioned[0] < plain[0] * 1.1, "it is wrapped"


@pytest.mark.parametrize(("value", "marked"), [(2.0, False), (2.01, True), (-2.01, True)])
def test_what_is_far_beyond_the_scale_has_a_dot_that_is_explained(value: float, marked: bool) -> None:
    values = np.zeros((2, 3))
    values[1, 2] = value
    shape = RoutingShape((0, 1), 3, 1, 2)
    figure = draw_layers_by_experts([HeatMap([Panel(["x"], values)], "points", limit=1.0)], shape, file_colours())
    panel, bar = figure.axes
    dots = [line.get_xydata().tolist() for line in panel.lines if line.get_marker() == "o"]
    assert dots == ([[[2.0, 1.0]]] if marked else [])
    assert ("dots: more than twice the end" in bar.get_xlabel()) == marked
