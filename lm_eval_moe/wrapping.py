"""Text that goes on under itself, in what the commands print and write."""

from __future__ import annotations

import textwrap

__all__ = ["hanging"]


def hanging(head: str, text: str, width: int) -> list[str]:
    """Return ``head`` and ``text`` as lines of at most ``width`` columns; later lines are indented by the head's width.

    Words are never broken, so that names and paths can be copied.
    """
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
