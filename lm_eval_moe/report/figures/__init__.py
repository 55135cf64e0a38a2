"""The figures of the report, one module each: what it draws, its data, what the data say, and where it stands.

A new figure is one new module here, or in a plug-in: a function that makes a `ReportFigure`, declared with
``@BENCHMARK.figure(...)``, ``@PROFILES.figure(...)`` or ``@SWEEP.figure(...)``; see docs/extending.md.
"""

from __future__ import annotations

from lm_eval_moe.discovery import import_siblings
from lm_eval_moe.report.figures._base import (
    BENCHMARK,
    PROFILES,
    SWEEP,
    BenchmarkSubject,
    Folded,
    Place,
    ProfilesSubject,
    ReportFigure,
)
from lm_eval_moe.report.figures._tiers import language_title

__all__ = [
    "BENCHMARK",
    "PROFILES",
    "SWEEP",
    "BenchmarkSubject",
    "Folded",
    "Place",
    "ProfilesSubject",
    "ReportFigure",
    "language_title",
]

import_siblings(__name__, __path__)
