"""The token rows of one forward pass: the segment of each, and which token lies before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import RoutingBypassedError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["NONE", "Indices", "LinksOnDevice", "RowsOnDevice", "Steered", "TokenRows"]

NONE = -1
"""No segment, no row."""

Indices = NDArray[np.int64]


class Steered(NamedTuple):
    """What decides how the tokens of a segment are steered.

    Attributes:
        language: Decides which interventions apply; None where it is not known.
        generated: Whether they belong to the continuation rather than the prompt.
        plan: Which of several plans applies, as a sweep's cells in one pass have.
    """

    language: str | None = None
    generated: bool = False
    plan: int = 0


@dataclass(frozen=True)
class TokenRows:
    """The N token rows of one forward pass, M of which count; R runs, one for each segment that has rows in it.

    Attributes:
        count: N.
        batch: ``(B, T)`` if the rows are those of a batch, row after row.
        kept: ``[M]`` the rows that count, ascending. All that follows is about these alone.
        segment: ``[M]`` the segment of each.
        previous: ``[M]`` where, among the M, the token before it is; `NONE` if it is not in this pass.
        carried: ``[M]`` the segment whose last token, of an earlier pass, is the one before it; `NONE` for none.
        joins: ``[M]`` whether it is the first token of a segment that others come before.
        position: ``[M]`` how many tokens of its sequence come before it.
        order: ``[M]`` the rows sorted by run, in the order of the sequence.
        run: ``[M]`` the run of each.
        runs: ``[R]`` the segment of each run, ascending.
        run_last: ``[R]`` each run's last row.
        run_after: ``[R]`` the run that comes before it; `NONE` if it is not in this pass.
        run_carried: ``[R]`` the segment of an earlier pass that comes before it (itself, where it continues); or
        `NONE`. steered: ``[R]`` what decides how each run is steered.
        reused: Segments that begin in this pass under a number that was released.
        capacity: Above every number of a segment.
    """

    count: int
    batch: tuple[int, ...] | None
    kept: Indices
    segment: Indices
    previous: Indices
    carried: Indices
    joins: NDArray[np.bool_]
    position: Indices
    order: Indices
    run: Indices
    runs: Indices
    run_last: Indices
    run_after: Indices
    run_carried: Indices
    steered: Sequence[Steered]
    reused: Indices
    capacity: int
    _fitted: dict[int, TokenRows] = field(default_factory=dict, repr=False, compare=False)
    _devices: dict[torch.device, RowsOnDevice] = field(default_factory=dict, repr=False, compare=False)
    _links: dict[torch.device, LinksOnDevice] = field(default_factory=dict, repr=False, compare=False)

    def fitted(self, count: int) -> TokenRows:
        """Return the same rows as a router sees them that is called with another number of tokens.

        Prompt-tuning adapters put virtual tokens before each sequence of a batch, which do not count.

        Raises:
            RoutingBypassedError: The tokens cannot be told apart.
        """
        if count == self.count:
            return self
        if count not in self._fitted:
            rows, width = self.batch or (0, self.count)
            wide, rest = divmod(count, rows) if rows else (0, 1)
            if rest or wide < width:
                shape = f"a batch of {rows} rows of {width}" if rows else f"a pass of {width}"
                raise RoutingBypassedError(
                    f"a router was called with {count} tokens for {shape}: it is unclear which token is which",
                    fix="capture and steering need a router that sees every token of the pass exactly once, in order",
                )
            row, column = np.divmod(self.kept, width)
            counted = row * wide + (wide - width) + column
            self._fitted[count] = replace(
                self, count=count, batch=(rows, wide), kept=counted, _fitted={}, _devices={}, _links={}
            )
        return self._fitted[count]

    def spread(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return values ``[M]`` at all rows, ``[N]``: false where a row does not count."""
        wide = np.zeros(self.count, dtype=bool)
        wide[self.kept] = values
        return wide

    def on(self, device: torch.device) -> RowsOnDevice:
        """Return what reductions need of the rows as tensors on a device."""
        if device not in self._devices:
            self._devices[device] = RowsOnDevice.of([self], device)
        return self._devices[device]

    def links_on(self, device: torch.device) -> LinksOnDevice:
        """Return which token lies before which, as tensors on a device."""
        if device not in self._links:
            self._links[device] = LinksOnDevice.of([self], device)
        return self._links[device]


