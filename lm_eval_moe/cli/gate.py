"""``lm-eval-moe gate``: judge a candidate against a baseline; write a first policy; say what would be caught."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.cli._shared import add_parallel, check_at_least
from lm_eval_moe.errors import UserError

if TYPE_CHECKING:
    from lm_eval_moe.gate.collect import Side
    from lm_eval_moe.gate.policy import Policy
    from lm_eval_moe.pairing import PairingRegistry

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``gate``."""
    parser = subparsers.add_parser(
        "gate",
        description="Judge a candidate's scores in every language, their average, and its routing against a stored "
        "baseline, as a policy file says. Exit status: 0 passed, 1 regression, 2 cannot be judged.",
        epilog="examples:\n"
        "  lm-eval-moe gate init baseline -o policy.yaml\n"
        "  lm-eval-moe gate power baseline --policy policy.yaml\n"
        "  lm-eval-moe gate --baseline baseline --candidate results --policy policy.yaml --junit gate.xml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for side in ("baseline", "candidate"):
        parser.add_argument(
            f"--{side}", nargs="+", type=Path, metavar="PATH", help=f"the {side}'s results: files or folders"
        )
    parser.add_argument("--policy", type=Path, metavar="FILE", help="policy YAML file")
    for side in ("baseline", "candidate"):
        parser.add_argument(
            f"--{side}_profile",
            type=Path,
            metavar="FILE",
            help=f"the {side}'s routing, as --routing_profile wrote it; needed if the policy limits drift",
        )
    add_parallel(parser)
    parser.add_argument(
        "--today", metavar="DATE", help="the day on which allowances must still hold (default: today in UTC)"
    )
    parser.add_argument(
        "--items",
        type=int,
        metavar="N",
        help="list N items of each language that the candidate lost, and N that it gained, with the answers",
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the verdict as JUnit XML")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the verdict as Markdown, such as for $GITHUB_STEP_SUMMARY"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdict as JSON")
    parser.set_defaults(func=_check)
    verbs = parser.add_subparsers(dest="verb", metavar="init | power", title="before the first gate")
    _add_init(verbs)
    _add_power(verbs)


def _add_init(verbs: Any) -> None:
    init = verbs.add_parser(
        "init",
        help="write a policy with margins from a baseline's own noise",
        description="Write a policy file with margins from a baseline's own noise, to be read and edited.",
    )
    init.add_argument("paths", nargs="+", type=Path, metavar="BASELINE", help="results files or folders")
    init.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the policy file to write")
    init.add_argument("--force", action="store_true", help="replace the file if it exists")
    init.add_argument("--alpha", type=float, default=0.05, help="chance of any false alarm (default: 0.05)")
    init.add_argument(
        "--profile", type=Path, metavar="FILE", help="the baseline's routing profile: sets drift limits as well"
    )
    _add_noise(init)
    add_parallel(init)
    init.set_defaults(func=_init)


def _add_power(verbs: Any) -> None:
    power = verbs.add_parser(
        "power",
        help="say how large a drop would be caught, and how often",
        description="Say how often a drop of a given size would be called a regression with these item counts.",
    )
    power.add_argument("paths", nargs="*", type=Path, metavar="BASELINE", help="results files or folders")
    power.add_argument("--items", type=int, metavar="N", help="without a baseline: items per language")
    power.add_argument(
        "--score", type=float, default=0.5, help="without a baseline: share of right answers (default: 0.5)"
    )
    power.add_argument(
        "--languages", type=int, default=1, metavar="N", help="without a baseline: number of languages (default: 1)"
    )
    power.add_argument(
        "--policy", type=Path, metavar="FILE", help="policy file (default: alpha 0.05, Holm, no margins)"
    )
    power.add_argument(
        "--drops",
        default="0.01,0.02,0.03,0.05,0.1",
        metavar="SIZES",
        help="sizes of drop, 0.05 for 5 percentage points; for scores that are not shares, as a share of the score",
    )
    power.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    _add_noise(power)
    add_parallel(power)
    power.set_defaults(func=_power)


def _add_noise(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--correlation",
        type=float,
        help="correlation of two runs' scores of the same item, 0 to 1 (default: 0.5; runs of related models lie "
        "higher)",
    )
    parser.add_argument(
        "--language_correlation",
        type=float,
        help="correlation of the differences of one item in two languages, 0 to 1 (default: that of the baseline's "
        "scores; without a baseline 0.1)",
    )
    parser.add_argument(
        "--pair",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="results of another version of the model on the same items: take both correlations from the two",
    )


def _check(args: argparse.Namespace) -> int:
    for flag in ("baseline", "candidate", "policy"):
        if not getattr(args, flag):
            raise UserError(
                f"--{flag} is missing",
                fix="lm-eval-moe gate --baseline PATH --candidate PATH --policy FILE; "
                "`lm-eval-moe gate init PATH -o FILE` writes a policy",
            )
    check_at_least(args, 0, "items")
    from lm_eval_moe.files import write_json, write_whole
    from lm_eval_moe.gate.check import SideFiles, check
    from lm_eval_moe.gate.junit import junit_xml
    from lm_eval_moe.gate.markdown import markdown_summary
    from lm_eval_moe.gate.policy import load_policy
    from lm_eval_moe.gate.table import verdict_table

    today = _day(args.today) if args.today else None
    verdict = check(
        load_policy(args.policy),
        SideFiles(args.baseline, args.baseline_profile),
        SideFiles(args.candidate, args.candidate_profile),
        registry=_registry(args),
        today=today,
        items=args.items or 0,
    )
    print(verdict_table(verdict))
    if args.junit:
        write_whole(args.junit, junit_xml(verdict), "JUnit file")
    if args.markdown:
        write_whole(args.markdown, markdown_summary(verdict), "Markdown summary")
    if args.json:
        write_json(args.json, verdict.to_dict(), "JSON file")
    return verdict.exit_code


def _init(args: argparse.Namespace) -> int:
    if args.output.exists() and not args.force:
        raise UserError("already exists", fix="give another path, or --force to replace it", where=str(args.output))
    if not 0 < args.alpha <= 0.5:
        raise UserError(
            f"{args.alpha:g} is not a significance level", fix="give a small number such as 0.05", where="--alpha"
        )
    from lm_eval_moe.files import write_whole
    from lm_eval_moe.gate.collect import task_places
    from lm_eval_moe.gate.drift import item_spread
    from lm_eval_moe.gate.first_policy import policy_text
    from lm_eval_moe.gate.plan import planned_of
    from lm_eval_moe.gate.policy import parse_policy
    from lm_eval_moe.shape import BANDS
    from lm_eval_moe.strict_yaml import yaml_value

    policy = _no_margins()
    baseline = _side("baseline", args.paths, args)
    correlation, between, _ = _noise(args, policy, baseline)
    homes = task_places(baseline.runs, baseline.registry).values()
    planned = planned_of(policy, baseline, correlation)
    text = policy_text(
        planned,
        metrics={home.benchmark: home.metric.key for home in homes},
        label=baseline.label,
        alpha=args.alpha,
        correlation=correlation,
        between=between,
        samples=all(_has_samples(baseline, home.task) for home in homes),
        spread=item_spread(args.profile, BANDS) if args.profile else {},
    )
    # A task may be called what no policy can hold: that is to be known before the file is there.
    parse_policy(yaml_value(text, where="the policy of this baseline"), "the policy of this baseline")
    write_whole(args.output, text, "policy")
    print(f"Wrote {args.output}: read it, and see what it would catch:")
    print(f"  lm-eval-moe gate power {' '.join(str(path) for path in args.paths)} --policy {args.output}")
    return 0


def _power(args: argparse.Namespace) -> int:
    if bool(args.paths) == (args.items is not None):
        raise UserError(
            "give either a baseline's results or --items",
            fix="lm-eval-moe gate power BASELINE, or lm-eval-moe gate power --items 250 --score 0.6 --languages 11",
        )
    drops = _drops(args.drops)
    from dataclasses import replace

    from lm_eval_moe.files import write_json
    from lm_eval_moe.gate.margins import BaselineScore, check_margins
    from lm_eval_moe.gate.plan import hypothetical, planned_of
    from lm_eval_moe.gate.policy import load_policy
    from lm_eval_moe.gate.power import power_rows, tests_of
    from lm_eval_moe.gate.table import power_table

    policy = load_policy(args.policy) if args.policy else _no_margins()
    if args.items is not None:
        for flag, value, fits in (
            ("items", args.items, args.items >= 1),
            ("languages", args.languages, args.languages >= 1),
            ("score", args.score, 0 < args.score < 1),
        ):
            if not fits:
                raise UserError(f"{value:g} is out of range", fix="see gate power --help", where=f"--{flag}")
        if args.pair:
            raise UserError("--pair needs a baseline", fix="give the baseline's results instead of --items")
        correlation, between, sources = _noise(args, policy, None)
        planned = hypothetical(args.items, args.score, args.languages, correlation)
    else:
        baseline = _side("baseline", args.paths, args)
        correlation, between, sources = _noise(args, policy, baseline)
        planned = planned_of(policy, baseline, correlation)
        check_margins(
            policy, [BaselineScore(score.benchmark, score.language, score.score, score.is_share) for score in planned]
        )
    tests = tests_of(policy, planned)
    rows = power_rows(policy, planned, tests=tests, between=between, drops=drops)
    if args.items is not None and args.languages > 1:
        rows = [replace(rows[0], name="one language"), rows[-1]]  # the languages are all alike
    heading = (
        "How often a drop is called a regression: in one language alone, and in the average when all languages fall "
        f"at once. Items are compared one by one; {tests} tests share alpha {policy.alpha:g} ({policy.correction}). "
        f"Two runs' scores of an item correlate by {correlation:.2f} ({sources[0]}), their differences between "
        f"languages by {between:.2f} ({sources[1]}). Drops and margins of shares are in percentage points."
    )
    print(power_table(rows, heading))
    if args.json:
        content = {
            "schema_version": 1,
            "policy": policy.name,
            "alpha": policy.alpha,
            "correction": policy.correction,
            "tests": tests,
            "correlation": correlation,
            "language_correlation": between,
            "rows": [row.to_dict() for row in rows],
        }
        write_json(args.json, content, "JSON file")
    return 0


def _noise(args: argparse.Namespace, policy: Policy, baseline: Side | None) -> tuple[float, float, tuple[str, str]]:
    """Return the two correlations, and where each comes from."""
    from lm_eval_moe.gate.plan import between_languages, correlations_of_pair
    from lm_eval_moe.gate.power import BETWEEN, CORRELATION

    if baseline is None:
        values, sources = [CORRELATION, BETWEEN], ["assumed", "assumed"]
    elif args.pair:
        pair = correlations_of_pair(policy, baseline, _side("candidate", args.pair, args))
        values, sources = [*pair], ["from the pair", "from the pair"]
    else:
        between = between_languages(policy, baseline)
        values, sources = [CORRELATION, between], ["assumed", "as the baseline's scores do"]
    for place, flag in enumerate(("correlation", "language_correlation")):
        value = getattr(args, flag)
        if value is not None:
            if not 0 <= value <= 1:
                raise UserError(f"{value:g} is out of range", fix="give a number from 0 to 1", where=f"--{flag}")
            values[place], sources[place] = value, "given"
    return values[0], values[1], (sources[0], sources[1])


def _side(name: str, paths: list[Path], args: argparse.Namespace) -> Side:
    from lm_eval_moe.gate.check import read_side

    notes: list[str] = []
    side = read_side(name, paths, notes, _registry(args))
    for note in notes:
        print(f"lm-eval-moe: note: {note}", file=sys.stderr)
    return side


def _has_samples(side: Side, task: str) -> bool:
    run = side.run_of(task)
    return run is not None and run.samples_of(task) is not None


def _registry(args: argparse.Namespace) -> PairingRegistry | None:
    from lm_eval_moe.pairing import PairingRegistry

    return PairingRegistry.default(args.parallel) if args.parallel else None


def _no_margins() -> Policy:
    from lm_eval_moe.gate.policy import parse_policy

    return parse_policy(
        {"version": 1, "name": "no margins", "margins": {"language": 0, "macro": 0}, "minimum_items": 1}, "default"
    )


def _drops(text: str) -> list[float]:
    try:
        drops = [float(part) for part in text.split(",")]
    except ValueError:
        drops = []
    if not drops or not all(0 < drop < 1 for drop in drops):
        raise UserError(
            f"{text!r} is not a list of drops", fix="write sizes between 0 and 1, such as 0.02,0.05", where="--drops"
        )
    return drops


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{text!r} is not a date", fix="write year-month-day: 2026-12-31", where="--today") from error
