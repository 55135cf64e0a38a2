"""What an `HFMoE` model holds besides its weights: steering, records, the tasks' languages, and its response cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.cache import ResponseCache
from lm_eval_moe.backends.hf.identity import model_parts
from lm_eval_moe.backends.hf.loading import capture_span, resolve_plan
from lm_eval_moe.backends.hf.weights import LoadedWeights
from lm_eval_moe.capture import ARRAYS, RecordStore, RequestKey, RoutingRecord, RowUse
from lm_eval_moe.errors import UserError
from lm_eval_moe.identity import ANSWER, Identity
from lm_eval_moe.parallel import ParallelRegistry
from lm_eval_moe.steering.apply import Constants, Steerer
from lm_eval_moe.steering.coverage import Coverage

if TYPE_CHECKING:
    from lm_eval_moe.capture import Span
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = ["RoutingState"]


class RoutingState:
    """Mixed into the model class.

    Attributes:
        routing_shape: The model's MoE layers, experts and top-k.
        registry: Knows which task is which language.
        records: What was captured of each request: one record, or one a window.
        record_arrays: The arrays that records hold.
        record_changes: Whether every steered router is also asked for its selection without steering.
        wanted: Says of which requests a record is kept.
        task_languages: Languages of tasks by name; None where it is not known.
        coverage: What the plan in force steers of a request; None for the model as it is.
        steered_pairs: By task, the (token, layer) pairs of its requests at which steering acted, whether the answers
            were computed or recalled.
        response_cache: Keeps answers, if there is one.
        parts: The records of the last block of requests, by request and window.
        weights: Knows the hash of the model's weights.
    """

    routing_shape: RoutingShape
    registry: ParallelRegistry
    config: Any
    weights: LoadedWeights
    code: dict[str, Any]
    batch_size_per_gpu: int | str
    think_end_token: str | int | None
    _given_name: str | None
    _parallel: list[Path]
    _span: Span | None

    def _begin(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> None:
        """Set everything up; the routing shape is known by now."""
        self._plan: SteeringPlan | None = None
        self.steered_pairs: Counter[str] = Counter()
        self.set_steering(steering)
        self.records: RecordStore[RequestKey] = RecordStore()
        self.record_arrays: frozenset[str] = frozenset(ARRAYS)
        self.record_changes = False
        self.wanted: Callable[[RequestKey], bool] = lambda key: True
        self.task_languages: dict[str, str | None] = {}

        self.response_cache: ResponseCache | None = None
        self.parts: dict[tuple[RequestKey, int], RoutingRecord] = {}
        self._known = Identity()

    @property
    def steering(self) -> SteeringPlan | None:
        """The plan in force, None for the model as it is."""
        return self._plan

    def set_steering(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> None:
        """Change the steering of the loaded model, or end it with None.

        Raises:
            UserError: The steering does not fit the model's shape.
        """
        self._plan = resolve_plan(steering, self.routing_shape)
        self.coverage = Coverage(self._plan) if self._plan is not None else None
        self._steering_constants: Constants = {}

    @property
    def capture(self) -> str:
        """The captured span: ``prompt``, ``thinking``, ``continuation``, ``all`` or ``off``."""
        return self._span or "off"

    def set_capture(self, capture: str | bool) -> None:
        """Change which tokens' routing is recorded from now on.

        Raises:
            UserError: There is no such span, or the model does not say where its thinking ends.
        """
        self._span = capture_span(capture, self.think_end_token)

    @property
    def model_id(self) -> str:
        """What names the model in profiles: as it was asked for, or as its config calls itself."""
        return self._given_name or str(self.config._name_or_path)

    def add_parallel(self, files: Sequence[str | Path]) -> None:
        """Read further files that say which task is which language; they come before those known so far."""
        self._parallel = [*map(Path, files), *self._parallel]
        self.registry = ParallelRegistry.default(self._parallel)
        self.task_languages.clear()

    def clear_records(self) -> None:
        """Forget all routing records."""
        self.records.clear()
        self.parts.clear()

    def identity(self) -> Identity:
        """Return what the model's answers and their records depend on besides the requests and the run's settings.

        Raises:
            UserError: A file that the model comes from is not there any more.
        """
        return Identity({**model_parts(self, self.weights), **self.changeable_parts()})

    def changeable_parts(self) -> dict[str, Any]:
        """Return the parts of the identity that can be changed on a loaded model: steering and what is captured."""
        return {
            "steering.hash": self._plan.hash if self._plan else None,
            "capture.span": self.capture,
            "capture.arrays": sorted(self.record_arrays) + (["changes"] if self.record_changes else []),
        }

    def set_response_cache(self, cache: ResponseCache | None, seeds: Mapping[str, Any] | None = None) -> None:
        """Answer from a cache, and keep in it what is computed, until this is called with None.

        Args:
            cache: The cache.
            seeds: The run's, to which answers that are drawn at random belong, too.
        """
        self.response_cache = cache
        self._known = self.identity().with_parts({"prompts.seeds": dict(seeds or {})}) if cache else Identity()

    def answer_identity(self, *, sampled: bool) -> str:
        """Return the hash of all that answers and their records belong to besides the requests.

        Args:
            sampled: Whether the answers are drawn at random.
        """
        names = set(ANSWER.needed()) - (set() if sampled else {"prompts.seeds"})
        if self.batch_size_per_gpu == 1:  # then nothing hangs on which requests a process has
            names -= {"computation.processes"}
        return self._known.with_parts(self.changeable_parts()).only(names).hash

    def record(self, key: RequestKey) -> RoutingRecord | None:
        """Return the record of a request, pooled over its windows, or None."""
        parts = self.records.get(key)
        return RoutingRecord.pooled(parts) if parts else None

    def language_of(self, task: str | None) -> str | None:
        """Return the canonical language of a task, None where neither the run nor the parallel data file says it."""
        if task is None:
            return None
        if task not in self.task_languages:
            pairing = self.registry.pairing(task)
            self.task_languages[task] = pairing.language if pairing else None
        return self.task_languages[task]

    def _language_for_steering(self, task: str | None) -> str | None:
        language = self.language_of(task)
        plan = self._plan
        if language is None and plan and not all(i.languages.is_all for i in plan.interventions):
            raise UserError(
                f"the steering {plan.name!r} is limited to some languages, but that of task {task!r} is unknown",
                fix="add `routing: {language: ..}` to the task's metadata, or the task to a file given with --parallel",
            )
        return language

    @property
    def _active(self) -> bool:
        return self._span is not None or self._plan is not None or self.response_cache is not None

    def _count_steered(self, key: RequestKey | None, language: str | None, prompt: int, generated: int) -> None:
        """Count what was steered of a request; rows that are nobody's do not count."""
        if self.coverage is not None and key is not None:
            self.steered_pairs[key.task] += self.coverage.pairs(language, prompt, generated)

    def _kept_for(self, use: RowUse, language: str | None) -> tuple[Any, ...]:
        """Return what an answer and its record depend on besides the tokens."""
        return self._steered_as(language, use), use.boundary, use.first, use.whole, self._wants(use)

    def _steered_as(self, language: str | None, use: RowUse) -> Any:
        if self._plan is None:
            return None
        admitted = tuple(i.index for i in self._plan.interventions if i.languages.admits(language))
        by_phase = any(i.tokens != "all" for i in self._plan.interventions if i.index in admitted)
        return admitted, use.boundary if by_phase else None

    def _wants(self, use: RowUse) -> bool:
        return use.key is not None and self.wanted(use.key)

    def _new_steerer(self) -> Steerer | None:
        return Steerer([self._plan], self._steering_constants) if self._plan is not None else None
