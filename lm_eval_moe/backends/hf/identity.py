"""The identity of a loaded model: everything that its answers and their routing depend on besides the requests."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
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
from lm_eval_moe.backends.weights import LoadedWeights, hash_of_parameters
from lm_eval_moe.identity.file_hashes import hash_of_bytes, hash_of_files
from lm_eval_moe.identity.settings import plain
from lm_eval_moe.identity.sources import source_files

__all__ = ["code_parts", "model_parts"]

_PLAIN = (bool, int, float, str)


def model_parts(lm: Any, weights: LoadedWeights) -> dict[str, Any]:
    """Return the parts ``model``, ``computation``, ``versions`` and, of ``prompts``, what reads text.

    Args:
        lm: The model, an `HFMoE`.
        weights: Knows the hash of its weights.
    """
    config = lm.model.config
    peft, delta = weights.arguments.get("peft"), weights.arguments.get("delta")
    generation = lm.model.generation_config
    return {
        "model.source": source_of(lm.model_id),
        "model.revision": weights.commit(),
        "model.class": type(lm.model).__qualname__,
        "model.config": described_config(config),
        "model.generation_config": described_generation(generation.to_dict() if generation is not None else {}),
        "model.weights": weights.hash(lambda: {"parameters": hash_of_parameters(lm.model)}),
        "model.routers": _settings_of_routers(lm),
        **lm.code,
        "model.peft": described_folder(peft),
        "model.delta": described_folder(delta),
        "model.dtype": {
            "parameters": ", ".join(sorted({str(dtype_name(tensor.dtype)) for tensor in lm.model.parameters()})),
            "softmax": dtype_name(getattr(lm, "softmax_dtype", None)),
            "mixed_precision": dtype_name(getattr(lm, "mixed_precision_dtype", None)),
        },
        "model.quantization": plain(getattr(config, "quantization_config", None)),
        "model.attention": getattr(config, "_attn_implementation", None),
        "model.experts": getattr(config, "_experts_implementation", None),
        "model.device": lm.device.type,
        **described_reading(lm),
        "prompts.truncation": bool(lm.truncation),
        "computation.batch_size": _batch_size(lm),
        "computation.threads": torch.get_num_threads() if lm.device.type == "cpu" else None,
        "computation.machine": machine(lm.device),
        "computation.reuse": ("contexts" if lm.reuse == "auto" else "rows") if lm.logits_cache else "nothing",
        "versions.peft": version("peft") if getattr(lm.model, "peft_config", None) else None,
    }


def _batch_size(lm: Any) -> int | str:
    size = lm.batch_size_per_gpu
    return f"{size}, at most {lm.max_batch_size}" if isinstance(size, str) else int(size)


def _settings_of_routers(lm: Any) -> str:
    """Return a hash of the plain values that routers and their blocks hold: K, groups, scales, whether to normalise."""
    places = {
        f"{site.name}.{of}": place
        for site in lm._sites
        for of, place in (("router", site.name), ("block", site.name.rpartition(".")[0]))
    }
    settings = {
        name: {key: v for key, v in vars(lm.model.get_submodule(place)).items() if isinstance(v, _PLAIN)}
        for name, place in places.items()
    }
    return hash_of_bytes(json.dumps(settings, sort_keys=True).encode())


def code_parts(model: Any, tokenizer: Any, adapter: str | Path | None) -> dict[str, Any]:
    """Return the parts that say which code runs, as it was when the model was loaded; the files may change after that.

    Args:
        model: The loaded model.
        tokenizer: Its tokenizer.
        adapter: The user's adapter file.
    """
    return {
        "model.code": hash_of_code([*model.modules(), tokenizer]),
        "model.adapter": hash_of_files(source_files(Path(adapter))) if adapter is not None else None,
    }
