"""A figure as a PNG or SVG file on white, with its title, key and caption, which are text on a page."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lm_eval_moe.drawing.canvas import LINE, short
from lm_eval_moe.drawing.palette import file_colours
from lm_eval_moe.escaping import printable
from lm_eval_moe.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["picture", "put_caption", "put_title", "write_pictures"]

_DPI = 160


def put_title(figure: Figure, title: str, key: Sequence[Line2D] = ()) -> None:
    """Write the title, and the key below it, above the figure."""
    height, above = figure.get_figheight(), 0.1
    if key:
        figure.legend(
            handles=list(key),
            loc="lower left",
            bbox_to_anchor=(0.0, 1 + above / height),
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handletextpad=0.2,
            fontsize=9,
            markerscale=0.8,
        )
        above += LINE * sum(1 + str(handle.get_label()).count("\n") for handle in key) + 0.12
    lines = textwrap.wrap(short(title, 150), int(10.8 * figure.get_figwidth()))
    figure.text(0.01, 1 + above / height, "\n".join(lines), ha="left", va="bottom", fontsize=11, fontweight="bold")


def put_caption(figure: Figure, caption: str) -> None:
    """Write how to read it below the figure, where a page has it as text."""
    lines = textwrap.wrap(printable(caption), int(16.5 * figure.get_figwidth()))
    below = -0.12 / figure.get_figheight()
    figure.text(0.01, below, "\n".join(lines), ha="left", va="top", fontsize=7.5, linespacing=1.3)


def picture(figure: Figure, form: Literal["png", "svg"], title: str) -> bytes:
    """Return a figure that was drawn with `file_colours` as a file. Equal figures give equal bytes.

    Args:
        figure: The figure.
        form: Which kind of file.
        title: What the file says that it is.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    with rc_context({**file_colours().style(), "savefig.bbox": "tight", "savefig.pad_inches": 0.1}):
        figure.set_facecolor("white")
        if form == "svg":
            figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
        else:
            FigureCanvasAgg(figure)
            figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return content.getvalue()


def write_pictures(figure: Figure, folder: Path, name: str, title: str) -> list[Path]:
    """Write a figure as PNG and as SVG; return the files.

    Raises:
        UserError: A file cannot be written.
    """
    forms: tuple[Literal["png", "svg"], ...] = ("png", "svg")
    paths = [folder / f"{name}.{form}" for form in forms]
    for path, form in zip(paths, forms, strict=True):
        write_whole(path, picture(figure, form, title), "figure")
    return paths
