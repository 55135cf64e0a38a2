"""``lm-eval-moe experts``: apply a selection rule to profiles, and write an explicit steering file."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lm_eval_moe.cli._shared import warnings_as_lines
from lm_eval_moe.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringSpec

__all__ = ["add_parser"]

_COMMAND_LINE = "the command line"
_RULE_FLAGS = {
    "profile": ("FILE", "task: profile of the task's text"),
    "baseline": ("FILE", "task: profile of general text in the same language"),
    "language": ("LANG", "task: the language to take from profiles of several"),
    "reference": ("LANG", "multilingual: the language to compare the others with (default: en)"),
    "top_m": ("N", "shared, exclusive: how many of a language's most active experts per layer count"),
    "source": ("LANG", "shared: the language whose share is the coefficient"),
    "profile_a": ("FILE", "risk_difference: profile of the inputs A"),
    "profile_b": ("FILE", "risk_difference: profile of their counterparts B"),
    "top": ("N", "risk_difference: how many experts to take, instead of --threshold"),
    "direction": ("WHICH", "risk_difference: positive (default), negative or both"),
    "threshold": ("X", "the rule's threshold"),
}
_LISTS = {
    "profiles": ("LANG=FILE", "multilingual, shared, exclusive: a profile a language"),
    "languages": ("LANG", "exclusive: the group of languages"),
}
_FILE_FLAGS = {
    "layers": ("LAYERS", "8-35, 12, early, middle, late or all; several separated by commas (default: all)"),
    "action": ("ACTION", "what the file does to the experts: soft=0.5, proportional=0.022, bias=1, activate, ..."),
    "tokens": ("WHICH", "all (default), prompt or generated"),
    "steer_languages": ("LANGS", "which languages are steered: all (default), en,sw or all_but=en"),
}
_FLAGS = {"steer_languages": "languages"}  # where a flag has another name than its key
_SOURCES = {
    "task": "arXiv:2510.04694, eq. 3",
    "multilingual": "arXiv:2510.04694",
    "shared": "arXiv:2601.14050",
    "exclusive": "arXiv:2601.14050",
    "risk_difference": "arXiv:2509.09660",
}


class _ModelArgsParser(argparse.ArgumentParser):
    """Takes the complaints of lm-eval's reader of ``--model_args``."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as any other mistake."""
        raise UserError(message, fix="write pretrained=<hub id, folder or demo>", where="--model_args")


def add_parser(subparsers: Any) -> None:
    """Add ``experts``."""
    parser = subparsers.add_parser(
        "experts",
        help="select experts by a rule, show why, write an explicit steering file",
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
    parser.add_argument("rule", nargs="?", help="task, multilingual, shared, exclusive or risk_difference")
    rule = parser.add_argument_group("the rule's fields, as docs/steering.md explains them")
    for name, (metavar, text) in _RULE_FLAGS.items():
        rule.add_argument(f"--{name}", metavar=metavar, help=text)
    for name, (metavar, text) in _LISTS.items():
        rule.add_argument(f"--{name}", metavar=metavar, nargs="+", help=text)
    file = parser.add_argument_group("the steering")
    for name, (metavar, text) in _FILE_FLAGS.items():
        file.add_argument(f"--{name}", metavar=metavar, help=text)
    file.add_argument("--guard", action="store_true", help="also edit the scores of the model's final top-k")
    file.add_argument("--steering", metavar="FILE", help="take the rules of this steering file instead")
    file.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a field, as in run (may be repeated)",
    )
    file.add_argument("--control", metavar="KIND", help="random: the matched random control of the rule")
    file.add_argument("--seed", metavar="N", help="the steering file's seed, for ties and random controls (default: 0)")
    file.add_argument("--name", help="the steering file's name")
    shape = parser.add_argument_group("the model, where no profile says its shape")
    shape.add_argument("--model_args", "-a", nargs="+", metavar="KEY=VALUE", help="pretrained=...: its config alone")
    shape.add_argument("--shape", metavar="SIZES", help="layers=48,experts=128,top_k=8[,moe_layers=3-47]")
    out = parser.add_argument_group("output")
    out.add_argument("--explain", action="store_true", help="show why each expert is selected")
    out.add_argument("--thresholds", metavar="X,Y,...", help="count what other thresholds would select")
    out.add_argument("--output", "-o", metavar="FILE", help="write an explicit steering file (.yaml)")
    out.add_argument("--plot", metavar="FILE", help="draw layers x experts (.png or .svg; needs the report extra)")
    out.add_argument("--force", action="store_true", help="overwrite files that exist")
    out.add_argument("--json", action="store_true", help="print JSON, and nothing else on standard output")
    parser.set_defaults(func=_execute)


