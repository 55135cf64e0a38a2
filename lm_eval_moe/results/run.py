"""Read what a report needs from results as `simple_evaluate` returns them or the results JSON holds them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.parallel import ParallelRegistry, TaskPairing
from lm_eval_moe.results.samples import Column, Shared, TaskSamples, of_list, of_log
from lm_eval_moe.results.values import SHARES, Divergence, LabelledRun, Metric, Score, is_number
from lm_eval_moe.routing_fields import FILTER, is_score
from lm_eval_moe.routing_fields.divergence import DIVERGENCE
from lm_eval_moe.routing_fields.steered import STEERED_SELECTION
from lm_eval_moe.statistics import Estimate

__all__ = ["Divergence", "LabelledRun", "Metric", "Run", "Score", "default_registry", "read_runs"]

_NAMING = ("peft", "delta", "pretrained", "model", "path", "engine")
_GAIN = "_gain_over_control"
_BYPASS = "bypass"
_MEANS = ("acc", "acc_norm", "exact_match")  # aggregated by the mean in every task that has them
_UNKNOWN: tuple[str, ...] = ()  # of a pairing's item: the run knew what names an item, but did not write it down


class Run:
    """One labelled run, read.

    Args:
        run: The run.
        registry: What is known of tasks' languages and items; by default of lm-eval's own.
        shared: Keeps equal identifiers of several runs once.

    Raises:
        UserError: The results hold no ``results`` table.
    """

    def __init__(
        self, run: LabelledRun, registry: ParallelRegistry | None = None, shared: Shared | None = None
    ) -> None:
        self.label, self.raw, self.source, self._run = run.label, run.results, run.source, run
        self._registry = registry or default_registry()
        self._shared = shared or Shared()
        self._read: dict[str, tuple[TaskPairing | None, TaskSamples | None]] = {}
        if not isinstance(run.results, Mapping) or not isinstance(run.results.get("results"), Mapping):
            raise UserError(
                f"the run {run.label!r} has no table of results",
                fix="give what simple_evaluate returns, or a results JSON that it wrote",
            )
        self.table: Mapping[str, Mapping[str, Any]] = run.results["results"]
        self.routing: Mapping[str, Any] = run.results.get("routing") or {}

    @cached_property
    def arguments(self) -> Mapping[str, Any]:
        """The model's arguments, by name."""
        given = (self.raw.get("config") or {}).get("model_args")
        if isinstance(given, str):
            given = dict(part.split("=", 1) for part in given.split(",") if "=" in part)
        return given if isinstance(given, Mapping) else {}

    @cached_property
    def model(self) -> str:
        """The model's name: as the results say, of a local folder the last two parts."""
        # In lm-eval's order; its own model_name is a random one where the model was handed over as an object.
        given = next((self.arguments[key] for key in _NAMING if self.arguments.get(key)), None)
        name = str(given or self.raw.get("model_name") or self.routing.get("model") or "unnamed model")
        path = Path(name)
        return "/".join(path.parts[-2:]) if path.is_absolute() and len(path.parts) > 2 else name

    @property
    def steering_title(self) -> str:
        """The steering's name and the beginning of its hash; empty if unsteered."""
        if not self.steering:
            return ""
        return f"{self.steering.get('name') or 'steering'} #{str(self.steering.get('hash') or '?')[:8]}"

    def part(self, task: str) -> Mapping[str, Any]:
        """Return the results that a task comes from, where several files were merged."""
        return self._run.parts.get(task, self.raw)

    def routing_of(self, task: str) -> Mapping[str, Any]:
        """Return the routing object that a task comes with, where several files were merged."""
        return self.part(task).get("routing") or {}

    @cached_property
    def steering(self) -> Mapping[str, Any] | None:
        """The steering's name, hash, spec and experts per layer; None if unsteered.

        Results of lm-eval's own command have no ``routing`` object: there it is the name and hash that the model said
        of itself, else the file among the model's arguments.
        """
        if self.routing:
            steering: Mapping[str, Any] | None = self.routing.get("steering")
            return steering
        config = self.raw.get("config") or {}
        said = config.get("steering")
        if isinstance(said, Mapping):
            return {name: str(said[name]) for name in ("name", "hash") if said.get(name)}
        given = None if "steering" in config else self.arguments.get("steering")
        return {"name": PurePath(str(given)).name} if given else None

    @property
    def is_random_control(self) -> bool:
        """Whether every intervention draws its experts at random, or lists experts that were so drawn."""
        if (self.steering or {}).get("control_of"):
            return True
        interventions = ((self.steering or {}).get("spec") or {}).get("interventions") or []
        return bool(interventions) and all("random" in (each.get("experts") or {}) for each in interventions)

    def is_controlled_by(self, other: Run) -> bool | None:
        """Return whether another run is this steered run's random control; None where its results do not say."""
        own, drawn = self.steering or {}, other.steering or {}
        if not other.is_random_control or other.model != self.model:
            return False
        if not own.get("matching") or not drawn.get("control_of"):
            return None
        return bool(own["matching"] == drawn["control_of"])

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder-layer indices of the MoE layers; empty without captured routing."""
        return tuple((self.routing.get("model_shape") or {}).get("layers") or ())

    def band(self, name: str) -> tuple[int, ...]:
        """Return the MoE layers of ``early``, ``middle`` or ``late``."""
        shape = self.routing.get("model_shape") or {}
        return tuple((shape.get("bands") or {}).get(name) or ())

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, without the groups."""
        groups = set(self.raw.get("groups") or {})
        groups |= {name for name, members in (self.raw.get("group_subtasks") or {}).items() if members}
        return tuple(name for name in self.table if name not in groups)

    def leaves(self, group: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield the tasks of a group and of the groups within it; none of what is no group.

        Args:
            group: Its name.
            above: The groups that it was reached through: one that holds itself, which only a forger makes, ends there.
        """
        members = self.raw.get("group_subtasks") or {}
        for name in members.get(group) or ():
            if not members.get(name):
                yield name
            elif name not in (*above, group):
                yield from self.leaves(name, (*above, group))

    def metrics(self, task: str) -> Iterator[Metric]:
        """Yield a task's metrics that are not about routing, in the results' order."""
        for key, value in self.table.get(task, {}).items():
            name, comma, filtered = key.partition(",")
            beside = name.endswith(("_stderr", _GAIN)) or not is_score(name) or name == _BYPASS
            if comma and not beside and _number(value) is not None:
                yield Metric(name, filtered)

    def is_unscored(self, task: str) -> bool:
        """Whether a task was run with ``--predict_only``: lm-eval then writes a ``bypass`` of 999, not a score."""
        return any(key.startswith(f"{_BYPASS},") for key in self.table.get(task, {})) and not any(self.metrics(task))

    def main_metric(self, task: str) -> Metric | None:
        """Return accuracy, else exact match, else the first metric that is not about routing."""
        metrics = list(self.metrics(task))
        for name in SHARES:
            for metric in metrics:
                if metric.name == name:
                    return metric
        return metrics[0] if metrics else None

    def higher_is_better(self, task: str, metric: Metric) -> bool:
        """Whether a larger value is better, as the task says (most do not say no)."""
        return ((self.raw.get("higher_is_better") or {}).get(task) or {}).get(metric.name) is not False

    def score(self, task: str, metric: Metric) -> Score | None:
        """Return a task's value of a metric, None where the run has none.

        Raises:
            UserError: The samples log is not that of this run, is damaged, or holds a value that is not finite.
        """
        scores = self.table.get(task, {})
        value = _number(scores.get(metric.key))
        if value is None:
            return None
        estimate = Estimate(value, _number(scores.get(f"{metric.name}_stderr,{metric.filter}")))
        samples = self.samples_of(task)
        found = _column(samples, metric) if samples else None
        if samples is None or found is None:
            return Score(estimate, None, {}, metric.key)
        column, documents = found
        if column.nan and samples.source:
            raise UserError(
                f"{column.nan} as {metric.name}",
                fix="evaluate the task again, or leave it out with --tasks",
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
                "it is the log of another run",
                fix="put back the log that was written with the results, or leave samples out with --no-samples",
                where=str(samples.source),
            )
        return Score(estimate, _items(column) if is_mean else None, documents, metric.key)

    def _is_a_mean(self, task: str, metric: Metric) -> bool:
        listed = ((self.raw.get("configs") or {}).get(task) or {}).get("metric_list") or []
        for each in listed:
            if isinstance(each, Mapping) and each.get("metric") == metric.name and each.get("aggregation"):
                return bool(each["aggregation"] == "mean")
        return metric.name in _MEANS

    def samples_of(self, task: str) -> TaskSamples | None:
        """Return a task's samples, None if there are none.

        Raises:
            UserError: The log is damaged or is not that of this run.
        """
        return self._samples(task, self._read[task][0] if task in self._read else self._own_pairing(task))

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
        found = None
        if in_memory is not None:
            found = of_list(in_memory, pairing, names, self._shared)
        elif task in self._run.logs:
            found = of_log(self._run.logs[task], pairing, names, self._shared)
            self._check_log(task, found)
        self._read[task] = pairing, found
        return found

    def _check_log(self, task: str, samples: TaskSamples) -> None:
        """Refuse the log of another run: its documents have to be as many, and have the hash, that the results say."""
        expected = self.documents(task)
        fix = "put back the log that was written with the results, or leave samples out with --no-samples"
        counts = [len(documents) for documents in samples.documents.values()] or [0]
        wrong = [count for count in counts if expected and count != expected]
        if wrong or counts == [0]:
            raise UserError(
                f"holds {(wrong or counts)[0]} documents, but the results say {expected}: it is cut off, or the log of "
                "another run",
                fix=fix,
                where=str(samples.source),
            )
        given = (self.part(task).get("task_hashes") or {}).get(task)
        if given and samples.task_hash and given != samples.task_hash:
            raise UserError(
                "its documents and prompts do not have the hash that the results give (task_hashes): it is the log of "
                "another run, or was edited",
                fix=fix,
                where=str(samples.source),
            )

    def divergence(self, task: str) -> Divergence:
        """Return a task's divergence to the reference; from its curve where the field was not asked for."""
        curves = ((self.routing.get("tasks") or {}).get(task) or {}).get("curves") or {}
        drawn = curves.get(DIVERGENCE.curve.name)
        curve = tuple(drawn) if drawn else None
        middle = self.score(task, Metric(DIVERGENCE.name, FILTER))
        if middle is None and curve is not None:
            at = [self.layers.index(layer) for layer in self.band("middle")]
            known = [value for i in at if (value := curve[i]) is not None]
            middle = Score(Estimate(sum(known) / len(known), None), None, {}) if known else None
        return Divergence(middle, curve)

    def steered_selection(self, task: str) -> float | None:
        """Return the share of steered (token, layer) pairs at which a targeted expert was selected."""
        return _number(self.table.get(task, {}).get(STEERED_SELECTION.key))

    def documents(self, task: str) -> int:
        """Return how many documents of a task were evaluated; 0 where the run does not say."""
        counts = (self.raw.get("n-samples") or {}).get(task) or {}
        return int(counts.get("effective") or 0)

    def item_names(self, task: str, pairing: TaskPairing | None) -> Mapping[int, str] | None:
        """Return what names each document across languages, None where that is not known."""
        samples = self._samples(task, pairing) if pairing is not None else None
        return samples.names if samples else None

    def pairing(self, task: str, registry: ParallelRegistry) -> TaskPairing | None:
        """Return which language and benchmark a task is: as the run says, else as is known of the task's name.

        Raises:
            UserError: The name or the metadata say a language that is none.
        """
        metadata = ((self.raw.get("configs") or {}).get(task) or {}).get("metadata")
        entry = (self.routing.get("tasks") or {}).get(task) or {}
        known = registry.pairing(task, metadata)
        if not (entry.get("language") and entry.get("benchmark")):
            return known
        item = known.item if known is not None and known.benchmark == entry["benchmark"] else _UNKNOWN
        return TaskPairing(task, entry["language"], entry["benchmark"], item)


@lru_cache(maxsize=1)
def default_registry() -> ParallelRegistry:
    """Return what is known of lm-eval's own tasks."""
    return ParallelRegistry.default()


def read_runs(runs: Sequence[LabelledRun], registry: ParallelRegistry | None = None) -> tuple[Run, ...]:
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


def _column(samples: TaskSamples, metric: Metric) -> tuple[Column, Mapping[int, str]] | None:
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


def _items(column: Column) -> Mapping[int, float]:
    assert column.values is not None
    return dict(zip(column.ids, column.values.tolist(), strict=True))


def _number(value: object) -> float | None:
    """Return a number; lm-eval writes 'N/A' for a standard error that it does not know."""
    return float(value) if is_number(value) else None
