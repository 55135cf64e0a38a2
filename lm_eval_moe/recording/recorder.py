"""Accumulate routing over the tokens of a pass, on the device, without keeping anything per token.

The routers' outputs are held until they fill a small buffer, then reduced together by scatter-adds into the sums of
their segments: one set of operations for all layers of many passes while decoding, when a pass has a few tokens; one
layer at a time when it has thousands. Nothing is copied to the host before somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_eval_moe.recording.running_sums import PassLayers, RunningSums, Target, outside_autograd
from lm_eval_moe.recording.segments import Forest
from lm_eval_moe.recording.sums import SegmentSums
from lm_eval_moe.recording.token_rows import TokenRows
from lm_eval_moe.routing_record import ARRAYS

__all__ = ["Recorder"]

Targets = Callable[[slice, Tensor], list[Target]]

# Elements of a [layers, tokens, K or E] buffer at which what is held is reduced.
_BUFFER = 1 << 18


class _Selection(NamedTuple):
    """What one router call gave: N tokens, E experts, K selected."""

    position: int
    indices: Tensor  # [N, K]
    weights: Tensor  # [N, K]
    logits: Tensor | None  # [N, E]
    unchanged: Tensor | None  # [N, K]


class Recorder:
    """Sums of the routing of segments, over any number of forward passes.

    Args:
        forest: The segments.
        layers: MoE layers, L.
        experts: Routed experts per layer, E.
        arrays: What is summed (see `ARRAYS`); the rest costs nothing.
        sigmoid: Whether the routers score with a sigmoid instead of a softmax (matters for the dense distribution).
        skips: Whether a token can select fewer than K routed experts: an index of E or more then stands for none.
    """

    def __init__(
        self,
        forest: Forest,
        layers: int,
        experts: int,
        *,
        arrays: Collection[str] = ARRAYS,
        sigmoid: bool = False,
        skips: bool = False,
    ) -> None:
        self._forest, self._layers, self._experts = forest, layers, experts
        self._dense = "importance_dense" in arrays
        self._ready: list[_Selection] = []  # of this pass
        self._held: list[PassLayers] = []  # of the same layers in consecutive passes
        self._size = 0  # elements of both
        self._logits: dict[int, Tensor] = {}
        self._unchanged: dict[int, Tensor] = {}
        self._sums = RunningSums(forest, layers, experts, arrays, sigmoid=sigmoid, skips=skips)
        self._rows: TokenRows | None = None

    def start_pass(self, rows: TokenRows, targets: Targets | None = None) -> None:
        """Begin a forward pass.

        Args:
            rows: Its rows.
            targets: From G router positions and what one of these routers saw ``[N, ...]`` to what is targeted, as
                bools: which routers ``[G]``, which experts at each ``[G, E]`` (the same tensors in every pass), and at
                which tokens ``[N]``, None for all that count; what steering reached is counted for these.
        """
        self._rows, self._targets = rows, targets
        if rows.reused.size:
            self._reduce()
            self._sums.clear(rows.reused)

    def logits(self, position: int, logits: Tensor) -> None:
        """Take the logits ``[N, E]`` that the model continues with."""
        if self._dense:
            self._logits[position] = logits

    def unchanged(self, position: int, indices: Tensor) -> None:
        """Take the selection ``[N, K]`` that the router makes without steering."""
        self._unchanged[position] = indices

    def selection(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """Take the selection ``[N, K]`` and its combine weights, which completes a layer."""
        logits, unchanged = self._logits.pop(position, None), self._unchanged.pop(position, None)
        last = self._ready[-1] if self._ready else None
        if last and (last.position + 1 != position or last.indices.device != indices.device):
            self._hold()
        self._ready.append(_Selection(position, indices, weights, logits, unchanged))
        self._size += (indices if logits is None else logits).numel()
        if self._size >= _BUFFER:
            self._hold()
            self._reduce()

    def end_pass(self) -> None:
        """Take what is pending; the layer outputs of the pass are free after this."""
        self._hold()

    def fold(self, stretches: Sequence[Sequence[int]]) -> None:
        """Add the sums of consecutive segments to those of the first, before the forest folds them."""
        if stretches:
            self._reduce()
            self._sums.fold(stretches)

    def sums_of(self, paths: Sequence[Sequence[int | Sequence[int]]]) -> list[SegmentSums]:
        """Return the sums of each path's segments; one copy from the device to the host.

        Args:
            paths: What each holds is a segment, or several consecutive ones whose sums are added up as those of one.
        """
        if self._rows is None:
            raise RuntimeError("no pass was recorded")
        self._reduce()
        stretches = [[at] if isinstance(at, int) else list(at) for path in paths for at in path]
        begun = [[segment for segment in stretch if self._forest.tokens(segment)] for stretch in stretches]
        # A number that was used before may have sums of that time, so that those without tokens are left out.
        segments = torch.tensor([segment for stretch in begun for segment in stretch], dtype=torch.long)
        into = torch.tensor([place for place, stretch in enumerate(begun) for _ in stretch], dtype=torch.long)
        leads = np.array([segment == stretch[0] for stretch in begun for segment in stretch], dtype=bool)
        host = {}
        for name, values in self._sums.by_name.items():
            picked = self._sums.grown(values).index_select(1, segments.to(values.device))
            if name == "pairs" and len(segments):
                first = torch.from_numpy(leads).to(picked.device)
                picked[..., 0] += torch.where(first, 0.0, picked[..., 1])
                picked[..., 1] = torch.where(first, picked[..., 1], 0.0)
            if len(segments) > len(stretches) or not all(begun):
                empty = picked.new_zeros(picked.shape[0], len(stretches), *picked.shape[2:])
                picked = empty.index_add_(1, into.to(picked.device), picked)
            host[name] = picked.cpu().numpy().astype(np.float64).swapaxes(0, 1)
        tokens = [sum(map(self._forest.tokens, stretch)) for stretch in stretches]
        joined = [bool(stretch) and self._forest.is_joined(stretch[0]) for stretch in begun]
        nothing = np.zeros((len(stretches), self._layers))
        pairs = host.get("pairs")
        sums, start = [], 0
        for path in paths:
            at = slice(start, start + len(path))
            start += len(path)

            def experts(name: str, at: slice = at) -> np.ndarray | None:
                return host[name][at, :, : self._experts] if name in host else None

            sums.append(
                SegmentSums(
                    tokens=np.array(tokens[at], dtype=np.int64),
                    joined=np.array(joined[at], dtype=np.int64),
                    routed=host["routed"][at] if "routed" in host else None,
                    counts=experts("counts"),
                    gate_mass=experts("gate_mass"),
                    importance=experts("importance"),
                    importance_dense=experts("importance_dense"),
                    pairs_inside=pairs[at, :, 0] if pairs is not None else None,
                    pairs_before=pairs[at, :, 1] if pairs is not None else None,
                    targeted=host.get("targeted", nothing)[at],
                    hit=host.get("hit", nothing)[at],
                    changed=host.get("changed", nothing)[at],
                )
            )
        return sums

    @outside_autograd
    def _hold(self) -> None:
        """Copy what this pass has given since the last time: the originals may not outlive the pass."""
        ready, self._ready = self._ready, []
        if not ready:
            return
        assert self._rows is not None
        first, at = ready[0], slice(ready[0].position, ready[-1].position + 1)
        if self._held and (self._held[0].at, self._held[0].indices.device) != (at, first.indices.device):
            self._reduce()
        logits = [entry.logits for entry in ready if entry.logits is not None]
        unchanged = None
        if any(entry.unchanged is not None for entry in ready):
            changes = [entry.indices if entry.unchanged is None else entry.unchanged for entry in ready]
            unchanged = torch.stack([selection.to(first.indices) for selection in changes])
        self._held.append(
            PassLayers(
                at,
                self._rows.fitted(len(first.indices)),
                torch.stack([entry.indices for entry in ready]),
                torch.stack([entry.weights for entry in ready]),
                torch.stack(logits) if logits else None,
                unchanged,
                self._targets(at, first.indices) if self._targets else [],
            )
        )

    def _reduce(self) -> None:
        if self._held:
            self._sums.add(self._held)
        self._held, self._size = [], 0
