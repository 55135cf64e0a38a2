"""Steering under vLLM's own server: a steering file for all requests, which a request may leave out or narrow down.

``vllm serve MODEL --worker-cls lm_eval_moe.backends.vllm.worker.RoutedWorker --additional-config '{"lm_eval_moe":
{"steering": "steer.yaml"}}'``. The front, in the server's process, reads what a request says of steering, refuses what
it cannot mean, and writes down for the workers what holds for it. It also salts the prefix cache, so that no request
finds keys and values that were steered in another way. vLLM loads it as a plug-in, and workers refuse to start without.
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.arguments import resolve_plan
from lm_eval_moe.backends.loading import shape_before_loading
from lm_eval_moe.backends.vllm import refusals
from lm_eval_moe.backends.vllm.books import RequestFacts
from lm_eval_moe.backends.vllm.routing import KEY, WorkerSettings
from lm_eval_moe.backends.vllm.stages import Stages
from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.recording import NONE
from lm_eval_moe.steering import load_spec
from lm_eval_moe.steering.language_filter import parse_language
from lm_eval_moe.steering.plan import sent_plan
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

if TYPE_CHECKING:
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["ServedSteering", "SteeringReader", "install_front"]

STEERING, LANGUAGE = f"{KEY}_steering", f"{KEY}_language"
"""What a request may say, among vLLM's extra arguments (``vllm_xargs``)."""

_PREFIX, _XARGS = f"{KEY}_", "vllm_xargs"


@dataclass(frozen=True)
class ServedSteering:
    """How a server was configured to steer when it was started.

    Attributes:
        file: The steering file.
        language: The language of requests that do not name theirs, as a canonical tag.
    """

    file: str
    language: str | None = None

    @classmethod
    def of(cls, additional_config: Any) -> ServedSteering | None:
        """Return what ``--additional-config`` says; None where no steering is configured.

        Raises:
            UserError: It is written wrongly.
        """
        settings = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
        if settings is None:
            return None
        fields = YamlValue(YamlPlace("--additional-config", Path()) / KEY, settings).keys(
            [], ["steering", "language", "version"]
        )
        if "steering" not in fields:
            return None
        language = parse_language(fields["language"]) if "language" in fields else None
        return cls(fields["steering"].text(empty=False), language)

    # ------------------------------------------------------------------ in the worker

    def plan_for(self, config: Any) -> tuple[RoutingShape, SteeringPlan]:
        """Return a model's routing shape and the plan, before its weights are loaded.

        Args:
            config: vLLM's ``VllmConfig``.

        Raises:
            UserError: The file does not fit the model, or the server is configured so that it cannot be steered.
        """
        if not _front_is_installed():
            raise UserError(
                "vLLM has not loaded the plug-in lm_eval_moe, which reads the requests' steering options",
                fix="add lm_eval_moe to VLLM_PLUGINS, or leave that variable unset; install lm-eval-moe with pip",
                where="VLLM_PLUGINS",
            )
        _check_engine(config)
        model = config.model_config
        shape = shape_before_loading(
            {"pretrained": model.model, "revision": model.revision, "trust_remote_code": model.trust_remote_code}
        )
        plan = resolve_plan(self.file, shape)
        assert plan is not None
        return shape, plan


def served_settings(
    shape: RoutingShape, plan: SteeringPlan, parts: Mapping[str, Any], *, all_layers: bool
) -> WorkerSettings:
    """Return how a worker steers what a server asks of it.

    Args:
        shape: The model's routing shape.
        plan: The plan.
        parts: What the worker has, as ``RoutedWorker.routing_parts`` says.
        all_layers: Whether it should have all layers, as where there is no pipeline.

    Raises:
        UserError: The worker's routers cannot be steered by this plan, or at all.
    """
    own_shape = shape if all_layers else replace(shape, layers=tuple(n for n in shape.layers if n in parts["layers"]))
    stages = Stages([parts], own_shape)
    refusals.check_parts(stages)
    refusals.check_plan(plan, stages)
    return WorkerSettings(shape.layers, shape.experts, shape.top_k, shape.depth, plans=(sent_plan(plan),))


