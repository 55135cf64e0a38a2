"""The prompts of lm-eval tasks' documents, as ``run`` gives them to the model."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.evaluation.identity import task_parts
from lm_eval_moe.evaluation.session import RoutingSession
from lm_eval_moe.harness.requests import prompt_of
from lm_eval_moe.harness.task_index import task_manager
from lm_eval_moe.profiles import PROFILE_ARRAYS
from lm_eval_moe.profiling.documents import Document, Source
from lm_eval_moe.profiling.prompting import Prompting
from lm_eval_moe.recording import RequestKey

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel
    from lm_eval_moe.harness.requests import Instance

__all__ = ["TaskPrompts", "task_sources"]

_FEWSHOT_SEED = 1234  # lm-eval's default


class TaskPrompts:
    """The documents of all tasks in one language.

    Args:
        language: Canonical tag.
        documents: One an item.
        parts: The tasks' part of the identity.
    """

    def __init__(self, language: str, documents: Sequence[Document], parts: Mapping[str, Mapping[str, Any]]) -> None:
        self.language = language
        self.parts = parts
        self._documents = documents
        self.benchmarks = tuple(dict.fromkeys(document.benchmark for document in documents))
        self.tasks = tuple(dict.fromkeys(document.task for document in documents))

    def __len__(self) -> int:
        return len(self._documents)

    def documents(self) -> Iterator[Document]:
        """Yield the documents, task by task."""
        return iter(self._documents)

    def describe(self) -> dict[str, Any]:
        """Return the tasks and a hash of their prompts."""
        texts = "".join(
            json.dumps([document.task, document.item, document.text, document.continuation])
            for document in self._documents
        )
        return {
            "kind": "tasks",
            "tasks": list(self.tasks),
            "benchmark": ", ".join(self.benchmarks),
            "sha256": hashlib.sha256(texts.encode()).hexdigest(),
        }


def task_sources(
    lm: RoutedModel,
    names: Sequence[str],
    *,
    limit: int | None,
    include_path: str | None = None,
    prompting: Prompting = Prompting(),  # noqa: B008 - it is immutable
) -> list[Source]:
    """Return the prompts of tasks, language by language.

    Args:
        lm: The model; its span and registry decide what is taken of which document.
        names: Tasks or groups.
        limit: How many documents to take from the top of each task.
        include_path: A folder with further task files.
        prompting: How they are put to the model.

    Raises:
        UserError: A task is unknown, its language is, or it has no text to take for the span.
    """
    session = RoutingSession(lm, (), "en", keep=PROFILE_ARRAYS)
    by_language: dict[str, list[Document]] = defaultdict(list)
    parts: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for name, task in _load(names, include_path).items():
        with session.watching({name: task}):
            pairing = session.pairings[name]
            if pairing is None:
                raise UserError(
                    "its language is unknown",
                    fix="add `routing: {language: .., benchmark: .., item: ..}` to the task's metadata, or list the "
                    "task in a file given with --parallel",
                    where=f"task {name}",
                )
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)
            with _bars_on_terminals_only():
                task.build_all_requests(limit=limit, rank=0, world_size=1, **prompting.of_tasks(lm))
            parts[pairing.language][name] = task_parts(task, {})
        requests = {RequestKey(i.task_name, i.doc_id, i.idx): i for i in task.instances}
        for item in session.items[name].values():
            if item.key is not None:
                text, continuation, windowed = _text_of(requests[item.requests[0]], lm.capture)
                by_language[pairing.language].append(
                    Document(item.key.item, pairing.benchmark, name, text, continuation, windowed, item.texts)
                )
    return [TaskPrompts(language, documents, parts[language]) for language, documents in by_language.items()]


def _bars_on_terminals_only() -> contextlib.AbstractContextManager[Any]:
    """Keep lm-eval's progress bars out of log files."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())


def _load(names: Sequence[str], include_path: str | None) -> dict[str, Any]:
    manager = task_manager(names, [include_path] if include_path else [])
    try:
        return dict(manager.load(list(names))["tasks"])
    except (ValueError, OSError) as error:
        raise UserError(
            f"the tasks cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}",
            fix="check that their data is there",
            where="--tasks",
        ) from error


def _text_of(request: Instance, span: str) -> tuple[str, str | None, bool]:
    kind, text = request.request_type, prompt_of(request)
    if kind == "loglikelihood":
        return text, request.args[1], False
    if span != "prompt":
        raise UserError(
            f"its documents have no {'continuation' if kind == 'generate_until' else 'prompt'} without the model's own "
            f"answer or scoring, as --span {span} asks for",
            fix="leave out --span; `lm-eval-moe run --routing_profile` with capture=all records what is generated",
            where=f"task {request.task_name}",
        )
    return text, None, kind == "loglikelihood_rolling"
