"""Selection rules and what is done to their experts as flags of the command line, and the steering document they make.

The flags of the rules are those that the rules declare, whichever there are.
"""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.steering.selectors import Option, Selector

__all__ = [
    "COMMAND_LINE",
    "add_rule_flags",
    "add_steering_flags",
    "document",
    "flags_named",
    "given_flags",
    "rule_names",
]

COMMAND_LINE = "the command line"
"""What stands in the place of the file in messages."""

_STEERING = {
    "layers": ("LAYERS", "8-35, 12, early, middle, late or all; several separated by commas (default: all)"),
    "action": ("ACTION", "what the file does to the experts: soft=0.5, proportional=0.022, bias=1, activate, ..."),
    "tokens": ("WHICH", "all (default), prompt or generated"),
    "steer_languages": ("LANGS", "which languages are steered: all (default), en,sw or all_but=en"),
}
_KEYS = {"languages": "steer_languages"}  # where a key of the document has another flag than its name


def rule_names() -> list[str]:
    """Return the rules that flags can describe."""
    return sorted(name for name, rule in Selector.registry.items() if rule.declared())


def rule_flags() -> dict[str, list[tuple[str, Option]]]:
    """Return every flag that rules declare, with the rules that have it.

    Raises:
        UserError: Two rules declare it differently, or it is one of the command's own.
    """
    flags: dict[str, list[tuple[str, Option]]] = {}
    for rule in rule_names():
        for name, option in Selector.registry[rule].declared().items():
            flags.setdefault(name, []).append((rule, option))
            first, theirs = flags[name][0]
            if name in _STEERING or theirs.flag != option.flag:
                owner = "the command itself" if name in _STEERING else f"the rule {first!r}, as {theirs.flag}"
                raise UserError(
                    f"the rule {rule!r} declares a field {name!r} ({option.flag}), which is a flag of {owner}",
                    fix="give the field another name",
                )
    return flags


def add_rule_flags(group: Any) -> None:
    """Add the rules' flags; the help of each names the rules that have it."""
    for name, owners in rule_flags().items():
        texts: dict[str, list[str]] = {}
        for rule, option in owners:
            texts.setdefault(option.help, []).append(rule)
        text = "; ".join(f"{', '.join(rules)}: {text}" for text, rules in texts.items())
        several = {"nargs": "+"} if owners[0][1].flag in ("pairs", "list") else {}
        group.add_argument(f"--{name}", metavar=owners[0][1].metavar, help=text.replace("%", "%%"), **several)


def add_steering_flags(group: Any) -> None:
    """Add the flags of the intervention."""
    for name, (metavar, text) in _STEERING.items():
        group.add_argument(f"--{name}", metavar=metavar, help=text)
    group.add_argument("--guard", action="store_true", help="also edit the scores of the model's final top-k")


def given_flags(args: Namespace) -> list[str]:
    """Return the flags that were given of those that describe a steering document."""
    return ["guard"] * args.guard + [name for name in (*rule_flags(), *_STEERING) if getattr(args, name) is not None]


def document(args: Namespace) -> dict[str, Any]:
    """Return the steering document that the flags describe; whether it is a good one, the schema says.

    Raises:
        UserError: The rule is not known, there is no action, or a flag has another form.
    """
    rules = rule_names()
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
    fields = {
        name: _value(getattr(args, name), owners[0][1])
        for name, owners in rule_flags().items()
        if getattr(args, name) is not None
    }
    entry: dict[str, Any] = {
        "layers": _parts(args.layers or "all"),
        "experts": {args.rule: fields},
        "action": _action(args.action),
        "guard": args.guard,
    }
    if args.tokens is not None:
        entry["tokens"] = args.tokens
    if args.steer_languages is not None:
        entry["languages"] = _languages(args.steer_languages)
    name = f"{args.rule.replace('_', '-')}-experts-{args.action.partition('=')[0]}"
    source = Selector.registry[args.rule].citation
    return {"version": 1, "name": name, "source": source, "interventions": [entry]}


@contextlib.contextmanager
def flags_named(args: Namespace) -> Iterator[None]:
    """Let messages about the document that was made of the flags name the flags."""
    try:
        yield
    except UserError as error:
        start = f"{COMMAND_LINE}: interventions.0."
        where = error.where or ""
        if args.steering is not None or not where.startswith(start):
            raise
        keys = where.removeprefix(start).split(".")
        if keys[:3] == ["experts", "random", "like"]:
            keys = ["experts", *keys[3:]]
        fix = error.fix
        if keys == ["experts"] and args.control is None:  # of all that the rule selects
            where = f"experts {args.rule}"
        elif keys[:2] != ["experts", args.rule]:
            where = "--control" if keys[0] == "experts" else f"--{_KEYS.get(keys[0], keys[0])}"
        elif len(keys) > 2 and keys[2] in rule_flags():
            where = " ".join([f"--{keys[2]}", *keys[3:]])
        else:
            where, fix = f"experts {args.rule}", f"{fix} (each key is a flag, as in --threshold)"
        raise UserError(error.problem, fix=fix, where=where) from error


def _value(raw_value: Any, option: Option) -> Any:
    """Read numbers as YAML does; files and languages stay text."""
    if option.flag == "pairs":
        return _pairs(raw_value)
    if option.flag == "list":
        return [code for text in raw_value for code in text.split(",")]
    return _number(raw_value) if option.flag == "number" else raw_value


def _number(text: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text  # the schema says what is wrong with it


def _parts(text: str) -> Any:
    parts = [part.strip() for part in text.split(",")]
    return parts[0] if len(parts) == 1 else parts


def _action(text: str) -> Any:
    name, equals, strength = text.partition("=")
    return {name.strip(): _number(strength)} if equals else text


def _languages(text: str) -> Any:
    but = text.removeprefix("all_but=")
    if but != text:
        return {"all_but": but.split(",")}
    return text if text == "all" else text.split(",")


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        language, equals, file = text.partition("=")
        if not (language and equals and file):
            raise UserError(
                f"{text!r} is not LANG=FILE", fix="write --profiles en=en.json zh=zh.json", where="--profiles"
            )
        if language in pairs:
            raise UserError(f"{language} is given twice", fix="give one profile per language", where="--profiles")
        pairs[language] = file
    return pairs
