"""What capture costs in memory: peak resident memory of whole evaluations with ``hf`` and with ``hf-moe``.

The demo's arithmetic in eight languages, as often as need be, in tasks of their own: every language is compared with
English. Every figure is from a fresh process; each document keeps one record.

    python benchmarks/memory.py --documents 1440 5760 20000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

_VARIANTS = ("hf", "capture", "capture + steering", "cache")
_LABELS = {"cache": "capture, cache"}


def main() -> None:
    """Run every variant and number of documents in a process of its own, and print a table."""
    args = _arguments()
    if args.child:
        print(json.dumps(_child(args)))
        return
    rows = []
    columns = ["hf", *args.variants]
    print(f"{args.random or args.pretrained}, batches of {args.batch_size}, four choices a document, MiB\n")
    print("| documents (requests) | " + " | ".join(_LABELS.get(name, name) for name in columns) + " |")
    print("|---:|" + "---:|" * len(columns))
    for count in args.documents:
        row = {"documents": count, **{variant: _peak_of(variant, count) for variant in columns}}
        peaks = [f"{row['hf']:.0f}", *(f"{row[name]:.0f} ({row[name] - row['hf']:+.0f})" for name in args.variants)]
        print(f"| {count:,} ({4 * count:,}) | " + " | ".join(peaks) + " |", flush=True)
        rows.append(row)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _peak_of(variant: str, count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--child", variant, "--count", str(count)]
        done = subprocess.run([*command, "--folder", folder], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    peak: float = json.loads(done.stdout.splitlines()[-1])["peak_mib"]
    return peak


def _arguments() -> argparse.Namespace:
    from workload import add_model_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    counts = [1440, 5760, 20000]
    parser.add_argument("--documents", type=int, nargs="+", default=counts, help="default: 1440 5760 20000")
    parser.add_argument(
        "--variants", nargs="+", choices=_VARIANTS[1:], default=["capture"], help="beside hf (default: capture)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--child", choices=_VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(args: argparse.Namespace) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager
    from workload import build, load

    from lm_eval_moe import simple_evaluate

    model, tokenizer = load(args)
    lm = build("capture" if args.child == "cache" else args.child, model, tokenizer, args)
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
