"""Apply a resolved plan to router logits: which intervention is in force at which token, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lm_eval_moe.steering.actions import ActionTargets
from lm_eval_moe.steering.actions.mask import masked_experts
from lm_eval_moe.steering.noise import PrefixState, keyed_normal, prefix_keys

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.steering.plan import PlannedIntervention, SteeringPlan

__all__ = ["Constants", "Steerer"]

Constants = dict[tuple[int, int, torch.device], "tuple[Tensor, Tensor]"]
"""Experts ``[n]`` and coefficients ``[n]`` by intervention, router position and device."""

# Standard deviation of the tie-breaking noise: N(0, 1e-6), methods section 4.
_NOISE_STD = 1e-3


@dataclass
class _Active:
    """An intervention in force somewhere in this pass."""

    intervention: PlannedIntervention
    tokens: NDArray[np.bool_]  # [B, T]
    everywhere: bool  # at every valid token: nothing has to be protected from it


class Steerer:
    """Edits the router logits of one batch over its forward passes.

    Logits at tokens where no intervention is in force come out bit-identical. Statistics and sums are computed in
    float32 whatever the model's dtype (methods, section 4).

    Args:
        plan: The resolved plan.
        constants: Keeps the targets on their devices from batch to batch; one dictionary for each plan.
    """

    def __init__(self, plan: SteeringPlan, constants: Constants | None = None) -> None:
        self._plan = plan
        self._layers = plan.shape.layers
        self._noisy = any(intervention.action.needs_noise for intervention in plan.interventions)
        self._active: list[_Active] = []
        self._keys: Tensor | None = None
        self._key_state: PrefixState | None = None
        self._constants: Constants = {} if constants is None else constants
        self._masks: dict[tuple[int, int, torch.device], Tensor] = {}

    def start_pass(
        self,
        tokens: Tensor,
        valid: NDArray[np.bool_],
        generated: NDArray[np.bool_],
        languages: Sequence[str | None],
    ) -> None:
        """Begin a forward pass.

        Args:
            tokens: ``[B, T]`` token ids, the key of the tie-breaking noise.
            valid: ``[B, T]`` whether a token counts; others are never steered.
            generated: ``[B, T]`` whether a token belongs to the continuation.
            languages: ``[B]`` each row's language, None where it has none.
        """
        self._active, self._masks = [], {}
        for intervention in self._plan.interventions:
            rows = np.array([intervention.languages.admits(language) for language in languages])
            in_force = valid & rows[:, None]
            if intervention.tokens != "all":
                in_force = in_force & (generated == (intervention.tokens == "generated"))
            if in_force.any():
                self._active.append(_Active(intervention, in_force, bool((in_force == valid).all())))
        if self._noisy:
            on_device = torch.from_numpy(valid).to(tokens.device)
            self._keys, self._key_state = prefix_keys(tokens, on_device, self._key_state)

    def acts_on(self, position: int) -> bool:
        """Whether any intervention is in force in this pass at a router."""
        return bool(self._at(position))

    def targets(self, position: int, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the targeted experts ``[n]`` at a router and whether they are at each of its tokens ``[N]``.

        Args:
            position: The router.
            rows: What it saw, ``[N, ...]``; tells the number of tokens and the device.
        """
        return [
            (self._tensors(active, position, rows.device)[0], self._mask(active, rows)) for active in self._at(position)
        ]

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
                    noise=self._noise(position, experts, logits) if action.needs_noise else None,
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

    def _at(self, position: int) -> list[_Active]:
        layer = self._layers[position]
        return [active for active in self._active if layer in active.intervention.targets]

    def _tensors(self, active: _Active, position: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (active.intervention.index, position, device)
        if key not in self._constants:
            targets = active.intervention.targets[self._layers[position]]
            self._constants[key] = (
                torch.tensor(targets.experts, device=device),
                torch.tensor(targets.coefficients, dtype=torch.float32, device=device),
            )
        return self._constants[key]

    def _mask(self, active: _Active, logits: Tensor) -> Tensor:
        """Return ``[N]`` where the intervention is in force; columns of virtual tokens are before the batch's own."""
        rows, width = active.tokens.shape
        seen = logits.shape[0] // rows
        key = (active.intervention.index, seen, logits.device)
        if key not in self._masks:
            wide = np.zeros((rows, seen), dtype=bool)
            wide[:, seen - width :] = active.tokens
            self._masks[key] = torch.from_numpy(wide.reshape(-1)).to(logits.device)
        return self._masks[key]

    def _noise(self, position: int, experts: Tensor, logits: Tensor) -> Tensor:
        assert self._keys is not None
        keys = self._keys.to(logits.device)
        missing = logits.shape[0] // keys.shape[0] - keys.shape[1]
        keys = torch.nn.functional.pad(keys, (missing, 0)).reshape(-1)
        return _NOISE_STD * keyed_normal(self._plan.seed, self._layers[position], keys, experts)
