"""vLLM's worker with the routers wrapped: the class that ``worker_cls`` names."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from vllm.platforms import current_platform
from vllm.v1.kv_cache_interface import is_full_attention_spec

from lm_eval_moe._version import __version__
from lm_eval_moe.backends.vllm.books import HELD_BACK
from lm_eval_moe.backends.vllm.budget import ASSUMED, left_for_blocks, segment_bytes
from lm_eval_moe.backends.vllm.identity import worker_parts
from lm_eval_moe.backends.vllm.operators import wrap_routers
from lm_eval_moe.backends.vllm.routing import KEY, WorkerRouting, WorkerSettings
from lm_eval_moe.backends.vllm.selfcheck import check_routers, copies_of
from lm_eval_moe.backends.vllm.serving import ServedSteering, served_settings
from lm_eval_moe.backends.vllm.stages import error_to_send
from lm_eval_moe.backends.weights import hash_of_parameters
from lm_eval_moe.errors import UserError

if TYPE_CHECKING or not current_platform.is_cpu():
    from vllm.v1.worker.gpu_worker import Worker
else:
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker

__all__ = ["RoutedWorker"]


class RoutedWorker(Worker):
    """A worker that captures routing and steers it."""

    routing: WorkerRouting | None = None
    failure: Exception | None = None  # of the check at the start
    serves = False  # whether requests come from a server, and not from the model class, which asks for failures

    # ------------------------------------------------------------------ what vLLM calls

    def load_model(self, **arguments: Any) -> None:
        """Load the model, and wrap its routers before anything is compiled."""
        settings = self._configured_settings()
        served = ServedSteering.of(self.vllm_config.additional_config)
        if served is not None:
            self.serves = True
            self._steered = served.plan_for(self.vllm_config)
            settings["version"] = __version__  # as in `refusals.with_routing`
        super().load_model(**arguments)
        model = self.get_model()
        self.routers = wrap_routers(model)
        self._prepare_stage(model)
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end)

    def determine_available_memory(self) -> int:
        """Return how many bytes the KV cache may take; the sums of its blocks have to fit next to it."""
        available: int = super().determine_available_memory()
        specs = list(self.model_runner.get_kv_cache_spec().values())
        runners = list(self.routers.runners.values())
        fixed_bytes = self.cache_config.kv_cache_memory_bytes
        if fixed_bytes or not self.cache_config.enable_prefix_caching or not specs or not runners:
            return available
        # A recorder has room for the layers of all stages.
        layers = len(runners) * self.parallel_config.pipeline_parallel_size
        arrays = self.vllm_config.additional_config.get("lm_eval_moe_arrays", ASSUMED)
        return left_for_blocks(
            available,
            block=sum(spec.page_size_bytes for spec in specs) // len(set(specs)),  # layers of other kinds have others
            segment=segment_bytes(layers, runners[0].moe_config.num_logical_experts, arrays),
            reserved=2 * HELD_BACK * self.scheduler_config.max_num_seqs,
        )

    def compile_or_warm_up_model(self) -> Any:
        """Get ready to run, and prove that steering and capture work as the model now runs."""
        times = super().compile_or_warm_up_model()
        try:
            self._check_routers()
        except Exception as error:
            if self.serves:
                raise
            self.failure = error  # raised here, it would be lost in the log
        if self.serves:
            all_layers = self.parallel_config.pipeline_parallel_size == 1
            self._route(served_settings(*self._steered, self.routing_parts(), all_layers=all_layers))
        return times

    def _prepare_stage(self, model: Any) -> None:
        """Make what a stage of a pipeline receives into, which vLLM makes in a warm-up that the CPU leaves out."""
        runner = self.model_runner
        if self.parallel_config.pipeline_parallel_size > 1 and getattr(runner, "intermediate_tensors", 0) is None:
            runner.intermediate_tensors = model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=self.model_config.dtype, device=self.device
            )

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run one step."""
        self._scheduled = scheduler_output
        if self.routing is not None:
            self.routing.announce(scheduler_output)
        output = super().execute_model(scheduler_output)
        if self.serves and self.routing is not None:
            self.routing.check()  # nobody else asks, and an answer that was not steered must not go out
        return output

    def _configured_settings(self) -> dict[str, Any]:
        settings = self.vllm_config.additional_config.get(KEY)
        if not isinstance(settings, dict) or not settings.keys() & {"steering", "version"}:
            raise UserError(
                "RoutedWorker was given no steering",
                fix=f"""add --additional-config '{{"{KEY}": {{"steering": "FILE"}}}}'; without steering, leave out """
                "--worker-cls",
                where="--additional-config",
            )
        return settings

    def _check_routers(self) -> None:
        runner, parts, words = self.model_runner, self.routing_parts(), self.model_config.get_vocab_size()
        experts, top_k = max(parts["experts"], default=0), max(parts["top_k"], default=0)
        tokens = min(16, self.scheduler_config.max_num_batched_tokens)
        for batch in ({"num_tokens": tokens}, {"num_tokens": 1, "uniform_decode": True}):

            def run(batch: dict[str, Any] = batch) -> list[Tensor]:
                output: list[Tensor] = []
                hooks = (
                    self.get_model().register_forward_pre_hook(partial(_fill_in, words), with_kwargs=True),
                    self.get_model().register_forward_hook(lambda *hook_args: output.extend(copies_of(hook_args[-1]))),
                )
                try:
                    # On a CPU, a pass without attention hands on memory that nobody has written.
                    runner._dummy_run(**batch, force_attention=True)
                finally:
                    for hook in hooks:
                        hook.remove()
                return output

            check_routers(self.routers, experts, top_k, run)

    def _begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.routing is not None:
            arguments = dict(zip(("input_ids", "positions"), args, strict=False)) | kwargs
            tokens, positions = arguments["input_ids"], arguments["positions"]
            if tokens is None:  # a later stage of a pipeline, or a model that is given embeddings
                runner = self.model_runner
                input_ids = runner.input_ids.gpu if hasattr(runner, "input_ids") else runner.input_buffers.input_ids
                tokens = input_ids[: positions.shape[-1]]
            self.routing.begin(tokens, positions, self._order)

    def _end(self, *_: Any) -> None:
        if self.routing is not None:
            self.routing.end()

    def _order(self) -> list[str]:
        """Return the requests of the coming pass in the order of their rows."""
        runner = self.model_runner
        if hasattr(runner, "input_batch"):  # the first of vLLM's two model runners
            return list(runner.input_batch.req_ids)
        from vllm.v1.worker.gpu.model_runner import sort_batch_req_ids

        step = self._scheduled
        return list(
            sort_batch_req_ids(step.num_scheduled_tokens, step.scheduled_spec_decode_tokens, runner.decode_query_len)
        )

    def _prefix_cache(self) -> tuple[int, int] | None:
        """Return which group of KV blocks holds whole sequences, and tokens of a block; None without a prefix cache."""
        if not self.cache_config.enable_prefix_caching:
            return None
        groups = self.model_runner.kv_cache_config.kv_cache_groups
        for number, group in enumerate(groups):
            if is_full_attention_spec(group.kv_cache_spec):
                return number, group.kv_cache_spec.block_size
        raise UserError(
            "no layer of the model attends to whole sequences: what the prefix cache holds cannot be determined",
            fix="add enable_prefix_caching=False",
            where="--model_args enable_prefix_caching",
        )

    # ------------------------------------------------------------------ what the model class calls

    def routing_parts(self) -> dict[str, Any]:
        """Return what this worker has of the model, and how it runs it."""
        runners = self.routers.runners
        return {
            "layers": list(runners),
            "experts": sorted({int(runner.moe_config.num_logical_experts) for runner in runners.values()}),
            "top_k": sorted({int(runner.moe_config.experts_per_token) for runner in runners.values()}),
            "routers": sorted({type(runner.router).__name__ for runner in runners.values()}),
            "monolithic": [layer for layer, runner in runners.items() if runner._quant_method.is_monolithic],
            "after_logits": sorted({word for runner in runners.values() for word in _after_logits(runner.router)}),
            "failure": error_to_send(self.failure) if self.failure is not None else None,
        }

    def routing_identity(self) -> dict[str, Any]:
        """Return what answers depend on that only a worker knows."""
        return worker_parts(self)

    def routing_weights(self) -> str:
        """Return a hash over every element of this worker's parameters."""
        return hash_of_parameters(self.get_model())

    def routing_begin(self, settings: str | None) -> dict[str, Any] | None:
        """Capture and steer from now on as the settings say; None: no longer. Return what went wrong, if anything."""
        self.routing = None
        try:
            if settings is not None:
                self._route(WorkerSettings.received(settings))
        except Exception as error:  # noqa: BLE001 - it would reach the user as one of vLLM's, without the message
            return {"error": error_to_send(error)}
        return None

    def _route(self, settings: WorkerSettings) -> None:
        self.routing = WorkerRouting(settings, self.routers, self.device, self._prefix_cache())

    def routing_take(self, cuts: list[tuple[int, list[int]]]) -> dict[str, Any]:
        """Return the packed sums of requests that have ended, or what went wrong (see `WorkerRouting.take`)."""
        assert self.routing is not None
        try:
            records = list(self.routing.take(dict(cuts)).items())
        except Exception as error:  # noqa: BLE001 - it would end the engine without a word
            return {"error": error_to_send(error)}
        return {"sums": records}

    def routing_counted(self) -> dict[str, int]:
        """Return what `WorkerRouting.counted` does."""
        return {} if self.routing is None else self.routing.counted()


def _fill_in(words: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Give a pass different tokens, or a later stage of a pipeline a hidden state: dummy runs have zeros.

    The tokens are ordinary ones of so many words: padding, among the first, may be embedded as zeros.
    """
    tokens = kwargs.get("input_ids", args[0] if args else None)
    if tokens is not None:
        tokens.copy_((words // 3 + 7 * torch.arange(len(tokens))) % words)
    before = kwargs.get("intermediate_tensors")
    for tensor in before.tensors.values() if before is not None else ():
        tensor.copy_(torch.linspace(-1, 1, tensor.numel()).reshape(tensor.shape))


def _after_logits(router: Any) -> list[str]:
    """Return what a router selects by besides its logits."""
    grouped = getattr(router, "use_grouped_topk", False) or (getattr(router, "num_expert_group", None) or 1) > 1
    biased = getattr(router, "e_score_correction_bias", None) is not None
    return ["groups"] * bool(grouped) + ["a bias"] * biased
