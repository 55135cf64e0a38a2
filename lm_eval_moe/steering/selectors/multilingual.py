"""``multilingual``: experts that some other language activates more often than the reference language does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.steering.selectors import options
from lm_eval_moe.steering.selectors._base import Choice, Compared, Scope, Selector
from lm_eval_moe.steering.selectors._differences import difference
from lm_eval_moe.steering.selectors._nothing import selected
from lm_eval_moe.steering.selectors._profiles import Profiles, sample_languages

__all__ = ["MultilingualExperts"]


@dataclass(frozen=True)
class MultilingualExperts(Selector):
    """``{k : f_k(lang) - f_k(reference) > τ for any other lang}`` (arXiv 2510.04694).

    f_k is the mean over items, as in the rule ``task``. The steering coefficients are 1.

    Attributes:
        profiles: Profiles of the same text in several languages.
        reference: One of these languages.
        threshold: τ, a difference of activation frequencies, 0 to 1.
    """

    name = "multilingual"
    citation = "arXiv:2510.04694"
    profiles: Profiles = options.profiles()
    reference: str = options.member("the language to compare the others with (default: en)", "en")
    threshold: float = options.number("the difference of activation frequency to exceed", 0, 1)

    def explain(self, scope: Scope) -> list[Choice]:
        """Return the experts, with every language's frequency."""
        frequencies, deltas = self._frequencies(scope)
        reference, largest = frequencies[self.reference], np.stack(list(deltas.values())).max(0)
        choices = []
        what = f"difference of activation frequency (a language - {self.reference})"
        for row, expert in selected(scope, largest, self.threshold, what):
            reasons = [
                f"{language} {frequencies[language][row, expert]:.4f}"
                for language, delta in deltas.items()
                if delta[row, expert] > self.threshold
            ]
            why = (
                f"{', '.join(reasons)}: over {self.reference} {reference[row, expert]:.4f} by more than "
                f"{self.threshold:g}"
            )
            values = {language: float(each[row, expert]) for language, each in frequencies.items()}
            values["difference"] = float(largest[row, expert])
            choices.append(Choice(scope.layers[row], expert, why=why, values=values))
        return choices

    def compare(self, scope: Scope) -> Compared:
        """Return every expert's largest difference."""
        _, deltas = self._frequencies(scope)
        label = f"largest difference to {self.reference}, activation frequency"
        return Compared(np.stack(list(deltas.values())).max(0), label, True)

    def _frequencies(self, scope: Scope) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
        """Return every language's frequencies, and the others' differences from the reference."""
        samples = sample_languages(scope, self.profiles)
        frequencies = {language: sample.activity.mean[scope.rows] for language, sample in samples.items()}
        reference = frequencies[self.reference]
        others = {language: values for language, values in frequencies.items() if language != self.reference}
        return frequencies, {language: difference(values, reference) for language, values in others.items()}
