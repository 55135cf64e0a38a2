"""Running sums of the routing of segments, on the device: what passes gave is reduced by scatter-adds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lm_eval_moe.recording.segments import Forest
from lm_eval_moe.recording.token_rows import Indices, LinksOnDevice, RowsOnDevice, TokenRows

__all__ = ["PassLayers", "RunningSums", "Target", "outside_autograd"]

Target = tuple[Tensor, Tensor, "Tensor | None"]
"""What is targeted: which routers ``[G]``, which experts at each ``[G, E]``, at which tokens ``[N]``; None: at all."""

# Segments by which sums grow at most, beyond what is needed: they may be those of all KV blocks of a large GPU.
_GROWTH = 1 << 12


def outside_autograd(function: Callable[..., None]) -> Callable[..., None]:
    """Let a method change the sums whatever mode the passes ran in, and whatever mode asks for the sums later."""

    @wraps(function)
    def outside(*arguments: Any) -> None:
        # Tensors made in inference mode cannot be changed outside of it.
        with torch.inference_mode(False), torch.no_grad():
            function(*arguments)

    return outside


class PassLayers(NamedTuple):
    """What consecutive layers on one device gave in one pass: G layers, N tokens, E experts, K selected."""

    at: slice
    rows: TokenRows
    indices: Tensor  # [G, N, K]
    weights: Tensor  # [G, N, K]
    logits: Tensor | None  # [G, N, E]
    unchanged: Tensor | None  # [G, N, K]
    targets: list[Target]


class RunningSums:
    """Sums by segment ``[L, segments, ...]``, of as many segments as have been needed so far.

    Args:
        forest: The segments.
        layers: MoE layers, L.
        experts: Routed experts per layer, E.
        arrays: What is summed (see `ARRAYS`).
        sigmoid: Whether the routers score with a sigmoid instead of a softmax.
        skips: Whether an index of E or more stands for no expert.

    Attributes:
        by_name: The sums; those of what steering reached are there once it has acted.
    """

    def __init__(
        self, forest: Forest, layers: int, experts: int, arrays: Collection[str], *, sigmoid: bool, skips: bool
    ) -> None:
        self._forest, self._layers, self._experts = forest, layers, experts
        self._arrays, self._sigmoid, self._skips = frozenset(arrays), sigmoid, skips
        self._width = experts + skips  # the last column is for those that select nobody
        self.by_name: dict[str, Tensor] = {}
        self._last: Tensor | None = None  # [L, segments, K], the selection of each segment's last token

    @outside_autograd
    def clear(self, segments: Indices) -> None:
        """Forget what was summed under numbers that are reused."""
        for sums in self.by_name.values():
            # Those of what steering reached have no room yet for segments at which it never acted.
            reused = segments[segments < sums.shape[1]]
            sums.index_fill_(1, torch.from_numpy(reused).to(sums.device), 0)

    @outside_autograd
    def fold(self, stretches: Sequence[Sequence[int]]) -> None:
        """Add the sums of consecutive segments to those of the first."""
        into = torch.tensor([stretch[0] for stretch in stretches for _ in stretch[1:]])
        folded = torch.tensor([segment for stretch in stretches for segment in stretch[1:]])
        for name, values in self.by_name.items():
            sums = self.by_name[name] = self.grown(values)
            moved = sums[:, folded.to(sums.device)]
            if name == "pairs":  # what was the pair over a seam lies within now
                moved = torch.stack([moved.sum(-1), torch.zeros_like(moved[..., 0])], -1)
            sums.index_add_(1, into.to(sums.device), moved)
        if self._last is not None:
            self._last = self.grown(self._last)
            ends = torch.tensor([[stretch[0], stretch[-1]] for stretch in stretches], device=self._last.device)
            self._last[:, ends[:, 0]] = self._last[:, ends[:, 1]]

    @outside_autograd
    def add(self, passes: Sequence[PassLayers]) -> None:
        """Add what the same layers gave in consecutive passes."""
        with torch.autocast(passes[0].indices.device.type, enabled=False):
            self._reduce(passes)

    def _reduce(self, pass_layers: Sequence[PassLayers]) -> None:
        """Reduce the same layers of consecutive passes: G layers, M tokens that count, E experts, K selected."""
        at, device, passes = pass_layers[0].at, pass_layers[0].indices.device, [layers.rows for layers in pass_layers]
        rows = passes[0].on(device) if len(passes) == 1 else RowsOnDevice.of(passes, device)

        def joined(values: Sequence[Tensor | None]) -> Tensor:
            some = [value for value in values if value is not None]
            joined_tensor = some[0] if len(some) == 1 else torch.cat(some, 1)
            return joined_tensor if rows.kept is None else joined_tensor.index_select(1, rows.kept)

        # What stands at tokens that do not count may be NaN; it is left out here, before anything is summed.
        indices = joined([layers.indices for layers in pass_layers])  # [G, M, K]
        weights = joined([layers.weights for layers in pass_layers]).float()
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
            dense = self._distribution(joined([layers.logits for layers in pass_layers]))
            columns = torch.arange(self._experts, device=dense.device)
            self._add("importance_dense", at, (rows.segment[:, None] * self._width + columns).flatten(), dense)
        if "overlap" in self._arrays:
            links = passes[0].links_on(device) if len(passes) == 1 else LinksOnDevice.of(passes, device)
            self._add_overlap(at, indices, links)
        targeted = self._targeted(pass_layers, rows)
        if targeted:
            in_force = self._add_steered(at, targeted, indices, rows)
            if any(layers.unchanged is not None for layers in pass_layers):
                unchanged = joined([x.indices if x.unchanged is None else x.unchanged for x in pass_layers])
                if self._skips:
                    unchanged = unchanged.clamp_max(self._experts)
                differs = (indices.sort(-1).values != unchanged.sort(-1).values).any(-1)
                self._add("changed", at, rows.segment, (in_force & differs).float())

    def _distribution(self, logits: Tensor) -> Tensor:
        if not self._sigmoid:
            return logits.float().softmax(-1)
        scores = logits.float().sigmoid()
        return scores / scores.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)

    def _add_overlap(self, at: slice, indices: Tensor, rows: LinksOnDevice) -> None:
        none = self._experts
        if self._last is None:
            self._last = indices.new_zeros((self._layers, 0, indices.shape[-1]))
        self._last = self.grown(self._last)
        carried = self._last[at, rows.carries.to(self._last.device)].to(indices)
        here = indices if rows.linked is None else indices.index_select(1, rows.linked)
        before = torch.cat([carried, indices], 1).index_select(1, rows.source)
        same = here[..., :, None] == before[..., None, :]
        if self._skips:
            same &= (here != none)[..., :, None]
        common = same.sum((-1, -2)).double() if same.device.type != "mps" else same.sum((-1, -2)).float()
        union = (here != none).sum(-1) + (before != none).sum(-1) - common
        jaccard = torch.where(union == 0, 1.0, common / union)  # two tokens that both skip are the same
        self._add("pairs", at, rows.pair, jaccard)
        self._last[at, rows.runs.to(self._last.device)] = indices.index_select(1, rows.run_last).to(self._last)

    @staticmethod
    def _targeted(passes: Sequence[PassLayers], rows: RowsOnDevice) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return all that is targeted in some of the passes: routers ``[G]``, experts ``[G, E]``, tokens ``[M]``."""
        targets: dict[tuple[int, int], tuple[Tensor, Tensor, list[Tensor]]] = {}
        nowhere = [layers.indices.new_zeros(layers.indices.shape[1], dtype=torch.bool) for layers in passes]
        for number, layers in enumerate(passes):
            for routers, experts, tokens in layers.targets:
                target = targets.setdefault((id(routers), id(experts)), (routers, experts, nowhere.copy()))
                target[2][number] = ~nowhere[number] if tokens is None else tokens
        columns = rows.kept if rows.kept is not None else slice(None)
        return [(routers, experts, torch.cat(tokens)[columns]) for routers, experts, tokens in targets.values()]

    def _add_steered(
        self, at: slice, targeted: Sequence[tuple[Tensor, Tensor, Tensor]], indices: Tensor, rows: RowsOnDevice
    ) -> Tensor:
        """Add what steering reached; return where it is in force, ``[G, M]``."""
        in_force = torch.zeros(indices.shape[:2], dtype=torch.bool, device=indices.device)
        hit = torch.zeros_like(in_force)
        expert_ids = indices.flatten(1).long()
        for routers, experts, tokens in targeted:
            here = routers[:, None] & tokens
            in_force |= here
            reached = functional.pad(experts, (0, self._width - self._experts)).gather(1, expert_ids)
            hit |= here & reached.view(indices.shape).any(-1)
        self._add("targeted", at, rows.segment, in_force.float())
        self._add("hit", at, rows.segment, hit.float())
        return in_force

    def _add(self, name: str, at: slice, places: Tensor, values: Tensor) -> None:
        """Add ``[G, ...]`` to the sums of the layers ``at``, in double precision where the device has it.

        Args:
            name: Of the sums.
            at: Layers, G of them.
            places: ``[G, n]``, or ``[n]`` for all layers: where each value goes in the flat sums of a layer.
            values: ``[G, ...]``, n in each layer.
        """
        if name not in self.by_name:
            dtype = torch.float32 if values.device.type == "mps" else torch.float64
            columns = {"pairs": (2,), "routed": (), "targeted": (), "hit": (), "changed": ()}.get(name, (self._width,))
            self.by_name[name] = torch.zeros(self._layers, 0, *columns, dtype=dtype, device=values.device)
        sums = self.by_name[name] = self.grown(self.by_name[name])
        flat = values.flatten(1).to(sums.device, sums.dtype)
        sums[at].flatten(1).scatter_add_(1, places.to(sums.device).expand(len(flat), -1), flat)

    def grown(self, values: Tensor) -> Tensor:
        """Return values ``[L, segments, ...]`` with room for all segments."""
        size = len(self._forest)
        if values.shape[1] >= size:
            return values
        room = max(size, values.shape[1] + min(values.shape[1], _GROWTH))
        larger = values.new_zeros(values.shape[0], room, *values.shape[2:])
        larger[:, : values.shape[1]] = values
        return larger
