"""Leaderboards: runs in rows, languages in columns, and which differences are beyond chance. Imports no torch.

The names below are imported when they are first used, so that the command's help, which lists the formats, is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.discovery import imported_when_used

if TYPE_CHECKING:
    from lm_eval_moe.compare.board import Board, Section, build_board
    from lm_eval_moe.compare.selection import Chosen, choose_runs
    from lm_eval_moe.compare.settings import Settings

__all__ = ["Board", "Chosen", "Section", "Settings", "build_board", "choose_runs"]

__getattr__ = imported_when_used(
    __name__,
    {
        **dict.fromkeys(("Board", "Section", "build_board"), "lm_eval_moe.compare.board"),
        **dict.fromkeys(("Chosen", "choose_runs"), "lm_eval_moe.compare.selection"),
        "Settings": "lm_eval_moe.compare.settings",
    },
)
