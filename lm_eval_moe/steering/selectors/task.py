"""``task``: experts that a task's text activates more often than general text does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.checked_fields import Field, show
from lm_eval_moe.profiles import ProfilePath
from lm_eval_moe.steering.language_filter import parse_language
from lm_eval_moe.steering.selectors._base import Choice, Scope, Selector
from lm_eval_moe.steering.selectors._differences import difference
from lm_eval_moe.steering.selectors._nothing import nothing_selected
from lm_eval_moe.steering.selectors._profiles import Sample, parse_profile, require_comparable, sample_one_language

if TYPE_CHECKING:
    from typing_extensions import Self

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
    profile: ProfilePath
    baseline: ProfilePath
    threshold: float
    language: str | None = None

    @classmethod
    def parse(cls, field: Field) -> Self:
        """Read ``{profile: …, baseline: …, threshold: 0.4}``."""
        fields = field.keys(["profile", "baseline", "threshold"], ["language"])
        threshold = fields["threshold"].number(0, 1)
        language = parse_language(fields["language"]) if "language" in fields else None
        return cls(parse_profile(fields["profile"]), parse_profile(fields["baseline"]), threshold, language)

    def dump(self) -> dict[str, Any]:
        """Return the fields."""
        language = {} if self.language is None else {"language": self.language}
        return {
            "profile": self.profile.given,
            "baseline": self.baseline.given,
            "threshold": self.threshold,
            **language,
        }

    def explain(self, scope: Scope) -> list[Choice]:
        """Return the task's experts, with both frequencies."""
        task = sample_one_language(scope, self.profile, self.language)
        baseline = sample_one_language(scope, self.baseline, self.language)
        require_comparable([task, baseline])
        _require_other_text(task, baseline)
        on_task, on_baseline = (sample.activity.mean[scope.rows] for sample in (task, baseline))
        delta = difference(on_task, on_baseline)
        if not (delta > self.threshold).any():
            raise nothing_selected(
                scope,
                delta,
                self.threshold,
                "difference of activation frequency (task - baseline)",
                lambda threshold: int((delta > threshold).sum()),
            )
        choices = []
        for row, expert in np.argwhere(delta > self.threshold).tolist():
            a, b, d = float(on_task[row, expert]), float(on_baseline[row, expert]), float(delta[row, expert])
            why = f"task {a:.4f} - baseline {b:.4f} = {d:.4f} > {self.threshold:g}"
            values = {"task": a, "baseline": b, "difference": d}
            choices.append(Choice(scope.layers[row], expert, why=why, values=values))
        return choices


def _require_other_text(task: Sample, baseline: Sample) -> None:
    """Refuse a baseline in another language, or with items of the task."""
    if task.languages and baseline.languages and task.languages != baseline.languages:
        raise baseline.given.error(
            f"is in {', '.join(sorted(baseline.languages))}, the task's profile in {', '.join(sorted(task.languages))}",
            "give a baseline in the task's language: otherwise the difference is one of languages as well",
        )
    both = sorted(task.keys & baseline.keys)
    if both:
        some = ", ".join(f"{benchmark} {item}" for benchmark, item in both[:3]) + (", …" if len(both) > 3 else "")
        raise baseline.given.error(
            f"holds {len(both)} of the items of {show(task.given.given)}: {some}",
            "give a baseline of other text, such as general sentences",
        )
