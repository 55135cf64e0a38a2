"""``multilingual``: experts that some other language activates more often than the reference language does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.steering._fields import Field
from lm_eval_moe.steering.selectors._base import Scope, Selection, Selector
from lm_eval_moe.steering.selectors._profiles import Profiles, dump_profiles, parse_member, parse_profiles, unavailable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MultilingualExperts"]


@dataclass(frozen=True)
class MultilingualExperts(Selector):
    """``{k : f_k(lang) - f_k(reference) > τ for any other lang}`` (arXiv 2510.04694).

    Attributes:
        profiles: Profiles of the same text in several languages.
        reference: One of these languages.
        threshold: τ, a difference of activation frequencies, 0 to 1.
    """

    name = "multilingual"
    profiles: Profiles
    reference: str
    threshold: float

    @classmethod
    def parse(cls, field: Field) -> Self:
        """Read ``{profiles: {en: …, sw: …}, reference: en, threshold: 0.3}``; the reference is English by default."""
        fields = field.keys(["profiles", "threshold"], ["reference"])
        threshold = fields["threshold"].number(0, 1)
        profiles = parse_profiles(fields["profiles"])
        reference = fields.get("reference", Field(field / "reference", "en"))
        return cls(profiles, parse_member(reference, profiles), threshold)

    def dump(self) -> dict[str, Any]:
        """Return the fields."""
        return {"profiles": dump_profiles(self.profiles), "reference": self.reference, "threshold": self.threshold}

    def select(self, scope: Scope) -> Selection:
        """Not available yet."""
        raise unavailable(self.name, scope)
