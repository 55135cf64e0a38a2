"""A sweep's figure: gain over the baseline, cells by languages, the steered ones above their random controls."""

from __future__ import annotations

from pathlib import Path

from lm_eval_moe.drawing.canvas import drawing
from lm_eval_moe.drawing.cells_by_languages import draw_cells_by_languages
from lm_eval_moe.drawing.palette import file_colours
from lm_eval_moe.drawing.picture import put_caption, put_title, write_pictures
from lm_eval_moe.extras import require_extra
from lm_eval_moe.results.sweeps import SweepBenchmark, gains_to_draw, heat_map_caption

__all__ = ["save_figure"]


def save_figure(benchmark: SweepBenchmark, folder: Path, name: str) -> None:
    """Write the heat map of a benchmark as PNG and SVG: that of the report.

    Args:
        benchmark: One benchmark of a sweep, with at least one cell.
        folder: Where to.
        name: The files' name without its suffix.

    Raises:
        UserError: Matplotlib is not installed, or a file cannot be written.
    """
    require_extra("a picture", "matplotlib", where="the figure of the sweep")
    colours = file_colours()
    title = f"{benchmark.benchmark}: gain in {benchmark.metric.key.removesuffix(',none')} over the baseline"
    figure = draw_cells_by_languages(gains_to_draw(benchmark), colours)
    by = ", ".join(benchmark.cells[0].fields)
    with drawing(colours):
        put_title(figure, f"{title}, by {by}" if by else title)
        put_caption(figure, heat_map_caption(benchmark))
    write_pictures(figure, folder, name, title)
