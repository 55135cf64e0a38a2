"""Where the numbers come from: model, steering, versions, documents; and what keeps runs from being comparable."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lm_eval_moe.long_lists import Note, counted, folded
from lm_eval_moe.results.marks import steered
from lm_eval_moe.results.routing import ModelShape
from lm_eval_moe.results.run import Run
from lm_eval_moe.results.values import is_number
from lm_eval_moe.shape import format_ranges
from lm_eval_moe.strict_yaml import yaml_text

__all__ = ["SteeringFacts", "facts", "mismatches", "steering_facts", "task_facts"]

_YEAR_3000 = 32_503_680_000  # as a POSIX time
_LAYER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class SteeringFacts:
    """The steering of one run."""

    label: str
    name: str
    hash: str
    experts: tuple[tuple[str, str], ...]  # layer, experts
    spec: str  # as YAML
    profiles: tuple[str, ...]  # that the experts were selected from


def facts(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return what is known of each run, one text a run; rows that no run says anything of are left out."""
    readers: dict[str, Callable[[Run], object]] = {
        "Model type": lambda run: _config(run).get("model"),
        "Model": lambda run: run.raw.get("model_name") or run.shown_arguments.get("pretrained"),
        "Model arguments": lambda run: ", ".join(f"{key}={value}" for key, value in run.shown_arguments.items()),
        "Revision": lambda run: _config(run).get("model_sha") or _config(run).get("model_revision"),
        "Parameters": lambda run: _thousands(_config(run).get("model_num_parameters")),
        "Data type": lambda run: str(_config(run).get("model_dtype") or "").removeprefix("torch."),
        "Routing shape": _shape,
        "Captured tokens": lambda run: run.routing.capture,
        "Reference language": lambda run: run.routing.reference,
        "Reference records": _reference,
        "Steering": _steering,
        "Documents per task at most": lambda run: _limit(_config(run).get("limit")),
        "Batch size": lambda run: _config(run).get("batch_size"),
        "Seeds": _seeds,
        "Chat template": lambda run: "yes" if run.raw.get("chat_template") else None,
        "lm-eval-moe": lambda run: run.routing.lm_eval_moe_version,
        "lm-eval": lambda run: run.raw.get("lm_eval_version"),
        "transformers": lambda run: run.raw.get("transformers_version"),
        "Git commit": lambda run: run.raw.get("git_hash"),
        "Date (UTC)": lambda run: _date(run.raw.get("date")),
    }
    rows = {name: ["" if (text := read(run)) is None else str(text) for run in runs] for name, read in readers.items()}
    return {name: texts for name, texts in rows.items() if any(texts)}


def steering_facts(runs: Sequence[Run]) -> list[SteeringFacts]:
    """Return the steering of every steered run."""
    entries = []
    for run in runs:
        if run.steering is None:
            continue
        by_experts = tuple(
            (str(layer), format_ranges(sorted(experts)))
            for layer, experts in sorted(run.steering.experts.items(), key=lambda entry: int(entry[0]))
        )
        spec = yaml_text(_plain(run.steering.spec))
        profiles = tuple(
            f"{profile.get('given')}, SHA-256 {profile.get('sha256')}" for profile in run.steering.profiles
        )
        name, digest = run.steering.name or "steering", run.steering.hash or "not said"
        entries.append(SteeringFacts(run.label, name, digest, by_experts, spec, profiles))
    return entries


def task_facts(runs: Sequence[Run]) -> list[tuple[str, str, str, list[str]]]:
    """Return every task with its version, its few-shot examples, and one text a run on its documents."""
    return [
        (
            task,
            _all_of(runs, _reader("versions", task)),
            _all_of(runs, _reader("n-shot", task)),
            [_documents(run, task) for run in runs],
        )
        for task in dict.fromkeys(task for run in runs for task in run.tasks)
    ]


