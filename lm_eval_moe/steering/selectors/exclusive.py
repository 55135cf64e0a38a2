"""``exclusive``: experts that a group of languages dominates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.steering._fields import Field
from lm_eval_moe.steering.selectors._base import Scope, Selection, Selector
from lm_eval_moe.steering.selectors._profiles import Profiles, dump_profiles, parse_member, parse_profiles, unavailable

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ExclusiveExperts"]


@dataclass(frozen=True)
class ExclusiveExperts(Selector):
    """Experts of which a group of languages has a share of at least θ (arXiv 2601.14050).

    Attributes:
        profiles: Profiles of the same text in several languages.
        languages: The group; some of these languages.
        top_m: How many of a language's most active experts per layer are looked at.
        threshold: θ, the group's share of an expert, 0 to 1.
    """

    name = "exclusive"
    profiles: Profiles
    languages: tuple[str, ...]
    top_m: int
    threshold: float

    @classmethod
    def parse(cls, field: Field) -> Self:
        """Read ``{profiles: {en: …, sw: …}, languages: [sw], top_m: 15, threshold: 0.4}``."""
        fields = field.keys(["profiles", "languages"], ["top_m", "threshold"])
        top_m = fields["top_m"].integer(1, 10_000) if "top_m" in fields else 15
        threshold = fields["threshold"].number(0, 1) if "threshold" in fields else 0.4
        profiles = parse_profiles(fields["profiles"])
        items = fields["languages"].items("[sw]")
        languages = tuple(sorted({parse_member(item, profiles) for item in items}))
        if not 0 < len(languages) < len(profiles):
            raise fields["languages"].error(
                f"{len(languages)} of the {len(profiles)} languages with profiles are named",
                f"name some of them, but not all: {', '.join(profiles)}",
            )
        return cls(profiles, languages, top_m, threshold)

    def dump(self) -> dict[str, Any]:
        """Return the fields."""
        profiles = dump_profiles(self.profiles)
        return {
            "profiles": profiles,
            "languages": list(self.languages),
            "top_m": self.top_m,
            "threshold": self.threshold,
        }

    def select(self, scope: Scope) -> Selection:
        """Not available yet."""
        raise unavailable(self.name, scope)
