"""What capture and steering cost: the same requests through ``hf`` and ``hf-moe``, interleaved in one process.

Beside them runs ``hf`` with ``output_router_logits=True`` and a copy of the logits to the host after each pass, as
scripts do that look at routing; no records are made of them. ``--variants`` leaves out what a model does not have.

Every round runs all variants once, in an order that rotates from round to round; a ratio is that of two neighbours of
one round, so that a machine that slows down or speeds up does not favour anyone. Before anything is timed, the answers
of ``hf`` and of unsteered ``hf-moe`` are compared: they must be identical.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --random qwen3_moe --layers 12 --hidden 512 --experts 32 --length 256 --documents 16
    python benchmarks/overhead.py --pretrained allenai/OLMoE-1B-7B-0924 --device cuda --dtype bfloat16 --json out.json
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from workload import (
    VARIANTS,
    RouterLogits,
    add_model_arguments,
    build,
    documents,
    environment,
    generation_instances,
    likelihood_instances,
    load,
    record_gold,
)

from lm_eval_moe import HFMoE


def main() -> None:
    """Measure, print a table, and write all times if asked for."""
    args = _arguments()
    model, tokenizer = load(args)
    chosen = documents(args.documents, tokenizer, args.length)
    models = {variant: build(variant, model, tokenizer, args) for variant in ("hf", *args.variants)}
    print("  ".join(f"{name}={value}" for name, value in environment(args, model).items()))
    report: dict[str, Any] = {"environment": environment(args, model), "arguments": vars(args) | {"json": None}}
    for kind in args.kinds:
        if kind == "loglikelihood":
            instances = likelihood_instances(chosen)
            for lm in models.values():
                record_gold(lm, chosen)
        else:
            instances = generation_instances(chosen, args.gen_tokens)
            for lm in models.values():
                record_gold(lm, None)
        tokens = _tokens(kind, instances, tokenizer, args.gen_tokens)
        times = _measure(kind, models, instances, args)
        report[kind] = {"requests": len(instances), "tokens": tokens, **asdict(times)}
        _print(kind, len(instances), tokens, times)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--kinds", nargs="+", choices=("loglikelihood", "generation"))
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS[1:], default=VARIANTS[1:], help="beside hf (default: all)"
    )
    parser.add_argument("--documents", type=int, default=192, help="of four choices each (default: 192)")
    parser.add_argument("--gen_tokens", type=int, default=16, help="tokens to generate a document (default: 16)")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds; a multiple of 5 is fair (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time")
    args = parser.parse_args()
    args.kinds = args.kinds or ["loglikelihood", "generation"]
    return args


def _run(kind: str, lm: Any, instances: list[Any]) -> Any:
    if kind == "loglikelihood":
        return lm.loglikelihood(instances, disable_tqdm=True)
    return lm.generate_until(instances, disable_tqdm=True)


@dataclass(frozen=True)
class _Times:
    """By variant, a value a round: wall-clock seconds, and the process's CPU seconds, which other load hardly moves."""

    seconds: dict[str, list[float]]
    cpu_seconds: dict[str, list[float]]


def _measure(kind: str, models: dict[str, Any], instances: list[Any], args: argparse.Namespace) -> _Times:
    answers = {variant: _run(kind, lm, instances) for variant, lm in models.items()}  # also warms up
    for variant in models:
        if not variant.endswith("steering") and answers[variant] != answers["hf"]:
            raise SystemExit(f"{kind}: the answers of {variant} differ from those of hf")
    for variant, lm in models.items():
        if isinstance(lm, HFMoE) and variant != "capture off" and len(lm.captured.records) == 0:
            raise SystemExit(f"{kind}: nothing was captured")
        if isinstance(lm, RouterLogits) and not lm.copied:
            raise SystemExit(f"{kind}: no router logits were returned")
    times = _Times({variant: [] for variant in models}, {variant: [] for variant in models})
    order = list(models)
    for number in range(args.rounds):
        turn = number % len(order)
        for variant in order[turn:] + order[:turn]:
            lm = models[variant]
            if isinstance(lm, HFMoE):
                lm.captured.clear()
            gc.collect()
            _wait(args.device)
            start, cpu_start = time.perf_counter(), time.process_time()
            _run(kind, lm, instances)
            _wait(args.device)
            times.seconds[variant].append(time.perf_counter() - start)
            times.cpu_seconds[variant].append(time.process_time() - cpu_start)
    return times


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _tokens(kind: str, instances: list[Any], tokenizer: Any, generated: int) -> int:
    """Return how many tokens the requests hold: prompts and scored or generated tokens."""
    if kind == "generation":
        return sum(len(tokenizer.encode(instance.args[0])) + generated for instance in instances)
    return sum(len(tokenizer.encode("".join(instance.args))) for instance in instances)


def _print(kind: str, requests: int, tokens: int, times: _Times) -> None:
    rounds = len(times.seconds["hf"])
    print(f"\n{kind}: {requests} requests, {tokens} tokens, {rounds} rounds; medians (middle half)\n")
    print("| variant | wall time / hf | CPU time / hf | wall s | CPU s | tokens/s |")
    print("|---|---|---|---|---|---|")
    for variant, own in times.seconds.items():
        wall, cpu = (_ratios(each[variant], each["hf"]) for each in (times.seconds, times.cpu_seconds))
        columns = (
            wall,
            cpu,
            _middle(own),
            _middle(times.cpu_seconds[variant]),
            f"{tokens / statistics.median(own):,.0f}",
        )
        print(f"| {variant} | {' | '.join(columns)} |")


def _ratios(own: list[float], base: list[float]) -> str:
    return _middle([a / b for a, b in zip(own, base, strict=True)])


def _middle(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    main()
