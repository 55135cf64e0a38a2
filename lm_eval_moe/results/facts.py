"""What a results JSON says of a run, without its samples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.pairing import PairingRegistry, TaskPairing
from lm_eval_moe.results.routing import RoutingObject, Steering, TaskRouting
from lm_eval_moe.results.values import GAIN_SUFFIX, SHARES, LabelledRun, Metric, number_of
from lm_eval_moe.routing_fields import is_score
from lm_eval_moe.routing_fields.steered import STEERED_SELECTION

__all__ = ["RunFacts"]

_NAMING = ("peft", "delta", "pretrained", "model", "path", "engine")
_SECRET = re.compile(r"(token|api_?key|password|secret)", re.IGNORECASE)
_BYPASS = "bypass"
_UNKNOWN: tuple[str, ...] = ()  # of a pairing's item: the run knew what names an item, but did not write it down


class RunFacts:
    """What one labelled run says of itself.

    Args:
        run: The run.

    Attributes:
        label: What it is called.
        raw: The results as they were read.
        source: Their file.
        stem: Its name without its date.
        date: Its date; empty without one.
        table: The scores by task and group.
        routing: What they say of routing; empty for stock lm-eval's.

    Raises:
        UserError: The results hold no ``results`` table.
    """

    def __init__(self, run: LabelledRun) -> None:
        self.label, self.raw, self.source, self._run = run.label, run.results, run.source, run
        self.stem, self.date = run.stem, run.date
        if not isinstance(run.results, Mapping) or not isinstance(run.results.get("results"), Mapping):
            raise UserError(
                f"the run {run.label!r} has no table of results",
                fix="give what simple_evaluate returns, or a results JSON that it wrote",
            )
        self.table: Mapping[str, Mapping[str, Any]] = run.results["results"]
        self.routing = RoutingObject.of(run.results)
        self._routing_of_parts: dict[int, RoutingObject] = {id(run.results): self.routing}

    @cached_property
    def arguments(self) -> Mapping[str, Any]:
        """The model's arguments, by name."""
        arguments = (self.raw.get("config") or {}).get("model_args")
        if isinstance(arguments, str):
            arguments = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
        return arguments if isinstance(arguments, Mapping) else {}

    @property
    def shown_arguments(self) -> dict[str, str]:
        """The model's arguments as others may see them: secrets are blotted out."""
        return {
            str(name): "(hidden)" if _SECRET.search(str(name)) else str(value) for name, value in self.arguments.items()
        }

    @cached_property
    def model(self) -> str:
        """The model's name: as the results say, of a local folder the last two parts."""
        # In lm-eval's order; its own model_name is a random one where the model was handed over as an object.
        argument = next((self.arguments[key] for key in _NAMING if self.arguments.get(key)), None)
        name = str(argument or self.raw.get("model_name") or self.routing.model or "unnamed model")
        path = Path(name)
        return "/".join(path.parts[-2:]) if path.is_absolute() and len(path.parts) > 2 else name

    @property
    def steering_title(self) -> str:
        """The steering's name and the beginning of its hash; empty if unsteered."""
        if not self.steering:
            return ""
        return f"{self.steering.name or 'steering'} #{(self.steering.hash or '?')[:8]}"

    def part(self, task: str) -> Mapping[str, Any]:
        """Return the results that a task comes from, where several files were merged."""
        return self._run.parts.get(task, self.raw)

    def routing_of(self, task: str) -> RoutingObject:
        """Return the routing object that a task comes with, where several files were merged."""
        part = self.part(task)
        if id(part) not in self._routing_of_parts:
            self._routing_of_parts[id(part)] = RoutingObject.of(part)
        return self._routing_of_parts[id(part)]

    def task_routing(self, task: str) -> TaskRouting:
        """Return what is known of a task's routing."""
        return self.routing.tasks.get(task) or TaskRouting()

    @cached_property
    def steering(self) -> Steering | None:
        """The steering; None if unsteered.

        Results of lm-eval's own command have no ``routing`` object: there it is the name and hash that the model said
        of itself, else the file among the model's arguments.
        """
        if self.routing.is_said:
            return self.routing.steering
        config = self.raw.get("config") or {}
        steering = config.get("steering")
        if isinstance(steering, Mapping):
            return Steering.from_dict({name: str(steering[name]) for name in ("name", "hash") if steering.get(name)})
        path = None if "steering" in config else self.arguments.get("steering")
        return Steering(PurePath(str(path)).name) if path else None

    @property
    def steering_hash(self) -> str | None:
        """The hash of the steering; None if unsteered, or where the results do not say."""
        return self.steering.hash if self.steering else None

    @property
    def is_random_control(self) -> bool:
        """Whether every intervention draws its experts at random, or lists experts that were so drawn."""
        if self.steering is None:
            return False
        if self.steering.control_of:
            return True
        interventions = self.steering.spec.get("interventions") or []
        return bool(interventions) and all("random" in (entry.get("experts") or {}) for entry in interventions)

    def is_controlled_by(self, other: RunFacts) -> bool | None:
        """Return whether another run is this steered run's random control; None where its results do not say."""
        if not other.is_random_control or other.model != self.model:
            return False
        matching = self.steering.matching if self.steering else None
        control_of = other.steering.control_of if other.steering else None
        return matching == control_of if matching and control_of else None

    @property
    def layers(self) -> tuple[int, ...]:
        """The decoder-layer indices of the MoE layers; empty without captured routing."""
        return self.routing.model_shape.layers

    def band(self, name: str) -> tuple[int, ...]:
        """Return the MoE layers of ``early``, ``middle`` or ``late``."""
        return self.routing.model_shape.bands.get(name, ())

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, without the groups."""
        groups = set(self.raw.get("groups") or {})
        groups |= {name for name, members in (self.raw.get("group_subtasks") or {}).items() if members}
        return tuple(name for name in self.table if name not in groups)

    def leaves(self, group: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        """Yield the tasks of a group and of the groups within it; none of what is not a group.

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
            is_extra = name.endswith(("_stderr", GAIN_SUFFIX)) or not is_score(name) or name == _BYPASS
            if comma and not is_extra and number_of(value) is not None:
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

    def steered_selection(self, task: str) -> float | None:
        """Return the share of steered (token, layer) pairs at which a targeted expert was selected."""
        return number_of(self.table.get(task, {}).get(STEERED_SELECTION.key))

    def documents(self, task: str) -> int:
        """Return how many documents of a task were evaluated; 0 where the run does not say."""
        counts = (self.raw.get("n-samples") or {}).get(task) or {}
        return int(counts.get("effective") or 0)

    def pairing(self, task: str, registry: PairingRegistry) -> TaskPairing | None:
        """Return which language and benchmark a task is: as the run says, else as is known of the task's name.

        Raises:
            UserError: The name or the metadata say a language that is none.
        """
        metadata = ((self.raw.get("configs") or {}).get(task) or {}).get("metadata")
        entry = self.task_routing(task)
        registry_pairing = registry.pairing(task, metadata)
        if not (entry.language and entry.benchmark):
            return registry_pairing
        item = (
            registry_pairing.item
            if registry_pairing is not None and registry_pairing.benchmark == entry.benchmark
            else _UNKNOWN
        )
        return TaskPairing(task, entry.language, entry.benchmark, item)
