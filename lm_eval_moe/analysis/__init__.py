"""What routing profiles say of a model: the findings of arXiv 2510.04694 and 2601.14050, computed on any profiles.

One module an analysis. A new one is one new module here: a frozen dataclass that derives from `Analysis` and has
a ``name``. NumPy and SciPy only: neither torch nor lm-eval is imported.
"""

from __future__ import annotations

from lm_eval_moe.analysis._base import Analysis
from lm_eval_moe.analysis._curves import LanguageCurve, MeanInterval
from lm_eval_moe.analysis._inputs import AnalysisInputs, AnalysisSettings, LanguageRouting, NotPossible
from lm_eval_moe.analysis._reading import read_inputs
from lm_eval_moe.analysis._report import Findings, analyse, profiles_of
from lm_eval_moe.discovery import import_siblings

__all__ = [
    "Analysis",
    "AnalysisInputs",
    "AnalysisSettings",
    "Findings",
    "LanguageCurve",
    "LanguageRouting",
    "MeanInterval",
    "NotPossible",
    "analyse",
    "profiles_of",
    "read_inputs",
]

import_siblings(__name__, __path__)
