"""``lm-eval-moe profile analyse``: what profiles of several languages say of a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lm_eval_moe.cli._shared import check_at_least, check_folder, warnings_as_lines
from lm_eval_moe.discovery import module_names
from lm_eval_moe.errors import UserError

__all__ = ["add_analyse"]


def add_analyse(verbs: Any) -> None:
    """Add ``analyse`` to the verbs of ``profile``."""
    parser = verbs.add_parser(
        "analyse",
        help="analyse what profiles of several languages say about a model; writes JSON and CSV",
        description="Curves of divergence, entropy and consecutive-token overlap over layers, clusters of languages,\n"
        "language-exclusive experts, overlap of task and multilingual experts, and the correlation of accuracy with\n"
        "divergence. Analyses that the given files do not allow are listed with the reason. Loads no model.",
        epilog="examples:\n"
        "  lm-eval-moe profile analyse profiles/*.safetensors --output analysis\n"
        "  lm-eval-moe profile analyse en=en.json zh=zh.json sw=sw.json --output analysis\n"
        "  lm-eval-moe profile analyse flores/*.safetensors --task_profile gsm8k_en.safetensors \\\n"
        "      --baseline_profile flores/en.safetensors --results results.json --output analysis",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "profiles",
        nargs="+",
        metavar="PROFILE",
        help="safetensors profile, with all languages in it; or LANG=FILE, which JSON counts need",
    )
    parser.add_argument(
        "--output", "-o", type=Path, metavar="DIR", required=True, help="folder for the JSON and CSV files"
    )
    parser.add_argument("--reference", metavar="LANG", default="en", help="language to compare with (default: en)")
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        help="only the items of this benchmark (default: those of all benchmarks, pooled)",
    )
    parser.add_argument(
        "--analyses",
        metavar="NAMES",
        help=f"only these of {', '.join(module_names('lm_eval_moe.analysis'))}, separated by commas (default: all)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="results of evaluations of the model, for the correlation of accuracy with divergence: files or folders",
    )
    parser.add_argument(
        "--accuracy", type=Path, metavar="FILE", help="accuracies from a CSV file instead: language,accuracy"
    )
    parser.add_argument(
        "--task_profile", "--task-profile", metavar="FILE", help="profile of a task's text, for its experts"
    )
    parser.add_argument(
        "--baseline_profile", "--baseline-profile", metavar="FILE", help="profile of general text in the same language"
    )
    parser.add_argument(
        "--top_m", type=int, metavar="N", help="how many of a layer's most active experts count (default: 15 of 128)"
    )
    parser.add_argument(
        "--distance",
        choices=("jensenshannon", "correlation"),
        help="distance between languages, for clusters (default: jensenshannon)",
    )
    parser.add_argument(
        "--layers", choices=("all", "early", "middle", "late"), help="layers to cluster by (default: middle)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of random permutations (default: 0)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing analysis")
    parser.set_defaults(func=_analyse)


def _analyse(args: argparse.Namespace) -> int:
    names = _check(args)
    from lm_eval_moe.analysis import AnalysisSettings, analyse, read_inputs
    from lm_eval_moe.analysis._report import chosen_analyses

    if names is not None:
        chosen_analyses(names)  # before anything is read
    settings = {name: getattr(args, name) for name in ("top_m", "distance", "layers", "seed")}
    with warnings_as_lines():
        inputs = read_inputs(
            args.profiles,
            reference=args.reference,
            benchmark=args.benchmark,
            task=(args.task_profile, args.baseline_profile) if args.task_profile else None,
            results=args.results,
            accuracies=args.accuracy,
            settings=AnalysisSettings(**{name: value for name, value in settings.items() if value is not None}),
        )
        findings = analyse(inputs, names)
    written = findings.write(args.output)
    print(findings.text())
    print(f"\nwritten: {', '.join(path.name for path in written)} in {args.output}")
    return 0


def _check(args: argparse.Namespace) -> list[str] | None:
    check_folder(args.output, "--output")
    if (args.output / "analysis.json").exists() and not args.force:
        raise UserError(
            f"{args.output} already holds an analysis", fix="choose another folder, or add --force", where="--output"
        )
    if bool(args.task_profile) != bool(args.baseline_profile):
        missing = "--baseline_profile" if args.task_profile else "--task_profile"
        raise UserError(
            "is missing",
            fix="a task's experts are those that are more active than on general text: give both profiles",
            where=missing,
        )
    check_at_least(args, 1, "top_m")
    check_at_least(args, 0, "seed")
    if args.analyses is None:
        return None
    names = [name.strip() for name in args.analyses.split(",") if name.strip()]
    if not names:
        raise UserError("no analysis named", fix="leave it out for all analyses", where="--analyses")
    return names
