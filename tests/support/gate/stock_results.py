"""Results and samples logs on disk, in the form in which stock lm-eval writes them (XCOPA, no routing)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DATE = "2026-06-01T10-00-00.000001"


def write_stock(
    folder: Path,
    scores: Mapping[str, Sequence[float]],
    *,
    model: str = "org/model",
    samples: bool = True,
    date: str = DATE,
    **changes: Any,
) -> Path:
    """Write ``xcopa_<language>`` with these values by item; ``changes`` replace top-level keys of the results."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {lang: lang if "_" in lang else f"xcopa_{lang}" for lang in scores}
    table = {
        tasks[lang]: {
            "alias": tasks[lang],
            "acc,none": float(np.mean(values)),
            "acc_stderr,none": float(np.std(values, ddof=1) / math.sqrt(len(values))),
        }
        for lang, values in scores.items()
    }
    results = {
        "results": table,
        "group_subtasks": {},
        "configs": {task: {"task": task, "dataset_path": "xcopa", "doc_to_text": "premise"} for task in table},
        "versions": dict.fromkeys(table, 1.0),
        "n-shot": dict.fromkeys(table, 0),
        "n-samples": {tasks[lang]: {"original": 500, "effective": len(v)} for lang, v in scores.items()},
        "higher_is_better": {task: {"acc": True} for task in table},
        "config": {"model": "hf", "model_args": {"pretrained": model}, "limit": None},
        "model_name": model,
        "lm_eval_version": "0.4.13",
    }
    (folder / f"results_{date}.json").write_text(json.dumps({**results, **changes}), encoding="utf-8")
    if samples:
        for lang, values in scores.items():
            lines = [
                json.dumps(
                    {
                        "doc_id": i,
                        "doc": {"idx": 100 + i, "premise": f"{lang} {i}"},
                        "filter": "none",
                        "doc_hash": f"{lang} {i}",
                        "prompt_hash": f"p {lang} {i}",
                        "target_hash": f"t {i}",
                        "acc": float(value),
                    }
                )
                for i, value in enumerate(values)
            ]
            text = "\n".join(lines) + "\n"
            (folder / f"samples_{tasks[lang]}_{date}.jsonl").write_text(text, encoding="utf-8")
    return folder


def right(correct: int, items: int, *, wrong_first: int = 0) -> list[float]:
    """Return ``correct`` right answers among the items, after some wrong ones."""
    return [0.0] * wrong_first + [1.0] * correct + [0.0] * (items - correct - wrong_first)
