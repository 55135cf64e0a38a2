"""``multilingual``: experts that some other language activates more often than the reference language does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.steering.selectors import options
from lm_eval_moe.steering.selectors._base import Choice, ComparedNumber, Scope, Selector
from lm_eval_moe.steering.selectors._profiles import Profiles, sample_languages
from lm_eval_moe.steering.selectors._thresholds import difference, selected

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
        largest = np.stack(list(deltas.values())).max(0)
        row_of = {layer: row for row, layer in enumerate(scope.layers)}
        choices = []
        what = f"difference of activation frequency (a language - {self.reference})"
        compared = {**frequencies, "difference": largest}
        for layer, expert, _, values in selected(scope, largest, self.threshold, what, compared):
            over = [name for name, delta in deltas.items() if delta[row_of[layer], expert] > self.threshold]
            higher = ", ".join(f"{language} {values[language]:.4f}" for language in over)
            least = f"{self.reference} {values[self.reference]:.4f}"
            why = f"{higher}: over {least} by more than {self.threshold:g}"
            choices.append(Choice(layer, expert, why=why, values=values))
        return choices

    def compare(self, scope: Scope) -> ComparedNumber:
        """Return every expert's largest difference."""
        _, deltas = self._frequencies(scope)
        label = f"largest difference to {self.reference}, activation frequency"
        return ComparedNumber(np.stack(list(deltas.values())).max(0), label, True)

    def _frequencies(self, scope: Scope) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
        """Return every language's frequencies, and the others' differences from the reference."""
        samples = sample_languages(scope, self.profiles)
        frequencies = {language: sample.activity.mean[scope.rows] for language, sample in samples.items()}
        reference = frequencies[self.reference]
        other_frequencies = {language: values for language, values in frequencies.items() if language != self.reference}
        return frequencies, {language: difference(values, reference) for language, values in other_frequencies.items()}
