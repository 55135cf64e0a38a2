"""What a plain transformers model does with its routers, seen and edited by hand; nothing of the package is used.

The routers' logits are read and replaced by patching ``torch.nn.functional.linear`` where it multiplies by a router's
weight; selections are read by forward hooks on the experts modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from support.conformance.families import Family

_WEIGHTS = (
    "weight",
    "classifier.weight",
    "gate.weight",
    "layer.weight",
    "proj.weight",
    "router_mlp.out_proj.weight",
    "wg.weight",
)

Edit = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(eq=False)
class Block:
    """One layer's router and experts."""

    layer: int
    router: nn.Module
    weight: nn.Parameter
    experts: nn.Module
    module: nn.Module


def blocks(model: nn.Module, family: Family) -> list[Block]:
    """Find the blocks by the names that transformers gives their parts."""
    found = []
    for layer, module in enumerate(model.get_submodule(family.layers)):
        for part in module.modules():
            router = getattr(part, "gate", None) or getattr(part, "router", None)
            experts = getattr(part, "experts", None) or getattr(part, "input_linear", None)
            if not (isinstance(router, nn.Module) and isinstance(experts, nn.Module)):
                continue
            if type(part).__name__ == "JetMoeMoA" or hasattr(router, "tid2eid"):
                continue  # experts of the attention; experts chosen by token id
            weights = dict(router.named_parameters())
            [weight] = [weights[name] for name in _WEIGHTS if name in weights]
            found.append(Block(layer, router, weight, experts, part))
    return found


@dataclass
class SampleResult:
    """What passed through the blocks since watching began; one entry a forward pass, in the blocks' order."""

    projected: list[list[torch.Tensor]] = field(default_factory=list)  # [.., columns], as the linear gave it
    indices: list[list[torch.Tensor]] = field(default_factory=list)  # [N, K], what the experts received
    weights: list[list[torch.Tensor]] = field(default_factory=list)  # [N, K]

    def counts(self, experts: int, keep: Callable[[int, torch.Tensor], torch.Tensor] | None = None) -> np.ndarray:
        """Return activation counts ``[L, E]`` and their gate mass ``[L, E]``, stacked.

        ``keep`` picks the rows that count from those of pass number n; by default all.
        """
        total = np.zeros((2, len(self.indices), experts))
        for layer, (passes, masses) in enumerate(zip(self.indices, self.weights, strict=True)):
            for number, (indices, weights) in enumerate(zip(passes, masses, strict=True)):
                i, w = (keep(number, indices), keep(number, weights)) if keep else (indices, weights)
                i, w = i.flatten().numpy(), w.flatten().double().numpy()
                i, w = i[i < experts], w[i < experts]
                total[0, layer] += np.bincount(i, minlength=experts)
                total[1, layer] += np.bincount(i, w, minlength=experts)
        return total


@contextmanager
def selections(found: list[Block], experts: int) -> Iterator[SampleResult]:
    """Watch what the experts receive.

    An index of E or more stands for no routed expert. ZAYA sends a token that skips them to expert 0 with weight 0.
    """
    seen = SampleResult([], [[] for _ in found], [[] for _ in found])

    def take(place: int, indices: torch.Tensor, weights: torch.Tensor) -> None:
        if "Zaya" in type(found[place].module).__name__:
            indices = indices.masked_fill(weights == 0, experts)
        seen.indices[place].append(indices.detach().clone())
        seen.weights[place].append(weights.detach().clone().float())

    def hook(place: int, block: Block) -> Any:
        kind = type(block.module).__name__
        if kind == "Llama4TextMoe":  # scores over all experts; zero where an expert is not selected

            def scores(_: Any, __: Any, out: Any) -> None:
                [chosen] = {int(n) for n in (out[0] > 0).sum(-1)}
                indices = (out[0] > 0).nonzero()[:, 1].view(-1, chosen)
                take(place, indices, out[0].gather(1, indices))

            return block.router.register_forward_hook(scores)
        if kind == "JetMoeMoE":  # token and gate of every slot, sorted by expert; how many slots each expert has

            def slots(_: Any, __: Any, out: Any) -> None:
                _, tokens, gates, sizes, logits = out
                chosen: list[list[tuple[int, float]]] = [[] for _ in logits]
                bounds = np.cumsum([0, *sizes])
                for expert in range(experts):
                    for slot in range(bounds[expert], bounds[expert + 1]):
                        chosen[int(tokens[slot])].append((expert, float(gates[slot])))
                pairs = torch.tensor(chosen)
                take(place, pairs[..., 0].long(), pairs[..., 1])

            return block.router.register_forward_hook(slots)

        def received(_: Any, args: Any, kwargs: Any) -> None:
            values = [*args, *kwargs.values()]
            take(place, values[1], values[2])

        return block.experts.register_forward_pre_hook(received, with_kwargs=True)

    handles = [hook(place, block) for place, block in enumerate(found)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def edited(found: list[Block], experts: int, edit: Edit | None = None) -> Iterator[list[torch.Tensor]]:
    """Replace the logits ``[.., E]`` of every router by ``edit(layer, logits)``; yields what the linears gave."""
    projected: list[torch.Tensor] = []
    linear = torch.nn.functional.linear

    def patched(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        out = linear(values, weight, bias)
        for block in found:
            if weight is block.weight:
                projected.append(out.clone())
                if edit is not None:
                    out = out.clone()
                    out[..., :experts] = edit(block.layer, out[..., :experts])
        return out

    torch.nn.functional.linear = patched
    try:
        yield projected
    finally:
        torch.nn.functional.linear = linear
