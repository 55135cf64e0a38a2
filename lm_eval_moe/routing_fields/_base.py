"""What all result fields share: a per-layer curve of an item, brought to one number; the registries of both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.discovery import Registry
from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from lm_eval_moe.routing_record import RoutingRecord

Values = NDArray[np.float64]

FILTER = "none"
"""The filter under which the fields stand in lm-eval's results: routing knows none."""

_RESERVED = ("routing_", "steered_")


class CurveError(ValueError):
    """A curve cannot be computed of an item: a fault of the module that declares it."""


@dataclass(frozen=True)
class Curve:
    """One number per MoE layer for an item.

    Attributes:
        name: Its key in the ``routing`` object.
        of: From the item's record, its reference's record and the shape to ``[L]``.
        arrays: The arrays of a record that it reads.
        compares: Whether it needs the same item in the reference language.
        steered: Whether it exists only under steering.
        second_call: Whether every router has to be called a second time for it, without steering: such a curve is drawn
            only where a field of it is asked for, all others always.
    """

    name: str
    of: Callable[[RoutingRecord, RoutingRecord | None, RoutingShape], Values]
    arrays: frozenset[str] = frozenset()
    compares: bool = False
    steered: bool = False
    second_call: bool = False

    def values(self, record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
        """Return the curve of an item, float64 ``[L]``.

        Raises:
            CurveError: What computes it fails, or returns something else.
        """
        try:
            values = np.asarray(self.of(record, reference, shape), dtype=np.float64)
        except (ArithmeticError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise CurveError(f"the curve {self.name!r} fails: {type(error).__name__}: {error}") from error
        if values.shape != (len(shape.layers),):
            raise CurveError(f"the curve {self.name!r} has the shape {values.shape}, not ({len(shape.layers)},)")
        return values


@dataclass(frozen=True)
class RoutingField:
    """One result field.

    Attributes:
        name: The metric's name in lm-eval's results. One that is not a score begins with ``routing_`` or ``steered_``,
            and a score does not: so results are read alike where the plug-in that defines a field is not installed.
        curve: The curve that it sums up.
        band: The layers it is the mean of; None for all that have a value.
        higher_is_better: As lm-eval shows it; None where neither way is better.
        default: Whether it is reported where no fields are asked for.
        score: Whether it says how good the answers are. What does not is never a task's main metric, and is neither
            compared nor gated as one.
        title: Its name in words; empty: its name.
    """

    name: str
    curve: Curve
    band: Literal["early", "middle", "late"] | None = None
    higher_is_better: bool | None = None
    default: bool = False
    score: bool = False
    title: str = ""

    @property
    def key(self) -> str:
        """Its key in lm-eval's results."""
        return f"{self.name},{FILTER}"

    def value(self, curve: Values, shape: RoutingShape) -> float | None:
        """Return the mean of an item's curve over the field's layers, None where none of them has a value."""
        layers = shape.band(self.band or "all")
        layer_values = curve[[shape.layers.index(layer) for layer in layers]]
        numbers = layer_values[~np.isnan(layer_values)]
        return float(numbers.mean()) if numbers.size else None


CURVES: Registry[Curve] = Registry("routing curve")
"""The per-layer curves, by their key in the ``routing`` object."""

FIELDS: Registry[RoutingField] = Registry("result field")
"""The result fields by name."""


def register(*fields: RoutingField) -> None:
    """Enter fields, and their curves.

    Raises:
        UserError: A name is taken, or says another thing than the field of whether it is a score.
    """
    for field in fields:
        if field.score != is_score(field.name):
            kind, rule = ("a score", "does not begin") if field.score else ("not a score", "begins")
            raise UserError(
                f"the result field {field.name!r} is declared as {kind}",
                fix=f"give it a name that {rule} with {' or '.join(_RESERVED)}",
            )
        CURVES.add(field.curve.name, field.curve, field.curve.of)
        FIELDS.add(field.name, field, field.curve.of)


def is_score(name: str) -> bool:
    """Whether a metric of lm-eval's results says how good the answers are; all but fields about routing do."""
    return not name.startswith(_RESERVED)


def default_fields() -> list[str]:
    """Return the names of the fields that are reported where none are asked for."""
    return [name for name, field in FIELDS.items() if field.default]


def chosen_fields(names: str | Iterable[str] | None, *, steered: bool) -> tuple[RoutingField, ...]:
    """Return the fields to report: the default ones, ``all``, or those named.

    Raises:
        UserError: A name is unknown.
    """
    field_names: Collection[str]
    if names is None:
        field_names = default_fields()
    else:
        name_list = names.split(",") if isinstance(names, str) else list(names)
        field_names = list(FIELDS) if name_list == ["all"] else [name.strip() for name in name_list if name.strip()]
    for name in field_names:
        if name not in FIELDS:
            raise UserError(
                f"there is no routing field {name!r}{did_you_mean(name, FIELDS)}",
                fix=f"choose among {', '.join(FIELDS)}, or all",
                where="--routing_fields",
            )
    return tuple(FIELDS[name] for name in FIELDS if name in field_names and (steered or not FIELDS[name].curve.steered))


def known(array: NDArray[Any] | None) -> Values:
    """Return an array of a record that a curve declares in its ``arrays``."""
    if array is None:
        raise RuntimeError("a record lacks an array that a field needs: name it in the curve's `arrays`")
    return array.astype(np.float64)


def where_routed(metric: Callable[..., Values], *values: Values) -> Values:
    """Return a metric of ``[L, E]`` arrays, NaN at layers where a model lets all tokens of an item skip its experts."""
    routed = np.logical_and.reduce([array.any(-1) for array in values])
    curve: Values = np.full(routed.shape, np.nan)
    if routed.any():
        curve[routed] = metric(*(array[routed] for array in values))
    return curve
