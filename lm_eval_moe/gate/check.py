"""The whole gate: read both sides, judge, and be able to say that nothing could be judged."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_moe.errors import UserError
from lm_eval_moe.gate.collect import Side, collect
from lm_eval_moe.gate.drift import drift_between, identical_profiles, unchecked_profiles
from lm_eval_moe.gate.evidence import NamedSide
from lm_eval_moe.gate.flips import flips_of
from lm_eval_moe.gate.judge import judge
from lm_eval_moe.gate.margins import BaselineScore, check_margins
from lm_eval_moe.gate.policy import Policy
from lm_eval_moe.gate.verdict import Verdict, VerdictLine
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.results import latest, read_results, read_runs

__all__ = ["SideFiles", "check", "read_side"]


@dataclass(frozen=True)
class SideFiles:
    """One side as the user gave it.

    Attributes:
        paths: Results files or folders.
        profile: Its routing profile, if there is one.
    """

    paths: Sequence[Path]
    profile: Path | None = None


def check(
    policy: Policy,
    baseline: SideFiles,
    candidate: SideFiles,
    *,
    registry: PairingRegistry | None = None,
    today: datetime.date | None = None,
    items: int = 0,
) -> Verdict:
    """Judge a candidate against a baseline.

    What cannot be read cannot be judged: the verdict then says so, so that its files are written all the same.

    Args:
        policy: The policy.
        baseline: The baseline.
        candidate: The candidate.
        registry: What is known of tasks' languages; by default of lm-eval's own.
        today: For the allowances' dates; by default the day in UTC.
        items: Of each task, so many of the items that scored lower and of those that scored higher are told.
    """
    try:
        notes: list[str] = []
        first = read_side("baseline", baseline.paths, notes, registry)
        second = read_side("candidate", candidate.paths, notes, registry)
        if {run.source for run in first.runs} & {run.source for run in second.runs}:
            notes.append("the candidate is the baseline itself: the same results file")
        evidence, more = collect(policy, first, second)
        check_margins(
            policy,
            [
                BaselineScore(entry.benchmark, entry.language, entry.before.value, entry.is_share)
                for entry in evidence
                if entry.before is not None
            ],
        )
        drift = []
        if policy.routing_drift is not None:
            sides = [(baseline.profile, first.runs[0]), (candidate.profile, second.runs[0])]
            drift = drift_between(policy.routing_drift, evidence, sides[0], sides[1])
            notes[:0] = identical_profiles(sides[0][0], sides[1][0])
            notes += unchecked_profiles(dict(zip(("baseline", "candidate"), sides, strict=True)))
        flips = flips_of(evidence, first, second, items) if items else []
    except UserError as error:
        line = VerdictLine("task", "results", None, "unjudged", "unjudged", " ".join(str(error).split()))
        names = [NamedSide(", ".join(str(path) for path in side.paths)) for side in (baseline, candidate)]
        return Verdict(policy.name, names[0], names[1], policy.alpha, policy.correction, 0, (line,))
    return judge(
        policy,
        evidence,
        drift,
        today=today,
        baseline=first.named,
        candidate=second.named,
        notes=[*notes, *more],
        flips=flips,
    )


def read_side(name: str, paths: Sequence[Path], notes: list[str], registry: PairingRegistry | None = None) -> Side:
    """Read one side; of tasks evaluated at several dates the newest counts.

    Args:
        name: ``baseline`` or ``candidate``.
        paths: Results files or folders.
        notes: What was left aside is added here.
        registry: What is known of tasks' languages; by default of lm-eval's own.

    Raises:
        UserError: The results cannot be read, or are of several models or steerings.
    """
    runs, superseded = latest(read_results(list(paths), warn=notes.append))
    notes += [
        f"of the {name}, the results of {pair.newer} count for {', '.join(pair.tasks)}, not those of {pair.older}"
        for pair in superseded
    ]
    return Side(name, read_runs(runs, registry), registry)
