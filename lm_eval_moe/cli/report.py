"""``lm-eval-moe report``: one self-contained HTML page on results, routing profiles and sweeps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lm_eval_moe.cli._shared import check_folder, warnings_as_lines
from lm_eval_moe.errors import UserError

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``report``."""
    parser = subparsers.add_parser(
        "report",
        description="One HTML page with inline figures, for light and dark screens, phones and paper; it needs no\n"
        "network and no scripts. Scores by language with intervals, differences to a baseline and to random\n"
        "controls, curves through the layers, expert heat maps, a dendrogram of languages, sweeps; every sentence\n"
        "is computed. Loads no model.",
        epilog="examples:\n"
        "  lm-eval-moe report results --output report.html\n"
        "  lm-eval-moe report baseline=results/base steered=results/steered profiles/*.safetensors --figures figures\n"
        "  lm-eval-moe report sweep_results en=en.json zh=zh.json --title 'Strength by band'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="[NAME=]PATH",
        help="results files, routing profiles (*.safetensors; JSON counts as LANG=FILE), folders of sweeps, or "
        "folders with any of them; NAME= gives a run its label",
    )
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html"
    )
    parser.add_argument("--title", default="Routing and scores by language", help="the page's heading")
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="also write every figure as PNG and SVG, and its data as CSV"
    )
    parser.add_argument(
        "--reference", default="en", metavar="LANG", help="language that profiles are compared with (default: en)"
    )
    parser.add_argument(
        "--baseline", metavar="LABEL", help="run that the others are compared with (default: the first unsteered one)"
    )
    parser.set_defaults(func=_execute)


def _execute(args: argparse.Namespace) -> int:
    if args.output.is_dir():
        raise UserError(
            "is a folder", fix="give the name of a file, such as report.html", where=f"--output {args.output}"
        )
    if args.output.suffix.lower() not in {".html", ".htm"}:
        raise UserError(
            "the report is an HTML page", fix="give a file name that ends in .html", where=f"--output {args.output}"
        )
    check_folder(args.figures, "--figures")
    from lm_eval_moe.pairing.entries import checked_language
    from lm_eval_moe.report.page import write_report
    from lm_eval_moe.report.sources import read_sources
    from lm_eval_moe.yaml_values import YamlPlace, YamlValue

    reference = checked_language(YamlValue(YamlPlace("--reference", Path()), args.reference))
    with warnings_as_lines():
        sources = read_sources(args.paths, reference=reference, baseline=args.baseline)
        for note in sources.notes:
            print(f"lm-eval-moe: warning: {note}", file=sys.stderr)
        written = write_report(
            sources.runs,
            args.output,
            title=args.title,
            profile_sets=sources.profile_sets,
            sweeps=sources.sweeps,
            notes=sources.notes,
            figures=args.figures,
        )
    print(f"Report:  {args.output.resolve()}")
    if args.figures is not None:
        print(f"Figures: {args.figures.resolve()} ({len(written)} files)")
    return 0
