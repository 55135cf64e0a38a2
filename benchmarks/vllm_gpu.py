"""Parity and throughput of ``vllm-moe`` on one GPU, in under ten minutes, without network: random weights, real shapes.

Parity: prompts are read by the engine in eager mode, compiled, and compiled with CUDA graphs; the experts they select
are compared with each other, and with what plain vLLM says itself where it can (``enable_return_routed_experts``).
Random weights in bfloat16 have near-ties, so that a few selections differ between kernels; that a token is lost, or
counted twice, is seen exactly from the number of selections.

Throughput: reading prompts, decoding, and few-shot log-likelihood; plain vLLM and ours take turns, both compiled with
graphs and the prefix cache on, each with a part of the memory; then hf-moe, on fewer requests. Stages for which no time
is left are named, not run.

    bash benchmarks/vllm_gpu.sh --json figures.json
    bash benchmarks/vllm_gpu.sh --tiny --eager   # a tiny model, also on a CPU: that the script itself works
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from random_models import SHAPES, Shape, write_model
from vllm_side import Side, SideError
from vllm_work import Work, decoding, fewshot, prefill, steering

ACTIONS: dict[str, Any] = {
    "soft": {"soft": 0.5},
    "activate": "activate",
    "proportional": {"proportional": 0.3},
    "mask": "mask",
}
VARIANTS = ("vllm", "nothing active", "capture", *(f"capture + {action}" for action in ACTIONS))
WITHOUT_GRAPHS = {"compilation_config": {"cudagraph_mode": "NONE"}}


@dataclass
class Figures:
    """What was found of one model.

    Attributes:
        seconds: By work and variant.
        tokens: By work and variant, of one run.
        parity: By engine, against our engine with graphs: the share of selections that differ, and lost tokens.
        problems: What failed, and how.
        left_out: What was not run, and why.
    """

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    tokens: dict[str, dict[str, int]] = field(default_factory=dict)
    parity: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Bench:
    """The measurement of one model.

    Args:
        name: Of its shape.
        args: The command's.
        folder: Where the model and the logs are.
        until: When to start nothing more, by ``time.monotonic``.
    """

    def __init__(self, name: str, args: argparse.Namespace, folder: Path, until: float) -> None:
        self.name, self.args, self.folder, self.until = name, args, folder, until
        self.shape: Shape = SHAPES[name]
        self.figures = Figures()
        self.machine: dict[str, Any] = {}
        dtype = "float32" if args.tiny else "bfloat16"  # on a CPU, where --tiny may run, 16 bits are slow
        self.model = write_model(folder / "model", self.shape, dtype=dtype, device=args.device)
        small = args.tiny
        self.works = {
            "reading prompts": prefill(self.model, 4 if small else 128),
            "decoding": decoding(self.model, 4 if small else 64, 8 if small else 128),
            "log-likelihood": fewshot(self.model, 2 if small else 96),
        }
        self.checked = prefill(self.model, 4 if small else 32, shots=8)
        self.arguments = {"pretrained": str(self.model), "dtype": dtype, "max_model_len": 1024}
        self.arguments |= {"enable_prefix_caching": True, "max_num_seqs": 16 if small else 256}

    def run(self) -> None:
        """Run all stages that there is time for."""
        counts = self._turns()
        for name, model, arguments in (
            ("vLLM's own word", "vllm", {"enable_return_routed_experts": True}),
            ("eager", "vllm-moe", {"enforce_eager": True}),
            ("compiled, no graphs", "vllm-moe", WITHOUT_GRAPHS),
        ):
            if self.args.device == "cpu" and name != "eager":
                self.figures.left_out.append(f"{name}: needs a GPU")
            elif counts and self._in_time(name):
                self._compare(name, model, arguments, counts)
        if self._in_time("hf-moe"):
            self._hf()

    def _in_time(self, what: str) -> bool:
        if time.monotonic() < self.until:
            return True
        self.figures.left_out.append(f"{what}: no time was left")
        return False

    def _side(self, model: str, memory: float, environment: Mapping[str, str] | None = None, **arguments: Any) -> Side:
        if self.args.device != "cpu":
            arguments["gpu_memory_utilization"] = memory
        return Side(model, {**self.arguments, **arguments}, self.folder / "log", environment)

    def _turns(self) -> Mapping[str, Any]:
        """Measure plain vLLM and ours in turns; return the counts of the prompts for parity."""
        eager = {"enforce_eager": True} if self.args.eager else {}
        plain, own = self._side("vllm", 0.42, **eager), None
        try:
            if self.args.device != "cpu":  # each looks at how much memory is free while it starts
                plain.started()
            own = self._side("vllm-moe", 0.42, **eager)
            self.machine = own.started()
            sides = {name: plain if name == "vllm" else own for name in VARIANTS}
            for kind, work in self.works.items():
                self._measure(kind, work, {name: (sides[name], self._asked(name, work)) for name in VARIANTS})
            return self._counts(own)
        except SideError as error:
            self._failed("vllm and vllm-moe", error)
            return {}
        finally:
            plain.end()
            if own is not None:
                own.end()

    def _measure(self, kind: str, work: Work, variants: Mapping[str, tuple[Side, dict[str, Any]]]) -> None:
        for side, asked in variants.values():  # warms up, too
            side.ask(**asked)
        seconds = self.figures.seconds.setdefault(kind, {})
        names = list(variants)
        for number in range(self.args.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                side, asked = variants[name]
                seconds.setdefault(name, []).append(side.ask(**asked)["seconds"])
        self.figures.tokens.setdefault(kind, {}).update(dict.fromkeys(names, work.tokens))

    def _asked(self, variant: str, work: Work) -> dict[str, Any]:
        if variant == "vllm":
            return work.asked()
        if variant == "nothing active":
            return work.asked("off")
        action = ACTIONS.get(variant.removeprefix("capture + "))
        spec = steering(self.shape.layers, self.shape.experts, action) if action else None
        return work.asked(work.span, spec)

    def _counts(self, side: Side) -> dict[str, Any]:
        told = side.ask(**self.checked.asked("prompt", counts=True))
        return {str(key): counts for key, counts in told["counts"]}

    def _compare(self, name: str, model: str, arguments: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
        # What reports experts is the second of vLLM's two model runners.
        environment = {"VLLM_USE_V2_MODEL_RUNNER": "1"} if model == "vllm" else {}
        side = self._side(model, 0.85, environment, **arguments)
        try:
            if model == "vllm":
                texts = [given[0] for *_, given in self.checked.requests]
                told = side.ask(oracle=True, texts=texts, experts=self.shape.experts)["counts"]
                keys = [str([task, doc, idx]) for task, doc, idx, _ in self.checked.requests]
                other = dict(zip(keys, told, strict=True))
            else:
                other = self._counts(side)
            self.figures.parity[name] = _differences(counts, other)
        except SideError as error:
            self._failed(name, error)
        finally:
            side.end()

    def _hf(self) -> None:
        arguments = {name: self.arguments[name] for name in ("pretrained", "dtype")}
        side = Side("hf-moe", {**arguments, "device": self.args.device, "batch_size": 16}, self.folder / "log")
        small = self.args.tiny
        works = {
            "reading prompts": prefill(self.model, 4 if small else 32),
            "decoding": decoding(self.model, 4 if small else 16, 8 if small else 32),
            "log-likelihood": fewshot(self.model, 2 if small else 16),
        }
        try:
            for kind, work in works.items():
                spec = steering(self.shape.layers, self.shape.experts, ACTIONS["soft"])
                asked = work.for_transformers().asked(work.span, spec)
                self._measure(kind, work, {"hf-moe, capture + soft": (side, asked)})
        except SideError as error:
            self._failed("hf-moe", error)
        finally:
            side.end()

    def _failed(self, what: str, error: SideError) -> None:
        self.figures.problems.append(f"{what}: {error}")


def _differences(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of selections that differ, and how many more one side has."""
    import numpy as np

    if own.keys() != other.keys():
        raise SystemExit(f"the records are of other requests: {sorted(own)[:2]}.. and {sorted(other)[:2]}..")
    pairs = [(np.array(own[key]), np.array(other[key])) for key in own]
    total = sum(int(mine.sum()) for mine, _ in pairs)
    differing = sum(int(np.abs(mine - its).sum()) for mine, its in pairs) / 2
    lost = sum(int(np.abs(mine.sum(-1) - its.sum(-1)).sum()) for mine, its in pairs)
    return {"differing": differing / total, "lost": lost}


