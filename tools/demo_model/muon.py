"""Muon for matrices and stacks of matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

``torch.optim.Muon`` takes single matrices only; the experts of a mixture-of-experts layer are one stack of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["StackedMuon"]

# Coefficients of the quintic Newton-Schulz iteration, from the same source.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def _orthogonalise(update: torch.Tensor, steps: int) -> torch.Tensor:
    """Bring all singular values of each matrix ``[..., rows, columns]`` near 1."""
    tall = update.size(-2) > update.size(-1)
    x = update.mT if tall else update
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: torch.Tensor = x.mT if tall else x
    return result


class StackedMuon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose update is orthogonalised, matrix by matrix.

    Args:
        parameters: Tensors of two or more dimensions; the last two are the matrix.
        lr: Step size; an update has spectral norm about ``lr * sqrt(max(1, rows / columns))``.
        momentum: Decay of the momentum buffer.
        steps: Newton-Schulz iterations.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], *, lr: float = 0.02, momentum: float = 0.95, steps: int = 5
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "steps": steps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = _orthogonalise(parameter.grad.lerp(buffer, group["momentum"]), group["steps"])
                scale = max(1.0, parameter.size(-2) / parameter.size(-1)) ** 0.5
                parameter.add_(update, alpha=-group["lr"] * scale)
