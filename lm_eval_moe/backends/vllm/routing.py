"""What a worker does about routing: its books, its recorder and its steerer, from step to step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lm_eval_moe.backends.passes import RoutedPasses
from lm_eval_moe.backends.vllm.books import HELD_BACK, Books, EndedRequest, RequestFacts
from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import NONE, AttributionError, Forest, Recorder
from lm_eval_moe.recording.packing import pack_sums
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering.apply import Steerer
from lm_eval_moe.steering.plan import received_plan

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from lm_eval_moe.backends.vllm.operators import Routers
    from lm_eval_moe.recording.sums import SegmentSums

__all__ = ["KEY", "WorkerRouting", "WorkerSettings"]

KEY = "lm_eval_moe"
"""Under which a request's facts are among its ``extra_args``."""

_TOGETHER = 16
"""Passes whose logits are looked at together."""


@dataclass(frozen=True)
class WorkerSettings:
    """What is captured and how it is steered, of all requests until the next settings.

    Attributes:
        layers: The decoder layers of the model's routers.
        experts: Routed experts per layer.
        top_k: Experts that a token selects.
        depth: Decoder layers.
        plans: The plans, as `sent_plan` returns them; requests name them by their place.
        arrays: The arrays that are summed; None: nothing is captured.
        changes: Whether every steered router is also asked for its selection without steering.
    """

    layers: tuple[int, ...]
    experts: int
    top_k: int
    depth: int
    plans: tuple[str, ...] = ()
    arrays: tuple[str, ...] | None = None
    changes: bool = False

    @property
    def shape(self) -> RoutingShape:
        """The model's routing shape."""
        return RoutingShape(self.layers, self.experts, self.top_k, self.depth)

    def sent(self) -> str:
        """Return the settings as they travel."""
        return json.dumps(self.__dict__)

    @classmethod
    def received(cls, text: str) -> WorkerSettings:
        """Return the settings that were sent."""
        settings: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(text).items()
        }
        return cls(**settings)


