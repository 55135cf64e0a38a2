"""HTML pages made of templates, for the leaderboard and the report: what comes from the files is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval_moe._version import __version__
from lm_eval_moe.escaping import printable

__all__ = ["render_page"]


def render_page(template: Path, **content: Any) -> str:
    """Fill a Jinja template, which also knows our ``version``; `markupsafe.Markup` stays as it is."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_escaped_text
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(version=__version__, **content)


def _escaped_text(value: Any) -> Any:
    """Write control characters as escapes; markup and numbers stay as they are."""
    return "\n".join(map(printable, value.split("\n"))) if type(value) is str else value
