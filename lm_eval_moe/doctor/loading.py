"""Load what the doctor examines: the model as `HFMoE` does, or its modules alone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from lm_eval_moe.backends.hf.model import HFMoE
    from lm_eval_moe.steering import SteeringSpec

__all__ = ["loaded", "model_without_weights"]


def loaded(arguments: dict[str, Any], steering: SteeringSpec | None = None) -> HFMoE:
    """Load a model.

    Args:
        arguments: What follows ``--model_args``.
        steering: Is put in force, and refused before the weights are loaded if it does not fit.

    Raises:
        UserError: The model cannot be loaded or steered, or an argument is wrong.
        RoutingBypassedError: It is loaded, but its routing cannot be followed.
    """
    from lm_eval_moe.backends.hf.model import HFMoE

    with _without_progress_bars():
        try:
            return HFMoE(**{**arguments, "steering": steering})
        except (TypeError, ValueError, OSError) as error:
            # transformers and lm-eval say so when an argument is unknown or files are missing.
            raise UserError(
                f"the model cannot be loaded: {type(error).__name__}: {error}",
                fix="correct the arguments; they are those of `lm-eval-moe run`",
                where="--model_args",
            ) from error


def model_without_weights(arguments: dict[str, Any]) -> nn.Module:
    """Build a model's modules on the meta device from its config.

    Raises:
        UserError: There is no such config, or it is of no decoder-only language model.
    """
    from lm_eval_moe.backends.hf.loading import config_of, model_path
    from lm_eval_moe.routers import model_on_meta
    from lm_eval_moe.routers.families import load_adapter

    if arguments.get("adapter") is not None:
        load_adapter(arguments["adapter"])
    config = config_of(model_path(arguments["pretrained"]), arguments)
    return model_on_meta(config, trust_remote_code=bool(arguments.get("trust_remote_code")))


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
