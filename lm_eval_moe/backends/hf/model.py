"""``hf-moe``: lm-eval's Hugging Face model with routing capture and router steering."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.registry import register_model

from lm_eval_moe.backends.arguments import resolve_plan
from lm_eval_moe.backends.base import TorchModules
from lm_eval_moe.backends.hf import refusals
from lm_eval_moe.backends.hf.checkpoint import checked_loading
from lm_eval_moe.backends.hf.generation import Generations
from lm_eval_moe.backends.hf.identity import code_parts, model_parts
from lm_eval_moe.backends.hf.likelihood import Likelihoods
from lm_eval_moe.backends.hf.probe import probe
from lm_eval_moe.backends.loading import model_path, modules_before_loading, shape_before_loading
from lm_eval_moe.backends.weights import LoadedWeights
from lm_eval_moe.replacing import replaced
from lm_eval_moe.routers import RouterSite, check_adapters, find_sites, routing_shape
from lm_eval_moe.routers.families import load_adapter
from lm_eval_moe.routers.sites import encoder_decoder_error
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = ["HFMoE"]


@register_model("hf-moe")
class HFMoE(Likelihoods, Generations):
    """A mixture-of-experts causal language model whose routing is captured and, if asked for, steered.

    Takes every argument of `HFLM`. Without steering and with ``reuse=off`` its answers are bit-identical to those of
    ``hf``.

    Args:
        pretrained: Hub id, local path, a loaded ``PreTrainedModel``, or ``demo`` for the bundled tiny model.
        steering: A steering YAML file, or a spec or plan made in Python. None: the model as it is.
        capture: Which tokens' routing is recorded: ``prompt`` (also ``true``), ``thinking`` (needs a
            ``think_end_token``), ``continuation``, ``all`` or ``off``.
        parallel: Further files that say which task is which language, before the bundled one.
        adapter: A Python file with the adapter of a family that has none (docs/adapters.md).
        allow_missing_weights: Go on where weights of routers, experts or embeddings are missing from the checkpoint, of
            another shape, or of no use to the model; what is missing is drawn at random.
        reuse: ``auto``: what log-likelihood requests begin with in common is computed once, as far as the model is seen
            to answer the same (docs/performance.md). ``off``: every request is computed by itself, as by ``hf``.
        **kwargs: Passed on to `HFLM`.

    Raises:
        UserError: The model is dense, its routers cannot be intercepted, the steering does not fit it, or its
            checkpoint does not.
    """

    backend_name = "hf-moe"

    def __init__(
        self,
        pretrained: Any = "demo",
        *,
        steering: str | Path | SteeringSpec | SteeringPlan | None = None,
        capture: str | bool = "prompt",
        parallel: str | Sequence[str] = (),
        adapter: str | Path | None = None,
        allow_missing_weights: bool = False,
        reuse: str | bool = "auto",
        **kwargs: Any,
    ) -> None:
        self._begin_capture(capture, parallel, kwargs.get("think_end_token"))
        self._allow_missing_weights = allow_missing_weights
        self._given_name = pretrained if isinstance(pretrained, str) else None
        pretrained = model_path(pretrained)
        refusals.check_arguments(kwargs)
        self.reuse = refusals.checked_reuse(reuse)
        self.weights = LoadedWeights(pretrained, {**kwargs, "adapter": adapter})
        if isinstance(pretrained, str):
            # A steering file that does not fit is refused before an hour of loading weights.
            shape = shape_before_loading({**kwargs, "pretrained": pretrained, "adapter": adapter})
            steering = resolve_plan(steering, shape)
            if kwargs.get("device") is None and not torch.cuda.is_available():
                kwargs["device"] = "mps" if torch.backends.mps.is_available() else "cpu"
        elif adapter is not None:
            check_adapters(pretrained, load_adapter(adapter))
        super().__init__(pretrained=pretrained, **kwargs)
        if self.backend != "causal":
            raise encoder_decoder_error(type(self.model).__name__)
        refusals.check_device(self.device.type)
        refusals.check_think_end(self.tokenizer, self.think_end_token)
        self._sites: tuple[RouterSite, ...] = find_sites(self.model)
        self.routing_shape: RoutingShape = routing_shape(self.model, self._sites)
        self._scoring = probe(self.model, self._sites, self.routing_shape, self.device)
        self.code = code_parts(self.model, self.tokenizer, adapter)
        self.set_steering(steering)
        self._begin_listening()
        self._begin_sharing()
        self._begin_generations()

    def _create_model(self, *args: Any, **kwargs: Any) -> None:
        with checked_loading(self, allow=self._allow_missing_weights):
            super()._create_model(*args, **kwargs)

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, *args: Any, **kwargs: Any) -> None:
        super()._create_tokenizer(pretrained, tokenizer, *args, **kwargs)
        refusals.check_tokenizer(self.tokenizer, tokenizer or pretrained)

    # ------------------------------------------------------------------ what it is

    shape_before_loading = staticmethod(shape_before_loading)
    modules_before_loading = staticmethod(modules_before_loading)

    @property
    def model_id(self) -> str:
        """What names the model in profiles: as it was asked for, or as its config calls itself."""
        return self._given_name or str(self.config._name_or_path)

    def _own_parts(self) -> dict[str, Any]:
        return model_parts(self, self.weights)

    def trust_files(self) -> None:
        """Let the files stand for the weights from now on, and begin to hash them: nobody else holds the model."""
        self.weights.use_files()

    def torch_modules(self) -> TorchModules:
        """Return the modules with their routers, for those who look at them from outside."""
        sites = find_sites(self.model)
        return TorchModules(
            self.model,
            self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model,
            sites,
            self.device,
            self.running,
            lambda: probe(self.model, sites, self.routing_shape, self.device),
            frozenset(self._end_tokens({})),
            lambda: replaced(self, "reuse", "off"),
        )

    # ------------------------------------------------------------------ what lm-eval asks for

    def get_model_info(self) -> dict[str, Any]:
        """Add what routing was captured and how it was steered to lm-eval's description of the model."""
        info: dict[str, Any] = super().get_model_info()
        info["routing_capture"] = self.capture
        info["steering"] = {"name": self._plan.name, "hash": self._plan.hash} if self._plan else None
        return info