def main() -> None:
    """Measure, write the JSON and print the tables."""
    args = _arguments()
    until = time.monotonic() + args.minutes * 60
    report: dict[str, Any] = {"models": {}, "date": time.strftime("%Y-%m-%d"), "left_out": []}
    for name in ["tiny"] if args.tiny else args.models:
        if time.monotonic() >= until:
            report["left_out"].append(name)
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(name, args, Path(folder), until)
            bench.run()
        report["machine"] = bench.machine or report.get("machine")
        report["models"][name] = {"layers": bench.shape.layers, **vars(bench.figures)}
        _print(name, bench.shape, bench.figures)
        args.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
    print(f"\n{report.get('machine')}\nwritten: {args.json}")
    if report["left_out"]:
        print(f"no time was left for {', '.join(report['left_out'])}")
    if any(model["problems"] for model in report["models"].values()):
        raise SystemExit(1)


def _arguments() -> argparse.Namespace:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    real = [name for name in SHAPES if name not in ("tiny", "162M")]
    parser.add_argument("--models", nargs="+", default=real, choices=real, help="default: all, in this order")
    parser.add_argument("--tiny", action="store_true", help="a tiny model instead")
    parser.add_argument("--eager", action="store_true", help="compile nothing, which starts faster and says less")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: 3)")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which no stage starts (default: 8.5)")
    parser.add_argument(
        "--json", type=Path, default=Path("vllm_gpu.json"), metavar="FILE", help="default: vllm_gpu.json"
    )
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.device == "cpu" and not args.tiny:
        parser.error("there is no GPU here; --tiny runs the script on a CPU")
    return args


