"""The routing part of a results file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from lm_eval_moe._version import __version__
from lm_eval_moe.evaluation.averages import add_averages
from lm_eval_moe.identity import Identity
from lm_eval_moe.results.routing import (
    KEY,
    SCHEMA_VERSION,
    GroupRouting,
    ModelShape,
    ReferenceSource,
    RoutingObject,
    Steering,
    TaskRouting,
)
from lm_eval_moe.routing_fields.divergence import DIVERGENCE

if TYPE_CHECKING:
    from lm_eval_moe.evaluation.session import RoutingSession
    from lm_eval_moe.evaluation.tallies import TaskTally
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["add_routing"]


def add_routing(
    results: dict[str, Any],
    session: RoutingSession,
    totals: Mapping[str, TaskTally],
    identity: Identity,
    reference: ReferenceSource,
) -> dict[str, Any]:
    """Add the ``routing`` object to lm-eval's results.

    Args:
        results: lm-eval's.
        session: What was captured.
        totals: What each task's documents add up to, over all processes.
        identity: What the results depend on.
        reference: Where the reference's routing comes from.
    """
    model = session.model
    results[KEY] = RoutingObject(
        schema_version=SCHEMA_VERSION,
        lm_eval_moe_version=__version__,
        model=model.model_id,
        model_shape=ModelShape.from_dict(model.routing_shape.to_dict()),
        capture=model.capture,
        reference=session.reference,
        steering=_steering(model.steering) if model.steering else None,
        warnings=tuple(session.said),
        tasks={name: _task_routing(name, session, totals[name]) for name in session.pairings},
        groups=_groups(results, session, totals) if session.captures else {},
        reference_source=reference,
        identity=identity.to_dict(),
    ).to_dict()
    return results


def _groups(
    results: dict[str, Any], session: RoutingSession, totals: Mapping[str, TaskTally]
) -> dict[str, GroupRouting]:
    """Add the averages over languages, and say in which of them a language's divergence is not over all documents."""
    groups = add_averages(results, session.pairings, session.reference)
    for name, entry in groups.items():
        partial = {}
        counts = Counter[str]()
        for task in chain(*entry.languages.values()):
            counts += totals[task].field_documents
        for language, tasks in entry.languages.items():
            compared = [totals[task] for task in tasks if session.is_compared(task)]
            with_value = sum(total.curve_documents[DIVERGENCE.curve.name] for total in compared)
            documents = sum(len(total.evaluated) for total in compared)
            if with_value < documents:
                partial[language] = f"{with_value} of {documents}"
        groups[name] = replace(entry, partial=partial, field_documents=dict(counts))
    return groups


def _steering(plan: SteeringPlan) -> Steering:
    """Return the plan, with the profiles that its experts were selected from."""
    counts: dict[str, Any] = {}  # of thousands of keys that nobody reads here
    if plan.selected_on:
        counts["selected_on"] = {benchmark: len(items) for benchmark, items in plan.selected_on.items()}
    if plan.selected_on_texts:
        counts["selected_on_texts"] = len(plan.selected_on_texts)
    profiles = tuple(source.to_dict() for source in plan.profiles)
    return replace(Steering.from_dict(plan.to_dict()), spec={**plan.spec, **counts}, profiles=profiles)


def _task_routing(name: str, session: RoutingSession, total: TaskTally) -> TaskRouting:
    pairing = session.pairings[name]
    return TaskRouting(
        language=pairing.language if pairing else None,
        benchmark=pairing.benchmark if pairing else None,
        reference=session.reference if DIVERGENCE.curve.name in total.curves else None,
        evaluated_documents=len(total.evaluated),
        document_hash=total.document_hash(),
        documents=total.documents,
        leaked_documents=total.leaked,
        leak_unknown=session.leak_unknown,
        tokens=total.tokens,
        steered_tokens=total.steered if session.model.steering else None,
        curve_documents={curve: total.curve_documents[curve] for curve in total.curves},
        curves={curve: tuple(means) for curve, means in total.means().items()},
        field_documents=dict(total.field_documents),
        thinking=total.thinking.to_dict() if total.thinking.generations else {},
    )
