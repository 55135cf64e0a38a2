"""``lm-eval-moe compare``: a leaderboard over results, with paired statistics."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lm_eval_moe.cli._shared import add_parallel
from lm_eval_moe.discovery import module_names
from lm_eval_moe.files import write_whole

__all__ = ["add_parser"]

_COLUMNS = ("languages", "tiers", "families", "scripts", "benchmarks")


def add_parser(subparsers: Any) -> None:
    """Add ``compare``."""
    parser = subparsers.add_parser(
        "compare",
        description="Compare runs: one row per run, one column per language (the other way round with many), "
        "with averages, changes from a baseline, and which of them are beyond chance. Reads results of `run` and of "
        "lm-eval's own command. With samples logs (--log_samples) items are paired; without them, standard errors are "
        "used.",
        epilog="examples: lm-eval-moe compare results/ ; lm-eval-moe compare base=runs/a soft=runs/b --baseline base "
        "--output board.html --output board.csv",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="[NAME=]PATH", help="results files or folders; NAME= gives a run its label"
    )
    pick = parser.add_argument_group("which runs and tasks")
    pick.add_argument(
        "--runs", action="append", default=[], metavar="GLOB", help="only runs whose label or file matches"
    )
    pick.add_argument("--label", action="append", default=[], metavar="GLOB=NAME", help="call the matching run NAME")
    pick.add_argument("--tasks", action="append", default=[], metavar="GLOB", help="only these tasks (also a,b,c)")
    pick.add_argument(
        "--all-dates", "--all_dates", action="store_true", help="all dates of each run, not only the newest"
    )
    table = parser.add_argument_group("what the table shows")
    table.add_argument("--columns", default="languages", choices=_COLUMNS, help="default: languages")
    table.add_argument(
        "--baseline",
        metavar="LABEL",
        help="compare with this run (default: the unsteered run of the same model if there is one, else the first)",
    )
    table.add_argument("--metric", help="metric to show instead of each benchmark's main one, such as acc_norm")
    table.add_argument(
        "--reference", metavar="LANG", help="language left out of the second average (default: the runs', or en)"
    )
    table.add_argument(
        "--sort", default="average", metavar="COLUMN", help="column to sort by, best first; or: given, label"
    )
    table.add_argument("--alpha", type=float, default=0.05, help="significance level of the tests (default: 0.05)")
    table.add_argument(
        "--intervals", action="store_true", help="show confidence intervals in the terminal's table as well"
    )
    how = parser.add_argument_group("how they are compared")
    how.add_argument(
        "--no-samples", "--no_samples", action="store_true", help="ignore samples logs: unpaired comparison"
    )
    how.add_argument(
        "--allow-mismatch",
        "--allow_mismatch",
        action="store_true",
        help="compare even if task version, few-shot count, prompts or limit differ",
    )
    add_parallel(how)
    out = parser.add_argument_group("output")
    formats = ", ".join(name.removeprefix("as_") for name in module_names("lm_eval_moe.compare.formats"))
    out.add_argument(
        "--format",
        default="terminal",
        metavar="NAME",
        help=f"format of the printed text: {formats}, or a plug-in's (default: terminal)",
    )
    out.add_argument(
        "--output",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="file to write, in the format of its suffix, such as .md or .html; may be repeated",
    )
    out.add_argument("--title", default="Leaderboard", help="title of the HTML page and the Markdown text")
    parser.set_defaults(func=_execute)


def _execute(args: argparse.Namespace) -> int:
    from lm_eval_moe.compare import BoardSettings, build_board, choose_runs
    from lm_eval_moe.compare.formats import FORMATS, format_of
    from lm_eval_moe.pairing import PairingRegistry
    from lm_eval_moe.pairing.entries import checked_language
    from lm_eval_moe.yaml_values import YamlPlace, YamlValue

    output_format = FORMATS.look_up(args.format, "--format")
    written = [format_of(path) for path in args.output]
    reference = None if args.reference is None else YamlValue(YamlPlace("--reference", Path()), args.reference)
    settings = BoardSettings(
        columns=args.columns,
        baseline=args.baseline,
        alpha=args.alpha,
        metric=args.metric,
        reference=checked_language(reference) if reference else None,
        sort=args.sort,
        allow_mismatch=args.allow_mismatch,
    )
    tasks = [glob.strip() for globs in args.tasks for glob in globs.split(",") if glob.strip()]
    selection = choose_runs(
        args.paths,
        globs=args.runs,
        labels=args.label,
        tasks=tasks,
        samples=not args.no_samples,
        all_dates=args.all_dates,
    )
    registry = PairingRegistry.default(args.parallel) if args.parallel else None
    board = build_board(selection.runs, settings, registry=registry, notes=selection.notes)
    for path, form in zip(args.output, written, strict=True):
        write_whole(path, form.render(board, args.title), "leaderboard")
        print(f"wrote {path}", file=sys.stderr)
    output_format.print(board, args.title, intervals=args.intervals)
    return 0
