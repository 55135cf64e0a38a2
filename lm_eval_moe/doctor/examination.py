"""Examine a loaded model: its anatomy, every proof, and what a steering file does to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe._version import __version__
from lm_eval_moe.backends.arguments import resolve_plan
from lm_eval_moe.doctor import proofs as proofs  # its modules enter themselves
from lm_eval_moe.doctor.anatomy import AFTERWARDS, Anatomy, anatomy_of
from lm_eval_moe.doctor.explanation import explain
from lm_eval_moe.doctor.finding import Proof, ProofOutcome, all_proofs
from lm_eval_moe.doctor.runs import NoModulesError, Runs, undisturbed
from lm_eval_moe.doctor.target_shares import TargetShares, measure
from lm_eval_moe.errors import RoutingBypassedError, RoutingWarning, UserError
from lm_eval_moe.recording.attribution import AttributionError

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel, TorchModules
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = ["SCHEMA_VERSION", "Examination", "examine", "planned_runs"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Examination:
    """What was found out about a model.

    Attributes:
        model: What names it.
        anatomy: How it routes; None where it could not be loaded, or has no modules to look at.
        findings: By proof, in order; none if only the config was read.
        plan: The steering that was explained, if any.
        reach: What it reaches on the sentences, if weights were loaded.
        refusal: Why the model could not be loaded or steered at all, if so.
    """

    model: str
    anatomy: Anatomy | None
    findings: tuple[tuple[Proof, ProofOutcome], ...] = ()
    plan: SteeringPlan | None = None
    reach: TargetShares | None = None
    refusal: UserError | None = None

    @property
    def proved(self) -> bool:
        """Whether weights were loaded and anything was to be shown."""
        return bool(self.findings) or self.refusal is not None

    @property
    def failed(self) -> tuple[tuple[Proof, ProofOutcome], ...]:
        """The proofs that do not hold."""
        return tuple(entry for entry in self.findings if entry[1].outcome == "fail")

    @property
    def not_proven(self) -> tuple[tuple[Proof, ProofOutcome], ...]:
        """The proofs that could observe nothing which would tell."""
        return tuple(entry for entry in self.findings if entry[1].outcome == "not proven")

    @property
    def ok(self) -> bool:
        """Whether all that was to be shown is shown."""
        return self.refusal is None and not self.failed and not self.not_proven

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know even if all proofs hold."""
        return tuple(note for _, finding in self.findings for note in finding.notes)

    @property
    def verdict(self) -> str:
        """The verdict in a sentence or two."""
        if self.refusal is not None:
            problem = self.refusal.problem + (f". What to do: {self.refusal.fix}" if self.refusal.fix else "")
            return f"NOT OK. lm-eval-moe cannot follow this model's routing: {problem}."
        if not self.findings:
            return (
                "Nothing was proved: only the config was read. Leave out --config-only to load the weights and run the "
                "proofs."
            )
        if self.failed:
            names = ", ".join(f"'{entry.title}'" for entry, _ in self.failed)
            return (
                f"NOT OK. {len(self.failed)} of {len(self.findings)} proofs failed: {names}. Results with this "
                "model cannot be trusted until they hold."
            )
        if self.not_proven:
            names = ", ".join(f"'{entry.title}'" for entry, _ in self.not_proven)
            return (
                f"NOT PROVEN. Nothing failed, but {len(self.not_proven)} of {len(self.findings)} proofs had nothing to "
                f"go by but the adapter's word: {names}. With --allow_unproven the exit code is 0."
            )
        idle = [entry.title for entry, finding in self.findings if finding.outcome == "not applicable"]
        aside = f" (not applicable: {', '.join(idle)})" if idle else ""
        looked = [finding.outcome for entry, finding in self.findings if entry.looks_at == "modules"]
        if "not applicable" in looked:
            return (
                "OK, as far as answers and records show: every token is counted once, whatever else is in its batch, "
                f"and steering reaches and changes what it should{aside}. To show that the experts do what is "
                "recorded, use --against with a backend whose modules can be observed."
            )
        return (
            f"OK. On this model, what is captured is what the experts receive, and steering does what it says{aside}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON-ready values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "lm_eval_moe_version": __version__,
            "model": self.model,
            "ok": self.ok if self.proved else None,
            "verdict": self.verdict,
            "reason": str(self.refusal) if self.refusal else None,
            "routing": self.anatomy.to_dict() if self.anatomy else None,
            "proofs": [_finding_to_dict(*entry) for entry in self.findings],
            "notes": list(self.notes),
            "steering": None
            if self.plan is None
            else {**explain(self.plan), "reach": self.reach.to_dict() if self.reach else None},
        }


