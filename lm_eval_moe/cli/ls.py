"""``lm-eval-moe ls``: the multilingual tasks of this package, without loading lm-eval; and lm-eval's own list."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval_moe.multilingual.listing import Listing
    from lm_eval_moe.multilingual.manifest import Manifest

__all__ = ["add_parser"]

_WIDTH = 170  # where the output is not a terminal
_SHOWN = 6  # names in a cell of the table; the other formats have all
_FOLDED = 16  # characters that a cell of several words may be folded to
_GAP = 3  # characters between columns
_WHOLE = ("group", "task", "language", "kind", "dataset", "name", "averages")


def add_parser(subparsers: Any) -> None:
    """Add ``ls``."""
    parser = subparsers.add_parser(
        "ls",
        description="List the multilingual tasks of this package. Without an argument: one line per benchmark, with "
        "its languages, size, kind, whether items pair with English and by which key, dataset and licence. With "
        "`subtasks`, `tags` or --include_path it lists what lm-eval finds: its own tasks, this package's, and those of "
        "the folder.",
        epilog="examples:\n"
        "  lm-eval-moe ls\n"
        "  lm-eval-moe ls --language sw\n"
        "  lm-eval-moe ls groups --benchmark xcopa\n"
        "  lm-eval-moe ls languages --format csv\n"
        "  lm-eval-moe ls subtasks --include_path my_tasks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("tasks", "groups", "languages", "subtasks", "tags"),
        help="one line per task, group (an average over tasks) or language instead of per benchmark; or the subtasks "
        "or tags of everything that lm-eval knows",
    )
    parser.add_argument(
        "--include_path", metavar="DIR", help="list what lm-eval finds, this folder's task files included"
    )
    parser.add_argument(
        "--language", "-l", metavar="TAG", help="only entries that cover this language (sw, swh_Latn, ...)"
    )
    parser.add_argument("--benchmark", "-b", metavar="NAME", help="only this benchmark")
    parser.add_argument(
        "--format",
        "-f",
        choices=("table", "markdown", "json", "csv"),
        default="table",
        help="default: table; the other formats do not shorten anything",
    )
    parser.set_defaults(func=_list)


def _list(args: argparse.Namespace) -> int:
    if args.include_path is not None or args.what in ("subtasks", "tags"):
        return _list_everything(args)
    from lm_eval_moe.multilingual import listing
    from lm_eval_moe.multilingual.manifest import load_manifests

    manifests = load_manifests()
    if args.benchmark is not None:
        manifests = (_benchmark(args.benchmark, manifests),)
    listed = {"tasks": listing.list_tasks, "groups": listing.list_groups, "languages": listing.list_languages}
    what = args.what or ("tasks" if args.language else None)
    table = listing.list_benchmarks(manifests) if what is None else listed[what](manifests, args.language)
    if args.format == "table":
        _print(table)
    else:
        sys.stdout.write(listing.as_text(table, args.format))
    return 0


def _list_everything(args: argparse.Namespace) -> int:
    from lm_eval_moe.errors import UserError

    ours = {"--language": args.language, "--benchmark": args.benchmark, "languages": args.what == "languages"}
    for name, value in ours.items():
        if value:
            raise UserError("lm-eval's own list does not show languages", fix="leave it out", where=f"ls {name}")
    folders = [] if args.include_path is None else [args.include_path]
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(
                f"there is no folder {folder!r}", fix="give a folder with task files", where="--include_path"
            )
    from lm_eval_moe.harness.task_index import listed

    sys.stdout.write(listed(args.what or "tasks", folders))
    return 0


def _benchmark(name: str, manifests: tuple[Manifest, ...]) -> Manifest:
    from lm_eval_moe.errors import UserError, did_you_mean

    by_name = {either: m for m in manifests for either in (m.name, m.group)}
    if name not in by_name:
        raise UserError(
            f"there is no benchmark {name!r}{did_you_mean(name, by_name)}",
            fix=f"there are {', '.join(m.name for m in manifests)}",
            where="--benchmark",
        )
    return by_name[name]


def _print(listing: Listing) -> None:
    """Print a table for people: names whole, long cells folded, columns left out from the right where it is narrow."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    width = shutil.get_terminal_size((_WIDTH, 0)).columns
    notes: list[str] = []
    columns = list(zip(*([_cell(cell, notes) for cell in row] for row in listing.rows), strict=True))
    natural = [max(map(len, (header, *cells))) for header, cells in zip(listing.headers, columns, strict=True)]
    widths = [
        size if header in _WHOLE else min(_FOLDED, size) for header, size in zip(listing.headers, natural, strict=True)
    ]
    column_count = next(
        (n for n in range(len(widths), 2, -1) if sum(widths[:n]) + _GAP * n <= width), min(3, len(widths))
    )
    spare = width - sum(widths[:column_count]) - _GAP * column_count
    for index in range(column_count):
        more = max(0, min(natural[index] - widths[index], spare))
        widths[index] += more
        spare -= more
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, header in enumerate(listing.headers[:column_count]):
        is_number = bool(listing.rows) and isinstance(listing.rows[0][index], int)
        table.add_column(header, justify="right" if is_number else "left", width=widths[index], overflow="fold")
    for row in zip(*columns[:column_count], strict=True):
        table.add_row(*row)
    console = Console(width=max(width, sum(widths[:column_count]) + _GAP * column_count), highlight=False, markup=False)
    console.print(table)
    for number, note in enumerate(notes, start=1):
        console.print(f"({number}) {note}")
    if column_count < len(widths):
        console.print(f"Too narrow for: {', '.join(listing.headers[column_count:])}. --format markdown shows them.")


def _cell(cell: str | int | tuple[str, ...], notes: list[str]) -> str:
    """Shorten a cell; the sentence that says why something is not paired goes below the table."""
    if isinstance(cell, tuple):
        return " ".join(cell) if len(cell) <= _SHOWN else f"{len(cell)}: {' '.join(cell[: _SHOWN - 2])} ..."
    if isinstance(cell, str) and cell.startswith("no: "):
        why = cell.removeprefix("no: ").strip()
        if why not in notes:
            notes.append(why)
        return f"no ({notes.index(why) + 1})"
    return str(cell)
