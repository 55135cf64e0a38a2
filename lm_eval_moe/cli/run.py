"""``lm-eval-moe run``: lm-eval's own ``run`` with flags for routing and steering."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any

from lm_eval_moe.backends.argument_help import ARGUMENT_HELP
from lm_eval_moe.backends.registry import BACKENDS, DEFAULT, usual_batch_size
from lm_eval_moe.cli._shared import add_overrides, add_parallel, add_strict, check_task_folder, warnings_as_lines
from lm_eval_moe.errors import FlawedResultsError, UserError
from lm_eval_moe.escaping import printable
from lm_eval_moe.harness.command import add_run_command, options_in, run_command, set_up_logging
from lm_eval_moe.resources import tasks_dirs
from lm_eval_moe.routing_fields import default_fields
from lm_eval_moe.strict import StrictError

__all__ = ["add_parser"]

_OURS: dict[str, Any] = {
    **dict.fromkeys(("steering", "control", "routing_fields", "routing_profile")),
    **dict.fromkeys(("allow_leak", "strict", "routing_include_reference"), False),
    "set": [],
    "parallel": [],
    "routing_reference": "en",
}
"""Our flags, with what they are by default; `simple_evaluate` calls them the same, but for ``--set``."""

_KINDS: dict[type, str] = {str: "a text", bool: "true or false", list: "a text or a list of texts"}


def add_parser(subparsers: Any) -> None:
    """Add ``run``."""
    add_run_command(subparsers, _add_arguments, _execute)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"Evaluate a model on tasks. Takes everything that `lm_eval run` takes (--model is {DEFAULT} here), and:"
    )
    parser.usage = (
        "lm-eval-moe run --model_args pretrained=<model> --tasks <task> ... [--model NAME] [--steering FILE] [options]"
    )
    parser.epilog = (
        "model arguments in addition to lm-eval's (docs/model_arguments.md):\n"
        + "".join(f"  {name:<{max(map(len, ARGUMENT_HELP))}}  {text}\n" for name, text in ARGUMENT_HELP.items())
        + "\nexamples:\n"
        "  $ lm-eval-moe run --model_args pretrained=demo --tasks demo_arith\n"
        "  $ lm-eval-moe run --model_args pretrained=Qwen/Qwen3-30B-A3B,dtype=bfloat16 \\\n"
        "      --tasks mgsm_direct_en,mgsm_direct_sw --steering steer.yaml --set interventions.0.action.soft=0.25\n"
    )
    _add_routing_arguments(parser.add_argument_group("routing and steering (with a routed model such as hf-moe)"))


def _execute(args: argparse.Namespace) -> int:
    config = options_in(args.config, _OURS) if args.config else {}
    options = {flag: vars(args).pop(flag) for flag in _OURS}  # lm-eval's command knows none of them
    options |= {flag: value for flag, value in _ours_in(config, args.config).items() if options[flag] == _OURS[flag]}
    options["steering_overrides"] = options.pop("set")
    set_up_logging()
    with warnings_as_lines(strict=options["strict"]) as warned:
        _check(options, args.model_args or config.get("model_args"))
        warned.check()
        _complete(args, config)
        if _run(args, config, options) and warned.texts:
            # Above the table there were log lines and bars: what it lacks is said below it, too.
            print("\n".join(f"Warning: {printable(' '.join(text.split()))}" for text in warned.texts))
    return 0


def _ours_in(config: dict[str, Any], path: str | None) -> dict[str, Any]:
    """Take our options out of those of a file."""
    values = {flag: config.pop(flag) for flag in _OURS if flag in config}
    for flag, value in values.items():
        usual = _OURS[flag]
        kind: type = str if usual is None else type(usual)
        if kind is list and isinstance(value, str):
            values[flag] = value = [value]
        texts = value if isinstance(value, list) else []
        if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"expected {_KINDS[kind]}, got {value!r}",
                fix="write it as on the command line",
                where=f"{path}: {flag}",
            )
    return values


def _run(args: argparse.Namespace, config: dict[str, Any], options: dict[str, Any]) -> bool:
    """Run lm-eval's command; return whether this process has printed results.

    Raises:
        FlawedResultsError: Something is wrong with the results, which are written and printed first.
    """
    printed, wrong = False, None

    def evaluate(**kwargs: Any) -> Any:
        from lm_eval_moe.evaluation import simple_evaluate

        nonlocal printed, wrong
        try:
            results = simple_evaluate(**kwargs, **options)
        except FlawedResultsError as error:
            if error.results is None:
                raise
            wrong, results = error, error.results
        printed = results is not None
        if steered := (results or {}).get("routing", {}).get("steering"):
            print(f"steering: {steered['name']} ({steered['hash'][:8]})")  # above lm-eval's line on the model
        return results

    run_command(args, config, evaluate)
    if wrong is not None and not isinstance(wrong, StrictError):  # whose warnings are counted below the table
        raise wrong
    return printed


def _add_routing_arguments(group: Any) -> None:
    """Add the flags that say how to steer and what to report."""
    group.add_argument("--steering", metavar="FILE", help="steering YAML file")
    add_overrides(group)
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
        f"(default, where the run can have them: {', '.join(default_fields())})",
    )
    group.add_argument(
        "--routing_include_reference",
        action="store_true",
        help="also report divergence 0 and overlap 1 for the reference language itself",
    )
    group.add_argument(
        "--routing_profile",
        metavar="PATH",
        help="profile of items: read as the reference if the file exists, otherwise written from this run",
    )
    add_parallel(group)
    group.add_argument(
        "--allow_leak",
        "--allow-leak",
        action="store_true",
        help="also evaluate on items that the steering's experts were selected on, and mark the results",
    )
    group.add_argument(
        "--control",
        metavar="random:N",
        help="also evaluate N random draws of as many experts per layer, and report the gain over them",
    )
    add_strict(group)


def _check(options: dict[str, Any], model_args: Any) -> None:
    """Find mistakes in our flags before lm-eval reads its thousands of task files."""
    from lm_eval_moe.evaluation.options import RoutingOptions, check_options

    check_options(
        RoutingOptions(
            steering=options["steering"] or (model_args.get("steering") if isinstance(model_args, dict) else None),
            overrides=options["steering_overrides"],
            reference=options["routing_reference"],
            fields=options["routing_fields"],
            parallel=options["parallel"],
            control=options["control"],
        )
    )


def _complete(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Add the folders of our tasks and of plug-ins' before the user's, which wins, the model and its batch size."""
    settings = config | {name: value for name, value in vars(args).items() if value}
    for logger in ("wandb", "trackio"):
        if settings.get(f"{logger}_args") and find_spec(logger) is None:
            fix = f"pip install {logger}, or leave it out"
            raise UserError(f"{logger} is not installed", fix=fix, where=f"--{logger}_args")
    args.model = settings.setdefault("model", DEFAULT)
    folder, model = settings.get("include_path"), settings["model"]
    check_task_folder(folder)
    args.include_path = [*map(str, tasks_dirs()), *([str(folder)] if folder else [])]
    if model in BACKENDS and not settings.get("batch_size"):
        args.batch_size = usual_batch_size(model, 1)
