"""What a routed model holds besides its weights, whatever engine runs it: steering, capture, languages, its cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lm_eval_moe._version import __version__
from lm_eval_moe.backends.ahead import Ahead, in_groups
from lm_eval_moe.backends.arguments import capture_span, nothing_generated, resolve_plan
from lm_eval_moe.backends.cache import Entry, ResponseCache, answers_by_block
from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.backends.requests import LabelQueue, RequestLabel, labels_of
from lm_eval_moe.capture import RequestKey, RoutingRecord, RowUse
from lm_eval_moe.discovery import plugin_files
from lm_eval_moe.errors import UserError
from lm_eval_moe.harness.evaluating import check_routed, route_evaluations
from lm_eval_moe.identity import ANSWER, Identity
from lm_eval_moe.identity.file_hashes import hash_of_files
from lm_eval_moe.identity.sources import source_files
from lm_eval_moe.parallel import ParallelRegistry
from lm_eval_moe.replacing import replaced
from lm_eval_moe.steering.apply import Constants, Steerer
from lm_eval_moe.steering.coverage import Coverage

if TYPE_CHECKING:
    from torch import nn

    from lm_eval_moe.backends.base import KeyedTokens, TorchModules
    from lm_eval_moe.capture import Span
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = ["RoutedState"]

_BATCHES, _ROWS = 4, 64
"""Batches that are given at once, and rows where the size of a batch is not known beforehand."""

_VERSIONS = ("lm_eval", "transformers", "tokenizers", "torch")
"""What all engines compute with, or read text with."""

_AHEAD_BYTES = 1 << 28
"""Of records that are held, roughly, while requests run under several plans at once."""


class RoutedState:
    """Mixed into a backend's model class, before lm-eval's.

    A backend's ``__init__`` calls `_begin_capture` before it loads anything, and `set_steering` once it knows its
    routing shape. It says what it is (`backend_name`, `model_id`, `routing_shape`, `_own_parts`), runs requests by
    `_answered`, counts them by `_count_steered`, and gives their records to ``captured``.

    Attributes:
        routing_shape: The model's MoE layers, experts and top-k.
        registry: Knows which task is which language.
        captured: What was recorded of the requests that ran last; outside `capturing`, everything is.
        coverage: What the plan in force steers of a request; None for the model as it is.
        plans_at_once: By how many plans the backend steers the requests of one batch.
        response_cache: Keeps answers, if there is one.
        fills_batches: Whether the engine makes batches of its own from all that it is given: it is given as much as
            possible then (``batch_size=auto``) where nobody says otherwise.
    """

    fills_batches: bool = False
    backend_name: str
    plans_at_once = 1
    routing_shape: RoutingShape
    rank: int
    world_size: int
    batch_size: Any
    max_length: int
    tokenizer: Any
    think_end_token: str | int | None = None
    _loglikelihood_tokens: Callable[..., list[tuple[float, bool]]]  # as all of lm-eval's models with a tokenizer
    _encode_pair: Callable[..., tuple[list[int], list[int]]]

    def _begin_capture(self, capture: str | bool, parallel: str | Sequence[str], think_end: str | int | None) -> None:
        route_evaluations(type(self))
        self._span: Span | None = capture_span(capture, think_end)
        self._parallel: list[Path] = []
        self.add_parallel([parallel] if isinstance(parallel, str) else parallel)
        self.captured = Captured()
        self._labels = LabelQueue()
        self.response_cache: ResponseCache | None = None
        self._bar: tqdm[Any] | None = None  # that counts the requests which are being answered, if there is one
        self._known = Identity()
        self._ahead = Ahead()

    # ------------------------------------------------------------------ what a backend may know better

    @classmethod
    def modules_before_loading(cls, arguments: Mapping[str, Any]) -> nn.Module | None:
        """Return None: there are no modules to look at without weights."""
        return None

    def torch_modules(self) -> TorchModules | None:
        """Return None: there are no modules to look at from outside."""
        return None

    def trust_files(self) -> None:
        """Do nothing: the identity does not depend on who else holds the model."""

    def _own_parts(self) -> dict[str, Any]:
        """Return the parts of the identity that cannot be changed on a loaded model."""
        raise NotImplementedError

    # ------------------------------------------------------------------ steering and capture

    @property
    def steering(self) -> SteeringPlan | None:
        """The plan in force, None for the model as it is."""
        return self._plan

    def set_steering(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> None:
        """Change the steering of the loaded model, or end it with None.

        Raises:
            UserError: The steering does not fit the model's shape.
        """
        self._plan = self._resolved(steering)
        self.coverage = Coverage(self._plan) if self._plan is not None else None
        self._steering_constants: Constants = {}

    def _resolved(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> SteeringPlan | None:
        """Return steering as a plan that the backend can follow."""
        return resolve_plan(steering, self.routing_shape)

    @contextmanager
    def ahead(self, plans: Sequence[SteeringPlan | None]) -> Iterator[None]:
        """Know that the requests that come inside the ``with`` block will come again under each of some plans.

        A backend that steers one batch by several plans answers a request for all of them when it first comes. What is
        for later is kept, in the response cache or else in a temporary file, and found by all that an answer and its
        record depend on: a request that is not quite the same is computed when it comes. Answers that are drawn at
        random are not computed ahead.

        Args:
            plans: In the order in which they will be in force; None is the model as it is.

        Raises:
            UserError: One of them does not fit the model.
        """
        group = Ahead([self._resolved(plan) for plan in plans] if self.plans_at_once > 1 else ())
        self._steering_constants = {}  # which are known by the plans' places
        try:
            alone = group.plans == (self._plan,)  # nothing is kept for later
            with replaced(self, "_ahead", Ahead() if alone else group):
                yield
        finally:
            self._steering_constants = {}
            group.close()

    @property
    def _plans(self) -> tuple[SteeringPlan | None, ...]:
        """The plan in force, and those under which the same requests will come again."""
        return self._plan, *self._ahead.after(self._plan)

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

    @contextmanager
    def capturing(self, request: CaptureRequest) -> Iterator[Captured]:
        """Record what a request asks for inside the ``with`` block, into what it yields."""
        with replaced(self, "captured", Captured(request)):
            yield self.captured

    def add_parallel(self, files: Sequence[str | Path]) -> None:
        """Read further files that say which task is which language; they come before those known so far."""
        self._parallel = [*map(Path, files), *self._parallel]
        self.registry = ParallelRegistry.default(self._parallel)
        self._languages: dict[str, str | None] = {}  # by task, as the registry knows it

    def language_of(self, task: str | None) -> str | None:
        """Return the canonical language of a task, None where neither the run nor the parallel data file says it."""
        if task is None:
            return None
        languages = self.captured.request.languages
        if task in languages:
            return languages[task]
        if task not in self._languages:
            pairing = self.registry.pairing(task)
            self._languages[task] = pairing.language if pairing else None
        return self._languages[task]

    # ------------------------------------------------------------------ identity and cache

    def identity(self) -> Identity:
        """Return what the model's answers and their records depend on besides the requests and the run's settings.

        Raises:
            UserError: A file that the model comes from is not there any more.
        """
        plugins = {
            name: hash_of_files(sorted({part for file in files for part in (file, *source_files(file))}))
            for name, files in plugin_files(type(self).__module__).items()
        }
        shared = {
            "model.backend": self.backend_name,
            "prompts.max_length": self.max_length,
            "computation.batch_size": self.batch_size,
            "computation.processes": self.world_size,
            "versions.lm_eval_moe": __version__,
            "versions.plugins": plugins or None,
            **{f"versions.{name}": version(name) for name in _VERSIONS},
        }
        return Identity({**shared, **self._own_parts(), **self.changeable_parts()})

    def changeable_parts(self, request: CaptureRequest | None = None) -> dict[str, Any]:
        """Return the parts of the identity that can be changed on a loaded model: steering and what is captured.

        Args:
            request: What will be recorded; by default what is now.
        """
        asked = request or self.captured.request
        return {
            "steering.hash": self._plan.hash if self._plan else None,
            "capture.span": self.capture,
            "capture.arrays": sorted(asked.arrays) + (["changes"] if asked.changes else []),
        }

    def set_response_cache(self, cache: ResponseCache | None, seeds: Mapping[str, Any] | None = None) -> None:
        """Answer from a cache, and keep in it what is computed, until this is called with None.

        Args:
            cache: The cache.
            seeds: The run's, to which answers that are drawn at random belong, too.
        """
        self.response_cache = cache
        self._known = self.identity().with_parts({"prompts.seeds": dict(seeds or {})}) if cache else Identity()

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's own response cache, which announces itself here.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "lm-eval's response cache knows requests by their text alone: it would return the answers of another "
            "steering, and no routing would be captured",
            fix="run it with `lm-eval-moe run --use_cache`, which keeps answers with their steering and routing",
            where="--use_cache",
        )

    def _answer_identity(self, *, sampled: bool) -> str:
        names = set(ANSWER.needed()) - (set() if sampled else {"prompts.seeds"})
        if self.batch_size == 1:  # then nothing hangs on which requests a process has
            names -= {"computation.processes"}
        return self._known.with_parts(self.changeable_parts()).only(names).hash

    def _answered(
        self,
        requests: Sequence[int],
        order: Callable[[Sequence[int]], Sequence[Sequence[int]]],
        depends_on: Callable[[int], Sequence[Any]],
        use: Callable[[int], RowUse],
        run: Callable[[Sequence[int], Sequence[int]], Sequence[Sequence[Any]]],
        *,
        quiet: bool,
        sampled: bool = False,
    ) -> list[Any]:
        """Return the answers of requests under the plan in force, as far as they are known without running them.

        What has to run is answered for the plans that are `ahead`, too.

        Args:
            requests: Their numbers, by which the functions below know them.
            order: Returns the rows of some requests in running order, each the positions of those that it serves.
            depends_on: Returns what a request's answer depends on besides the model; JSON-ready.
            use: Returns the row use of a request, by which its record is found.
            run: Runs some requests under each of some plans, given by their places in `_plans`, and returns the
                answers in that order, plan by plan. Its rows say which plan is theirs. A backend that steers by one
                plan at once is given that in force.
            quiet: Whether to show no progress bar.
            sampled: Whether answers are drawn at random: they then belong to the run's seeds, too, and a block has a
                seed of its own.
        """
        if self._span is not None:
            check_routed()
        cache = self.response_cache or (None if sampled else self._ahead.cache)
        if cache is None:
            return list(run(requests, [0])[0])

        def keys_under(plan: SteeringPlan | None, numbers: Sequence[int]) -> list[bytes]:
            with replaced(self, "_plan", plan):
                identity = self._answer_identity(sampled=sampled)
                texts = (json.dumps([identity, *depends_on(n)], sort_keys=True, default=str) for n in numbers)
                return [hashlib.sha256(text.encode()).digest() for text in texts]

        keys = keys_under(self._plan, requests)

        def compute(positions: list[int]) -> list[Entry]:
            if sampled:
                self._seed_draws(int.from_bytes(keys[positions[0]][:7], "big"))
            numbers = [requests[position] for position in positions]
            later = {} if sampled else {n: keys_under(p, numbers) for n, p in enumerate(self._plans) if n}
            missing = [place for place, own in later.items() if len(cache.get(own)) < len({*own})]
            entries: dict[int, list[Entry]] = {}
            for places in in_groups([0, *missing], self._plans_in_memory(len(numbers))):
                # The bar counts requests, not under how many plans they run.
                with self.captured.noted() as noted, replaced(self, "_bar", None if places[0] else self._bar):
                    answers = run(numbers, places)
                for place, own in zip(places, answers, strict=True):
                    records = [noted.get((place, each.key, each.window)) for each in map(use, numbers)]
                    entries[place] = [Entry(*pair) for pair in zip(own, records, strict=True)]
                    if place:
                        cache.misses += len(numbers)
                        cache.put(dict(zip(later[place], entries.pop(place), strict=True)))
            return entries[0]

        def recall(position: int, record: RoutingRecord) -> None:
            own = use(requests[position])
            if own.key is not None:
                self.captured.keep(own.key, own.window, record)

        quiet = quiet or self.rank != 0
        with self._progress("Answering with the response cache", len(keys), quiet=quiet) as bar:
            return answers_by_block(cache, order(requests), keys, self.rows_at_once, compute, recall, bar)

    def _plans_in_memory(self, requests: int) -> int:
        """Return under how many plans so many requests may run at once, for their records to stay within bounds."""
        shape, arrays = self.routing_shape, len(self.captured.request.arrays) if self._span is not None else 0
        size = 8 * len(shape.layers) * shape.experts * arrays * requests
        return max(1, min(self.plans_at_once, _AHEAD_BYTES // max(size, 1)))

    # ------------------------------------------------------------------ running

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations; each request's routing is recorded under its task, document and index."""
        self._check_span(requests)
        with self._labelled(labels_of(requests)):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[misc]

    def score_tokens(self, requests: Sequence[KeyedTokens]) -> list[tuple[float, bool]]:
        """Score continuations that are given as tokens; their routing is recorded under their keys."""
        with self._labelled([RequestLabel(key, key.task) for key, _, _ in requests]):
            return self._loglikelihood_tokens([(None, *tokens) for _, *tokens in requests], disable_tqdm=True)

    def at_batch_size(self, size: int) -> AbstractContextManager[None]:
        """Run batches of a size inside the ``with`` block."""
        return replaced(self, "batch_size", size)

    @property
    def rows_at_once(self) -> int:
        """How many rows to give at once where work is done part by part, to be kept or counted in between."""
        size = self.batch_size
        return _BATCHES * size if isinstance(size, int) and size > 0 else _ROWS

    @contextmanager
    def _progress(self, what: str, count: int, *, quiet: bool) -> Iterator[tqdm[Any]]:
        """Yield the bar that counts the requests which are being answered: the one that is there, or else a new one."""
        if self._bar is not None:
            yield self._bar
            return
        with tqdm(total=count, desc=what, disable=quiet) as bar, replaced(self, "_bar", bar):
            yield bar

    def _seed_draws(self, seed: int) -> None:
        """Let what is drawn at random from now on depend on a seed alone."""
        import torch

        torch.manual_seed(seed)

    def _labelled(self, labels: Sequence[RequestLabel]) -> AbstractContextManager[None]:
        """Name the token requests that `_loglikelihood_tokens` will be given, in that order."""
        return replaced(self, "_labels", LabelQueue(labels))

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context and of what follows it, as lm-eval tells them apart."""
        return self._encode_pair(context, continuation)

    def vocabulary(self) -> list[int]:
        """Return the tokens that texts are made of, ascending; special ones are not among them."""
        return sorted(set(self.tokenizer.get_vocab().values()) - set(self.tokenizer.all_special_ids))

    # ------------------------------------------------------------------ the process group

    def gather(self, own: Any) -> list[Any]:
        """Return the objects of all processes, in every process. All of them call it."""
        if self.world_size == 1:
            return [own]
        import torch.distributed

        parts: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(parts, own)
        return parts

    # ------------------------------------------------------------------ for the backend's own use

    def _check_span(self, requests: Sequence[Any]) -> None:
        """Refuse to look for thinking in texts that are there already."""
        if self._span == "thinking" and requests:
            raise nothing_generated(requests[0].task_name)

    def _language_for_steering(self, task: str | None) -> str | None:
        language = self.language_of(task)
        for plan in self._plans if language is None else ():
            if plan is None or all(i.languages.is_all for i in plan.interventions):
                continue
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
            self.captured.steered_pairs[key.task] += self.coverage.pairs(language, prompt, generated)

    def _kept_for(self, use: RowUse, language: str | None) -> tuple[Any, ...]:
        """Return what an answer and its record depend on besides the tokens."""
        return _steered_by(self._plan, language, use), use.boundary, use.first, use.whole, self._wants(use)

    def _steered_as(self, language: str | None, use: RowUse) -> tuple[Any, ...]:
        """Return what has to agree for two requests to share a row, whichever of the plans steers it."""
        return tuple(_steered_by(plan, language, use) for plan in self._plans)

    def _wants(self, use: RowUse) -> bool:
        return self.captured.request.wants(use.key)

    def _new_steerer(self) -> Steerer | None:
        return Steerer(self._plans, self._steering_constants) if any(self._plans) else None


def _steered_by(plan: SteeringPlan | None, language: str | None, use: RowUse) -> Any:
    if plan is None:
        return None
    admitted = tuple(i.index for i in plan.interventions if i.languages.admits(language))
    by_phase = any(i.tokens != "all" for i in plan.interventions if i.index in admitted)
    return admitted, use.boundary if by_phase else None
