"""``lm-eval-moe run``: lm-eval's own ``run`` with flags for routing and steering."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval._cli.run import Run

from lm_eval_moe.cli._shared import add_strict, warnings_as_lines
from lm_eval_moe.errors import UserError
from lm_eval_moe.escaping import printable
from lm_eval_moe.resources import tasks_dirs
from lm_eval_moe.routing_fields import default_fields
from lm_eval_moe.strict import StrictError

__all__ = ["add_parser"]

_OURS = (
    "steering",
    "set",
    "routing_reference",
    "routing_fields",
    "routing_include_reference",
    "routing_profile",
    "parallel",
    "allow_leak",
    "control",
    "strict",
)


def add_parser(subparsers: Any) -> None:
    """Add ``run``."""
    _RoutedRun.create(subparsers)


class _RoutedRun(Run):
    """lm-eval's command; what it does not know is taken out of the arguments before it sees them."""

    def _add_args(self) -> None:
        super()._add_args()
        self._parser.description = "Evaluate a model on tasks. Takes all that `lm_eval run` takes, and:"
        self._parser.usage = (
            "lm-eval-moe run --model hf-moe --model_args pretrained=<model> --tasks <task> ... [--steering FILE] "
            "[options]"
        )
        self._parser.epilog = (
            "examples:\n"
            "  $ lm-eval-moe run --model hf-moe --model_args pretrained=demo --tasks demo_arith\n"
            "  $ lm-eval-moe run --model hf-moe --model_args pretrained=Qwen/Qwen3-30B-A3B,dtype=bfloat16 \\\n"
            "      --tasks mgsm_direct_en,mgsm_direct_sw --steering steer.yaml --set interventions.0.action.soft=0.25\n"
        )
        group = self._parser.add_argument_group("routing and steering (with --model hf-moe)")
        add_routing_arguments(group)

    @staticmethod
    def _execute(args: argparse.Namespace) -> int:
        options = {name: getattr(args, name) for name in _OURS}
        for name in _OURS:
            delattr(args, name)
        from lm_eval.utils import setup_logging

        setup_logging()
        with warnings_as_lines(strict=options["strict"]) as warned:
            _check(options, args)
            warned.check()
            args.include_path = _include_paths(args)
            if _run(args, options) and warned.texts:
                # Above the table there were log lines and bars: what it lacks is said below it, too.
                print("\n".join(f"Warning: {printable(' '.join(text.split()))}" for text in warned.texts))
        return 0


def _run(args: argparse.Namespace, options: dict[str, Any]) -> bool:
    """Run lm-eval's command; return whether this process has printed results."""
    with _routed_evaluation(options) as state, _indexing_what_is_needed(args):
        try:
            with _whole_files() as written:
                Run._execute(args)
            for tracker in written:
                tracker.check()
        except (ValueError, TypeError, FileNotFoundError, KeyError) as error:
            # Until the evaluation starts, lm-eval has only read its arguments.
            if state["started"]:
                raise
            raise UserError(str(error.args[0] if error.args else error), fix="see lm-eval-moe run --help") from error
        return state["printed"]


def add_routing_arguments(group: Any) -> None:
    """Add the flags that say how to steer and what to report."""
    group.add_argument("--steering", metavar="FILE", help="steering YAML file")
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a field of the steering file, e.g. interventions.0.action.soft=0.25 (may be repeated)",
    )
    group.add_argument(
        "--routing_reference",
        metavar="LANG",
        default="en",
        help="language whose routing the others are compared with (default: en)",
    )
    group.add_argument(
        "--routing_fields",
        metavar="NAMES",
        help="routing fields to report: all, or names separated by commas "
        f"(default, as far as the run can have them: {', '.join(default_fields())})",
    )
    group.add_argument(
        "--routing_include_reference",
        action="store_true",
        help="report divergence 0 and overlap 1 for the reference language itself, too",
    )
    group.add_argument(
        "--routing_profile",
        metavar="PATH",
        help="profile of items: read as the reference if the file exists, otherwise written from this run",
    )
    group.add_argument(
        "--parallel",
        metavar="FILE",
        action="append",
        default=[],
        help="YAML file that says which task is which language and how its items pair (may be repeated)",
    )
    group.add_argument(
        "--allow_leak",
        "--allow-leak",
        action="store_true",
        help="evaluate also on items that the steering's experts were selected on, and mark the results",
    )
    group.add_argument(
        "--control",
        metavar="random:N",
        help="evaluate N random draws of as many experts per layer as well, and report the gain over them",
    )
    add_strict(group)


