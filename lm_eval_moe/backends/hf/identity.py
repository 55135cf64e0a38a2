"""The identity of a loaded model: everything that its answers and their routing depend on besides the requests."""

from __future__ import annotations

import inspect
import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lm_eval_moe.backends.hf.weights import LoadedWeights
from lm_eval_moe.identity.file_hashes import hash_of_bytes, hash_of_files
from lm_eval_moe.identity.settings import plain
from lm_eval_moe.identity.sources import source_files

__all__ = ["code_parts", "model_parts", "source_of"]

_BY_VERSION = ("torch", "transformers", "peft", "accelerate", "lm_eval", "lm_eval_moe", "builtins")
"""Packages whose code is told by their version."""

_PLAIN = (bool, int, float, str)


def model_parts(lm: Any, weights: LoadedWeights) -> dict[str, Any]:
    """Return the parts ``model``, ``computation``, ``versions`` and, of ``prompts``, what reads text.

    Args:
        lm: The model, an `HFMoE`.
        weights: Knows the hash of its weights.
    """
    config = lm.model.config
    peft, delta = weights.arguments.get("peft"), weights.arguments.get("delta")
    settings = {name: value for name, value in plain(config.to_dict()).items() if name not in _NOT_OF_THE_MODEL}
    generation = plain(lm.model.generation_config.to_dict()) if lm.model.generation_config is not None else {}
    return {
        "model.source": source_of(lm.model_id),
        "model.revision": weights.commit(),
        "model.class": type(lm.model).__qualname__,
        "model.config": settings,
        "model.generation_config": {
            name: value for name, value in generation.items() if value is not None and name not in _NOT_OF_THE_MODEL
        },
        "model.weights": weights.hash(lm.model),
        "model.routers": _settings_of_routers(lm),
        **lm.code,
        "model.peft": _folder(peft),
        "model.delta": _folder(delta),
        "model.dtype": {
            "parameters": ", ".join(sorted({str(_name(tensor.dtype)) for tensor in lm.model.parameters()})),
            "softmax": _name(getattr(lm, "softmax_dtype", None)),
            "mixed_precision": _name(getattr(lm, "mixed_precision_dtype", None)),
        },
        "model.quantization": plain(getattr(config, "quantization_config", None)),
        "model.attention": getattr(config, "_attn_implementation", None),
        "model.experts": getattr(config, "_experts_implementation", None),
        "model.device": lm.device.type,
        "prompts.tokenizer": _tokenizer(lm.tokenizer),
        "prompts.special_tokens": {
            name: getattr(lm, name, None) for name in ("add_bos_token", "prefix_token_id", "eot_token_id")
        },
        "prompts.truncation": bool(lm.truncation),
        "prompts.thinking": {
            "enabled": getattr(lm, "enable_thinking", None),
            "end_token": getattr(lm, "think_end_token", None),
        },
        "computation.batch_size": _batch_size(lm),
        "computation.threads": torch.get_num_threads() if lm.device.type == "cpu" else None,
        "computation.machine": _machine(lm.device),
        "computation.reuse": bool(lm.logits_cache),
        "versions.peft": version("peft") if getattr(lm.model, "peft_config", None) else None,
    }


_NOT_OF_THE_MODEL = ("_name_or_path", "_commit_hash", "transformers_version", "quantization_config", "dtype")
"""Entries of a config that say where it came from, or that have a part of their own."""


def source_of(name: str) -> str:
    """Return a hub id as it is, of a folder its own name: it may be moved, and be named in many ways."""
    path = Path(name)
    return path.resolve().name if name and path.exists() else name


def _name(dtype: object) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _batch_size(lm: Any) -> int | str:
    size = lm.batch_size_per_gpu
    return f"{size}, at most {lm.max_batch_size}" if isinstance(size, str) else int(size)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _folder(source: Any) -> dict[str, Any] | None:
    """Return source and hash of an adapter's or delta's folder; the hash of one on the hub is that of its snapshot."""
    if not source:
        return None
    folder = Path(source)
    if not folder.is_dir():
        folder = LoadedWeights.snapshot(str(source), {}) or folder
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    kept = [path for path in files if path.suffix in (".safetensors", ".bin", ".json") and path.name[0] != "."]
    return {"source": source_of(str(source)), "hash": hash_of_files(kept, remember=True) if kept else None}


def _tokenizer(tokenizer: Any) -> str:
    """Return a hash of all that turns text into tokens; the chat template is a part of its own."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    names = ("special_tokens_map", "padding_side", "clean_up_tokenization_spaces")
    rest = [str(getattr(tokenizer, name, None)) for name in names]
    text = json.dumps([type(tokenizer).__qualname__, vocabulary, *rest])
    files = [Path(file) for file in (getattr(tokenizer, "vocab_file", None),) if backend is None and file]
    return hash_of_bytes(text.encode(), *(file.read_bytes() for file in files if file.is_file()))


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
        "model.code": _code(model, tokenizer),
        "model.adapter": hash_of_files(source_files(Path(adapter))) if adapter is not None else None,
    }


def _code(model: Any, tokenizer: Any) -> str | None:
    """Return a hash of the source files of all modules' classes that no version tells of; None if there is none."""
    classes = {type(module) for module in model.modules()} | {type(tokenizer)}
    files = {file for each in classes for base in each.__mro__ for file in _files_of(base)}
    return hash_of_files(sorted(files)) if files else None


def _files_of(kind: type) -> Iterator[Path]:
    package = kind.__module__.partition(".")[0]
    if package in _BY_VERSION or package in sys.stdlib_module_names:
        return
    try:
        file = Path(inspect.getfile(kind))
    except (TypeError, OSError):  # defined in a session without a file: its weights and config still tell
        return
    yield from source_files(file)
    if package == "transformers_modules":  # its neighbours are what a repository's code imports
        yield from file.parent.glob("*.py")
