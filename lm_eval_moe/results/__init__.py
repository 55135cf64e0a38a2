"""Results of evaluations, ours and stock lm-eval's, read and arranged by benchmark and language. Imports no torch."""

from __future__ import annotations

from lm_eval_moe.results.arrangement import LeftOut, arrange
from lm_eval_moe.results.benchmarks import Benchmark
from lm_eval_moe.results.latest import Superseded, latest
from lm_eval_moe.results.reading import load_results, read_results
from lm_eval_moe.results.routing import RoutingObject
from lm_eval_moe.results.run import LabelledRun, Metric, Run, read_runs
from lm_eval_moe.results.setup import Mismatch, setup_differences

__all__ = [
    "Benchmark",
    "LabelledRun",
    "LeftOut",
    "Metric",
    "Mismatch",
    "RoutingObject",
    "Run",
    "Superseded",
    "arrange",
    "latest",
    "load_results",
    "read_results",
    "read_runs",
    "setup_differences",
]