def _check(options: dict[str, Any], args: argparse.Namespace) -> None:
    """Find mistakes in our flags before lm-eval reads its thousands of task files."""
    from lm_eval_moe.evaluation.api import RoutingOptions, check_options

    in_model_args = (args.model_args or {}).get("steering")
    check_options(
        RoutingOptions(
            steering=options["steering"] or in_model_args,
            overrides=options["set"],
            reference=options["routing_reference"],
            fields=options["routing_fields"],
            parallel=options["parallel"],
            control=options["control"],
        )
    )


def _include_paths(args: argparse.Namespace) -> list[str]:
    """Return the folders of our tasks and of plug-ins', and the user's, which wins."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    given = args.include_path
    if given is None and args.config:
        try:
            given = EvaluatorConfig.load_yaml_config(args.config).get("include_path")
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise UserError(str(error), fix="give a YAML file of run's options", where="--config") from error
    if given is not None and not Path(given).is_dir():
        raise UserError(f"{given!r} is not a directory", fix="give a folder of task files", where="--include_path")
    return [*map(str, tasks_dirs()), *([str(given)] if given else [])]


@contextmanager
def _routed_evaluation(options: dict[str, Any]) -> Iterator[dict[str, bool]]:
    """Let lm-eval's command call our `simple_evaluate`: it imports the function by name when it runs."""
    import lm_eval

    state = {"started": False, "printed": False}

    def evaluate(**kwargs: Any) -> Any:
        from lm_eval_moe.evaluation import simple_evaluate

        state["started"] = True
        try:
            results = simple_evaluate(
                **kwargs,
                steering=options["steering"],
                steering_overrides=options["set"],
                routing_reference=options["routing_reference"],
                routing_fields=options["routing_fields"],
                routing_include_reference=options["routing_include_reference"],
                routing_profile=options["routing_profile"],
                parallel=options["parallel"],
                allow_leak=options["allow_leak"],
                control=options["control"],
                strict=options["strict"],
            )
        except StrictError as error:  # raised again when the results are written
            if error.results is None:
                raise
            results = error.results
        state["printed"] = results is not None
        return results

    lm_eval.simple_evaluate = evaluate
    try:
        yield state
    finally:
        del lm_eval.simple_evaluate


@contextmanager
def _whole_files() -> Iterator[list[Any]]:
    """Let lm-eval's command write through our tracker; yields the trackers that it makes."""
    import lm_eval.loggers

    from lm_eval_moe.evaluation.tracker import WholeFilesTracker

    made: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> WholeFilesTracker:
        made.append(WholeFilesTracker(*args, **kwargs))
        return made[-1]

    stock = lm_eval.loggers.EvaluationTracker
    lm_eval.loggers.EvaluationTracker = make
    try:
        yield made
    finally:
        lm_eval.loggers.EvaluationTracker = stock


@contextmanager
def _indexing_what_is_needed(args: argparse.Namespace) -> Iterator[None]:
    """Keep lm-eval from reading its thousands of task files for a run of none of them."""
    import lm_eval.tasks

    from lm_eval_moe.evaluation.task_index import without_defaults

    given = args.tasks or []
    names = [name for part in ([given] if isinstance(given, str) else given) for name in str(part).split(",")]
    files = any(name.endswith(".yaml") or Path(name).is_dir() for name in names)
    manager = lm_eval.tasks.TaskManager
    if names and not files and without_defaults(names, args.include_path) is not None:
        lm_eval.tasks.TaskManager = partial(manager, include_defaults=False)
    try:
        yield
    finally:
        lm_eval.tasks.TaskManager = manager
