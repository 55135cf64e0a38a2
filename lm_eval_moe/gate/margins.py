"""Refusing margins that no loss could exceed: mostly points written where shares are meant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lm_eval_moe.errors import UserError
from lm_eval_moe.gate.policy import Margin, Policy
from lm_eval_moe.gate.sentences import amount, score

__all__ = ["BaselineScore", "check_margins"]

_SHOWN = 5


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
    for name, margin, value, is_share in _judged(policy, list(scores)):
        if margin.hides_any_loss(value):
            text = f"{name} ({score(value, is_share)}, margin {amount(margin.of(value), is_share)})"
            too_large.setdefault((margin.where or policy.source, margin), []).append(text)
    for (where, margin), names in too_large.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        given = f"{{relative: {margin.value:g}}}" if margin.relative else f"{margin.value:g}"
        raise UserError(
            f"a margin of {given} is no smaller than the baseline's score, so that no loss would be a regression: "
            f"{', '.join(names[:_SHOWN])}{more}",
            fix="write it in the score's units (0.05 for 5 points of a share), below the score, or as a share of the "
            "score ({relative: 0.1}); a language with a low score can have a margin of its own",
            where=where,
        )


def _judged(policy: Policy, scores: list[BaselineScore]) -> Iterator[tuple[str, Margin, float, bool]]:
    """Yield name, margin and score of everything that a policy judges, averages included."""
    for benchmark in dict.fromkeys(each.benchmark for each in scores):
        rules = policy.of(benchmark)
        if rules is None:
            continue
        own = [each for each in scores if each.benchmark == benchmark]
        for each in own:
            name = f"{benchmark} {each.language}" if each.language else benchmark
            yield name, rules.margins.of_language(each.language), each.value, each.is_share
        averaged = [each.value for each in own if each.language is not None]
        if len(averaged) > 1:
            mean = math.fsum(averaged) / len(averaged)
            yield f"the average of {benchmark}", rules.margins.macro, mean, own[0].is_share
