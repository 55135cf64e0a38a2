"""Languages' shares of experts: steps 1 and 2 of arXiv 2601.14050."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.steering.selectors._base import Scope
from lm_eval_moe.steering.selectors._profiles import Profiles, sample_languages

__all__ = ["language_shares"]

_EPSILON = 1e-10


def language_shares(scope: Scope, profiles: Profiles, top_m: int) -> dict[str, NDArray[np.float64]]:
    """Return every language's share of every expert, ``[layers, E]``.

    1. F = a_k / T, pooled over a language's items; the ``top_m`` largest of a layer are kept, the rest set to 0. Of
       equal ones those with the lower index are kept (our choice, the paper leaves it open).
    2. P = F / (sum of F over the languages + 1e-10).

    Raises:
        UserError: A profile cannot be used.
    """
    kept = {}
    for language, sample in sample_languages(scope, profiles).items():
        frequencies = sample.activity.pooled[scope.rows]
        order = np.argsort(-frequencies, axis=1, kind="stable")[:, :top_m]
        kept[language] = np.zeros_like(frequencies)
        np.put_along_axis(kept[language], order, np.take_along_axis(frequencies, order, 1), 1)
    # Each expert's sum is taken in ascending order: in which order languages are listed makes no difference.
    total = np.sort(np.stack(list(kept.values())), axis=0).sum(0)
    return {language: frequencies / (total + _EPSILON) for language, frequencies in kept.items()}
