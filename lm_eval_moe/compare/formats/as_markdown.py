"""A Markdown table for every section, for GitHub and model cards."""

from __future__ import annotations

from collections.abc import Iterator

from lm_eval_moe.compare.board import Board, RunRow, Section
from lm_eval_moe.compare.formats._base import Format, register
from lm_eval_moe.compare.wording import caption, change_text, control_text, row_detail, section_notes, value_text
from lm_eval_moe.escaping import markdown_cell
from lm_eval_moe.long_lists import in_full
from lm_eval_moe.tables import markdown_table

__all__ = ["render"]


def render(board: Board, title: str) -> str:
    """Return the leaderboard as GitHub-flavoured Markdown."""
    lines = [f"# {markdown_cell(title)}", ""]
    lines += [markdown_cell(board.shared), ""] if board.shared else []
    for section in board.sections:
        lines += [f"## {markdown_cell(caption(section))}", "", *_table(section), ""]
        lines += [f"- {markdown_cell(note)}" for note in in_full(section_notes(section, board))]
        lines.append("")
    if board.notes:
        lines += ["## Notes", "", *(f"- {markdown_cell(note)}" for note in board.notes), ""]
    return "\n".join(lines)


def _table(section: Section) -> list[str]:
    heads = ["run", *(head.title for head in section.heads)]
    heads += ["vs random control"] if section.has_control else []
    rows = [[_run_title(row, section), *_values(section, row)] for row in section.rows]
    return markdown_table([markdown_cell(head) for head in heads], rows)


def _run_title(row: RunRow, section: Section) -> str:
    detail = row_detail(row, section)
    return f"{markdown_cell(row.label)} ({markdown_cell(detail)})" if detail else markdown_cell(row.label)


def _values(section: Section, row: RunRow) -> Iterator[str]:
    for head, cell in zip(section.heads, row.cells, strict=True):
        change = change_text(cell, head)
        yield f"{value_text(cell, head)} ({change})" if change else value_text(cell, head)
    if section.has_control:
        value, interval = control_text(row, section.heads[0])
        yield f"{value} {interval}".strip()


register(Format("markdown", render, (".md", ".markdown")))
