"""A run of results as `simple_evaluate` returns them or a results JSON holds them, with its scores and their items."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from lm_eval_moe.errors import UserError
from lm_eval_moe.pairing import PairingRegistry, TaskPairing
from lm_eval_moe.results._json_lines import DO_WITHOUT, columns_of, read_columns
from lm_eval_moe.results.answers import KEYS, Answer, answers_in
from lm_eval_moe.results.facts import RunFacts
from lm_eval_moe.results.samples import MetricColumn, Shared, TaskSamples, of_list, of_log
from lm_eval_moe.results.values import Divergence, LabelledRun, Metric, Score, number_of
from lm_eval_moe.routing_fields import FILTER
from lm_eval_moe.routing_fields.divergence import DIVERGENCE
from lm_eval_moe.statistics import Estimate

__all__ = ["Divergence", "LabelledRun", "Metric", "Run", "Score", "default_registry", "read_runs"]

_PUT_BACK = f"put back the log that was written with the results, or {DO_WITHOUT}"
_MEANS = ("acc", "acc_norm", "exact_match")  # aggregated by the mean in every task that has them


class Run(RunFacts):
    """One labelled run, its samples read when they are asked for.

    Args:
        run: The run.
        registry: What is known of tasks' languages and items; by default of lm-eval's own.
        shared: Keeps equal identifiers of several runs once.

    Raises:
        UserError: The results hold no ``results`` table.
    """

    def __init__(self, run: LabelledRun, registry: PairingRegistry | None = None, shared: Shared | None = None) -> None:
        super().__init__(run)
        self._registry = registry or default_registry()
        self._shared = shared or Shared()
        self._read: dict[str, tuple[TaskPairing | None, TaskSamples | None]] = {}

    def score(self, task: str, metric: Metric) -> Score | None:
        """Return a task's value of a metric, None where the run has none.

        Raises:
            UserError: The samples log is not that of this run, is damaged, or holds a value that is not finite.
        """
        scores = self.table.get(task, {})
        value = number_of(scores.get(metric.key))
        if value is None:
            return None
        estimate = Estimate(value, number_of(scores.get(f"{metric.name}_stderr,{metric.filter}")))
        samples = self.samples_of(task)
        column_and_documents = _column(samples, metric) if samples else None
        if samples is None or column_and_documents is None:
            return Score(estimate, None, {}, metric.key)
        column, documents = column_and_documents
        if column.nan and samples.source:
            raise UserError(
                f"{column.nan} as {metric.name}",
                fix="evaluate the task again, or leave it out: compare --tasks",
                where=str(samples.source),
            )
        values = column.values
        # An aggregation other than the mean (a perplexity) cannot be taken apart into items.
        is_mean = values is not None and math.isclose(
            math.fsum(values) / len(values), value, rel_tol=1e-6, abs_tol=1e-9
        )
        if values is not None and not is_mean and samples.source and self._is_a_mean(task, metric):
            raise UserError(
                f"the mean of {metric.name} is {math.fsum(values) / len(values):.6g}, but the results say {value:.6g}: "
                "it is the log of a different run",
                fix=_PUT_BACK,
                where=str(samples.source),
            )
        items = dict(zip(column.ids, values.tolist(), strict=True)) if values is not None and is_mean else None
        return Score(estimate, items, documents, metric.key)

    def _is_a_mean(self, task: str, metric: Metric) -> bool:
        listed = ((self.raw.get("configs") or {}).get(task) or {}).get("metric_list") or []
        for entry in listed:
            if isinstance(entry, Mapping) and entry.get("metric") == metric.name and entry.get("aggregation"):
                return bool(entry["aggregation"] == "mean")
        return metric.name in _MEANS

    def samples_of(self, task: str) -> TaskSamples | None:
        """Return a task's samples, None if there are none.

        Raises:
            UserError: The log is damaged or is not that of this run.
        """
        return self._samples(task, self._read[task][0] if task in self._read else self._own_pairing(task))

    def answers(self, task: str, metric: Metric, ids: Collection[int]) -> Mapping[int, Answer]:
        """Return what was answered on some documents of a task; empty without samples.

        Args:
            task: The task.
            metric: Says which filter counts, and how choices are compared.
            ids: The documents' ``doc_id``.

        Raises:
            UserError: The samples log cannot be read.
        """
        in_memory = (self.raw.get("samples") or {}).get(task)
        if in_memory is None and task not in self._run.logs:
            return {}
        columns = columns_of(in_memory, KEYS) if in_memory is not None else read_columns(self._run.logs[task], KEYS)
        config = (self.raw.get("configs") or {}).get(task) or {}
        return answers_in(columns, metric, ids, str(config.get("target_delimiter", " ")))

    def _own_pairing(self, task: str) -> TaskPairing | None:
        try:
            return self.pairing(task, self._registry)
        except UserError:  # of the task's name; results that are there can be shown, whatever the task is called
            return None

    def _samples(self, task: str, pairing: TaskPairing | None) -> TaskSamples | None:
        if task in self._read and self._read[task][0] == pairing:
            return self._read[task][1]
        names = {name for key in self.table.get(task, {}) if (name := key.partition(",")[0]) and "," in key}
        names = {name for name in names if not name.endswith("_stderr")}
        in_memory = (self.raw.get("samples") or {}).get(task)
        samples = None
        if in_memory is not None:
            samples = of_list(in_memory, pairing, names, self._shared)
        elif task in self._run.logs:
            samples = of_log(self._run.logs[task], pairing, names, self._shared)
            self._check_log(task, samples)
        self._read[task] = pairing, samples
        return samples

    def _check_log(self, task: str, samples: TaskSamples) -> None:
        """Refuse the log of another run: its documents have to be as many, and have the hash, that the results say."""
        expected = self.documents(task)
        counts = [len(documents) for documents in samples.documents.values()] or [0]
        wrong = [count for count in counts if expected and count != expected]
        if wrong or counts == [0]:
            raise UserError(
                f"holds {(wrong or counts)[0]} documents, but the results say {expected}: it is cut off, or the log of "
                "a different run",
                fix=_PUT_BACK,
                where=str(samples.source),
            )
        task_hash = (self.part(task).get("task_hashes") or {}).get(task)
        if task_hash and samples.task_hash and task_hash != samples.task_hash:
            raise UserError(
                "its documents and prompts do not have the hash that the results give (task_hashes): it is the log of "
                "a different run, or was edited",
                fix=_PUT_BACK,
                where=str(samples.source),
            )

    def divergence(self, task: str) -> Divergence:
        """Return a task's divergence to the reference; from its curve where the field was not asked for."""
        curve = self.task_routing(task).curves.get(DIVERGENCE.curve.name) or None
        middle = self.score(task, Metric(DIVERGENCE.name, FILTER))
        if middle is None and curve is not None:
            at = [self.layers.index(layer) for layer in self.band("middle")]
            values = [value for i in at if (value := curve[i]) is not None]
            middle = Score(Estimate(sum(values) / len(values), None), None, {}) if values else None
        return Divergence(middle, curve)

    def item_names(self, task: str, pairing: TaskPairing | None) -> Mapping[int, str] | None:
        """Return what names each document across languages, None where that is not known."""
        samples = self._samples(task, pairing) if pairing is not None else None
        return samples.names if samples else None


@lru_cache(maxsize=1)
def default_registry() -> PairingRegistry:
    """Return what is known of lm-eval's own tasks."""
    return PairingRegistry.default()


def read_runs(runs: Sequence[LabelledRun], registry: PairingRegistry | None = None) -> tuple[Run, ...]:
    """Read all runs.

    Raises:
        UserError: There is none, a label occurs twice, or one holds no results.
    """
    if not runs:
        raise UserError("a report needs at least one run", fix="give the baseline first, then what to compare with it")
    labels = [run.label for run in runs]
    for label in labels:
        if not label.strip() or labels.count(label) > 1:
            raise UserError(
                f"the label {label!r} is {'empty' if not label.strip() else 'given to several runs'}",
                fix="give every run a label of its own",
            )
    shared = Shared()
    return tuple(Run(run, registry, shared) for run in runs)


def _column(samples: TaskSamples, metric: Metric) -> tuple[MetricColumn, Mapping[int, str]] | None:
    """Return a metric's column and what names the content of its documents."""
    # Routing fields are logged once a document, under whichever filter comes first.
    homes = list(samples.documents) if metric.is_routing else [metric.filter, ""]
    for home in homes:
        column = samples.columns.get((home, metric.name))
        if column is not None:
            documents = samples.documents[home]
            if len(column.ids) < len(documents):
                documents = {doc_id: documents[doc_id] for doc_id in column.ids}
            return column, documents
    return None
