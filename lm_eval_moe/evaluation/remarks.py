"""What a user must know about an evaluation: what it will lack, before it runs, and what it lacked, afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_moe.evaluation.missed_targets import shortfall
from lm_eval_moe.evaluation.tallies import unended
from lm_eval_moe.routing_fields.divergence import DIVERGENCE

if TYPE_CHECKING:
    from lm_eval_moe.evaluation.session import RoutingSession
    from lm_eval_moe.evaluation.tallies import TaskTally
    from lm_eval_moe.pairing import TaskPairing
    from lm_eval_moe.steering.coverage import Coverage

__all__ = ["fields_over_some", "remarks_after", "remarks_before", "what_was_lost"]


def remarks_before(session: RoutingSession) -> Iterator[str]:
    """Yield what is known once all requests are there: tasks without a reference, and tasks that are not steered."""
    coverage = session.model.coverage
    for task, pairing in session.pairings.items():
        if session.compares and pairing is None:
            yield (
                f"{task}: its language is unknown, so it has no routing divergence; add `routing: {{language: .., "
                "benchmark: .., item: ..}` to the task's metadata, or list the task in a file given with --parallel"
            )
        if session.compares and pairing is not None and _has_no_reference(session, pairing):
            yield session.model.registry.explain_missing(pairing, session.reference)
        if coverage is not None and pairing is not None and _stays_unsteered(session, coverage, pairing.language):
            yield coverage.unreached(f"task {task}", pairing.language)


def remarks_after(session: RoutingSession, totals: Mapping[str, TaskTally]) -> Iterator[str]:
    """Yield what the evaluation lacked.

    Args:
        session: The evaluation.
        totals: What each task's documents add up to, over all processes.
    """
    plan, coverage = session.model.steering, session.model.coverage
    for task, total in totals.items():
        pairing, evaluated = session.pairings[task], len(total.evaluated)
        language = pairing.language if pairing else None
        if total.leaked:
            yield (
                f"task {task}: {total.leaked} of its {evaluated} documents are items that experts were selected on: "
                "a gain on them means nothing"
            )
        if coverage is not None and coverage.reaches(language) and not total.steered:
            yield coverage.unreached(f"task {task}", language)
        spanless = evaluated - total.documents - total.unrecorded
        if session.captures and spanless > 0:
            yield (
                f"{task}: no routing was captured for {spanless} of its {evaluated} documents, "
                f"whose requests have no token in the span {session.model.capture!r}; choose another with capture="
            )
        yield from unended(task, total.thinking)
        with_value = total.curve_documents[DIVERGENCE.curve.name]
        if (
            pairing is not None
            and session.compares
            and session.is_compared(task)
            and with_value < total.documents
            and not _has_no_reference(session, pairing)
        ):
            yield _partial(session, pairing, with_value, evaluated)
    if plan is not None:
        yield from shortfall(plan, totals.values())


def fields_over_some(session: RoutingSession, totals: Mapping[str, TaskTally]) -> Iterator[str]:
    """Say of which of a task's documents its result fields are the mean, where these are not all."""
    for task, total in totals.items() if session.captures else ():
        partial = [(name, count) for name, count in total.field_documents.items() if count < len(total.evaluated)]
        if partial:
            counts = ", ".join(f"{name} over {count}" for name, count in partial)
            yield f"{task}: of its {len(total.evaluated)} documents, {counts}"


def what_was_lost(
    session: RoutingSession, totals: Mapping[str, TaskTally], results: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what should have been captured and was not: a fault, of whoever, and no property of the run.

    Args:
        session: The evaluation.
        totals: What each task's documents add up to, over all processes.
        results: lm-eval's.
    """
    for task, total in totals.items() if session.captures else ():
        scored = results["n-samples"].get(task, {}).get("effective", 0)
        if scored > len(total.evaluated):
            yield f"task {task}: lm-eval scored {scored} documents, but announced {len(total.evaluated)}"
        if total.unrecorded:
            yield (
                f"task {task}: the requests of {total.unrecorded} of its {len(total.evaluated)} documents did not "
                "reach the model under their names"
            )
        for problem, documents in total.failed.items():
            yield f"task {task}: {problem} (in {documents} of its {total.documents} documents)"
        for field in session.fields if not total.failed else ():
            document_count = total.documents if not field.curve.compares else total.curve_documents[field.curve.name]
            layers = session.model.routing_shape.band(field.band or "all")
            if (
                document_count
                and layers
                and not field.curve.steered
                and field.key not in results["results"].get(task, {})
            ):
                yield f"task {task}: {field.name} has no value in any of its {total.documents} documents"


def _stays_unsteered(session: RoutingSession, coverage: Coverage, language: str) -> bool:
    """Whether it is known beforehand, and has to be said, that no token in a language is steered."""
    # Of a plan without any strength it is said once that it changes nothing, where it was given.
    if coverage.changes_nothing or coverage.reaches(language):
        return False
    # A file that itself leaves out English, among languages that it does not leave out, means what it says.
    languages = [pairing.language if pairing else None for pairing in session.pairings.values()]
    return not (coverage.leaves_out(language) and any(coverage.reaches(task_language) for task_language in languages))


def _has_no_reference(session: RoutingSession, pairing: TaskPairing) -> bool:
    """Whether nothing in the run, nor a profile, could hold any reference item of a task."""
    if pairing.language == session.reference or session.has_profile:
        return False
    return not _in_run(session, pairing)


def _in_run(session: RoutingSession, pairing: TaskPairing) -> list[str]:
    pairings = [task_pairing for task_pairing in session.pairings.values() if task_pairing]
    return [
        task_pairing.task
        for task_pairing in session.model.registry.reference_tasks(pairing, session.reference, pairings)
    ]


def _partial(session: RoutingSession, pairing: TaskPairing, with_value: int, evaluated: int) -> str:
    places = [", ".join(_in_run(session, pairing)), "the given profile" if session.has_profile else ""]
    return (
        f"{pairing.task}: {DIVERGENCE.name} covers {with_value} of its {evaluated} documents; the items of the "
        f"others are not among those of {' or '.join(place for place in places if place)}"
    )
