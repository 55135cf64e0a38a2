"""Random controls of a steered run: the same evaluation with other experts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lm_eval_moe.errors import UserError
from lm_eval_moe.statistics import ALPHA, draws_needed
from lm_eval_moe.steering.control import random_control

if TYPE_CHECKING:
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["control_count", "control_plans", "few_draws"]

MAX_CONTROLS = 1000


def control_count(text: str) -> int:
    """Read ``random:N``.

    Raises:
        UserError: It is something else.
    """
    match = re.fullmatch(r"random(?::(\d{1,6}))?", text.strip())
    count = int(match[1] or 1) if match else 0
    if not 1 <= count <= MAX_CONTROLS:
        raise UserError(
            f"{text!r} is not a control",
            fix=f"write random:N for N random draws of as many experts (1 to {MAX_CONTROLS}; 3 or more show their "
            "spread)",
            where="--control",
        )
    return count


def control_plans(plan: SteeringPlan | None, count: int) -> list[SteeringPlan]:
    """Return the controls of a plan, with the seeds 1 to ``count``.

    Raises:
        UserError: There is no steering to control, it is random itself, or a layer has too few other experts.
    """
    if plan is None:
        raise UserError(
            "there is no steering to compare with random experts", fix="give --steering FILE", where="--control"
        )
    return [random_control(plan, seed) for seed in range(1, count + 1)]


def few_draws(count: int) -> str | None:
    """Say what so few draws cannot show; None if they are enough for a rank p of 5 %."""
    if count >= draws_needed():
        return None
    return (
        f"{count} random draw{'s' * (count != 1)}: the rank p of the chosen experts is at least {1 / (count + 1):.2g}; "
        f"reaching {ALPHA:g} takes {draws_needed()} (random:{draws_needed()})"
    )
