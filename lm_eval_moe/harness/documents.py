"""What is known about a task's documents once its requests are made, before any of them runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Integral
from typing import TYPE_CHECKING, Any

from lm_eval_moe.replacing import replaced

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["TaskDocument", "gold_target", "watched_task"]


@dataclass(frozen=True)
class TaskDocument:
    """A document that this process evaluates.

    Attributes:
        doc_id: lm-eval's number of it, which its requests carry.
        row: Its place among the task's evaluation documents.
        doc: Its content.
        request: The request that stands for it: the gold choice's, or the only one there is.
    """

    doc_id: int
    row: int
    doc: Any
    request: Instance


def watched_task(task: Any, name: str, built: Callable[[Sequence[TaskDocument]], None]) -> AbstractContextManager[None]:
    """Be notified of a task's documents as soon as lm-eval has made its requests.

    Args:
        task: The loaded task.
        name: Its name in the results, which its requests get where they have another (lm-eval 0.5 calls a member of a
            group ``group::task``, and may run a task in two groups).
        built: Called with the documents, in the order in which lm-eval scores and logs them.
    """
    build = task.build_all_requests

    def build_all_requests(*, samples: Sequence[int] | None = None, **kwargs: Any) -> Any:
        result = build(samples=samples, **kwargs)
        rows = _number_chosen(task, samples) if samples else {}
        for instance in task.instances:
            instance.task_name = name
        built(_documents(task, rows))
        return result

    return replaced(task, "build_all_requests", build_all_requests)


def _documents(task: Any, rows: Mapping[int, int]) -> list[TaskDocument]:
    by_document: dict[int, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        by_document[instance.doc_id].append(instance)
    return [
        TaskDocument(doc_id, rows.get(doc_id, doc_id), request.doc, request)
        for doc_id, instances in by_document.items()
        for request in (_representative(task, instances),)
    ]


def _number_chosen(task: Any, samples: Sequence[int]) -> dict[int, int]:
    """Return the rows of chosen documents by lm-eval's numbers of them.

    lm-eval 0.4 counts the chosen documents. 0.5.0.dev1 numbers them by row, but takes the numbers for counts when it
    logs samples, and ends in an IndexError when the model has run: there they are counted here.
    """
    rows = sorted(set(samples))
    if version("lm_eval") == "0.5.0.dev1":
        places = {row: place for place, row in enumerate(rows)}
        for instance in task.instances:
            instance.doc_id = places[instance.doc_id]
        return dict(enumerate(rows))
    return dict(zip((number for number, _ in task.doc_iterator(samples=samples)), rows, strict=True))


def _representative(task: Any, instances: list[Instance]) -> Instance:
    by_index = {instance.idx: instance for instance in instances}
    if len(by_index) == 1:
        return instances[0]
    return by_index.get(_gold_index(task, instances[0].doc), by_index[min(by_index)])


def _gold_index(task: Any, doc: Any) -> int:
    gold = gold_target(task, doc)
    if isinstance(gold, str):
        choices = task.doc_to_choice(doc)
        return choices.index(gold) if gold in choices else 0
    return int(gold) if isinstance(gold, Integral) else 0


def gold_target(task: Any, doc: Any) -> Any:
    """Return a document's right answer, or the first of several: an index of its choices or a text; None: it has none.

    In lm-eval 0.4 a task with several inputs and one ending says which input is right where the others have the prompt.
    """
    gold = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
    if isinstance(gold, (list, tuple)):
        return gold[0] if gold else None
    return gold
