"""What several subcommands do alike: reading model arguments, and showing warnings as lines."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from lm_eval_moe.backends.registry import DEFAULT, backend, load_model, quiet_loading
from lm_eval_moe.errors import UserError
from lm_eval_moe.escaping import printable
from lm_eval_moe.strict import StrictError, noted_warnings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lm_eval_moe.backends.base import RoutedModel
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringSpec

__all__ = [
    "ModelArgs",
    "Warned",
    "add_device",
    "add_model",
    "add_overrides",
    "add_parallel",
    "add_strict",
    "check_at_least",
    "check_folder",
    "check_task_folder",
    "loaded",
    "model_arguments",
    "quiet_libraries",
    "refuse_several_processes",
    "shape_of",
    "steering_of",
    "warnings_as_lines",
]


class ModelArgs(argparse.Action):
    """Reads ``--model_args`` as lm-eval's own ``run`` does, whose module is imported only when there is something."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from lm_eval_moe.harness.command import merge_arguments

        merge_arguments(self, namespace, values, self.dest, option_string or self.option_strings[0])

    def error(self, message: str) -> NoReturn:
        """Raise what lm-eval's reader tells a parser, as any other mistake."""
        raise UserError(message, fix="write pretrained=<hub id, folder or demo>", where="--model_args")


def add_model(parser: Any, *, required: bool = False) -> None:
    """Add ``--model`` and ``--model_args``."""
    parser.add_argument("--model", default=DEFAULT, metavar="NAME", help=f"as for run (default: {DEFAULT})")
    parser.add_argument(
        "--model_args",
        "-a",
        nargs="+",
        action=ModelArgs,
        required=required,
        metavar="KEY=VALUE",
        help="the model, as for run: pretrained=<hub id, folder or demo>,dtype=...",
    )


def add_device(parser: Any) -> None:
    """Add ``--device`` and ``--trust_remote_code``."""
    parser.add_argument("--device", help="as for run, e.g. cuda or cpu")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")


def add_overrides(parser: Any) -> None:
    """Add ``--set``."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a field of the steering file, e.g. interventions.0.action.soft=0.25 (may be repeated)",
    )


def add_parallel(parser: Any) -> None:
    """Add ``--parallel``."""
    parser.add_argument(
        "--parallel",
        metavar="FILE",
        action="append",
        default=[],
        help="YAML file that gives the language of tasks and how their items pair (may be repeated)",
    )


def check_at_least(args: argparse.Namespace, least: int, *flags: str) -> None:
    """Refuse smaller numbers behind these flags.

    Raises:
        UserError: One is smaller.
    """
    for flag in flags:
        value = getattr(args, flag)
        if value is not None and value < least:
            raise UserError(f"{value} is too small", fix=f"give at least {least}", where=f"--{flag}")


def check_folder(path: Path | None, flag: str) -> None:
    """Refuse a place for files that is there, but not a folder.

    Raises:
        UserError: It is a file.
    """
    if path is not None and path.exists() and not path.is_dir():
        raise UserError(f"{path} is not a folder", fix="give a folder, new or existing", where=flag)


def check_task_folder(path: str | Path | None) -> None:
    """Refuse a folder of task files that is not there.

    Raises:
        UserError: It is not.
    """
    if path is not None and not Path(path).is_dir():
        raise UserError(f"{str(path)!r} is not a directory", fix="give a folder of task files", where="--include_path")


def model_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``--model_args``, ``--device`` and ``--trust_remote_code`` say of a model.

    Raises:
        UserError: They do not name one.
    """
    arguments = dict(args.model_args or {})
    if not arguments.get("pretrained"):
        raise UserError("no model given", fix="write pretrained=<hub id, folder or demo>", where="--model_args")
    options = {name: vars(args).get(name) for name in ("device", "trust_remote_code")}
    return arguments | {name: value for name, value in options.items() if value}


def steering_of(args: argparse.Namespace, arguments: dict[str, Any]) -> SteeringSpec | None:
    """Return the steering file of ``--steering``, or else of ``--model_args``, with ``--set``; None for no file.

    Args:
        args: What was parsed.
        arguments: Those of the model; a steering file is taken out of them.

    Raises:
        UserError: The file cannot be read or breaks the schema, or there is none to override.
    """
    from lm_eval_moe.steering import load_spec

    file = arguments.pop("steering", None)
    file = args.steering or file
    if file is None and args.set:
        raise UserError("there is no steering file to override", fix="give one with --steering", where="--set")
    return None if file is None else load_spec(file, args.set)


def shape_of(args: argparse.Namespace) -> RoutingShape:
    """Return the routing shape of the model that `add_model`'s arguments name, before its weights are loaded."""
    return backend(args.model).shape_before_loading(dict(args.model_args))


def loaded(args: argparse.Namespace, arguments: Mapping[str, Any]) -> RoutedModel:
    """Load the model that `add_model`'s arguments name; transformers shows no bar of its own.

    Raises:
        UserError: The model cannot be loaded or steered, or an argument is wrong.
        RoutingBypassedError: It is loaded, but its routing cannot be followed.
    """
    with quiet_loading():
        return load_model(args.model, arguments)


@dataclass(frozen=True)
class Warned:
    """The warnings that a command has shown so far."""

    texts: Sequence[str]
    strict: bool

    def check(self) -> None:
        """Let none of them pass if the user asked for that.

        Raises:
            StrictError: There are some.
        """
        if self.strict and self.texts:
            raise StrictError(self.texts)


@contextmanager
def warnings_as_lines(*, strict: bool = False) -> Iterator[Warned]:
    """Show our warnings as one line for the user each, and each once, not as lines of source code.

    Raises:
        StrictError: With ``strict``, after everything else: there were some.
    """
    stream = sys.stderr  # also where standard error goes elsewhere for a while

    def show(text: str) -> None:
        print(f"lm-eval-moe: warning: {printable(' '.join(text.split()))}", file=stream)

    with noted_warnings(show) as texts, _notes_as_lines(stream):
        warned = Warned(texts, strict)
        yield warned
        warned.check()


@contextmanager
def _notes_as_lines(stream: TextIO) -> Iterator[None]:
    """Show what our own log says (a profile was read, a cache used, a control runs) as one line each."""
    log, handler = logging.getLogger("lm_eval_moe"), _Lines(stream)
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # lm-eval's own handler would say it again
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


class _Lines(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        bars = sys.modules.get("tqdm")  # a line stands above the bars that are there, not in them
        with bars.tqdm.external_write_mode(file=self.stream) if bars else nullcontext():
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        kind = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"lm-eval-moe: {kind}{printable(' '.join(record.getMessage().split()))}"


def add_strict(parser: Any) -> None:
    """Add ``--strict``."""
    parser.add_argument(
        "--strict", action="store_true", help="end with exit code 2 if there was any warning; completed work is kept"
    )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the log notes of lm-eval, transformers and accelerate out of what a subcommand prints."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers", "accelerate")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def refuse_several_processes(lm: Any, command: str) -> None:
    """Refuse a model that runs in several processes, each of which would write the same files.

    Raises:
        UserError: It does.
    """
    if lm.world_size > 1:
        raise UserError(
            f"was started in {lm.world_size} processes",
            fix="start a single process; --model_args parallelize=true spreads a model over several devices",
            where=command,
        )
