"""What ``vllm-moe`` cannot follow, and therefore refuses with a message that says what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe._version import __version__
from lm_eval_moe.backends.vllm.routing import KEY
from lm_eval_moe.backends.vllm.stages import error_to_raise
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.backends.vllm.stages import Stages
    from lm_eval_moe.recording import RequestKey
    from lm_eval_moe.steering import SteeringPlan

__all__ = [
    "check_arguments",
    "check_generation",
    "check_parts",
    "check_plan",
    "check_room",
    "with_routing",
    "without_device",
]

WORKER = "lm_eval_moe.backends.vllm.worker.RoutedWorker"

_PLAIN_ROUTERS = frozenset({"FusedTopKRouter", "CPURouter"})
"""Routers of vLLM that select by the logits alone, unless they are given groups or a bias."""


def _truthy(value: Any) -> bool:
    return str(value).lower() not in ("", "none", "false", "0", "{}")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse model arguments with which routing could not be followed, before anything is loaded.

    Raises:
        UserError: One is there.
    """
    if int(arguments.get("data_parallel_size") or 1) > 1:
        raise UserError(
            "lm-eval's data parallelism builds a new engine for every call: neither steering nor records would survive",
            fix="use tensor_parallel_size, with enable_expert_parallel=True for many experts",
            where="--model_args data_parallel_size",
        )
    if None not in (arguments.get("max_length"), arguments.get("max_model_len")):
        raise UserError(
            "max_length and max_model_len mean the same to vLLM",
            fix="give only one of them",
            where="--model_args max_length",
        )
    for name in ("speculative_config", "speculative_model"):
        if _truthy(arguments.get(name)):
            raise UserError(
                "speculative decoding routes tokens that are later discarded: they would be counted",
                fix=f"leave out {name}",
                where=f"--model_args {name}",
            )
    for name, what in (
        ("enable_eplb", "expert load balancing renumbers experts while the model runs"),
        ("enable_dbo", "dual batch overlap splits a pass in two, so its tokens cannot be attributed to requests"),
        ("enable_return_routed_experts", "vLLM's own capture of experts cannot run beside this one"),
        ("kv_transfer_config", "the routing of KV blocks that were computed elsewhere was not recorded"),
        ("worker_cls", "capture and steering need their own worker class"),
        ("logits_processors", "they change scores, and the identity of stored answers does not cover them"),
        ("enable_sleep_mode", "a sleeping engine loses what it has recorded"),
    ):
        if _truthy(arguments.get(name)):
            raise UserError(what, fix=f"leave out {name}", where=f"--model_args {name}")


def without_device(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return model arguments without a device: vLLM runs where it was built for.

    Raises:
        UserError: Another device was asked for.
    """
    from vllm.platforms import current_platform

    remaining = dict(arguments)
    device = remaining.pop("device", None)
    device_type = current_platform.device_type
    # The first GPU is the default of lm-eval's command.
    if device not in (None, "cuda:0", device_type):
        raise UserError(
            f"vLLM chooses its devices itself: it runs on {device_type} here",
            fix="leave the device out; the environment variable CUDA_VISIBLE_DEVICES says which GPUs it may use",
            where=f"--device {device}",
        )
    return remaining


def with_routing(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return model arguments with which vLLM loads its model with the routers wrapped."""
    from vllm.config import CompilationConfig
    from vllm.platforms import current_platform

    extended = {**arguments, "worker_cls": WORKER}
    # The key of vLLM's compile cache: a plain model's code, which has no operators, must not be taken for ours.
    additional = extended.get("additional_config") or {}
    extended["additional_config"] = {**additional, KEY: {"version": __version__}}
    if not current_platform.is_cpu() and not _truthy(extended.get("enforce_eager")):
        # On a GPU, routers run within an operator of vLLM's. Graphs are cut there, so that what is recorded when a
        # graph is captured is not all that ever runs.
        compilation = extended.get("compilation_config") or {}
        if not isinstance(compilation, dict):
            raise UserError(
                "compilation_config must be a mapping: graph splits at the experts are added to it",
                fix="write its fields, such as {'compile_sizes': [1]}; cudagraph_mode is PIECEWISE",
                where="--model_args compilation_config",
            )
        cuts = [*CompilationConfig._attention_ops, "vllm::unified_kv_cache_update", "vllm::unified_mla_kv_cache_update"]
        cuts += ["vllm::moe_forward", "vllm::moe_forward_shared"]
        mode = "NONE" if str(compilation.get("cudagraph_mode")).upper() == "NONE" else "PIECEWISE"
        extended["compilation_config"] = {**compilation, "cudagraph_mode": mode, "splitting_ops": cuts}
    return extended


def check_parts(stages: Stages) -> None:
    """Refuse kernels that run past the routers, and workers whose check at the start failed.

    Raises:
        RoutingBypassedError: There are some.
    """
    if monolithic := sorted(stages.of("monolithic")):
        raise RoutingBypassedError(
            f"the MoE layers {format_ranges(monolithic)} select their experts inside one kernel, where the selection "
            "cannot be observed",
            fix="choose another kernel, such as moe_backend=triton",
            where="--model_args moe_backend",
        )
    for part in stages.parts:
        if part["failure"] is not None:
            raise error_to_raise(part["failure"])


def check_plan(plan: SteeringPlan, stages: Stages) -> None:
    """Refuse a guard that vLLM's routers cannot respect.

    Raises:
        UserError: The plan has one.
    """
    guarded = [
        intervention.index
        for intervention in plan.interventions
        if intervention.guard and intervention.action.guards_by
    ]
    if guarded and (special := sorted(stages.of("after_logits"))):
        raise UserError(
            f"guard: true cannot be guaranteed: vLLM's routers select by {' and '.join(special)} besides the logits, "
            "in one kernel",
            fix="leave out the guard, and check in steered_selection how often steering reached the selection; or use "
            "hf-moe",
            where=f"{plan.name}: interventions.{guarded[0]}.guard",
        )


def check_room(generated: int, longest: int, key: RequestKey | None) -> None:
    """Refuse an answer that leaves no room for a prompt.

    Args:
        generated: Tokens that it may have.
        longest: Tokens that the model takes, the answer's included.
        key: The request.

    Raises:
        UserError: There is no room.
    """
    if generated >= longest:
        raise UserError(
            f"the answer may have up to {generated} tokens, but prompt and answer together have room for {longest}",
            fix="raise --model_args max_model_len=..., or lower --gen_kwargs max_gen_toks=...",
            where=f"task {key.task}" if key else None,
        )


def check_generation(requests: Sequence[Any], span: str | None, think_end: str | int | None) -> None:
    """Refuse generation whose tokens could not be told apart.

    Raises:
        UserError: It is asked for.
    """
    for request in requests:
        if int(request.args[1].get("n") or 1) > 1:
            raise UserError(
                "several answers to one request share the pass over its prompt: they would be counted as one",
                fix="leave out n; use lm-eval's repeats for several answers",
                where=f"task {request.task_name}: generation_kwargs.n",
            )
    if think_end not in (None, "") and span in ("thinking", "continuation", "all") and requests:
        raise UserError(
            f"capture={span} needs to know during generation where the thinking ends, but vLLM's workers do not",
            fix="use capture=prompt, or hf-moe",
            where="--model_args capture",
        )
