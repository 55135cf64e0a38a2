"""Two operators around every router of vLLM, which stay where they are when the model is compiled.

A hook that is put on after compilation is run past. Operators are opaque to the compiler: `steer` stands before the
selection of experts, `seen` behind it, from the moment at which the model is loaded. Outside a pass that is followed,
they hand on what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lm_eval_moe.errors import RoutingBypassedError
from lm_eval_moe.replacing import replaced

if TYPE_CHECKING:
    from lm_eval_moe.routers import RouterListener

__all__ = ["Routers", "wrap_routers"]


class Routers:
    """The routers of a worker's part of the model.

    Args:
        runners: vLLM's ``MoERunner`` of each MoE layer.

    Attributes:
        runners: By decoder layer, ascending.
        failure: The first error of a listener; the passes that follow are not listened to.
    """

    def __init__(self, runners: Sequence[Any]) -> None:
        self.runners: dict[int, Any] = {runner.layer_id: runner for runner in sorted(runners, key=lambda r: r.layer_id)}
        self.failure: Exception | None = None
        self._select: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {}
        self._positions: dict[int, int] = {}
        self._listener: RouterListener | None = None
        self._experts = 0
        self._keep_logits = False
        for layer, runner in self.runners.items():
            self._select[layer] = runner.router.select_experts
            runner.router.select_experts = _wrapped(runner.router.select_experts, layer)

    @contextmanager
    def heard(
        self, listener: RouterListener, positions: dict[int, int], experts: int, *, keep_logits: bool
    ) -> Iterator[None]:
        """Let a listener hear the routers inside the ``with`` block.

        Args:
            listener: The listener.
            positions: The number of each layer's router among those of the whole model.
            experts: How many logits a router has.
            keep_logits: Whether the listener keeps the logits beyond the call.
        """
        global _routers
        self._positions, self._experts, self._keep_logits = positions, experts, keep_logits
        previous, _routers = _routers, self
        try:
            with replaced(self, "_listener", listener):
                yield
        finally:
            _routers = previous

    def steer(self, hidden: Tensor, logits: Tensor, layer: int) -> Tensor:
        """Let the listener change the logits ``[N, E]`` of a router."""
        listener, position = self._listener, self._positions[layer]
        if listener is None or self.failure is not None:
            return logits.clone()
        try:
            if logits.shape[-1] != self._experts:
                raise RoutingBypassedError(
                    f"the router of layer {layer} received logits of shape {tuple(logits.shape)}, not one for each of "
                    f"{self._experts} experts",
                    fix="choose another kernel (moe_backend=triton), or load the model without model_impl=transformers",
                )
            if listener.compares(position):
                _, unchanged = self._select[layer](hidden, logits)
                listener.unchanged(position, unchanged.clone())
            steered = listener.route(position, logits.clone())
        except Exception as error:  # noqa: BLE001 - it would end the engine without a word of what was wrong
            self.failure = error
            return logits.clone()
        return steered.clone() if self._keep_logits else steered

    def seen(self, weights: Tensor, indices: Tensor, layer: int) -> None:
        """Show the listener a selection ``[N, K]``."""
        listener = self._listener
        if listener is None or self.failure is not None:
            return
        # Where the experts' output is scaled instead of the weights, as in GLM-4-MoE, the weights lack the factor.
        scale = float(getattr(self.runners[layer], "routed_scaling_factor", 1.0))
        scaled = weights.clone() if scale == 1 else weights * scale
        try:
            listener.selected(self._positions[layer], indices.clone(), scaled)
        except Exception as error:  # noqa: BLE001 - the same
            self.failure = error


_routers: Routers | None = None
"""The routers that are being observed."""


def _steer(hidden: Tensor, logits: Tensor, layer: int) -> Tensor:
    return logits.clone() if _routers is None else _routers.steer(hidden, logits, layer)


def _seen(weights: Tensor, indices: Tensor, layer: int) -> Tensor:
    if _routers is not None:
        _routers.seen(weights, indices, layer)
    return weights.clone()


def _define(name: str, signature: str, run: Callable[..., Tensor], like: Callable[..., Tensor]) -> None:
    """Define an operator, which returns nothing that it was given, and looks ``like`` its output uncomputed.

    At this level, below ``torch.library.custom_op``, a call costs a quarter: there are two a layer and pass.
    """
    _library.define(f"{name}({signature}) -> Tensor", tags=(torch.Tag.needs_fixed_stride_order,))  # type: ignore[no-untyped-call]
    _library.impl(name, run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"lm_eval_moe::{name}", like, lib=_library)


_library = torch.library.Library("lm_eval_moe", "FRAGMENT")  # type: ignore[no-untyped-call]
_define("steer", "Tensor hidden, Tensor logits, int layer", _steer, lambda _, logits, layer: torch.empty_like(logits))
_define("seen", "Tensor weights, Tensor indices, int layer", _seen, lambda weights, *_: torch.empty_like(weights))


def _wrapped(select: Callable[..., tuple[Tensor, Tensor]], layer: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def select_experts(
        hidden_states: Tensor, router_logits: Tensor, topk_indices_dtype: Any = None, *, input_ids: Any = None
    ) -> tuple[Tensor, Tensor]:
        logits = torch.ops.lm_eval_moe.steer(hidden_states, router_logits, layer)
        weights, indices = select(hidden_states, logits, topk_indices_dtype, input_ids=input_ids)
        return torch.ops.lm_eval_moe.seen(weights, indices, layer), indices

    return select_experts


def wrap_routers(model: Any) -> Routers:
    """Put the operators around all routers of a model that vLLM has just loaded, before anything is compiled."""
    from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

    return Routers([module for module in model.modules() if isinstance(module, MoERunner)])
