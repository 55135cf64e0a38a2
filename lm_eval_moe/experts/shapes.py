"""The routing shape that rules are applied to, without a model: from profiles, or as the user gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.profiles import ProfilePath, read_profile
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import SteeringSpec
from lm_eval_moe.steering.layers import LayerExpression
from lm_eval_moe.steering.overrides import key_of
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

__all__ = ["parse_shape", "profile_paths", "shape_of_spec"]

_SIZES = ("layers", "experts", "top_k")
_LIKE = "layers=48,experts=128,top_k=8; add moe_layers=3-47 where some layers are dense"
_WHERE = "--shape"


def profile_paths(rule: object) -> Iterator[ProfilePath]:
    """Yield the profiles that a selection rule names, those of rules inside it included."""
    if isinstance(rule, ProfilePath):
        yield rule
    elif isinstance(rule, Mapping):
        for value in rule.values():
            yield from profile_paths(value)
    elif is_dataclass(rule):
        for field in fields(rule):
            yield from profile_paths(getattr(rule, field.name))


def shape_of_spec(spec: SteeringSpec) -> RoutingShape:
    """Return the shape that a spec's first safetensors profile is of, or else the one that its ``model`` says.

    Raises:
        UserError: There is neither, or a profile cannot be read.
    """
    for intervention in spec.interventions:
        for profile in profile_paths(intervention.experts):
            if profile.path.suffix == ".safetensors":
                return read_profile(profile.path).shape
    sizes = {} if spec.model is None else spec.model.dump()
    if all(name in sizes for name in _SIZES):
        return parse_shape(",".join(f"{name}={sizes[name]}" for name in _SIZES))
    raise UserError(
        "neither a profile nor the file's `model` says how many layers and experts the model has",
        fix=f"give the model with --model_args pretrained=..., or its shape with --shape {_LIKE}",
        where=spec.place.source,
    )


def parse_shape(text: str) -> RoutingShape:
    """Read ``layers=48,experts=128,top_k=8``; all layers route unless ``moe_layers=3-47`` says which.

    Raises:
        UserError: A size is missing, unknown or out of range.
    """
    values = _values(text)
    unknown = [name for name in values if name not in (*_SIZES, "moe_layers")]
    missing = [name for name in _SIZES if name not in values]
    if unknown:
        raise _error(f"unknown size {unknown[0]!r}{did_you_mean(unknown[0], (*_SIZES, 'moe_layers'))}")
    if missing:
        raise _error(f"{missing[0]!r} is missing")
    place = YamlPlace(_WHERE, Path())
    depth, experts, top_k = (
        YamlValue(place / name, key_of(values[name].strip())).integer(1, 1_000_000) for name in _SIZES
    )
    if top_k > experts:
        raise _error(f"top_k {top_k} is more than the {experts} experts of a layer")
    everything = RoutingShape(tuple(range(depth)), experts, top_k, depth)
    if "moe_layers" not in values:
        return everything
    parts = YamlValue(place / "moe_layers", [part.strip() for part in values["moe_layers"].split(",")])
    layers = LayerExpression.parse(parts).resolve(everything, parts.place)
    return RoutingShape(layers, experts, top_k, depth)


def _values(text: str) -> dict[str, str]:
    """Split at commas; a part without ``=`` goes on with the value before it, as in ``moe_layers=1-3,5``."""
    values: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals:
            if not last:
                raise _error(f"{part!r} is not NAME=NUMBER")
            values[last] += f",{part}"
        elif name in values:
            raise _error(f"{name!r} is given twice")
        else:
            values[name], last = value, name
    return values


def _error(problem: str) -> UserError:
    return UserError(problem, fix=f"write {_LIKE}", where=_WHERE)
