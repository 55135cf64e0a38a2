"""Better and worse, above and below go by the metric's direction; languages are corrected for each other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy.stats import t
from support.written_results import BASELINE, results_of

from lm_eval_moe.report.controls import RunGains, in_words
from lm_eval_moe.report.findings import findings
from lm_eval_moe.report.table import score_rows
from lm_eval_moe.results import Benchmark, LabelledRun, arrange, read_runs
from lm_eval_moe.statistics import gain_over_means

AROUND_HALF = [0.49, 0.5, 0.51]


def benchmark_of(*scores: dict[str, list[int]], higher_is_better: bool = True) -> Benchmark:
    runs = read_runs([LabelledRun(f"run {number}", results_of(each)) for number, each in enumerate(scores)])
    (benchmark,), _ = arrange(runs)
    return replace(benchmark, higher_is_better=higher_is_better)


@pytest.mark.parametrize(("higher_is_better", "ends"), [(True, ("sw", "en")), (False, ("en", "sw"))])
def test_the_range_of_languages_goes_from_the_worst_to_the_best(higher_is_better: bool, ends: tuple[str, str]) -> None:
    scores = {lang: BASELINE[lang] for lang in ("en", "de", "sw")}  # 9, 8 and 4 of 10 are right
    said = findings(benchmark_of(scores, higher_is_better=higher_is_better))[0].text
    assert f"from {ends[0]} (" in said
    assert f"to {ends[1]} (" in said
    assert "the 2 other languages average 30.0 percentage points below en." in said.replace("The 2", "the 2")


def test_other_languages_may_be_above_the_reference() -> None:
    said = findings(benchmark_of({"en": BASELINE["sw"], "de": BASELINE["de"]}))[0].text
    assert "other language is 40.0 percentage points above en." in said


@pytest.mark.parametrize(("higher_is_better", "verdict"), [(True, "better"), (False, "worse")])
def test_more_is_better_than_random_experts_where_higher_is(higher_is_better: bool, verdict: str) -> None:
    gain = gain_over_means(0.8, AROUND_HALF, 0.004, higher_is_better=higher_is_better)
    own = benchmark_of(BASELINE, BASELINE, higher_is_better=higher_is_better)
    said = in_words(RunGains(1, 3, {"en": gain, "sw": gain}, gain, ()), own)
    assert f"{verdict} than a random set beyond noise (95 % prediction interval" in said
    assert f"after Holm's correction: {verdict} in en and sw beyond noise." in said


def test_languages_are_corrected_for_each_other_against_a_new_draw() -> None:
    p = 2 * t.sf(0.057 / math.sqrt(0.01**2 * (1 + 1 / 3)), 2)
    assert 0.025 < p < 0.05
    near, none = (gain_over_means(score, AROUND_HALF, 0.004) for score in (0.557, 0.5))
    assert RunGains(1, 3, {"en": near}, None, ()).beyond == ["en"]
    both = RunGains(1, 3, {"en": near, "sw": none}, None, ())
    assert both.corrected_p["en"] == pytest.approx(2 * p, rel=1e-3)
    assert both.beyond == []


def test_the_tables_marks_are_corrected_over_languages() -> None:
    """Of ten items six fell: 2 / 2**6 is 0.031, and for two languages twice that."""
    worse = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    alone = score_rows(benchmark_of({"en": BASELINE["en"]}, {"en": worse}))
    beside = score_rows(benchmark_of({"en": BASELINE["en"], "de": worse}, {"en": worse, "de": worse}))
    assert [row.entries[1].beyond for row in alone if row.name == "en"] == [True]
    assert [row.entries[1].beyond for row in beside if row.name in ("en", "de")] == [False, False]
