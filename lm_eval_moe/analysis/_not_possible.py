"""What an analysis says where something is missing."""

from __future__ import annotations

__all__ = ["NotPossible"]


class NotPossible(Exception):  # noqa: N818 - not a mistake: the output says what is missing
    """An analysis cannot be done with what was given.

    Args:
        reason: Why.
        fix: What would make it possible.
    """

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}; {fix}")
        self.reason, self.fix = reason, fix
