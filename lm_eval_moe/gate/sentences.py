"""What the gate found, in one sentence a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lm_eval_moe.gate.evidence import Evidence
from lm_eval_moe.gate.policy import Policy
from lm_eval_moe.number_text import Scale, p_text, per_cent
from lm_eval_moe.statistics import is_beyond_chance
from lm_eval_moe.statistics.judgement import Drop

__all__ = ["ScoreFinding", "drift_sentence", "score_sentence"]


class ScoreFinding(NamedTuple):
    """What was found of a score.

    Attributes:
        sentence: In words.
        regression: Whether it is a regression.
        within: Whether the drop is shown to be within the margin.
        beyond: Whether the drop is beyond chance; with ``test: margin``, what of it exceeds the margin.
    """

    sentence: str
    regression: bool
    within: bool
    beyond: bool


def score_sentence(
    policy: Policy, drop: Drop, margin: float, adjusted: float | None, tests: int, like: Evidence, items: str
) -> ScoreFinding:
    """Say what was found of a score.

    Args:
        policy: The policy.
        drop: The drop.
        margin: The margin in the score's units.
        adjusted: The corrected p; None outside of the family.
        tests: How many tests were corrected for.
        like: Evidence of the same metric.
        items: What the drop rests on, in words.
    """
    scale = Scale(like, plain=True)
    beyond = is_beyond_chance(drop.p if adjusted is None else adjusted, policy.alpha) and drop.value > 0
    regression = beyond and drop.value > margin
    identical = drop.worse == 0 and drop.better == 0
    within = not regression and (identical or (drop.upper is not None and drop.upper <= margin))
    if identical:
        return ScoreFinding(f"no score changed ({items})", False, True, False)
    word = "fell" if (drop.value > 0) == like.higher_is_better else "rose"
    moved = f"{word} by {scale.size_in_words(abs(drop.value))}" if drop.value else "did not move on average"
    tolerated = f"the margin of {scale.size_in_words(margin)}"
    why = _why(drop, adjusted, tests, items)
    if regression:
        how = "beyond chance and more than" if policy.test == "drop" else "beyond chance more than"
        return ScoreFinding(f"{moved}, {how} {tolerated}: {why}", True, False, True)
    most = "an unknown amount" if drop.upper is None else scale.size_in_words(max(drop.upper, 0.0))
    if within:
        sure = f"with {per_cent(1 - policy.alpha)} confidence it is worse by at most {most}"
        moved += f", beyond chance ({why})" if beyond else ""
        return ScoreFinding(f"{moved}; {sure}, within {tolerated}", False, True, beyond)
    if beyond:
        moved += f", beyond chance but not more than {tolerated} ({why})"
    elif drop.value > 0:
        about = "may be chance" if policy.test == "drop" else f"is not beyond chance more than {tolerated}"
        moved += f", which {about} ({why})"
    unsure = f"{items} cannot rule out a loss of up to {most}, more than {tolerated}"
    return ScoreFinding(f"{moved}; {unsure}", False, False, beyond)


def _why(drop: Drop, adjusted: float | None, tests: int, items: str) -> str:
    basis = "by the standard errors alone, not item by item"
    if drop.worse is not None:
        basis = f"of {items} {drop.worse} scored lower and {drop.better} higher"
    if drop.p is None:
        return basis
    corrected = f" ({p_text(adjusted)} corrected for {tests} tests)" if adjusted is not None and tests > 1 else ""
    return f"{basis}, {p_text(drop.p)}{corrected}"


def drift_sentence(means: Mapping[str, float], limits: Mapping[str, float], items: int) -> str:
    """Return how far the routing moved, by band."""
    parts = []
    for band, mean in means.items():
        exceeded = ", exceeded" if mean > limits[band] else ""
        parts.append(f"{mean:.3f} in the {band} layers (limit {limits[band]:g}{exceeded})")
    return f"the routing of the same {items} items moved by {', '.join(parts)}"
