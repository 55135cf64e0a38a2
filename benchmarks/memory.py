"""What capture costs in memory: peak resident memory of ``hf`` and ``hf-moe`` over the same requests.

Every figure is from a fresh process. Each document keeps one record; this shows how much that is, and with ``--length``
that it does not grow with the tokens.

    python benchmarks/memory.py --documents 1440 5760 23040
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

_VARIANTS = ("hf", "capture")


def main() -> None:
    """Run every variant and number of documents in a process of its own, and print a table."""
    args = _arguments()
    if args.child:
        print(json.dumps(_child(args)))
        return
    rows = []
    for count in args.documents:
        found = {}
        for variant in _VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", variant, "--count", str(count)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found[variant] = json.loads(done.stdout.splitlines()[-1])
        rows.append({"documents": count, **found})
    print(f"{args.random or args.pretrained}, batches of {args.batch_size}, four choices a document, MiB\n")
    print("| documents | hf peak | capture peak | difference | records of a document, KiB |")
    print("|---|---|---|---|---|")
    for row in rows:
        hf, capture = (row[variant]["peak_mib"] for variant in _VARIANTS)
        kept = row["capture"]["record_bytes"] / 1024
        print(f"| {row['documents']} | {hf:.1f} | {capture:.1f} | {capture - hf:+.1f} | {kept:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    from workload import add_model_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument(
        "--documents", type=int, nargs="+", default=[1440, 5760, 23040], help="default: 1440 5760 23040"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--child", choices=_VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(args: argparse.Namespace) -> dict[str, Any]:
    from workload import build, documents, likelihood_instances, load, record_gold

    model, tokenizer = load(args)
    lm = build(args.child, model, tokenizer, args)
    chosen = documents(args.count, tokenizer, args.length)
    instances = likelihood_instances(chosen)
    before = _peak_mib()
    record_gold(lm, chosen)
    lm.loglikelihood(instances, disable_tqdm=True)
    kept = getattr(lm, "records", {})
    arrays = [value for parts in kept.values() for part in parts for value in vars(part).values()]
    size = sum(getattr(value, "nbytes", 0) for value in arrays)
    return {
        "peak_mib": _peak_mib(),
        "before_mib": before,
        "records": len(kept),
        "record_bytes": size / max(len(kept), 1),
    }


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB elsewhere


if __name__ == "__main__":
    main()
