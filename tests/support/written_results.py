"""A small results dict written by hand, in the form that `simple_evaluate` returns, and a reader of pages."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np

SHAPE = {
    "layers": [0, 1, 2, 3, 4, 5, 6, 7],
    "experts": 16,
    "top_k": 2,
    "depth": 8,
    "bands": {"early": [0, 1], "middle": [2, 3, 4, 5], "late": [6, 7]},
}
RANDOM = {"version": 1, "name": "r", "interventions": [{"layers": "middle", "experts": {"random": {"seed": 1}}}]}
CHOSEN = {"version": 1, "name": "c", "interventions": [{"layers": "middle", "experts": {"ids": {"2": [1, 5]}}}]}

BASELINE = {
    "en": [1, 1, 1, 1, 1, 0, 1, 1, 1, 1],
    "de": [1, 1, 1, 0, 1, 0, 1, 1, 1, 1],
    "sw": [0, 1, 0, 0, 1, 0, 1, 0, 1, 0],
    "zh": [0, 1, 1, 0, 1, 0, 0, 0, 1, 1],
    "tr": [0, 1, 1, 0, 0, 0, 1, 0, 1, 1],
}
STEERED = {**BASELINE, "sw": [1, 1, 1, 0, 1, 0, 1, 0, 1, 0], "zh": [0, 1, 0, 0, 1, 0, 0, 0, 1, 1]}
DIVERGENCE = {"de": 0.2, "zh": 0.45, "tr": 0.35, "sw": 0.4}


def results_of(
    scores: Mapping[str, Sequence[float]], *, steering: Mapping[str, Any] | None = None, shift: float = 0.0
) -> dict[str, Any]:
    """Return the results of a benchmark ``sums`` with these scores by language; item i is the same everywhere."""
    table: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    routing: dict[str, Any] = {}
    for lang, values in scores.items():
        task, divergence = f"sums_{lang}", DIVERGENCE.get(lang)
        at = [divergence + shift + 0.01 * (-1) ** i for i in range(len(values))] if divergence is not None else None
        table[task] = {"alias": task, "acc,none": float(np.mean(values)), "acc_stderr,none": stderr(values)}
        curves = {"entropy": [0.9] * 8}
        if at is not None:
            table[task] |= {
                "routing_divergence,none": float(np.mean(at)),
                "routing_divergence_stderr,none": stderr(at),
            }
            curves["divergence"] = [divergence + 0.02 * abs(layer - 3) for layer in range(8)]
        samples[task] = [
            {
                "doc_id": i,
                "doc": {"item_id": f"item-{i}"},
                "doc_hash": f"{lang}{i}",
                "filter": "none",
                "acc": float(value),
                **({"routing_divergence": at[i]} if at is not None else {}),
            }
            for i, value in enumerate(values)
        ]
        routing[task] = {
            "language": lang,
            "benchmark": "sums",
            "reference": "en" if at is not None else None,
            "documents": len(values),
            "tokens": 100,
            "curves": curves,
        }
    plan = steering and {"name": steering["name"], "hash": "ab" * 32, "spec": dict(steering), "experts": {"2": [1, 5]}}
    metadata = {lang: {"language": lang, "benchmark": "sums", "item": "item_id"} for lang in scores}
    return copy.deepcopy(
        {
            "results": table,
            "group_subtasks": {},
            "configs": {f"sums_{lang}": {"metadata": {"version": 1, "routing": metadata[lang]}} for lang in scores},
            "versions": dict.fromkeys(table, 1.0),
            "n-shot": dict.fromkeys(table, 0),
            "n-samples": {f"sums_{k}": {"original": 99, "effective": len(v)} for k, v in scores.items()},
            "higher_is_better": {task: {"acc": True} for task in table},
            "config": {"model": "hf-moe", "model_args": {"pretrained": "some/model"}, "limit": None},
            "lm_eval_version": "0.4.13",
            "date": 1_700_000_000.0,
            "samples": samples,
            "routing": {
                "schema_version": 1,
                "lm_eval_moe_version": "0.1.0",
                "model_shape": SHAPE,
                "capture": "prompt",
                "reference": "en",
                "steering": plan,
                "tasks": routing,
            },
        }
    )


def stderr(values: Sequence[float]) -> float:
    """Return the standard error of a mean."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


class PageReader(HTMLParser):
    """Collects what a page shows: its tables, its text outside of styles and figures, its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.captions = 0
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("style", "svg", "td", "th", "caption"):
            self._inside.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.captions += tag == "caption"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._inside or "svg" in self._inside:
            return
        self.text += data
        if self._inside and self._inside[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def row(self, name: str, table: int = 0) -> list[str]:
        """Return the cells of the row of a table that begins with a name."""
        return next(row for row in self.tables[table] if row and row[0].startswith(name))
