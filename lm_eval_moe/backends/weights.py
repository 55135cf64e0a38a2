"""The hash over all weights of a model: of its files while these are what was loaded, else of the loaded parameters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash

from lm_eval_moe.errors import UserError
from lm_eval_moe.identity.file_hashes import hash_of_files, stamp_of

__all__ = ["LoadedWeights", "hash_of_parameters"]

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_LISTS = (".index.json", "adapter_config.json")
_LOADERS = ("autogptq", "gptqmodel")
"""Arguments by which other libraries load what they find."""

_BLOCK = 1 << 26
"""Elements that are copied from an accelerator at once."""


class LoadedWeights:
    """Knows the hash of a model's weights.

    Files stand for the weights only as long as nobody else holds the model: whoever evaluates a model object of their
    own may have changed a parameter, so its parameters are read every time. Commands that built the model and hand it
    to nobody say so (`use_files`); the files' bytes are then hashed in a thread, while the tasks are loaded.

    Args:
        pretrained: Hub id, folder, or a loaded model.
        arguments: The model arguments; those that choose files are heeded.

    Attributes:
        arguments: The same.
        incomplete: Whether any weight was drawn at random, since the files lack it: its parameters are then read, too.
    """

    def __init__(self, pretrained: Any, arguments: Mapping[str, Any]) -> None:
        self.arguments = dict(arguments)
        self.incomplete = False
        self._source = pretrained if isinstance(pretrained, str) else None
        self._hash: str | None = None
        self._problem: UserError | None = None
        self._thread: threading.Thread | None = None
        self._files = _weight_files(self._folder()) if self._is_folder() else []
        self._stamps = [stamp_of(file) for file in self._files]  # before the model is loaded from them

    def _is_folder(self) -> bool:
        return self._source is not None and Path(self._source).is_dir()

    def _folder(self) -> Path | None:
        """Return where the files lie, if on this machine."""
        if self._source is None:
            return None
        if self._is_folder():
            return Path(self._source) / (self.arguments.get("subfolder") or "")
        return self.snapshot(self._source, self.arguments)

    def commit(self) -> str | None:
        """Return the hub's commit that was loaded, which transformers does not keep from version 5.23 on."""
        folder = None if self._is_folder() else self._folder()
        parts = folder.parts if folder is not None else ()
        return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None

    def use_files(self) -> None:
        """Let the files stand for the weights from now on, and begin to hash them: nobody else holds the model."""
        other_loader = (
            any(self.arguments.get(loader) for loader in _LOADERS) or self.arguments.get("load_format") == "dummy"
        )
        if self.incomplete or other_loader or self._thread is not None:
            return
        if not self._is_folder():  # only once it is loaded does a hub's model lie where it was loaded from
            self._files = _weight_files(self._folder())
            self._stamps = [stamp_of(file) for file in self._files]
        if self._files:
            self._thread = threading.Thread(target=self._hash_files, daemon=True)
            self._thread.start()

    def _hash_files(self) -> None:
        try:
            self._hash = hash_of_files(self._files, remember=True)
            if [stamp_of(file) for file in self._files] != self._stamps:
                self._hash = None  # they were changed while the model was loaded: what was loaded has to be read
        except UserError as error:  # raised where the hash is asked for
            self._problem = error
        except OSError:  # gone meanwhile
            self._hash = None

    def hash(self, loaded: Callable[[], dict[str, str]]) -> dict[str, str]:
        """Return ``{"files": ..}`` with a hash over every element, or what stands for the weights where no files do.

        Args:
            loaded: Returns that: a hash over every element of what was loaded, by its kind.

        Raises:
            UserError: A file cannot be read.
        """
        if self._thread is not None:
            self._thread.join()
        if self._problem is not None:
            raise self._problem
        return {"files": self._hash} if self._hash is not None else loaded()

    @staticmethod
    def snapshot(source: str, arguments: Mapping[str, Any]) -> Path | None:
        """Return where the hub's files of a model lie on this machine, None if they do not."""
        from transformers.utils import cached_file

        for name in (arguments.get("gguf_file"), "config.json", "adapter_config.json"):
            if name is None:
                continue
            try:
                file = cached_file(
                    source,
                    name,
                    revision=str(arguments.get("revision") or "main"),
                    subfolder=arguments.get("subfolder") or "",
                    local_files_only=True,
                )
            except (OSError, ValueError):  # it has no such file
                continue
            if file is not None:
                return Path(file).parent
        return None


def _weight_files(folder: Path | None) -> list[Path]:
    """Return all files of a folder that weights can come from, whichever of them the arguments choose.

    Other formats and variants, an adapter that lies next to the model and is loaded automatically, and what says which
    file holds what.
    """
    if folder is None or not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.is_file() and file.name[0] != "."]
    return sorted(file for file in files if file.suffix in _WEIGHTS or file.name.endswith(_LISTS))


def hash_of_parameters(model: Any) -> str:
    """Return a hash over every element of a model's parameters and buffers, with their names."""
    digest = xxhash.xxh3_128()
    for name, tensor in _tensors(model):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.device.type == "meta":  # offloaded to disk: name and shape are all there is to see
            continue
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), _BLOCK):
            block = flat[start : start + _BLOCK].cpu().contiguous()
            digest.update(block.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield from _plain(name, tensor)


def _plain(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the plain tensors that a tensor is made of; those of a quantised one may be made of others again."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    inner, _ = tensor.__tensor_flatten__()
    for part in inner:
        yield from _plain(f"{name}.{part}", getattr(tensor, part))