class WorkerRouting:
    """Follows the steps of one worker's part of the model.

    Args:
        settings: What to do.
        routers: The worker's routers.
        device: Where it computes.
        cache: Which group of KV blocks says what the prefix cache has, and tokens of a block; None: there is no cache.
    """

    def __init__(
        self, settings: WorkerSettings, routers: Routers, device: torch.device, cache: tuple[int, int] | None
    ) -> None:
        self.settings, self._routers, self._device = settings, routers, device
        self._group, block_size = cache or (0, None)
        self._positions = {layer: settings.layers.index(layer) for layer in routers.runners}
        self._forest = Forest()
        self._books = Books(self._forest, block_size=block_size)
        plans = [received_plan(text, settings.shape) for text in settings.plans]
        self._steerer = Steerer(plans) if plans else None
        self._recorder = None
        if settings.arrays is not None:
            self._recorder = Recorder(
                self._forest,
                len(settings.layers),
                settings.experts,
                arrays=settings.arrays,
                sigmoid=any(
                    getattr(runner.router, "scoring_func", None) == "sigmoid" for runner in routers.runners.values()
                ),
            )
        self._passes = RoutedPasses(
            self._recorder,
            self._steerer,
            compare=settings.changes,
            layers=settings.layers,
            forest=self._forest,
            requests={},
            calls=len(routers.runners),
            together=_TOGETHER,
        )
        self._sums: dict[int, tuple[list[int], SegmentSums]] = {}
        self._counts: Mapping[str, int] | None = None  # tokens of the coming pass by request
        self._wrong: Tensor | None = None  # rows that were not where the books say
        self._open: AbstractContextManager[None] | None = None

    # ------------------------------------------------------------------ one step

    def announce(self, scheduled: Any) -> None:
        """Read what the scheduler says of the coming step, a ``SchedulerOutput``."""
        self._guarded(self._announce, scheduled)

    def _announce(self, scheduled: Any) -> None:
        books = self._books
        self._counts = scheduled.num_scheduled_tokens or None
        preempted = set(scheduled.preempted_req_ids or ()) - set(scheduled.finished_req_ids)
        self._read(books.end(scheduled.finished_req_ids))
        self._read(books.preempt(preempted))
        for new in scheduled.scheduled_new_reqs:
            if new.req_id in books:  # to one of vLLM's runners, a request that was preempted is a new one
                books.go_on(new.req_id, new.num_computed_tokens, new.block_ids[self._group], resumed=True)
                continue
            packed = (new.sampling_params.extra_args or {}).get(KEY) if new.sampling_params else None
            if packed is None:
                raise AttributionError(f"request {new.req_id} carries nothing about its routing")
            facts = RequestFacts.received(packed)
            blocks = new.block_ids[self._group]
            books.add(new.req_id, facts, new.prompt_token_ids, new.num_computed_tokens, blocks)
        cached = scheduled.scheduled_cached_reqs
        for name, computed, new in zip(cached.req_ids, cached.num_computed_tokens, cached.new_block_ids, strict=True):
            new_blocks = None if new is None else new[self._group]
            books.go_on(name, computed, new_blocks, resumed=name in cached.resumed_req_ids)

    def begin(self, tokens: Tensor, positions: Tensor, order: Callable[[], Sequence[str]]) -> None:
        """Begin the forward pass of the step.

        Args:
            tokens: ``[N]`` ids, padding included.
            positions: ``[N]``, or ``[3, N]`` where they have three dimensions.
            order: Returns the requests in the order of their rows.
        """
        if self._counts is not None and self._routers.failure is None:
            self._guarded(self._begin, tokens, positions, order)

    def _begin(self, tokens: Tensor, positions: Tensor, order: Callable[[], Sequence[str]]) -> None:
        assert self._counts is not None
        step = self._books.step(self._counts, order())
        self._counts = None
        count = len(step.segment)
        expected = torch.from_numpy(np.stack([step.position, step.token])).to(self._device)
        row_positions = positions[0] if positions.dim() > 1 else positions
        wrong = (row_positions[:count] != expected[0]).sum()
        if (step.token >= 0).any():
            wrong += ((expected[1] >= 0) & (tokens[:count] != expected[1])).sum()
        self._wrong = wrong if self._wrong is None else self._wrong + wrong
        segment = np.full(len(tokens), NONE)
        segment[:count] = step.segment
        self._passes.start_pass(tokens, self._forest.begin_pass(segment))
        self._open = self._routers.heard(
            self._passes,
            self._positions,
            self.settings.experts,
            keep_logits="importance_dense" in (self.settings.arrays or ()),
        )
        self._open.__enter__()

    def end(self) -> None:
        """End the forward pass."""
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None
            self._guarded(self._end)

    def _end(self) -> None:
        self._passes.end_pass()
        stretches = self._books.folded()
        if stretches:
            if self._recorder is not None:
                self._recorder.fold(stretches)
            if self._steerer is not None:
                self._steerer.fold(stretches)
            self._books.fold(stretches)

    # ------------------------------------------------------------------ what was recorded

    def _read(self, ended: Sequence[EndedRequest]) -> None:
        if self._recorder is not None and ended:
            sums = self._recorder.sums_of([ending.stretches for ending in ended])
            self._sums.update(
                {ending.row: (ending.ends, row_sums) for ending, row_sums in zip(ended, sums, strict=True)}
            )

    def take(self, cuts: Mapping[int, Sequence[int]]) -> dict[int, bytes]:
        """Return what was recorded of requests that have ended, and forget it.

        Args:
            cuts: By row, where its segments end: positions, ascending.

        Returns:
            By row, the packed sums of these segments.

        Raises:
            UserError: Something went wrong since the last time; nothing can be trusted.
        """
        self._guarded(self._read, self._books.end_all())
        self.check()
        packed = {row: pack_sums(self._cut(row, ends)) for row, ends in cuts.items()}
        self._sums.clear()
        return packed

    def check(self) -> None:
        """Raise what went wrong since the last time.

        Raises:
            UserError: Something did; nothing can be trusted.
        """
        self._guarded(self._passes.look)
        wrong = 0 if self._wrong is None else int(self._wrong)
        self._wrong = None
        failure, self._routers.failure = self._routers.failure, None
        if failure is not None:
            self._sums.clear()
            raise failure
        if wrong:
            raise AttributionError(f"{wrong} tokens were not where vLLM's scheduler says: routing cannot be attributed")

    def _cut(self, row: int, cuts: Sequence[int]) -> SegmentSums:
        if row not in self._sums:
            raise AttributionError(f"row {row} has ended without a record")
        ends, sums = self._sums[row]
        groups, begin = [], 0
        for cut in cuts:
            if cut not in (0, *ends):
                raise UserError(
                    f"an answer ended {ends[-1] - cut} tokens before the engine noticed, but only {HELD_BACK} are "
                    "held back: its record would not match its tokens",
                    fix="set VLLM_ENABLE_V1_MULTIPROCESSING=0: the engine then looks for stop strings itself",
                )
            place = ends.index(cut) + 1 if cut else 0
            groups.append(range(begin, place))
            begin = place
        return sums.merged(groups)

    def counted(self) -> dict[str, int]:
        """Return how often requests were preempted, and how many tokens were found in the prefix cache."""
        return {"preempted": self._books.preempted, "found": self._books.found}

    def _guarded(self, do: Callable[..., None], *arguments: Any) -> None:
        """Keep an error until somebody asks: raised here, it would end the engine, and nobody would see it."""
        if self._routers.failure is not None:
            return
        try:
            do(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._routers.failure = error
