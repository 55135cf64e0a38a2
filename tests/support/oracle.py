"""Routing recomputed by hand from a plain transformers forward pass of one sequence, family by family.

Nothing of the package is used here: hidden states come from PyTorch hooks, router arithmetic is written out from the
published definitions of each family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

Edit = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass
class Routed:
    """One sequence's routing, by layer: indices and weights ``[T, K]``, dense distribution ``[T, E]``."""

    indices: list[np.ndarray]
    weights: list[np.ndarray]
    dense: list[np.ndarray]

    def counts(self, tokens: slice, experts: int) -> np.ndarray:
        return np.stack([np.bincount(layer[tokens].ravel(), minlength=experts) for layer in self.indices])

    def gate_mass(self, tokens: slice, experts: int) -> np.ndarray:
        return np.stack(
            [
                np.bincount(i[tokens].ravel(), weights=w[tokens].ravel(), minlength=experts)
                for i, w in zip(self.indices, self.weights, strict=True)
            ]
        )

    def importance(self, tokens: slice, experts: int) -> np.ndarray:
        rows = []
        for indices, weights in zip(self.indices, self.weights, strict=True):
            i, w = indices[tokens], weights[tokens]
            rows.append(np.bincount(i.ravel(), (w / w.sum(1, keepdims=True)).ravel(), experts) / len(i))
        return np.stack(rows)

    def importance_dense(self, tokens: slice) -> np.ndarray:
        return np.stack([layer[tokens].mean(0) for layer in self.dense])

    def overlap(self, tokens: slice) -> np.ndarray:
        rows = []
        for layer in self.indices:
            sets = [set(token) for token in layer[tokens].tolist()]
            pairs = [len(a & b) / len(a | b) for a, b in pairwise(sets)]
            rows.append(np.mean(pairs) if pairs else np.nan)
        return np.array(rows)


def check(record: Any, routed: Routed, tokens: slice, experts: int = 8) -> None:
    """Compare a record of the package with some tokens of a sequence."""
    assert np.array_equal(record.counts, routed.counts(tokens, experts))
    np.testing.assert_allclose(record.gate_mass, routed.gate_mass(tokens, experts), atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(record.importance, routed.importance(tokens, experts), atol=1e-6)
    # Over all experts, a cache and batches change the last bits of float32; in double precision all is equal to 1e-7.
    np.testing.assert_allclose(record.importance_dense, routed.importance_dense(tokens), atol=5e-6)
    np.testing.assert_allclose(record.overlap, routed.overlap(tokens), atol=1e-6)


def routers(model: Any) -> list[tuple[int, Any]]:
    """Return the decoder layers that route and their router modules, found by attribute path."""
    found = []
    for index, layer in enumerate(model.model.layers):
        block = getattr(layer, "mlp", None) or getattr(layer, "block_sparse_moe", None)
        router = getattr(block, "gate", None) or getattr(block, "router", None)
        if router is not None and hasattr(block, "experts"):
            found.append((index, router))
    return found


def route(family: str, router: Any, hidden: torch.Tensor, edit: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return logits, selected indices, combine weights and the dense distribution for ``hidden`` ``[T, H]``."""
    weight = router.weight
    bias = router.bias if family == "gpt_oss" else None
    if family.startswith(("deepseek", "ernie")):
        hidden, weight = hidden.float(), weight.float()
    logits = edit(torch.nn.functional.linear(hidden, weight, bias))
    k = 2
    probabilities = logits.float().softmax(-1)
    dense = probabilities
    if family in ("qwen3_moe", "mixtral"):
        weights, indices = probabilities.topk(k)
        weights = weights / weights.sum(-1, keepdim=True)
    elif family in ("qwen2_moe", "olmoe"):
        weights, indices = probabilities.topk(k)
    elif family in ("gpt_oss", "granitemoe"):
        top, indices = logits.topk(k)
        weights = top.float().softmax(-1)
    elif family == "phimoe":
        weights, indices = _sparse_mixer(logits, router.router_jitter_noise)
    elif family == "deepseek_v2":
        groups = probabilities.view(len(logits), router.num_group, -1)
        best = groups.amax(-1).topk(router.topk_group).indices
        kept = torch.zeros(groups.shape[:2]).scatter(1, best, 1.0).bool()
        weights, indices = groups.masked_fill(~kept[..., None], 0.0).flatten(1).topk(k)
        weights = weights * router.routed_scaling_factor
    elif family == "deepseek_v3":
        scores = logits.sigmoid()
        dense = scores / scores.sum(-1, keepdim=True)
        choice = (scores + router.e_score_correction_bias).view(len(logits), router.num_group, -1)
        best = choice.topk(2).values.sum(-1).topk(router.topk_group).indices
        kept = torch.zeros(choice.shape[:2]).scatter(1, best, 1.0).bool()
        indices = choice.masked_fill(~kept[..., None], float("-inf")).flatten(1).topk(k).indices
        weights = scores.gather(1, indices)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * router.routed_scaling_factor
    elif family == "ernie4_5_moe":
        indices = (probabilities + router.moe_statics.e_score_correction_bias.squeeze()).topk(k).indices
        weights = probabilities.gather(1, indices)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=router.norm_min)
    else:
        raise KeyError(family)
    return logits, indices, weights, dense


def _sparse_mixer(logits: torch.Tensor, jitter: float) -> tuple[torch.Tensor, torch.Tensor]:
    """SparseMixer of Phi-3.5-MoE in evaluation mode: pick the best, mask it, pick the next best."""
    weights, indices = [], []
    left = logits
    for _ in range(2):
        best, index = left.max(-1, keepdim=True)
        far = (best - logits) / logits.abs().clamp(min=best) > 2 * jitter
        gates = left.masked_fill(far, float("-inf")).softmax(-1)
        weights.append(gates.gather(1, index))
        indices.append(index)
        left = left.scatter(1, index, float("-inf"))
    return torch.cat(weights, 1), torch.cat(indices, 1)


def run(family: str, model: Any, tokens: list[int]) -> Routed:
    """Run one unpadded sequence through the plain model and recompute its routing."""
    seen: dict[int, torch.Tensor] = {}
    handles = [
        router.register_forward_pre_hook(lambda _, args, at=layer: seen.__setitem__(at, args[0].detach()))
        for layer, router in routers(model)
    ]
    try:
        with torch.no_grad():
            model(torch.tensor([tokens]))
    finally:
        for handle in handles:
            handle.remove()
    routed = Routed([], [], [])
    with torch.no_grad():
        for layer, router in routers(model):
            hidden = seen[layer].reshape(len(tokens), -1)
            _, indices, weights, dense = route(family, router, hidden, lambda logits: logits)
            routed.indices.append(indices.numpy())
            routed.weights.append(weights.double().numpy())
            routed.dense.append(dense.double().numpy())
    return routed