class RowsOnDevice(NamedTuple):
    """What all reductions need of consecutive passes, as int64 tensors; N and M are those of all of them together.

    Attributes:
        kept: ``[M]`` the rows that count; None: all of them.
        segment: ``[M]`` the segment of each.
    """

    kept: Tensor | None
    segment: Tensor

    @classmethod
    def of(cls, passes: Sequence[TokenRows], device: torch.device) -> RowsOnDevice:
        """Return the tensors of the rows of consecutive passes."""
        begins = _sums_before([rows.count for rows in passes])
        positions = np.concatenate([rows.kept + begin for rows, begin in zip(passes, begins, strict=True)])
        kept_rows, segment = _moved((positions, np.concatenate([rows.segment for rows in passes])), device)
        return cls(kept_rows if positions.size < sum(rows.count for rows in passes) else None, segment)


class LinksOnDevice(NamedTuple):
    """What comparing consecutive tokens needs of consecutive passes, as int64 tensors.

    P of the M rows have a token before them.

    Attributes:
        linked: ``[P]`` the rows with a token before them, among the M; None: all of them.
        pair: ``[P]`` where their pairs are summed: twice the segment, plus 1 for the pair over a seam.
        carries: ``[C]`` segments whose last token, of an earlier pass, lies before a row.
        source: ``[P]`` where the token before is: behind the C carries, the M rows.
        runs: ``[R]`` the segments that have rows.
        run_last: ``[R]`` the last row of each.
    """

    linked: Tensor | None
    pair: Tensor
    carries: Tensor
    source: Tensor
    runs: Tensor
    run_last: Tensor

    @classmethod
    def of(cls, passes: Sequence[TokenRows], device: torch.device) -> LinksOnDevice:
        """Return the tensors of the rows of consecutive passes."""
        last = np.full(passes[-1].capacity, NONE)  # of each segment, its last row so far
        before, outside = [], []
        for rows, begin in zip(passes, _sums_before([rows.kept.size for rows in passes]), strict=True):
            carried = np.where(rows.carried == NONE, NONE, last[rows.carried])  # in one of these passes after all
            before.append(np.where(rows.previous == NONE, carried, rows.previous + begin))
            outside.append(np.where(carried == NONE, rows.carried, NONE))
            last[rows.runs] = rows.run_last + begin
        previous, carried = np.concatenate(before), np.concatenate(outside)
        segment, joins = (np.concatenate([getattr(rows, name) for rows in passes]) for name in ("segment", "joins"))
        linked = np.flatnonzero((previous != NONE) | (carried != NONE))
        carries, place = np.unique(carried[linked], return_inverse=True)
        some = carries.size and carries[0] == NONE
        carries, place = (carries[1:], place - 1) if some else (carries, place)
        source = np.where(carried[linked] != NONE, place, carries.size + previous[linked])
        pair = 2 * segment[linked] + joins[linked]
        runs = np.flatnonzero(last != NONE)
        linked_rows, *rest = _moved((linked, pair, carries, source, runs, last[runs]), device)
        return cls(linked_rows if linked.size < segment.size else None, *rest)


def _sums_before(sizes: Sequence[int]) -> Indices:
    """Return, for each size, the sum of those before it."""
    return np.cumsum([0, *sizes[:-1]])


def _moved(arrays: Sequence[Indices], device: torch.device) -> Sequence[Tensor]:
    """Return arrays as tensors on a device, by one copy."""
    import torch

    joined = torch.from_numpy(np.concatenate(arrays)).to(device)
    return torch.split(joined, [array.size for array in arrays])
