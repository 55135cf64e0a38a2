"""``lm-eval-moe doctor``: is the routing of this very model captured and steered as said?"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lm_eval_moe.cli._shared import (
    ModelArgs,
    add_device,
    add_model,
    add_overrides,
    check_at_least,
    loaded,
    model_arguments,
    quiet_libraries,
    steering_of,
    warnings_as_lines,
)
from lm_eval_moe.errors import RoutingBypassedError, UserError

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel
    from lm_eval_moe.doctor import Examination
    from lm_eval_moe.steering import SteeringSpec

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    """Add ``doctor``."""
    parser = subparsers.add_parser(
        "doctor",
        description="Print how a model routes, and prove on a few sentences in eight languages that capture shows what "
        "the experts receive, leaves out padding and changes nothing, and that steering reaches the selection. Exit "
        "code 0 if all proofs hold, 1 if one fails or is not proven, 2 for a mistake in the arguments.",
        epilog="example: lm-eval-moe doctor --model_args pretrained=Qwen/Qwen3-30B-A3B,dtype=bfloat16 --device cuda",
    )
    add_model(parser, required=True)
    add_device(parser)
    parser.add_argument("--batch_size", type=int, help="sentences per batch (default: 4); 1 leaves nothing to pad")
    parser.add_argument(
        "--config-only",
        "--config_only",
        action="store_true",
        help="read only the config: show the shape, load no weights, prove nothing",
    )
    parser.add_argument(
        "--steering", metavar="FILE", help="also explain this steering file and measure what it reaches"
    )
    add_overrides(parser)
    parser.add_argument(
        "--allow_unproven",
        action="store_true",
        help="exit with 0 even if a proof could observe nothing beyond what the adapter says",
    )
    parser.add_argument(
        "--against",
        metavar="NAME",
        help="instead of the proofs: also run a sample of texts on this backend, each in its own process, and "
        "print the largest differences",
    )
    parser.add_argument(
        "--against_args",
        nargs="+",
        action=ModelArgs,
        metavar="KEY=VALUE",
        help="model arguments of the other backend, besides those that identify the model",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on standard output")
    parser.add_argument("--verbose", "-v", action="store_true", help="show every layer")
    parser.set_defaults(func=_execute)


def _execute(args: argparse.Namespace) -> int:
    check_at_least(args, 1, "batch_size")
    arguments = model_arguments(args)
    # What libraries print is not part of the answer.
    if args.against is not None:
        return _compare(args, arguments)
    with contextlib.redirect_stdout(sys.stderr), quiet_libraries(), warnings_as_lines():
        spec = steering_of(args, arguments)
        examination = _from_config(args, arguments, spec) if args.config_only else _with_weights(args, arguments, spec)
    from lm_eval_moe.doctor import render_text

    plain = json.dumps(examination.to_dict(), indent=2, ensure_ascii=False) if args.json else None
    print(plain or render_text(examination, verbose=args.verbose))
    return (
        0 if examination.ok or (args.allow_unproven and not examination.failed and examination.refusal is None) else 1
    )


def _compare(args: argparse.Namespace, arguments: dict[str, Any]) -> int:
    for flag in ("steering", "config_only", "batch_size"):
        if vars(args)[flag]:
            raise UserError(
                "two backends are compared on a fixed sample with fixed plans",
                fix="leave out one of the two",
                where=f"--against, --{flag}",
            )
    from lm_eval_moe.doctor.against import compare_backends, shared_arguments

    against_arguments = {**shared_arguments(arguments), **(args.against_args or {})}

    def progress(label: str) -> None:
        if not args.json and sys.stderr.isatty():
            print(f"running {label} ...", file=sys.stderr)

    parity = compare_backends((args.model, arguments), (args.against, against_arguments), progress)
    print(json.dumps(parity.to_dict(), indent=2) if args.json else parity.render())
    return 0 if parity.ok else 1


def _from_config(args: argparse.Namespace, arguments: dict[str, Any], spec: SteeringSpec | None) -> Examination:
    from lm_eval_moe.backends.arguments import resolve_plan
    from lm_eval_moe.backends.registry import backend
    from lm_eval_moe.doctor import Examination, anatomy_of

    kind = backend(args.model)
    model = kind.modules_before_loading(arguments)
    anatomy = None if model is None else anatomy_of(model)
    shape = kind.shape_before_loading(arguments) if anatomy is None else anatomy.shape
    return Examination(str(arguments["pretrained"]), anatomy, plan=resolve_plan(spec, shape))


def _with_weights(args: argparse.Namespace, arguments: dict[str, Any], spec: SteeringSpec | None) -> Examination:
    from lm_eval_moe.doctor import Examination, examine

    if args.batch_size is not None or not isinstance(arguments.get("batch_size"), int):
        arguments["batch_size"] = args.batch_size or 4
    try:
        lm = loaded(args, {**arguments, "steering": spec})
    except RoutingBypassedError as error:
        return Examination(str(arguments["pretrained"]), None, refusal=error)
    with _progress(lm, visible=not args.json and sys.stderr.isatty()) as progress:
        return examine(lm, steering=lm.steering, progress=progress)


@contextmanager
def _progress(lm: RoutedModel, *, visible: bool) -> Iterator[Callable[[str], object]]:
    """Show a bar of the runs, once they have taken some seconds."""
    from tqdm import tqdm

    from lm_eval_moe.doctor import planned_runs

    with tqdm(total=planned_runs(lm), disable=not visible, delay=2, leave=False, file=sys.stderr, unit="run") as bar:

        def started(label: str) -> None:
            bar.set_description(label, refresh=False)
            bar.update()

        yield started
