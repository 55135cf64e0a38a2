"""One batch on its way through the model: steered by the plan, recorded by the recorder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval_moe.capture import BatchLayout, Recorder
from lm_eval_moe.errors import RoutingBypassedError

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.steering.apply import Steerer

__all__ = ["RoutedBatch"]


class RoutedBatch:
    """The listener of one batch's forward passes (see `lm_eval_moe.routers.RouterListener`).

    Args:
        recorder: Accumulates the routing; None to steer only.
        steerer: Applies the plan; None to record only.
        compare: Also ask each steered router for its selection without steering.
    """

    def __init__(self, recorder: Recorder | None, steerer: Steerer | None, *, compare: bool = False) -> None:
        self._recorder, self._steerer, self._compare = recorder, steerer, compare
        self._routed: int | None = None  # router calls of the pass, None between passes

    def start_pass(self, tokens: Tensor, layout: BatchLayout, languages: Sequence[str | None]) -> None:
        """Begin a forward pass over ``tokens`` ``[B, T]``; ``languages`` has one entry a row."""
        self._routed = 0
        if self._steerer is not None:
            self._steerer.start_pass(tokens, layout.valid, layout.generated, languages)
        if self._recorder is not None:
            self._recorder.start_pass(layout, self._steerer.targets if self._steerer else None)

    def end_pass(self) -> None:
        """End the forward pass.

        Raises:
            RoutingBypassedError: It called no router.
        """
        if not self._routed:
            raise _unseen("a forward pass called no router")
        self._routed = None
        if self._recorder is not None:
            self._recorder.end_pass()

    def route(self, position: int, logits: Tensor) -> Tensor:
        """Steer the router logits ``[N, E]`` and note what becomes of them.

        Raises:
            RoutingBypassedError: No pass was begun: nothing is known about the tokens.
        """
        if self._routed is None:
            raise _unseen("a router was called outside the model's own forward pass")
        self._routed += 1
        if self._steerer is not None:
            logits = self._steerer.edit(position, logits)
        if self._recorder is not None:
            self._recorder.logits(position, logits)
        return logits

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """Record the selection."""
        if self._recorder is not None:
            self._recorder.selection(position, indices, weights)

    def scored(self, position: int, how: str | None) -> None:
        """The scoring was learnt when the model was loaded."""

    def guarded(self, position: int, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what the final top-k must take and leave."""
        return self._steerer.guard(position, logits) if self._steerer is not None else None

    def compares(self, position: int) -> bool:
        """Only steered layers have another selection without steering."""
        return (
            self._compare
            and self._recorder is not None
            and self._steerer is not None
            and self._steerer.acts_on(position)
        )

    def unchanged(self, position: int, indices: Tensor) -> None:
        """Record the selection without steering."""
        if self._recorder is not None:
            self._recorder.unchanged(position, indices)


def _unseen(what: str) -> RoutingBypassedError:
    return RoutingBypassedError(
        f"{what}: its tokens cannot be told apart",
        fix="give the model as transformers loads it, without a wrapper or compiled code around its forward",
    )
