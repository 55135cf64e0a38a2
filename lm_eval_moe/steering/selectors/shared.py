"""``shared``: experts that no single language dominates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.steering._fields import Field
from lm_eval_moe.steering.selectors._base import Scope, Selection, Selector
from lm_eval_moe.steering.selectors._profiles import Profiles, dump_profiles, parse_member, parse_profiles, unavailable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SharedExperts"]


@dataclass(frozen=True)
class SharedExperts(Selector):
    """Experts of which some language has a share and every language less than θ (arXiv 2601.14050).

    Attributes:
        profiles: Profiles of the same text in several languages.
        top_m: How many of a language's most active experts per layer are looked at.
        threshold: θ, a language's share of an expert, 0 to 1.
        source: The language whose share is the steering coefficient; ``None``: the dominant one's.
    """

    name = "shared"
    profiles: Profiles
    top_m: int
    threshold: float
    source: str | None

    @classmethod
    def parse(cls, field: Field) -> Self:
        """Read ``{profiles: {en: …, zh: …}, top_m: 20, threshold: 0.7, source: en}``; only profiles are required."""
        fields = field.keys(["profiles"], ["top_m", "threshold", "source"])
        top_m = fields["top_m"].integer(1, 10_000) if "top_m" in fields else 20
        threshold = fields["threshold"].number(0, 1) if "threshold" in fields else 0.7
        profiles = parse_profiles(fields["profiles"])
        source = parse_member(fields["source"], profiles) if "source" in fields else None
        return cls(profiles, top_m, threshold, source)

    def dump(self) -> dict[str, Any]:
        """Return the fields."""
        source = {} if self.source is None else {"source": self.source}
        profiles = dump_profiles(self.profiles)
        return {"profiles": profiles, "top_m": self.top_m, "threshold": self.threshold, **source}

    def select(self, scope: Scope) -> Selection:
        """Not available yet."""
        raise unavailable(self.name, scope)
