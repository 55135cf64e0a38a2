"""Whether a checkpoint fills the model: what it lacks is drawn at random, and no two runs of it would agree."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.replacing import replaced
from lm_eval_moe.routers import find_sites

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FLAG", "checked_loading"]

FLAG = "allow_missing_weights"

_SHOWN = 6
_ROUTERS = frozenset(("gate", "router", "gating"))


@dataclass(frozen=True)
class _Gaps:
    """Where a checkpoint and a model do not fit.

    Attributes:
        grave: What a run must not continue with: by what is wrong, the weights.
        missing: Other weights that the checkpoint lacks.
        random: Whether any weight of the model was drawn at random.
    """

    grave: Mapping[str, Sequence[str]]
    missing: Sequence[str]
    random: bool


def checked_loading(lm: Any, *, allow: bool) -> AbstractContextManager[None]:
    """Check every checkpoint that `HFLM` loads within, and say so to the model's ``weights``.

    Args:
        lm: The model that is being made, an `HFMoE`.
        allow: Go on in spite of gaps, with a warning.

    Raises:
        UserError: Weights of routers, experts or embeddings are missing, of another shape, or of no use.
    """
    if lm.backend != "causal":
        return nullcontext()
    return replaced(lm, "AUTO_MODEL_CLASS", _CheckedLoader(lm.AUTO_MODEL_CLASS, lm, allow))


class _CheckedLoader:
    """Stands for a model class of transformers while its checkpoints are loaded."""

    def __init__(self, auto: Any, lm: Any, allow: bool) -> None:
        self._auto, self._lm, self._allow = auto, lm, allow

    def from_pretrained(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        loading_options = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            model, info = self._auto.from_pretrained(path, *args, **loading_options)
        except RuntimeError as error:
            failed = _not_converted(error)
            if not failed:
                raise
            raise UserError(
                f"the experts in the checkpoint cannot be assembled: {_first_names(failed)}",
                fix="a tensor is missing or has the wrong shape: give a complete checkpoint",
                where=f"checkpoint {path}",
            ) from error
        gaps = _gaps_of(model, info)
        self._lm.weights.incomplete |= gaps.random
        if gaps.grave:
            _refuse(path, gaps, self._allow)
        if gaps.missing:
            warnings.warn(
                f"checkpoint {path}: it lacks {_first_names(gaps.missing)}: initialised at random, differently in "
                "every run",
                RoutingWarning,
                stacklevel=2,
            )
        return model


def _gaps_of(model: nn.Module, info: Mapping[str, Any]) -> _Gaps:
    """Sort what transformers says of a loaded checkpoint.

    What a checkpoint holds beyond the model (the layers that predict a further token, a vision tower, the scales of
    quantised weights) is not a gap; a router, expert or embedding of a layer that the model has is one: the config is
    then not that of the checkpoint.
    """
    names = _Names(model)
    shapes = {name: f"{name} ({list(there)}, expected {list(here)})" for name, there, here in info["mismatched_keys"]}
    missing = sorted(info["missing_keys"])
    quantised = getattr(model, "hf_quantizer", None) is not None
    unused = [] if quantised else sorted(key for key in info["unexpected_keys"] if names.what(key))
    grave = {
        "it lacks": [f"{key} ({what})" for key in missing if (what := names.what(key))],
        "it has the wrong shape for": [shapes[key] for key in sorted(shapes)],
        "the model does not use": [f"{key} ({names.what(key)})" for key in unused],
    }
    return _Gaps(
        {problem: keys for problem, keys in grave.items() if keys},
        [key for key in missing if not names.what(key)],
        bool(missing or shapes),
    )


class _Names:
    """Says what a weight belongs to by its name."""

    def __init__(self, model: Any) -> None:
        sites = find_sites(model)
        layers = re.split(r"\.\d+\.", f"{sites[0].name}.", maxsplit=1)[0]
        self._in_layer = re.compile(rf"{re.escape(layers)}\.(\d+)\.(.*)")
        self._routers = tuple(f"{site.name}." for site in sites)
        blocks = {site.name.rpartition(".")[0] for site in sites}
        self._blocks = tuple(f"{block}." for block in blocks if self._in_layer.match(block))  # not the layer itself
        self._depth = sites[0].depth
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        self._embeddings = tuple(f"{name}." for name, module in model.named_modules() if name and module in ends)

    def what(self, key: str) -> str | None:
        """Return "router of layer 2", "experts of layer 2" or "embedding" and their like; None for everything else."""
        within = self._in_layer.match(key)
        if within is not None and int(within[1]) < self._depth:
            parts = within[2].split(".")
            if any("expert" in part for part in parts):
                return f"experts of layer {within[1]}"
            is_router = any(part in _ROUTERS for part in parts) and not any("attn" in part for part in parts)
            if is_router or key.startswith(self._routers):
                return f"router of layer {within[1]}"
            if key.startswith(self._blocks):  # a selection bias, a bias of all experts, a further gate
                return f"mixture of experts of layer {within[1]}"
        return "embedding" if key.startswith(self._embeddings) else None


def _refuse(path: Any, gaps: _Gaps, allow: bool) -> None:
    problem = "; ".join(f"{what} {_first_names(keys)}" for what, keys in gaps.grave.items())
    if gaps.random:
        problem += ": weights that are not loaded are initialised at random, differently in every run"
    if not allow:
        raise UserError(
            f"the checkpoint does not fit the model: {problem}",
            fix=f"give the complete checkpoint with its own config.json, or set {FLAG}=true to continue anyway",
            where=f"checkpoint {path}",
        )
    warnings.warn(f"checkpoint {path}: {problem} ({FLAG}=true)", RoutingWarning, stacklevel=3)


def _not_converted(error: RuntimeError) -> list[str]:
    """Return the weights that transformers could not make out of a checkpoint's; it keeps them where it raises."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        failed = getattr(frame.f_locals.get("loading_info"), "conversion_errors", None)
        if failed:
            return sorted(failed)
    return []


def _first_names(keys: Iterable[str]) -> str:
    names = list(keys)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
