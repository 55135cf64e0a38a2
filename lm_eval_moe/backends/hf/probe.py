"""One short forward pass when a model is loaded: is every router reached, and how does it score?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_moe.backends.hf.uncompiled import uncompiled
from lm_eval_moe.errors import RoutingBypassedError, RoutingWarning
from lm_eval_moe.routers import RouterSite, intercepted, looped_error
from lm_eval_moe.routers.blocks import NEEDS_ADAPTER
from lm_eval_moe.routers.parts import expert_parts
from lm_eval_moe.routers.selection_listener import SelectionListener

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.shape import RoutingShape

__all__ = ["probe"]


class _Probe(SelectionListener):
    """Sees how many experts there are, how many are selected, and how they are scored."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self._layers = layers
        self.experts: set[int] = set()
        self.top_k: set[int] = set()
        self.scoring: str | None = None

    def route(self, position: int, logits: Tensor) -> Tensor:
        if position in self.selections:
            raise looped_error(self._layers[position])
        self.experts.add(logits.shape[-1])
        return logits

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        super().selected(position, indices, weights)
        self.top_k.add(indices.shape[-1])

    def scored(self, position: int, how: str | None) -> None:
        self.scoring = how


def probe(model: Any, sites: tuple[RouterSite, ...], shape: RoutingShape, device: torch.device) -> str | None:
    """Run two tokens through the model and check that its routing is seen as its config says.

    Args:
        model: The model.
        sites: Its routers.
        shape: Its routing shape.
        device: Where its inputs go; an offloaded model's own weights may be on no device.

    Returns:
        What the logits go through before the selection: ``softmax``, ``sigmoid``, ``softplus``, or None: nothing.

    Raises:
        RoutingBypassedError: A router or experts module is bypassed, or routes among other numbers of experts.
        UserError: A layer runs more than once in the pass.
    """
    listener = _Probe(shape.layers)
    tokens = torch.ones((1, 2), dtype=torch.long, device=device)
    with ExitStack() as stack:
        parts = [expert_parts(site.module, site.block) for site in sites]
        rows = [
            stack.enter_context(expert_parts.counted()) if expert_parts is not None else [] for expert_parts in parts
        ]
        with torch.no_grad(), uncompiled(model), intercepted(sites, listener, top_k=shape.top_k):
            model(tokens)
    if listener.experts != {shape.experts} or listener.top_k != {shape.top_k}:
        raise RoutingBypassedError(
            f"{type(model).__name__} routes among {sorted(listener.experts)} experts and selects "
            f"{sorted(listener.top_k)}, where {shape.experts} and {shape.top_k} are expected",
            fix=NEEDS_ADAPTER,
        )
    _check_experts(sites, listener)
    _compare_rows(sites, listener, rows)
    return listener.scoring


def _check_experts(sites: tuple[RouterSite, ...], listener: _Probe) -> None:
    for position, (indices, _) in listener.selections.items():
        block = sites[position].block
        end = math.inf if block.extra else block.num_experts
        odd = sorted({index for index in indices.flatten().tolist() if not 0 <= index < end})
        if odd:
            raise RoutingBypassedError(
                f"the selection in layer {sites[position].layer} names expert(s) {odd}, but there are only "
                f"{block.num_experts}, counted from 0",
                fix="an adapter whose router has columns for shared, zero or skip experts must declare them with "
                "`extra` (docs/adapters.md); experts that see every token are not part of the selection",
            )


def _compare_rows(sites: tuple[RouterSite, ...], listener: _Probe, rows: list[list[int]]) -> None:
    """Warn where experts that are modules of their own are called with tokens other than those recorded.

    This costs nothing, and sees only whether the numbers agree; ``lm-eval-moe doctor`` shows the rest.
    """
    for position, received in enumerate(rows):
        indices = listener.selections[position][0]
        recorded = [int((indices == expert).sum()) for expert in range(len(received))]
        called = [count == len(indices) for count in received]
        # Some blocks call an expert with all tokens, or every expert with all of them, and choose afterwards.
        is_consistent = all(called) or called == [count > 0 for count in recorded] == [count > 0 for count in received]
        if any(received) and received != recorded and not is_consistent:
            expert = next(e for e, (one, other) in enumerate(zip(received, recorded, strict=True)) if one != other)
            warnings.warn(
                f"layer {sites[position].layer}: expert {expert} receives {received[expert]} token(s), but "
                f"{recorded[expert]} are recorded for it: the adapter may read a selection other than the model's; "
                "run lm-eval-moe doctor to see what is wrong",
                RoutingWarning,
                stacklevel=2,
            )
            return