def examine(
    lm: RoutedModel,
    *,
    steering: str | Path | SteeringSpec | SteeringPlan | None = None,
    progress: Callable[[str], object] | None = None,
) -> Examination:
    """Examine a loaded model; its own capture, steering and records are left as they are.

    Args:
        lm: The model.
        steering: A steering to explain and measure, which changes nothing of the verdict.
        progress: Is called with what is about to run; see `planned_runs` for how often.

    Raises:
        UserError: The steering does not fit the model.
    """
    plan = resolve_plan(steering, lm.routing_shape)
    runs = Runs(lm, progress)
    with undisturbed(lm):
        lm.set_steering(None)
        modules = lm.torch_modules()
        anatomy = anatomy_of(modules.model, modules.sites, _scoring(modules)) if modules is not None else None
        findings = _findings(runs)
        reach = _reach(runs, plan) if plan is not None else None
    return Examination(
        lm.model_id or (anatomy.model_class if anatomy else lm.backend_name), anatomy, findings, plan, reach
    )


def planned_runs(lm: RoutedModel) -> int:
    """Return how many runs a full examination makes."""
    layers = len(lm.routing_shape.layers)
    return Runs.shared(layers) + sum(entry.runs + layers * entry.runs_per_layer for entry in all_proofs())


def _scoring(modules: TorchModules) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RoutingWarning)  # loading has warned, and the proofs say more
            return modules.scoring() or AFTERWARDS
    except RoutingBypassedError:
        return None  # the proofs meet it again and say so


def _reach(runs: Runs, plan: SteeringPlan) -> TargetShares | None:
    try:
        return measure(runs, plan)
    except (RoutingBypassedError, NoModulesError):
        return None  # the proofs have met it and said so


def _examine(entry: Proof, runs: Runs) -> ProofOutcome:
    if entry.looks_at == "modules" and not runs.has_modules:
        return ProofOutcome("not applicable", f"{NoModulesError()}; --against compares it with one that has them")
    try:
        return entry.examine(runs)
    except NoModulesError as error:
        return ProofOutcome("not proven", str(error))
    except (UserError, AttributionError) as error:
        problem, fix = (error.problem, error.fix) if isinstance(error, UserError) else (str(error), None)
        return ProofOutcome("fail", problem, fix)


def _findings(runs: Runs) -> tuple[tuple[Proof, ProofOutcome], ...]:
    """Examine all; a proof proves nothing where one that it needs does not hold."""
    findings = [(entry, _examine(entry, runs)) for entry in all_proofs()]
    missing = {entry.name: entry for entry, finding in findings if finding.outcome in ("fail", "not proven")}
    return tuple(
        (entry, _mark_doubtful(finding, [missing[name] for name in entry.needs if name in missing]))
        for entry, finding in findings
    )


def _mark_doubtful(finding: ProofOutcome, missing: Sequence[Proof]) -> ProofOutcome:
    if finding.outcome != "pass" or not missing:
        return finding
    summary = f"{'; '.join(entry.if_missing for entry in missing)} ({finding.summary})"
    return replace(finding, outcome="not proven", summary=summary)


def _finding_to_dict(entry: Proof, finding: ProofOutcome) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "observed": entry.observes,
        "outcome": finding.outcome,
        "summary": finding.summary,
        "advice": finding.advice,
        "details": dict(finding.details),
        "layers": {str(layer): dict(values) for layer, values in finding.layers.items()},
    }
