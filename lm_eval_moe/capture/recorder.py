"""Accumulate routing over the tokens of a pass, on the device, without keeping anything per token.

The routers' outputs of a few layers are held until they fill a small buffer, then reduced together by scatter-adds into
the sums of their segments: one set of operations for many layers when a pass has a few tokens, one layer at a time when
it has thousands. Nothing is copied to the host before somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lm_eval_moe.capture.segments import Forest
from lm_eval_moe.capture.sums import SegmentSums
from lm_eval_moe.capture.token_rows import LinksOnDevice, RowsOnDevice, TokenRows
from lm_eval_moe.routing_record import ARRAYS

__all__ = ["Recorder"]

Targets = Callable[[slice, Tensor], list[tuple[Tensor, Tensor, Tensor]]]

# Elements of a [layers, tokens, K or E] buffer at which the pending layers are reduced.
_BUFFER = 1 << 18

# Segments by which sums grow at most, beyond what is needed: they may be those of all KV blocks of a large GPU.
_GROWTH = 1 << 12


@dataclass(frozen=True)
class _Selection:
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
        self._arrays, self._sigmoid, self._skips = frozenset(arrays), sigmoid, skips
        self._width = experts + skips  # the last column is for those that select nobody
        self._ready: list[_Selection] = []
        self._logits: dict[int, Tensor] = {}
        self._unchanged: dict[int, Tensor] = {}
        self._sums: dict[str, Tensor] = {}  # [L, segments, ...]
        self._last: Tensor | None = None  # [L, segments, K], the selection of each segment's last token
        self._rows: TokenRows | None = None

    def start_pass(self, rows: TokenRows, targets: Targets | None = None) -> None:
        """Begin a forward pass.

        Args:
            rows: Its rows.
            targets: From G router positions and what one of these routers saw ``[N, ...]`` to what is targeted, as
                bools: which routers ``[G]``, which experts at each ``[G, E]``, and at which tokens ``[N]``; what
                steering reached is counted for these.
        """
        self._rows, self._targets = rows, targets
        for sums in self._sums.values() if rows.reused.size else ():
            # Those of what steering reached have no room yet for segments at which it never acted.
            reused = rows.reused[rows.reused < sums.shape[1]]
            sums.index_fill_(1, torch.from_numpy(reused).to(sums.device), 0)

    def logits(self, position: int, logits: Tensor) -> None:
        """Take the logits ``[N, E]`` that the model goes on with."""
        if "importance_dense" in self._arrays:
            self._logits[position] = logits

    def unchanged(self, position: int, indices: Tensor) -> None:
        """Take the selection ``[N, K]`` that the router makes without steering."""
        self._unchanged[position] = indices

    def selection(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """Take the selection ``[N, K]`` and its combine weights, which completes a layer."""
        logits, unchanged = self._logits.pop(position, None), self._unchanged.pop(position, None)
        last = self._ready[-1] if self._ready else None
        if last and (last.position + 1 != position or last.indices.device != indices.device):
            self._reduce()
        self._ready.append(_Selection(position, indices, weights, logits, unchanged))
        if len(self._ready) * (indices if logits is None else logits).numel() >= _BUFFER:
            self._reduce()

    def end_pass(self) -> None:
        """Reduce what is pending; the layer outputs of the pass are free after this."""
        self._reduce()

    def fold(self, stretches: Sequence[Sequence[int]]) -> None:
        """Add the sums of consecutive segments to those of the first, before the forest folds them."""
        if not stretches:
            return
        self._reduce()
        into = torch.tensor([stretch[0] for stretch in stretches for _ in stretch[1:]])
        taken = torch.tensor([segment for stretch in stretches for segment in stretch[1:]])
        for name, values in self._sums.items():
            sums = self._sums[name] = self._grown(values)
            moved = sums[:, taken.to(sums.device)]
            if name == "pairs":  # what was the pair over a seam lies within now
                moved = torch.stack([moved.sum(-1), torch.zeros_like(moved[..., 0])], -1)
            sums.index_add_(1, into.to(sums.device), moved)
        if self._last is not None:
            self._last = self._grown(self._last)
            ends = torch.tensor([[stretch[0], stretch[-1]] for stretch in stretches], device=self._last.device)
            self._last[:, ends[:, 0]] = self._last[:, ends[:, 1]]

    def sums_of(self, paths: Sequence[Sequence[int | Sequence[int]]]) -> list[SegmentSums]:
        """Return the sums of each path's segments; one copy from the device to the host.

        Args:
            paths: What each holds is a segment, or several consecutive ones whose sums are added up as those of one.
        """
        if self._rows is None:
            raise RuntimeError("no pass was recorded")
        stretches = [[at] if isinstance(at, int) else list(at) for path in paths for at in path]
        begun = [[segment for segment in stretch if self._forest.tokens(segment)] for stretch in stretches]
        # A number that was used before may have sums of that time, so that those without tokens are left out.
        segments = torch.tensor([segment for stretch in begun for segment in stretch], dtype=torch.long)
        into = torch.tensor([place for place, stretch in enumerate(begun) for _ in stretch], dtype=torch.long)
        leads = np.array([segment == stretch[0] for stretch in begun for segment in stretch], dtype=bool)
        host = {}
        for name, values in self._sums.items():
            picked = self._grown(values).index_select(1, segments.to(values.device))
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

    def _reduce(self) -> None:
        ready, self._ready = self._ready, []
        if ready:
            with torch.no_grad(), torch.autocast(ready[0].indices.device.type, enabled=False):
                self._reduce_layers(ready)

    def _reduce_layers(self, ready: list[_Selection]) -> None:
        """Reduce consecutive layers on one device: G layers, M tokens that count, E experts, K selected."""
        assert self._rows is not None
        at = slice(ready[0].position, ready[-1].position + 1)
        fitted, device = self._rows.fitted(len(ready[0].indices)), ready[0].indices.device
        rows = fitted.on(device)

        def stacked(values: Sequence[Tensor]) -> Tensor:
            kept = values if rows.kept is None else [value.index_select(0, rows.kept) for value in values]
            return torch.stack(list(kept))

        # What stands at tokens that do not count may be NaN; it is left out here, before anything is summed.
        indices = stacked([entry.indices for entry in ready])  # [G, M, K]
        weights = stacked([entry.weights for entry in ready]).float()
        if self._skips:
            indices = indices.clamp_max(self._experts)
            weights = weights.masked_fill(indices == self._experts, 0.0)
        tiny = torch.finfo(torch.float32).tiny
        places = (rows.segment[:, None] * self._width + indices).flatten(1)
        if "counts" in self._arrays:
            self._add("counts", at, places, torch.ones_like(weights))
        if "gate_mass" in self._arrays:
            self._add("gate_mass", at, places, weights)
        if "importance" in self._arrays:
            total = weights.sum(-1, keepdim=True)
            self._add("importance", at, places, weights / total.clamp_min(tiny))
            self._add("routed", at, rows.segment, (total != 0).float())
        if "importance_dense" in self._arrays:
            dense = self._distribution(stacked([entry.logits for entry in ready if entry.logits is not None]))
            columns = torch.arange(self._experts, device=dense.device)
            self._add("importance_dense", at, (rows.segment[:, None] * self._width + columns).flatten(), dense)
        if "overlap" in self._arrays:
            self._add_overlap(at, indices, fitted.links_on(device))
        self._add_steered(at, ready, indices, rows)

    def _distribution(self, logits: Tensor) -> Tensor:
        if not self._sigmoid:
            return logits.float().softmax(-1)
        scores = logits.float().sigmoid()
        return scores / scores.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

    def _add_overlap(self, at: slice, indices: Tensor, rows: LinksOnDevice) -> None:
        none = self._experts
        if self._last is None:
            self._last = indices.new_zeros((self._layers, 0, indices.shape[-1]))
        self._last = self._grown(self._last)
        carried = self._last[at, rows.carries.to(self._last.device)].to(indices)
        here = indices if rows.linked is None else indices.index_select(1, rows.linked)
        before = torch.cat([carried, indices], 1).index_select(1, rows.source)
        same = here[..., :, None] == before[..., None, :]
        if self._skips:
            same &= (here != none)[..., :, None]
        common = same.sum((-1, -2)).double() if same.device.type != "mps" else same.sum((-1, -2)).float()
        union = (here != none).sum(-1) + (before != none).sum(-1) - common
        jaccard = torch.where(union == 0, 1.0, common / union)  # two tokens that both skip are alike
        self._add("pairs", at, rows.pair, jaccard)
        self._last[at, rows.runs.to(self._last.device)] = indices.index_select(1, rows.run_last).to(self._last)

    def _add_steered(self, at: slice, ready: Sequence[_Selection], indices: Tensor, rows: RowsOnDevice) -> None:
        targets = self._targets(at, ready[0].indices) if self._targets else []
        if not targets:
            return

        def kept(values: Tensor) -> Tensor:
            return values if rows.kept is None else values.index_select(0, rows.kept)

        in_force = torch.zeros(indices.shape[:2], dtype=torch.bool, device=indices.device)  # [G, M]
        hit = torch.zeros_like(in_force)
        chosen = indices.flatten(1).long()
        for routers, experts, tokens in targets:
            here = routers[:, None] & kept(tokens)
            in_force |= here
            reached = functional.pad(experts, (0, self._width - self._experts)).gather(1, chosen)
            hit |= here & reached.view(indices.shape).any(-1)
        self._add("targeted", at, rows.segment, in_force.float())
        self._add("hit", at, rows.segment, hit.float())
        for place, entry in enumerate(ready):
            if entry.unchanged is not None:
                unchanged = kept(entry.unchanged)
                if self._skips:
                    unchanged = unchanged.clamp_max(self._experts)
                other = (indices[place].sort(-1).values != unchanged.sort(-1).values).any(-1)
                own = slice(entry.position, entry.position + 1)
                self._add("changed", own, rows.segment, (in_force[place] & other).float()[None])

    def _add(self, name: str, at: slice, places: Tensor, values: Tensor) -> None:
        """Add ``[G, ...]`` to the sums of the layers ``at``, in double precision where the device has it.

        Args:
            name: Of the sums.
            at: Layers, G of them.
            places: ``[G, n]``, or ``[n]`` for all layers: where each value goes in the flat sums of a layer.
            values: ``[G, ...]``, n in each layer.
        """
        if name not in self._sums:
            dtype = torch.float32 if values.device.type == "mps" else torch.float64
            columns = {"pairs": (2,), "routed": (), "targeted": (), "hit": (), "changed": ()}.get(name, (self._width,))
            self._sums[name] = torch.zeros(self._layers, 0, *columns, dtype=dtype, device=values.device)
        sums = self._sums[name] = self._grown(self._sums[name])
        flat = values.flatten(1).to(sums.device, sums.dtype)
        sums[at].flatten(1).scatter_add_(1, places.to(sums.device).expand(len(flat), -1), flat)

    def _grown(self, values: Tensor) -> Tensor:
        """Return values ``[L, segments, ...]`` with room for all segments."""
        needed = len(self._forest)
        if values.shape[1] >= needed:
            return values
        room = max(needed, values.shape[1] + min(values.shape[1], _GROWTH))
        grown = values.new_zeros(values.shape[0], room, *values.shape[2:])
        grown[:, : values.shape[1]] = values
        return grown
