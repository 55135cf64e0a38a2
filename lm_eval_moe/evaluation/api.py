"""Run lm-eval with routed tasks: its own `simple_evaluate`, with steering and routing fields."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.ahead import in_groups
from lm_eval_moe.backends.base import is_routed
from lm_eval_moe.backends.cache import ResponseCache
from lm_eval_moe.backends.registry import BACKENDS, load_model
from lm_eval_moe.errors import RoutingWarning, UserError, did_you_mean
from lm_eval_moe.evaluation.control import control_count, control_plans, few_draws
from lm_eval_moe.evaluation.identity import prompting_parts
from lm_eval_moe.evaluation.options import RoutingOptions
from lm_eval_moe.evaluation.routed_evaluate import RoutedEvaluation
from lm_eval_moe.harness.evaluating import knows_model, stock_simple_evaluate
from lm_eval_moe.harness.quiet import quiet_harness, warnings_only
from lm_eval_moe.harness.requests import parse_arguments
from lm_eval_moe.harness.task_index import TaskManager, metadata_of
from lm_eval_moe.harness.tracker import name_model
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.resources import tasks_dirs
from lm_eval_moe.results.gains import add_gains
from lm_eval_moe.routing_fields import chosen_fields
from lm_eval_moe.strict import StrictError, noted_warnings

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = ["simple_evaluate"]

logger = logging.getLogger(__name__)

_OF_BOTH = ("batch_size", "max_batch_size", "device")
"""Arguments of the model that are lm-eval's, too."""


