"""What the pictures of all commands have in common: colours, canvas, heat maps, and how they become files."""

from __future__ import annotations

import importlib

from lm_eval_moe.errors import UserError

__all__ = ["require_matplotlib"]


def require_matplotlib(where: str) -> None:
    """Refuse to draw without matplotlib.

    Args:
        where: What asked for the picture, such as a flag.

    Raises:
        UserError: It is not installed.
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise UserError(
            "a picture needs matplotlib, which is not installed",
            fix='pip install "lm-eval-moe[report]"',
            where=where,
        ) from error
