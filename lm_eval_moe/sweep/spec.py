"""The sweep file, version 1: a steering file, a grid over its fields, and the tasks to evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.checked_fields import Field, Place, show
from lm_eval_moe.steering import SteeringSpec, parse_spec
from lm_eval_moe.strict_yaml import read_yaml

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["VERSION", "Axis", "Evaluation", "SweepSpec", "load_sweep"]

VERSION = 1
MAX_CELLS = 10_000
_EVALUATION = ("limit", "num_fewshot", "gen_kwargs", "apply_chat_template", "system_instruction", "batch_size")


@dataclass(frozen=True)
class Axis:
    """One field of the steering file and the values that it takes.

    Attributes:
        key: Its dotted path, ``interventions.0.action.soft``.
        values: As YAML has them.
    """

    key: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The path's last part that is no index, which is what tables call it."""
        return next(part for part in reversed(self.key.split(".")) if not part.isdecimal())

    @property
    def is_numeric(self) -> bool:
        """Whether it is a strength, a threshold or another number."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)


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
    def parse(cls, given: Field) -> Self:
        """Read ``{limit: 100, num_fewshot: 0}``; everything may be left out."""
        fields = given.keys([], _EVALUATION)
        found: dict[str, Any] = {}
        for name, each in fields.items():
            if name == "num_fewshot":
                found[name] = each.integer(0, 1000)
            elif name == "limit":
                limit = each.number(1e-9, 1e9)  # a share of the items below 1, as in lm-eval
                found[name] = int(limit) if limit.is_integer() else limit
            elif name == "apply_chat_template":
                found[name] = each.flag()
            elif name == "batch_size":
                found[name] = each.text() if isinstance(each.value, str) else each.integer(1, 1_000_000)
            elif name == "gen_kwargs":
                found[name] = {str(key): value.value for key, value in each.mapping("{max_gen_toks: 256}").items()}
            else:
                found[name] = each.text()
        return cls(**found)

    def arguments(self) -> dict[str, Any]:
        """Return what is given, as keyword arguments of `simple_evaluate`."""
        given = {name: getattr(self, name) for name in _EVALUATION if name != "batch_size"}
        return {name: value for name, value in given.items() if value is not None and value is not False}


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
    place: Place = field(compare=False, repr=False)

    @classmethod
    def parse(cls, given: Field) -> Self:
        """Read a whole file."""
        fields = given.keys(
            ["version", "steering", "tasks", "grid"], ["name", "description", "controls", "skip_empty", "evaluation"]
        )
        fields["version"].version(VERSION)
        base = fields["steering"]
        if isinstance(base.value, str):
            path = given.place.base_dir / base.value
            steering, source, folder = read_yaml(path, "steering"), str(path), path.parent
            if not isinstance(steering, Mapping):
                raise base.error(f"{show(base.value)} holds no steering spec", "give a steering file")
        else:
            steering = {str(key): value.value for key, value in base.mapping("steer.yaml").items()}
            source, folder = base.place.where, given.place.base_dir
        tasks = [each.text(empty=False) for each in fields["tasks"].items("[mgsm_direct_en, mgsm_direct_sw]")]
        if not tasks:
            raise fields["tasks"].error("the list is empty", "name at least one task")
        axes = tuple(
            _axis(key, each) for key, each in fields["grid"].mapping("{interventions.0.action.soft: [0.25]}").items()
        )
        if len({axis.name for axis in axes}) < len(axes):  # tables must tell them apart
            axes = tuple(_FullyNamed(axis.key, axis.values) for axis in axes)
        count = 1
        for axis in axes:
            count *= len(axis.values)
        if count > MAX_CELLS:
            raise fields["grid"].error(f"the grid has {count} cells", f"give at most {MAX_CELLS}")
        return cls(
            name=fields["name"].text(empty=False) if "name" in fields else Path(given.place.source).stem,
            description=fields["description"].text() if "description" in fields else "",
            steering=steering,
            source=source,
            folder=folder,
            tasks=tuple(tasks),
            axes=axes,
            controls=fields["controls"].integer(0, 1000) if "controls" in fields else 3,
            skip_empty=fields["skip_empty"].flag() if "skip_empty" in fields else False,
            evaluation=Evaluation.parse(fields["evaluation"]) if "evaluation" in fields else Evaluation(),
            place=given.place,
        )

    def at(self, settings: Mapping[str, Any]) -> SteeringSpec:
        """Return the base with some fields replaced.

        Args:
            settings: Values by dotted path.

        Raises:
            UserError: The result is no steering spec.
        """
        # JSON is YAML, too: a value goes through as it is.
        overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
        return parse_spec(self.steering, self.source, self.folder, overrides)


class _FullyNamed(Axis):
    """An axis whose last part another axis has, too."""

    @property
    def name(self) -> str:
        return self.key


def load_sweep(path: str | Path) -> SweepSpec:
    """Read and check a sweep file.

    Raises:
        UserError: The file or its steering file cannot be read, or something in it is unknown, missing or wrong; the
            message names the file and the key, what was given, what is allowed.
    """
    return SweepSpec.parse(Field(Place(str(path), Path(path).parent), read_yaml(Path(path), "sweep")))


def _axis(key: object, given: Field) -> Axis:
    if not isinstance(key, str) or not key.strip() or all(part.isdecimal() for part in key.split(".")):
        raise given.error(f"{show(key)} is no path", "write for example interventions.0.action.soft: [0.25, 0.5]")
    values = tuple(each.value for each in given.items("[0.25, 0.5]"))
    if not values:
        raise given.error("the list is empty", "give at least one value")
    if any(values.index(value) < place for place, value in enumerate(values)):
        raise given.error("a value is given twice", "give every value once")
    return Axis(key, values)
