"""One evaluation's routing: which requests to record, which item is which, and the values of the result fields."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.arguments import nothing_generated
from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.evaluation.items import Item, ItemKey
from lm_eval_moe.evaluation.leak import document_texts, leak_error, main_fields, selected_by, selection_of
from lm_eval_moe.evaluation.paired_items import check_unique, gold_answer, named_by, warn_of_shuffles
from lm_eval_moe.evaluation.tallies import TaskTally
from lm_eval_moe.harness.documents import TaskDocument, watched_task
from lm_eval_moe.harness.requests import prompt_of
from lm_eval_moe.pairing import TaskPairing
from lm_eval_moe.recording import RecordStore, RequestKey, RoutingRecord
from lm_eval_moe.routing_fields import CURVES, Curve, CurveError, RoutingField

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = ["RoutingSession"]

_AT_ONCE = 256
"""Records that processes exchange in one message."""


class RoutingSession:
    """Connects a model's routing records with the documents of the tasks that it is evaluated on.

    Args:
        model: The model.
        fields: The fields to report.
        reference: Canonical tag of the language to compare with.
        include_reference: Whether the reference language's own tasks get the comparing fields, too.
        given: Records of reference items from a profile.
        keep: Arrays of the records to keep besides those that the fields read.
        allow_leak: Whether tasks may hold items that the model's steering was selected on.
        before: Called when all tasks have their requests, before these run; a session of which requests will run has
            to `begin` there.
        gather: Returns an object of every process, on every process.
    """

    def __init__(
        self,
        model: RoutedModel,
        fields: Sequence[RoutingField],
        reference: str,
        *,
        include_reference: bool = False,
        profile_records: dict[ItemKey, RoutingRecord] | None = None,
        keep: Iterable[str] = (),
        allow_leak: bool = False,
        before: Callable[[], None] = lambda: None,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> None:
        self.model, self.fields, self.reference = model, tuple(fields), reference
        self.include_reference, self.gather = include_reference, gather
        self.pairings: dict[str, TaskPairing | None] = {}
        self.items: dict[str, dict[int, Item]] = defaultdict(dict)
        self.tallies: dict[str, TaskTally] = defaultdict(TaskTally)
        self._answers: list[tuple[TaskPairing, dict[str, str | None]]] = []  # of the tasks before this one
        self._given = profile_records or {}
        self._own_references: dict[ItemKey, Item] = {}
        self._references: RecordStore[ItemKey] = RecordStore()  # of other processes
        self._before = before
        self._unbuilt: set[str] = set()
        self.has_profile = bool(self._given)
        self.said: list[str] = []
        self._wanted: set[RequestKey] = set()
        self._steered = model.steering is not None
        self._selection = selection_of(model.steering)
        self.leak_unknown = bool(self._selection.unknown)
        self._needs_texts = bool(self._selection.texts or tuple(keep))
        self.captures = model.capture != "off"
        self.compares = any(field.curve.compares for field in self.fields)
        self._allow_leak = allow_leak
        self.curves = [c for c in CURVES.values() if self._is_drawn(c)]
        self.request = CaptureRequest(
            arrays=frozenset().union(*(curve.arrays for curve in self.curves), keep),
            changes=any(field.curve.second_call for field in self.fields),
        )
        self._capturing = ExitStack()
        self._captured = Captured()

    def _is_drawn(self, curve: Curve) -> bool:
        if not self.captures:
            return False
        if curve.second_call:
            return any(field.curve is curve for field in self.fields)
        return self._steered or not curve.steered

    # ------------------------------------------------------------------ before the requests run

    @contextmanager
    def watching(self, tasks: Mapping[str, Any]) -> Iterator[None]:
        """Learn of tasks, in which language they are and how their items pair, as lm-eval makes their requests.

        Every process calls it, with the same tasks.

        Args:
            tasks: The loaded tasks, by the names that they have in the results.

        Raises:
            UserError: A task generates nothing whose thinking could be captured, a key names two documents of it, or
                it has documents that experts were selected on, and may not have them.
        """
        with ExitStack() as stack:
            for name, task in tasks.items():
                self.pairings[name] = self.model.registry.pairing(name, task.get_config("metadata"))
                self._unbuilt.add(name)
                stack.enter_context(watched_task(task, name, partial(self._learn, name, task)))
            yield

    def _learn(self, name: str, task: Any, documents: Sequence[TaskDocument]) -> None:
        """Learn of a task's documents in this process, and of the requests that stand for them."""
        if self.model.capture == "thinking" and any(i.request_type != "generate_until" for i in task.instances):
            raise nothing_generated(name)
        fields, pairing, rows = main_fields(task.eval_docs), self.pairings[name], []
        for document in documents:
            doc, row, request = document.doc, document.row, document.request
            key = ItemKey(pairing.benchmark, pairing.item_key(doc, row)) if pairing else None
            if key is not None:
                rows.append((key.item, row, gold_answer(task, doc) if _is_place(key.item) else None))
            requests = [RequestKey(name, document.doc_id, request.idx, n) for n in range(request.repeats or 1)]
            texts = document_texts(task, doc, prompt_of(request), fields) if self._needs_texts else ()
            self.items[name][document.doc_id] = Item(key, tuple(requests), texts)
            self.tallies[name].evaluated.append((row, _content_hash(doc)))
            self._wanted.update(requests)
        self._check_pairing(name, [row for part in self.gather(rows) for row in part])
        self._check_leak(name)
        self._unbuilt.discard(name)
        if not self._unbuilt:
            self._before()

    def _check_pairing(self, task: str, rows: Sequence[tuple[str, int, str | None]]) -> None:
        """Check that a task's documents can be told apart, and are the same as the reference's.

        Args:
            task: Its name.
            rows: Key, row and right answer of the documents of all processes.
        """
        pairing = self.pairings[task]
        if pairing is None:
            return
        check_unique(
            f"task {task}",
            [(key, row) for key, row, _ in rows],
            f"its items are named by {named_by(pairing)}: remove duplicates, or choose fields that identify "
            "an item in metadata.routing.item of the task, or in a file given with --parallel",
        )
        answers = {key: answer for key, _, answer in rows}
        if self.model.rank == 0:
            warn_of_shuffles(pairing, answers, self._answers, self.reference)
        self._answers.append((pairing, answers))

    def _check_leak(self, task: str) -> None:
        """Count the task's documents that experts were selected on."""
        items = self.items[task]
        leaked = [
            (item.key.item if item.key else f"document {doc_id}", source)
            for doc_id, item in items.items()
            if (source := selected_by(self._selection, item.key, item.texts)) is not None
        ]
        self.tallies[task].leaked = len(leaked)
        if leaked and not self._allow_leak:
            raise leak_error(task, len(items), leaked)

    def begin(self) -> None:
        """Let the model record what this session needs of its requests, until `end`."""
        languages = {name: pairing.language for name, pairing in self.pairings.items() if pairing}
        self.request = replace(self.request, keys=frozenset(self._wanted), languages=languages)
        self._captured = self._capturing.enter_context(self.model.capturing(self.request))

    def end(self) -> None:
        """Let the model go; what it recorded is forgotten with the session."""
        self._capturing.close()

    def say(self, text: str) -> None:
        """Warn of something that belongs into the results as well, once."""
        if text not in self.said:
            self.said.append(text)
            warnings.warn(text, RoutingWarning, stacklevel=2)

    # ------------------------------------------------------------------ after they have run

    def _exchange(self) -> None:
        """Bring together the reference items of all processes."""
        references = self._own_references = {
            item.key: item
            for task, pairing in self.pairings.items()
            if self.captures and pairing and pairing.language == self.reference
            for item in self.items[task].values()
            if item.key
        }
        counts = self.gather(len(references))
        if len(counts) == 1:
            return
        keys = list(references)
        for start in range(0, max(counts), _AT_ONCE):
            part = {key: self.record(references[key]) for key in keys[start : start + _AT_ONCE]}
            for theirs in self.gather(part):
                for key, record in theirs.items():
                    if record is not None and key not in references and key not in self._references:
                        self._references.add(key, record)

    def record(self, item: Item) -> RoutingRecord | None:
        """Return an item's record, pooled over its repeats; None where nothing was captured."""
        return _pooled(self._records(item))

    def _records(self, item: Item) -> list[RoutingRecord]:
        return [record for key in item.requests if (record := self._captured.record(key)) is not None]

    def values(self) -> dict[str, list[dict[str, float]]]:
        """Return the result fields of this process's documents by task, and count them in the tallies; once a run.

        Every process calls it: the documents of one are compared with the reference items of all.
        """
        self._exchange()
        return {task: [self._values(task, doc_id) for doc_id in self.items[task]] for task in self.pairings}

    def _values(self, task: str, doc_id: int) -> dict[str, float]:
        item = self.items[task].get(doc_id) if self.captures else None
        records = self._records(item) if item else []
        tally = self.tallies[task]
        tally.unrecorded += item is not None and not records
        for generation in records:
            tally.thinking.add(generation.thinking)
        record = _pooled(records)
        if item is None or record is None:
            return {}
        reference = self._reference_of(task, item)
        shape = self.model.routing_shape
        curves = {}
        for curve in self.curves:
            if reference is not None or not curve.compares:
                try:
                    curves[curve] = curve.values(record, reference, shape)
                except CurveError as error:
                    tally.failed[str(error)] += 1
        tally.documents += 1
        tally.tokens += record.tokens
        for curve, values in curves.items():
            tally.add(curve.name, values)
        all_values = {
            field.name: field.value(curves[field.curve], shape) for field in self.fields if field.curve in curves
        }
        defined = {name: value for name, value in all_values.items() if value is not None}
        tally.field_documents.update(defined.keys())
        return defined

    def is_compared(self, task: str) -> bool:
        """Whether a task's documents are compared with those of the reference language."""
        pairing = self.pairings[task]
        return pairing is not None and (pairing.language != self.reference or self.include_reference)

    def finished_tallies(self) -> dict[str, TaskTally]:
        """Return this process's tallies, complete once all documents have their values."""
        for task in self.pairings:
            self.tallies[task].steered = self._captured.steered_pairs[task]
        return dict(self.tallies)

    def _reference_of(self, task: str, item: Item) -> RoutingRecord | None:
        """Return the record of an item's reference: this run's, of this process or another, before a profile's."""
        key = item.key
        if key is None or not self.is_compared(task):
            return None
        reference = self.record(self._own_references[key]) if key in self._own_references else None
        reference = reference or next(iter(self._references.get(key, ())), None)
        return reference or self._given.get(key)


def _pooled(records: Sequence[RoutingRecord]) -> RoutingRecord | None:
    with_tokens = [record for record in records if record.tokens]
    return RoutingRecord.pooled(with_tokens) if with_tokens else None


def _is_place(key: str) -> bool:
    """Whether a key is the place of an item in its file, so that files in another order pair wrongly."""
    return key.removeprefix("row:").isdecimal()


def _content_hash(doc: Any) -> str:
    """Return the SHA-256 of a document's content."""
    return hashlib.sha256(json.dumps(doc, default=str, skipkeys=True).encode()).hexdigest()
