"""``risk_difference``: experts that one kind of input activates more often than its counterpart does."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.profiles import ProfilePath
from lm_eval_moe.steering.selectors import options
from lm_eval_moe.steering.selectors._base import Choice, ComparedNumber, Scope, Selector
from lm_eval_moe.steering.selectors._profiles import Sample, all_items, require_comparable
from lm_eval_moe.steering.selectors._thresholds import difference, meeting
from lm_eval_moe.yaml_values import YamlValue, show

if TYPE_CHECKING:
    from typing import Self

__all__ = ["RiskDifference"]

Direction = Literal["positive", "negative", "both"]
DIRECTIONS: tuple[Direction, ...] = ("positive", "negative", "both")
MAX_TOP = 1_000_000


@dataclass(frozen=True)
class RiskDifference(Selector):
    """The largest ``|RD_k|``, ``RD_k = P(k active | A) - P(k active | B)`` over paired inputs (arXiv 2509.09660).

    P is the activation count over the tokens of all paired items together, as in the released code; items without a
    partner are left out. Profiles of pooled counts are compared as they are. Of one layer's experts with a positive
    RD at most K are taken, the largest: more cannot be active at once. As in the released code, others do not move up
    in their place. The steering coefficients are 1, and -1 for a negative RD where both directions are taken, so that
    ``proportional`` promotes the ones and demotes the others.

    Attributes:
        profile_a: Profile of the inputs A.
        profile_b: Profile of their counterparts B, with the same benchmark and item keys.
        top: How many experts to take over all layers of the intervention, or
        threshold: what ``|RD|`` must exceed, 0 to 1; exactly one of the two is given.
        direction: ``positive``: experts to activate for the behaviour of A; ``negative``: those to deactivate for it;
            ``both``.
    """

    name = "risk_difference"
    citation = "arXiv:2509.09660"
    profile_a: ProfilePath = options.profile("profile of the inputs A")
    profile_b: ProfilePath = options.profile("profile of their counterparts B")
    top: int | None = options.integer("how many experts to take, instead of a threshold", 1, MAX_TOP, None)
    threshold: float | None = options.number("the absolute RD to exceed", 0, 1, None)
    direction: Direction = options.choice("positive (default), negative or both", DIRECTIONS, "positive")

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read ``{profile_a: …, profile_b: …, top: 20, direction: positive}``, or ``threshold`` instead of ``top``."""
        rule = super().parse(field)
        if (rule.top is None) == (rule.threshold is None):
            problem = "neither `top` nor `threshold`" if rule.top is None else "both `top` and `threshold` are given"
            raise field.error(problem, "give one: `top: 20`, a number of experts, or `threshold: 0.1`, a minimum |RD|")
        return rule

    def explain(self, scope: Scope) -> list[Choice]:
        """Return the experts, with both probabilities and their rank."""
        on_a, on_b = self._frequencies(scope)
        risk = difference(on_a, on_b)
        strength, what, sign = {
            "positive": (risk, "RD", "above"),
            "negative": (-risk, "-RD", "below"),
            "both": (np.abs(risk), "|RD|", "other than"),
        }[self.direction]
        if self.threshold is not None:
            experts = meeting(scope, strength, self.threshold, what)
        else:
            experts = [(row, expert) for row, expert in np.argwhere(strength > 0).tolist()]
        # Of equal ones the lower layer goes first, then the lower expert.
        ranked = sorted(experts, key=lambda at: -strength[at])
        if self.top is not None:
            if len(ranked) < self.top:
                raise (scope.place / "top").error(
                    f"`top` is {self.top}, but only {len(ranked)} experts have an RD {sign} 0",
                    "lower `top`, or widen `layers`" if ranked else "give other profiles, or widen `layers`",
                )
            ranked = ranked[: self.top]
        choices = []
        for rank, (row, expert) in _at_most_active(ranked, risk, scope.shape.top_k):
            a, b, rd = float(on_a[row, expert]), float(on_b[row, expert]), float(risk[row, expert])
            why = f"A {a:.4f} - B {b:.4f} = {rd:+.4f}: number {rank} of {len(ranked)}"
            coefficient = -1.0 if self.direction == "both" and rd < 0 else 1.0
            values = {"a": a, "b": b, "difference": rd}
            choices.append(Choice(scope.layers[row], expert, coefficient, why, values))
        return sorted(choices, key=lambda choice: (choice.layer, choice.expert))

    def compare(self, scope: Scope) -> ComparedNumber:
        """Return all risk differences."""
        risk = difference(*self._frequencies(scope)) + 0.0  # no negative zeros
        return ComparedNumber(risk, "P(selected, A) - P(selected, B)", True)

    def _frequencies(self, scope: Scope) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        first, second = _paired(scope, self.profile_a, self.profile_b)
        return first.activity.pooled[scope.rows], second.activity.pooled[scope.rows]


def _at_most_active(
    ranked: list[tuple[int, int]], risk: NDArray[np.float64], top_k: int
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield rank, row and expert, leaving out what would be the K+1st expert of a layer to activate."""
    active: Counter[int] = Counter()
    for rank, at in enumerate(ranked, 1):
        active[at[0]] += bool(risk[at] > 0)
        if risk[at] <= 0 or active[at[0]] <= top_k:
            yield rank, at


def _paired(scope: Scope, a: ProfilePath, b: ProfilePath) -> tuple[Sample, Sample]:
    """Return the items of both profiles that have a partner.

    Raises:
        UserError: A profile cannot be used, an item is there twice, or there are no pairs.

    Warns:
        RoutingWarning: Some items have none.
    """
    first, second = samples = [all_items(scope, source) for source in (a, b)]
    require_comparable(samples)
    if first.pooled and second.pooled:
        return first, second
    if first.pooled or second.pooled:
        pooled, itemised = (first, second) if first.pooled else (second, first)
        raise pooled.given.error(
            f"pools its items, but {show(itemised.given.given)} does not: they cannot be paired",
            "give two profiles with items, or two of pooled counts",
        )
    # One language against another is a pair as well; where a profile has several, each has its own.
    with_language = not len(first.profile.languages()) == len(second.profile.languages()) == 1
    rows_a, rows_b = (_rows_by_key(sample, with_language) for sample in samples)
    common = rows_a.keys() & rows_b.keys()
    if not common:
        raise b.error(
            f"has no item in common with {show(a.given)}: {_example(rows_b)} against {_example(rows_a)}",
            "give profiles of the same items, such as those of two tasks with the same benchmark and item keys",
        )
    if len(common) < len(rows_a) or len(common) < len(rows_b):
        warnings.warn(
            f"{scope.place.where}: of {len(rows_a)} and {len(rows_b)} items, {len(common)} are in both profiles; only "
            "those are compared",
            RoutingWarning,
            stacklevel=2,
        )
    return (
        replace(first, rows=tuple(rows_a[key] for key in common)),
        replace(second, rows=tuple(rows_b[key] for key in common)),
    )


def _rows_by_key(sample: Sample, with_language: bool) -> dict[tuple[str, ...], int]:
    rows: dict[tuple[str, ...], int] = {}
    for row, item in enumerate(sample.profile.items):
        key = (item.benchmark, item.item, *((item.language,) if with_language else ()))
        if key in rows:
            tasks = sorted({sample.profile.items[rows[key]].task, item.task})
            raise sample.given.error(
                f"holds the item {' '.join(key)} twice (tasks {', '.join(tasks)})", "give a profile of one task"
            )
        rows[key] = row
    return rows


def _example(rows: dict[tuple[str, ...], int]) -> str:
    return f"{len(rows)} items like {' '.join(next(iter(rows)))!r}"
