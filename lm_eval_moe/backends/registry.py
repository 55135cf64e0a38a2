"""Model classes by the name that ``--model`` takes; a class is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.base import missing_from
from lm_eval_moe.discovery import Registry, failing_as_user_error
from lm_eval_moe.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = [
    "BACKENDS",
    "DEFAULT",
    "backend",
    "load_model",
    "quiet_loading",
    "register_backend",
    "set_threads",
    "usual_batch_size",
]

DEFAULT = "hf-moe"
"""The default backend of all commands."""

BACKENDS: Registry[str] = Registry("routed model")
"""``module:Class`` of each backend by its name."""


def register_backend(name: str, home: str) -> None:
    """Let ``--model NAME`` mean a model class.

    Args:
        name: The name.
        home: ``module:Class``. The class is one of lm-eval's models that fulfils `RoutedModel`.

    Raises:
        UserError: The name means another class already.
    """
    BACKENDS.add(name, home, home)


def backend(name: str) -> type[RoutedModel]:
    """Return a backend's model class.

    Raises:
        UserError: There is no such backend, or it cannot be imported.
    """
    home = BACKENDS.look_up(name, "--model")
    module, _, attribute = home.partition(":")
    with failing_as_user_error(f"the backend {home}", f"--model {name}", "fix it, or install what it needs"):
        kind: type[RoutedModel] = getattr(importlib.import_module(module), attribute)
    return kind


def usual_batch_size(name: str, size: int) -> int | str:
    """Return the default batch size of a command.

    Args:
        name: Of the backend.
        size: For an engine that is given batch after batch; one that fills its own gets all there is (``auto``).

    Raises:
        UserError: There is no such backend, or it cannot be imported.
    """
    return "auto" if backend(name).fills_batches else size


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from showing its own bar for the weights that it loads inside the ``with`` block."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def set_threads(count: int) -> None:
    """Let models in this process compute in so many threads."""
    import torch

    torch.set_num_threads(count)


def _nearest(kind: type, arguments: Mapping[str, Any], message: str) -> str:
    """Return which argument was meant by one that an error names and that no class of a backend takes."""
    names = {name for base in kind.__mro__ for name in signature(vars(base).get("__init__", base)).parameters}
    unknown = [name for name in arguments if name not in names and repr(name) in message]
    return "".join(did_you_mean(name, names) for name in unknown)


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
    except Exception as error:
        # Engines, lm-eval and safetensors say so when an argument is unknown or files are missing or damaged.
        if not isinstance(error, (TypeError, ValueError, OSError)) and type(error).__name__ != "SafetensorError":
            raise
        raise UserError(
            f"the model cannot be loaded: {type(error).__name__}: {error}{_nearest(kind, arguments, str(error))}",
            fix="correct the arguments; they are the same as for `lm-eval-moe run`",
            where="--model_args",
        ) from error
    if missing := missing_from(model):
        raise UserError(
            f"{kind.__qualname__} lacks {', '.join(missing)}: it could be neither captured nor steered",
            fix="build it on lm_eval_moe.backends.routed_state.RoutedState, and see RoutedModel for the rest",
            where=f"--model {name}",
        )
    return model
