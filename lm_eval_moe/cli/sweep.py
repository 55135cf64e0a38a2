"""``lm-eval-moe sweep``: a grid over a steering file's fields, with one model load and matched random controls."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.registry import usual_batch_size
from lm_eval_moe.cli._shared import (
    Warned,
    add_model,
    add_strict,
    loaded,
    quiet_libraries,
    refuse_several_processes,
    shape_of,
    warnings_as_lines,
)
from lm_eval_moe.errors import RoutingWarning, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lm_eval_moe.sweep.cells import EmptyCell, PlannedCell
    from lm_eval_moe.sweep.spec import SweepSpec
    from lm_eval_moe.sweep.store import RunStore

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``sweep``."""
    parser = subparsers.add_parser(
        "sweep",
        description="Evaluate a grid over the fields of a steering file with one model load: the baseline, every "
        "cell, and matched random controls of every cell. Each run is saved as it ends; an interrupted sweep resumes "
        "where it stopped when it is started again. Writes table.md, table.csv, table.json and one figure per "
        "benchmark.",
        epilog="example:\n  lm-eval-moe sweep sweep.yaml --model_args pretrained=demo --output sweep_results",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="sweep YAML file")
    add_model(parser)
    parser.add_argument("--output", "-o", type=Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--batch_size", help="requests per batch, or auto (default: the file's, or as for run)")
    parser.add_argument("--device", help="as for run, e.g. cuda or cpu")
    parser.add_argument("--routing_reference", metavar="LANG", default="en", help="reference language (default: en)")
    parser.add_argument("--include_path", type=Path, metavar="DIR", help="folder with additional task files")
    parser.add_argument(
        "--allow_leak",
        "--allow-leak",
        action="store_true",
        help="also evaluate on items that the experts were selected on, and mark the results",
    )
    parser.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="only list the cells and their experts: needs the model's config, not its weights",
    )
    add_strict(parser)
    parser.set_defaults(func=_execute)


def _execute(args: argparse.Namespace) -> int:
    from lm_eval_moe.sweep.spec import load_sweep

    if not args.model_args:
        raise UserError("no model given", fix="--model_args pretrained=<hub id, folder or demo>", where="sweep")
    sweep = load_sweep(args.file)
    with warnings_as_lines(strict=args.strict) as warned, quiet_libraries():
        if args.dry_run:
            return _dry_run(sweep, args)
        if args.output is None:
            raise UserError("no folder given for the results", fix="give --output DIR", where="--output")
        return _run(sweep, args, warned)


def _dry_run(sweep: SweepSpec, args: argparse.Namespace) -> int:
    from lm_eval_moe.sweep.cells import cells_of

    cells, empty = cells_of(sweep, shape_of(args))
    _announce(sweep, cells, empty)
    for cell in cells:
        by_layer = ", ".join(f"{layer}: {experts}" for layer, experts in cell.plan.experts_by_layer().items())
        print(f"{_in_words(sweep, cell)}  {cell.experts} experts  {{{by_layer}}}")
    for empty_cell in empty:
        print(f"{_in_words(sweep, empty_cell)}  no expert: {empty_cell.reason}")
    return 0


def _run(sweep: SweepSpec, args: argparse.Namespace, warned: Warned) -> int:
    from lm_eval_moe.sweep.cells import cells_of

    cells, empty = cells_of(sweep, shape_of(args))  # before the weights are loaded
    _announce(sweep, cells, empty)
    warned.check()
    from lm_eval_moe.harness.task_index import task_manager
    from lm_eval_moe.sweep.runner import identity_of, run_sweep, settings_of
    from lm_eval_moe.sweep.store import RunStore

    arguments = {"pretrained": "demo", **args.model_args}
    size = args.batch_size or sweep.evaluation.batch_size or usual_batch_size(args.model, 1)
    arguments.setdefault("batch_size", size)
    if args.device:
        arguments["device"] = args.device
    manager = task_manager(sweep.tasks, [args.include_path] if args.include_path else [])
    lm = loaded(args, arguments)
    refuse_several_processes(lm, "sweep")
    lm.trust_files()
    identity = identity_of(sweep, lm, manager)
    store = RunStore(args.output, settings_of(sweep, lm, args.routing_reference), identity)
    try:
        run_sweep(
            sweep,
            cells,
            lm,
            store,
            reference=args.routing_reference,
            allow_leak=args.allow_leak,
            manager=manager,
        )
    except KeyboardInterrupt:
        _write(sweep, cells, empty, store)
        print(
            f"lm-eval-moe: interrupted; the same command resumes, {args.output} has the results so far", file=sys.stderr
        )
        return 130
    print(_write(sweep, cells, empty, store))
    return 0


def _announce(sweep: SweepSpec, cells: Sequence[PlannedCell], empty: Sequence[EmptyCell]) -> None:
    from lm_eval_moe.evaluation.control import few_draws

    hashes = {plan.hash for cell in cells for plan in (cell.plan, *cell.controls)}
    left_out = f", {len(empty)} without experts left out" if empty else ""
    print(
        f"{sweep.name}: {len(cells)} cells{left_out}, {sweep.controls} random controls each, "
        f"{len(hashes) + 1} runs with the baseline",
        file=sys.stderr,
    )
    if sweep.controls and (few := few_draws(sweep.controls)):
        print(f"{few}, and more with the correction over the cells", file=sys.stderr)
    if not sweep.controls:
        warnings.warn(
            "without random controls no gain can be attributed to the choice of experts", RoutingWarning, stacklevel=2
        )


def _in_words(sweep: SweepSpec, cell: PlannedCell | EmptyCell) -> str:
    return ", ".join(f"{axis.name} {text}" for axis, text in zip(sweep.axes, cell.texts, strict=True)) or "the base"


def _write(sweep: SweepSpec, cells: Sequence[PlannedCell], empty: Sequence[EmptyCell], store: RunStore) -> str:
    """Write the tables and figures of what has been run; return the Markdown."""
    from lm_eval_moe.files import write_json, write_whole
    from lm_eval_moe.sweep.figure import save_figure
    from lm_eval_moe.sweep.summary import summarise
    from lm_eval_moe.sweep.table import csv_table, markdown

    summaries = summarise(cells, empty, store)
    text = markdown(sweep, summaries)
    write_whole(store.folder / "table.md", text, "table")
    write_whole(store.folder / "table.csv", csv_table(sweep, summaries), "table")
    content = {"schema_version": 1, "name": sweep.name, "benchmarks": [summary.to_dict() for summary in summaries]}
    write_json(store.folder / "table.json", content, "table")
    try:
        for summary in summaries:
            if summary.cells:
                save_figure(summary, store.folder, "gain_" + re.sub(r"[^\w.-]", "_", summary.benchmark))
    except UserError as error:
        print(f"lm-eval-moe: no figure: {error}", file=sys.stderr)
    return f"{text}\nResults: {store.folder.resolve()}"
