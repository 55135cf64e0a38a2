"""What is kept of a task's samples: who the items are, and their values; the texts are not kept.

The samples come from a log (``samples_<task>_<date>.jsonl``) or from the ``samples`` that `simple_evaluate` returns.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import UserError
from lm_eval_moe.pairing import PairingRegistry, TaskPairing
from lm_eval_moe.results._json_lines import ABSENT, DO_WITHOUT, Columns, columns_of, read_columns
from lm_eval_moe.results.values import LARGEST

__all__ = ["MetricColumn", "Shared", "TaskSamples", "of_list", "of_log", "with_compact_samples"]

T = TypeVar("T")


@dataclass
class Shared:
    """Equal identifiers of many runs, kept once: 200 runs of a benchmark have the same items."""

    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made for the key, making it the first time."""
        if key not in self._kept:
            self._kept[key] = make()
        value: T = self._kept[key]
        return value

    def one(self, value: T) -> T:
        """Return the first value that was equal to this one."""
        return self.once(value, lambda: value)

    def mapping(self, keys: tuple[int, ...], values: tuple[str, ...]) -> Mapping[int, str]:
        """Return the mapping of keys to values, the same object for the same content."""
        return self.once((keys, values), lambda: dict(zip(keys, values, strict=True)))


@dataclass(frozen=True)
class MetricColumn:
    """One metric under one filter.

    Attributes:
        ids: The documents' ``doc_id``, in the samples' order.
        values: Their values; None where one of them is not a number (a metric that is not a mean of items).
        nan: Where the first value that is not finite stands: ``line 3`` of the log, or of the list of samples.
    """

    ids: tuple[int, ...]
    values: NDArray[np.float64] | None
    nan: str | None


@dataclass(frozen=True)
class TaskSamples:
    """A task's samples.

    Attributes:
        columns: By (filter, metric).
        documents: What names each document's content, by ``doc_id``; by filter.
        names: What names each document across languages; None where that is not known.
        task_hash: lm-eval's hash of all documents, prompts and targets, None where a sample lacks one of these.
        source: The log; None for samples that were in memory.
    """

    columns: Mapping[tuple[str, str], MetricColumn]
    documents: Mapping[str, Mapping[int, str]]
    names: Mapping[int, str] | None
    task_hash: str | None
    source: Path | None = None


def of_list(
    samples: Sequence[Mapping[str, Any]], pairing: TaskPairing | None, metrics: Collection[str], shared: Shared
) -> TaskSamples:
    """Read the samples of one task as `simple_evaluate` returns them."""
    return _task_samples(columns_of(samples, _keys(pairing, metrics)), pairing, metrics, shared, None)


def of_log(path: Path, pairing: TaskPairing | None, metrics: Collection[str], shared: Shared) -> TaskSamples:
    """Read one samples log.

    Args:
        path: ``samples_<task>_<date>.jsonl``.
        pairing: Says which fields of a document name an item; None: nothing is known.
        metrics: Names of the metrics to keep.
        shared: Keeps equal identifiers once.

    Raises:
        UserError: The log cannot be read, is cut off, or holds a document twice under one filter; with file and line.
    """
    return _task_samples(read_columns(path, _keys(pairing, metrics)), pairing, metrics, shared, path)


_HASHES = ("doc_hash", "prompt_hash", "target_hash")
_NAMES = ("doc_id", *_HASHES, "filter", "metrics")


def with_compact_samples(results: Mapping[str, Any], registry: PairingRegistry) -> dict[str, Any]:
    """Return results whose samples hold what statistics need: values and what names the items, but not the texts."""
    samples = {}
    for task, documents in (results.get("samples") or {}).items():
        pairing = registry.pairing(task, ((results.get("configs") or {}).get(task) or {}).get("metadata"))
        fields = (pairing.item or ()) if pairing else ()
        samples[task] = [
            {
                **{name: sample[name] for name in (*_NAMES, *sample.get("metrics", ())) if name in sample},
                "doc": {name: sample["doc"][name] for name in fields if name in sample.get("doc", {})},
            }
            for sample in documents
        ]
    return {**results, "samples": samples}


def _keys(pairing: TaskPairing | None, metrics: Collection[str]) -> list[str]:
    keys = ["doc_id", "filter", *_HASHES, *sorted(metrics)]
    return [*keys, "doc"] if pairing is not None and pairing.item else keys


def _task_samples(
    columns: Columns, pairing: TaskPairing | None, metrics: Collection[str], shared: Shared, source: Path | None
) -> TaskSamples:
    filters = [str(value) if value is not ABSENT else "" for value in columns.values["filter"]]
    documents: dict[str, Mapping[int, str]] = {}
    metric_columns: dict[tuple[str, str], MetricColumn] = {}
    for under in dict.fromkeys(filters):
        at = [number for number, value in enumerate(filters) if value == under]
        ids = _ids(columns, at, under, source)
        doc_hashes = columns.values["doc_hash"]
        hashes = tuple("" if doc_hashes[i] is ABSENT else str(doc_hashes[i]) for i in at)
        doc_ids = shared.one(tuple(ids))
        documents[under] = shared.mapping(doc_ids, hashes)
        for metric in metrics:
            values = columns.values[metric]
            there = [number for number, i in enumerate(at) if values[i] is not ABSENT]
            if there:
                metric_ids = doc_ids if len(there) == len(at) else shared.one(tuple(ids[number] for number in there))
                places = [at[number] for number in there]
                metric_columns[under, metric] = _column(
                    metric_ids, [values[i] for i in places], places, columns, source
                )
    return TaskSamples(metric_columns, documents, _names(columns, pairing, shared), _task_hash(columns), source)


def _unit(source: Path | None) -> str:
    return "line" if source else "sample"


def _ids(columns: Columns, at: Sequence[int], under: str, source: Path | None) -> list[int]:
    """Return the documents of one filter, each of which may occur only once."""
    ids = [columns.values["doc_id"][i] for i in at]
    where, unit = str(source) if source else "samples", _unit(source)
    if set(map(type, ids)) != {int}:
        wrong = next(number for number, value in enumerate(ids) if type(value) is not int)
        raise UserError(
            f"{unit} {columns.places[at[wrong]]} has the doc_id {ids[wrong]!r:.60}, which is not a whole number",
            fix=f"give the log as lm-eval wrote it, or {DO_WITHOUT}",
            where=where,
        )
    if len(set(ids)) < len(ids):
        again = next(number for number, value in enumerate(ids) if value in ids[:number])
        first = columns.places[at[ids.index(ids[again])]]
        raise UserError(
            f"document {ids[again]} occurs twice under the filter {under!r}: {unit}s {first} and "
            f"{columns.places[at[again]]}",
            fix=f"a document may be logged once per filter; were two logs joined? Evaluate again, or {DO_WITHOUT}",
            where=where,
        )
    return ids


def _column(
    ids: tuple[int, ...], values: list[Any], at: Sequence[int], columns: Columns, source: Path | None
) -> MetricColumn:
    if not all(issubclass(kind, Real) for kind in set(map(type, values))):
        return MetricColumn(ids, None, None)
    try:
        numbers = np.array(values, dtype=float)
    except OverflowError:  # JSON's integers have no end
        numbers = np.array([value if abs(value) <= LARGEST else math.inf for value in values], dtype=float)
    usable = np.abs(numbers) <= LARGEST
    if usable.all():
        return MetricColumn(ids, numbers, None)
    first = int(np.argmin(usable))
    place = f"{_unit(source)} {columns.places[at[first]]} (document {ids[first]})"
    return MetricColumn(ids, None, f"{place} holds {values[first]!r:.40}")


def _names(columns: Columns, pairing: TaskPairing | None, shared: Shared) -> Mapping[int, str] | None:
    """Return what names each document across languages; None where that is not known of all."""
    ids = columns.values["doc_id"]
    if pairing is None or pairing.item == () or not ids:
        return None
    if pairing.item is None:
        unique = shared.one(tuple(dict.fromkeys(ids)))
        return shared.once(("rows", unique), lambda: {doc_id: pairing.item_key({}, doc_id) for doc_id in unique})
    names: dict[int, str] = {}
    for doc_id, doc in zip(ids, columns.values["doc"], strict=True):
        if doc_id not in names:
            if not isinstance(doc, Mapping) or not all(key in doc for key in pairing.item):
                return None
            names[doc_id] = pairing.item_key(doc, doc_id)
    return shared.mapping(tuple(names), tuple(names.values()))


def _task_hash(columns: Columns) -> str | None:
    """Return the hash that lm-eval writes as ``task_hashes``, None where a sample lacks a part of it."""
    parts = [columns.values[key] for key in _HASHES]
    if not parts[0] or any(set(map(type, values)) != {str} for values in parts):
        return None
    return hashlib.sha256("".join(itertools.chain.from_iterable(zip(*parts, strict=True))).encode()).hexdigest()
