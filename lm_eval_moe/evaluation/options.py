"""What a run says about routing, and what is wrong with it before tasks or models are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.errors import UserError
from lm_eval_moe.evaluation.control import control_count, control_plans
from lm_eval_moe.languages import canonical_language
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.routing_fields import chosen_fields
from lm_eval_moe.steering import SteeringSpec, load_spec

if TYPE_CHECKING:
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["RoutingOptions", "check_options"]


@dataclass(frozen=True)
class RoutingOptions:
    """What a run says about routing; see `simple_evaluate`."""

    steering: str | Path | SteeringSpec | SteeringPlan | None = None
    overrides: Sequence[str] = ()
    reference: str = "en"
    fields: str | Iterable[str] | None = None
    include_reference: bool = False
    profile: str | Path | None = None
    parallel: Sequence[str] = ()
    allow_leak: bool = False
    control: str | None = None

    def reference_language(self) -> str:
        """Return the canonical tag of the language that the others are compared with.

        Raises:
            UserError: It is none.
        """
        try:
            return canonical_language(self.reference)
        except ValueError as error:
            raise UserError(str(error), fix="give a language code such as en", where="--routing_reference") from error

    def spec(self) -> SteeringSpec | SteeringPlan | None:
        """Return the steering with its overrides.

        Raises:
            UserError: The file cannot be read or breaks its schema, or there are overrides of no file.
        """
        if isinstance(self.steering, (str, Path)):
            return load_spec(self.steering, overrides=self.overrides)
        if self.overrides:
            raise UserError("overrides need a steering file", fix="give --steering FILE", where="--set")
        return self.steering


def check_options(options: RoutingOptions) -> None:
    """Find what is wrong with the options themselves, before tasks or models are loaded.

    Raises:
        UserError: A file cannot be read or breaks its schema, or a language or field is unknown.
    """
    options.reference_language()
    chosen_fields(options.fields, steered=True)
    steering = options.spec()
    if options.control is not None:
        control_count(options.control)
        if steering is None:
            control_plans(None, 1)
    PairingRegistry.default([Path(file) for file in options.parallel])
