"""Notice router logits that are NaN or infinite: the choice of experts would be arbitrary, and nothing would say so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.capture.token_rows import TokenRows

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

    A sum is finite only if all its terms are: one sum over each token's logits is kept, and one number a pass goes to
    the host. Padding may hold anything (a row of it attends to nothing); only if that number is not finite is looked
    at which tokens it comes from.
    """

    def __init__(self) -> None:
        self._sums: list[tuple[int, Tensor]] = []

    def start_pass(self, rows: TokenRows) -> None:
        """Begin a forward pass; ``rows`` says which tokens count."""
        self._rows, self._sums = rows, []

    def see(self, position: int, logits: Tensor) -> None:
        """Take the logits ``[N, E]`` of a router."""
        # In float32 at least, since the sum of many large half-precision numbers is infinite in their own type.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self._sums.append((position, logits.detach().sum(-1, dtype=dtype)))

    def end_pass(self) -> NotFinite | None:
        """End the pass; return where valid tokens have logits that are not finite, None if all is well."""
        sums, self._sums = self._sums, []
        if not sums:
            return None
        device = sums[0][1].device
        together = torch.stack([each.to(device, torch.float32) for _, each in sums])
        if math.isfinite(float(together.sum())):
            return None
        rows = self._rows.fitted(together.shape[1])
        wrong = (~together.isfinite()).cpu().numpy()[:, rows.kept]
        if not wrong.any():
            return None
        positions = {sums[index][0] for index in np.flatnonzero(wrong.any(1))}
        segments = {int(segment) for segment in rows.segment[wrong.any(0)]}
        return NotFinite(tuple(sorted(positions)), tuple(sorted(segments)))