def _check_engine(config: Any) -> None:
    parallel = config.parallel_config
    if parallel.data_parallel_size > 1:
        raise UserError(
            "steering under data parallelism has not been tested",
            fix="use --tensor-parallel-size, with --enable-expert-parallel for many experts, or several servers",
            where="--data-parallel-size",
        )
    engine_settings = {
        "speculative_config": config.speculative_config is not None,
        "kv_transfer_config": config.kv_transfer_config is not None,
        "enable_eplb": parallel.enable_eplb,
        "enable_dbo": parallel.enable_dbo,
    }
    try:
        refusals.check_arguments(engine_settings)
    except UserError as error:
        raise UserError(error.problem, fix=error.fix, where="vllm serve") from error


# ---------------------------------------------------------------------- in the server's process


class SteeringReader:
    """Reads what requests say of steering.

    Args:
        served: The server's configuration.

    Raises:
        UserError: The steering file cannot be read.
    """

    def __init__(self, served: ServedSteering) -> None:
        self._served = served
        interventions = load_spec(served.file).interventions
        self._by_language = not all(intervention.languages.is_all for intervention in interventions)
        self._by_phase = any(intervention.tokens != "all" for intervention in interventions)

    def admit(self, request: Any) -> None:
        """Write down what holds for a request, and salt its place in the prefix cache.

        Args:
            request: vLLM's ``EngineCoreRequest``, which is changed.

        Raises:
            UserError: It says what cannot be.
        """
        parameters = request.sampling_params
        if parameters is None or request.prompt_token_ids is None or request.resumable:
            raise UserError(
                "this server steers text generated from complete prompts of tokens: no pooling, no embeddings in "
                "place of tokens, no prompts that are continued later",
                fix="send this request to a server without steering",
            )
        extra_args = dict(parameters.extra_args or {})
        choices = {name: extra_args.pop(name) for name in list(extra_args) if name.startswith(_PREFIX)}
        steered, language = self._choice(choices)
        by_phase = steered and self._by_phase
        facts = RequestFacts(
            row=0,
            boundary=len(request.prompt_token_ids),
            language=language,
            plan=0 if steered else NONE,
            wanted=False,
            shared=True,
            by_phase=by_phase,
        )
        parameters.extra_args = {**extra_args, KEY: facts.sent()}
        # A generated token that comes back in a later prompt was steered as what it was then: nobody finds it again.
        salt = [steered, language if steered else None, uuid.uuid4().hex if by_phase else None, request.cache_salt]
        request.cache_salt = json.dumps(salt)

    def _choice(self, choices: Mapping[str, Any]) -> tuple[bool, str | None]:
        for name in choices:
            if name not in (STEERING, LANGUAGE):
                hint = did_you_mean(name, (STEERING, LANGUAGE))
                raise UserError(f"unknown argument {name!r}{hint}", fix=f"use {STEERING} or {LANGUAGE}", where=_XARGS)
        steering = choices.get(STEERING, "on")
        if steering not in ("on", "off"):
            raise UserError(f"{STEERING}={steering!r} is neither on nor off", fix="write 'on' or 'off'", where=_XARGS)
        language = choices.get(LANGUAGE, self._served.language)
        if language is not None:
            language = parse_language(YamlValue(YamlPlace(_XARGS, Path()) / LANGUAGE, language))
        elif steering == "on" and self._by_language:
            raise UserError(
                "this server's steering is limited to some languages, but the language of the request is unknown",
                fix=f"give it as {LANGUAGE}, or leave the request unsteered ({STEERING}: 'off')",
                where=_XARGS,
            )
        return steering == "on", language


_MARK = "_lm_eval_moe_front"


def _front_is_installed() -> bool:
    from vllm.v1.engine.input_processor import InputProcessor

    return hasattr(InputProcessor, _MARK)


def install_front() -> None:
    """Let vLLM's server ask the front about every request; called by vLLM as its plug-in, in each of its processes.

    Servers and engines without a steering configuration run as usual.
    """
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    if _front_is_installed():
        return
    begin, process = InputProcessor.__init__, InputProcessor.process_inputs

    @functools.wraps(begin)
    def __init__(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it takes its place
        served = ServedSteering.of(vllm_config.additional_config)
        setattr(self, _MARK, SteeringReader(served) if served is not None else None)
        begin(self, vllm_config, *args, **kwargs)

    @functools.wraps(process)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = process(self, *args, **kwargs)
        front = getattr(self, _MARK)
        if front is not None:
            try:
                front.admit(request)
            except UserError as error:  # answered with status 400; any other error would be the server's own fault
                raise VLLMValidationError(str(error), parameter=_XARGS) from error
        return request

    InputProcessor.__init__, InputProcessor.process_inputs = __init__, process_inputs
    setattr(InputProcessor, _MARK, None)
