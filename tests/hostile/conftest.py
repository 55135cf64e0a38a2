"""Shows at the end how many inputs were tried."""

from __future__ import annotations

from typing import Any

from support.hostile import boundary


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a line a reader, and the sum."""
    if not boundary.TRIED:
        return
    terminalreporter.section(f"hostile inputs ({boundary.PROFILE})")
    for name in sorted({name for name, _ in boundary.TRIED}):
        accepted, refused = (boundary.TRIED[name, outcome] for outcome in ("accepted", "refused"))
        terminalreporter.line(f"{name}: {accepted + refused} inputs, {refused} refused, {accepted} accepted")
    terminalreporter.line(f"in all {sum(boundary.TRIED.values())} inputs")
