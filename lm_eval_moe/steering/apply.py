"""Apply resolved plans to router logits: which intervention is in force at which token, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lm_eval_moe.steering.actions import ActionTargets
from lm_eval_moe.steering.actions.mask import masked_experts
from lm_eval_moe.steering.noise import NOISE_STD, PrefixKeys, keyed_normal

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.recording.token_rows import TokenRows
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


class _Acting(NamedTuple):
    """An intervention at a router that it targets."""

    active: _Active
    experts: Tensor  # [n]
    coefficients: Tensor  # [n]


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
        self._rows: TokenRows | None = None
        self._active: list[_Active] = []
        self._acting: dict[int, list[_Acting]] = {}  # by router position
        self._guarding: dict[int, list[_Acting]] = {}  # those of them that guard the final top-k
        self._prefixes = PrefixKeys()
        self._keys: Tensor | None = None
        self._constants: Constants = {} if constants is None else constants
        self._tables: dict[tuple[int, int, int, int, torch.device], tuple[Tensor, Tensor] | None] = {}
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
        last, self._rows = self._rows, rows
        # Of a step of decoding the forest says by these two that nothing but the position differs from the last one.
        if last is None or rows.run is not last.run or rows.steered is not last.steered:
            self._active = list(self._in_force(rows))
            self._acting, self._guarding, self._masks = {}, {}, {}
        if self._noisy:
            self._keys = self._prefixes.keys(tokens, rows)

    def _in_force(self, rows: TokenRows) -> Iterator[_Active]:
        kinds = set(rows.steered)
        for number, plan in enumerate(self._plans):
            for intervention in plan.interventions if plan else ():
                steered = {
                    kind
                    for kind in kinds
                    if kind.plan == number
                    and intervention.languages.admits(kind.language)
                    and (intervention.tokens == "all" or kind.generated == (intervention.tokens == "generated"))
                }
                if steered:
                    runs = np.array([kind in steered for kind in rows.steered])
                    yield _Active(number, intervention, runs[rows.run], steered == kinds)

    def fold(self, stretches: Sequence[Sequence[int]]) -> None:
        """Follow the forest, which makes one segment of each stretch of them."""
        self._prefixes.fold(stretches)

    def acts_on(self, position: int) -> bool:
        """Whether any intervention is in force in this pass at a router."""
        return any(self._layer(active, position) in active.intervention.targets for active in self._active)

    def targets(self, positions: slice, rows: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Return what is targeted at some routers, each intervention by itself, as bools.

        Args:
            positions: The routers, G of them.
            rows: What one of them saw, ``[N, ...]``; tells the number of tokens and the device.

        Returns:
            Which routers ``[G]``, which experts at each ``[G, E]`` (the same tensors in every pass), and at which
            tokens ``[N]``; None: at all that count.
        """
        targets = []
        for active in self._active:
            table = self._table(active, positions, rows.device)
            if table is not None:
                targets.append((*table, None if active.everywhere else self._mask(active, rows)))
        return targets

    def edit(self, position: int, logits: Tensor) -> Tensor:
        """Return the logits ``[N, E]`` with the interventions applied in order, each on the result of the last."""
        if not self._active or not (acting := self._at(position, logits)):
            return logits
        steered = logits.to(torch.promote_types(logits.dtype, torch.float32))
        may_be_masked = False
        for active, experts, coefficients in acting:
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
        if not self._active or not self._at(position, logits) or not (guarding := self._guarding[position]):
            return None
        force = torch.zeros_like(logits, dtype=torch.bool)
        ban = torch.zeros_like(force)
        for active, experts, _ in guarding:
            # As with the logits, the last intervention on an expert decides.
            force_it = active.intervention.action.guards_by == "force"
            here = self._mask(active, logits)[:, None]
            force[:, experts] = torch.where(here, force_it, force[:, experts])
            ban[:, experts] = torch.where(here, not force_it, ban[:, experts])
        return force, ban

    def _layer(self, active: _Active, position: int) -> int:
        plan = self._plans[active.plan]
        assert plan is not None
        return plan.shape.layers[position]

    def _at(self, position: int, logits: Tensor) -> list[_Acting]:
        """Return what acts at a router in this pass, in order."""
        acting = self._acting.get(position)
        if acting is None:
            acting = self._acting[position] = [
                _Acting(active, *self._tensors(active, position, logits.device))
                for active in self._active
                if self._layer(active, position) in active.intervention.targets
            ]
            self._guarding[position] = [
                entry
                for entry in acting
                if entry.active.intervention.guard and entry.active.intervention.action.guards_by
            ]
        return acting

    def _tensors(self, active: _Active, position: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (active.plan, active.intervention.index, position, device)
        if key not in self._constants:
            targets = active.intervention.targets[self._layer(active, position)]
            self._constants[key] = (
                torch.tensor(targets.experts, device=device),
                torch.tensor(targets.coefficients, dtype=torch.float32, device=device),
            )
        return self._constants[key]

    def _table(self, active: _Active, positions: slice, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Return which of some routers an intervention targets, ``[G]``, and which experts there, ``[G, E]``.

        None: it targets none of these routers.
        """
        key = (active.plan, active.intervention.index, positions.start, positions.stop, device)
        if key not in self._tables:
            plan = self._plans[active.plan]
            assert plan is not None
            targets = active.intervention.targets
            experts = np.zeros((positions.stop - positions.start, plan.shape.experts), dtype=bool)
            layers = plan.shape.layers[positions]
            for place, layer in enumerate(layers):
                if layer in targets:
                    experts[place, list(targets[layer].experts)] = True
            routers = np.array([layer in targets for layer in layers])
            tables = torch.from_numpy(routers).to(device), torch.from_numpy(experts).to(device)
            self._tables[key] = tables if routers.any() else None
        return self._tables[key]

    def _mask(self, active: _Active, logits: Tensor) -> Tensor:
        """Return ``[N]`` where the intervention is in force."""
        key = (active.plan, active.intervention.index, len(logits), logits.device)
        if key not in self._masks:
            assert self._rows is not None
            here = self._rows.fitted(len(logits)).spread(active.rows)
            self._masks[key] = torch.from_numpy(here).to(logits.device)
        return self._masks[key]

    def _noise(self, active: _Active, position: int, experts: Tensor, logits: Tensor) -> Tensor:
        plan = self._plans[active.plan]
        assert self._rows is not None
        assert self._keys is not None
        assert plan is not None
        keys = self._keys.to(logits.device)
        token_rows = self._rows.fitted(len(logits)).on(keys.device).kept
        if token_rows is not None:  # tokens that do not count get the noise of some key or other
            keys = keys.new_zeros(len(logits)).index_copy(0, token_rows, keys)
        return NOISE_STD * keyed_normal(plan.seed, self._layer(active, position), keys, experts)
