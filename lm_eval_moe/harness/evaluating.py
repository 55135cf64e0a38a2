"""lm-eval's `evaluate`, through which every evaluation of a routed model goes, whoever starts it.

`lm_eval.evaluator.evaluate` is the one place where a model meets the loaded tasks, in lm-eval's own command, in its
`simple_evaluate` and in ours. It is replaced once in a process, when the first routed model is made, by a function that
hands all other models on to the original.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pkgutil import resolve_name
from types import CodeType, FrameType
from typing import Any

from lm_eval import evaluator
from lm_eval.api.group import Group
from lm_eval.api.registry import get_model

from lm_eval_moe.errors import UserError
from lm_eval_moe.harness.templates import templates_compiled_once
from lm_eval_moe.harness.versions import warn_if_untested

__all__ = ["HarnessRun", "check_routed", "knows_model", "route_evaluations", "stock_simple_evaluate"]

_ROUTED_BY = "lm_eval_moe.evaluation.routed_evaluate:evaluate_routed"
"""What takes over, named only: it lies above this room."""

stock_simple_evaluate: Callable[..., dict[str, Any] | None] = evaluator.simple_evaluate

_kinds: list[type] = []

_codes: list[CodeType] = []
"""Of lm-eval's own `evaluate`, and of the one in its place."""


@dataclass(frozen=True)
class HarnessRun:
    """One call of lm-eval's `evaluate` on a routed model.

    Attributes:
        lm: The model.
        tasks: The loaded tasks, by the names that they have in the results.
        groups: The groups.
        arguments: Those that `evaluate` was called with.
        bootstrap_iters: 0 or None: no standard errors.
        evaluate: Calls lm-eval's own function; returns its results, None on all processes but the first.
    """

    lm: Any
    tasks: Mapping[str, Any]
    groups: Sequence[Any]
    arguments: Mapping[str, Any]
    bootstrap_iters: int | None
    evaluate: Callable[[], dict[str, Any] | None]


def knows_model(name: str) -> bool:
    """Whether lm-eval has a model class of this name."""
    try:
        get_model(name)
    except (KeyError, ValueError):
        return False
    return True


def route_evaluations(kind: type) -> None:
    """Let lm-eval's `evaluate` report the routing of a kind of models; their constructor calls this."""
    if kind not in _kinds:
        _kinds.append(kind)
    stock = evaluator.evaluate
    if getattr(stock, "reports_routing", False):
        return
    signature = inspect.signature(stock)

    @wraps(stock)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        lm = bound.arguments["lm"]
        if not isinstance(lm, tuple(_kinds)):
            return stock(*args, **kwargs)
        warn_if_untested()
        arguments = dict(bound.arguments)
        bound.apply_defaults()
        tasks, groups = _members(arguments["task_dict"])
        bootstrap_iters = bound.arguments["bootstrap_iters"]
        run = HarnessRun(lm, tasks, groups, arguments, bootstrap_iters, lambda: stock(*args, **kwargs))
        with templates_compiled_once():
            return resolve_name(_ROUTED_BY)(run)

    evaluate.reports_routing = True  # type: ignore[attr-defined]
    evaluator.evaluate = evaluate
    _codes.extend((inspect.unwrap(stock).__code__, evaluate.__code__))  # type: ignore[attr-defined]


def check_routed() -> None:
    """Check, while a model answers, that lm-eval did not evaluate it by a function that was imported before ours.

    Raises:
        UserError: It does: the evaluation would end without routing fields, and nothing would say so.
    """
    running = set()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        running.add(frame.f_code)
        frame = frame.f_back
    if _codes[:1] and _codes[0] in running and _codes[1] not in running:
        raise UserError(
            "lm-eval's `evaluate` was imported before the first routed model was made: the results would have no "
            "routing fields",
            fix="call lm_eval.evaluator.evaluate by that name, or simple_evaluate; or import it after the model is "
            "made",
            where="lm_eval.evaluator.evaluate",
        )


def _members(task_dict: Mapping[Any, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return the tasks and groups that lm-eval evaluates, given in its form or in that of earlier releases."""
    if "tasks" in task_dict:
        return task_dict["tasks"], list((task_dict.get("groups") or {}).values())
    tasks: dict[str, Any] = {}
    groups = [key for key in task_dict if isinstance(key, Group)]
    for key, member in task_dict.items():
        tasks |= member if isinstance(member, Mapping) else {key: member}
    return tasks, groups
