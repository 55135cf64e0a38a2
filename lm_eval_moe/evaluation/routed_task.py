"""A task whose documents also have routing fields, aggregated, logged and gathered by lm-eval itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any

from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from lm_eval_moe.capture import RequestKey
from lm_eval_moe.evaluation.leak import document_texts, main_fields
from lm_eval_moe.evaluation.paired_items import gold_answer
from lm_eval_moe.evaluation.session import RoutingSession

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

__all__ = ["own_class", "routed"]


@contextmanager
def routed(task: Task, session: RoutingSession, gather: Callable[[Any], list[Any]]) -> Iterator[None]:
    """Let a loaded task report routing fields, keeping its own class's behaviour in everything else.

    Args:
        task: The task; its class becomes a subclass of its own class for the time being.
        session: The evaluation's routing.
        gather: Returns an object of every process, on every process.
    """
    own = type(task)
    task.__class__ = type(own.__name__, (_RoutedTask, own), {"__module__": own.__module__})
    task._routing = _TaskRouting(session, gather)
    session.add_task(task.task_name, task.get_config("metadata"))
    try:
        yield
    finally:
        task.__class__ = own
        del task._routing


def own_class(task: Task) -> type:
    """Return the class that a task had before it was routed."""
    kinds = type(task).__mro__
    return kinds[2] if isinstance(task, _RoutedTask) else kinds[0]


class _TaskRouting:
    """The state that a routed task needs beside its own."""

    def __init__(self, session: RoutingSession, gather: Callable[[Any], list[Any]]) -> None:
        self.session, self.gather = session, gather
        self.scoring = False  # whether the requests have run
        self.passes = 0  # over the documents, one a filter
        self.doc_id: int | None = None


class _RoutedTask(Task):
    """Mixed in before a task's own class."""

    _routing: _TaskRouting

    def build_all_requests(self, *, samples: list[int] | None = None, **kwargs: Any) -> None:
        super().build_all_requests(samples=samples, **kwargs)
        self._routing.session.check_span(self.task_name, {instance.request_type for instance in self.instances})
        rows = sorted(set(samples)) if samples else None
        fields = main_fields(self.eval_docs)
        by_document: dict[int, list[Instance]] = defaultdict(list)
        for instance in self.instances:
            by_document[instance.doc_id].append(instance)
        for doc_id, instances in by_document.items():
            chosen = _representative(self, instances)
            keys = [RequestKey(self.task_name, doc_id, chosen.idx, repeat) for repeat in range(chosen.repeats or 1)]
            row = rows[doc_id] if rows else doc_id
            answer = partial(gold_answer, self, chosen.doc)
            texts = partial(document_texts, self, chosen.doc, chosen.args[0], fields)
            self._routing.session.add_item(self.task_name, doc_id, chosen.doc, row, keys, answer, texts)
        self._routing.session.check_pairing(self.task_name, self._routing.gather)
        self._routing.session.check_leak(self.task_name)
        self._routing.session.built(self.task_name)

    def apply_filters(self) -> Any:
        # All processes come here in the same order once their requests have run.
        filtered = super().apply_filters()
        self._routing.session.exchange(self._routing.gather)
        self._routing.scoring = True
        return filtered

    def doc_iterator(self, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        self._routing.passes += self._routing.scoring
        for doc_id, doc in super().doc_iterator(**kwargs):
            self._routing.doc_id = doc_id
            yield doc_id, doc

    def process_results(self, doc: Any, results: Any) -> dict[str, Any]:
        metrics: dict[str, Any] = super().process_results(doc, results)
        # Routing does not depend on how the answer's text was filtered: once a document.
        if self._routing.passes != 1 or self._routing.doc_id is None:
            return metrics
        return {**metrics, **self._routing.session.values(self.task_name, self._routing.doc_id)}

    def aggregation(self) -> dict[str, Any]:
        return {**super().aggregation(), **{field.name: mean for field in self._routing.session.fields}}

    def higher_is_better(self) -> dict[str, Any]:
        ours = {field.name: field.higher_is_better for field in self._routing.session.fields}
        return {**super().higher_is_better(), **ours}


def _representative(task: Any, instances: list[Instance]) -> Instance:
    """Return the request whose routing stands for a document: the gold choice's, or the only one there is."""
    by_index = {instance.idx: instance for instance in instances}
    if len(by_index) == 1:
        return instances[0]
    gold = _gold_index(task, instances[0].doc)
    return by_index.get(gold, by_index[min(by_index)])


def _gold_index(task: Any, doc: Any) -> int:
    gold = task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)
    if isinstance(gold, (list, tuple)) and gold:
        gold = gold[0]
    if isinstance(gold, str):
        choices = task.doc_to_choice(doc)
        return choices.index(gold) if gold in choices else 0
    return int(gold) if isinstance(gold, Integral) else 0
