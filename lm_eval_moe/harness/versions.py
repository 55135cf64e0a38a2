"""The releases of lm-eval that this room was tested with."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import version

from lm_eval_moe.errors import RoutingWarning

__all__ = ["TESTED", "warn_if_untested"]

TESTED = ("0.4.13", "0.5.0.dev1")
"""CI runs the evaluation tests with each of them."""


@cache
def warn_if_untested() -> None:
    """Warn, once in a process, of a release of lm-eval that nobody has tried."""
    installed = version("lm_eval")
    if installed not in TESTED:
        warnings.warn(
            f"lm-eval {installed} has not been tested with this package ({' and '.join(TESTED)} have): compare the "
            "scores of a run with those of lm-eval's own model before you rely on them",
            RoutingWarning,
            stacklevel=2,
        )
