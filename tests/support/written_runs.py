"""Writes results files and samples logs by hand, as lm-eval lays them out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = "2026-03-01T10-00-00.000001"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sem(values: Sequence[float]) -> float:
    """Return the standard error of a mean by its definition."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def write_run(
    folder: Path,
    scores: Mapping[str, Sequence[float]],
    *,
    date: str = DATE,
    name: str = "results",
    model: str = "org/model",
    steering: str | None = None,
    benchmark: str = "mgsm_direct",
    metric: str = "exact_match",
    filters: Sequence[str] = ("flexible-extract",),
    divergence: Mapping[str, Sequence[float]] | None = None,
    samples: bool = True,
    prompt: str = "Question: ",
    version: float = 3.0,
    few_shot: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run and its logs; return the path of the results file. Item i is the same in every language."""
    folder.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {}
    hashes = {}
    for lang, values in scores.items():
        task = f"{benchmark}_{lang}" if lang else benchmark
        content, lines = [], []
        table[task] = {"alias": task}
        for each in filters:
            table[task] |= {f"{metric},{each}": sum(values) / len(values), f"{metric}_stderr,{each}": sem(values)}
            for doc_id, value in enumerate(values):
                parts = {
                    "doc_hash": sha(f"{lang} {doc_id}"),
                    "prompt_hash": sha(f"{prompt}{lang} {doc_id}"),
                    "target_hash": sha(str(doc_id)),
                }
                content += parts.values()
                sample = {"doc_id": doc_id, "doc": {"question": f"{lang} {doc_id}"}, "target": str(doc_id)}
                sample |= {"filter": each, "metrics": [metric], **parts, metric: value}
                if divergence and lang in divergence and each == filters[0]:
                    sample["routing_divergence"] = divergence[lang][doc_id]
                lines.append(json.dumps(sample, ensure_ascii=False))
        if divergence and lang in divergence:
            table[task]["routing_divergence,none"] = sum(divergence[lang]) / len(divergence[lang])
            table[task]["routing_divergence_stderr,none"] = sem(divergence[lang])
        hashes[task] = sha("".join(content))
        if samples:
            (folder / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tasks = {f"{benchmark}_{lang}" if lang else benchmark: values for lang, values in scores.items()}
    results: dict[str, Any] = {
        "results": table,
        "configs": {task: {"task": task, "doc_to_text": "{{question}}", "metadata": {"version": 1}} for task in tasks},
        "versions": dict.fromkeys(tasks, version),
        "n-shot": dict.fromkeys(tasks, few_shot),
        "n-samples": {task: {"original": 250, "effective": len(values)} for task, values in tasks.items()},
        "higher_is_better": {task: {metric: True} for task in tasks},
        "config": {"model": "hf", "model_args": {"pretrained": model}, "limit": None},
        "lm_eval_version": "0.4.13",
        "task_hashes": hashes if samples else {},
        "model_source": "hf",
        "model_name": model,
        "system_instruction_sha": None,
        "chat_template_sha": None,
    }
    if divergence is not None or steering is not None:
        results["routing"] = {
            "schema_version": 1,
            "reference": "en",
            "capture": "prompt",
            "steering": {"name": steering, "hash": sha(steering), "spec": {}} if steering else None,
            "tasks": {
                f"{benchmark}_{lang}": {"language": lang, "benchmark": benchmark, "curves": {}} for lang in scores
            },
        }
    results |= changes or {}
    path = folder / (f"{name}_{date}.json" if date else f"{name}.json")
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


def amend(path: Path, *, tasks: Mapping[str, Mapping[str, Any]] | None = None, **routing: Any) -> Path:
    """Add to the ``routing`` object of a written run, and to its entries of some tasks; return the path."""
    results = json.loads(path.read_text(encoding="utf-8"))
    results["routing"] |= routing
    for task, entry in (tasks or {}).items():
        results["routing"]["tasks"][task] |= entry
    path.write_text(json.dumps(results), encoding="utf-8")
    return path
