"""The verdict as GitHub-flavoured Markdown, for a job summary or a comment."""

from __future__ import annotations

from lm_eval_moe.escaping import markdown_cell
from lm_eval_moe.gate.cells import explained, flip_tables, footer, tables_of
from lm_eval_moe.gate.verdict import Verdict, VerdictLine
from lm_eval_moe.tables import markdown_table

__all__ = ["markdown_summary"]


def markdown_summary(verdict: Verdict) -> str:
    """Return headline, what to read, the tables and what they rest on."""
    parts = [
        f"## Gate: {verdict.outcome}",
        markdown_cell(verdict.headline.removeprefix(f"Gate: {verdict.outcome}. ")),
        f"Candidate {markdown_cell(verdict.candidate.text)} against baseline {markdown_cell(verdict.baseline.text)}, "
        f"policy {markdown_cell(verdict.policy)}.",
        "\n".join(f"- {_status(line)} {_name(line)}: {markdown_cell(line.sentence)}" for line in explained(verdict)),
    ]
    for headers, rows, what in tables_of(verdict):
        if rows and what:
            parts.append("Routing drift: mean divergence / limit, by band of layers.")
        if rows:
            table_rows = [[_name(line, short=True), _status(line), *cells] for line, cells in rows]
            parts.append("\n".join(markdown_table(headers, table_rows, left=2)))
    for title, headers, cells in flip_tables(verdict):
        parts.append(markdown_cell(title))
        if cells:
            escaped = [[markdown_cell(cell) for cell in row] for row in cells]
            parts.append("\n".join(markdown_table(headers, escaped, left=len(headers))))
    parts.append(markdown_cell(footer(verdict)))
    if verdict.notes:
        parts.append("Notes:\n\n" + "\n".join(f"- {markdown_cell(note)}" for note in verdict.notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def _name(line: VerdictLine, *, short: bool = False) -> str:
    name = line.name.removeprefix("routing drift ") if short else line.name
    return f"{markdown_cell(line.benchmark)} {markdown_cell(name)}"


def _status(line: VerdictLine) -> str:
    return f"**{line.result}**" if line.effect in ("fail", "unjudged") else line.result
