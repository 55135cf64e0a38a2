"""lm-eval's `evaluate`, through which every evaluation of a routed model goes, whoever starts it.

`lm_eval.evaluator.evaluate` is the one place where a model meets the loaded tasks, in lm-eval's own command, in its
`simple_evaluate` and in ours. It is replaced once in a process, when the first routed model is made, by a function that
hands all other models on to the original.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval import evaluator
from lm_eval.api.group import Group

from lm_eval_moe.backends.base import is_routed
from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.evaluation.harness import quiet_harness
from lm_eval_moe.evaluation.identity import prompting_parts, run_identity
from lm_eval_moe.evaluation.profiles import ReferenceProfile, save_profile
from lm_eval_moe.evaluation.remarks import remarks_after, remarks_before
from lm_eval_moe.evaluation.results import add_routing, aggregated_in_groups
from lm_eval_moe.evaluation.routed_task import routed
from lm_eval_moe.evaluation.session import RoutingSession, TaskTally
from lm_eval_moe.identity import Identity
from lm_eval_moe.profiles import PROFILE_ARRAYS
from lm_eval_moe.results.routing import ReferenceSource
from lm_eval_moe.routing_fields import chosen_fields

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = ["RoutedEvaluation", "route_evaluations"]


class RoutedEvaluation:
    """One evaluation of a model, with the routing that is to be reported.

    Args:
        lm: The model.
        reference: Canonical tag of the language that the others are compared with.
        fields: Names of the fields to report, ``all``, or None for the default ones.
        include_reference: Report the comparing fields for the reference language itself, too.
        profile: Profile with the reference items, written where there is none.
        allow_leak: Evaluate also on items that the steering's experts were selected on.
        before: Called when all requests are there, after the warnings that can be given before they run.
        arguments: Those of `lm_eval.simple_evaluate`; None: they are not known, since lm-eval itself was called.

    Raises:
        UserError: The profile does not fit, or a field is unknown.
    """

    def __init__(
        self,
        lm: RoutedModel,
        *,
        reference: str = "en",
        fields: str | Iterable[str] | None = None,
        include_reference: bool = False,
        profile: str | Path | None = None,
        allow_leak: bool = False,
        before: Callable[[], None] = lambda: None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.lm = lm
        self._arguments = arguments
        self._check_profiled_model()
        path = Path(profile) if profile and lm.capture != "off" else None
        self._reference: ReferenceProfile | None = None
        if path is not None and path.exists():
            prompting = prompting_parts(lm, arguments or {})
            self._reference = ReferenceProfile.read(path, lm, self._model.with_parts(prompting), reference)
        self._written = None if self._reference else path
        self._session = RoutingSession(
            lm,
            chosen_fields(fields, steered=lm.steering is not None) if lm.capture != "off" else (),
            reference,
            include_reference=include_reference,
            given=self._reference.items if self._reference else {},
            keep=PROFILE_ARRAYS if self._written else (),
            allow_leak=allow_leak,
            before=self._say_before,
        )
        self._before = before
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
        """Warn where experts were selected on profiles of another model; its shape is known to be the same."""
        for source in self.lm.steering.profiles if self.lm.steering else ():
            stranger = source.differs_from(self.lm.model_id, self._model)
            if stranger:
                warnings.warn(
                    f"{source.given} is the profile of another model than this run's ({stranger}): unless these are "
                    "the same weights, its experts mean nothing here",
                    RoutingWarning,
                    stacklevel=2,
                )

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Let lm-eval's next evaluation of the model be this one."""
        token = _READY.set(self)
        try:
            yield
        finally:
            _READY.reset(token)

    def run(
        self,
        tasks: Mapping[str, Any],
        groups: Iterable[Group],
        evaluate: Callable[[], Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """Call lm-eval's ``evaluate`` on tasks and groups; return its results with routing.

        Args:
            tasks: The tasks by name.
            groups: The groups.
            evaluate: Calls lm-eval's.
            arguments: With which it calls it.

        Raises:
            UserError: The reference items of a profile were prompted otherwise than the tasks are.
        """
        session, gather = self._session, self.lm.gather
        model = self._model.with_parts(self.lm.changeable_parts(session.request))
        identity = run_identity(model, self.lm, tasks, self._arguments, arguments)
        try:
            with ExitStack() as stack:
                stack.enter_context(quiet_harness(session.fields))
                stack.enter_context(aggregated_in_groups(groups, session.fields))
                for task in tasks.values():
                    stack.enter_context(routed(task, session, gather))
                if self._reference is not None:
                    pairings = [pairing for pairing in session.pairings.values() if pairing]
                    self._reference.check_tasks(pairings, identity, session.reference)
                results = evaluate()
            parts = gather(session.finished_tallies())
            if self._written is not None:
                save_profile(self._written, session, identity, gather)
            if results is None:
                return None
            totals = {task: _total(task, parts) for task in session.pairings}
            for text in remarks_after(session, totals):
                session.say(text)
            source = self._reference.source() if self._reference else ReferenceSource("run")
            return add_routing(results, session, totals, identity, source)
        finally:
            session.end()


_READY: ContextVar[RoutedEvaluation | None] = ContextVar("_READY", default=None)


def route_evaluations() -> None:
    """Let lm-eval's `evaluate` report the routing of routed models."""
    stock = evaluator.evaluate
    if getattr(stock, "reports_routing", False):
        return

    @wraps(stock)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(stock).bind(*args, **kwargs).arguments
        lm = given["lm"]
        if not is_routed(lm):
            return stock(*args, **kwargs)
        evaluation = _READY.get()
        if evaluation is None or evaluation.lm is not lm:
            # lm-eval's own command has no flag that lets items pass that experts were selected on: they are marked.
            evaluation = RoutedEvaluation(lm, allow_leak=True)
        return evaluation.run(*_members(given["task_dict"]), lambda: stock(*args, **kwargs), given)

    evaluate.reports_routing = True  # type: ignore[attr-defined]
    evaluator.evaluate = evaluate


def _members(task_dict: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Group]]:
    """Return the tasks and groups that lm-eval evaluates, given in its form or in that of earlier releases."""
    if "tasks" in task_dict:
        return task_dict["tasks"], list((task_dict.get("groups") or {}).values())
    tasks: dict[str, Any] = {}
    groups = [key for key in task_dict if isinstance(key, Group)]
    for key, member in task_dict.items():
        tasks |= member if isinstance(member, Mapping) else {key: member}
    return tasks, groups


def _total(task: str, parts: Iterable[Mapping[str, TaskTally]]) -> TaskTally:
    total = TaskTally()
    for part in parts:
        total.merge(part[task])
    return total
