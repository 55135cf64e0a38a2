"""What a sweep on vLLM gains by running its cells and controls in one continuous batch.

The same sweep runs with and without sharing, on one engine, in turn, in an order that changes every round; a ratio is
that of two neighbours. CPU time is that of all processes of the engine and of this one: others may use the machine.

    python benchmarks/vllm_many_plans.py
    python benchmarks/vllm_many_plans.py --random qwen3_moe --layers 12 --hidden 512 --experts 32 --limit 8 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import psutil
import yaml

from lm_eval_moe.backends.registry import load_model
from lm_eval_moe.harness.task_index import task_manager
from lm_eval_moe.sweep.cells import cells_of
from lm_eval_moe.sweep.runner import identity_of, run_sweep, settings_of
from lm_eval_moe.sweep.spec import load_sweep
from lm_eval_moe.sweep.store import RunStore

WAYS = ("apart", "together")
TASKS = {
    "likelihood": ["demo_arith_en", "demo_arith_sw", "demo_arith_zh"],
    "generation": ["benchmark_generation"],
}
STEERING = {
    "version": 1,
    "name": "benchmark",
    "interventions": [{"layers": "middle", "experts": {"ids": {"all": [1, 5]}}, "action": {"soft": 0.5}}],
}
GRID = {"interventions.0.action.soft": [0.25, 0.5, 0.75, 1.0]}
CONTROLS = 2
_MAKING = """
import argparse, sys
sys.path.insert(0, {here!r})
import workload
parser = argparse.ArgumentParser()
workload.add_model_arguments(parser)
model, tokenizer = workload.load(parser.parse_args({arguments!r}))
model.save_pretrained({folder!r})
tokenizer.save_pretrained({folder!r})
"""


@dataclass(frozen=True)
class Cost:
    """What a sweep took.

    Attributes:
        cpu: Seconds of all processes.
        wall: Seconds on the clock.
        batches: How often the engine was given rows.
        rows: Rows of all batches.
    """

    cpu: float
    wall: float
    batches: int
    rows: int


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all that it has started."""
    own = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (own, *own.children(recursive=True)))


def generation_task(folder: Path, tokens: int) -> None:
    """Write a task that generates so many tokens behind each prompt."""
    questions = [{"q": f"{a} + {b} =", "a": str(a + b)} for a in range(2, 12) for b in range(2, 12)]
    (folder / "questions.json").write_text(json.dumps(questions), encoding="utf-8")
    task = {
        "task": "benchmark_generation",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.json")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "generation_kwargs": {"until": ["<never>"], "max_gen_toks": tokens, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
        "metadata": {"version": 1, "routing": {"language": "en", "benchmark": "benchmark", "item": "row"}},
    }
    (folder / "benchmark_generation.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def main() -> None:
    """Measure, and print a table and, where asked for, JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="demo", help="default: demo")
    parser.add_argument("--random", metavar="FAMILY", help="a random-initialised model instead, such as qwen3_moe")
    for name, size in (("layers", 12), ("hidden", 512), ("experts", 32)):
        parser.add_argument(f"--{name}", type=int, default=size, help=f"of the random model (default: {size})")
    parser.add_argument("--limit", type=int, default=16, help="documents of each task (default: 16)")
    parser.add_argument("--tokens", type=int, default=32, help="that each answer has (default: 32)")
    parser.add_argument("--kinds", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seqs", type=int, default=64, help="requests that the engine runs at once (default: 64)")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = args.pretrained if args.random is None else str(folder / "model")
        if args.random is not None:  # in another process: vLLM changes transformers' classes
            arguments = ["--random", args.random, "--layers", str(args.layers), "--hidden", str(args.hidden)]
            arguments += ["--experts", str(args.experts), "--device", "cpu", "--dtype", args.dtype]
            code = _MAKING.format(here=str(Path(__file__).parent), arguments=arguments, folder=path)
            subprocess.run([sys.executable, "-c", code], check=True)
        given = {"pretrained": path, "dtype": args.dtype, "batch_size": "auto", "max_model_len": 256}
        lm = load_model("vllm-moe", {**given, "max_num_seqs": args.seqs, "enforce_eager": args.eager})
        try:
            generation_task(folder, args.tokens)
            figures = {kind: measured(lm, kind, folder, args) for kind in args.kinds}
        finally:
            lm.close()
    about = {"machine": f"{os.cpu_count()}-core {platform.machine()}", "vllm": version("vllm-cpu"), **vars(args)}
    for kind, costs in figures.items():
        ratios = {
            name: [getattr(other, name) / getattr(one, name) for one, other in zip(*costs.values(), strict=True)]
            for name in ("cpu", "wall")
        }
        print(
            f"{kind}: {costs['apart'][0].batches} and {costs['together'][0].batches} batches, "
            f"{costs['apart'][0].rows} and {costs['together'][0].rows} rows"
        )
        for name, values in ratios.items():
            print(
                f"  {name} together / apart: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            )
        for way, own in costs.items():
            print(
                f"  {way}: {statistics.median(each.cpu for each in own):.1f} s of CPU, "
                f"{statistics.median(each.wall for each in own):.1f} s"
            )
    if args.json:
        found = {
            kind: {way: [vars(each) for each in own] for way, own in costs.items()} for kind, costs in figures.items()
        }
        args.json.write_text(json.dumps({"about": about, "figures": found}, indent=1, default=str), encoding="utf-8")


def measured(lm: Any, kind: str, folder: Path, args: argparse.Namespace) -> dict[str, list[Cost]]:
    """Return what each way costs, round by round."""
    content = {"version": 1, "steering": STEERING, "grid": GRID, "tasks": TASKS[kind], "controls": CONTROLS}
    file = folder / f"{kind}.yaml"
    file.write_text(yaml.safe_dump({**content, "evaluation": {"limit": args.limit}}), encoding="utf-8")
    spec, manager = load_sweep(file), task_manager(TASKS[kind], [str(folder)])
    cells, _ = cells_of(spec, lm.routing_shape)
    at_once = type(lm).plans_at_once
    plain, counted = lm._run, [0, 0]

    def run(prompts: Any, *given: Any, **named: Any) -> Any:
        counted[0] += 1
        counted[1] += len(prompts)
        return plain(prompts, *given, **named)

    lm._run = run
    costs: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for number in range(args.rounds + 1):  # the first warms up
        for way in WAYS if number % 2 else WAYS[::-1]:
            lm.plans_at_once = at_once if way == "together" else 1
            counted[:] = 0, 0
            cpu, wall = cpu_seconds(), time.perf_counter()
            out = folder / f"{kind}_{way}_{number}"
            store = RunStore(out, settings_of(spec, lm, "en"), identity_of(spec, lm, manager))
            run_sweep(spec, cells, lm, store, manager=manager, progress=False)
            cost = Cost(cpu_seconds() - cpu, time.perf_counter() - wall, *counted)
            print(f"{kind} {number} {way}: {cost}", file=sys.stderr, flush=True)
            if number:
                costs[way].append(cost)
    lm._run = plain
    return costs


if __name__ == "__main__":
    main()
