"""An evaluation of a routed model: lm-eval's own, with the routing that is to be reported."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import FlawedResultsError, RoutingWarning
from lm_eval_moe.evaluation.identity import prompting_parts, run_identity
from lm_eval_moe.evaluation.options import RoutingOptions
from lm_eval_moe.evaluation.profiles import ReferenceProfile, save_profile
from lm_eval_moe.evaluation.remarks import fields_over_some, remarks_after, remarks_before, what_was_lost
from lm_eval_moe.evaluation.results import add_routing
from lm_eval_moe.evaluation.session import RoutingSession
from lm_eval_moe.evaluation.tallies import TaskTally
from lm_eval_moe.harness.evaluating import HarnessRun
from lm_eval_moe.harness.scores import add_metrics
from lm_eval_moe.harness.versions import TESTED
from lm_eval_moe.identity import Identity
from lm_eval_moe.profiles import PROFILE_ARRAYS
from lm_eval_moe.results.routing import KEY, ReferenceSource
from lm_eval_moe.routing_fields import chosen_fields

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = ["RoutedEvaluation", "evaluate_routed"]

logger = logging.getLogger(__name__)


class RoutedEvaluation:
    """One evaluation of a model, with the routing that is to be reported.

    Args:
        lm: The model.
        options: What to report, and of what; the model is steered already.
        before: Called when all requests are there, after the warnings that can be given before they run.
        arguments: Those of `lm_eval.simple_evaluate`; None: they are not known, since lm-eval itself was called.

    Raises:
        UserError: The profile does not fit, or a field is unknown.
    """

    def __init__(
        self,
        lm: RoutedModel,
        options: RoutingOptions,
        *,
        before: Callable[[], None] = lambda: None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.lm = lm
        self._arguments = arguments
        self._check_profiled_model()
        reference, profile = options.reference_language(), options.profile
        path = Path(profile) if profile and lm.capture != "off" else None
        self._reference: ReferenceProfile | None = None
        if path is not None and path.exists():
            prompting = prompting_parts(lm, arguments or {})
            self._reference = ReferenceProfile.read(path, lm, self._model.with_parts(prompting), reference)
        self._written = None if self._reference else path
        self._session = RoutingSession(
            lm,
            chosen_fields(options.fields, steered=lm.steering is not None) if lm.capture != "off" else (),
            reference,
            include_reference=options.include_reference,
            profile_records=self._reference.items if self._reference else {},
            keep=PROFILE_ARRAYS if self._written else (),
            allow_leak=options.allow_leak,
            before=self._say_before,
            gather=lm.gather,
        )
        self._before = before
        self._lost: list[str] = []
        if profile and path is None:
            self._session.say(f"with capture=off the profile {profile} is neither read nor written")

    def _say_before(self) -> None:
        for text in remarks_before(self._session):
            self._session.say(text)
        self._before()
        self._session.begin()

    @cached_property
    def _model(self) -> Identity:
        return self.lm.identity()

    def _check_profiled_model(self) -> None:
        """Warn where experts were selected on profiles of another model or backend; its shape is known to fit."""
        for source in self.lm.steering.profiles if self.lm.steering else ():
            stranger = source.differs_from(self.lm.model_id, self._model)
            if stranger:
                warnings.warn(
                    f"{source.given} is the profile of a model other than this run's ({stranger}): unless these are "
                    "the same weights, its expert numbers mean nothing here",
                    RoutingWarning,
                    stacklevel=2,
                )
            if mixed := source.mixed_with(self._model):
                warnings.warn(
                    f"{source.given} is the profile of another backend: {mixed}", RoutingWarning, stacklevel=2
                )

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Let lm-eval's next evaluation of the model be this one."""
        token = _READY.set(self)
        try:
            yield
        finally:
            _READY.reset(token)

    def run(self, run: HarnessRun) -> dict[str, Any] | None:
        """Let lm-eval evaluate; return its results with routing.

        Raises:
            UserError: The reference items of a profile were prompted differently from the tasks.
        """
        session = self._session
        model = self._model.with_parts(self.lm.changeable_parts(session.request))
        identity = run_identity(model, self.lm, run.tasks, self._arguments, run.arguments)
        try:
            with session.watching(run.tasks):
                if self._reference is not None:
                    pairings = [pairing for pairing in session.pairings.values() if pairing]
                    self._reference.check_tasks(pairings, identity, session.reference)
                results = run.evaluate()
            parts = session.gather((session.values(), session.finished_tallies()))
            if self._written is not None:
                save_profile(self._written, session, identity)
            problems = [] if results is None else self._add_routing(results, run, parts, identity)
            self._lost = [text for part in session.gather(problems) for text in part]
            return results
        finally:
            session.end()

    def _add_routing(
        self,
        results: dict[str, Any],
        run: HarnessRun,
        parts: Sequence[tuple[Mapping[str, list[dict[str, float]]], Mapping[str, TaskTally]]],
        identity: Identity,
    ) -> list[str]:
        """Add the fields and the ``routing`` object to lm-eval's results; return what of them is not there."""
        session = self._session
        totals = {task: reduce(add, (tallies[task] for _, tallies in parts)) for task in session.pairings}
        for text in remarks_after(session, totals):
            session.say(text)
        for text in fields_over_some(session, totals):
            logger.info("%s", text)
        documents = {task: [values for by_task, _ in parts for values in by_task[task]] for task in session.pairings}
        better = {field.name: field.higher_is_better for field in session.fields}
        problems = [*add_metrics(results, run, better, documents), *what_was_lost(session, totals, results)]
        source = self._reference.source() if self._reference else ReferenceSource("run")
        add_routing(results, session, totals, identity, source)
        return problems

    def check(self, results: dict[str, Any] | None) -> None:
        """Check that an evaluation gave the fields that it promised.

        Args:
            results: What it gave; None on all processes but the first.

        Raises:
            FlawedResultsError: It did not.
        """
        problems = self._lost
        if results is not None and KEY not in results:
            problems = ["lm-eval did not evaluate through lm_eval.evaluator.evaluate, or changed its results"]
        if problems:
            raise FlawedResultsError(
                f"routing was captured, but the results lack fields that they should have: {'; '.join(problems)}",
                fix="the scores are not affected; fix the plug-in that defines the curve or field, or report this "
                "error with the version of lm-eval and the tasks, and use one of the releases of "
                f"lm-eval that were tested: {', '.join(TESTED)}",
                where="routing fields",
                results=results,
            )


_READY: ContextVar[RoutedEvaluation | None] = ContextVar("_READY", default=None)


def evaluate_routed(run: HarnessRun) -> dict[str, Any] | None:
    """Evaluate a routed model, whoever called lm-eval.

    Raises:
        FlawedResultsError: Nobody else will look at the results, and they lack fields.
    """
    evaluation = _READY.get()
    if evaluation is not None and evaluation.lm is run.lm:
        return evaluation.run(run)
    # lm-eval's own command has no flag that lets items pass that experts were selected on: they are marked.
    evaluation = RoutedEvaluation(run.lm, RoutingOptions(allow_leak=True))
    results = evaluation.run(run)
    evaluation.check(results)
    return results
