"""What must be equal for two runs to be comparable, and what had better be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.identity import Identity
from lm_eval_moe.results.routing import RoutingObject, identity_of
from lm_eval_moe.results.run import Run

__all__ = ["Mismatch", "Setup", "setup_differences", "setup_of", "unrecorded_choice"]

_OF_MODELS = ("model.weights", "model.quantization", "model.attention", "model.experts", "model.device")
_OF_RUNS = ("prompts.multiturn", "prompts.max_length", "prompts.truncation", "prompts.thinking", "prompts.seeds")
_SERIOUS = ("prompts.multiturn", "prompts.fewshot_seed", "task.data")
"""Parts of the identity that decide whether scores can be compared."""

_BACKEND = "backend (in 16-bit types scores and routing differ from backend to backend)"
_UNCHECKED = "what the runs depend on (weights, data, task files) could not be compared"

_PROMPT_KEYS = (
    *("dataset_path", "dataset_name", "test_split", "doc_to_text", "doc_to_target", "doc_to_choice", "description"),
    *("target_delimiter", "fewshot_delimiter", "fewshot_split", "use_prompt"),
)


@dataclass(frozen=True)
class Mismatch:
    """One thing in which two runs of a task differ.

    Attributes:
        task: The task; empty for what concerns the whole run.
        kind: What differs, in words, or the part of the identity: ``model.weights``.
        first: What the first run has, as text.
        second: What the second run has.
        serious: Whether the scores are not comparable; otherwise it is worth a warning.
    """

    task: str
    kind: str
    first: str
    second: str
    serious: bool


@dataclass(frozen=True)
class Setup:
    """How a task was run; None stands for what the results do not say."""

    version: str | None
    few_shot: str | None
    documents: int | None
    original: int | None
    limit: str | None
    evaluated: str | None
    task_hash: str | None
    prompt_fields: Mapping[str, str]
    template: str | None
    system: str | None
    generation: str | None
    model: str


def setup_of(run: Run, task: str) -> Setup:
    """Return how a task was run.

    ``task_hash`` is lm-eval's hash of all documents, prompts and targets, which it writes with ``--log_samples``;
    ``prompt_fields`` are the fields of the task's configuration that make prompts.
    """
    raw = run.part(task)
    config = raw.get("config") or {}
    of_task = (raw.get("configs") or {}).get(task) or {}
    counts = (raw.get("n-samples") or {}).get(task) or {}
    return Setup(
        version=_text((raw.get("versions") or {}).get(task)),
        few_shot=_text((raw.get("n-shot") or {}).get(task)),
        documents=_count(counts.get("effective")),
        original=_count(counts.get("original")),
        limit=_text(config.get("limit")),
        evaluated=run.task_routing(task).document_hash or None,
        task_hash=_text((raw.get("task_hashes") or {}).get(task)),
        prompt_fields={key: str(of_task[key]) for key in _PROMPT_KEYS if of_task.get(key) is not None},
        template=_text(raw.get("chat_template_sha")),
        system=_text(raw.get("system_instruction_sha")),
        generation=_generation(config.get("gen_kwargs"), of_task.get("generation_kwargs")),
        model=run.model,
    )


def unrecorded_choice(run: Run, task: str) -> bool:
    """Whether a run evaluated chosen documents (``--samples``) and nothing says which.

    Then fewer documents than the task has were evaluated, though there was no limit: lm-eval 0.4.13 writes down which
    only in a samples log.
    """
    setup = setup_of(run, task)
    if not setup.documents or not setup.original or setup.documents >= setup.original or setup.limit is not None:
        return False
    return setup.evaluated is None and run.samples_of(task) is None


def setup_differences(first: Run, second: Run, tasks: Sequence[str] | None = None) -> list[Mismatch]:
    """Return in what two runs differ, task by task and then as a whole.

    Args:
        first: One run.
        second: The other.
        tasks: The tasks to look at; by default all that both have.
    """
    common = [
        task for task in (first.tasks if tasks is None else tasks) if task in first.table and task in second.table
    ]
    mismatches = [
        mismatch for task in common for mismatch in _of_task(task, setup_of(first, task), setup_of(second, task))
    ]
    return mismatches + list(_of_run(first, second, common)) + list(_of_identities(first, second, common))


def _of_task(task: str, first: Setup, second: Setup) -> Iterator[Mismatch]:
    def differ(
        kind: str, before: Any, after: Any, *, serious: bool = True, form: Callable[[Any], object] = lambda value: value
    ) -> Iterator[Mismatch]:
        if before != after:
            yield Mismatch(task, kind, _text_of(form(before)), _text_of(form(after)), serious)

    # What one of them does not say (written by an early release) cannot be told to differ.
    versions, shots = (first.version, second.version), (first.few_shot, second.few_shot)
    yield from differ("task version", *versions, serious=None not in versions)
    yield from differ("few-shot count", *shots, serious=None not in shots)
    # The limit is told by the number of documents; where that is not written down, by the option.
    counted = first.documents is not None and second.documents is not None
    same_documents = first.documents == second.documents if counted else first.limit == second.limit
    if not same_documents:
        yield from differ("documents", first, second, form=_documents)
    elif first.original is not None and second.original is not None and first.original != second.original:
        yield from differ("documents", first.original, second.original, form=lambda count: f"of {count}")
    elif first.evaluated and second.evaluated:
        yield from differ("documents", first.evaluated, second.evaluated, form=lambda part: f"the choice #{part[:8]}")
    # Two models with a template each are prompted each in its own way: that is not a mistake.
    own_templates = bool(first.template and second.template) and first.model != second.model
    yield from differ("chat template", first.template, second.template, serious=not own_templates, form=_short)
    yield from differ("system instruction", first.system, second.system, form=_short)
    explained = first.template != second.template or first.system != second.system or not same_documents
    if first.task_hash and second.task_hash:
        if not explained and first.few_shot == second.few_shot:
            yield from differ("prompts", first.task_hash, second.task_hash, form=_short)
    elif first.prompt_fields and second.prompt_fields:
        for key in sorted(first.prompt_fields.keys() | second.prompt_fields.keys()):
            pair = ((key, setup.prompt_fields.get(key)) for setup in (first, second))
            yield from differ("prompts", *pair, form=lambda field: f"{field[0]} {_text_of(field[1])}")
    yield from differ("generation settings", first.generation, second.generation, serious=False)


def _of_run(first: Run, second: Run, tasks: Sequence[str]) -> Iterator[Mismatch]:
    kinds: list[tuple[str, Callable[[Mapping[str, Any], RoutingObject], object]]] = [
        (_BACKEND, lambda raw, _: (identity_of(raw) or Identity()).parts.get("model.backend")),
        ("dtype", lambda raw, _: (raw.get("config") or {}).get("model_dtype")),
        ("lm-eval version", lambda raw, _: raw.get("lm_eval_version")),
        ("transformers version", lambda raw, _: raw.get("transformers_version")),
        ("routing span", lambda _, routing: routing.capture),
        ("routing reference", lambda _, routing: routing.reference),
    ]
    for kind, of in kinds:
        texts = ([_text(of(run.part(task), run.routing_of(task))) for task in tasks] for run in (first, second))
        pairs = dict.fromkeys(zip(*texts, strict=True))
        for before, after in pairs:
            if before is not None and after is not None and before != after:
                yield Mismatch("", kind, before, after, serious=False)
                break


def _of_identities(first: Run, second: Run, tasks: Sequence[str]) -> Iterator[Mismatch]:
    """Yield what only the identities tell: other weights under one name, other data, another conversation."""
    reported: set[object] = set()
    for task in tasks:
        before, after = (identity_of(run.part(task)) for run in (first, second))
        if before is None or after is None:
            if (before is None) != (after is None) and "unknown" not in reported:
                reported.add("unknown")
                yield Mismatch("", _UNCHECKED, _recorded(before), _recorded(after), serious=False)
            continue
        examples = any(identity.tasks.get(task, {}).get("fewshot") for identity in (before, after))
        names = [*_OF_RUNS, *(["prompts.fewshot_seed"] if examples else [])]
        names += _OF_MODELS if first.model == second.model else ()
        differences = [("", difference) for difference in before.differences(after, names)]
        identity = Identity(tasks={task: before.tasks.get(task, {})})
        differences += [(task, difference) for difference in identity.differences(after, ("task.content", "task.data"))]
        for where, difference in differences:
            if (where, difference.part) not in reported:
                reported.add((where, difference.part))
                kind = difference.part.removeprefix(f"{task}.")
                serious = any(f"task.{kind}".startswith(part) or kind.startswith(part) for part in _SERIOUS)
                yield Mismatch(where, kind, _text_of(difference.old), _text_of(difference.new), serious)


def _recorded(identity: Identity | None) -> str:
    return "not recorded" if identity is None else "recorded"


def _generation(of_run: object, of_task: object) -> str | None:
    merged: dict[str, Any] = {}
    for settings in (of_task, of_run):
        if isinstance(settings, Mapping):
            merged |= settings
    text = ", ".join(f"{key}={merged[key]}" for key in sorted(merged))
    return text or None


def _documents(setup: Setup) -> str:
    if setup.documents is None:
        return f"limit {setup.limit or 'none'}"
    return f"{setup.documents}{f' of {setup.original}' if setup.original else ''}"


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _count(value: object) -> int | None:
    return int(value) if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)) else None


def _short(value: str | None) -> str | None:
    return value[:12] if value else None


def _text_of(value: object) -> str:
    text = "none" if value is None else " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
