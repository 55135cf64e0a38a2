"""``lm-eval-moe doctor``: is the routing of this very model captured and steered as said?"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lm_eval_moe.cli._shared import add_model, loaded, quiet_libraries, warnings_as_lines
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
        help="prove on your model that routing is captured and steered as said",
        description="Print how a model routes, and prove on a few sentences in eight languages that capture shows what "
        "the experts receive, leaves out padding and changes nothing, and that steering reaches the selection. Exit "
        "code 0 if all proofs hold, 1 if one fails or is not proven, 2 for a mistake in the arguments.",
        epilog="example: lm-eval-moe doctor --model_args pretrained=Qwen/Qwen3-30B-A3B,dtype=bfloat16 --device cuda",
    )
    add_model(parser, required=True)
    parser.add_argument("--device", help="as for run, e.g. cuda or cpu")
    parser.add_argument("--batch_size", type=int, help="sentences a batch (default: 4); 1 leaves nothing to pad")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the model")
    parser.add_argument(
        "--config-only",
        "--config_only",
        action="store_true",
        help="read the config alone: the shape, no weights, no proof",
    )
    parser.add_argument(
        "--steering", metavar="FILE", help="also explain this steering file and measure what it reaches"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a field of the steering file (may be repeated)",
    )
    parser.add_argument(
        "--allow_unproven",
        action="store_true",
        help="exit with 0 also where a proof could observe nothing besides what the adapter says",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on standard output")
    parser.add_argument("--verbose", "-v", action="store_true", help="show every layer")
    parser.set_defaults(func=_execute)


def _execute(args: argparse.Namespace) -> int:
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"{args.batch_size} is no batch size", fix="give at least 1", where="--batch_size")
    given = dict(args.model_args or {})
    if not given.get("pretrained"):
        raise UserError("no model is given", fix="write pretrained=<hub id, folder or demo>", where="--model_args")
    if args.trust_remote_code:
        given["trust_remote_code"] = True
    # What libraries print is no part of the answer.
    with contextlib.redirect_stdout(sys.stderr), quiet_libraries(), warnings_as_lines():
        spec = _spec(args.steering or given.get("steering"), args.set)
        given.pop("steering", None)
        found = _from_config(args, given, spec) if args.config_only else _with_weights(args, given, spec)
    print(_rendered(found, args))
    return 0 if found.ok or (args.allow_unproven and not found.failed and found.refusal is None) else 1


def _rendered(found: Examination, args: argparse.Namespace) -> str:
    from lm_eval_moe.doctor import render_text

    if args.json:
        return json.dumps(found.to_dict(), indent=2, ensure_ascii=False)
    return render_text(found, verbose=args.verbose)


def _spec(file: str | None, overrides: list[str]) -> SteeringSpec | None:
    from lm_eval_moe.steering import load_spec

    if file is None:
        if overrides:
            raise UserError("there is no steering file to override", fix="give one with --steering", where="--set")
        return None
    return load_spec(file, overrides)


def _from_config(args: argparse.Namespace, given: dict[str, Any], spec: SteeringSpec | None) -> Examination:
    from lm_eval_moe.backends.arguments import resolve_plan
    from lm_eval_moe.backends.registry import backend
    from lm_eval_moe.doctor import Examination, anatomy_of

    kind, name = backend(args.model), str(given["pretrained"])
    model = kind.modules_before_loading(given)
    if model is None:
        return Examination(name, None, plan=resolve_plan(spec, kind.shape_before_loading(given)))
    anatomy = anatomy_of(model)
    return Examination(name, anatomy, plan=resolve_plan(spec, anatomy.shape))


def _with_weights(args: argparse.Namespace, given: dict[str, Any], spec: SteeringSpec | None) -> Examination:
    from lm_eval_moe.doctor import Examination, examine

    if args.batch_size is not None or not isinstance(given.get("batch_size"), int):
        given["batch_size"] = args.batch_size or 4
    if args.device is not None:
        given["device"] = args.device
    try:
        lm = loaded(args, {**given, "steering": spec})
    except RoutingBypassedError as error:
        return Examination(str(given["pretrained"]), None, refusal=error)
    with _progress(lm, shown=not args.json and sys.stderr.isatty()) as progress:
        return examine(lm, steering=lm.steering, progress=progress)


@contextmanager
def _progress(lm: RoutedModel, *, shown: bool) -> Iterator[Callable[[str], object]]:
    """Show a bar of the runs, once they have taken some seconds."""
    from tqdm import tqdm

    from lm_eval_moe.doctor import planned_runs

    with tqdm(total=planned_runs(lm), disable=not shown, delay=2, leave=False, file=sys.stderr, unit="run") as bar:

        def started(label: str) -> None:
            bar.set_description(label, refresh=False)
            bar.update()

        yield started
