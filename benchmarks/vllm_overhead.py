"""What capture and steering cost on vLLM: the same requests through lm-eval's ``vllm`` and through ``vllm-moe``.

Each is a process with an engine of its own, compiled, the prefix cache on; the cache is emptied before every run. Every
round runs all variants once, one after the other, in an order that rotates; a ratio is that of one round. CPU time is
that of a side's driver and engine together: on a machine that others use, it says more than the time on the wall.

    python benchmarks/vllm_overhead.py
    python benchmarks/vllm_overhead.py --rounds 12 --json times.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from random_models import SHAPES, Shape, write_model
from vllm_side import Side
from vllm_work import CAPTURED, STEERED, Work, decoding, fewshot, steering

VARIANTS = ("vllm", "nothing active", "capture", "capture + soft")


def main() -> None:
    """Measure, print a table, and write all times if asked for."""
    args = _arguments()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    for name, value in {"KVCACHE_SPACE": "1", "OMP_THREADS_BIND": "nobind"}.items():
        os.environ.setdefault(f"VLLM_CPU_{name}", value)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", SHAPES[args.shape], dtype=args.dtype)
        arguments = {
            "pretrained": str(model),
            "dtype": args.dtype,
            "max_model_len": 1024,
            "max_num_seqs": 16,
            "enable_prefix_caching": True,
            "enforce_eager": args.eager,
        }
        log = Path(folder) / "log"
        sides = {name: Side(name, arguments, log) for name in ("vllm", "vllm-moe")}
        try:
            machine = {name: side.started() for name, side in sides.items()}
            print(machine["vllm-moe"])
            report = {"machine": machine, "arguments": {**vars(args), "json": str(args.json)}}
            works = {"log-likelihood": fewshot(model, args.documents), "decoding": decoding(model, 16, args.tokens)}
            for name in args.kinds or works:
                report[name] = _measured(works[name], sides, SHAPES[args.shape], args.rounds)
                _print(name, report[name])
                if args.json:
                    args.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
        finally:
            for side in sides.values():
                side.end()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="162M", choices=sorted(SHAPES), help="default: 162M")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--kinds", nargs="+", choices=("log-likelihood", "decoding"))
    parser.add_argument("--documents", type=int, default=8, help="of four choices each (default: 8)")
    parser.add_argument("--tokens", type=int, default=64, help="to generate for each of 16 prompts (default: 64)")
    parser.add_argument("--rounds", type=int, default=8, help="a multiple of 4 is fair (default: 8)")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each process (default: 1)")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single time")
    return parser.parse_args()


def _asked(variant: str, work: Work, shape: Shape) -> dict[str, Any]:
    """Return what to ask a side for."""
    if variant == "vllm":
        return work.asked()
    spec = steering(shape.layers, shape.experts, {"soft": 0.5}) if variant in STEERED else None
    return work.asked(capture="off" if variant not in CAPTURED else work.span, spec=spec)


def _measured(work: Work, sides: dict[str, Side], shape: Shape, rounds: int) -> dict[str, Any]:
    def run(variant: str) -> dict[str, Any]:
        return sides["vllm" if variant == "vllm" else "vllm-moe"].ask(**_asked(variant, work, shape))

    warm = {variant: run(variant) for variant in VARIANTS}
    for variant in ("nothing active", "capture"):
        if not work.agree(warm[variant]["answers"], warm["vllm"]["answers"]):
            raise SystemExit(f"the answers of vllm-moe ({variant}) differ from those of vllm")
    if not warm["capture"]["records"]:
        raise SystemExit("nothing was captured")
    times: dict[str, Any] = {name: {variant: [] for variant in VARIANTS} for name in ("seconds", "cpu_seconds")}
    for number in range(rounds):
        turn = number % len(VARIANTS)
        for variant in VARIANTS[turn:] + VARIANTS[:turn]:
            told = run(variant)
            for name, own in times.items():
                own[variant].append(told[name])
    return {"requests": len(work.requests), "tokens": work.tokens, **times}


def _print(kind: str, told: dict[str, Any]) -> None:
    rounds = len(told["seconds"]["vllm"])
    print(
        f"\n{kind}: {told['requests']} requests, {told['tokens']} tokens, {rounds} rounds; ratios: median (quarters)\n"
    )
    print(f"| {'variant':16} | {'wall / vllm':22} | {'CPU / vllm':22} | {'median s':8} | {'tokens/s':8} |")
    print("|---|---|---|---|---|")
    for variant in VARIANTS:
        wall, cpu = (_ratios(told[name][variant], told[name]["vllm"]) for name in ("seconds", "cpu_seconds"))
        median = statistics.median(told["seconds"][variant])
        print(f"| {variant:16} | {wall:22} | {cpu:22} | {median:8.2f} | {told['tokens'] / median:8,.0f} |", flush=True)


def _ratios(own: list[float], base: list[float]) -> str:
    ratios = [a / b for a, b in zip(own, base, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


if __name__ == "__main__":
    main()
