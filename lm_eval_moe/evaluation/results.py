"""The routing part of a results file, and routing fields in groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from lm_eval.config.group import AggMetricConfig

from lm_eval_moe._version import __version__
from lm_eval_moe.evaluation.averages import add_averages
from lm_eval_moe.evaluation.session import TaskTally

if TYPE_CHECKING:
    from lm_eval.api.group import Group

    from lm_eval_moe.evaluation.fields import Field
    from lm_eval_moe.evaluation.session import RoutingSession
    from lm_eval_moe.models.hf_moe import HFMoE
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["SCHEMA_VERSION", "add_routing", "aggregate_in_groups"]

SCHEMA_VERSION = 1
_FILTER = "none"


def aggregate_in_groups(groups: Iterable[Group], fields: Sequence[Field]) -> None:
    """Let the groups that aggregate scores aggregate the routing fields in the same way."""
    for group in groups:
        if group.has_aggregation:
            by_size = group.aggregate_metric_list[0].weight_by_size
            group.aggregate_metric_list = [
                *group.aggregate_metric_list,
                *(AggMetricConfig(metric=f.name, filter_list=None, weight_by_size=by_size) for f in fields),
            ]


def add_routing(
    results: dict[str, Any],
    model: HFMoE,
    reference: str,
    session: RoutingSession | None = None,
    tallies: Sequence[dict[str, TaskTally]] = (),
) -> dict[str, Any]:
    """Add the ``routing`` object to lm-eval's results, and name the fields alike whatever filters a task has.

    Args:
        results: lm-eval's.
        model: The evaluated model.
        reference: The reference language.
        session: What was captured; None without capture.
        tallies: Of every process.
    """
    names = {field.name for field in session.fields} if session else set()
    for table in ("results", "groups"):
        for scores in results.get(table, {}).values():
            _under_one_filter(scores, names)
    results["routing"] = {
        "schema_version": SCHEMA_VERSION,
        "lm_eval_moe_version": __version__,
        "model": model.model_id,
        "model_shape": model.routing_shape.to_dict(),
        "capture": model.capture,
        "reference": reference,
        "steering": _steering(model.steering) if model.steering else None,
        "tasks": {name: _task_entry(name, session, tallies) for name in session.pairings} if session else {},
        "groups": add_averages(results, session.pairings) if session else {},
    }
    return results


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


def _under_one_filter(scores: dict[str, Any], names: Collection[str]) -> None:
    """Rename ``routing_entropy,strict-match`` to ``routing_entropy,none``: routing knows no filters."""
    for key in list(scores):
        metric, comma, _ = key.partition(",")
        if comma and metric.removesuffix("_stderr") in names:
            scores.setdefault(f"{metric},{_FILTER}", scores[key])
            if key != f"{metric},{_FILTER}":
                del scores[key]


def _task_entry(name: str, session: RoutingSession, tallies: Sequence[dict[str, TaskTally]]) -> dict[str, Any]:
    pairing = session.pairings[name]
    total = TaskTally()
    for part in tallies:
        if name in part:
            total.merge(part[name])
    return {
        "language": pairing.language if pairing else None,
        "benchmark": pairing.benchmark if pairing else None,
        "reference": session.reference if "divergence" in total.curves else None,
        "documents": total.documents,
        "leaked_documents": total.leaked,
        "leak_unknown": session.leak_unknown,
        "tokens": total.tokens,
        "curves": total.means(),
        **({"thinking": total.thinking.to_dict()} if total.thinking.generations else {}),
    }
