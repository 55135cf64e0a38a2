"""What is a regression, what held, what cannot be said: by hand-worked counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats
from support.gate.evidence_of import changes, evidence, line_of, policy, verdict_of

from lm_eval_moe.gate.cells import footer
from lm_eval_moe.gate.evidence import DriftEvidence


def one_sided(worse: int, better: int) -> float:
    return float(stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue)


def test_a_drop_beyond_chance_and_margin_is_a_regression() -> None:
    verdict = verdict_of(
        policy(),
        evidence("sw", changes(40, 10, 200)),
        evidence("de", changes(20, 20, 200)),
        evidence("en", [0.0] * 200),
    )
    line = line_of(verdict, "sw")
    assert (line.status, line.effect) == ("regression", "fail")
    assert line.drop == pytest.approx(0.15)
    assert line.p == pytest.approx(one_sided(40, 10), rel=1e-9)
    assert line.adjusted_p == pytest.approx(4 * one_sided(40, 10), rel=1e-6)  # three languages and their average
    assert line_of(verdict, "de").status == "inconclusive"  # 20 against 20 of 200: up to 5.2 points
    assert line_of(verdict, "en").status == "held"
    assert line_of(verdict, "macro").status == "regression"  # 15 points in one of three are 5 on average
    assert verdict.tests == 4
    assert verdict.exit_code == 1
    assert line.sentence == (
        "fell by 15.0 percentage points, beyond chance and more than the margin of 5.0 percentage points: of 200 items "
        "40 scored lower and 10 higher, p < 0.0001 (p < 0.0001 corrected for 4 tests)"
    )


def test_a_drop_beyond_chance_but_within_the_margin_is_none() -> None:
    verdict = verdict_of(policy(language=0.2), evidence("sw", changes(40, 10, 200)))
    assert line_of(verdict, "sw").status == "inconclusive"
    assert "beyond chance but not more than the margin of 20.0 percentage points" in line_of(verdict, "sw").sentence
    assert verdict.exit_code == 0


def test_a_drop_of_just_the_margin_is_none_and_an_item_more_is() -> None:
    for worse, status in ((10, "inconclusive"), (11, "regression")):
        line = line_of(verdict_of(policy(language=0.05), evidence("sw", changes(worse, 0, 200))), "sw")
        assert line.beyond_chance
        assert (line.drop, line.status) == (worse / 200, status)


def test_a_bound_of_just_the_margin_is_within_it() -> None:
    losses = changes(10, 10, 1000)
    upper = line_of(verdict_of(policy(), evidence("sw", losses)), "sw").upper
    assert upper is not None
    for margin, status in ((upper, "held"), (math.nextafter(upper, 0), "inconclusive")):
        assert line_of(verdict_of(policy(language=margin), evidence("sw", losses)), "sw").status == status


def test_a_large_drop_that_may_be_chance_is_inconclusive_and_the_policy_says_what_that_means() -> None:
    given = evidence("sw", changes(5, 2, 30))  # 10 points, but p = 0.23
    for effect, code in (("pass", 0), ("warn", 0), ("fail", 1)):
        verdict = verdict_of(policy(inconclusive=effect), given)
        line = line_of(verdict, "sw")
        assert (line.status, line.effect, verdict.exit_code) == ("inconclusive", effect, code)
        assert footer(verdict).endswith("are not counted there.") == (effect == "fail")
        said = "fell by 10.0 percentage points, which may be chance (of 30 items 5 scored lower and 2 higher, p = 0.23)"
        assert said in line.sentence


def test_a_score_held_if_its_bound_lies_within_the_margin() -> None:
    losses = changes(10, 10, 1000)
    line = line_of(verdict_of(policy(), evidence("sw", losses)), "sw")
    assert line.status == "held"
    assert line.upper is not None
    assert 0.0074 < line.upper < 0.0085  # a score bound is a little more than 1.645 x sqrt(20) / 1000 = 0.0074
    assert line.sentence == (
        "did not move on average; with 95 % confidence it is worse by at most 0.8 percentage points, within "
        "the margin of 5.0 percentage points"
    )


def test_unchanged_answers_held_however_few() -> None:
    line = line_of(verdict_of(policy(language=0.01), evidence("sw", [0.0] * 12)), "sw")
    assert (line.status, line.sentence) == ("held", "no score changed (12 items)")


def test_the_average_sees_what_no_language_shows() -> None:
    # The same 8 items get worse and 1 better in every one of six languages of 100 items.
    found = [evidence(lang, changes(8, 1, 100)) for lang in ("de", "es", "fr", "ja", "ru", "sw")]
    apart = [
        evidence(lang, losses, losses=[((lang, i), value) for i, value in enumerate(losses)])
        for lang in ("de", "es", "fr", "ja", "ru", "sw")
        for losses in (changes(8, 1, 100),)
    ]
    shared, own = (verdict_of(policy(language=0.02, macro=0.02), *each) for each in (found, apart))
    assert not [line for line in (*shared.lines, *own.lines) if line.kind == "language" and line.status == "regression"]
    # Different items in every language: 48 of 54 changes for the worse. The same items: only 9 signs to turn.
    assert line_of(own, "macro").status == "regression"
    assert line_of(own, "macro").p == pytest.approx(one_sided(48, 6), rel=1e-9)
    assert line_of(shared, "macro").status != "regression"
    assert line_of(shared, "macro").p == pytest.approx(one_sided(8, 1), rel=1e-9)


@pytest.mark.parametrize(("correction", "factors"), [("holm", (4, 3)), ("bonferroni", (4, 4)), ("none", (1, 1))])
def test_p_values_are_corrected_over_languages_and_average(correction: str, factors: tuple[int, int]) -> None:
    found = [
        evidence("sw", changes(30, 8, 200)),
        evidence("de", changes(20, 9, 200)),
        evidence("en", changes(0, 30, 200)),
    ]
    verdict = verdict_of(policy(correction=correction), *found)
    assert line_of(verdict, "sw").adjusted_p == pytest.approx(min(1.0, factors[0] * one_sided(30, 8)), rel=1e-9)
    assert line_of(verdict, "de").adjusted_p == pytest.approx(factors[1] * one_sided(20, 9), rel=1e-9)


def test_margin_test_asks_more_than_any_drop() -> None:
    given = evidence("sw", changes(40, 20, 400))  # 5 points; beyond chance, but not beyond 2 points
    assert line_of(verdict_of(policy(language=0.02), given), "sw").status == "regression"
    line = line_of(verdict_of(policy(language=0.02, test="margin"), given), "sw")
    assert line.status == "inconclusive"
    assert "is not beyond chance more than the margin of 2.0 percentage points" in line.sentence
    far = evidence("sw", changes(80, 20, 400))
    assert line_of(verdict_of(policy(language=0.02, test="margin"), far), "sw").status == "regression"


def test_a_relative_margin_is_a_share_of_the_baseline() -> None:
    line = line_of(verdict_of(policy(language={"relative": 0.1}), evidence("sw", [0.0] * 50, score=0.3)), "sw")
    assert line.margin == pytest.approx(0.03)


def test_where_lower_is_better_a_rise_is_worse() -> None:
    losses = [0.5 + 0.01 * (i % 7) for i in range(60)]
    given = evidence("sw", losses, score=2.0, is_share=False, higher_is_better=False)
    line = line_of(verdict_of(policy(), given), "sw")
    assert line.status == "regression"
    assert line.sentence.startswith("rose by 0.529, beyond chance and more than the margin of 0.05: of 60 items 60")


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        (
            {"problem": "the candidate has no results for sums_sw: evaluate it as well"},
            {},
            "the candidate has no results",
        ),
        ({"items": 9}, {}, "9 items, but the policy requires at least 10"),
        ({"losses": None}, {}, "the scores of the items are not known"),
        ({"losses": None, "after": None, "problem": "x"}, {"samples": "preferred"}, "x"),
    ],
)
def test_what_cannot_be_judged_is_said(fields: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    found = [evidence("sw", [0.0] * 50, **fields), evidence("de", [0.0] * 50)]
    verdict = verdict_of(policy(**settings), *found)
    line = line_of(verdict, "sw")
    assert (line.status, line.effect) == ("unjudged", "unjudged")
    assert message in line.sentence
    assert line_of(verdict, "macro").sentence == "the average lacks sw"
    assert line_of(verdict, "de").status == "held"
    assert verdict.exit_code == 2


def test_just_as_many_items_as_are_asked_for_are_judged() -> None:
    for items, status in ((9, "unjudged"), (10, "held")):
        assert line_of(verdict_of(policy(), evidence("sw", [0.0] * items)), "sw").status == status


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_without_items_a_loss_goes_by_the_direction_of_the_metric(higher_is_better: bool) -> None:
    """Two standard errors of 0.02 each: a loss of 0.1 is 3.5 of them."""
    found = evidence("sw", changes(20, 0, 200), losses=None, items=200, higher_is_better=higher_is_better)
    line = line_of(verdict_of(policy(samples="preferred"), found), "sw")
    assert (line.drop, line.status) == (pytest.approx(0.1), "regression")
    assert line.upper == pytest.approx(0.1 + stats.norm.ppf(0.95) * 0.02 * 2**0.5)


def test_a_regression_counts_more_than_what_cannot_be_judged() -> None:
    verdict = verdict_of(policy(), evidence("sw", changes(60, 2, 200)), evidence("de", [0.0] * 5))
    assert verdict.exit_code == 1
    assert line_of(verdict, "sw").adjusted_p == pytest.approx(3 * one_sided(60, 2))  # the unjudged still count


def test_nothing_to_judge_is_no_pass() -> None:
    assert verdict_of(policy()).exit_code == 2


def test_without_items_standard_errors_decide_and_the_average_takes_the_largest_error() -> None:
    found = [evidence(lang, changes(20, 0, 200), losses=None, items=200) for lang in ("sw", "de", "fr")]
    verdict = verdict_of(policy(samples="preferred"), *found)
    line, macro = line_of(verdict, "sw"), line_of(verdict, "macro")
    assert line.p == pytest.approx(stats.norm.sf(0.1 / (0.02 * 2**0.5)), rel=1e-9)
    assert macro.p == pytest.approx(line.p)  # three languages that may be one and the same
    assert "by the standard errors alone, not item by item" in line.sentence


def test_an_allowance_excuses_until_its_day_and_leaves_the_average() -> None:
    entry = {"language": "sw", "reason": "new tokenizer", "until": "2026-06-15"}
    found = [evidence("sw", changes(80, 0, 200)), evidence("de", [0.0] * 200), evidence("fr", [0.0] * 200)]
    verdict = verdict_of(policy(allow=[entry]), *found)
    line = line_of(verdict, "sw")
    assert (line.status, line.effect) == ("allowed", "pass")
    assert "(allowed until 2026-06-15: new tokenizer)" in line.sentence
    assert line_of(verdict, "macro").drop == 0  # without sw
    assert verdict.tests == 3
    assert (verdict.exit_code, verdict.notes) == (0, ())

    late = verdict_of(policy(allow=[{**entry, "until": "2026-06-14"}]), *found)
    assert line_of(late, "sw").status == "regression"
    assert late.exit_code == 1
    assert late.notes == (
        "the allowance for language sw (new tokenizer) expired after 2026-06-14 and no longer excuses anything",
    )


def test_an_allowance_that_is_not_needed_or_speaks_of_nothing_is_told() -> None:
    allow = [
        {"task": "sums_sw", "reason": "known", "until": "2027-01-01"},
        {"benchmark": "smus", "reason": "typo", "until": "2027-01-01"},
    ]
    verdict = verdict_of(policy(allow=allow), evidence("sw", [0.0] * 200))
    assert line_of(verdict, "sw").status == "held"
    assert "it is not needed now" in line_of(verdict, "sw").sentence
    assert verdict.notes == ("the allowance for benchmark smus matches nothing that was judged",)


@pytest.mark.parametrize(
    ("exceeded", "means", "effect", "code"),
    [
        ("fail", {"middle": 0.06}, "fail", 1),
        ("warn", {"middle": 0.06}, "warn", 0),
        ("fail", {"middle": 0.05}, "pass", 0),
    ],
)
def test_drift_beyond_its_limit_fails_or_warns(exceeded: str, means: dict[str, float], effect: str, code: int) -> None:
    given = policy(routing_drift={"middle": 0.05, "exceeded": exceeded})
    drift = DriftEvidence("sums", "sw", "sums_sw", 50, means)
    verdict = verdict_of(given, evidence("sw", [0.0] * 50), drift=[drift])
    assert line_of(verdict, "routing drift sw").effect == effect
    assert verdict.exit_code == code


def test_drift_is_excused_only_by_an_allowance_that_says_so() -> None:
    drift = DriftEvidence("sums", "sw", "sums_sw", 50, {"middle": 0.5})
    for checks, status in ((["score"], "drifted"), (["drift"], "allowed")):
        entry = {"language": "sw", "reason": "retrained", "until": "2027-01-01", "checks": checks}
        given = policy(routing_drift={"middle": 0.05}, allow=[entry])
        verdict = verdict_of(given, evidence("sw", [0.0] * 50), drift=[drift])
        assert line_of(verdict, "routing drift sw").status == status


def test_a_benchmark_that_the_policy_does_not_list_is_not_judged() -> None:
    given = policy(benchmarks={"sums": None})
    assert [line.name for line in verdict_of(given, evidence("sw", [0.0] * 50), evidence(None, [0.0] * 50)).lines] == [
        "sw"
    ]
