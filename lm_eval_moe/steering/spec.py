"""The steering file, version 1: reading it, and what it says before it meets a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering.actions import Action, parse_action
from lm_eval_moe.steering.language_filter import LanguageFilter
from lm_eval_moe.steering.layers import LayerExpression
from lm_eval_moe.steering.overrides import apply_overrides
from lm_eval_moe.steering.selectors import Selector, parse_selector
from lm_eval_moe.strict_yaml import read_yaml
from lm_eval_moe.yaml_values import YamlPlace, YamlValue, listing, show

if TYPE_CHECKING:
    from typing import Self

__all__ = ["VERSION", "InterventionSpec", "Manner", "ModelBlock", "SteeringSpec", "Tokens", "load_spec", "parse_spec"]

VERSION = 1
MAX_SEED = 2**63 - 1
Tokens = Literal["all", "prompt", "generated"]
TOKENS: tuple[Tokens, ...] = ("all", "prompt", "generated")


@dataclass(frozen=True)
class ModelBlock:
    """The routing shape that the file is for; ``None`` is any.

    Attributes:
        layers: Decoder layers, or MoE layers.
        experts: Routed experts per layer, E.
        top_k: Experts selected per token, K.
    """

    layers: int | None = None
    experts: int | None = None
    top_k: int | None = None

    @classmethod
    def parse(cls, given: YamlValue) -> Self:
        """Read ``{layers: 48, experts: 128, top_k: 8}``; any of the three may be left out."""
        fields = given.keys([], ["layers", "experts", "top_k"])
        return cls(**{name: value.integer(1, 1_000_000) for name, value in fields.items()})

    def dump(self) -> dict[str, int]:
        """Return what is given."""
        return {name: size for name, size in vars(self).items() if size is not None}

    def check(self, shape: RoutingShape, place: YamlPlace) -> None:
        """Refuse a model of another shape.

        Raises:
            UserError: A number differs; for ``layers``, from the decoder layers and from the MoE layers alike.
        """
        actual = {
            "layers": tuple(dict.fromkeys((shape.depth, len(shape.layers)))),
            "experts": (shape.experts,),
            "top_k": (shape.top_k,),
        }
        for name, size in self.dump().items():
            if size not in actual[name]:
                has = " decoder layers, of them MoE ".join(str(number) for number in actual[name])
                raise (place / name).error(
                    f"the file is for a model with {name}: {size}, but this model has {has}",
                    "use a file made for this model; if the experts listed are right for it, correct the `model` block",
                )


@dataclass(frozen=True, kw_only=True)
class Manner:
    """What an intervention does to its experts, and where.

    Attributes:
        action: What happens to their logits.
        guard: Whether the scores of the final top-k are edited too.
        tokens: Which tokens of a request are steered.
        languages: Which requests are steered.
    """

    action: Action
    guard: bool = False
    tokens: Tokens = "all"
    languages: LanguageFilter = field(default_factory=LanguageFilter)

    def dump(self) -> dict[str, Any]:
        """Return it as YAML holds it, defaults included."""
        return {
            "action": self.action.dump(),
            "guard": self.guard,
            "tokens": self.tokens,
            "languages": self.languages.dump(),
        }


@dataclass(frozen=True)
class InterventionSpec(Manner):
    """One entry of ``interventions``."""

    layers: LayerExpression
    experts: Selector

    @classmethod
    def parse(cls, given: YamlValue) -> Self:
        """Read an entry."""
        fields = given.keys(["layers", "experts", "action"], ["guard", "tokens", "languages"])
        action = parse_action(fields["action"])
        guard = fields["guard"].flag() if "guard" in fields else False
        if guard and action.guards_by is None:
            guarded = [name for name, each in sorted(Action.registry.items()) if each.guards_by]
            raise fields["guard"].error(
                f"the action {action.name!r} neither forces nor bans experts, so it cannot be guarded",
                f"write guard: false, or choose the action {listing(guarded)}",
            )
        selector = parse_selector(fields["experts"])
        weighted = None if action.weighs else selector.weighted_at()
        if weighted is not None:
            weighing = [name for name, each in sorted(Action.registry.items()) if each.weighs]
            place = fields["experts"].place / selector.name
            for key in weighted:
                place = place / key
            raise place.error(
                f"the action {action.name!r} does not use coefficients",
                f"give the experts as a list without them, or choose the action {listing(weighing)}",
            )
        return cls(
            LayerExpression.parse(fields["layers"]),
            selector,
            action=action,
            guard=guard,
            tokens=fields["tokens"].choice(TOKENS) if "tokens" in fields else "all",
            languages=LanguageFilter.parse(fields["languages"]) if "languages" in fields else LanguageFilter(),
        )

    def dump(self) -> dict[str, Any]:
        """Return the entry as YAML holds it, defaults included."""
        rule = {self.experts.name: self.experts.dump()}
        return {"layers": self.layers.dump(), "experts": rule, **super().dump()}


@dataclass(frozen=True)
class SteeringSpec:
    """A steering file, checked as far as that is possible without a model.

    Attributes:
        name: What tables call it; the file's stem by default.
        description: Free text.
        source: Free text, such as a paper and its equation.
        model: The shape that the file is for, if it says so.
        seed: For ties and random controls.
        interventions: At least one, applied in order.
        selected_on: The items that listed experts were selected on: benchmark → item keys.
        selected_on_texts: Hashes of their texts.
        selected_on_unknown: Profiles of theirs that do not say which items they counted.
        control_of: Of random experts listed by number: the `SteeringPlan.matching` of what they control.
        place: The file, for error messages.
    """

    name: str
    description: str
    source: str
    model: ModelBlock | None
    seed: int
    interventions: tuple[InterventionSpec, ...]
    selected_on: Mapping[str, tuple[str, ...]]
    selected_on_texts: tuple[str, ...]
    selected_on_unknown: tuple[str, ...]
    control_of: str | None
    place: YamlPlace = field(compare=False, repr=False)

    @classmethod
    def parse(cls, given: YamlValue) -> Self:
        """Read a whole file."""
        fields = given.keys(
            ["version", "interventions"],
            [
                *("name", "description", "source", "model", "seed"),
                *("selected_on", "selected_on_texts", "selected_on_unknown", "control_of"),
            ],
        )
        fields["version"].version(VERSION)
        source = given.place.source
        name = fields["name"].text(empty=False) if "name" in fields else _default_name(source)
        if not name.isprintable():
            raise fields["name"].error("is not one line of printable text", "give a short name; it appears in tables")
        model = fields.get("model")
        entries = fields["interventions"].items("[{layers: …, experts: …, action: …}]")
        if not entries:
            raise fields["interventions"].error(
                "the list is empty", "give at least one {layers: …, experts: …, action: …}"
            )
        return cls(
            name=name,
            description=fields["description"].text() if "description" in fields else "",
            source=fields["source"].text() if "source" in fields else "",
            model=ModelBlock.parse(model) if model and model.value is not None else None,
            seed=fields["seed"].integer(0, MAX_SEED) if "seed" in fields else 0,
            interventions=tuple(InterventionSpec.parse(entry) for entry in entries),
            selected_on=_selected_on(fields["selected_on"]) if "selected_on" in fields else {},
            selected_on_texts=_texts(fields.get("selected_on_texts"), "[0b8e27a0c911]"),
            selected_on_unknown=_texts(fields.get("selected_on_unknown"), "[pooled.safetensors]"),
            control_of=_control_of(fields["control_of"]) if "control_of" in fields else None,
            place=given.place,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as given, defaults included; JSON-ready, and what `parse_spec` reads."""
        selected = {
            "selected_on": {name: list(keys) for name, keys in self.selected_on.items()},
            "selected_on_texts": list(self.selected_on_texts),
            "selected_on_unknown": list(self.selected_on_unknown),
        }
        return {
            "version": VERSION,
            "name": self.name,
            "description": self.description,
            "source": self.source,
            **({} if self.model is None else {"model": self.model.dump()}),
            "seed": self.seed,
            "interventions": [intervention.dump() for intervention in self.interventions],
            **{key: value for key, value in selected.items() if value},
            **({"control_of": self.control_of} if self.control_of else {}),
        }