def _execute(args: argparse.Namespace) -> int:
    from lm_eval_moe.drawing import require_matplotlib
    from lm_eval_moe.experts import explicit_yaml, parse_thresholds, render_text, save_heat_map, select

    _check_target(args.output, "--output", (".yaml", ".yml"), args.force)
    _check_target(args.plot, "--plot", (".png", ".svg"), args.force)
    if args.plot:
        require_matplotlib("--plot")
    thresholds = () if args.thresholds is None else parse_thresholds(args.thresholds)
    with warnings_as_lines(), _flags_named(args):
        spec = _spec(args)
        found = select(spec, _shape(args, spec), thresholds)
    written = []
    if args.output:
        text = explicit_yaml(found)
        with _writing(args.output, "--output"):
            Path(args.output).write_text(text, encoding="utf-8")
        written.append(args.output)
    if args.plot:
        with _writing(args.plot, "--plot"):
            save_heat_map(found, args.plot)
        written.append(args.plot)
    if args.json:
        print(json.dumps({**found.to_dict(), "written": written}, indent=2, ensure_ascii=False))
        return 0
    print(render_text(found, explain=args.explain))
    for path in written:
        print(f"\nwritten: {path}")
    return 0


def _spec(args: argparse.Namespace) -> SteeringSpec:
    """Read both roads, a file or flags, as a steering document with overrides."""
    from lm_eval_moe.experts import as_random_control
    from lm_eval_moe.steering import load_spec, parse_spec

    if args.control not in (None, "random"):
        raise UserError(f"{args.control!r} is no kind of control", fix="write --control random", where="--control")
    overrides = list(args.set)
    if args.seed is not None:
        overrides.append(f"seed={args.seed}")
    if args.name is not None:
        overrides.append(f"name={json.dumps(args.name)}")
    if args.steering is not None:
        given = [name for name in (*_RULE_FLAGS, *_LISTS, *_FILE_FLAGS) if getattr(args, name) is not None]
        given = ["guard"] * args.guard + given
        if args.rule is not None or given:
            what = f"--{given[0]}" if args.rule is None else repr(args.rule)
            raise UserError(
                f"{what} is given beside a steering file",
                fix="override the file's fields with --set, such as --set interventions.0.action.soft=0.25",
                where="--steering",
            )
        spec = load_spec(args.steering, overrides)
    else:
        spec = parse_spec(_document(args), _COMMAND_LINE, overrides=overrides)
    return spec if args.control is None else as_random_control(spec)


def _document(args: argparse.Namespace) -> dict[str, Any]:
    """Return the steering document that the flags describe; whether it is a good one, the schema says."""
    from lm_eval_moe.steering.selectors import Selector

    rules = sorted(set(Selector.registry) - {"ids", "random"})
    if args.rule not in rules:
        hint = "" if args.rule is None else did_you_mean(args.rule, rules)
        problem = "neither a rule nor a steering file is given" if args.rule is None else f"no rule {args.rule!r}{hint}"
        fix = f"name a rule ({', '.join(rules)}), or give --steering FILE"
        if args.rule == "random":
            fix = "name the rule to match, and add --control random"
        raise UserError(problem, fix=fix, where="experts")
    if args.action is None:
        raise UserError(
            "no action is given", fix="say what to do to the experts, such as --action soft=0.5", where="--action"
        )
    fields = {name: _value(getattr(args, name), name) for name in _RULE_FLAGS if getattr(args, name) is not None}
    if args.profiles is not None:
        fields["profiles"] = _pairs(args.profiles)
    if args.languages is not None:
        fields["languages"] = [code for text in args.languages for code in text.split(",")]
    entry: dict[str, Any] = {
        "layers": _parts(args.layers or "all"),
        "experts": {args.rule: fields},
        "action": _action(args.action),
        "guard": args.guard,
    }
    if args.tokens is not None:
        entry["tokens"] = args.tokens
    if args.steer_languages is not None:
        but = args.steer_languages.removeprefix("all_but=")
        chosen = but.split(",")
        if but != args.steer_languages:
            entry["languages"] = {"all_but": chosen}
        else:
            entry["languages"] = but if but == "all" else chosen
    name = f"{args.rule.replace('_', '-')}-experts-{args.action.partition('=')[0]}"
    return {"version": 1, "name": name, "source": _SOURCES.get(args.rule, ""), "interventions": [entry]}


