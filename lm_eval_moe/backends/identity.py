"""What the identities of all engines have in common: how parts are described that any of them has."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lm_eval_moe.backends.weights import LoadedWeights
from lm_eval_moe.identity.file_hashes import hash_of_bytes, hash_of_files
from lm_eval_moe.identity.settings import plain

__all__ = [
    "described_config",
    "described_folder",
    "described_generation",
    "described_reading",
    "dtype_name",
    "machine",
    "source_of",
]

_NOT_OF_THE_MODEL = ("_name_or_path", "_commit_hash", "transformers_version", "quantization_config", "dtype")
"""Entries of a config that say where it came from, or that have a part of their own."""


def source_of(name: str) -> str:
    """Return a hub id as it is, of a folder its own name: it may be moved, and be named in many ways."""
    path = Path(name)
    return path.resolve().name if name and path.exists() else name


def described_config(config: Any) -> dict[str, Any]:
    """Return the entries of a model's config that answers depend on."""
    return {name: value for name, value in plain(config.to_dict()).items() if name not in _NOT_OF_THE_MODEL}


def described_generation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of generation that are set."""
    return {
        name: value for name, value in plain(settings).items() if value is not None and name not in _NOT_OF_THE_MODEL
    }


def dtype_name(dtype: object) -> str | None:
    """Return torch's name of a data type, ``float32``; None where there is none."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def machine(device: torch.device) -> str:
    """Return what computes: the accelerator's name, or the processor's instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def described_folder(source: Any) -> dict[str, Any] | None:
    """Return source and hash of an adapter's or delta's folder; the hash of one on the hub is that of its snapshot."""
    if not source:
        return None
    folder = Path(source)
    if not folder.is_dir():
        folder = LoadedWeights.snapshot(str(source), {}) or folder
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    paths = [path for path in files if path.suffix in (".safetensors", ".bin", ".json") and path.name[0] != "."]
    return {"source": source_of(str(source)), "hash": hash_of_files(paths, remember=True) if paths else None}


def described_reading(lm: Any) -> dict[str, Any]:
    """Return the parts of ``prompts`` that say how one of lm-eval's models with a tokenizer reads text."""
    return {
        "prompts.tokenizer": _tokenizer(lm.tokenizer),
        "prompts.special_tokens": {
            name: getattr(lm, name, None) for name in ("add_bos_token", "prefix_token_id", "eot_token_id")
        },
        "prompts.thinking": {
            "enabled": getattr(lm, "enable_thinking", None),
            "end_token": getattr(lm, "think_end_token", None),
        },
    }


def _tokenizer(tokenizer: Any) -> str:
    """Return a hash of all that turns text into tokens; the chat template is a separate part."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    names = ("special_tokens_map", "padding_side", "clean_up_tokenization_spaces")
    rest = [str(getattr(tokenizer, name, None)) for name in names]
    # An engine may derive its own class from the tokenizer's, inside a function.
    kind = next(kind for kind in type(tokenizer).__mro__ if "<locals>" not in kind.__qualname__)
    text = json.dumps([kind.__qualname__, vocabulary, *rest])
    files = [Path(file) for file in (getattr(tokenizer, "vocab_file", None),) if backend is None and file]
    return hash_of_bytes(text.encode(), *(file.read_bytes() for file in files if file.is_file()))
