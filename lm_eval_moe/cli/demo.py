"""``lm-eval-moe demo``: baseline, steered and random control on the bundled model, offline, with a report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lm_eval_moe.backends.registry import DEFAULT, set_threads
from lm_eval_moe.cli._shared import check_at_least, loaded, quiet_libraries
from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_json
from lm_eval_moe.resources import steering_configs_dir
from lm_eval_moe.routing_fields.divergence import DIVERGENCE
from lm_eval_moe.tables import markdown_table

__all__ = ["add_parser"]

_GROUP = "demo_arith"
_RUNS = (("baseline", None), ("steered", "demo_task_experts.yaml"), ("random control", "demo_random_control.yaml"))


def add_parser(subparsers: Any) -> None:
    """Add ``demo``."""
    parser = subparsers.add_parser(
        "demo",
        description="Evaluate the bundled tiny MoE model on its arithmetic tasks in eight languages: as it is, steered "
        "and with a random-expert control. Prints a table; writes the results, a routing profile and a report. Needs "
        "no network. It shows how steering is measured; it does not replicate a paper.",
    )
    parser.add_argument("--output_path", type=Path, default=Path("demo_output"), help="default: ./demo_output")
    parser.add_argument("--model", default=DEFAULT, metavar="NAME", help=f"as for run (default: {DEFAULT})")
    parser.add_argument("--limit", type=int, help="only this many items per language")
    parser.add_argument("--batch_size", type=int, default=32, help="default: 32")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="also write the report's figures and their data")
    parser.set_defaults(func=_execute)


def _execute(args: argparse.Namespace) -> int:
    check_at_least(args, 1, "limit")
    try:
        args.output_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = f"--output_path {args.output_path}"
        raise UserError(
            f"cannot be created: {error.strerror or error}", fix="give a writable folder", where=where
        ) from error
    from lm_eval_moe.results.run import default_registry
    from lm_eval_moe.results.samples import with_compact_samples

    profile = args.output_path / "routing_profile.safetensors"
    profile.unlink(missing_ok=True)  # one that is there would be read
    with quiet_libraries():
        runs = _run_all(args, profile)
    print(_table(runs))
    registry = default_registry()
    for label, results in runs.items():
        path = args.output_path / f"results_{label.replace(' ', '_')}.json"
        write_json(path, with_compact_samples(results, registry), "results")
    print(f"\nResults: {args.output_path.resolve()}")
    _report(runs, profile, args.output_path / "report.html", args.figures)
    return 0


def _run_all(args: argparse.Namespace, profile: Path) -> dict[str, dict[str, Any]]:
    from lm_eval_moe import simple_evaluate
    from lm_eval_moe.harness.task_index import task_manager

    set_threads(1)  # a second thread has more to wait for than to do in so small a model
    lm = loaded(args, {"pretrained": "demo", "batch_size": args.batch_size})
    manager = task_manager([_GROUP])
    runs = {}
    for number, (label, file) in enumerate(_RUNS, start=1):
        print(f"[{number}/{len(_RUNS)}] {label}", file=sys.stderr)
        lm.set_steering(steering_configs_dir() / file if file else None)
        # Only the unsteered routing is profiled: that is what the languages' curves and clusters are of.
        results = simple_evaluate(
            lm,
            tasks=[_GROUP],
            task_manager=manager,
            limit=args.limit,
            bootstrap_iters=0 if args.limit == 1 else 100,
            routing_profile=None if file else profile,
        )
        assert results is not None, "the demo runs in one process"
        runs[label] = results
    return runs


def _table(runs: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table: a row a language, accuracy with its standard error and divergence of each run."""
    from lm_eval_moe.results import RoutingObject

    baseline = runs["baseline"]
    routing = RoutingObject.of(baseline)
    rows = [
        [entry.language or task, *(cell for results in runs.values() for cell in _cells(results["results"][task]))]
        for task, entry in routing.tasks.items()
    ]
    rows.append(["mean", *(cell for results in runs.values() for cell in _cells(results["results"][_GROUP]))])
    middle = routing.model_shape.bands["middle"]
    headers = ["language", *(f"{label} {what}" for label in runs for what in ("acc", "div"))]
    title = (
        f"Accuracy (± standard error), and routing divergence to English over the middle layers "
        f"({middle[0]}-{middle[-1]} of {routing.model_shape.depth}); "
        f"{next(iter(baseline['n-samples'].values()))['effective']} items per language"
    )
    return "\n".join([title, "", *markdown_table(headers, rows, pad=True)])


def _cells(scores: dict[str, Any]) -> list[str]:
    error = scores.get("acc_stderr,none")
    accuracy = f"{scores['acc,none']:.3f}" + (f" ± {error:.3f}" if isinstance(error, float) else "")
    divergence = scores.get(DIVERGENCE.key)
    return [accuracy, "" if divergence is None else f"{divergence:.3f}"]


def _report(runs: dict[str, dict[str, Any]], profile: Path, path: Path, figures: Path | None) -> None:
    from lm_eval_moe.report import LabelledRun, write_report
    from lm_eval_moe.report.sources import read_profiles

    try:
        write_report(
            [LabelledRun(label, results) for label, results in runs.items()],
            path,
            title="The lm-eval-moe demo",
            profile_sets=read_profiles([str(profile)]),
            figures=figures,
        )
    except UserError as error:
        print(f"No report: {error}")
    else:
        print(f"Report:  {path.resolve()}")
        if figures is not None:
            print(f"Figures: {figures.resolve()}")
