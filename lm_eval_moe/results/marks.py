"""What has to be known of a number before it is believed: the one list of marks, for tables, verdicts and pages.

A run writes into its results on which documents its experts were selected, whether its steering reached a task, and
over how many documents a divergence is. What a run does not say (an early release's, lm-eval's own) is not marked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lm_eval_moe.results.routing import identity_of
from lm_eval_moe.results.run import Run
from lm_eval_moe.routing_fields.divergence import DIVERGENCE

__all__ = [
    "SIGNS",
    "Mark",
    "divergence_marks",
    "legend",
    "listed",
    "score_marks",
    "signs_of",
    "steered",
    "why_not_compared",
]

_KINDS = {  # sign and meaning
    "leaked": (
        "L",
        "documents that the steering's experts were selected on (--allow_leak): a gain on them proves nothing",
    ),
    "leak unknown": ("U", "it could not be checked on which items the steering's experts were selected"),
    "unreached": ("N", "steering was in force, but reached no token of the task: the run is unsteered there"),
    "partial": ("D", "divergence over fewer documents than were evaluated"),
    "other reference": ("R", "divergence to a reference that was not steered like the run"),
    "not compared": ("X", "divergences of different quantities are not compared"),
    "fewer languages": ("F", "over fewer languages than the column has"),
    "independent": (
        "I",
        "the standard error treats languages as independent, since it is not known which items are the same",
    ),
}
SIGNS: Mapping[str, str] = {kind: sign for kind, (sign, _) in _KINDS.items()}
"""The sign that stands beside a number in a table, by kind of mark."""


@dataclass(frozen=True)
class Mark:
    """One thing to know of a run's number.

    Attributes:
        kind: What it is, a key of `SIGNS`.
        run: The run's label.
        where: The task or the column, or for ``not compared`` the reason.
        count: How many documents or languages it is about; 0 where that is not counted.
        of: Of how many.
    """

    kind: str
    run: str
    where: str
    count: int = 0
    of: int = 0

    @property
    def text(self) -> str:
        """What it says beside the run's name."""
        return f"{self.count} of {self.of} in {self.where}" if self.of else self.where


def score_marks(run: Run, task: str) -> Iterator[Mark]:
    """Yield what has to be known of all numbers of a task in a run."""
    if not run.steering:
        return
    if not run.routing.is_said:  # made by lm-eval's own command: nothing was checked
        yield Mark("leak unknown", run.label, task)
        return
    entry = run.task_routing(task)
    if entry.leaked_documents:
        yield Mark("leaked", run.label, task, entry.leaked_documents, _documents(run, task))
    if entry.leak_unknown:
        yield Mark("leak unknown", run.label, task)
    if entry.steered_tokens == 0:
        yield Mark("unreached", run.label, task)


def divergence_marks(run: Run, task: str) -> Iterator[Mark]:
    """Yield what has to be known of a task's divergence, beside its `score_marks`."""
    middle = run.divergence(task).middle
    if middle is None:
        return
    compared = run.task_routing(task).curve_documents.get(DIVERGENCE.curve.name)
    if compared is None and middle.items is not None:
        compared = len(middle.items)
    documents = _documents(run, task)
    if compared is not None and compared < documents:
        yield Mark("partial", run.label, task, compared, documents)
    reference = run.routing_of(task).reference_steering
    if reference != run.steering_hash:
        yield Mark("other reference", run.label, f"to a reference {steered(reference)}")


def steered(digest: str | None) -> str:
    """Say how a reference was steered."""
    return f"steered with #{digest[:8]}" if digest else "without steering"


def _documents(run: Run, task: str) -> int:
    return run.task_routing(task).documents or run.documents(task)


def why_not_compared(first: Run, second: Run, tasks: Sequence[str]) -> list[str]:
    """Return why the two runs' divergences of some tasks are not one quantity; empty if nothing speaks against it.

    They have to be to one reference language, over the same span of tokens, in routing of one shape that was read by
    one adapter, over as many documents, and to references that were steered alike or each as its own run. What one of
    the two does not say cannot be told to differ.
    """
    return list(dict.fromkeys(_reasons(first, second, tasks)))


def _reasons(first: Run, second: Run, tasks: Sequence[str]) -> Iterator[str]:
    def differ(what: str, before: object, after: object) -> Iterator[str]:
        if before is not None and after is not None and before != after:
            yield f"{what} {before} in {first.label}, {after} in {second.label}"

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


def signs_of(marks: Iterable[Mark]) -> str:
    """Return the signs of marks, each once, in the order of `SIGNS`."""
    kinds = {mark.kind for mark in marks}
    return "".join(sign for kind, sign in SIGNS.items() if kind in kinds)


def legend(marks: Iterable[Mark], *, signs: bool = True) -> list[str]:
    """Return a sentence for every kind of mark: its sign, what it means, and the runs and tasks that have it.

    Args:
        marks: The marks.
        signs: Begin with the signs, which stand in a table.
    """
    by_kind: dict[str, dict[str, list[str]]] = {}
    for mark in dict.fromkeys(marks):
        by_kind.setdefault(mark.kind, {}).setdefault(mark.run, []).append(mark.text)
    sentences = []
    for kind, (sign, meaning) in _KINDS.items():
        runs = by_kind.get(kind, {})
        most = 8 if len(runs) < 3 else 3  # of a run: many runs with many tasks each are no sentence
        if runs:
            runs_text = listed([f"{run} ({listed(texts, most)})" for run, texts in runs.items()])
            sentences.append(f"{sign}: " * signs + f"{meaning}: {runs_text}.")
    return sentences


def listed(texts: Sequence[str], most: int = 8) -> str:
    """Return the first texts, and how many more there are."""
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
