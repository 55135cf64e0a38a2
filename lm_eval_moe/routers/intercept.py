"""Intercept routers: see their logits, change them before the model's own selection, see what the experts receive.

A router's ``forward`` is wrapped in a ``TorchFunctionMode`` that recognises the one linear whose weight *is* the
router's weight. Its output is handed to a listener, and what the listener returns continues into the model's own code:
softmax or sigmoid, groups, selection bias and top-k stay the model's. A forward hook could not do this, since the
blocks ignore the logits that a router returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.replacing import replaced
from lm_eval_moe.routers.blocks import NEEDS_ADAPTER
from lm_eval_moe.routers.mode import RouterMode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_moe.routers.sites import RouterSite

__all__ = ["RouterListener", "intercepted"]

_Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


class RouterListener:
    """Is notified of every router call; as it stands here, it changes nothing.

    ``position`` counts the model's routers from 0; N is batch x sequence.
    """

    def route(self, position: int, logits: Tensor) -> Tensor:
        """Return the router logits ``[N, E]`` that the model continues with."""
        return logits

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """See the selection ``[N, K]`` and its combine weights ``[N, K]`` as the experts receive them."""

    def scored(self, position: int, how: str | None) -> None:
        """Learn what the logits went through before the selection: softmax, sigmoid, softplus; None: nothing.

        Told at a router's first call, and wherever the call is watched to its end again.
        """

    def guarded(self, position: int, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return ``(force, ban)``, bool masks like the logits ``[N, E]`` for the final top-k, or None for no guard."""
        return None

    def compares(self, position: int) -> bool:
        """Whether the selection without any change is wanted as well (one more router call)."""
        return False

    def unchanged(self, position: int, indices: Tensor) -> None:
        """See the selection ``[N, K]`` of the router on the same hidden states without any change, if wanted."""


@contextmanager
def intercepted(
    sites: tuple[RouterSite, ...], listener: RouterListener, *, top_k: int, check_reached: bool = True
) -> Iterator[None]:
    """Let a listener see and change the routing of every forward pass inside the ``with`` block.

    The modules' ``forward`` attributes are restored on the way out, whatever happens inside.

    Args:
        sites: The model's routers.
        listener: Is notified of every call.
        top_k: Experts selected per token, K.
        check_reached: Check at the end that every router and every experts module was reached equally often.

    Raises:
        RoutingBypassedError: A router's linear was not recognised exactly once in a call, the experts got no selection
            of the expected form, or (``check_reached``) a router was never reached: a fused kernel or another
            implementation runs in its place, and steering and capture would silently do nothing.
    """
    calls = _Calls(sites)
    wrappers: list[tuple[nn.Module, _Wrapper]] = []
    for position, site in enumerate(sites):
        wrappers.append((site.block.router, _router_forward(position, site, listener, calls, top_k)))
        if site.block.experts is not None:
            wrappers.append((site.block.experts, _experts_forward(position, site, listener, calls)))
    with ExitStack() as stack:
        for module, wrap in wrappers:
            stack.enter_context(replaced(module, "forward", wrap(module.forward)))
        yield
    if check_reached:
        calls.check()


class _Calls:
    """How often each router and each experts module was reached."""

    def __init__(self, sites: tuple[RouterSite, ...]) -> None:
        self._sites = sites
        self.routers = [0] * len(sites)
        self.experts = [0] * len(sites)

    def reached_experts(self, position: int) -> None:
        self.experts[position] += 1
        if self.experts[position] > self.routers[position]:
            raise self._error(position)

    def check(self) -> None:
        most = max(self.routers)
        for position, (routed, reached) in enumerate(zip(self.routers, self.experts, strict=True)):
            has_experts = self._sites[position].block.experts is not None
            if routed == 0 or routed != most or (has_experts and reached != routed):
                raise self._error(position)

    def _error(self, position: int) -> RoutingBypassedError:
        return RoutingBypassedError(
            f"the router {self._sites[position].name} was called {self.routers[position]} times and its experts "
            f"{self.experts[position]} times while other routers were called up to {max(self.routers)} times: its "
            "computation is bypassed",
            fix="load the model without what runs in its place: kernels (use_kernels=True), a quantisation with its "
            "own kernels (for MXFP4, quantization_config=Mxfp4Config(dequantize=True)), or a module that "
            "several layers share",
        )


def _router_forward(position: int, site: RouterSite, listener: RouterListener, calls: _Calls, top_k: int) -> _Wrapper:
    block = site.block
    route, guarded = partial(listener.route, position), partial(listener.guarded, position)

    def run(mode: RouterMode, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with mode:
            out = original(*args, **kwargs)
        if mode.hits != 1:
            raise RoutingBypassedError(
                f"the router {site.name} ({type(block.router).__name__}) multiplied by its own weight {mode.hits} "
                "times in one call, where exactly once is expected: its logits cannot be seen or changed",
                fix="load the model without kernel replacement, router quantisation or an adapter on the router",
            )
        return out

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        is_plain = False

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_plain
            calls.routers[position] += 1
            if listener.compares(position):
                out = run(RouterMode(block, lambda logits: logits), original, args, kwargs)
                listener.unchanged(position, block.selection_returned(out, top_k)[0])
            mode = RouterMode(block, route, guarded, top_k, is_plain=is_plain)
            out = run(mode, original, args, kwargs)
            if mode.guard_missed:
                raise UserError(
                    f"guard: true has no effect on the router {site.name} ({type(block.router).__name__}): it selects "
                    "its experts without a top-k over all of them",
                    fix="write guard: false for this model; the field steered_selection shows what steering reaches",
                )
            if not mode.left:
                is_plain = mode.plain
                listener.scored(position, mode.scoring)
            if not block.hands_on_selection:
                listener.selected(position, *block.selection_returned(out, top_k))
            return out

        return forward

    return wrap


def _experts_forward(position: int, site: RouterSite, listener: RouterListener, calls: _Calls) -> _Wrapper:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            calls.reached_experts(position)
            if site.block.hands_on_selection:
                indices, weights = site.block.selection_received(args, kwargs)
                if indices.shape != weights.shape or indices.is_floating_point():
                    raise RoutingBypassedError(
                        f"the experts of {site.name} receive indices of shape {tuple(indices.shape)} and weights of "
                        f"shape {tuple(weights.shape)}: not a selection of K experts per token",
                        fix=NEEDS_ADAPTER,
                    )
                listener.selected(position, indices, weights)
            return original(*args, **kwargs)

        return forward

    return wrap
