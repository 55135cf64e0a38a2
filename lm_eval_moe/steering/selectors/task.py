"""``task``: experts that a task's text activates more often than general text does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.steering._fields import Field
from lm_eval_moe.steering.selectors._base import Scope, Selection, Selector
from lm_eval_moe.steering.selectors._profiles import ProfilePath, parse_profile, unavailable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TaskExperts"]


@dataclass(frozen=True)
class TaskExperts(Selector):
    """``{k : f_k(task) - f_k(baseline) > τ}`` (arXiv 2510.04694, eq. 3).

    Attributes:
        profile: Profile of the task's text.
        baseline: Profile of general text in the same language.
        threshold: τ, a difference of activation frequencies, 0 to 1.
    """

    name = "task"
    profile: ProfilePath
    baseline: ProfilePath
    threshold: float

    @classmethod
    def parse(cls, field: Field) -> Self:
        """Read ``{profile: …, baseline: …, threshold: 0.4}``."""
        fields = field.keys(["profile", "baseline", "threshold"])
        threshold = fields["threshold"].number(0, 1)
        return cls(parse_profile(fields["profile"]), parse_profile(fields["baseline"]), threshold)

    def dump(self) -> dict[str, Any]:
        """Return the fields."""
        return {"profile": self.profile.given, "baseline": self.baseline.given, "threshold": self.threshold}

    def select(self, scope: Scope) -> Selection:
        """Not available yet."""
        raise unavailable(self.name, scope)
