"""How much of an expert's use is a language's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["shares_of"]


def shares_of(frequencies: NDArray[np.float64], top_m: int) -> NDArray[np.float64]:
    """Return languages' shares of experts (arXiv 2601.14050, steps 1 and 2).

    Args:
        frequencies: ``[languages, L, E]`` activation counts over tokens.
        top_m: How many of a language's most frequent experts in a layer are kept, the rest set to 0; of equal ones
            those with the lower index (our choice).

    Returns:
        ``[languages, L, E]``: F / (sum of F over the languages + 1e-10).
    """
    order = np.argsort(-frequencies, axis=-1, kind="stable")[..., :top_m]
    top_frequencies = np.zeros_like(frequencies)
    np.put_along_axis(top_frequencies, order, np.take_along_axis(frequencies, order, -1), -1)
    # Each expert's sum is taken in ascending order: in which order languages are given makes no difference.
    total = np.sort(top_frequencies, axis=0).sum(0)
    return np.asarray(top_frequencies / (total + 1e-10))
