"""``lm-eval-moe``: parse the command line, run the subcommand, turn a user's mistake into one message."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from lm_eval_moe._version import __version__
from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.escaping import printable

__all__ = ["main"]

# Each is a module of this folder with `add_parser(subparsers)`, which sets `func` on what it parses.
_COMMANDS = {
    "run": "evaluate a model on tasks, with routing capture and steering (the default)",
    "doctor": "prove on your model that routing is captured and steered as claimed",
    "ls": "list the multilingual tasks, groups and languages",
    "validate": "check that tasks exist before a model is loaded",
    "profile": "capture routing over texts or tasks without scoring; show, merge, compare, analyse them",
    "experts": "select experts by a rule, show why, write an explicit steering file",
    "sweep": "evaluate a grid over a steering file's fields, every cell with random controls",
    "compare": "build a leaderboard from results, with paired statistics",
    "gate": "stop regressions in CI: judge a candidate against a stored baseline by a policy",
    "report": "write a self-contained HTML page about results, profiles and sweeps",
    "demo": "run the whole workflow offline on the bundled tiny model",
}

# What an interrupted command says.
_GOES_ON = {
    "run": "with --use_cache PATH the same command resumes where it stopped",
    "profile": "the same command resumes where it stopped",
    "sweep": "the same command resumes where it stopped",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``lm-eval-moe``; return the exit code (2 for a user's mistake)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        arguments.insert(0, "run")
    if arguments == ["run"]:
        arguments.append("--help")
    command = arguments[0] if arguments else None
    try:
        parser = _parser(command)
        try:
            args, unknown = parser.parse_known_args(arguments)
        except ValueError as error:  # of lm-eval's reader of key=value and JSON
            raise UserError(str(error), fix=f"see lm-eval-moe {command} --help") from error
        if unknown:
            raise _unknown(unknown, command, parser)
        return args.func(args) or 0
    except UserError as error:
        return _refused(error)
    except OSError as error:
        if error.filename is None:  # then it is not about a path that was given
            raise
        return _refused(UserError(error.strerror or str(error), fix="give another path", where=str(error.filename)))
    except KeyboardInterrupt:
        how = _GOES_ON.get(command or "", "nothing was left half-finished")
        print(f"lm-eval-moe: interrupted; {how}", file=sys.stderr)
        return 130


def _refused(error: UserError) -> int:
    # What is quoted may come from a file of somebody else's: no control character reaches the terminal.
    print("\n".join(map(printable, f"lm-eval-moe: error: {error}".splitlines())), file=sys.stderr)
    return error.exit_code


def _unknown(arguments: Sequence[str], command: str | None, parser: argparse.ArgumentParser) -> UserError:
    """Return the error for arguments that a command does not have, with those that are nearest."""
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    flags = [
        flag for flag in getattr(subparsers.choices.get(command or ""), "_option_string_actions", ()) if len(flag) > 2
    ]
    wrong = [argument for argument in arguments if argument.startswith("-")] or list(arguments)
    suggestions = ", ".join(f"{argument!r}{did_you_mean(argument.partition('=')[0], flags)}" for argument in wrong)
    return UserError(f"{command} does not take {suggestions}", fix=f"see lm-eval-moe {command} --help")


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lm-eval-moe",
        description="Evaluate mixture-of-experts language models with lm-evaluation-harness: capture where every "
        "token is routed, steer the routers, report routing alignment alongside accuracy.",
        epilog="`lm-eval-moe --model hf-moe ...` without a command is `lm-eval-moe run ...`; "
        "`lm-eval-moe COMMAND --help` shows the details.",
    )
    parser.add_argument("--version", action="version", version=f"lm-eval-moe {__version__}")
    parser.set_defaults(func=lambda args: parser.print_help())
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        if name == command:
            importlib.import_module(f"lm_eval_moe.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser
