"""Languages' shares of experts: steps 1 and 2 of arXiv 2601.14050."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.metrics import shares_of
from lm_eval_moe.steering.selectors._base import Scope
from lm_eval_moe.steering.selectors._profiles import Profiles, sample_languages

__all__ = ["MOST_ACTIVE", "language_shares"]

MOST_ACTIVE = "how many of a language's most active experts per layer count"
"""What ``top_m`` is, in words."""


def language_shares(scope: Scope, profiles: Profiles, top_m: int) -> dict[str, NDArray[np.float64]]:
    """Return every language's share of every expert, ``[layers, E]``.

    They are of the activation frequency a_k / T, pooled over a language's items (see :func:`shares_of`).

    Raises:
        UserError: A profile cannot be used.
    """
    samples = sample_languages(scope, profiles)
    frequencies = np.stack([sample.activity.pooled[scope.rows] for sample in samples.values()])
    return dict(zip(samples, shares_of(frequencies, top_m), strict=True))
