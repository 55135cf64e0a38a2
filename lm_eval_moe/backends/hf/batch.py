"""One batch on its way through the model: steered by the plan, recorded by the recorder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval_moe.capture import BatchLayout, ExpectedRow, Recorder
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.routers.finite import FiniteCheck, NotFinite
from lm_eval_moe.shape import format_ranges

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
        rows: What the rows of the batch are, for messages; empty where they are nobody's.
        layers: The decoder layer of every router, for messages.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        steerer: Steerer | None,
        *,
        compare: bool = False,
        rows: Sequence[ExpectedRow] = (),
        layers: Sequence[int] = (),
    ) -> None:
        self._recorder, self._steerer, self._compare = recorder, steerer, compare
        self._rows, self._layers = rows, layers
        self._finite = FiniteCheck()
        self._routed: int | None = None  # router calls of the pass, None between passes

    def start_pass(self, tokens: Tensor, layout: BatchLayout, languages: Sequence[str | None]) -> None:
        """Begin a forward pass over ``tokens`` ``[B, T]``; ``languages`` has one entry a row."""
        self._routed = 0
        self._finite.start_pass(layout.valid)
        if self._steerer is not None:
            self._steerer.start_pass(tokens, layout.valid, layout.generated, languages)
        if self._recorder is not None:
            self._recorder.start_pass(layout, self._steerer.targets if self._steerer else None)

    def end_pass(self) -> None:
        """End the forward pass.

        Raises:
            RoutingBypassedError: It called no router.
            UserError: Router logits of a valid token are NaN or infinite.
        """
        if not self._routed:
            raise _unseen("a forward pass called no router")
        self._routed = None
        if self._recorder is not None:
            self._recorder.end_pass()
        wrong = self._finite.end_pass()
        if wrong is not None:
            raise _not_finite(wrong, self._rows, self._layers)

    def route(self, position: int, logits: Tensor) -> Tensor:
        """Steer the router logits ``[N, E]`` and note what becomes of them.

        Raises:
            RoutingBypassedError: No pass was begun: nothing is known about the tokens.
        """
        if self._routed is None:
            raise _unseen("a router was called outside the model's own forward pass")
        self._routed += 1
        self._finite.see(position, logits)
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


def _not_finite(wrong: NotFinite, rows: Sequence[ExpectedRow], layers: Sequence[int]) -> UserError:
    found = [layers[position] if layers else position for position in wrong.positions]
    keys = [use.key for row in wrong.rows if row < len(rows) for use in rows[row].uses[:1] if use.key is not None]
    where = f"task {keys[0].task}, document {keys[0].doc_id}, request {keys[0].idx}" if keys else None
    more = f"; {len(wrong.rows) - 1} more of the batch's {len(rows)} rows are like it" if len(wrong.rows) > 1 else ""
    return UserError(
        f"the router logits of layer{'s' * (len(found) > 1)} {format_ranges(found)} are NaN or infinite: the experts "
        f"would be chosen at random{more}",
        fix="load the model in a wider type (--model_args dtype=bfloat16 or float32; float16 ends at 65504); if that "
        "does not help, its weights are damaged",
        where=where,
    )


def _unseen(what: str) -> RoutingBypassedError:
    return RoutingBypassedError(
        f"{what}: its tokens cannot be told apart",
        fix="give the model as transformers loads it, without a wrapper or compiled code around its forward",
    )