def simple_evaluate(
    model: str | Any,
    model_args: str | dict[str, Any] | None = None,
    tasks: Any = None,
    *args: Any,
    steering: str | Path | SteeringSpec | SteeringPlan | None = None,
    steering_overrides: Sequence[str] = (),
    routing_reference: str = "en",
    routing_fields: str | Iterable[str] | None = None,
    routing_include_reference: bool = False,
    routing_profile: str | Path | None = None,
    parallel: str | Sequence[str] = (),
    allow_leak: bool = False,
    control: str | None = None,
    strict: bool = False,
    **kwargs: Any,
) -> dict[str, Any] | None:
    """Evaluate a model as `lm_eval.simple_evaluate` does, with steering, and with routing fields alongside the scores.

    Args:
        model: The name of a backend (``hf-moe``), a routed model, or any other lm-eval model (which then runs without
            routing).
        model_args: As in lm-eval.
        tasks: As in lm-eval; the tasks of this package are known, too.
        *args: The further arguments of `lm_eval.simple_evaluate`, in its order.
        steering: A steering file, spec or plan. For a loaded model None leaves its steering as it is.
        steering_overrides: ``KEY=VALUE`` overrides of the fields of a steering file.
        routing_reference: The language that the others are compared with.
        routing_fields: Names of the fields to report, ``all``, or None for the default ones.
        routing_include_reference: Report the comparing fields for the reference language itself, too.
        routing_profile: Profile with the reference items; where there is no such file, this run's items are written.
        parallel: Further files that say which task is which language.
        allow_leak: Evaluate also on items that the steering's experts were selected on, and mark the results.
        control: ``random:N``: evaluate N random draws of as many experts as well, and report the gain over them.
        strict: Let no `RoutingWarning` pass: what is known before the model runs ends the evaluation there, everything
            else when it is done.
        **kwargs: The other arguments of `lm_eval.simple_evaluate`; ``use_cache`` is the path of a cache that keeps
            answers with their routing, by weights, steering and request.

    Returns:
        lm-eval's results with a ``routing`` object; None on all processes but the first.

    Raises:
        TypeError: An argument is unknown to lm-eval and to us, or is given twice.
        UserError: The steering does not fit, a name is unknown, or the model cannot be captured.
        FlawedResultsError: Routing was captured, and the results lack fields that they should have; its ``results`` are
            what the evaluation gave.
        StrictError: There were warnings, with ``strict``; its ``results`` are what the evaluation gave.
    """
    options = RoutingOptions(
        steering,
        tuple(steering_overrides),
        routing_reference,
        routing_fields,
        routing_include_reference,
        routing_profile,
        (parallel,) if isinstance(parallel, str) else tuple(parallel),
        allow_leak,
        control,
    )
    # Before any weights are loaded: it says what is wrong with the arguments.
    kwargs = _STOCK.bind(model, model_args, tasks, *args, **kwargs).arguments
    del kwargs["model"]
    kwargs["task_manager"] = kwargs.get("task_manager") or TaskManager(
        include_path=[str(folder) for folder in tasks_dirs()],
        metadata=parse_arguments(model_args) | (kwargs.get("metadata") or {}),
    )
    is_name = isinstance(model, str)
    if not (model in BACKENDS if is_name else is_routed(model)):
        if steering is not None:
            raise UserError(
                f"--steering needs a model that can be steered, not {model if is_name else type(model)}",
                fix=f"use --model {' or '.join(BACKENDS)}",
                where="--model",
            )
        if is_name and not knows_model(model):
            raise UserError(
                f"there is no model {model!r}{did_you_mean(model, BACKENDS)}",
                fix=f"choose {' or '.join(BACKENDS)}, or, for a run without routing, one of lm-eval's own",
                where="--model",
            )
        return stock_simple_evaluate(model, **kwargs)
    if kwargs.get("cache_requests"):
        warnings.warn(
            "lm-eval's request cache identifies a task by its name alone: after a change to the task's file, code or "
            "data it returns the old prompts; use --cache_requests refresh then",
            RoutingWarning,
            stacklevel=2,
        )
    cache_path = kwargs.pop("use_cache", None)  # lm-eval's own would answer with another steering's answers
    options.reference_language()
    chosen_fields(options.fields, steered=True)
    noting: AbstractContextManager[list[str]] = noted_warnings() if strict else nullcontext([])
    with noting as noted:

        def check() -> None:
            if noted:
                raise StrictError(noted)

        if is_name:
            _check_pairings(kwargs["task_manager"], tasks or (), options)
        lm = (
            _build_model(model, model_args, options, kwargs)
            if isinstance(model, str)
            else _prepare_model(model, options)
        )
        if is_name:
            lm.trust_files()
        plans = control_plans(lm.steering, control_count(control)) if control else []
        if plans and (few := few_draws(len(plans))):
            logger.info("%s", few)
        with _answering_from(lm, cache_path, prompting_parts(lm, kwargs)["prompts.seeds"]):
            results = _evaluate_with_controls(lm, plans, is_name, options, kwargs, check)
    if results is not None and cache_path is not None:
        results["config"]["use_cache"] = str(cache_path)
    if noted:
        raise StrictError(noted, results)
    return results


_STOCK = inspect.signature(stock_simple_evaluate)
_OWN = [
    parameter
    for parameter in inspect.signature(simple_evaluate).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
]
simple_evaluate.__signature__ = _STOCK.replace(  # type: ignore[attr-defined]
    parameters=[*_STOCK.parameters.values(), *_OWN], return_annotation="dict[str, Any] | None"
)


@contextmanager
def _answering_from(lm: RoutedModel, path: str | Path | None, seeds: Mapping[str, Any]) -> Iterator[None]:
    """Let the model answer from a response cache and keep its answers there, if one is asked for."""
    if path is None:
        yield
        return
    cache = ResponseCache(path)
    lm.set_response_cache(cache, seeds)
    try:
        yield
        logger.info("response cache %s: %d answers read, %d computed", cache.path, cache.hits, cache.misses)
    finally:
        lm.set_response_cache(None)
        cache.close()


