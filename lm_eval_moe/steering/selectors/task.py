"""``task``: experts that a task's text activates more often than general text does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.profiles import ProfilePath
from lm_eval_moe.steering.selectors import options
from lm_eval_moe.steering.selectors._base import Choice, ComparedNumber, Scope, Selector
from lm_eval_moe.steering.selectors._profiles import Sample, require_comparable, sample_one_language
from lm_eval_moe.steering.selectors._thresholds import difference, selected
from lm_eval_moe.yaml_values import show

__all__ = ["TaskExperts"]


@dataclass(frozen=True)
class TaskExperts(Selector):
    """``{k : Δ_k > τ}``, Δ_k = mean f_k of the task's items - mean f_k of the baseline's (arXiv 2510.04694, eq. 3).

    Every item has the same weight, however long it is. A profile of pooled counts has no items: there the mean is over
    tokens. The steering coefficients are 1.

    Attributes:
        profile: Profile of the task's text.
        baseline: Profile of general text in the same language.
        threshold: τ, a difference of activation frequencies, 0 to 1.
        language: The language to take from profiles of several; ``None`` where each holds one.
    """

    name = "task"
    citation = "arXiv:2510.04694, eq. 3"
    profile: ProfilePath = options.profile("profile of the task's text")
    baseline: ProfilePath = options.profile("profile of general text in the same language")
    threshold: float = options.number("the difference of activation frequency to exceed", 0, 1)
    language: str | None = options.language("the language to take from profiles of several", None)

    def explain(self, scope: Scope) -> list[Choice]:
        """Return the task's experts, with both frequencies."""
        on_task, on_baseline = self._frequencies(scope)
        delta = difference(on_task, on_baseline)
        choices = []
        what = "difference of activation frequency (task - baseline)"
        compared = {"task": on_task, "baseline": on_baseline, "difference": delta}
        for layer, expert, d, values in selected(scope, delta, self.threshold, what, compared):
            why = f"task {values['task']:.4f} - baseline {values['baseline']:.4f} = {d:.4f} > {self.threshold:g}"
            choices.append(Choice(layer, expert, why=why, values=values))
        return choices

    def compare(self, scope: Scope) -> ComparedNumber:
        """Return all differences."""
        return ComparedNumber(difference(*self._frequencies(scope)), "task - baseline, activation frequency", True)

    def _frequencies(self, scope: Scope) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        task = sample_one_language(scope, self.profile, self.language)
        baseline = sample_one_language(scope, self.baseline, self.language)
        require_comparable([task, baseline])
        _require_other_text(task, baseline)
        return task.activity.mean[scope.rows], baseline.activity.mean[scope.rows]


def _require_other_text(task: Sample, baseline: Sample) -> None:
    """Refuse a baseline in another language, or with items of the task."""
    if task.languages and baseline.languages and task.languages != baseline.languages:
        raise baseline.given.error(
            f"is in {', '.join(sorted(baseline.languages))}, but the task's profile in "
            f"{', '.join(sorted(task.languages))}",
            "give a baseline in the task's language: otherwise the difference is also one between languages",
        )
    both = sorted(task.keys & baseline.keys)
    if both:
        some = ", ".join(f"{benchmark} {item}" for benchmark, item in both[:3]) + (", …" if len(both) > 3 else "")
        raise baseline.given.error(
            f"holds {len(both)} of the items of {show(task.given.given)}: {some}",
            "give a baseline of other text, such as general sentences",
        )
