"""Accumulate routing over the tokens of a batch, on the device, without keeping anything per token.

The routers' outputs of a few layers are held until they fill a small buffer, then reduced together: one set of
operations for many layers when a pass has one token a row, one layer at a time when it has thousands. Nothing is
copied to the host before the batch is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_eval_moe.capture.layout import BatchLayout
from lm_eval_moe.capture.records import SegmentSums
from lm_eval_moe.errors import RoutingBypassedError

__all__ = ["Recorder"]

Targets = Callable[[int, Tensor], list[tuple[Tensor, Tensor]]]

# Elements of a [layers, tokens, experts] buffer at which the pending layers are reduced.
_BUFFER = 1 << 20


@dataclass(frozen=True)
class _Selection:
    """What one router call gave: N tokens, E experts, K selected."""

    position: int
    logits: Tensor  # [N, E]
    indices: Tensor  # [N, K]
    weights: Tensor  # [N, K]
    unchanged: Tensor | None  # [N, K]


class Recorder:
    """Sums of one batch's routing, per row and segment, over one or more forward passes.

    Args:
        layers: MoE layers, L.
        experts: Routed experts per layer, E.
        sigmoid: Whether the routers score with a sigmoid instead of a softmax (matters for the dense distribution).
        skips: Whether a token can select fewer than K routed experts: an index of E or more then stands for none.
        overlap: Whether to compare the experts of consecutive tokens, a quarter of the work; they are NaN otherwise.
    """

    def __init__(
        self, layers: int, experts: int, *, sigmoid: bool = False, skips: bool = False, overlap: bool = True
    ) -> None:
        self._layers, self._experts, self._sigmoid, self._skips = layers, experts, sigmoid, skips
        self._overlap = overlap
        self._ready: list[_Selection] = []
        self._logits: dict[int, Tensor] = {}
        self._unchanged: dict[int, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._last: Tensor | None = None  # [L, B, E], the selection of each row's last token
        self._tokens: NDArray[np.int64] | None = None  # [B, S]
        self._joined: NDArray[np.int64] | None = None  # [B, S]

    def start_pass(self, layout: BatchLayout, targets: Targets | None = None) -> None:
        """Begin a forward pass.

        Args:
            layout: Which of its tokens count.
            targets: From a router position and what the router saw ``[N, ...]`` to pairs of targeted experts ``[n]``
                and whether they are at each token ``[N]``; what steering reached is counted for these.
        """
        self._layout, self._targets = layout, targets
        self._masks: dict[torch.device, _Masks] = {}
        tokens, joined = layout.tallies()
        self._tokens = tokens if self._tokens is None else self._tokens + tokens
        self._joined = joined if self._joined is None else self._joined + joined

    def join(self, rows: NDArray[np.bool_], segments: Sequence[int]) -> None:
        """Make consecutive segments one, the first of them.

        Args:
            rows: ``[B]`` in which rows.
            segments: In the order of the sequence.
        """
        tokens, joined = self._tokens, self._joined
        if tokens is None or joined is None:
            return
        into, *others = segments
        for row in np.flatnonzero(rows):
            there = [segment for segment in segments if tokens[row, segment]]
            if not there:
                continue
            if "pairs_before" in self._sums:  # the links between them are inside now
                before, inside = (self._sums[name][:, row] for name in ("pairs_before", "pairs_inside"))
                inside[:, into] += before[:, there[1:]].sum(1)
                before[:, there[1:]] = 0
            for sums in self._sums.values():
                sums[:, row, into] += sums[:, row, others].sum(1)
                sums[:, row, others] = 0
            tokens[row, into] = tokens[row, segments].sum()
            joined[row, into] = joined[row, there[0]]
            tokens[row, others] = joined[row, others] = 0

    def logits(self, position: int, logits: Tensor) -> None:
        """Take the logits ``[N, E]`` that the model goes on with."""
        self._logits[position] = logits

    def unchanged(self, position: int, indices: Tensor) -> None:
        """Take the selection ``[N, K]`` that the router makes without steering."""
        self._unchanged[position] = indices

    def selection(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """Take the selection ``[N, K]`` and its combine weights, which completes a layer."""
        logits, unchanged = self._logits.pop(position), self._unchanged.pop(position, None)
        self._ready.append(_Selection(position, logits, indices, weights, unchanged))
        if len(self._ready) * logits.numel() >= _BUFFER:
            self._reduce()

    def end_pass(self) -> None:
        """Reduce what is pending; the layer outputs of the pass are free after this."""
        self._reduce()

    def sums_of(self, rows: list[int]) -> list[SegmentSums]:
        """Return the sums of some rows; the one copy from the device to the host."""
        tokens, joined = self._tokens, self._joined
        if tokens is None or joined is None:
            raise RuntimeError("no pass was recorded")
        picked = torch.tensor(rows)
        host = {
            name: values.index_select(1, picked.to(values.device)).cpu().numpy().astype(np.float64)
            for name, values in self._sums.items()
        }
        blank = np.zeros(host["routed"].shape)  # [L, rows, S]
        unknown = np.full(blank.shape, np.nan)
        return [
            SegmentSums(
                tokens=tokens[row],
                joined=joined[row],
                routed=host["routed"][:, i].T,
                counts=host["counts"][:, i].swapaxes(0, 1),
                gate_mass=host["gate_mass"][:, i].swapaxes(0, 1),
                importance=host["importance"][:, i].swapaxes(0, 1),
                importance_dense=host["importance_dense"][:, i].swapaxes(0, 1),
                pairs_inside=host.get("pairs_inside", unknown)[:, i].T,
                pairs_before=host.get("pairs_before", unknown)[:, i].T,
                targeted=host.get("targeted", blank)[:, i].T,
                hit=host.get("hit", blank)[:, i].T,
                changed=host.get("changed", blank)[:, i].T,
            )
            for i, row in enumerate(rows)
        ]

    def _reduce(self) -> None:
        ready, self._ready = self._ready, []
        for run in _runs(ready):
            device = run[0].indices.device
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                self._reduce_run(run, device)

    def _reduce_run(self, run: list[_Selection], device: torch.device) -> None:
        """Reduce consecutive layers on one device: G layers, B rows, T tokens, E experts, S segments."""
        at = slice(run[0].position, run[-1].position + 1)
        grid = _Grid(self._layout, run[0].indices.shape[0])
        masks = self._masks_on(device, grid)
        indices = torch.stack([grid(entry.indices) for entry in run])  # [G, B, T, K]
        weights = torch.stack([grid(entry.weights) for entry in run]).float()
        logits = torch.stack([grid(entry.logits) for entry in run]).float()  # [G, B, T, E]
        if masks.padding is not None:  # what stands there may be NaN, which no factor of zero takes out of a sum
            for values in (weights, logits):
                values.flatten(1, 2).index_fill_(1, masks.padding, 0.0)
        selected = self._spread(indices, torch.ones_like(weights), logits)
        mass = self._spread(indices, weights, logits)
        tiny = torch.finfo(torch.float32).tiny
        shared = mass if self._skips else weights
        importance = mass / shared.sum(-1, keepdim=True).clamp_min(tiny)
        dense = logits.sigmoid() if self._sigmoid else logits.softmax(-1)
        if self._sigmoid:
            dense = dense / dense.sum(-1, keepdim=True).clamp_min(tiny)
        for name, values in (
            ("counts", selected),
            ("gate_mass", mass),
            ("importance", importance),
            ("importance_dense", dense),
        ):
            self._add(name, at, torch.stack([(values * mask[..., None]).sum(2) for mask in masks.segments], 2))
        routed = (mass.sum(-1) != 0).float()  # [G, B, T], 0 where a token skips the routed experts
        self._add("routed", at, torch.stack([(routed * mask).sum(2) for mask in masks.segments], 2))
        if self._overlap:
            self._add_overlap(at, selected, masks)
        for entry, chosen in zip(run, selected, strict=True):
            self._add_steered(entry, chosen, grid, masks)

    def _spread(self, indices: Tensor, values: Tensor, like: Tensor) -> Tensor:
        """Put the values ``[.., K]`` at their experts: ``[.., E]``, zero elsewhere."""
        if not self._skips:
            return torch.zeros_like(like).scatter_(-1, indices, values)
        wide = like.new_zeros(*like.shape[:-1], self._experts + 1)
        return wide.scatter_(-1, indices.clamp_max(self._experts), values)[..., :-1]

    def _add_overlap(self, at: slice, selected: Tensor, masks: _Masks) -> None:
        if self._last is None:
            self._last = selected.new_zeros(self._layers, selected.shape[1], self._experts)
        before = self._last[at].to(selected.device)[:, :, None]
        previous = torch.cat([before, selected[:, :, :-1]], 2)
        common = (selected * previous).sum(-1)
        union = selected.sum(-1) + previous.sum(-1) - common
        jaccard = torch.where(union == 0, 1.0, common / union)  # [G, B, T]; two tokens that both skip are alike
        for name, pairs in (("pairs_inside", masks.inside), ("pairs_before", masks.across)):
            self._add(name, at, torch.stack([torch.where(mask, jaccard, 0.0).sum(2) for mask in pairs], 2))
        self._last[at] = selected[:, :, -1].to(self._last.device)

    def _add_steered(self, entry: _Selection, chosen: Tensor, grid: _Grid, masks: _Masks) -> None:
        targets = self._targets(entry.position, entry.indices) if self._targets else []
        if not targets:
            return
        in_force = torch.zeros_like(masks.valid)
        hit = torch.zeros_like(masks.valid)
        for experts, tokens in targets:
            mask = grid(tokens[:, None])[..., 0]
            in_force |= mask
            hit |= mask & (chosen[..., experts] > 0).any(-1)
        counted = {"targeted": in_force, "hit": hit}
        if entry.unchanged is not None:
            indices = grid(entry.unchanged)
            unchanged = self._spread(indices, torch.ones_like(indices, dtype=chosen.dtype), chosen)
            counted["changed"] = in_force & (chosen != unchanged).any(-1)
        at = slice(entry.position, entry.position + 1)
        for name, flags in counted.items():
            self._add(name, at, torch.stack([(flags * mask).sum(1) for mask in masks.segments], 1)[None])

    def _masks_on(self, device: torch.device, grid: _Grid) -> _Masks:
        if device not in self._masks:
            self._masks[device] = _Masks(self._layout, grid, device)
        return self._masks[device]

    def _add(self, name: str, at: slice, values: Tensor) -> None:
        """Add ``[G, B, S, ...]`` to the sums of the layers ``at``, in double precision where the device has it."""
        if name not in self._sums:
            dtype = torch.float32 if values.device.type == "mps" else torch.float64
            self._sums[name] = torch.zeros(self._layers, *values.shape[1:], dtype=dtype, device=values.device)
        sums = self._sums[name]
        sums[at] += values.to(sums.device, sums.dtype)


def _runs(entries: list[_Selection]) -> list[list[_Selection]]:
    """Split the entries into runs of consecutive layers on one device."""
    runs: list[list[_Selection]] = []
    for entry in entries:
        last = runs[-1][-1] if runs else None
        if last and last.position + 1 == entry.position and last.indices.device == entry.indices.device:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs


class _Grid:
    """Brings what a router saw, ``[N, ...]``, into the batch's form ``[B, T, ...]``.

    Prompt-tuning adapters put virtual tokens before each row: the batch is then wider than its layout, and those
    columns are padding.
    """

    def __init__(self, layout: BatchLayout, tokens: int) -> None:
        self.rows, width = layout.segment.shape
        self.width, rest = divmod(tokens, self.rows)
        if rest or self.width < width:
            raise RoutingBypassedError(
                f"a router was called with {tokens} tokens for a batch of {self.rows} rows of {width}: its tokens "
                "cannot be told apart",
                fix="capture and steering need a router that sees every token of the batch once, in order",
            )
        self._extra = self.width - width

    def __call__(self, values: Tensor) -> Tensor:
        return values.reshape(self.rows, self.width, values.shape[-1])

    def widen(self, values: Tensor, fill: int = 0) -> Tensor:
        """Put the columns of virtual tokens before ``[B, T]``."""
        return torch.nn.functional.pad(values, (self._extra, 0), value=fill) if self._extra else values


class _Masks:
    """The layout of a pass on one device: which token counts for which segment, and which pairs of tokens."""

    def __init__(self, layout: BatchLayout, grid: _Grid, device: torch.device) -> None:
        on_host = grid.widen(torch.from_numpy(layout.segment), -1)
        padding = (on_host < 0).flatten().nonzero()[:, 0]
        self.padding = padding.to(device) if len(padding) else None
        segment = on_host.to(device)
        before = torch.from_numpy(layout.before).to(device)[:, None]
        previous = torch.cat([before, segment[:, :-1]], 1)
        adjacent = (segment >= 0) & (previous >= 0)
        numbers = range(layout.segments)
        self.valid = segment >= 0
        self.segments = [(segment == number).float() for number in numbers]
        self.inside = [adjacent & (segment == number) & (previous == number) for number in numbers]
        self.across = [adjacent & (segment == number) & (previous != number) for number in numbers]