def _value(text: str, name: str) -> Any:
    """Read numbers as YAML does; files and languages stay text."""
    return _number(text) if name in ("top_m", "top", "threshold") else text


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text  # the schema says what is wrong with it


def _parts(text: str) -> Any:
    parts = [part.strip() for part in text.split(",")]
    return parts[0] if len(parts) == 1 else parts


def _action(text: str) -> Any:
    name, equals, strength = text.partition("=")
    return {name.strip(): _number(strength)} if equals else text


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        language, equals, file = text.partition("=")
        if not (language and equals and file):
            raise UserError(
                f"{text!r} is not LANG=FILE", fix="write --profiles en=en.json zh=zh.json", where="--profiles"
            )
        if language in pairs:
            raise UserError(f"{language} is given twice", fix="give one profile a language", where="--profiles")
        pairs[language] = file
    return pairs


def _shape(args: argparse.Namespace, spec: SteeringSpec) -> RoutingShape:
    from lm_eval_moe.experts import parse_shape, shape_of_profiles

    if args.shape is not None and args.model_args is not None:
        raise UserError("is given beside --model_args", fix="give one of the two", where="--shape")
    if args.shape is not None:
        return parse_shape(args.shape)
    return shape_of_profiles(spec) if args.model_args is None else _shape_of_model(args)


def _shape_of_model(args: argparse.Namespace) -> RoutingShape:
    """Read the model's config: the one thing here that takes torch and transformers."""
    from lm_eval_moe.harness.command import merge_arguments

    with contextlib.redirect_stdout(sys.stderr):
        from lm_eval_moe.backends.hf.loading import model_path, shape_before_loading

        space = argparse.Namespace()
        merge_arguments(_ModelArgsParser(), space, args.model_args, "model_args", "--model_args")
        given = dict(space.model_args)
        pretrained = given.pop("pretrained", None)
        if not pretrained:
            raise UserError("no model is given", fix="write pretrained=<hub id, folder or demo>", where="--model_args")
        if given.get("adapter") is not None:
            from lm_eval_moe.routers.families import load_adapter

            load_adapter(given["adapter"])
        return shape_before_loading(model_path(pretrained), **given)


def _check_target(path: str | None, flag: str, endings: tuple[str, ...], force: bool) -> None:
    """Refuse what could not be written, before any work is done."""
    if path is None:
        return
    if Path(path).suffix not in endings:
        raise UserError(f"{path!r} does not end in {' or '.join(endings)}", fix="give it that ending", where=flag)
    if not Path(path).parent.is_dir():
        raise UserError(f"there is no folder {str(Path(path).parent)!r}", fix="make it first", where=flag)
    if Path(path).exists() and not force:
        raise UserError(f"{path!r} exists", fix="give another name, or --force to overwrite it", where=flag)


@contextlib.contextmanager
def _writing(path: str, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path!r} cannot be written: {error.strerror or error}", fix="give a file that can", where=flag
        ) from error


@contextlib.contextmanager
def _flags_named(args: argparse.Namespace) -> Iterator[None]:
    """Let messages about the document that was made of the flags name the flags."""
    try:
        yield
    except UserError as error:
        start = f"{_COMMAND_LINE}: interventions.0."
        where = error.where or ""
        if args.steering is not None or not where.startswith(start):
            raise
        keys = where.removeprefix(start).split(".")
        rule = f"experts.{args.rule}".split(".")
        if keys[:3] == ["experts", "random", "like"]:
            keys = ["experts", *keys[3:]]
        fix = error.fix
        if keys[:2] != rule:
            flag = next((flag for flag, key in _FLAGS.items() if key == keys[0]), keys[0])
            where = "--control" if keys[0] == "experts" else f"--{flag}"
        elif len(keys) > 2 and keys[2] in (*_RULE_FLAGS, *_LISTS):
            where = " ".join([f"--{keys[2]}", *keys[3:]])
        else:
            where, fix = f"experts {args.rule}", f"{fix} (each key is a flag, as in --threshold)"
        raise UserError(error.problem, fix=fix, where=where) from error
