"""What capture costs in memory: peak resident memory of whole evaluations with ``hf`` and with ``hf-moe``.

The demo's arithmetic in eight languages, as often as need be, in tasks of their own: every language is compared with
English. Every figure is from a fresh process; each document keeps one record.

    python benchmarks/memory.py --documents 1440 5760 20000

With ``--profile`` instead: what `lm-eval-moe profile` holds beside a model of 48 layers with 128 experts, which is
otherwise tiny, for so many languages of so many sentences each. Finished profiles are counted and removed.

    python benchmarks/memory.py --profile
    python benchmarks/memory.py --profile --batch_size 256 --sizes 1x2000 120x2000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import yaml

_VARIANTS = ("hf", "capture", "capture + steering", "cache")
_LABELS = {"cache": "capture, cache"}
_PROMPTS = 1440  # of the demo's arithmetic, without solved examples before them
_PROFILED = {"random": "qwen3_moe", "layers": 48, "hidden": 64, "experts": 128, "top_k": 8}


def main() -> None:
    """Run every variant and number of documents in a process of its own, and print a table."""
    args = _arguments()
    if args.child:
        print(json.dumps(_profiled(args) if args.child == "profile" else _child(args)))
        return
    rows = _profiles(args) if args.profile else _evaluations(args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _evaluations(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    columns = ["hf", *args.variants]
    print(f"{args.random or args.pretrained}, batches of {args.batch_size}, four choices a document, MiB\n")
    print("| documents (requests) | " + " | ".join(_LABELS.get(name, name) for name in columns) + " |")
    print("|---:|" + "---:|" * len(columns))
    for count in args.documents:
        row = {"documents": count, **{name: _fresh(name, "--count", str(count))["peak_mib"] for name in columns}}
        peaks = [f"{row['hf']:.0f}", *(f"{row[name]:.0f} ({row[name] - row['hf']:+.0f})" for name in args.variants)]
        print(f"| {count:,} ({4 * count:,}) | " + " | ".join(peaks) + " |", flush=True)
        rows.append(row)
    return rows


def _profiles(args: argparse.Namespace) -> list[dict[str, Any]]:
    print(f"{args.layers} layers of {args.experts} experts, batches of {args.batch_size}, MiB\n")
    print("| languages x sentences | rows | model | peak | above the model | more KiB a sentence | sentences/s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    rows: list[dict[str, Any]] = []
    for size in args.sizes:
        languages, sentences = map(int, size.split("x"))
        row = {"size": size, "sentences": languages * sentences, **_fresh("profile", "--sizes", size)}
        row["above_mib"] = row["peak_mib"] - row["model_mib"]
        further = row["sentences"] - rows[0]["sentences"] if rows else 0
        growth = f"{1024 * (row['above_mib'] - rows[0]['above_mib']) / further:.2f}" if further else ""
        print(
            f"| {languages:,} x {sentences:,} | {row['rows_mib']:,.0f} | {row['model_mib']:.0f} | "
            f"{row['peak_mib']:.0f} | {row['above_mib']:+.0f} | {growth} | {row['speed']:.0f} |",
            flush=True,
        )
        rows.append(row)
    return rows


def _fresh(child: str, *arguments: str) -> dict[str, Any]:
    """Return what a process of its own measures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *sys.argv[1:], *arguments, "--child", child, "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr or f"ended with {done.returncode}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _arguments() -> argparse.Namespace:
    from workload import add_model_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    counts = [1440, 5760, 20000]
    parser.add_argument("--documents", type=int, nargs="+", default=counts, help="default: 1440 5760 20000")
    parser.add_argument(
        "--variants", nargs="+", choices=_VARIANTS[1:], default=["capture"], help="beside hf (default: capture)"
    )
    parser.add_argument("--profile", action="store_true", help="measure `profile` instead")
    sizes = ["1x200", "1x2000", "10x200"]
    parser.add_argument(
        "--sizes", nargs="+", default=sizes, metavar="LxN", help=f"languages x sentences (default: {' '.join(sizes)})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--child", choices=(*_VARIANTS, "profile"), help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    if "--profile" in sys.argv:
        parser.set_defaults(**_PROFILED)
    return parser.parse_args()


def _child(args: argparse.Namespace) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager
    from workload import build, load

    from lm_eval_moe import simple_evaluate

    model, tokenizer = load(args)
    lm = build("capture" if args.child == "cache" else args.child, model, tokenizer, args, reuse="auto")
    names = _write_tasks(args, tokenizer)
    results = simple_evaluate(
        lm,
        tasks=names,
        task_manager=TaskManager(include_path=str(args.folder), include_defaults=False),
        use_cache=str(args.folder / "answers") if args.child == "cache" else None,
        log_samples=False,
    )
    assert results is not None
    assert sum(results["n-samples"][name]["effective"] for name in names) == args.count
    if args.child != "hf":
        assert results["routing"]["tasks"]
    return {"peak_mib": _peak_mib()}


def _profiled(args: argparse.Namespace) -> dict[str, Any]:
    from workload import build, documents, load

    from lm_eval_moe.profiles import read_profile
    from lm_eval_moe.profiling.capture import CaptureOptions, planned
    from lm_eval_moe.profiling.fields import Fields
    from lm_eval_moe.profiling.text_files import TextFile

    languages, sentences = map(int, args.sizes[0].split("x"))
    model, tokenizer = load(args)
    lm = build("capture", model, tokenizer, args, reuse="auto")
    texts = args.folder / "sentences.txt"
    # All about as long, however many they are: they come again, but never in one batch.
    requests = documents(min(sentences, _PROMPTS), tokenizer, args.length)
    prompts = [request.prompt.replace("\n", " ") for request in requests]
    texts.write_text("\n".join(islice(cycle(prompts), sentences)), encoding="utf-8")
    loaded = _peak_mib()
    sources = [TextFile(texts, f"l{number}", "memory", Fields(), limit=None) for number in range(languages)]
    jobs = planned(lm, sources, args.folder, CaptureOptions())
    del sources
    size, start = 0, time.monotonic()
    while jobs:  # as the command does
        job = jobs.pop(0)
        assert job.run()[0] == len(read_profile(job.path).items) == sentences
        size += job.path.stat().st_size
        job.path.unlink()
    speed = languages * sentences / (time.monotonic() - start)
    return {"model_mib": loaded, "peak_mib": _peak_mib(), "rows_mib": size / 2**20, "speed": speed}


def _write_tasks(args: argparse.Namespace, tokenizer: Any) -> list[str]:
    """Write a task of JSON lines a language, and return their names."""
    from workload import documents

    by_task = defaultdict(list)
    for request in documents(args.count, tokenizer, args.length):
        row = {"prompt": request.prompt, "choices": list(request.choices), "gold": request.gold}
        by_task[request.task].append(row)
    for name, rows in by_task.items():
        data = args.folder / f"{name}.jsonl"
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        config = {
            "task": f"memory_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(args.folder / "datasets")},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0, "routing": {"language": name[-2:], "benchmark": "memory", "item": "row"}},
        }
        (args.folder / f"memory_{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return [f"memory_{name}" for name in by_task]


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB elsewhere


if __name__ == "__main__":
    main()
