"""Judge a candidate's scores and routing against the baseline's, as a policy says."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_moe.gate.allowances import Allowances, Allowed
from lm_eval_moe.gate.evidence import DriftEvidence, Evidence, NamedSide
from lm_eval_moe.gate.flips import Flips
from lm_eval_moe.gate.policy import BenchmarkPolicy, DriftLimits, Policy
from lm_eval_moe.gate.sentences import drift_sentence, score_sentence
from lm_eval_moe.gate.verdict import Effect, Kind, Status, Verdict, VerdictLine
from lm_eval_moe.statistics import Estimate, holm
from lm_eval_moe.statistics.judgement import Drop, paired_drop, unpaired_drop

__all__ = ["judge"]


@dataclass(frozen=True)
class _Test:
    """A score to judge: one language's, or the average over a benchmark's languages."""

    kind: Kind
    like: Evidence  # the language, or the first of the average
    language: str | None
    items: int
    margin: float
    before: Estimate | None
    after: Estimate | None
    drop: Drop | None
    allowed: Allowed | None
    problem: str | None


def judge(
    policy: Policy,
    evidence: Sequence[Evidence],
    drift: Sequence[DriftEvidence] = (),
    *,
    today: datetime.date | None = None,
    baseline: NamedSide | None = None,
    candidate: NamedSide | None = None,
    notes: Sequence[str] = (),
    flips: Sequence[Flips] = (),
) -> Verdict:
    """Judge every score and drift.

    A score regressed if its drop is larger than the margin, and beyond chance: its one-sided p, corrected over all
    languages and averages of the gate, is below alpha. It held if the upper confidence bound of the drop lies within
    the margin. Otherwise it is inconclusive.

    Args:
        policy: The policy.
        evidence: One a task.
        drift: One a task, where the policy limits drift.
        today: For the allowances' dates; by default the day in UTC.
        baseline: The baseline.
        candidate: The candidate.
        notes: What else to tell.
        flips: The items whose score changed, where they are to be told.
    """
    day = today or datetime.datetime.now(datetime.UTC).date()
    allow = Allowances(policy.allow, day)
    tests = _tests(policy, evidence, allow)
    family = [test for test in tests if test.allowed is None]
    adjusted = _corrected(policy, [1.0 if test.drop is None or test.drop.p is None else test.drop.p for test in family])
    by_test = {id(test): p for test, p in zip(family, adjusted, strict=True)}
    lines = [_score_line(policy, test, by_test.get(id(test)), len(family)) for test in tests]
    if policy.routing_drift is not None:
        lines += [_drift_line(policy.routing_drift, drift_evidence, allow) for drift_evidence in drift]
    return Verdict(
        policy=policy.name,
        baseline=baseline or NamedSide("baseline"),
        candidate=candidate or NamedSide("candidate"),
        alpha=policy.alpha,
        correction=policy.correction,
        tests=len(family),
        lines=tuple(lines),
        notes=(*notes, *allow.notes()),
        flips=tuple(flips),
    )


def _tests(policy: Policy, evidence: Sequence[Evidence], allow: Allowances) -> list[_Test]:
    tests: list[_Test] = []
    for benchmark in dict.fromkeys(entry.benchmark for entry in evidence):
        rules = policy.of(benchmark)
        if rules is None:
            continue
        benchmark_tests = [
            _language_test(policy, rules, entry, allow) for entry in evidence if entry.benchmark == benchmark
        ]
        tests += benchmark_tests
        averaged = [test for test in benchmark_tests if test.allowed is None and test.language is not None]
        if len(averaged) > 1:
            tests.append(_macro_test(policy, rules, averaged))
    return tests


def _language_test(policy: Policy, rules: BenchmarkPolicy, evidence: Evidence, allow: Allowances) -> _Test:
    margin = rules.margins.of_language(evidence.language).of(evidence.before.value if evidence.before else 0.0)
    problem, drop = evidence.problem, None
    if problem is None and evidence.items < rules.minimum_items:
        problem = f"{evidence.items} items, but the policy requires at least {rules.minimum_items}: evaluate more"
    if problem is None and evidence.losses is None and policy.samples == "required":
        problem = (
            "the scores of the items are not known: evaluate both with --log_samples and give the folders with their "
            "samples; for a metric that is not a mean over items write `samples: preferred`"
        )
    if problem is None:
        drop = _drop(policy, [evidence], margin)
        if drop.p is None:
            problem = "no standard error is known: evaluate more than one item, with --log_samples"
    return _Test(
        kind="language" if evidence.language is not None else "task",
        like=evidence,
        language=evidence.language,
        items=evidence.items,
        margin=margin,
        before=evidence.before,
        after=evidence.after,
        drop=drop if problem is None else None,
        allowed=allow.find("score", evidence.task, evidence.benchmark, evidence.language),
        problem=problem,
    )


def _drop(policy: Policy, languages: Sequence[Evidence], margin: float) -> Drop:
    """Judge one language, or the average over several: item by item where the items of all are known."""
    tolerance = margin if policy.test == "margin" else 0.0
    losses = [entry.losses for entry in languages if entry.losses is not None]
    if len(losses) == len(languages):
        return paired_drop(losses, alpha=policy.alpha, tolerance=tolerance)
    before = [entry.before for entry in languages if entry.before is not None]
    after = [entry.after for entry in languages if entry.after is not None]
    if not len(before) == len(after) == len(languages):
        raise ValueError(f"{languages[0].benchmark} has neither a problem nor scores")
    sign = 1 if languages[0].higher_is_better else -1
    return unpaired_drop(before, after, alpha=policy.alpha, tolerance=tolerance, sign=sign)


def _macro_test(policy: Policy, rules: BenchmarkPolicy, tests: Sequence[_Test]) -> _Test:
    like = tests[0].like
    missing = [test.language or "" for test in tests if test.drop is None]
    if missing:
        problem = f"the average lacks {', '.join(missing)}"
        return _Test("macro", like, None, 0, rules.margins.macro.of(0.0), None, None, None, None, problem)
    before, after = (
        Estimate(sum(estimate.value for estimate in values if estimate) / len(tests), None)
        for values in ([test.before for test in tests], [test.after for test in tests])
    )
    margin = rules.margins.macro.of(before.value)
    drop = _drop(policy, [test.like for test in tests], margin)
    return _Test("macro", like, None, sum(t.items for t in tests), margin, before, after, drop, None, None)


def _corrected(policy: Policy, p_values: Sequence[float]) -> list[float]:
    if policy.correction == "holm":
        return holm(p_values)
    factor = len(p_values) if policy.correction == "bonferroni" else 1
    return [min(1.0, factor * p) for p in p_values]


def _score_line(policy: Policy, test: _Test, adjusted: float | None, tests: int) -> VerdictLine:
    if test.drop is None:
        problem = test.problem or ""
        return VerdictLine(test.kind, test.like.benchmark, test.language, "unjudged", "unjudged", problem, test.items)
    items = f"{test.items} {'answers' if test.kind == 'macro' else 'items'}"
    finding = score_sentence(policy, test.drop, test.margin, adjusted, tests, test.like, items)
    sentence = finding.sentence
    status: Status
    effect: Effect
    if finding.regression:
        status, effect = "regression", "fail"
    elif finding.within:
        status, effect = "held", "pass"
    else:
        status, effect = "inconclusive", policy.inconclusive
    if test.allowed is not None:
        until = f"allowed until {test.allowed.until}: {test.allowed.reason}"
        if status == "held":
            sentence = f"{sentence} ({until}; it is not needed now)"
        else:
            status, effect, sentence = "allowed", "pass", f"{sentence} ({until})"
    return VerdictLine(
        kind=test.kind,
        benchmark=test.like.benchmark,
        language=test.language,
        status=status,
        effect=effect,
        sentence=sentence,
        items=test.items,
        before=test.before.value if test.before else None,
        after=test.after.value if test.after else None,
        drop=test.drop.value,
        upper=test.drop.upper,
        margin=test.margin,
        p=test.drop.p,
        adjusted_p=adjusted,
        beyond_chance=finding.beyond,
        method=test.drop.method,
        is_share=test.like.is_share,
    )


def _drift_line(limits: DriftLimits, drift: DriftEvidence, allow: Allowances) -> VerdictLine:
    if drift.problem is not None:
        return VerdictLine("drift", drift.benchmark, drift.language, "unjudged", "unjudged", drift.problem, drift.items)
    exceeded = any(mean > limits.limits[band] for band, mean in drift.means.items())
    sentence = drift_sentence(drift.means, limits.limits, drift.items)
    status: Status = "drifted" if exceeded else "held"
    effect: Effect = limits.exceeded if exceeded else "pass"
    allowed = allow.find("drift", drift.task, drift.benchmark, drift.language)
    if allowed is not None and exceeded:
        status, effect = "allowed", "pass"
        sentence = f"{sentence} (allowed until {allowed.until}: {allowed.reason})"
    return VerdictLine(
        kind="drift",
        benchmark=drift.benchmark,
        language=drift.language,
        status=status,
        effect=effect,
        sentence=sentence,
        items=drift.items,
        drift=dict(drift.means),
        limits=dict(limits.limits),
    )
