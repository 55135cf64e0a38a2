"""``lm-eval-moe experts``: apply a selection rule to profiles, and write an explicit steering file."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.registry import DEFAULT, backend
from lm_eval_moe.cli._shared import ModelArgs, add_overrides, model_arguments, warnings_as_lines
from lm_eval_moe.errors import UserError

if TYPE_CHECKING:
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringSpec

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``experts``."""
    from lm_eval_moe.experts.flags import add_rule_flags, add_steering_flags, rule_names

    parser = subparsers.add_parser(
        "experts",
        description="Apply a selection rule to routing profiles: print the experts by layer, explain each of them,\n"
        "and write a steering file that lists them by number. The rule is given here by its name and\n"
        "flags, or in a steering file. No weights are loaded.",
        epilog="examples:\n"
        "  $ lm-eval-moe experts task --profile gsm8k_en.safetensors --baseline flores_en.safetensors \\\n"
        "      --threshold 0.4 --layers middle --action soft=0.5 --explain --output maths.yaml\n"
        "  $ lm-eval-moe experts shared --profiles en=en.json zh=zh.json --top_m 20 --source en --layers 10-39 \\\n"
        "      --action proportional=0.022 --shape layers=48,experts=128,top_k=8 --plot shared.png\n"
        "  $ lm-eval-moe experts --steering rule.yaml --control random --seed 1 --output control.yaml\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("rule", nargs="?", help=f"the selection rule: one of {', '.join(rule_names())}")
    add_rule_flags(parser.add_argument_group("the rule's fields, as docs/steering.md explains them"))
    file = parser.add_argument_group("the steering")
    add_steering_flags(file)
    file.add_argument("--steering", metavar="FILE", help="take the rules of this steering file instead")
    add_overrides(file)
    file.add_argument("--control", metavar="KIND", help="random: the matched random control of the rule")
    file.add_argument("--seed", metavar="N", help="the steering file's seed, for ties and random controls (default: 0)")
    file.add_argument("--name", help="the steering file's name")
    shape = parser.add_argument_group("the model, where neither a profile nor the steering file says its shape")
    shape.add_argument(
        "--model_args",
        "-a",
        nargs="+",
        action=ModelArgs,
        metavar="KEY=VALUE",
        help="pretrained=...: only its config is read",
    )
    shape.add_argument("--shape", metavar="SIZES", help="layers=48,experts=128,top_k=8[,moe_layers=3-47]")
    out = parser.add_argument_group("output")
    out.add_argument("--explain", action="store_true", help="show why experts are selected, of many the first 40")
    out.add_argument("--reasons", metavar="FILE", help="write why each expert is selected (.csv)")
    out.add_argument("--thresholds", metavar="X,Y,...", help="count what other thresholds would select")
    out.add_argument("--output", "-o", metavar="FILE", help="write an explicit steering file (.yaml)")
    out.add_argument("--plot", metavar="FILE", help="draw layers x experts (.png or .svg; needs the report extra)")
    out.add_argument("--force", action="store_true", help="overwrite files that exist")
    out.add_argument("--json", action="store_true", help="print JSON, and nothing else on standard output")
    parser.set_defaults(func=_execute)


def _execute(args: argparse.Namespace) -> int:
    from lm_eval_moe.experts import explicit_yaml, parse_thresholds, reasons_csv, render_text, save_heat_map, select
    from lm_eval_moe.experts.flags import flags_named
    from lm_eval_moe.extras import require_extra
    from lm_eval_moe.files import write_whole

    _check_target(args.output, "--output", (".yaml", ".yml"), args.force)
    _check_target(args.plot, "--plot", (".png", ".svg"), args.force)
    _check_target(args.reasons, "--reasons", (".csv",), args.force)
    if args.plot:
        require_extra("a picture", "matplotlib", where="--plot")
    thresholds = () if args.thresholds is None else parse_thresholds(args.thresholds)
    with warnings_as_lines(), flags_named(args):
        spec = _spec(args)
        selection = select(spec, _shape(args, spec), thresholds)
    written = [file for file in (args.output, args.plot, args.reasons) if file]
    if args.output:
        write_whole(Path(args.output), explicit_yaml(selection), "steering file")
    if args.plot:
        save_heat_map(selection, args.plot)
    if args.reasons:
        write_whole(Path(args.reasons), reasons_csv(selection), "table of reasons")
    if args.json:
        print(json.dumps({**selection.to_dict(), "written": written}, indent=2, ensure_ascii=False))
        return 0
    print(render_text(selection, explain=args.explain))
    for path in written:
        print(f"\nwritten: {path}")
    return 0


def _spec(args: argparse.Namespace) -> SteeringSpec:
    """Read both roads, a file or flags, as a steering document with overrides."""
    from lm_eval_moe.experts import as_random_control
    from lm_eval_moe.experts.flags import COMMAND_LINE, document, given_flags
    from lm_eval_moe.steering import load_spec, parse_spec

    if args.control not in (None, "random"):
        raise UserError(f"{args.control!r} is not a kind of control", fix="write --control random", where="--control")
    overrides = list(args.set)
    if args.seed is not None:
        overrides.append(f"seed={args.seed}")
    if args.name is not None:
        overrides.append(f"name={json.dumps(args.name)}")
    if args.steering is not None:
        flags = given_flags(args)
        if args.rule is not None or flags:
            what = f"--{flags[0]}" if args.rule is None else repr(args.rule)
            raise UserError(
                f"{what} is given together with a steering file",
                fix="override the file's fields with --set, such as --set interventions.0.action.soft=0.25",
                where="--steering",
            )
        spec = load_spec(args.steering, overrides)
    else:
        spec = parse_spec(document(args), COMMAND_LINE, overrides=overrides)
    return spec if args.control is None else as_random_control(spec)


def _shape(args: argparse.Namespace, spec: SteeringSpec) -> RoutingShape:
    from lm_eval_moe.experts import parse_shape, shape_of_spec

    if args.shape is not None and args.model_args is not None:
        raise UserError("is given together with --model_args", fix="give one of the two", where="--shape")
    if args.shape is not None:
        return parse_shape(args.shape)
    if args.model_args is None:
        return shape_of_spec(spec)
    # Reading the model's config is the one thing here that takes torch and transformers.
    with contextlib.redirect_stdout(sys.stderr):
        return backend(DEFAULT).shape_before_loading(model_arguments(args))


def _check_target(path: str | None, flag: str, endings: tuple[str, ...], force: bool) -> None:
    """Refuse what could not be written, before any work is done."""
    if path is None:
        return
    if Path(path).suffix not in endings:
        raise UserError(
            f"{path!r} does not end in {' or '.join(endings)}", fix="give a name with such an ending", where=flag
        )
    if not Path(path).parent.is_dir():
        raise UserError(f"there is no folder {str(Path(path).parent)!r}", fix="create it first", where=flag)
    if Path(path).exists() and not force:
        raise UserError(f"{path!r} exists", fix="give another name, or --force to overwrite it", where=flag)
