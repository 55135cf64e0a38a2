"""Intercept routers: see their logits, change them before the model's own selection, see what the experts receive.

A router's ``forward`` is wrapped in a ``TorchFunctionMode`` that recognises the one linear whose weight *is* the
router's weight. Its output is handed to a listener, and what the listener returns goes on into the model's own code:
softmax or sigmoid, groups, selection bias and top-k stay the model's. A forward hook could not do this, since the
blocks ignore the logits that a router returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.routers.sites import RouterSite, selection_arguments

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RouterListener", "intercepted"]

_Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

_SIGMOIDS = (torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid)
_SCORES = (*_SIGMOIDS, torch.softmax, torch.Tensor.softmax, F.softmax)
_CASTS = (torch.Tensor.to, torch.Tensor.float, torch.Tensor.type, torch.Tensor.type_as)
_TOP_KS = (torch.topk, torch.Tensor.topk)


class RouterListener(Protocol):
    """What is told about every router call. ``position`` counts the model's routers from 0; N is batch x sequence."""

    def route(self, position: int, logits: Tensor) -> Tensor:
        """Return the router logits ``[N, E]`` that the model shall go on with."""
        ...

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """See the selection ``[N, K]`` and its combine weights ``[N, K]`` as the experts receive them."""
        ...

    def scored(self, position: int, how: str) -> None:
        """Learn that the logits went through a ``sigmoid``; routers that say nothing use a softmax."""
        ...

    def guarded(self, position: int, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return ``(force, ban)``, bool masks like the logits ``[N, E]`` for the final top-k, or None for no guard."""
        ...

    def compares(self, position: int) -> bool:
        """Whether the selection without any change is wanted as well (one more router call)."""
        ...

    def unchanged(self, position: int, indices: Tensor) -> None:
        """See the selection ``[N, K]`` of the router on the same hidden states without any change."""
        ...


class _RouterMode(TorchFunctionMode):
    """Runs during one router call; ``edit`` maps logits to logits."""

    def __init__(
        self,
        site: RouterSite,
        edit: Callable[[Tensor], Tensor],
        guard: Callable[[Tensor], tuple[Tensor, Tensor] | None] | None = None,
        top_k: int = 0,
    ) -> None:
        super().__init__()
        self._site, self._edit = site, edit
        self._guard_of, self._top_k = guard, top_k
        self._guard: tuple[Tensor, Tensor] | None = None
        # Casts of the weight (`self.weight.float()`) are the weight, too.
        self._casts: list[Tensor] = []
        self._logits: list[Tensor] = []  # and their casts
        self._scores: Tensor | None = None
        self.hits = 0
        self.guarded = False
        self.sigmoid = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._guard is not None and func in _TOP_KS:
            return self._guarded_top_k(func, args, kwargs)
        out = func(*args, **kwargs)
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            if self._is_weight(weight):
                self.hits += 1
                edited = self._edit(out)
                self._logits = [edited]
                self._guard = self._guard_of(edited) if self._guard_of else None
                return edited
        elif args and isinstance(out, torch.Tensor):
            if any(args[0] is logits for logits in self._logits):
                if func in _CASTS:
                    self._logits.append(out)
                elif func in _SCORES:
                    self._scores = out
                    self.sigmoid = func in _SIGMOIDS
            elif out.dim() == 2 and self._is_weight(args[0]) and out.shape == args[0].shape:
                self._casts.append(out)
        return out

    @property
    def guard_missed(self) -> bool:
        """Whether a guard was asked for, but no top-k over all experts was there to be guarded."""
        return self._guard is not None and not self.guarded

    def _is_weight(self, tensor: object) -> bool:
        return tensor is self._site.weight or any(tensor is cast for cast in self._casts)

    def _guarded_top_k(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Choose by the guarded scores, but return the model's own values for what was chosen.

        Forced experts come first, in the order of their logits, so that more than K of them tie-break as these do; then
        the model's own choice; then the experts of groups that it leaves out, again in the order of their logits;
        banned ones last.
        """
        scores = args[0]
        k = args[1] if len(args) > 1 else kwargs["k"]
        assert self._guard is not None
        force, ban = self._guard
        if k != self._top_k or scores.shape != force.shape:  # the choice of groups
            return func(*args, **kwargs)
        self.guarded = True
        logits = self._logits[0].float()
        full = self._scores if self._scores is not None else logits
        left_out = (scores == -torch.inf) | ((scores == 0) & (full != 0))
        ranks = logits.argsort(dim=-1).argsort(dim=-1) / scores.shape[-1]
        limit = torch.finfo(torch.float32).max
        chosen = torch.where(left_out, limit * (ranks / 4 - 0.75), scores.float())
        chosen = torch.where(force, limit * (ranks / 4 + 0.5), chosen).masked_fill(ban, -torch.inf)
        indices = func(chosen, *args[1:], **kwargs).indices
        # Some routers take the combine weights from here: an expert brought back has the score that it had before.
        values = torch.where(left_out, full.to(scores.dtype), scores).gather(-1, indices)
        return torch.return_types.topk((values, indices))


@contextmanager
def intercepted(
    sites: tuple[RouterSite, ...], listener: RouterListener, *, top_k: int, whole: bool = True
) -> Iterator[None]:
    """Let a listener see and change the routing of every forward pass inside the ``with`` block.

    The modules' ``forward`` attributes are restored on the way out, whatever happens inside.

    Args:
        sites: The model's routers.
        listener: Is told about every call.
        top_k: Experts selected per token, K.
        whole: Check at the end that every router and every experts module was reached equally often.

    Raises:
        RoutingBypassedError: A router's linear was not recognised exactly once in a call, the experts got no selection
            of the expected form, or (``whole``) a router was never reached: a fused kernel or another implementation
            runs in its place, and steering and capture would silently do nothing.
    """
    calls = _Calls(sites)
    with _replaced_forwards(
        [
            pair
            for position, site in enumerate(sites)
            for pair in (
                (site.router, _router_forward(position, site, listener, calls, top_k)),
                (site.experts, _experts_forward(position, site, listener, calls)),
            )
        ]
    ):
        yield
    if whole:
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
            if routed == 0 or routed != most or reached != routed:
                raise self._error(position)

    def _error(self, position: int) -> RoutingBypassedError:
        return RoutingBypassedError(
            f"the router {self._sites[position].name} was called {self.routers[position]} times and its experts "
            f"{self.experts[position]} times while other routers were called up to {max(self.routers)} times: its "
            "computation is bypassed",
            fix="load the model without kernel replacement (use_kernels=False) and without torch.compile",
        )


@contextmanager
def _replaced_forwards(
    wrappers: list[tuple[nn.Module, Callable[[Callable[..., Any]], Callable[..., Any]]]],
) -> Iterator[None]:
    undo: list[Callable[[], None]] = []
    try:
        for module, wrap in wrappers:
            undo.append(_restorer(module))
            module.forward = wrap(module.forward)
        yield
    finally:
        for restore in reversed(undo):
            restore()


def _restorer(module: nn.Module) -> Callable[[], None]:
    """Return what puts ``module.forward`` back: an own attribute (accelerate sets one), or the class's method."""
    if "forward" in vars(module):
        own = module.forward

        def restore() -> None:
            module.forward = own
    else:

        def restore() -> None:
            del module.forward

    return restore


def _router_forward(position: int, site: RouterSite, listener: RouterListener, calls: _Calls, top_k: int) -> _Wrapper:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            calls.routers[position] += 1
            if listener.compares(position):
                plain = _RouterMode(site, lambda logits: logits)
                with plain:
                    out = original(*args, **kwargs)
                _check_hits(site, plain.hits)
                listener.unchanged(position, _indices_of(site, out, top_k))
            mode = _RouterMode(
                site,
                lambda logits: listener.route(position, logits),
                lambda logits: listener.guarded(position, logits),
                top_k,
            )
            with mode:
                out = original(*args, **kwargs)
            _check_hits(site, mode.hits)
            if mode.guard_missed:
                raise UserError(
                    f"guard: true has no effect on the router {site.name} ({type(site.router).__name__}): it selects "
                    "its experts without a top-k over all of them",
                    fix="write guard: false for this model; the field steered_selection says what steering reaches",
                )
            if mode.sigmoid:
                listener.scored(position, "sigmoid")
            return out

        return forward

    return wrap


def _check_hits(site: RouterSite, hits: int) -> None:
    if hits != 1:
        raise RoutingBypassedError(
            f"the router {site.name} ({type(site.router).__name__}) multiplied by its own weight {hits} times in one "
            "call, where exactly once is expected: its logits cannot be seen or changed",
            fix="load the model without kernel replacement, router quantisation or an adapter on the router",
        )


def _indices_of(site: RouterSite, out: Any, top_k: int) -> Tensor:
    """Return the selected indices ``[N, K]`` among a router's outputs."""
    for value in out if isinstance(out, (tuple, list)) else (out,):
        if isinstance(value, torch.Tensor) and not value.is_floating_point() and value.shape[-1] == top_k:
            return value.reshape(-1, top_k)
    raise RoutingBypassedError(
        f"the router {site.name} ({type(site.router).__name__}) returns no selected indices",
        fix="leave steered_change out of --routing_fields for this model",
    )


def _experts_forward(position: int, site: RouterSite, listener: RouterListener, calls: _Calls) -> _Wrapper:
    arguments = selection_arguments(site.experts)
    assert arguments is not None, "find_sites finds only modules that take a selection"

    def given(argument: tuple[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        name, place = argument
        tensor: Tensor = args[place] if len(args) > place else kwargs[name]
        return tensor

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            calls.reached_experts(position)
            indices, weights = (given(argument, args, kwargs) for argument in arguments)
            if indices.shape != weights.shape or indices.is_floating_point():
                raise RoutingBypassedError(
                    f"the experts of {site.name} receive indices of shape {tuple(indices.shape)} and weights of shape "
                    f"{tuple(weights.shape)}: not a selection of K experts per token",
                    fix="this model family needs an adapter in lm_eval_moe/routers",
                )
            listener.selected(position, indices, weights)
            return original(*args, **kwargs)

        return forward

    return wrap
