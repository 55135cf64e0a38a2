"""The identity of an evaluation: its model, and of every task what it says, its functions' code and its documents."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from lm_eval_moe.errors import UserError
from lm_eval_moe.harness.requests import parse_arguments
from lm_eval_moe.identity import Identity
from lm_eval_moe.identity.file_hashes import hash_of_bytes
from lm_eval_moe.identity.settings import plain
from lm_eval_moe.identity.sources import source_files

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = ["chat_template", "hash_of_documents", "prompting_parts", "run_identity", "task_parts"]

_PARTS_OF_THEIR_OWN = ("num_fewshot", "generation_kwargs", "metadata", "task", "_qualified_name")
_OF_SIMPLE_EVALUATE = ("prompts.fewshot", "prompts.generation", "prompts.fewshot_seed", "prompts.seeds")
"""What `evaluate` is not told: the tasks have it by then, or it was set for the whole process."""

_PROMPTS = 100
"""Documents whose prompts are looked at."""

_hashes: dict[str, str] = {}
"""Of data sets by their fingerprint: the same split is evaluated again for every cell of a sweep."""


def run_identity(
    model: Identity,
    lm: RoutedModel,
    tasks: Mapping[str, Any],
    arguments: Mapping[str, Any] | None,
    of_evaluate: Mapping[str, Any] | None = None,
) -> Identity:
    """Return what the results of an evaluation depend on.

    Args:
        model: The model's.
        lm: The model.
        tasks: The evaluated tasks by name.
        arguments: Those of `lm_eval.simple_evaluate`; None if they are not known.
        of_evaluate: Those of `lm_eval.evaluator.evaluate`, which stand in then and say less.
    """
    evaluate_arguments = arguments if arguments is not None else of_evaluate or {}
    parts = prompting_parts(lm, evaluate_arguments)
    if arguments is None:
        parts = {name: value for name, value in parts.items() if name not in _OF_SIMPLE_EVALUATE}
    return model.with_parts(parts, {name: task_parts(task, evaluate_arguments) for name, task in tasks.items()})


def prompting_parts(lm: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of ``prompts`` that an evaluation's arguments decide.

    Args:
        lm: The model.
        arguments: Those of `lm_eval.simple_evaluate`; what is not given has lm-eval's default.
    """
    template = arguments.get("apply_chat_template", False)
    system = arguments.get("system_instruction")
    samples = arguments.get("samples")
    return {
        "prompts.chat_template": {
            "template": hash_of_bytes(chat_template(lm, template).encode()) if template else None,
            "arguments": plain(getattr(lm, "chat_template_args", {})) if template else None,
        },
        "prompts.system_instruction": hash_of_bytes(str(system).encode()) if system else None,
        "prompts.multiturn": bool(template and arguments.get("fewshot_as_multiturn", True)),
        "prompts.fewshot": arguments.get("num_fewshot"),
        "prompts.generation": plain(parse_arguments(arguments.get("gen_kwargs"))),
        "prompts.limit": {"limit": _whole(arguments.get("limit")), "samples": plain(samples) if samples else None},
        "prompts.fewshot_seed": arguments.get("fewshot_random_seed", 1234),
        "prompts.seeds": {
            name: arguments.get(argument, default)
            for name, argument, default in (
                ("python", "random_seed", 0),
                ("numpy", "numpy_random_seed", 1234),
                ("torch", "torch_random_seed", 1234),
            )
        },
    }


def chat_template(lm: Any, choice: bool | str) -> str:
    """Return the chat template that lm-eval finds.

    Raises:
        UserError: There is none.
    """
    template: str | None = lm.chat_template(choice)
    if template is None:
        raise UserError(
            "the model's tokenizer has no chat template",
            fix="leave it out, or give a model with one (an instruction-tuned model)",
            where="--apply_chat_template",
        )
    return template


def _whole(limit: Any) -> Any:
    """Return the command line's 6.0 as 6; a share of the documents stays one."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def task_parts(task: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of the group ``task``, by short name.

    Args:
        task: A loaded task of lm-eval, before or after lm-eval has applied the arguments to it.
        arguments: Those of `lm_eval.simple_evaluate`.
    """
    config = task.config
    metadata = config.metadata if isinstance(config.metadata, Mapping) else {}
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    content = {name: value for name, value in settings.items() if name not in _PARTS_OF_THEIR_OWN}
    content["routing"] = metadata.get("routing")  # lm-eval adds the model's arguments to the other metadata
    content["class"] = _plain_value(type(task))
    shots = _fewshot(config.num_fewshot, arguments.get("num_fewshot"))
    return {
        "version": metadata.get("version"),
        "content": hash_of_bytes(json.dumps(_plain_value(content), sort_keys=True).encode()),
        "data": {
            "path": config.dataset_path,
            "name": config.dataset_name,
            "split": config.test_split or config.validation_split,
            "documents": hash_of_documents(task.eval_docs),
            "examples": hash_of_documents(task.fewshot_docs() or ()) if shots else None,
        },
        "prompts": _prompts(task, arguments.get("limit")),
        "fewshot": shots,
        "generation": _plain_value(config.generation_kwargs),
    }


def _prompts(task: Any, limit: float | None) -> str:
    """Return a hash of the prompts and right answers of the first evaluated documents, without examples and templates.

    It tells what a function makes of a document, also where that depends on a file which the function reads.
    """
    makers = [task.doc_to_text, task.doc_to_target]
    if getattr(task.config, "doc_to_choice", None) is not None:
        makers.append(task.doc_to_choice)
    digest = xxhash.xxh3_128()
    most = min(_PROMPTS, int(limit)) if limit is not None and limit >= 1 else _PROMPTS
    for document in islice(task.eval_docs, most):
        digest.update(json.dumps([make(document) for make in makers], default=str).encode())
    return digest.hexdigest()


def _fewshot(of_task: int | None, override: int | None) -> int:
    """Return the few-shot count in force: a task that says 0 is not overridden, as in lm-eval."""
    return of_task or 0 if override is None or of_task == 0 else override


def hash_of_documents(documents: Iterable[Any]) -> str:
    """Return a hash of documents as JSON, in their order."""
    fingerprint = getattr(documents, "_fingerprint", None)
    if fingerprint is not None and fingerprint in _hashes:
        return _hashes[fingerprint]
    digest = xxhash.xxh3_128()
    for document in documents:
        digest.update(json.dumps(document, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    if fingerprint is not None:
        _hashes[fingerprint] = digest.hexdigest()
    return digest.hexdigest()


def _plain_value(value: Any) -> Any:
    """Return what JSON can hold of a setting; of a function, its name and the hash of its source."""
    if isinstance(value, Mapping):
        return {str(key): _plain_value(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_value(entry) for entry in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, partial):
        return {"function": _plain_value(value.func), "given": _plain_value([value.args, value.keywords])}
    if callable(value):
        return {"function": getattr(value, "__qualname__", type(value).__qualname__), "source": _source(value)}
    if is_dataclass(value):
        return {field.name: _plain_value(getattr(value, field.name)) for field in fields(value)}
    return str(value)


def _source(function: Callable[..., Any]) -> str:
    """Return a hash of the file of a function or class, and of the files of the user's own that it imports."""
    function = inspect.unwrap(function)
    try:
        definition = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
        return hash_of_bytes(*(path.read_bytes() for path in source_files(Path(inspect.getfile(definition)))))
    except (TypeError, OSError):  # typed into a session: its code object is all there is
        code = getattr(function, "__code__", None)
        return hash_of_bytes(*([code.co_code, repr(code.co_consts).encode()] if code else [repr(function).encode()]))
