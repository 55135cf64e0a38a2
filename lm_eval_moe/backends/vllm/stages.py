"""The workers of an engine: what each has of the model, and their records as those of the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.recording import AttributionError
from lm_eval_moe.recording.packing import unpack_sums
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.recording.sums import SegmentSums
    from lm_eval_moe.shape import RoutingShape

__all__ = ["Stages", "error_to_raise", "error_to_send"]


class Stages:
    """The stages of a pipeline. The workers of one stage, which share its tensors or experts, all record the same.

    Args:
        parts: What each worker has, as ``RoutedWorker.routing_parts`` says.
        shape: The model's routing shape.

    Attributes:
        parts: The same.

    Raises:
        RoutingBypassedError: The routers of vLLM's model are not those of the config.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]], shape: RoutingShape) -> None:
        self.parts = parts
        self._places = {layer: place for place, layer in enumerate(shape.layers)}
        # By the layers of a stage: its first worker.
        self._stages: dict[tuple[int, ...], int] = {}
        for worker, part in enumerate(parts):
            self._stages.setdefault(tuple(part["layers"]), worker)
        layers = sorted(layer for layers in self._stages for layer in layers)
        fits = all(part["experts"] in ([], [shape.experts]) and part["top_k"] in ([], [shape.top_k]) for part in parts)
        if layers != list(shape.layers) or not fits:
            experts, top_k = (sorted({n for part in parts for n in part[name]}) for name in ("experts", "top_k"))
            raise RoutingBypassedError(
                f"vLLM's model has routers in layers {format_ranges(layers) or 'none'} with experts {experts} and "
                f"top-k {top_k}, but its config says {shape}",
                fix="use vLLM's own implementation of the model (no model_impl=transformers), or hf-moe",
            )

    def of(self, name: str) -> set[Any]:
        """Return what the workers say of one thing, each once."""
        return {value for part in self.parts for value in part[name]}

    @staticmethod
    def check(answers: Sequence[Mapping[str, Any] | None]) -> None:
        """Raise the error that a worker's answer holds, if one does.

        Raises:
            UserError: A worker met one.
            AttributionError: Its records cannot be trusted.
        """
        for answer in answers:
            if answer and "error" in answer:
                raise error_to_raise(answer["error"])

    def merged(self, answers: Sequence[Mapping[str, Any]]) -> dict[int, SegmentSums]:
        """Return the sums of each row, all layers together.

        Args:
            answers: What each worker's ``routing_take`` returned.

        Raises:
            UserError: A worker met an error.
            AttributionError: A worker's records cannot be trusted.
        """
        self.check(answers)
        stages = [(layers, dict(answers[worker]["sums"])) for layers, worker in self._stages.items()]
        merged = {}
        for row, data in stages[0][1].items():
            sums = unpack_sums(data)
            for layers, stage_answers in stages[1:]:
                sums = _with_layers(sums, unpack_sums(stage_answers[row]), [self._places[layer] for layer in layers])
            merged[row] = sums
        return merged


def _with_layers(sums: SegmentSums, stage_sums: SegmentSums, places: list[int]) -> SegmentSums:
    """Return sums with some layers from others."""
    if not np.array_equal(sums.tokens, stage_sums.tokens):
        raise AttributionError("the stages of the pipeline counted different tokens")
    changed = {}
    for field in fields(sums):
        ours, theirs = getattr(sums, field.name), getattr(stage_sums, field.name)
        if field.name not in ("tokens", "joined") and theirs is not None:
            values = np.zeros_like(theirs) if ours is None else ours.copy()
            values[:, places] = theirs[:, places]
            changed[field.name] = values
    return replace(sums, **changed)


def error_to_send(error: Exception) -> list[str | None]:
    """Return an error as it travels: raised in a worker, it would end the engine without a word to the user."""
    if isinstance(error, UserError):
        kind = "bypassed" if isinstance(error, RoutingBypassedError) else "user"
        return [kind, error.problem, error.fix, error.where]
    return ["fault", f"{type(error).__name__}: {error}", None, None]


def error_to_raise(sent: Sequence[Any]) -> Exception:
    """Return the error that a worker sent."""
    kind, problem, fix, where = sent
    if kind == "fault":
        return AttributionError(f"a worker of vLLM failed: {problem}")
    return (RoutingBypassedError if kind == "bypassed" else UserError)(problem, fix=fix, where=where)
