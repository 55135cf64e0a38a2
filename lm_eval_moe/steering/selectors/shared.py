"""``shared``: experts that no single language dominates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.steering.selectors import options
from lm_eval_moe.steering.selectors._base import Choice, ComparedNumber, Scope, Selector
from lm_eval_moe.steering.selectors._profiles import Profiles, language_shares
from lm_eval_moe.steering.selectors._thresholds import selected

__all__ = ["SharedExperts"]


@dataclass(frozen=True)
class SharedExperts(Selector):
    """Experts of which some language has a share and every language less than θ (arXiv 2601.14050).

    The steering coefficient is the source language's share.

    Attributes:
        profiles: Profiles of the same text in several languages.
        top_m: How many of a language's most active experts per layer are looked at.
        threshold: θ, a language's share of an expert, 0 to 1.
        source: The language whose share is the steering coefficient; ``None``: each expert's dominant one.
    """

    name = "shared"
    citation = "arXiv:2601.14050"
    profiles: Profiles = options.profiles()
    top_m: int = options.top_m(20)
    threshold: float = options.number("the share that no language may reach (default: 0.7)", 0, 1, 0.7)
    source: str | None = options.member("the language whose share is the coefficient", None)

    def explain(self, scope: Scope) -> list[Choice]:
        """Return the shared experts, with every language's share."""
        shares = language_shares(scope, self.profiles, self.top_m)
        largest = _largest(shares)
        choices = []
        what = "share of an expert's dominant language"
        for layer, expert, most, values in selected(scope, largest, self.threshold, what, shares, np.less):
            share_list = ", ".join(f"{language} {share:.4f}" for language, share in values.items())
            coefficient = most if self.source is None else values[self.source]
            why = f"shares {share_list}: all below {self.threshold:g}"
            choices.append(Choice(layer, expert, coefficient, why, values))
        return choices

    def compare(self, scope: Scope) -> ComparedNumber:
        """Return the shares of the experts' dominant languages."""
        shares = language_shares(scope, self.profiles, self.top_m)
        return ComparedNumber(_largest(shares), "share of the dominant language", False)


def _largest(shares: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the largest share of every expert; NaN where no language has any."""
    largest: NDArray[np.float64] = np.stack(list(shares.values())).max(0)
    return np.where(largest > 0, largest, np.nan)
