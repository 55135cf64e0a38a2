"""``exclusive``: experts that a group of languages dominates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.steering.selectors import options
from lm_eval_moe.steering.selectors._base import Choice, ComparedNumber, Scope, Selector
from lm_eval_moe.steering.selectors._profiles import Profiles, language_shares
from lm_eval_moe.steering.selectors._thresholds import selected

__all__ = ["ExclusiveExperts"]


@dataclass(frozen=True)
class ExclusiveExperts(Selector):
    """Experts of which a group of languages has a share of at least θ (arXiv 2601.14050).

    The released ablation script asks for more than θ, the paper for at least θ: at least it is here. The steering
    coefficient is the group's share: for one language its own, as in the paper.

    Attributes:
        profiles: Profiles of the same text in several languages.
        languages: The group; some of these languages.
        top_m: How many of a language's most active experts per layer are looked at.
        threshold: θ, the group's share of an expert, 0 to 1.
    """

    name = "exclusive"
    citation = "arXiv:2601.14050"
    profiles: Profiles = options.profiles()
    languages: tuple[str, ...] = options.members("the group of languages")
    top_m: int = options.top_m(15)
    threshold: float = options.number("the smallest share of the group (default: 0.4)", 0, 1, 0.4)

    def explain(self, scope: Scope) -> list[Choice]:
        """Return the exclusive experts, with every language's share."""
        shares = language_shares(scope, self.profiles, self.top_m)
        group = self._share(shares)
        choices = []
        what = f"share of {', '.join(self.languages)}"
        for layer, expert, share, values in selected(scope, group, self.threshold, what, shares, np.greater_equal):
            why = f"{' + '.join(self.languages)} has a share of {share:.4f} >= {self.threshold:g}"
            choices.append(Choice(layer, expert, share, why, values))
        return choices

    def compare(self, scope: Scope) -> ComparedNumber:
        """Return the group's shares."""
        shares = language_shares(scope, self.profiles, self.top_m)
        return ComparedNumber(self._share(shares), f"share of {' + '.join(self.languages)}", False)

    def _share(self, shares: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the group's share of every expert; NaN where it has none, which a threshold of 0 does not give it."""
        group: NDArray[np.float64] = np.sort(np.stack([shares[language] for language in self.languages]), axis=0).sum(0)
        return np.where(group > 0, group, np.nan)
