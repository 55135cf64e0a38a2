"""One short forward pass when a model is loaded: is every router reached, and how does it score?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lm_eval_moe.errors import RoutingBypassedError
from lm_eval_moe.models.uncompiled import uncompiled
from lm_eval_moe.routers import RouterSite, intercepted
from lm_eval_moe.routers.blocks import NEEDS_ADAPTER
from lm_eval_moe.routers.looking import Looking

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.shape import RoutingShape

__all__ = ["probe"]


class _Probe(Looking):
    """Sees how many experts there are, how many are selected, and how they are scored."""

    def __init__(self) -> None:
        super().__init__()
        self.experts: set[int] = set()
        self.top_k: set[int] = set()
        self.scoring: str | None = None

    def route(self, position: int, logits: Tensor) -> Tensor:
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
    """
    listener = _Probe()
    tokens = torch.ones((1, 2), dtype=torch.long, device=device)
    with torch.no_grad(), uncompiled(model), intercepted(sites, listener, top_k=shape.top_k):
        model(tokens)
    if listener.experts != {shape.experts} or listener.top_k != {shape.top_k}:
        raise RoutingBypassedError(
            f"{type(model).__name__} routes among {sorted(listener.experts)} experts and selects "
            f"{sorted(listener.top_k)}, where {shape.experts} and {shape.top_k} are expected",
            fix=NEEDS_ADAPTER,
        )
    return listener.scoring
