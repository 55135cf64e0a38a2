"""Model classes by the name that ``--model`` takes; a class is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.base import missing_from
from lm_eval_moe.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = [
    "DEFAULT",
    "GROUP",
    "backend",
    "backend_names",
    "load_model",
    "quiet_loading",
    "register_backend",
    "set_threads",
]

DEFAULT = "hf-moe"
"""The backend of commands that are not told another."""

GROUP = "lm_eval_moe.backends"
"""The entry points by which other packages name their backends: ``name = "module:Class"``."""

_homes: dict[str, str] = {}


def register_backend(name: str, home: str) -> None:
    """Let ``--model NAME`` mean a model class.

    Args:
        name: The name.
        home: ``module:Class``. The class is one of lm-eval's models that fulfils `RoutedModel`.
    """
    _homes[name] = home


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends: this package's, those of installed packages, and registered ones."""
    _discover()
    return tuple(sorted(_homes))


def backend(name: str) -> type[RoutedModel]:
    """Return a backend's model class.

    Raises:
        UserError: There is no such backend.
    """
    if name not in backend_names():
        raise UserError(
            f"there is no routed model {name!r}{did_you_mean(name, _homes)}",
            fix=f"use --model {' or '.join(_homes)}",
            where="--model",
        )
    module, _, attribute = _homes[name].partition(":")
    found: type[RoutedModel] = getattr(importlib.import_module(module), attribute)
    return found


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from showing a bar of its own for the weights that it loads inside the ``with`` block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def set_threads(count: int) -> None:
    """Let models in this process compute in so many threads."""
    import torch

    torch.set_num_threads(count)


def load_model(name: str, arguments: Mapping[str, Any]) -> RoutedModel:
    """Load a model.

    Args:
        name: Of the backend.
        arguments: What follows ``--model_args``; ``steering`` is refused before the weights are loaded if it does not
            fit.

    Raises:
        UserError: The model cannot be loaded or steered, or an argument is wrong.
        RoutingBypassedError: It is loaded, but its routing cannot be followed.
    """
    kind = backend(name)
    try:
        model = kind(**arguments)
    except (TypeError, ValueError, OSError) as error:
        # Engines and lm-eval say so when an argument is unknown or files are missing.
        raise UserError(
            f"the model cannot be loaded: {type(error).__name__}: {error}",
            fix="correct the arguments; they are those of `lm-eval-moe run`",
            where="--model_args",
        ) from error
    if missing := missing_from(model):
        raise UserError(
            f"{kind.__qualname__} lacks {', '.join(missing)}: it could not be captured and steered",
            fix="build it on lm_eval_moe.backends.routed_state.RoutedState, and see RoutedModel for the rest",
            where=f"--model {name}",
        )
    return model


@cache
def _discover() -> None:
    for entry in entry_points(group=GROUP):
        _homes.setdefault(entry.name, entry.value)
    for file in sorted(Path(__file__).parent.glob("*/model.py")):
        importlib.import_module(f"{__package__}.{file.parent.name}")
