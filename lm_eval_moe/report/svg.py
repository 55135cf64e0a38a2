"""Figures as inline SVG: colours come from the page, so that light and dark need one drawing."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BAND", "INK", "LINE_COLOURS", "MUTED", "RUN_COLOURS", "RUN_MARKERS", "line_colour", "run_colour", "to_svg"]

# Matplotlib draws with placeholders; `to_svg` puts the page's custom properties in their place.
INK, MUTED, BAND = "#010101", "#020202", "#030303"
RUN_COLOURS, LINE_COLOURS = 6, 8
RUN_MARKERS = ("o", "s", "D", "^", "v", "P")
_NAMES = {
    INK: "ink",
    MUTED: "muted",
    BAND: "band",
    **{f"#1000{i:02x}": f"run-{i}" for i in range(RUN_COLOURS)},
    **{f"#2000{i:02x}": f"line-{i}" for i in range(LINE_COLOURS)},
}

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lm-eval-moe",  # the same results give the same page
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.solid_capstyle": "round",
}
"""Matplotlib settings of all figures."""


def run_colour(run: int) -> str:
    """Return the placeholder of a run's colour."""
    return f"#1000{run % RUN_COLOURS:02x}"


def line_colour(line: int) -> str:
    """Return the placeholder of a line's colour."""
    return f"#2000{line % LINE_COLOURS:02x}"


def to_svg(figure: Figure, name: str, alternative: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Args:
        figure: A figure drawn with the placeholders.
        name: Made part of every id, so that several figures fit on one page.
        alternative: The text alternative, for those who do not see the figure.
    """
    from markupsafe import escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    # The page's own font; Matplotlib has measured with a wider one.
    text = re.sub(r"font-family:[^;\"]*;? ?", "", text)
    text = re.sub(r"font: ((?:[\w.-]+ )*?)([\d.]+px) [^;\"]*", r"font-size: \2", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: _coloured(found[0]), text)
    view = re.search(r'viewBox="([^"]*)"', text)
    assert view is not None
    start = (
        f'<svg role="img" aria-label="{escape(alternative)}" viewBox="{view[1]}" xmlns="http://www.w3.org/2000/svg">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: start, text, count=1).replace("xlink:href", "href")


def _coloured(colour: str) -> str:
    return f"var(--{_NAMES[colour]})" if colour in _NAMES else colour
