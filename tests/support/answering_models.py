"""Real lm-eval models that say what a function of the document says, and rows of a benchmark as a user has them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.resources import tasks_dir
from support.paths import SHARED

Row = Mapping[str, Any]

BENCH = SHARED / "bench"
needs_bench = pytest.mark.skipif(
    not BENCH.is_dir(), reason="the benchmark data (../shared/data) is not on this machine"
)


class AnsweringModel(LM):
    """Says ``answer(doc)``, and gives the continuation ``choice(doc)`` the highest likelihood.

    The prompts that it was given are kept in ``prompts``, in the order of the requests.
    """

    def __init__(self, answer: Callable[[Row], str] | None = None, choice: Callable[[Row], str] | None = None) -> None:
        super().__init__()
        self._answer, self._choice = answer, choice
        self.prompts: list[str] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.prompts += [request.args[0] for request in requests]
        return [self._answer(request.doc) for request in requests]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.prompts += [request.args[0] for request in requests]
        return [(self._score(request), False) for request in requests]

    def _score(self, request: Instance) -> float:
        # A right answer is likely whatever its length: the likelihood per character has to be highest, too.
        return -0.001 if request.args[1].strip() == self._choice(request.doc) else -100.0 * len(request.args[1])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise NotImplementedError


@functools.cache
def manager(**metadata: Any) -> TaskManager:
    """Only the tasks of this package: lm-eval's own are thousands of files."""
    return TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=metadata or None)


def load_task(name: str, **metadata: Any) -> Any:
    """Return one task, loaded by lm-eval."""
    found = (
        TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=metadata) if metadata else manager()
    )
    return found.load([name])["tasks"][name]


def prompt_of(name: str, row: int = 0, **metadata: Any) -> str:
    """Return the prompt of a task's document, as lm-eval sends it."""
    task = load_task(name, **metadata)
    return task.fewshot_context(task.eval_docs[row], num_fewshot=0)


def evaluate(model: LM, *tasks: str, limit: int | None = None) -> dict[str, dict[str, Any]]:
    """Return the scores by task, without filters' names and bootstrapped errors."""
    # `simple_evaluate` without the second that it takes to describe the machine.
    found = lm_eval.evaluate(
        model, task_dict=manager().load(list(tasks)), limit=limit, bootstrap_iters=0, log_samples=False
    )
    assert found is not None
    return {
        name: {key.partition(",")[0]: value for key, value in scores.items() if _is_score(key)}
        for name, scores in found["results"].items()
    }


def _is_score(key: str) -> bool:
    metric, comma, _ = key.partition(",")
    return bool(comma) and not metric.endswith("_stderr")


def write_rows(folder: Path, name: str, rows: Iterable[Row]) -> None:
    """Write ``<folder>/<name>.jsonl``."""
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def item_keys(name: str) -> list[str]:
    """Return what names each item of a task in every language."""
    task = load_task(name)
    pairing = PairingRegistry.default().pairing(name, task.get_config("metadata"))
    assert pairing is not None
    return [pairing.item_key(doc, row) for row, doc in enumerate(task.eval_docs)]


def identity(name: str) -> tuple[str, str]:
    """Return a task's benchmark, which tasks that pair have in common, and its language."""
    pairing = PairingRegistry.default().pairing(name, load_task(name).get_config("metadata"))
    assert pairing is not None
    return pairing.benchmark, pairing.language
