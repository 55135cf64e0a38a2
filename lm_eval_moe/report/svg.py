"""Figures as inline SVG: colours come from the page, so that light and dark need one drawing."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval_moe.drawing.palette import page_colours, property_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["to_svg"]


def to_svg(figure: Figure, name: str, alternative: str, choices: Sequence[str] = ()) -> str:
    """Return a figure as an ``<svg>`` element.

    Args:
        figure: A figure drawn with the placeholders of `palette.page_colours`.
        name: Made part of every id, so that several figures fit on one page.
        alternative: The text alternative, for those who do not see the figure.
        choices: What the parts are called that were drawn with the ``gid`` ``choice-0``, ``choice-1``, ...
    """
    from markupsafe import escape
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(page_colours().style()):  # text as text, and ids that depend on the data only
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[a-zA-Z.]+[0-9]*d?_\d+">', "<g>", text)  # nothing refers to these
    text = _ALIKE.sub(_together, text)
    text = re.sub(r">\s+<", "><", text)
    text = re.sub(r'(?<= )(d|x|y)="([^"]*)"', lambda match: f'{match[1]}="{_rounded(match[2])}"', text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    pattern = rf'<g id="{name}-choice-(\d+)">'
    text = re.sub(pattern, lambda match: f"{match[0]}<title>{escape(choices[int(match[1])])}</title>", text)
    # The page's own font; Matplotlib has measured with a wider one.
    text = re.sub(r"font-family:[^;\"]*;? ?", "", text)
    text = re.sub(r"font: ((?:[\w.-]+ )*?)([\d.]+px) [^;\"]*", r"font-size: \2", text)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda match: property_of(match[0]), text)
    view = re.search(r'viewBox="([^"]*)"', text)
    assert view is not None
    start = (
        f'<svg role="img" aria-label="{escape(alternative)}" viewBox="{view[1]}" xmlns="http://www.w3.org/2000/svg">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: start, text, count=1).replace("xlink:href", "href")


_MARK = r'<use xlink:href="[^"]*" x="[^"]*" y="[^"]*" style="'
_ALIKE = re.compile(rf'<g>\s*({_MARK}([^"]*)"/>\s*(?:{_MARK}\2"/>\s*)*)</g>')


def _together(marks: re.Match[str]) -> str:
    """Return a group of marks whose style is that of the group."""
    style = f' style="{marks[2]}"'
    return f"<g{style}>{marks[1].replace(style, '')}</g>"


def _rounded(numbers: str) -> str:
    """Return places in a drawing to a hundredth of a point, without line breaks."""
    return " ".join(re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", numbers).split())
