"""The cells of a sweep: every combination of the grid's values, resolved for a model, with its random controls."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.errors import NothingSelectedError, UserError
from lm_eval_moe.results.sweeps import EmptyCell, GridCell, plain
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import ProfileStore, SteeringPlan, resolve
from lm_eval_moe.steering.control import random_control
from lm_eval_moe.sweep.spec import SweepSpec

__all__ = ["EmptyCell", "PlannedCell", "cells_of"]


@dataclass(frozen=True)
class PlannedCell(GridCell):
    """One combination of values, resolved.

    Attributes:
        plan: What it does to the model.
        controls: The same with random experts.
    """

    plan: SteeringPlan
    controls: tuple[SteeringPlan, ...]

    @property
    def experts(self) -> int:
        """How many (layer, expert) pairs are targeted."""
        return sum(map(len, self.plan.experts_by_layer().values()))


def cells_of(sweep: SweepSpec, shape: RoutingShape) -> tuple[list[PlannedCell], list[EmptyCell]]:
    """Resolve all cells; profiles are read once.

    Raises:
        UserError: A cell does not fit the model, or selects no expert although the sweep does not skip such cells; the
            message says which.
    """
    profiles = ProfileStore(shape)
    cells: list[PlannedCell] = []
    empty: list[EmptyCell] = []
    for values in itertools.product(*(axis.values for axis in sweep.axes)):
        settings = {axis.key: value for axis, value in zip(sweep.axes, values, strict=True)}
        try:
            plan = resolve(sweep.at(settings), shape, profiles)
            controls = tuple(random_control(plan, seed) for seed in range(1, sweep.controls + 1))
        except NothingSelectedError as error:
            if not sweep.skip_empty:
                fix = f"{error.fix}; or write skip_empty: true in the sweep to leave such cells out"
                raise NothingSelectedError(error.problem, fix=fix, where=_where(error, settings)) from error
            empty.append(EmptyCell(settings, error.problem))
        except UserError as error:
            raise UserError(error.problem, fix=error.fix, where=_where(error, settings)) from error
        else:
            cells.append(PlannedCell(settings, plan, controls))
    if not cells:
        raise UserError(
            "no cell of the grid selects an expert",
            fix="lower the thresholds or widen the layers; the first cell says: " + empty[0].reason,
            where=sweep.place.where,
        )
    return cells, empty


def _where(error: UserError, settings: Mapping[str, Any]) -> str:
    cell = ", ".join(f"{key}={plain(value)}" for key, value in settings.items())
    return f"{error.where or 'the steering'} (in the cell {cell})" if cell else str(error.where)
