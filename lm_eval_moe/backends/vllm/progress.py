"""One progress bar for a kind of request, however often vLLM is called: its own bars become parts of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

__all__ = ["as_part_of"]


def as_part_of(bar: tqdm[Any], requests: int) -> Callable[..., Any]:
    """Return what vLLM takes in place of ``tqdm``.

    Args:
        bar: Counts requests.
        requests: How many of them the rows of one call serve; rows may serve several.
    """

    def part(rows: Any = None, **arguments: Any) -> Any:
        return _Part(bar, requests, **arguments) if rows is None else rows  # which are being handed over

    return part


class _Nowhere:
    def write(self, text: str) -> None: ...
    def flush(self) -> None: ...


class _Part(tqdm):
    """A bar that is not shown, and lets another continue."""

    def __init__(self, bar: tqdm[Any], requests: int, **arguments: Any) -> None:
        super().__init__(**arguments, file=_Nowhere())
        self._bar, self._requests, self._told = bar, requests, 0

    def update(self, n: float | None = 1) -> bool | None:
        updated = super().update(n)
        requests = int(self.n * self._requests // max(self.total or 0, 1))
        self._bar.update(requests - self._told)
        self._told = requests
        return updated
