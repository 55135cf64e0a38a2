"""Notice router logits that are NaN or infinite: the choice of experts would be arbitrary, and nothing would say so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.recording.token_rows import TokenRows

__all__ = ["FiniteCheck", "NotFinite"]


class NotFinite(NamedTuple):
    """Where the logits of a pass are not finite.

    Attributes:
        positions: The routers, ascending.
        segments: The segments whose tokens they are at, ascending.
    """

    positions: tuple[int, ...]
    segments: tuple[int, ...]


class FiniteCheck:
    """Looks at the logits of one forward pass after another, as the model computes them, before any steering.

    A sum is finite only if all its terms are: one sum over each token's logits is kept, and one number goes to the
    host. Padding may hold anything (a row of it attends to nothing); only if that number is not finite is looked at
    which tokens it comes from.

    Args:
        together: How many passes the host looks at together: a GPU that has to answer after each waits for the next.
    """

    def __init__(self, together: int = 1) -> None:
        self._together = together
        self._sums: list[tuple[int, Tensor]] = []
        self._passes: list[tuple[TokenRows, list[int], Tensor]] = []  # routers and sums ``[L, N]``

    def start_pass(self, rows: TokenRows) -> None:
        """Begin a forward pass; ``rows`` says which tokens count."""
        self._rows, self._sums = rows, []

    def see(self, position: int, logits: Tensor) -> None:
        """Take the logits ``[N, E]`` of a router."""
        # In float32 at least, since the sum of many large half-precision numbers is infinite in their own type.
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        self._sums.append((position, logits.detach().sum(-1, dtype=dtype)))

    def end_pass(self) -> NotFinite | None:
        """End the pass; if it is time to look, return what `look` does."""
        sums, self._sums = self._sums, []
        if sums:
            device = sums[0][1].device
            stacked = torch.stack([total.to(device, torch.float32) for _, total in sums])
            self._passes.append((self._rows, [position for position, _ in sums], stacked))
        return self.look() if len(self._passes) >= self._together else None

    def look(self) -> NotFinite | None:
        """Return where valid tokens of the last passes have logits that are not finite, None if all is well."""
        passes, self._passes = self._passes, []
        if not passes or math.isfinite(float(torch.stack([sums.sum() for *_, sums in passes]).sum())):
            return None
        positions: set[int] = set()
        segments: set[int] = set()
        for rows, routers, sums in passes:
            fitted = rows.fitted(sums.shape[1])
            wrong = (~sums.isfinite()).cpu().numpy()[:, fitted.kept]
            positions.update(routers[index] for index in np.flatnonzero(wrong.any(1)))
            segments.update(int(segment) for segment in fitted.segment[wrong.any(0)])
        return NotFinite(tuple(sorted(positions)), tuple(sorted(segments))) if positions else None
