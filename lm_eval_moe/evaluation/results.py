"""The routing part of a results file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from lm_eval_moe._version import __version__
from lm_eval_moe.evaluation.averages import add_averages

if TYPE_CHECKING:
    from lm_eval_moe.evaluation.session import RoutingSession, TaskTally
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["SCHEMA_VERSION", "add_routing"]

SCHEMA_VERSION = 1


def add_routing(results: dict[str, Any], session: RoutingSession, totals: Mapping[str, TaskTally]) -> dict[str, Any]:
    """Add the ``routing`` object to lm-eval's results.

    Args:
        results: lm-eval's.
        session: What was captured.
        totals: What each task's documents add up to, over all processes.
    """
    model = session.model
    results["routing"] = {
        "schema_version": SCHEMA_VERSION,
        "lm_eval_moe_version": __version__,
        "model": model.model_id,
        "model_shape": model.routing_shape.to_dict(),
        "capture": model.capture,
        "reference": session.reference,
        "steering": _steering(model.steering) if model.steering else None,
        "warnings": session.said,
        "tasks": {name: _task_entry(name, session, totals[name]) for name in session.pairings},
        "groups": _groups(results, session, totals) if session.captures else {},
    }
    return results


def _groups(results: dict[str, Any], session: RoutingSession, totals: Mapping[str, TaskTally]) -> dict[str, Any]:
    """Add the averages over languages, and say in which of them a language's divergence is not over all documents."""
    groups = add_averages(results, session.pairings)
    for entry in groups.values():
        partial = {}
        for language, tasks in entry.get("languages", {}).items():
            compared = [totals[task] for task in tasks if session.compared(task)]
            with_value = sum(total.curve_documents["divergence"] for total in compared)
            documents = sum(len(total.evaluated) for total in compared)
            if with_value < documents:
                partial[language] = f"{with_value} of {documents}"
        if partial:
            entry["partial"] = partial
    return groups


def _steering(plan: SteeringPlan) -> dict[str, Any]:
    """Return the plan, with the profiles that its experts were selected from."""
    sources = [
        {
            **{field.name: getattr(source, field.name) for field in fields(source) if field.name != "path"},
            "identity": source.identity.hash if source.identity else None,
        }
        for source in plan.profiles
    ]
    steering = {**plan.to_dict(), "profiles": sources}
    counts: dict[str, Any] = {}  # of thousands of keys that nobody reads here
    if plan.selected_on:
        counts["selected_on"] = {benchmark: len(items) for benchmark, items in plan.selected_on.items()}
    if plan.selected_on_texts:
        counts["selected_on_texts"] = len(plan.selected_on_texts)
    return {**steering, "spec": {**plan.spec, **counts}}


def _task_entry(name: str, session: RoutingSession, total: TaskTally) -> dict[str, Any]:
    pairing = session.pairings[name]
    steered = {"steered_tokens": total.steered} if session.model.steering else {}
    return {
        "language": pairing.language if pairing else None,
        "benchmark": pairing.benchmark if pairing else None,
        "reference": session.reference if "divergence" in total.curves else None,
        "evaluated_documents": len(total.evaluated),
        "document_hash": total.document_hash(),
        "documents": total.documents,
        "leaked_documents": total.leaked,
        "leak_unknown": session.leak_unknown,
        "tokens": total.tokens,
        **steered,
        "curve_documents": {curve: total.curve_documents[curve] for curve in total.curves},
        "curves": total.means(),
        **({"thinking": total.thinking.to_dict()} if total.thinking.generations else {}),
    }
