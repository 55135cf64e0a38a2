"""Blocks as models bring them with their own code, in three forms that compute the same, and adapters for them.

Each block has a linear called ``my_router``, chooses the K largest of its softmax, normalises their weights, and adds a
shared expert. What the forms differ in is where the experts are: one module with all of them, a list of modules, or
parameters that the block itself loops over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from lm_eval_moe.routers import RoutedBlock
from support.small_models import VOCABULARY

__all__ = ["BLOCKS", "RIGHT", "WRONG", "adapter_for", "model_with"]

EXPERTS, TOP_K, HIDDEN, WIDE = 6, 2, 32, 24


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(HIDDEN, WIDE, bias=False), nn.Linear(WIDE, HIDDEN, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return self.down(F.silu(self.up(rows)))


class _OwnBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.my_router = nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.always_on = _Mlp()
        self.everyone: list[Any] = []

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        weights, indices = self.my_router(flat).float().softmax(-1).topk(TOP_K)
        weights = (weights / weights.sum(-1, keepdim=True)).to(flat.dtype)
        return (self.mix(flat, indices, weights) + self.always_on(flat)).reshape(hidden.shape)

    def mix(self, flat: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError


class _Looping:
    """Goes through the experts one by one."""

    def mix(self, flat: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(flat)
        for expert in range(EXPERTS):
            token, place = (indices == expert).nonzero(as_tuple=True)
            if len(token):
                out.index_add_(0, token, self.one(expert, flat[token]) * weights[token, place, None])
        return out

    def one(self, expert: int, rows: Tensor) -> Tensor:
        raise NotImplementedError


class _Stacked:
    def stack(self) -> None:
        self.up = nn.Parameter(torch.empty(EXPERTS, WIDE, HIDDEN))
        self.down = nn.Parameter(torch.empty(EXPERTS, HIDDEN, WIDE))

    def one(self, expert: int, rows: Tensor) -> Tensor:
        return F.linear(F.silu(F.linear(rows, self.up[expert])), self.down[expert])


class _AllExperts(_Stacked, _Looping, nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_experts = EXPERTS
        self.stack()

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        return self.mix(hidden_states, top_k_index, top_k_weights)


class FusedBlock(_OwnBlock):
    """One module with all experts, called with the selection."""

    def __init__(self) -> None:
        super().__init__()
        self.all_experts = _AllExperts()

    def mix(self, flat: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        return self.all_experts(flat, indices, weights)


class ListedBlock(_Looping, _OwnBlock):
    """A list of modules under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(_Mlp() for _ in range(EXPERTS))

    def one(self, expert: int, rows: Tensor) -> Tensor:
        return self.mlps[expert](rows)


