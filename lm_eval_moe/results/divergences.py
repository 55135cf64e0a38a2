"""Whether the divergences of two runs are one quantity: only then does a difference between them mean anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lm_eval_moe.results.marks import divergence_marks, steered
from lm_eval_moe.results.routing import identity_of
from lm_eval_moe.results.run import Run

__all__ = ["why_not_compared"]


def why_not_compared(first: Run, second: Run, tasks: Sequence[str]) -> list[str]:
    """Return why the two runs' divergences of some tasks are not one quantity; empty if nothing speaks against it.

    They have to be to one reference language, over the same span of tokens, in routing of one shape that was read by
    one adapter, over as many documents, and to references that were steered alike or each as its own run. What one of
    the two does not say cannot be told to differ.
    """
    return list(dict.fromkeys(_reasons(first, second, tasks)))


def _reasons(first: Run, second: Run, tasks: Sequence[str]) -> Iterator[str]:
    def differ(what: str, one: object, other: object) -> Iterator[str]:
        if one is not None and other is not None and one != other:
            yield f"{what} {one} in {first.label}, {other} in {second.label}"

    for task in tasks:
        yield from differ("reference language", _reference(first, task), _reference(second, task))
    yield from differ("span", first.routing.capture, second.routing.capture)
    yield from differ("routing shape", _shape(first), _shape(second))
    yield from differ("adapter", _adapter(first), _adapter(second))
    for task in tasks:
        references = [run.routing_of(task).reference_steering for run in (first, second)]
        if references != [run.steering_hash for run in (first, second)]:
            yield from differ("divergence to", *(f"a reference {steered(digest)}" for digest in references))
        over = [next((m.count for m in divergence_marks(run, task) if m.of), None) for run in (first, second)]
        if over[0] != over[1]:
            texts = ["all documents" if count is None else str(count) for count in over]
            yield f"{task} over {texts[0]} in {first.label}, over {texts[1]} in {second.label}"


def _reference(run: Run, task: str) -> str | None:
    return run.task_routing(task).reference or run.routing.reference


def _shape(run: Run) -> str | None:
    shape = run.routing.model_shape
    return f"of {len(shape.layers)} layers of {shape.experts} experts, top {shape.top_k}" if shape.layers else None


def _adapter(run: Run) -> str | None:
    """Return the adapter file that read the routing, with the hash of what it says where that is known."""
    if not run.routing.is_said:
        return None
    identity = identity_of(run.raw)
    content = identity.parts.get("model.adapter") if identity else None
    return str(run.arguments.get("adapter") or "of the model's family") + (f" #{content[:8]}" if content else "")
