"""Watch a model from outside with plain torch hooks: what it is fed, what its experts receive, what it returns.

Nothing of the interception is used here, so that what it reports can be compared with this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lm_eval_moe.errors import RoutingBypassedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_moe.routers import RoutedBlock, RouterSite

__all__ = ["ExpertSelection", "ForwardPass", "watched"]


@dataclass(frozen=True)
class ExpertSelection:
    """What the experts of one layer receive, N tokens; an index of E stands for no routed expert."""

    indices: NDArray[np.int64]  # [N, K]
    weights: NDArray[np.float64]  # [N, K]


@dataclass
class ForwardPass:
    """One call of the model.

    Attributes:
        tokens: ``[B, T]`` token ids, None where the model is fed embeddings.
        logits: What the model returned, ``[B, T or 1, vocabulary]``, on the CPU; None if not wanted.
        received: By router position, what the experts received.
        returned: By router position, the indices ``[N, K]`` that the router's call returned, None where it returns
            none.
    """

    tokens: NDArray[np.int64] | None
    logits: Tensor | None = None
    received: dict[int, ExpertSelection] = field(default_factory=dict)
    returned: dict[int, NDArray[np.int64] | None] = field(default_factory=dict)


@contextmanager
def watched(
    model: nn.Module,
    sites: tuple[RouterSite, ...],
    top_k: int,
    *,
    positions: Collection[int] | None = None,
    logits: bool = True,
    routers: bool = False,
) -> Iterator[list[ForwardPass]]:
    """Collect the model's forward passes inside the ``with`` block.

    Args:
        model: What is called for a forward pass.
        sites: Its routers.
        top_k: Experts selected per token, K.
        positions: The routers whose experts are watched; None: all.
        logits: Whether to keep the logits.
        routers: Whether to keep what the routers return, too.
    """
    passes: list[ForwardPass] = []

    def start(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = args[0] if args else kwargs.get("input_ids")
        passes.append(ForwardPass(None if tokens is None else tokens.detach().cpu().numpy()))

    def end(_: Any, __: Any, output: Any) -> None:
        if logits:
            passes[-1].logits = output.logits.detach().cpu()

    handles = [model.register_forward_pre_hook(start, with_kwargs=True), model.register_forward_hook(end)]
    for position, site in enumerate(sites):
        if positions is None or position in positions:
            handles += _site_hooks(position, site.block, passes, top_k, routers)
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _site_hooks(position: int, block: RoutedBlock, passes: list[ForwardPass], top_k: int, routers: bool) -> list[Any]:
    def on_experts(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if passes:
            passes[-1].received[position] = _as_selection(block, *_selection_among(block, args, kwargs, top_k))

    def on_router(_: Any, __: Any, output: Any) -> None:
        if not passes:
            return
        if not block.hands_on_selection:
            passes[-1].received[position] = _as_selection(block, *block.selection_returned(output, top_k))
            return
        try:
            indices, weights = block.selection_returned(output, top_k)
        except RoutingBypassedError:  # a router that returns no indices: there is nothing to compare
            passes[-1].returned[position] = None
        else:
            passes[-1].returned[position] = _as_selection(block, indices, weights).indices

    hooks = []
    if block.hands_on_selection:
        assert block.experts is not None, "hands_on_selection is set, but there are no experts to hand it to"
        hooks.append(block.experts.register_forward_pre_hook(on_experts, with_kwargs=True))
    if routers or not block.hands_on_selection:
        hooks.append(block.router.register_forward_hook(on_router))
    return hooks


def _selection_among(
    block: RoutedBlock, args: tuple[Any, ...], kwargs: dict[str, Any], top_k: int
) -> tuple[Tensor, Tensor]:
    """Return the indices and weights ``[N, K]`` among the arguments, by their form, not by their names."""
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    integers = [t for t in tensors if not t.is_floating_point() and t.dim() == 2 and t.shape[1] == top_k]
    if len(integers) == 1:
        floats = [t for t in tensors if t.is_floating_point() and t.shape == integers[0].shape]
        if len(floats) == 1:
            return integers[0], floats[0]
    return block.selection_received(args, kwargs)


def _as_selection(block: RoutedBlock, indices: Tensor, weights: Tensor) -> ExpertSelection:
    experts = indices.detach().cpu().numpy().astype(np.int64)
    mass = weights.detach().float().cpu().numpy().astype(np.float64)
    if block.extra:
        # Zero and skip experts: an index beyond E, or a weight that the model has put to 0.
        experts = np.where((experts >= block.num_experts) | (mass == 0), block.num_experts, experts)
    return ExpertSelection(experts, mass)
