"""Steering applied by hand to a plain transformers model, one unpadded sequence at a time.

The routers' forward is replaced by `oracle.route`, the arithmetic of each family written out; between its linear and
the rest of it stand the formulas of the actions, written out once more here. Of the package only the keyed noise is
used, and only where a case says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from support import oracle
from support.keys_oracle import sequence_keys

Tokens = Sequence[int]

_MASKED = -1e9


@dataclass(frozen=True)
class Change:
    """One intervention: ``experts`` by decoder layer, each with its coefficient."""

    action: str
    experts: dict[int, dict[int, float]]
    strength: float = 0.0
    tokens: str = "all"

    def spec(self, **more: Any) -> dict[str, Any]:
        """Return the same as an entry of a steering file, in which one action alone takes coefficients."""
        listed = {layer: list(experts) for layer, experts in self.experts.items()}
        return {
            "layers": sorted(self.experts),
            "experts": {"ids": self.experts if self.action == "proportional" else listed},
            "action": self.action
            if self.action in ("activate", "deactivate", "mask", "activate_log_prob", "deactivate_log_prob")
            else {self.action: self.strength},
            "tokens": self.tokens,
            **more,
        }

    def __call__(self, z: torch.Tensor, layer: int, noise: torch.Tensor | None) -> torch.Tensor:
        """Return the new logits of one token, ``[E]``, expert by expert."""
        new = z.clone()
        alive = z[z > _MASKED / 2]
        for column, (expert, coefficient) in enumerate(self.experts[layer].items()):
            old = z[expert]
            epsilon = 0.0 if noise is None else noise[column]
            if self.action == "activate":
                new[expert] = alive.max() + epsilon
            elif self.action == "activate_log_prob":
                new[expert] = alive.max() + 0.01
            elif self.action == "mask":
                new[expert] = _MASKED
            elif old <= _MASKED / 2:
                continue  # out of reach of all but `activate`
            elif self.action == "soft":
                new[expert] = old + self.strength * alive.std(unbiased=False)
            elif self.action == "bias":
                new[expert] = old + self.strength
            elif self.action == "proportional":
                new[expert] = old + self.strength * coefficient * old.abs()
            elif self.action == "deactivate_log_prob":
                new[expert] = alive.min() - 0.01
            elif self.action == "deactivate":
                new[expert] = alive.min() - abs(epsilon)
            else:
                raise KeyError(self.action)
        return new


def spec_of(changes: Sequence[Change], **more: Any) -> dict[str, Any]:
    """Return a steering file with these interventions."""
    return {"version": 1, "seed": 5, "interventions": [change.spec(**more) for change in changes]}


@dataclass
class Seen:
    """What the last forward pass selected, ``[T, K]`` per layer: with the changes, and without on the same input."""

    steered: dict[int, np.ndarray] = field(default_factory=dict)
    plain: dict[int, np.ndarray] = field(default_factory=dict)


Noise = Callable[[int, list[int]], torch.Tensor]
"""From a layer and its targets to the noise ``[T, n]`` of the sequence at hand."""


@contextmanager
def steered(
    family: str, model: Any, changes: Sequence[Change], prompt: int = 10**9, noise: Noise | None = None
) -> Iterator[Seen]:
    """Steer a plain model inside the ``with`` block; tokens from position ``prompt`` on are generated ones."""
    seen = Seen()

    def edited(layer: int, z: torch.Tensor) -> torch.Tensor:
        rows = list(z)
        for change in (change for change in changes if layer in change.experts):
            drawn = noise(layer, list(change.experts[layer])) if noise is not None else [None] * len(rows)
            for position, epsilon in enumerate(drawn):
                if change.tokens == "all" or (change.tokens == "generated") == (position >= prompt):
                    rows[position] = change(rows[position], layer, epsilon)
        return torch.stack(rows)

    def forward_of(layer: int, router: Any) -> Callable[[torch.Tensor], Any]:
        def forward(hidden: torch.Tensor) -> Any:
            flat = hidden.reshape(-1, hidden.shape[-1])
            _, plain, _, _ = oracle.route(family, router, flat, lambda z: z)
            logits, indices, weights, _ = oracle.route(family, router, flat, lambda z: edited(layer, z))
            seen.plain[layer], seen.steered[layer] = plain.numpy(), indices.numpy()
            # Where each has its place in what the router returns differs by version (GraniteMoE before 5.21).
            given = type(router).forward(router, flat)
            own = {(value.shape[-1], value.is_floating_point()): value for value in (logits, weights, indices)}
            return tuple(own[value.shape[-1], value.is_floating_point()] for value in given)

        return forward

    routers = oracle.routers(model)
    for layer, router in routers:
        router.forward = forward_of(layer, router)
    try:
        yield seen
    finally:
        for _, router in routers:
            del router.forward


def log_likelihood(model: Any, context: Tokens, continuation: Tokens) -> float:
    """Score one continuation in an unpadded batch of one."""
    ids = [*context, *continuation]
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    scored = logits[len(context) - 1 :]
    return float(scored[range(len(continuation)), list(continuation)].sum())


def generate(
    family: str, model: Any, changes: Sequence[Change], prompt: Tokens, count: int, noise_of: Any = None
) -> list[int]:
    """Decode greedily, up to the end token, by running the whole sequence anew for every token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count and (len(ids) == len(prompt) or ids[-1] != model.config.eos_token_id):
        noise = noise_of(ids) if noise_of else None
        with steered(family, model, changes, len(prompt), noise), torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def keyed_noise(tokens: Tokens, seed: int = 5) -> Noise:
    """Return the noise that the package draws for one sequence alone, without padding."""
    from lm_eval_moe.steering.noise import keyed_normal

    keys = torch.tensor(sequence_keys(tokens))
    return lambda layer, experts: 1e-3 * keyed_normal(seed, layer, keys, torch.tensor(experts))
