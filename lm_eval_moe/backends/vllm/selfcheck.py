"""What a worker proves of itself before it takes requests: every router is heard, and every selection can be changed.

The passes of the check run as those of requests will, compiled or as graphs: whoever wraps routers too late, or loads a
kernel that selects by itself, is told so at the start and not by results that are quietly those of the plain model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_moe.errors import RoutingBypassedError
from lm_eval_moe.routers import RouterListener
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.backends.vllm.operators import Routers

__all__ = ["check_routers", "copies_of"]

_BAN = 1e4
"""Taken off a logit: more than logits differ by, and still a number in every type."""

_FIX = (
    "run the model eagerly (enforce_eager=True), or choose another kernel for the experts (moe_backend=triton), and "
    "use vLLM's own implementation of the model (no model_impl=transformers)"
)


class _Inert(RouterListener):
    """Changes nothing, and notes what it hears."""

    def __init__(self) -> None:
        self.routed: dict[int, list[tuple[int, ...]]] = {}
        self.selections: dict[int, list[Tensor]] = {}

    def route(self, position: int, logits: Tensor) -> Tensor:
        self.routed.setdefault(position, []).append(tuple(logits.shape))
        return logits

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        self.selections.setdefault(position, []).append(indices)


class _Ban(_Inert):
    """Bans the very experts that each token would select."""

    def __init__(self) -> None:
        super().__init__()
        self.banned: dict[int, Tensor] = {}

    def compares(self, position: int) -> bool:
        return True

    def unchanged(self, position: int, indices: Tensor) -> None:
        self.banned[position] = indices.long()

    def route(self, position: int, logits: Tensor) -> Tensor:
        logits = super().route(position, logits)
        return logits.scatter_add(-1, self.banned[position], torch.full_like(logits, -_BAN))


def check_routers(routers: Routers, experts: int, top_k: int, run: Callable[[], Sequence[Tensor]]) -> None:
    """Prove on some passes that a worker's routers are heard and obeyed, and that listening alone changes nothing.

    All passes run before any is judged, so that workers which compute together stay together.

    Args:
        routers: The worker's routers, none of them heard at the moment.
        experts: Logits that each has for a token, E.
        top_k: Experts that each selects, K.
        run: Runs the same forward pass each time, and returns copies of what it puts out.

    Raises:
        RoutingBypassedError: A router is not heard exactly once in a pass, with E logits and K experts per token; the
            output is another one because of the listener; a layer selects what it was told not to; or the output does
            not depend on what is selected.
    """
    layers = list(routers.runners)
    if not layers:  # a stage of a pipeline may have none
        return
    positions = {layer: position for position, layer in enumerate(layers)}
    inert, ban = _Inert(), _Ban()
    plain, again = run(), run()
    with routers.heard(inert, positions, experts, keep_logits=False):
        listened = run()
    with routers.heard(ban, positions, experts, keep_logits=False):
        banned = run()
    failure, routers.failure = routers.failure, None
    if failure is not None:
        raise failure
    _check_heard(layers, inert, experts, top_k)
    _check_heard(layers, ban, experts, top_k)
    # A kernel that adds up in no fixed order is not held to bits that it does not keep by itself.
    if _same(plain, again) and not _same(plain, listened):
        raise RoutingBypassedError(
            "the model's output changes as soon as its routers are observed, although nothing is modified",
            fix=_FIX,
        )
    if top_k == experts:  # nothing else can be selected
        return
    deaf = [
        layers[position]
        for position, unsteered in ban.banned.items()
        if torch.equal(_sets(unsteered), _sets(ban.selections[position][0]))
    ]
    _refuse(deaf, "still selects the experts that were banned")
    if _same(plain, banned):
        raise RoutingBypassedError(
            "the output is the same whichever experts the routers select: the experts receive a different selection",
            fix=_FIX,
        )


def copies_of(output: Any) -> list[Tensor]:
    """Return copies of the tensors that a forward pass put out, whichever stage of a pipeline it was."""
    if isinstance(output, torch.Tensor):
        return [output.clone()]
    parts = getattr(output, "tensors", output)  # vLLM's IntermediateTensors have them by name
    return [copy for part in (parts.values() if isinstance(parts, Mapping) else parts) for copy in copies_of(part)]


def _check_heard(layers: Sequence[int], listener: _Inert, experts: int, top_k: int) -> None:
    routed, selections = listener.routed, listener.selections
    numbered = list(enumerate(layers))
    _refuse((layer for place, layer in numbered if place not in routed), "runs without being observed")
    _refuse(
        (layer for place, layer in numbered if len(routed[place]) != 1 or len(selections.get(place, ())) != 1),
        "is not observed exactly once per pass",
    )
    tokens = {routed[place][0][0] for place, _ in numbered}
    wrong = [
        layer
        for place, layer in numbered
        if routed[place] != [(max(tokens), experts)] or selections[place][0].shape != (max(tokens), top_k)
    ]
    _refuse(wrong, f"does not have {experts} logits and {top_k} selected experts for each token")


def _refuse(layers: Iterable[int], what: str) -> None:
    wrong = list(layers)
    if wrong:
        raise RoutingBypassedError(
            f"in layer{'s' * (len(wrong) > 1)} {format_ranges(wrong)} of vLLM's model, the router {what}: steering and "
            "capture would silently do nothing",
            fix=_FIX,
        )


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def _sets(indices: Tensor) -> Tensor:
    return indices.long().sort(-1).values
