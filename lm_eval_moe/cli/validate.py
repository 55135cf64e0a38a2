"""``lm-eval-moe validate``: whether tasks exist."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``validate``."""
    parser = subparsers.add_parser(
        "validate",
        description="Check whether tasks, groups and tags exist (this package's, lm-eval's or your own) and say which "
        "of the three each is. Neither data nor a model is loaded.",
        epilog="example:\n  lm-eval-moe validate --tasks mgsm_direct_sw,my_task --include_path my_tasks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", "-t", required=True, metavar="NAMES", help="names or patterns, separated by commas")
    parser.add_argument("--include_path", metavar="DIR", help="folder with additional task files")
    parser.set_defaults(func=_validate)


def _validate(args: argparse.Namespace) -> None:
    from lm_eval_moe.cli._shared import check_task_folder, quiet_libraries
    from lm_eval_moe.errors import UserError
    from lm_eval_moe.harness.task_index import task_manager

    names = [name for name in args.tasks.split(",") if name]
    if not names:
        raise UserError("no task given", fix="give names separated by commas", where="--tasks")
    check_task_folder(args.include_path)
    with quiet_libraries():
        manager = task_manager(names, [args.include_path] if args.include_path else [])
    kinds = {"group": manager.all_groups, "tag": manager.all_tags}
    tasks = list(dict.fromkeys(task for name in names for task in manager.match_tasks([name])))
    width = max(map(len, tasks))
    for name in tasks:
        print(f"{name:{width}}  {next((kind for kind, members in kinds.items() if name in members), 'task')}")