class DenseBlock(ListedBlock):
    """Calls every expert with all tokens, and weighs most of what they return with zero."""

    def mix(self, flat: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        dense = torch.zeros(len(flat), EXPERTS, dtype=flat.dtype).scatter(1, indices, weights)
        return (dense[..., None] * torch.stack([mlp(flat) for mlp in self.mlps], 1)).sum(1)


class LoopingBlock(_Stacked, _Looping, _OwnBlock):
    """Parameters of the block itself, in a loop within its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stack()


class PackedBlock(LoopingBlock):
    """Computes with a copy of its experts' parameters that nobody else can reach."""

    def one(self, expert: int, rows: Tensor) -> Tensor:
        if not hasattr(self, "packed"):
            self.packed = [(self.up[e].detach().clone(), self.down[e].detach().clone()) for e in range(EXPERTS)]
        up, down = self.packed[expert]
        return F.linear(F.silu(F.linear(rows, up)), down)


class OneLinearBlock(_Looping, _OwnBlock):
    """Experts that are rows of one linear: nothing shows what belongs to which."""

    def __init__(self) -> None:
        super().__init__()
        self.all_of_them = nn.Linear(HIDDEN, EXPERTS * HIDDEN, bias=False)

    def one(self, expert: int, rows: Tensor) -> Tensor:
        return self.all_of_them(rows)[:, expert * HIDDEN : (expert + 1) * HIDDEN]


class ChoosesAgainBlock(LoopingBlock):
    """Takes the weights from its router's call, but the experts from another computation of the same."""

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        weights, _ = self.my_router(flat).float().softmax(-1).topk(TOP_K)
        indices = (flat @ self.my_router.weight.T).topk(TOP_K).indices
        weights = (weights / weights.sum(-1, keepdim=True)).to(flat.dtype)
        return self.mix(flat, indices, weights).reshape(hidden.shape)


BLOCKS: dict[str, type[_OwnBlock]] = {"fused": FusedBlock, "list": ListedBlock, "loop": LoopingBlock}


def model_with(block: type[_OwnBlock], dtype: torch.dtype = torch.float32) -> Any:
    """Build a model of three layers of such blocks; the same seed gives the three forms the same inputs."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    blocks = [block() for _ in model.model.layers]
    for layer, own in zip(model.model.layers, blocks, strict=True):
        layer.mlp = own
        own.everyone = blocks
        for parameter in own.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


# ------------------------------------------------------------------------------------------------ adapters

Reading = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From logits ``[N, E]`` to indices and weights ``[N, K]``."""


def _largest(logits: Tensor, k: int = TOP_K) -> tuple[Tensor, Tensor]:
    weights, indices = logits.float().softmax(-1).topk(k)
    return indices, weights / weights.sum(-1, keepdim=True)


def _uniform(logits: Tensor) -> tuple[Tensor, Tensor]:
    indices, weights = _largest(logits)
    return indices, torch.full_like(weights, 1 / TOP_K)


def _raw(logits: Tensor) -> tuple[Tensor, Tensor]:
    weights, indices = logits.float().softmax(-1).topk(TOP_K)
    return indices, weights


def _smallest(logits: Tensor) -> tuple[Tensor, Tensor]:
    weights, indices = logits.float().softmax(-1).topk(TOP_K, largest=False)
    return indices, weights / weights.sum(-1, keepdim=True)


def _shifted(logits: Tensor) -> tuple[Tensor, Tensor]:
    indices, weights = _largest(logits)
    return (indices + 1) % EXPERTS, weights


def _permuted(logits: Tensor) -> tuple[Tensor, Tensor]:
    indices, weights = _largest(logits)
    return torch.tensor([0, 1, 3, 2, 4, 5])[indices], weights


def _with_shared(logits: Tensor) -> tuple[Tensor, Tensor]:
    indices, weights = _largest(logits)
    return F.pad(indices, (0, 1), value=EXPERTS), F.pad(weights, (0, 1), value=1.0)


def _with_shared_in_place(logits: Tensor) -> tuple[Tensor, Tensor]:
    indices, weights = _largest(logits)
    return F.pad(indices, (0, 1), value=0), F.pad(weights, (0, 1), value=1.0)


def _swapped_weights(logits: Tensor) -> tuple[Tensor, Tensor]:
    indices, weights = _largest(logits)
    return indices, weights.flip(-1)


RIGHT: Reading = _largest
WRONG: dict[str, tuple[Reading, int]] = {
    "K too large": (lambda logits: _largest(logits, 4), 4),
    "K too small": (lambda logits: _largest(logits, 1), 1),
    "uniform weights": (_uniform, TOP_K),
    "raw weights": (_raw, TOP_K),
    "smallest": (_smallest, TOP_K),
    "shifted indices": (_shifted, TOP_K),
    "permuted indices": (_permuted, TOP_K),
    "another layer's router": (_largest, TOP_K),
    "shared experts": (_with_shared, TOP_K + 1),
    "shared expert as the first": (_with_shared_in_place, TOP_K + 1),
    "swapped weights": (_swapped_weights, TOP_K),
}
"""What each wrong adapter reads in the logits, and its K."""


def adapter_for(block: type[nn.Module], reading: Reading, top_k: int = TOP_K, *, neighbour: bool = False) -> None:
    """Register an adapter that says what ``reading`` says; ``neighbour``: about the next layer's router."""

    class Adapter(RoutedBlock):
        class_names = (block.__name__,)
        hands_on_selection = False
        guards_logits = True

        @classmethod
        def of(cls, block: Any, name: str) -> RoutedBlock:
            everyone = block.everyone
            router = everyone[(everyone.index(block) + neighbour) % len(everyone)].my_router
            router.top_k = top_k
            return cls(router=router, owner=router, experts=None, num_experts=EXPERTS)

        def selection_returned(self, output: Any, top_k: int) -> tuple[Tensor, Tensor]:
            return reading(output)
