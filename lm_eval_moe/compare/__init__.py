"""Leaderboards: runs in rows, languages in columns, and which differences are beyond chance. Imports no torch."""

from __future__ import annotations

from lm_eval_moe.compare.board import Board, Section, build_board
from lm_eval_moe.compare.selection import Chosen, choose_runs
from lm_eval_moe.compare.settings import BoardSettings

__all__ = ["Board", "BoardSettings", "Chosen", "Section", "build_board", "choose_runs"]
