"""The sweep file, version 1: a steering file, a grid over its fields, and the tasks to evaluate."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_moe.results.sweeps import short_names
from lm_eval_moe.steering import SteeringSpec, parse_spec
from lm_eval_moe.strict_yaml import read_yaml
from lm_eval_moe.yaml_values import YamlPlace, YamlValue, show

__all__ = ["VERSION", "Axis", "Evaluation", "SweepSpec", "load_sweep"]

VERSION = 1
MAX_CELLS = 10_000


@dataclass(frozen=True)
class Axis:
    """One field of the steering file and the values that it takes.

    Attributes:
        key: Its dotted path, ``interventions.0.action.soft``.
        values: As YAML has them.
        name: What tables call it.
    """

    key: str
    values: tuple[Any, ...]
    name: str


@dataclass(frozen=True)
class Evaluation:
    """What `simple_evaluate` is given besides the tasks; None is its default."""

    limit: float | None = None
    num_fewshot: int | None = None
    gen_kwargs: Mapping[str, Any] | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    batch_size: int | str | None = None

    @classmethod
    def parse(cls, value: YamlValue) -> Evaluation:
        """Read ``{limit: 100, num_fewshot: 0}``; everything may be left out."""
        readers: dict[str, Callable[[YamlValue], Any]] = {
            "limit": _limit,
            "num_fewshot": lambda entry: entry.integer(0, 1000),
            "gen_kwargs": lambda entry: _plain_mapping(entry, "{max_gen_toks: 256}"),
            "apply_chat_template": YamlValue.flag,
            "system_instruction": YamlValue.text,
            "batch_size": lambda entry: entry.text() if isinstance(entry.value, str) else entry.integer(1, 1_000_000),
        }
        return cls(**{name: readers[name](entry) for name, entry in value.keys([], [*readers]).items()})

    def arguments(self) -> dict[str, Any]:
        """Return what is given, as keyword arguments of `simple_evaluate`."""
        arguments = {name: value for name, value in vars(self).items() if name != "batch_size"}
        return {name: value for name, value in arguments.items() if value is not None and value is not False}


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file, checked as far as that is possible without a model.

    Attributes:
        name: What tables call it.
        description: Free text.
        steering: The base that the grid changes: what a steering file holds.
        source: The base's file, as messages name it.
        folder: Where relative profile paths of the base start.
        tasks: Names of lm-eval tasks or groups.
        axes: The grid, the first varying slowest.
        controls: Random controls of every cell.
        skip_empty: Whether cells that select no expert are left out; otherwise they are an error.
        evaluation: How the tasks are evaluated.
        place: The file, for error messages.
    """

    name: str
    description: str
    steering: Mapping[str, Any]
    source: str
    folder: Path
    tasks: tuple[str, ...]
    axes: tuple[Axis, ...]
    controls: int
    skip_empty: bool
    evaluation: Evaluation
    place: YamlPlace = field(compare=False, repr=False)

    @classmethod
    def parse(cls, value: YamlValue) -> SweepSpec:
        """Read a whole file."""
        fields = value.keys(
            ["version", "steering", "tasks", "grid"], ["name", "description", "controls", "skip_empty", "evaluation"]
        )
        fields["version"].version(VERSION)
        base = fields["steering"]
        if isinstance(base.value, str):
            path = value.place.base_dir / base.value
            steering, source, folder = read_yaml(path, "steering"), str(path), path.parent
            if not isinstance(steering, Mapping):
                raise base.error(f"{show(base.value)} holds no steering spec", "give a steering file")
        else:
            steering = _plain_mapping(base, "steer.yaml")
            source, folder = base.place.where, value.place.base_dir
        tasks = [entry.text(empty=False) for entry in fields["tasks"].items("[mgsm_direct_en, mgsm_direct_sw]")]
        if not tasks:
            raise fields["tasks"].error("the list is empty", "name at least one task")
        grid = fields["grid"].mapping("{interventions.0.action.soft: [0.25]}")
        values = {str(key): _values(key, entry) for key, entry in grid.items()}
        count = math.prod(map(len, values.values()))
        if count > MAX_CELLS:
            raise fields["grid"].error(f"the grid has {count} cells", f"give at most {MAX_CELLS}")
        return cls(
            name=fields["name"].text(empty=False) if "name" in fields else Path(value.place.source).stem,
            description=fields["description"].text() if "description" in fields else "",
            steering=steering,
            source=source,
            folder=folder,
            tasks=tuple(tasks),
            axes=tuple(Axis(key, values[key], name) for key, name in short_names(values).items()),
            controls=fields["controls"].integer(0, 1000) if "controls" in fields else 3,
            skip_empty=fields["skip_empty"].flag() if "skip_empty" in fields else False,
            evaluation=Evaluation.parse(fields["evaluation"]) if "evaluation" in fields else Evaluation(),
            place=value.place,
        )

    def at(self, settings: Mapping[str, Any]) -> SteeringSpec:
        """Return the base with some fields replaced.

        Args:
            settings: Values by dotted path.

        Raises:
            UserError: The result is not a steering spec.
        """
        # JSON is YAML, too: a value goes through as it is.
        overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
        return parse_spec(self.steering, self.source, self.folder, overrides)


def load_sweep(path: str | Path) -> SweepSpec:
    """Read and check a sweep file.

    Raises:
        UserError: The file or its steering file cannot be read, or something in it is unknown, missing or wrong; the
            message names the file and the key, what was given, what is allowed.
    """
    return SweepSpec.parse(YamlValue(YamlPlace(str(path), Path(path).parent), read_yaml(Path(path), "sweep")))


def _limit(value: YamlValue) -> float:
    limit = value.number(1e-9, 1e9)  # a share of the items below 1, as in lm-eval
    return int(limit) if limit.is_integer() else limit


def _plain_mapping(value: YamlValue, like: str) -> dict[str, Any]:
    return {str(key): entry.value for key, entry in value.mapping(like).items()}


def _values(key: object, entry: YamlValue) -> tuple[Any, ...]:
    if not isinstance(key, str) or not key.strip() or all(part.isdecimal() for part in key.split(".")):
        raise entry.error(f"{show(key)} is not a path", "write for example interventions.0.action.soft: [0.25, 0.5]")
    values = tuple(item.value for item in entry.items("[0.25, 0.5]"))
    if not values:
        raise entry.error("the list is empty", "give at least one value")
    if any(values.index(value) < place for place, value in enumerate(values)):
        raise entry.error("a value is given twice", "give every value only once")
    return values
