"""How a routed model answers requests: from what is kept, by running them, or ahead of the plans that come next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lm_eval_moe.backends.ahead import Ahead, in_groups
from lm_eval_moe.backends.cache import ResponseCache, StoredAnswer, answers_by_block
from lm_eval_moe.errors import UserError
from lm_eval_moe.harness.evaluating import check_routed
from lm_eval_moe.harness.requests import is_sampled
from lm_eval_moe.identity import ANSWER, Identity
from lm_eval_moe.replacing import replaced

if TYPE_CHECKING:
    from lm_eval_moe.backends.capturing import Captured
    from lm_eval_moe.backends.requests import TokenRequests
    from lm_eval_moe.harness.requests import Instance
    from lm_eval_moe.recording import RequestKey, RoutingRecord, RowUse, Span
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec
    from lm_eval_moe.steering.apply import Constants
    from lm_eval_moe.steering.coverage import Coverage

__all__ = ["RequestAnswering", "drawn_by"]

_BATCHES, _ROWS = 4, 64
"""Batches that are given at once, and rows where the size of a batch is not known beforehand."""

_AHEAD_BYTES = 1 << 28
"""Of records that are held, roughly, while requests run under several plans at once."""

Order = Callable[[Sequence[int]], Sequence[Sequence[int]]]
"""From requests, by number, to their rows in running order, each the positions of those that it serves."""

Run = Callable[[Sequence[int], Sequence[int]], Sequence[Sequence[Any]]]
"""Runs some requests under each of some plans, given by their places among `RequestAnswering._plans`.

