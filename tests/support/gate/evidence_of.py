"""Evidence and policies written by hand."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from lm_eval_moe.gate.evidence import Evidence
from lm_eval_moe.gate.judge import judge
from lm_eval_moe.gate.policy import Policy, parse_policy
from lm_eval_moe.gate.verdict import Verdict, VerdictLine
from lm_eval_moe.statistics import Estimate

TODAY = datetime.date(2026, 6, 15)


def policy(language: Any = 0.05, macro: Any = 0.03, **settings: Any) -> Policy:
    given = {"version": 1, "margins": {"language": language, "macro": macro}, "minimum_items": 10, **settings}
    return parse_policy(given, "p.yaml")


def changes(worse: int, better: int, items: int) -> list[float]:
    """Return losses: the first items got worse, the next better, the rest stay."""
    return [1.0] * worse + [-1.0] * better + [0.0] * (items - worse - better)


def evidence(language: str | None, values: list[float], score: float = 0.8, **fields: Any) -> Evidence:
    loss = float(np.mean(values)) * (-1 if fields.get("higher_is_better") is False else 1)
    name = language or "alone"
    given: dict[str, Any] = {
        "benchmark": "sums" if language else "alone",
        "language": language,
        "task": f"sums_{name}",
        "before": Estimate(score, 0.02),
        "after": Estimate(score - loss, 0.02),
        "items": len(values),
        "losses": list(enumerate(values)),
        "named": True,
    }
    return Evidence(**{**given, **fields})


def verdict_of(given: Policy, *found: Evidence, **more: Any) -> Verdict:
    return judge(given, found, today=TODAY, **more)


def line_of(verdict: Verdict, name: str) -> VerdictLine:
    (line,) = (line for line in verdict.lines if line.name == name)
    return line
