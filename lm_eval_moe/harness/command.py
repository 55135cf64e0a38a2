"""lm-eval's own ``run`` command, with a further group of arguments and another evaluation inside.

What is heavy is imported when the command runs: ``--help`` takes none of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import lm_eval
from lm_eval._cli.run import Run

from lm_eval_moe.errors import UserError
from lm_eval_moe.replacing import replaced

__all__ = ["add_run_command", "merge_arguments", "options_in", "run_command", "set_up_logging"]


def add_run_command(
    subparsers: Any,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    execute: Callable[[argparse.Namespace], int],
) -> None:
    """Add lm-eval's ``run`` with more arguments.

    Args:
        subparsers: Of a command line of ours.
        add_arguments: Adds them, and describes the command.
        execute: Runs it.
    """

    class RoutedRun(Run):
        def _add_args(self) -> None:
            super()._add_args()
            add_arguments(self._parser)

        _execute = staticmethod(execute)

    RoutedRun.create(subparsers)


def run_command(args: argparse.Namespace, evaluate: Callable[..., Any]) -> None:
    """Run lm-eval's command: it reads its arguments, loads the tasks, evaluates, writes the files and prints tables.

    Args:
        args: Its arguments, without any of ours.
        evaluate: Called as `lm_eval.simple_evaluate` in its place.

    Raises:
        UserError: The arguments are refused, or files could not be written.
    """
    from lm_eval_moe.harness.task_index import indexing_what_is_needed
    from lm_eval_moe.harness.tracker import writing_whole_files

    started = False

    def starting(**kwargs: Any) -> Any:
        nonlocal started
        started = True
        return evaluate(**kwargs)

    try:
        with (
            indexing_what_is_needed(args.tasks, args.include_path),
            replaced(lm_eval, "simple_evaluate", starting),  # which the command imports by name when it runs
            writing_whole_files(),
        ):
            Run._execute(args)
    except (ValueError, TypeError, FileNotFoundError, KeyError) as error:
        # Until the evaluation starts, lm-eval has only read its arguments.
        if started:
            raise
        raise UserError(str(error.args[0] if error.args else error), fix="see lm-eval-moe run --help") from error


def options_in(config: str) -> dict[str, Any]:
    """Return what a YAML file says of ``run``'s options.

    Raises:
        UserError: The file cannot be read.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    try:
        options: dict[str, Any] = EvaluatorConfig.load_yaml_config(config)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UserError(str(error), fix="give a YAML file of run's options", where="--config") from error
    return options


def merge_arguments(parser: Any, namespace: argparse.Namespace, values: Any, dest: str, option: str) -> None:
    """Read ``key=value`` arguments into a namespace as lm-eval's ``run`` does.

    Args:
        parser: Is told of what cannot be read.
        namespace: Gets a dictionary.
        values: The arguments, or one with commas between, or JSON.
        dest: The dictionary's name in the namespace.
        option: The option that they belong to.
    """
    from lm_eval._cli.utils import MergeDictAction

    MergeDictAction([option], dest, nargs="+")(parser, namespace, values, option)


def set_up_logging() -> None:
    """Let lm-eval's log be shown as its own command shows it."""
    from lm_eval.utils import setup_logging

    setup_logging()
