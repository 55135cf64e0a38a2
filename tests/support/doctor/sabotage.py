"""Real models with one fault built in, each of a kind that a careless tool would not notice."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock, Qwen3MoeTopKRouter

__all__ = [
    "BypassedInDecoding",
    "ChoosesAnew",
    "DriftsFromRunToRun",
    "ExpertsInAList",
    "FusedRouter",
    "ListThatChoosesAnew",
    "NoticesCapture",
    "NoticesCaptureInDecoding",
    "SortsInsteadOfTopK",
    "UnknownExperts",
    "replace_block",
    "replace_router",
]


def replace_block(model: Any, layer: int, block: type[nn.Module]) -> Any:
    """Give one layer's block another class; weights stay."""
    model.model.layers[layer].mlp.__class__ = block
    return model


def replace_router(model: Any, layer: int, router: type[nn.Module]) -> Any:
    """Give one layer's router another class; weights stay."""
    model.model.layers[layer].mlp.gate.__class__ = router
    return model


def _intercepted(block: Any) -> bool:
    return "forward" in vars(block.gate)


class ChoosesAnew(Qwen3MoeSparseMoeBlock):
    """Calls its router, then ignores the answer and chooses by itself."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        flat = hidden_states.view(-1, hidden_states.shape[-1])
        self.gate(flat)
        weights, indices = F.linear(flat, self.gate.weight).float().softmax(-1).topk(self.gate.top_k)
        weights = (weights / weights.sum(-1, keepdim=True)).to(flat.dtype)
        return self.experts(flat, indices, weights).reshape(hidden_states.shape)


class BypassedInDecoding(Qwen3MoeSparseMoeBlock):
    """Runs another implementation where one token is fed at a time, as a fused decoding kernel does."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * 0.5 if hidden_states.shape[1] == 1 else super().forward(hidden_states)


class NoticesCapture(Qwen3MoeSparseMoeBlock):
    """Computes something slightly different while its router is intercepted."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states) + (1e-3 if _intercepted(self) else 0.0)


class NoticesCaptureInDecoding(Qwen3MoeSparseMoeBlock):
    """Computes something else while its router is intercepted, but only behind a KV cache."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        sign = -1.0 if _intercepted(self) and hidden_states.shape[1] == 1 else 1.0
        return sign * super().forward(hidden_states)


class DriftsFromRunToRun(Qwen3MoeSparseMoeBlock):
    """Gives another output at every call."""

    calls = 0

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        type(self).calls += 1
        return super().forward(hidden_states) + 1e-3 * self.calls


class FusedRouter(Qwen3MoeTopKRouter):
    """Computes its logits without a linear that could be seen, as a fused kernel does."""

    def forward(self, hidden_states: torch.Tensor) -> Any:
        logits = (hidden_states[:, None] * self.weight[None]).sum(-1)
        weights, indices = logits.float().softmax(-1).topk(self.top_k)
        return logits, weights.to(logits.dtype), indices


class SortsInsteadOfTopK(Qwen3MoeTopKRouter):
    """Chooses without a top-k: a guard has nothing to hold on to."""

    def forward(self, hidden_states: torch.Tensor) -> Any:
        logits = F.linear(hidden_states, self.weight)
        weights, indices = logits.float().softmax(-1).sort(-1, descending=True)
        return logits, weights[:, : self.top_k].to(logits.dtype), indices[:, : self.top_k]


class UnknownExperts(nn.Module):
    """A layer that weighs all of its experts: no form that an adapter knows."""

    def __init__(self, hidden: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden, experts, bias=False)
        self.experts = nn.Linear(hidden, experts * hidden)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        outputs = self.experts(hidden_states).unflatten(-1, (-1, hidden_states.shape[-1]))
        return (self.gate(hidden_states).softmax(-1)[..., None] * outputs).sum(-2)


class ExpertsInAList(nn.Module):
    """A block as models bring it that come with their own code: a list of experts, called one by one."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.gate = block.gate
        hidden = self.gate.weight.shape[1]
        self.experts = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(self.gate.num_experts))

    def choose(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights and indices."""
        _, weights, indices = self.gate(flat)
        return weights, indices

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        flat = hidden_states.view(-1, hidden_states.shape[-1])
        weights, indices = self.choose(flat)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            tokens, slots = (indices == number).nonzero(as_tuple=True)
            out.index_add_(0, tokens, expert(flat[tokens]) * weights[tokens, slots, None])
        return out.reshape(hidden_states.shape)


class ListThatChoosesAnew(ExpertsInAList):
    """The same, but it ignores what its router returns."""

    def choose(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.gate(flat)
        weights, indices = F.linear(flat, self.gate.weight).float().softmax(-1).topk(self.gate.top_k)
        return (weights / weights.sum(-1, keepdim=True)).to(flat.dtype), indices