def _evaluate_with_controls(
    lm: RoutedModel,
    plans: Sequence[SteeringPlan],
    is_name: bool,
    options: RoutingOptions,
    kwargs: dict[str, Any],
    check: Callable[[], None],
) -> dict[str, Any] | None:
    """Evaluate a run and its controls, and add its gains over them to its results."""
    if not plans:
        return _evaluate(lm, is_name, options, kwargs, check)
    # What a control writes would pass for the run's own, and its standard errors are not looked at.
    quiet = {**kwargs, "log_samples": True, "evaluation_tracker": None, "write_out": False, "bootstrap_iters": 0}
    quiet_options = replace(options, profile=None)
    steering, size, controls = lm.steering, lm.plans_at_once, list[Any]()
    # What is written to a profile is not recorded of the controls: the run is by itself then.
    runs, first = [steering, *plans], size if options.profile is None else 1
    try:
        for group in (runs[:first], *in_groups(runs[first:], size)):
            with lm.ahead(group):
                for plan in group:
                    if plan is None or plan is steering:
                        results = _evaluate(lm, is_name, options, kwargs | {"log_samples": True}, check)
                        continue
                    number = len(controls) + 1  # which is the seed as well
                    logger.info("control %d of %d, seed %d (%s)", number, len(plans), number, plan.hash[:8])
                    lm.set_steering(plan)
                    with warnings_only():
                        controls.append(_evaluate(lm, is_name, quiet_options, quiet))
    finally:
        lm.set_steering(steering)
    if results is not None:
        finished = [control for control in controls if control is not None]
        add_gains(results, finished, [plan.hash for plan in plans], lm.registry)
        if not kwargs.get("log_samples", True):
            results.pop("samples", None)
    return results


def _evaluate(
    lm: RoutedModel,
    is_name: bool,
    options: RoutingOptions,
    kwargs: dict[str, Any],
    before: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    evaluation = RoutedEvaluation(lm, options, before=before, arguments=kwargs)
    with quiet_harness(), evaluation.ready():
        results: dict[str, Any] | None = stock_simple_evaluate(lm, **kwargs)
    if results is not None:
        results["config"]["model"] = lm.backend_name
        results["config"]["model_args"] = kwargs["model_args"] if is_name else {"pretrained": lm.model_id}
        if is_name and (tracker := kwargs.get("evaluation_tracker")) is not None:
            name_model(tracker, lm.backend_name)
    evaluation.check(results)
    return results


def _check_pairings(manager: TaskManager, tasks: Sequence[Any], options: RoutingOptions) -> None:
    """Find what is wrong with the languages of the tasks before any weights or data are loaded."""
    registry = PairingRegistry.default([Path(file) for file in options.parallel])
    for name, metadata in metadata_of(manager, tasks):
        registry.pairing(name, metadata)


def _build_model(name: str, model_args: Any, options: RoutingOptions, kwargs: dict[str, Any]) -> RoutedModel:
    """Build the model as lm-eval does, with the run's steering."""
    arguments = parse_arguments(model_args)
    if options.steering is not None and arguments.get("steering") is not None:
        raise UserError(
            f"steering is given twice: {options.steering} and {arguments['steering']}",
            fix="give either --steering or --model_args steering=...",
            where="--steering",
        )
    if options.overrides and options.steering is None and arguments.get("steering") is not None:
        options = replace(options, steering=arguments.pop("steering"))
    steering = options.spec()
    if steering is not None:
        arguments["steering"] = steering
    if options.parallel:
        arguments["parallel"] = list(options.parallel)
    further = {key: value for key in _OF_BOTH if (value := kwargs.get(key)) is not None}
    for key in arguments.keys() & further.keys():
        raise UserError(f"{key} is given twice", fix="leave it out of --model_args", where=f"--{key}")
    lm = load_model(name, arguments | further)
    _check_strength(lm)
    return lm


def _prepare_model(lm: RoutedModel, options: RoutingOptions) -> RoutedModel:
    steering = options.spec()
    if steering is not None:
        lm.set_steering(steering)
        _check_strength(lm)
    if options.parallel:
        lm.add_parallel(options.parallel)
    return lm


def _check_strength(lm: RoutedModel) -> None:
    """Warn of steering that was given and changes nothing."""
    if lm.steering is not None and lm.coverage is not None and lm.coverage.changes_nothing:
        warnings.warn(
            f"the steering {lm.steering.name!r} has zero strength: the model is evaluated unsteered",
            RoutingWarning,
            stacklevel=2,
        )