def _print(name: str, shape: Shape, figures: Figures) -> None:
    kinds = list(figures.seconds)
    print(f"\n{name}, {shape.layers} layers; tokens/s (share of plain vLLM's)\n")
    rows = list(dict.fromkeys(variant for kind in kinds for variant in figures.seconds[kind]))
    _table(["variant", *kinds], [[row, *(_rate(figures, kind, row) for kind in kinds)] for row in rows])
    if figures.parity:
        print("\nselections that differ from our engine's with graphs\n")
        found = [[who, f"{100 * each['differing']:.3f} %", str(each["lost"])] for who, each in figures.parity.items()]
        _table(["engine", "differing", "lost"], found)
    for what in figures.left_out:
        print(f"not run: {what}")
    for problem in figures.problems:
        print(f"failed: {problem}")


def _rate(figures: Figures, kind: str, variant: str) -> str:
    seconds = figures.seconds[kind].get(variant)
    if not seconds:
        return "-"
    rate = figures.tokens[kind][variant] / statistics.median(seconds)
    base = figures.seconds[kind].get("vllm")
    share = ""
    if base and variant != "vllm":
        plain = figures.tokens[kind]["vllm"] / statistics.median(base)
        share = f" ({rate / plain:.2f})"
    return f"{rate:,.0f}{share}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for number, row in enumerate((head, *rows)):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if not number:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|", flush=True)


if __name__ == "__main__":
    main()
