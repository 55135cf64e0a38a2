"""The hash of weights that are made of several tensors, as quantised ones are."""

from __future__ import annotations

import torch
from torch.testing._internal.two_tensor import TwoTensor

from lm_eval_moe.backends.weights import hash_of_parameters


def nested(scale: float) -> torch.nn.Module:
    """Return a module with a weight that is made of two tensors, the first of which is again."""
    module = torch.nn.Module()
    values = TwoTensor(torch.ones(3), torch.full((3,), scale))
    module.register_buffer("weight", TwoTensor(values, torch.zeros(3)))
    return module


def test_every_tensor_within_a_weight_counts() -> None:
    assert hash_of_parameters(nested(1.0)) == hash_of_parameters(nested(1.0))
    assert hash_of_parameters(nested(1.0)) != hash_of_parameters(nested(2.0))
