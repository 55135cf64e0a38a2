"""What the model class asks of vLLM's engine: rows in one continuous batch, and what the workers recorded of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.routed_state import RoutedState
from lm_eval_moe.backends.vllm.books import RequestFacts
from lm_eval_moe.backends.vllm.engine import running_engine
from lm_eval_moe.backends.vllm.progress import as_part_of
from lm_eval_moe.backends.vllm.routing import KEY, WorkerSettings
from lm_eval_moe.recording import NONE
from lm_eval_moe.steering.plan import sent_plan

if TYPE_CHECKING:
    from lm_eval_moe.backends.vllm.stages import Stages
    from lm_eval_moe.recording import ExpectedRow, RowUse, Span
    from lm_eval_moe.recording.sums import SegmentSums
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["RoutedEngine"]

_RECORD_BYTES = 1 << 29
"""Of records that workers hold before they are collected, roughly."""


class RoutedEngine(RoutedState):
    """The part of `VLLMMoE` that knows the engine.

    Attributes:
        model: vLLM's ``LLM``.
        lora_request: The adapter of all requests, if there is one.
    """

    model: Any
    lora_request: Any
    _stages: Stages

    def _begin_engine(self, stages: Stages) -> None:
        self._stages = stages
        self._sent: WorkerSettings | None = None
        self._epoch = self._rows = 0

    def _parts(self, rows: Sequence[Any]) -> Iterator[slice]:
        """Yield which rows run together: as many as the workers can hold the records of."""
        shape, arrays = self.routing_shape, self.captured.request.arrays
        size = _RECORD_BYTES // (8 * 4 * len(shape.layers) * shape.experts * max(len(arrays), 1))
        size = max(size, 256) if self._span is not None else max(len(rows), 1)
        if isinstance(self.batch_size, int):
            size = min(size, self.batch_size * len({row.plan for row in rows}))
        for start in range(0, len(rows), size):
            yield slice(start, start + size)

    def _facts(
        self, row: ExpectedRow, cuts: Sequence[int], boundary: int, *, shared: bool, is_held: bool = False
    ) -> RequestFacts:
        self._rows += 1
        plan = self._plans[row.plan]
        admitted = [i for i in plan.interventions if i.languages.admits(row.language)] if plan else []
        return RequestFacts(
            row=self._rows,
            cuts=tuple(cuts),
            boundary=boundary,
            language=row.language,
            plan=list(self._sent_plans).index(plan.hash) if plan and admitted else NONE,
            wanted=self._span is not None and any(self._wants(use) for use in row.uses),
            held=is_held,
            shared=shared,
            by_phase=any(i.tokens != "all" for i in admitted),
        )

    def _run(
        self, prompts: Sequence[list[int]], parameters: Sequence[Any], facts: Sequence[RequestFacts], requests: int
    ) -> list[Any]:
        """Return vLLM's outputs of some prompts, which run in one continuous batch, of so many requests."""
        self._configure()
        texts = []
        for prompt, sampling, row_facts in zip(prompts, parameters, facts, strict=True):
            sampling.extra_args = {**(sampling.extra_args or {}), KEY: row_facts.sent()}
            texts.append({"prompt_token_ids": prompt, "cache_salt": self._salt(row_facts)})
        shows_bar = self._bar is not None and not self._bar.disable
        with running_engine(), self._doubting():
            outputs: list[Any] = self.model.generate(
                texts,
                sampling_params=list(parameters),
                use_tqdm=as_part_of(self._bar, requests) if shows_bar else False,
                lora_request=self.lora_request,
            )
        return outputs

    @property
    def _sent_plans(self) -> dict[str, SteeringPlan]:
        """The plans that the workers know, by hash: the same, in the same order, while one of a group is in force."""
        return {plan.hash: plan for plan in (*self._ahead.plans, self._plan) if plan is not None}

    def _configure(self) -> None:
        """Tell the workers what to capture and how to steer, where that has changed."""
        request, shape = self.captured.request, self.routing_shape
        settings = WorkerSettings(
            shape.layers,
            shape.experts,
            shape.top_k,
            shape.depth,
            plans=tuple(map(sent_plan, self._sent_plans.values())),
            arrays=tuple(sorted(request.arrays)) if self._span is not None else None,
            changes=request.changes,
        )
        if settings != self._sent:
            silent = settings.arrays is None and not settings.plans
            self._stages.check(self._tell("routing_begin", None if silent else settings.sent()))
            self._sent = settings
            self._epoch += 1

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """Start over after an error: what workers know and the cache has may be of passes that were not heard."""
        try:
            yield
        except BaseException:
            self._sent = None
            raise

    def _tell(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every worker."""
        with running_engine():
            answers: list[Any] = self.model.collective_rpc(method, args=arguments)
        return answers

    def _salt(self, facts: RequestFacts) -> str:
        """Return what has to agree, besides the tokens, where a request finds another's keys and values."""
        if not facts.shared:
            return f"{self._epoch} scored"
        plan = list(self._sent_plans.values())[facts.plan] if facts.plan != NONE else None
        admitted = [i.index for i in plan.interventions if i.languages.admits(facts.language)] if plan else []
        return f"{self._epoch} {plan.hash if plan else ''} {admitted}"

    def _collect(
        self,
        rows: Sequence[ExpectedRow],
        facts: Sequence[RequestFacts],
        cuts: Sequence[list[int]],
        places: Callable[[int, RowUse, Span], Sequence[int]],
    ) -> None:
        """Take the records of rows that have run from the workers."""
        if self._sent is None or (self._sent.arrays is None and not self._sent.plans):
            return
        cuts_by_row = [(row_facts.row, ends) for row_facts, ends in zip(facts, cuts, strict=True) if row_facts.wanted]
        with self._doubting():
            sums = self._stages.merged(self._tell("routing_take", cuts_by_row))

        def sums_of(numbers: list[int]) -> list[SegmentSums]:
            return [sums[facts[number].row] for number in numbers]

        self.captured.collect(self._span, rows, sums_of, places)
