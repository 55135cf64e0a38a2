"""A Markdown table for every section, for GitHub and model cards."""

from __future__ import annotations

from collections.abc import Iterator

from lm_eval_moe.compare.board import Board, RunRow, Section
from lm_eval_moe.compare.formats._base import Format, register
from lm_eval_moe.compare.wording import caption, change_text, control_text, section_notes, value_text
from lm_eval_moe.escaping import markdown_cell
from lm_eval_moe.tables import markdown_table

__all__ = ["render"]


def render(board: Board, title: str) -> str:
    """Return the leaderboard as GitHub-flavoured Markdown."""
    lines = [f"# {markdown_cell(title)}", ""]
    for section in board.sections:
        lines += [f"## {markdown_cell(caption(section))}", "", *_table(section), ""]
        lines += [f"- {markdown_cell(note)}" for note in section_notes(section, board)]
        lines.append("")
    if board.notes:
        lines += ["## Notes", "", *(f"- {markdown_cell(note)}" for note in board.notes), ""]
    return "\n".join(lines)


def _table(section: Section) -> list[str]:
    heads = ["model", "steering", *(head.title for head in section.heads)]
    heads += ["vs random control"] if section.has_control else []
    rows = [[*_named(row), *_values(section, row)] for row in section.rows]
    return markdown_table([markdown_cell(head) for head in heads], rows, left=2)


def _named(row: RunRow) -> list[str]:
    plain = row.label in (row.model, f"{row.model} + {row.steering} #{row.steering_hash[:8]}")
    model = markdown_cell(row.model) if plain else f"**{markdown_cell(row.label)}** ({markdown_cell(row.model)})"
    steering = f"{markdown_cell(row.steering)} `{markdown_cell(row.steering_hash[:8])}`" if row.steering else ""
    return [model, steering]


def _values(section: Section, row: RunRow) -> Iterator[str]:
    for head, cell in zip(section.heads, row.cells, strict=True):
        change = change_text(cell, head)
        yield f"{value_text(cell, head)} ({change})" if change else value_text(cell, head)
    if section.has_control:
        value, interval = control_text(row, section.heads[0])
        yield f"{value} {interval}".strip()


register(Format("markdown", render, (".md", ".markdown")))
