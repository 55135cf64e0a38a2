"""The identity of an engine: everything that its answers and their routing depend on besides the requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lm_eval_moe.backends.code import hash_of_code
from lm_eval_moe.backends.identity import (
    described_config,
    described_folder,
    described_generation,
    described_reading,
    dtype_name,
    machine,
    source_of,
)
from lm_eval_moe.backends.vllm.engine import vllm_version
from lm_eval_moe.backends.weights import LoadedWeights
from lm_eval_moe.identity.file_hashes import hash_of_bytes
from lm_eval_moe.identity.settings import plain

__all__ = ["model_parts", "worker_parts"]

_PLAIN = (bool, int, float, str)


def model_parts(lm: Any, weights: LoadedWeights) -> dict[str, Any]:
    """Return the parts ``model``, ``computation``, ``versions`` and, of ``prompts``, what reads text.

    Args:
        lm: The model, a `VLLMMoE`.
        weights: Knows the hash of its weights. Nobody but the workers holds them, so that files stand for them, if
            there are any.
    """
    weights.use_files()
    engine = lm.model.llm_engine.vllm_config
    model, config = engine.model_config, engine.model_config.hf_config
    workers = lm.model.collective_rpc("routing_identity")
    lora = lm.lora_request
    return {
        "model.source": source_of(lm.model_id),
        "model.revision": weights.commit(),
        "model.class": _reported_values(workers, "class"),
        "model.config": described_config(config),
        "model.generation_config": described_generation(model.try_get_generation_config() or {}),
        "model.weights": weights.hash(
            lambda: {"shares": hash_of_bytes(json.dumps(lm.model.collective_rpc("routing_weights")).encode())}
        ),
        "model.routers": hash_of_bytes(_reported_values(workers, "routers").encode()),
        "model.code": _reported_values(workers, "code") or None,
        "model.adapter": None,
        "model.peft": described_folder(lora.lora_path) if lora is not None else None,
        "model.delta": None,
        "model.dtype": {
            "parameters": _reported_values(workers, "dtypes"),
            "computation": dtype_name(model.dtype),
            "kv_cache": engine.cache_config.cache_dtype,
        },
        "model.quantization": plain(getattr(config, "quantization_config", None)) or model.quantization,
        "model.attention": _reported_values(workers, "attention"),
        "model.experts": _reported_values(workers, "experts"),
        "model.device": _reported_values(workers, "device"),
        **described_reading(lm),
        "prompts.truncation": False if lm.truncation_side == "left" else lm.truncation_side,
        "prompts.max_gen_toks": lm.max_gen_toks,
        "computation.threads": max(worker["threads"] for worker in workers) or None,
        "computation.machine": _reported_values(workers, "machine"),
        "computation.reuse": True,
        "computation.engine": _engine(engine, _reported_values(workers, "runner")),
        "versions.vllm": vllm_version(),
    }


def _engine(config: Any, runner: str) -> dict[str, Any]:
    """Return the settings by which tokens are cut into passes, and passes spread and computed."""
    parallel, scheduler, cache, compilation = (
        getattr(config, f"{name}_config") for name in ("parallel", "scheduler", "cache", "compilation")
    )
    return {
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "pipeline_parallel_size": parallel.pipeline_parallel_size,
        "expert_parallel": bool(parallel.enable_expert_parallel),
        "compilation": getattr(compilation.mode, "name", str(compilation.mode)),
        "graphs": getattr(compilation.cudagraph_mode, "name", str(compilation.cudagraph_mode)),
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_num_seqs": scheduler.max_num_seqs,
        "chunked_prefill": bool(scheduler.enable_chunked_prefill),
        "prefix_caching": bool(cache.enable_prefix_caching),
        "block_size": cache.block_size,
        "runner": runner,
        "logprobs_mode": config.model_config.logprobs_mode,
        "seed": config.model_config.seed,
    }


def _reported_values(workers: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return what workers say of one thing, each thing once."""
    return ", ".join(sorted({value for worker in workers for value in worker[name]}))


def worker_parts(worker: Any) -> dict[str, Any]:
    """Return what a worker knows of its part of the model, and of where it computes; lists of text but for threads."""
    model = worker.get_model()
    runners = worker.routers.runners
    routers = {
        layer: {name: value for name, value in vars(runner.router).items() if isinstance(value, _PLAIN)}
        for layer, runner in runners.items()
    }
    code = hash_of_code(model.modules())
    return {
        "class": [type(model).__qualname__],
        "code": [] if code is None else [code],
        "routers": [json.dumps(routers, sort_keys=True)],
        "dtypes": sorted({str(dtype_name(tensor.dtype)) for tensor in model.parameters()}),
        "attention": sorted({m.attn_backend.get_name() for m in model.modules() if hasattr(m, "attn_backend")}),
        "experts": sorted({_kernel(runner._quant_method) for runner in runners.values()}),
        "device": [worker.device.type],
        "machine": [machine(worker.device)],
        "threads": torch.get_num_threads() if worker.device.type == "cpu" else 0,
        "runner": [type(worker.model_runner).__module__],
    }


def _kernel(method: Any) -> str:
    """Return which kernel a layer's experts run in."""
    experts_class = getattr(method, "experts_cls", None)
    return type(method).__name__ + (f" with {experts_class.__name__}" if experts_class is not None else "")