Returns the answers in that order, plan by plan; the rows say which plan is theirs. A backend that steers by one plan at
once is given that in force.
"""


def drawn_by(request: Instance, use: RowUse) -> tuple[Any, ...]:
    """Return what the answer to a request depends on besides the model, drawn or not: arguments, and which repeat."""
    return *request.args, use.key.repeat if use.key else None


class RequestAnswering:
    """The part of `RoutedState` that knows what has been answered, and what will be asked again.

    Attributes:
        plans_at_once: By how many plans the backend steers the requests of one batch.
        generates_ahead: Whether it generates under several plans at once, too.
        response_cache: Keeps answers, if there is one.
    """

    plans_at_once = 1
    generates_ahead = True
    routing_shape: RoutingShape
    captured: Captured
    coverage: Coverage | None
    rank: int
    batch_size: Any
    _plan: SteeringPlan | None
    _span: Span | None
    _steering_constants: Constants
    _resolved: Callable[[str | Path | SteeringSpec | SteeringPlan | None], SteeringPlan | None]
    _wants: Callable[[RowUse], bool]
    identity: Callable[[], Identity]
    changeable_parts: Callable[..., dict[str, Any]]

    def _begin_answers(self) -> None:
        self.response_cache: ResponseCache | None = None
        self._bar: tqdm[Any] | None = None  # that counts the requests which are being answered, if there is one
        self._known = Identity()
        self._ahead = Ahead()

    # ------------------------------------------------------------------ what is kept, and what comes again

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
            "lm-eval's response cache identifies requests by their text alone: it would return answers given under "
            "other steering, and no routing would be captured",
            fix="use `lm-eval-moe run --use_cache`, which stores answers together with their steering and routing",
            where="--use_cache",
        )

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

    # ------------------------------------------------------------------ answering

    def _scores(
        self,
        token_requests: TokenRequests,
        order: Order,
        run: Run,
        *,
        rounds: Sequence[Sequence[int]] | None = None,
        at_once: int | None = None,
        quiet: bool,
    ) -> list[tuple[float, bool]]:
        """Return the scores of token requests, and count what is steered of them.

        Args:
            token_requests: The requests.
            order: Returns their rows.
            run: Runs them; an answer is a log-likelihood, and whether the continuation is the most likely one.
            rounds: Requests that may run together; None: all of them.
            at_once: How many rows run at once where answers are kept; None: `rows_at_once`.
            quiet: Whether to show no progress bar.
        """

        def depends_on(index: int) -> tuple[Any, ...]:
            return *token_requests.requests[index][1:], *self._kept_for(
                token_requests.use(index), token_requests.languages[index]
            )

        everything = range(len(token_requests.requests))
        answers: list[Any] = [None] * len(everything)
        for members in [everything] if rounds is None else rounds:
            results = self._answer(members, order, depends_on, token_requests.use, run, at_once=at_once, quiet=quiet)
            for index, (value, greedy) in zip(members, results, strict=True):
                answers[index] = (value, greedy)
        for index in everything if self.coverage else ():
            use = token_requests.use(index)
            after = max(use.boundary, use.first)
            self._count_steered(
                use.key, token_requests.languages[index], after - use.first, token_requests.length(index) - after
            )
        return answers

    def _texts(
        self,
        requests: Sequence[Instance],
        uses: Sequence[RowUse],
        languages: Sequence[str | None],
        order: Order,
        run: Run,
        *,
        at_once: int | None = None,
        quiet: bool,
    ) -> list[str]:
        """Return the generated answers to requests, and count what is steered of them.

        Args:
            requests: The requests.
            uses: The use that each makes of its row.
            languages: What decides which interventions apply to each.
            order: Returns their rows.
            run: Runs them; an answer is a text, and how many tokens of the prompt and of the answer were fed, which
                texts alone do not tell.
            at_once: How many rows run at once where answers are kept; None: `rows_at_once`.
            quiet: Whether to show no progress bar.
        """

        def depends_on(index: int) -> tuple[Any, ...]:
            return *drawn_by(requests[index], uses[index]), *self._kept_for(uses[index], languages[index])

        sampled = any(is_sampled(request.args[1]) for request in requests)
        answers = self._answer(
            range(len(requests)),
            order,
            depends_on,
            uses.__getitem__,
            run,
            at_once=at_once,
            quiet=quiet,
            sampled=sampled,
            ahead=self.generates_ahead,
        )
        for use, language, (_, prompt, generated) in zip(uses, languages, answers, strict=True):
            self._count_steered(use.key, language, prompt, generated)
        return [text for text, *_ in answers]

    def _answer_identity(self, *, sampled: bool) -> str:
        names = set(ANSWER.needed()) - (set() if sampled else {"prompts.seeds"})
        if self.batch_size == 1:  # then nothing depends on which requests a process has
            names -= {"computation.processes"}
        return self._known.with_parts(self.changeable_parts()).only(names).hash

    def _answer(
        self,
        requests: Sequence[int],
        order: Order,
        depends_on: Callable[[int], Sequence[Any]],
        use: Callable[[int], RowUse],
        run: Run,
        *,
        at_once: int | None = None,
        quiet: bool,
        sampled: bool = False,
        ahead: bool = True,
    ) -> list[Any]:
        """Return the answers of requests under the plan in force, as far as they are known without running them.

        What has to run is answered for the plans that are `ahead`, too.

        Args:
            requests: Their numbers, by which the functions below know them.
            order: Returns the rows of some requests.
            depends_on: Returns what a request's answer depends on besides the model; JSON-ready.
            use: Returns the row use of a request, by which its record is found.
            run: Runs some requests.
            at_once: How many rows run at once where answers are kept; None: `rows_at_once`.
            quiet: Whether to show no progress bar.
            sampled: Whether answers are drawn at random: they then belong to the run's seeds, too, and a block has a
                seed of its own.
            ahead: Whether to run for the plans that come next, too; what is drawn at random never does.
        """
        ahead = ahead and not sampled
        if self._span is not None:
            check_routed()
        cache = self.response_cache or (self._ahead.cache if ahead else None)
        if cache is None:
            return list(run(requests, [0])[0])

        def keys_under(plan: SteeringPlan | None, numbers: Sequence[int]) -> list[bytes]:
            with replaced(self, "_plan", plan):
                identity = self._answer_identity(sampled=sampled)
                texts = (json.dumps([identity, *depends_on(n)], sort_keys=True, default=str) for n in numbers)
                return [hashlib.sha256(text.encode()).digest() for text in texts]

        keys = keys_under(self._plan, requests)

        def compute(positions: list[int]) -> list[StoredAnswer]:
            if sampled:
                self._seed_draws(int.from_bytes(keys[positions[0]][:7], "big"))
            numbers = [requests[position] for position in positions]
            later = {n: keys_under(p, numbers) for n, p in enumerate(self._plans) if n and ahead}
            missing = [
                place for place, keys_of_plan in later.items() if len(cache.get(keys_of_plan)) < len({*keys_of_plan})
            ]
            entries: dict[int, list[StoredAnswer]] = {}
            for places in in_groups([0, *missing], self._plans_in_memory(len(numbers))):
                # The bar counts requests, not under how many plans they run.
                with self.captured.noted() as noted, replaced(self, "_bar", None if places[0] else self._bar):
                    answers = run(numbers, places)
                for place, plan_answers in zip(places, answers, strict=True):
                    records = [
                        noted.get((place, request_use.key, request_use.window)) for request_use in map(use, numbers)
                    ]
                    entries[place] = [StoredAnswer(*pair) for pair in zip(plan_answers, records, strict=True)]
                    if place:
                        cache.misses += len(numbers)
                        cache.put(dict(zip(later[place], entries.pop(place), strict=True)))
            return entries[0]

        def recall(position: int, record: RoutingRecord) -> None:
            request_use = use(requests[position])
            if request_use.key is not None:
                self.captured.keep(request_use.key, request_use.window, record)

        quiet = quiet or self.rank != 0
        what = "Answering with the response cache" if self.response_cache else "Answering for this run and the next"
        with self._progress(what, len(keys), quiet=quiet) as bar:
            misses = cache.misses
            answers = answers_by_block(cache, order(requests), keys, at_once or self.rows_at_once, compute, recall, bar)
            if self._ahead.plans and cache.misses == misses:
                bar.leave = False  # all was known from a run before: of that a line would say nothing
            return answers

    def _plans_in_memory(self, requests: int) -> int:
        """Return under how many plans so many requests may run at once, for their records to stay within bounds."""
        shape, arrays = self.routing_shape, len(self.captured.request.arrays) if self._span is not None else 0
        size = 8 * len(shape.layers) * shape.experts * arrays * requests
        return max(1, min(self.plans_at_once, _AHEAD_BYTES // max(size, 1)))

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

    # ------------------------------------------------------------------ what tells requests apart

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


def _steered_by(plan: SteeringPlan | None, language: str | None, use: RowUse) -> Any:
    if plan is None:
        return None
    admitted = tuple(i.index for i in plan.interventions if i.languages.admits(language))
    by_phase = any(i.tokens != "all" for i in plan.interventions if i.index in admitted)
    return admitted, use.boundary if by_phase else None