def mismatches(runs: Sequence[Run]) -> list[Note]:
    """Say in what the runs differ beside their steering: then their differences are not due to it alone."""
    readers: dict[str, Callable[[Run], object]] = {
        "model": lambda run: run.raw.get("model_name"),
        "number of parameters": lambda run: _config(run).get("model_num_parameters"),
        "data type": lambda run: _config(run).get("model_dtype"),
        "limit of documents": lambda run: _limit(_config(run).get("limit")),
        "lm-eval version": lambda run: run.raw.get("lm_eval_version"),
        "transformers version": lambda run: run.raw.get("transformers_version"),
        "chat template": lambda run: run.raw.get("chat_template_sha") or "none",
        "reference language": lambda run: run.routing.reference,
    }
    differences: list[Note] = []
    for name, read in readers.items():
        values = _values(runs, read)
        if len({str(value) for _, value in values}) > 1:
            homes: dict[str, list[str]] = {}
            for run, value in values:
                homes.setdefault(str(value), []).append(run.label)
            differences.append(
                f"{name}: " + "; ".join(f"{value} in {counted(of, 'runs')}" for value, of in homes.items())
            )
    for name, key in (("version", "versions"), ("number of few-shot examples", "n-shot")):
        tasks = dict.fromkeys(task for run in runs for task in run.tasks)
        differing = [task for task in tasks if len({str(value) for _, value in _values(runs, _reader(key, task))}) > 1]
        if differing:
            differences.append(f"{name} of {counted(differing, 'tasks')}")
            differences += folded(f"Tasks whose {name} differs", differing)
    return differences


def _reader(table: str, task: str) -> Callable[[Run], object]:
    return lambda run: (run.raw.get(table) or {}).get(task)


def _values(runs: Sequence[Run], read: Callable[[Run], object]) -> list[tuple[Run, object]]:
    return [(run, value) for run in runs if (value := read(run)) is not None]


def _all_of(runs: Sequence[Run], read: Callable[[Run], object]) -> str:
    return " / ".join(dict.fromkeys(str(value) for _, value in _values(runs, read)))


def _config(run: Run) -> Mapping[str, Any]:
    return run.raw.get("config") or {}


def _shape(run: Run) -> str | None:
    shape = run.routing.model_shape
    if shape == ModelShape():
        return None
    depth, experts, top_k = ("?" if size is None else size for size in (shape.depth, shape.experts, shape.top_k))
    return f"MoE layers {format_ranges(run.layers)} of {depth}, {experts} experts, top {top_k}"


def _reference(run: Run) -> str | None:
    source = run.routing.reference_source
    if source is None:
        return None
    where = "this run"
    if source.kind == "profile":
        where = f"{source.file or 'a profile'} (SHA-256 {(source.sha256 or 'not said')[:16]})"
    of = f", model {source.model}" if source.model else ""
    return f"{where}{of}, {steered(run.routing.reference_steering)}"


def _steering(run: Run) -> str | None:
    if run.steering is None:
        return "none" if run.routing.is_said or "steering" in _config(run) else None
    return f"{run.steering.name or 'steering'} (hash {(run.steering.hash or 'not said')[:16]})"


def _limit(limit: object) -> str:
    if limit is None:
        return "all"
    return f"{limit:g}" if is_number(limit) else str(limit)


def _seeds(run: Run) -> str | None:
    names = {"random": "random_seed", "numpy": "numpy_seed", "torch": "torch_seed", "few-shot": "fewshot_seed"}
    seeds = [f"{name} {_config(run)[key]}" for name, key in names.items() if _config(run).get(key) is not None]
    return ", ".join(seeds) or None


def _thousands(count: object) -> str | None:
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if isinstance(count, int) and count > 0 else None


def _date(date: object) -> str | None:
    if not is_number(date) or not 0 <= date < _YEAR_3000:
        return None
    return datetime.fromtimestamp(date, tz=UTC).strftime("%Y-%m-%d %H:%M")


def _documents(run: Run, task: str) -> str:
    counts = (run.raw.get("n-samples") or {}).get(task)
    return f"{counts.get('effective', '?')} of {counts.get('original', '?')}" if counts else ""


def _plain(value: Any) -> Any:
    """Return a value as `yaml_text` wants it, and layers as numbers again: JSON has made them texts."""
    if isinstance(value, Mapping):
        return {int(key) if _LAYER.fullmatch(str(key)) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
