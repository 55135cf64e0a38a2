"""Statistics on plain numbers: means, differences, tests, correlations. Knows nothing of runs, files or models."""

from __future__ import annotations

from lm_eval_moe.statistics.control_gain import (
    ControlGain,
    corrected_new_draws,
    draws_needed,
    gain_over_controls,
    gain_over_means,
    mean_gain,
    same_items,
)
from lm_eval_moe.statistics.correlation import LEAST_POINTS, Correlation, correlation
from lm_eval_moe.statistics.differences import ClusteredValues, Difference, Estimate, independent_mean, unpaired
from lm_eval_moe.statistics.judgement import (
    ALPHA,
    Judgement,
    corrected,
    half_width,
    is_beyond_chance,
    judge,
    judge_unpaired,
)
from lm_eval_moe.statistics.multiplicity import holm
from lm_eval_moe.statistics.paired_tests import exact_test, max_sign_flip, mcnemar, paired_test, sign_flip
from lm_eval_moe.statistics.single_mean import score_interval

__all__ = [
    "ALPHA",
    "LEAST_POINTS",
    "ClusteredValues",
    "ControlGain",
    "Correlation",
    "Difference",
    "Estimate",
    "Judgement",
    "corrected",
    "corrected_new_draws",
    "correlation",
    "draws_needed",
    "exact_test",
    "gain_over_controls",
    "gain_over_means",
    "half_width",
    "holm",
    "independent_mean",
    "is_beyond_chance",
    "judge",
    "judge_unpaired",
    "max_sign_flip",
    "mcnemar",
    "mean_gain",
    "paired_test",
    "same_items",
    "score_interval",
    "sign_flip",
    "unpaired",
]
