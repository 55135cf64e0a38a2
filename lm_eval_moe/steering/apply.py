"""Apply resolved plans to router logits: which intervention is in force at which token, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lm_eval_moe.steering.actions import ActionTargets
from lm_eval_moe.steering.actions.mask import masked_experts
from lm_eval_moe.steering.noise import NOISE_STD, PrefixKeys, keyed_normal

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.capture.token_rows import TokenRows
    from lm_eval_moe.steering.plan import PlannedIntervention, SteeringPlan

__all__ = ["Constants", "Steerer"]

Constants = dict[tuple[int, int, int, torch.device], "tuple[Tensor, Tensor]"]
"""Experts ``[n]`` and coefficients ``[n]`` by plan, intervention, router position and device."""


@dataclass
class _Active:
    """An intervention in force somewhere in this pass."""

    plan: int
    intervention: PlannedIntervention
    rows: NDArray[np.bool_]  # [M]
    everywhere: bool  # at every token that counts: nothing has to be protected from it


class Steerer:
    """Edits the router logits of one forward pass after another.

    Logits at tokens where no intervention is in force come out bit-identical. Statistics and sums are computed in
    float32 whatever the model's dtype (methods, section 4).

    Args:
        plans: The resolved plans, which segments name by their place here; None leaves a segment's tokens alone.
        constants: Keeps the targets on their devices from batch to batch; one dictionary for each list of plans.
    """

    def __init__(self, plans: Sequence[SteeringPlan | None], constants: Constants | None = None) -> None:
        self._plans = tuple(plans)
        self._active: list[_Active] = []
        self._prefixes = PrefixKeys()
        self._keys: Tensor | None = None
        self._constants: Constants = {} if constants is None else constants
        self._tables: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[int, int, int, torch.device], Tensor] = {}
        self._noisy = any(
            intervention.action.needs_noise for plan in self._plans if plan for intervention in plan.interventions
        )

    def start_pass(self, tokens: Tensor, rows: TokenRows) -> None:
        """Begin a forward pass.

        Args:
            tokens: ``[N]`` token ids, the key of the tie-breaking noise.
            rows: Its rows; those that do not count are never steered.
        """
        self._rows, self._active, self._masks = rows, [], {}
        for number, plan in enumerate(self._plans):
            for intervention in plan.interventions if plan else ():
                runs = [
                    steered.plan == number
                    and intervention.languages.admits(steered.language)
                    and (intervention.tokens == "all" or steered.generated == (intervention.tokens == "generated"))
                    for steered in rows.steered
                ]
                if any(runs):
                    in_force = np.array(runs)[rows.run]
                    self._active.append(_Active(number, intervention, in_force, all(runs)))
        if self._noisy:
            self._keys = self._prefixes.keys(tokens, rows)

    def fold(self, stretches: Sequence[Sequence[int]]) -> None:
        """Follow the forest, which makes one segment of each stretch of them."""
        self._prefixes.fold(stretches)

    def acts_on(self, position: int) -> bool:
        """Whether any intervention is in force in this pass at a router."""
        return bool(self._at(position))

    def targets(self, positions: slice, rows: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return what is targeted at some routers, each intervention by itself, as bools.

        Args:
            positions: The routers, G of them.
            rows: What one of them saw, ``[N, ...]``; tells the number of tokens and the device.

        Returns:
            Which routers ``[G]``, which experts at each ``[G, E]``, and at which tokens ``[N]``.
        """
        found = []
        for active in self._active:
            routers, experts = self._table(active, rows.device)
            if any(layer in active.intervention.targets for layer in self._layers_of(active)[positions]):
                found.append((routers[positions], experts[positions], self._mask(active, rows)))
        return found

    def edit(self, position: int, logits: Tensor) -> Tensor:
        """Return the logits ``[N, E]`` with the interventions applied in order, each on the result of the last."""
        actives = self._at(position)
        if not actives:
            return logits
        steered = logits.float()
        may_be_masked = False
        for active in actives:
            experts, coefficients = self._tensors(active, position, logits.device)
            action = active.intervention.action
            changed = action.apply(
                steered,
                ActionTargets(
                    experts=experts,
                    coefficients=coefficients,
                    noise=self._noise(active, position, experts, logits) if action.needs_noise else None,
                    masked=masked_experts(steered) if may_be_masked else None,
                ),
            )
            if not active.everywhere:
                changed = torch.where(self._mask(active, logits)[:, None], changed, steered)
            steered = changed
            may_be_masked = may_be_masked or action.masks
        limit = torch.finfo(logits.dtype).max
        return steered.clamp(-limit, limit).to(logits.dtype)

    def guard(self, position: int, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what guarded interventions force into, and ban from, the final top-k: bool masks like the logits."""
        guarded = [a for a in self._at(position) if a.intervention.guard and a.intervention.action.guards_by]
        if not guarded:
            return None
        force = torch.zeros_like(logits, dtype=torch.bool)
        ban = torch.zeros_like(force)
        for active in guarded:
            experts, _ = self._tensors(active, position, logits.device)
            # As with the logits, the last intervention on an expert decides.
            force_it = active.intervention.action.guards_by == "force"
            here = self._mask(active, logits)[:, None]
            force[:, experts] = torch.where(here, force_it, force[:, experts])
            ban[:, experts] = torch.where(here, not force_it, ban[:, experts])
        return force, ban

    def _layers_of(self, active: _Active) -> tuple[int, ...]:
        plan = self._plans[active.plan]
        assert plan is not None
        return plan.shape.layers

    def _layer(self, active: _Active, position: int) -> int:
        return self._layers_of(active)[position]

    def _at(self, position: int) -> list[_Active]:
        return [active for active in self._active if self._layer(active, position) in active.intervention.targets]

    def _tensors(self, active: _Active, position: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (active.plan, active.intervention.index, position, device)
        if key not in self._constants:
            targets = active.intervention.targets[self._layer(active, position)]
            self._constants[key] = (
                torch.tensor(targets.experts, device=device),
                torch.tensor(targets.coefficients, dtype=torch.float32, device=device),
            )
        return self._constants[key]

    def _table(self, active: _Active, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return which of all routers an intervention targets, ``[L]``, and which experts there, ``[L, E]``."""
        key = (active.plan, active.intervention.index, device)
        if key not in self._tables:
            plan = self._plans[active.plan]
            assert plan is not None
            experts = np.zeros((len(plan.shape.layers), plan.shape.experts), dtype=bool)
            targets = active.intervention.targets
            for position, layer in enumerate(plan.shape.layers):
                if layer in targets:
                    experts[position, list(targets[layer].experts)] = True
            routers = np.array([layer in targets for layer in plan.shape.layers])
            self._tables[key] = torch.from_numpy(routers).to(device), torch.from_numpy(experts).to(device)
        return self._tables[key]

    def _mask(self, active: _Active, logits: Tensor) -> Tensor:
        """Return ``[N]`` where the intervention is in force."""
        key = (active.plan, active.intervention.index, len(logits), logits.device)
        if key not in self._masks:
            here = self._rows.fitted(len(logits)).spread(active.rows)
            self._masks[key] = torch.from_numpy(here).to(logits.device)
        return self._masks[key]

    def _noise(self, active: _Active, position: int, experts: Tensor, logits: Tensor) -> Tensor:
        plan, rows = self._plans[active.plan], self._rows.fitted(len(logits))
        assert self._keys is not None
        assert plan is not None
        keys = self._keys.to(logits.device)
        if rows.kept.size < rows.count:  # tokens that do not count get the noise of some key or other
            keys = keys.new_zeros(rows.count).index_copy(0, torch.from_numpy(rows.kept).to(keys.device), keys)
        return NOISE_STD * keyed_normal(plan.seed, self._layer(active, position), keys, experts)
