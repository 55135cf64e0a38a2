"""How long whole evaluations take: lm-eval's own ``hf``, and ``hf-moe`` with capture and steering.

Four-choice topic classification in four languages, without examples, with the same five examples before every
document, and with five drawn for each; ten cells of a sweep, without examples and with the same; and answers that are
generated behind eight examples.

Every round runs all sides once, in an order that rotates; a ratio is that of one round. Before anything is timed,
decisions and routing fields of ``reuse=auto`` are compared with those of ``reuse=off``.

    python benchmarks/endtoend.py --model q8 --work five-same five-drawn zero cells

Texts are those of SIB-200 and MGSM if ``--data`` names a folder with their JSON lines, else made up.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from endtoend_tasks import LANGUAGES, write_tasks
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from workload import add_model_arguments, environment, load, steering_spec

from lm_eval_moe import HFMoE, parse_spec, resolve, simple_evaluate

CELLS = 10
SIDES = ("hf", "hf again", "off", "auto")
LABELS = {"off": "capture + soft, reuse=off", "auto": "capture + soft, reuse=auto"}


def main() -> None:
    """Compare, then time every kind of work, and print a table."""
    args = _arguments()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if args.model == "q8":
        args.random, args.layers = "qwen3_moe", 8
    model, tokenizer = load(args)
    report: dict[str, Any] = {"environment": environment(args, model), "work": {}}
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(Path(folder), args.data, args.tokens)
        manager = TaskManager(include_path=folder, include_defaults=False)
        for work in args.work:
            sides = _sides(work, model, tokenizer, manager, args)
            timed = {side: sides[side] for side in sides if side in ("hf", *args.sides)}
            report["work"][work] = {**_compared(work, sides), **_timed(timed, args.rounds)}
            _print(work, report["work"][work])
    if args.json:
        args.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--model", choices=("demo", "q8"), help="the demo model, or a random one of 8 layers")
    works = ("zero", "five-same", "five-drawn", "cells", "cells-same", "generation")
    parser.add_argument("--work", nargs="+", choices=works, default=list(works))
    parser.add_argument("--band", default="middle", choices=("early", "middle", "late"), help="that is steered")
    parser.add_argument("--sides", nargs="+", choices=SIDES[1:], default=SIDES[1:], help="beside hf (default: all)")
    parser.add_argument("--limit", type=int, default=16, help="documents of each of four languages (default: 16)")
    parser.add_argument("--rounds", type=int, default=4, help="default: 4")
    parser.add_argument("--tokens", type=int, default=32, help="to generate (default: 32)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with sib200/ and mgsm/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time")
    return parser.parse_args()


def _sides(
    work: str, model: Any, tokenizer: Any, manager: TaskManager, args: argparse.Namespace
) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """Return what each side does: it returns the results of its runs."""
    given = {"pretrained": model, "tokenizer": tokenizer, "batch_size": args.batch_size, "device": args.device}
    kind, cells = {"cells": ("zero", CELLS), "cells-same": ("five-same", CELLS)}.get(work, (work, 1))
    tasks = [f"endtoend_{kind}_{language}" for language in LANGUAGES]

    def evaluate(lm: Any) -> dict[str, Any]:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            results = simple_evaluate(
                lm, tasks=tasks, task_manager=manager, limit=args.limit, bootstrap_iters=0, batch_size=args.batch_size
            )
        assert results is not None
        return results

    def stock() -> list[dict[str, Any]]:
        lm = HFLM(**given)
        return [evaluate(lm) for _ in range(cells)]

    def ours(reuse: str) -> Callable[[], list[dict[str, Any]]]:
        lm = HFMoE(**given, reuse=reuse)
        spec = steering_spec(lm.routing_shape, args.band)
        plans = []
        for cell in range(cells):
            spec["interventions"][0]["action"] = {"soft": 0.5 if cells == 1 else (cell + 1) / cells}
            plans.append(resolve(parse_spec(spec), lm.routing_shape))

        def run() -> list[dict[str, Any]]:
            results = []
            with lm.ahead(plans):
                for plan in plans:
                    lm.set_steering(plan)
                    results.append(evaluate(lm))
            return results

        return run

    return {"hf": stock, "hf again": stock, "off": ours("off"), "auto": ours("auto")}


def _compared(work: str, sides: dict[str, Callable[[], list[dict[str, Any]]]]) -> dict[str, Any]:
    """Return how far the answers and routing fields of ``reuse=auto`` are from those of ``reuse=off``."""
    off, auto = sides["off"](), sides["auto"]()
    decisions, items, apart, fields = 0, 0, 0.0, 0.0
    for one, other in zip(off, auto, strict=True):
        for task, samples in one["samples"].items():
            for mine, theirs in zip(samples, other["samples"][task], strict=True):
                items += 1
                if work == "generation":
                    decisions += mine["resps"] != theirs["resps"]
                    continue
                a, b = ([float(answer[0][0]) for answer in each["resps"]] for each in (mine, theirs))
                decisions += int(np.argmax(a) != np.argmax(b))
                apart = max(apart, float(np.abs(np.subtract(a, b)).max()))
            for name, value in one["results"][task].items():
                if name.startswith("routing_") and isinstance(value, float):
                    fields = max(fields, abs(value - other["results"][task][name]))
    if decisions or fields > 1e-5:
        print(f"{work}: {decisions} of {items} decisions and fields by {fields:.1e} DIFFER", file=sys.stderr)
    return {"items": items, "decisions_differ": decisions, "log_probabilities": apart, "fields": fields}


def _timed(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    wall: dict[str, list[float]] = {side: [] for side in sides}
    order = list(sides)
    for number in range(rounds):
        turn = number % len(order)
        for side in order[turn:] + order[:turn]:
            gc.collect()
            began, used = time.perf_counter(), time.process_time()
            sides[side]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            cpu[side].append(time.process_time() - used)
            wall[side].append(time.perf_counter() - began)
    return {"cpu_seconds": cpu, "wall_seconds": wall}


def _print(work: str, told: dict[str, Any]) -> None:
    print(
        f"\n{work}: {told['items']} items; reuse=auto against off: {told['decisions_differ']} decisions differ, "
        f"log-probabilities by {told['log_probabilities']:.1e}, routing fields by {told['fields']:.1e}\n"
    )
    print("| side | hf / side, CPU time | hf / side, time | CPU s | s |\n|---|---:|---:|---:|---:|")
    for side in told["cpu_seconds"]:
        cells = []
        for kind in ("cpu_seconds", "wall_seconds"):
            ratios = [a / b for a, b in zip(told[kind]["hf"], told[kind][side], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (*ratios, 0, *ratios)
            cells.append(f"{statistics.median(ratios):.2f} ({low:.2f}-{high:.2f})")
        seconds = [f"{statistics.median(told[kind][side]):.2f}" for kind in ("cpu_seconds", "wall_seconds")]
        print(f"| {LABELS.get(side, side)} | " + " | ".join([*cells, *seconds]) + " |", flush=True)


if __name__ == "__main__":
    main()