def parse_spec(
    mapping: Mapping[str, Any],
    source: str = "<api>",
    base_dir: str | Path | None = None,
    overrides: Iterable[str] = (),
) -> SteeringSpec:
    """Check a steering spec that is already in memory.

    Args:
        mapping: What a steering file holds.
        source: What error messages call it.
        base_dir: The folder that relative profile paths start from; by default the working directory.
        overrides: ``KEY=VALUE`` strings, put in before the check.

    Raises:
        UserError: Anything in it is unknown, missing, of the wrong type or out of range.
    """
    document, roots = apply_overrides(mapping, overrides)
    place = YamlPlace(source, Path.cwd() if base_dir is None else Path(base_dir), overridden=roots)
    return SteeringSpec.parse(YamlValue(place, document))


def load_spec(path: str | Path, overrides: Iterable[str] = ()) -> SteeringSpec:
    """Read and check a steering file.

    Args:
        path: A YAML file. Relative profile paths in it start from its folder.
        overrides: ``KEY=VALUE`` strings such as ``interventions.0.action.soft=0.25``.

    Raises:
        UserError: The file cannot be read, is not acceptable YAML, or something in it is unknown, missing, of the wrong
            type or out of range; the message names the file and the key, what was given, what is allowed.
    """
    return parse_spec(read_yaml(Path(path), "steering"), str(path), Path(path).parent, overrides)


def _selected_on(given: YamlValue) -> dict[str, tuple[str, ...]]:
    """Read ``{mgsm_direct: [row:0, row:1]}``."""
    like = "{mgsm_direct: [row:0, row:1]}"
    found = {}
    for benchmark, items in given.mapping(like).items():
        if not isinstance(benchmark, str) or not benchmark:
            raise items.error(f"{show(benchmark)} is not a benchmark", f"write it like {like}")
        found[benchmark] = tuple(item.text(empty=False) for item in items.items("[row:0, row:1]"))
    return found


def _texts(given: YamlValue | None, like: str) -> tuple[str, ...]:
    return () if given is None else tuple(entry.text(empty=False) for entry in given.items(like))


def _control_of(given: YamlValue) -> str:
    text = given.text(empty=False)
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise given.error(f"{show(text)} is not the hash of a steering", "leave it as `experts --control` wrote it")
    return text


def _default_name(source: str) -> str:
    stem = Path(source).stem
    return stem if stem.isprintable() and stem.strip() and not source.startswith("<") else "steering"
