"""The leaderboard as JSON: every table with all its numbers."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from lm_eval_moe.compare.board import Board, Section
from lm_eval_moe.compare.formats._base import Format, register
from lm_eval_moe.compare.formats.as_csv import records
from lm_eval_moe.compare.wording import section_notes
from lm_eval_moe.long_lists import in_full
from lm_eval_moe.results.marks import SIGNS
from lm_eval_moe.routing_fields.divergence import DIVERGENCE

__all__ = ["SCHEMA_VERSION", "render"]

SCHEMA_VERSION = 1


def render(board: Board, title: str) -> str:
    """Return the leaderboard as JSON; other characters than ASCII are escaped."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "alpha": board.settings.alpha,
        "interval_level": 1 - board.settings.alpha,
        "columns": board.settings.columns,
        "notes": list(board.notes),
        "tables": [_table(section, board) for section in board.sections],
        "values": list(records(board)),
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _table(section: Section, board: Board) -> dict[str, Any]:
    return {
        "title": section.title,
        "columns": [
            {
                "title": head.title,
                "kind": head.kind,
                "languages": list(head.languages),
                "metric": head.metric.key if head.metric else DIVERGENCE.key,
                "higher_is_better": head.higher_is_better,
            }
            for head in section.heads
        ],
        "runs": [row.label for row in section.rows],
        "marks": [{"sign": SIGNS[mark.kind], **asdict(mark)} for mark in section.marks],
        "notes": in_full(section_notes(section, board)),
    }


register(Format("json", render, (".json",)))
