"""Refusing margins that no loss could exceed: mostly points written where shares are meant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lm_eval_moe.errors import UserError
from lm_eval_moe.gate.policy import Margin, Policy
from lm_eval_moe.number_text import Scale
from lm_eval_moe.results.marks import listed

__all__ = ["BaselineScore", "check_margins"]


@dataclass(frozen=True)
class BaselineScore:
    """A score of the baseline that a policy judges; ``language`` is None for a task that stands for itself."""

    benchmark: str
    language: str | None
    value: float
    is_share: bool


def check_margins(policy: Policy, scores: Iterable[BaselineScore]) -> None:
    """Check that every score could fall by more than its margin.

    Raises:
        UserError: A margin is no smaller than the baseline's score; with the file and the key.
    """
    too_large: dict[tuple[str, Margin], list[str]] = {}
    for name, margin, like in _judged(policy, list(scores)):
        if margin.hides_any_loss(like.value):
            scale = Scale(like, plain=True)
            text = f"{name} ({scale.value(like.value)}, margin {scale.size_in_words(margin.of(like.value))})"
            too_large.setdefault((margin.where or policy.source, margin), []).append(text)
    for (where, margin), names in too_large.items():
        size = f"{{relative: {margin.value:g}}}" if margin.relative else f"{margin.value:g}"
        raise UserError(
            f"a margin of {size} is no smaller than the baseline's score, so no loss would ever be a regression: "
            f"{listed(names, 5)}",
            fix="write it in the score's units (0.05 for 5 percentage points of a share), below the score, or as a "
            "share of the score ({relative: 0.1}); a language with a low score can have a margin of its own",
            where=where,
        )


def _judged(policy: Policy, scores: list[BaselineScore]) -> Iterator[tuple[str, Margin, BaselineScore]]:
    """Yield name, margin and score of everything that a policy judges, averages included."""
    for benchmark in dict.fromkeys(score.benchmark for score in scores):
        rules = policy.of(benchmark)
        if rules is None:
            continue
        benchmark_scores = [score for score in scores if score.benchmark == benchmark]
        for score in benchmark_scores:
            name = f"{benchmark} {score.language}" if score.language else benchmark
            yield name, rules.margins.of_language(score.language), score
        averaged = [score.value for score in benchmark_scores if score.language is not None]
        if len(averaged) > 1:
            mean = BaselineScore(benchmark, None, math.fsum(averaged) / len(averaged), benchmark_scores[0].is_share)
            yield f"the average of {benchmark}", rules.margins.macro, mean
