"""Colours: on the page as custom properties, so that light and dark need one drawing; in files as themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "DARK",
    "LIGHT",
    "LINE_COLOURS",
    "RUN_COLOURS",
    "Colours",
    "css",
    "file_colours",
    "page_colours",
    "property_of",
]

LIGHT: Mapping[str, str] = {
    **{"paper": "#fcfbf8", "ink": "#22252a", "muted": "#666a70", "rule": "#dcd8cf", "band": "#f3f0e9"},
    **{"card": "#ffffff", "accent": "#8c4a17"},
    **{"run-0": "#4a4f57", "run-1": "#0b6aa8", "run-2": "#c4570a", "run-3": "#0a7f5f", "run-4": "#8b3f88"},
    **{"run-5": "#7a6a00"},
    **{"line-0": "#2f3a8c", "line-1": "#a8741a", "line-2": "#1d7a4c", "line-3": "#c04f74", "line-4": "#2b87b8"},
    **{"line-5": "#6d1f3f", "line-6": "#7b6fd0", "line-7": "#5d6b1f"},
}
DARK: Mapping[str, str] = {
    **{"paper": "#15171a", "ink": "#e3e2de", "muted": "#a3a6ab", "rule": "#363a40", "band": "#1e2125"},
    **{"card": "#1a1d20", "accent": "#e0a36f"},
    **{"run-0": "#c3c7cd", "run-1": "#62b3ea", "run-2": "#f0954a", "run-3": "#4cc79c", "run-4": "#d793d3"},
    **{"run-5": "#d3c04a"},
    **{"line-0": "#8f9bf2", "line-1": "#e0b35a", "line-2": "#5fc58c", "line-3": "#f08fae", "line-4": "#74c8ee"},
    **{"line-5": "#c9748f", "line-6": "#b9b0ff", "line-7": "#b5c46a"},
}
RUN_COLOURS, LINE_COLOURS = 6, 8

# Matplotlib draws with a placeholder for each property; what makes the page's SVG puts the property in its place.
_PLACEHOLDERS = {name: f"#0100{number:02x}" for number, name in enumerate(LIGHT)}
_PROPERTIES = {code: f"var(--{name})" for name, code in _PLACEHOLDERS.items()}


@dataclass(frozen=True)
class Colours:
    """What a figure is drawn with.

    Attributes:
        by_name: The colour of every property.
        low: Of values below 0 in rasters, which have no custom properties: to be seen on light and dark paper.
        high: Of values above 0.
    """

    by_name: Mapping[str, str]
    low: str = "#2f7fd0"
    high: str = "#de6a1a"

    @property
    def ink(self) -> str:
        """Of text."""
        return self.by_name["ink"]

    @property
    def muted(self) -> str:
        """Of what stands back."""
        return self.by_name["muted"]

    @property
    def band(self) -> str:
        """Of shaded areas."""
        return self.by_name["band"]

    def run(self, number: int) -> str:
        """Of a run."""
        return self.by_name[f"run-{number % RUN_COLOURS}"]

    def line(self, number: int) -> str:
        """Of a line, such as a language's."""
        return self.by_name[f"line-{number % LINE_COLOURS}"]

    def style(self) -> dict[str, Any]:
        """Return the Matplotlib settings of all figures."""
        return {
            "svg.fonttype": "none",
            "svg.hashsalt": "lm-eval-moe",  # the same results give the same page
            "text.parse_math": False,
            "axes.unicode_minus": True,
            "font.size": 10,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.ink,
            "axes.labelsize": 10,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "text.color": self.ink,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.ink,
            "ytick.labelcolor": self.ink,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 3,
            "ytick.major.size": 3,
            "lines.solid_capstyle": "round",
        }


def page_colours() -> Colours:
    """Return placeholders of the page's custom properties."""
    return Colours(_PLACEHOLDERS)


def file_colours() -> Colours:
    """Return the light colours on white."""
    return Colours({**LIGHT, "paper": "#ffffff"})


def property_of(colour: str) -> str:
    """Return the custom property of a placeholder; any other colour as it is."""
    return _PROPERTIES.get(colour, colour)


def css(colours: Mapping[str, str]) -> str:
    """Return declarations of custom properties."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
