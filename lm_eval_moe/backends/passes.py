"""Forward passes on their way through a model's routers: steered by the plans, recorded by the recorder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.recording.finite import FiniteCheck, NotFinite
from lm_eval_moe.routers import RouterListener, looped_error
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.recording import Forest, Recorder, RequestKey
    from lm_eval_moe.recording.token_rows import TokenRows
    from lm_eval_moe.steering.apply import Steerer

__all__ = ["RoutedPasses"]


class RoutedPasses(RouterListener):
    """The listener of forward passes.

    Args:
        recorder: Accumulates the routing; None to steer only.
        steerer: Applies the plans; None to record only.
        compare: Also ask each steered router for its selection without steering.
        layers: The decoder layer of every router, for messages.
        forest: The segments.
        requests: Requests by a segment of theirs (those that follow it are theirs, too), for messages.
        calls: How many router calls a pass has to make; None: one at least.
        together: How many passes are looked at together for logits that are not finite; `look` has to follow the last.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        steerer: Steerer | None,
        *,
        compare: bool = False,
        layers: Sequence[int],
        forest: Forest,
        requests: Mapping[int, RequestKey],
        calls: int | None = None,
        together: int = 1,
    ) -> None:
        self._recorder, self._steerer, self._compare = recorder, steerer, compare
        self._layers, self._forest, self._requests = layers, forest, requests
        self._calls = calls
        self._finite = FiniteCheck(together)
        self._routed: int | None = None  # router calls of the pass, None between passes
        self._selected: set[int] = set()  # routers whose selection the pass has shown

    def start_pass(self, tokens: Tensor, rows: TokenRows) -> None:
        """Begin a forward pass over ``tokens`` ``[N]``, or any shape of N tokens row after row."""
        self._routed = 0
        self._selected.clear()
        self._finite.start_pass(rows)
        if self._steerer is not None:
            self._steerer.start_pass(tokens.reshape(-1), rows)
        if self._recorder is not None:
            self._recorder.start_pass(rows, self._steerer.targets if self._steerer else None)

    def end_pass(self) -> None:
        """End the forward pass.

        Raises:
            RoutingBypassedError: It called no router, or fewer or more than there are.
            UserError: Router logits of a valid token are NaN or infinite.
        """
        if not self._routed and self._calls != 0:  # a stage of a pipeline may have none
            raise _unattributable("a forward pass called no router")
        if self._calls not in (None, self._routed):
            raise _unattributable(f"a forward pass called {self._routed} routers, not {self._calls}")
        self._routed = None
        if self._recorder is not None:
            self._recorder.end_pass()
        self._check(self._finite.end_pass())

    def look(self) -> None:
        """Look at the passes that have not been looked at.

        Raises:
            UserError: Router logits of a valid token are NaN or infinite.
        """
        self._check(self._finite.look())

    def _check(self, wrong: NotFinite | None) -> None:
        if wrong is not None:
            raise self._not_finite(wrong)

    def route(self, position: int, logits: Tensor) -> Tensor:
        """Steer the router logits ``[N, E]`` and note what becomes of them.

        Raises:
            RoutingBypassedError: No pass was begun: nothing is known about the tokens.
            UserError: The pass has been through the layer before: the model is looped.
        """
        if self._routed is None:
            raise _unattributable("a router was called outside the model's own forward pass")
        if position in self._selected:
            raise looped_error(self._layers[position])
        self._routed += 1
        self._finite.see(position, logits)
        if self._steerer is not None:
            logits = self._steerer.edit(position, logits)
        if self._recorder is not None:
            self._recorder.logits(position, logits)
        return logits

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """Record the selection."""
        self._selected.add(position)
        if self._recorder is not None:
            self._recorder.selection(position, indices, weights)

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

    def _not_finite(self, wrong: NotFinite) -> UserError:
        layers = format_ranges([self._layers[position] for position in wrong.positions])
        lineages = [self._forest.path(segment) for segment in wrong.segments] if self._requests else []
        keys = list(dict.fromkeys(self._requests[s] for path in lineages for s in path if s in self._requests))
        where = f"task {keys[0].task}, document {keys[0].doc_id}, request {keys[0].idx}" if keys else None
        more = f"; {len(keys) - 1} more requests in the batch have the same problem" if len(keys) > 1 else ""
        return UserError(
            f"the router logits of layer{'s' * (len(wrong.positions) > 1)} {layers} are NaN or infinite: the experts "
            f"would be chosen at random{more}",
            fix="load the model in a wider type (--model_args dtype=bfloat16 or float32; float16 ends at 65504); if "
            "that does not help, its weights are damaged",
            where=where,
        )


def _unattributable(what: str) -> RoutingBypassedError:
    return RoutingBypassedError(
        f"{what}: its tokens cannot be attributed to requests",
        fix="pass the model as transformers loads it, without a wrapper or compiled code around its forward",
    )
