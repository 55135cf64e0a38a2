"""lm-eval's own ``run`` command, with a further group of arguments and another evaluation inside.

What is heavy is imported when the command runs: ``--help`` takes none of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from traceback import walk_tb
from typing import Any

import lm_eval
from lm_eval._cli.run import Run
from yaml import YAMLError

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.replacing import replaced

__all__ = ["add_run_command", "merge_arguments", "options_in", "run_command", "set_up_logging"]

_NOT_FOUND = "Tasks not found: "
"""How lm-eval begins to say which tasks it does not know, with commas between."""


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


def run_command(args: argparse.Namespace, config: Mapping[str, Any], evaluate: Callable[..., Any]) -> None:
    """Run lm-eval's command: it reads its arguments, loads the tasks, evaluates, writes the files and prints tables.

    Args:
        args: Its arguments, without any of ours.
        config: What the file that they name says, without anything of ours.
        evaluate: Called as `lm_eval.simple_evaluate` in its place.

    Raises:
        UserError: The arguments are refused, or files could not be written.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

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
            replaced(EvaluatorConfig, "load_yaml_config", staticmethod(lambda _: dict(config))),
            writing_whole_files() as written,
        ):
            Run._execute(args)
            for file in written:
                print(f"written: {file}")
    except YAMLError as error:
        raise UserError(
            f"a task file is not valid YAML: {' '.join(str(error).split())}", fix="correct it", where="--tasks"
        ) from error
    except (AssertionError, ValueError, TypeError, FileNotFoundError, KeyError) as error:
        # Until the evaluation starts, lm-eval has only read its arguments; it refuses some of them later.
        if started and not _is_refusal(error):
            raise
        problem = str(error.args[0] if error.args else error)
        if problem.startswith(_NOT_FOUND):
            raise _not_found(problem.removeprefix(_NOT_FOUND), args.include_path) from error
        raise UserError(problem, fix="see lm-eval-moe run --help") from error


def _is_refusal(error: Exception) -> bool:
    """Whether lm-eval itself raised an error, in words, as it does for arguments that do not go with the tasks."""
    if not isinstance(error, (AssertionError, ValueError, FileNotFoundError)) or not str(error):
        return False
    *_, last = walk_tb(error.__traceback__)
    return str(last[0].f_globals.get("__name__")).split(".")[0] == lm_eval.__name__


def _not_found(names: str, include_path: Sequence[str]) -> UserError:
    """Return the error for tasks that do not exist, with those whose names are nearest."""
    from lm_eval_moe.harness.task_index import TaskManager

    all_tasks = TaskManager(include_path=list(include_path)).all_tasks
    missing = [f"{name!r}{did_you_mean(name, all_tasks)}" for name in names.split(", ")]
    return UserError(
        f"there is no task {' and no task '.join(missing)}",
        fix="`lm-eval-moe ls` and `lm_eval ls tasks` list them; give your own folder of tasks with --include_path",
        where="--tasks",
    )


def options_in(config: str, more: Collection[str]) -> dict[str, Any]:
    """Return what a YAML file says of ``run``'s options.

    Args:
        config: Its path.
        more: The options that lm-eval does not know.

    Raises:
        UserError: The file cannot be read, or has something else.
    """
    from lm_eval.config.evaluate_config import EvaluatorConfig

    try:
        options: dict[str, Any] = EvaluatorConfig.load_yaml_config(config)
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UserError(str(error), fix="give a YAML file with options of run", where="--config") from error
    names = [*(field.name for field in fields(EvaluatorConfig)), *more]
    for name in options:
        if name not in names:
            raise UserError(
                f"{name!r} is not an option of run{did_you_mean(name, names)}",
                fix="see lm-eval-moe run --help; in the file, options are written without leading dashes",
                where=config,
            )
    return options


def merge_arguments(parser: Any, namespace: argparse.Namespace, values: Any, dest: str, option: str) -> None:
    """Read ``key=value`` arguments into a namespace as lm-eval's ``run`` does.

    Args:
        parser: Reports what cannot be read.
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
