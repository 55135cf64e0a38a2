"""Every benchmark through the real harness: who knows the answers scores 1, who guesses scores chance.

The rows are invented, in the columns of each benchmark's data; the tasks are lm-eval's own objects, read from the files
that users run. New benchmarks are covered by having a manifest and an ``examples.py`` in their folder.
"""

from __future__ import annotations

import functools
import random
from typing import Any

import lm_eval
import pytest
from lm_eval.api.model import LM
from support.answering_models import AnsweringModel

from lm_eval_moe.multilingual.manifest import load_manifests
from tools.multilingual.examples import has_examples
from tools.multilingual.offline import OfflineTasks

MANIFESTS = {manifest.name: manifest for manifest in load_manifests()}
SCORED = {name: manifest for name, manifest in MANIFESTS.items() if manifest.kind != "routing"}
CHOICES = {name: manifest for name, manifest in SCORED.items() if manifest.kind == "multiple_choice"}
LANGUAGES = ("en", "sw", "zh", "ar")
BEST = {"chrf++": 100.0}  # all other metrics end at 1
IN_A_SENTENCE = ("mmlu_prox_lite",)  # which lm-eval words for each language, in a filter: see the test of its own
ROWS = 12


@functools.cache
def offline() -> OfflineTasks:
    return OfflineTasks()


def chosen(manifest, languages=LANGUAGES):
    """Tasks of some languages; with variants all of them, so that each is scored."""
    some = [task for task in manifest.tasks if task.language in languages and task.key == task.language]
    names = {task.key for task in some} or {task.key for task in manifest.tasks[:3]}
    return [task for task in manifest.tasks if task.key in names]


def scores(model: LM, tasks: dict[str, Any], limit: int | None = None) -> dict[str, dict[str, float]]:
    by_name = {task.config.task: task for task in tasks.values()}
    for task in by_name.values():
        task.set_config("num_fewshot", 0)
    found = lm_eval.evaluate(
        model, {"tasks": by_name, "groups": {}, "group_map": {}}, limit=limit, bootstrap_iters=0, log_samples=False
    )
    assert found is not None
    return found["results"]


def value_of(results: dict[str, Any], metric: Any) -> float:
    """A metric's value, of the manifest's filter where it names one."""
    keys = [key for key in results if key.partition(",")[0] == metric.name]
    keys = [key for key in keys if metric.filter in (None, key.partition(",")[2])]
    assert len(keys) == 1, f"{metric} in {sorted(results)}"
    return float(results[keys[0]])


def in_the_form_asked_for(task: Any, doc: dict[str, Any]) -> str:
    """The right answer, in a box or after a word where the prompt asks for that."""
    prompt, answer = str(task.doc_to_text(doc)), str(task.doc_to_target(doc)).strip()
    if "boxed" in prompt:
        return f"$\\boxed{{{answer}}}$"
    return f"{doc.get('answer_prefix', '')} {answer}".strip()


class Oracle(AnsweringModel):
    """Knows every document's right answer from the document itself."""

    def __init__(self, tasks: dict[str, Any]) -> None:
        self.tasks = {task.config.task: task for task in tasks.values()}
        super().__init__()

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return [in_the_form_asked_for(self.tasks[request.task_name], request.doc) for request in requests]

    def _score(self, request: Any) -> float:
        task = self.tasks[request.task_name]
        target = task.doc_to_target(request.doc)
        choices = task.doc_to_choice(request.doc)
        gold = target if isinstance(target, int) else choices.index(target)
        return -0.001 if request.idx == gold else -100.0 * len(request.args[1])


class Guessing(AnsweringModel):
    """Gives every continuation a random likelihood, the same at every run."""

    def _score(self, request: Any) -> float:
        return -random.Random(f"{request.task_name} {request.doc_id} {request.idx}").random() * len(request.args[1])


def test_there_are_invented_rows_for_every_benchmark():
    assert [name for name, manifest in MANIFESTS.items() if not has_examples(manifest)] == []


@pytest.mark.filterwarnings("ignore::lm_eval_moe.errors.RoutingWarning")
@pytest.mark.parametrize("name", [name for name in SCORED if name not in IN_A_SENTENCE])
def test_who_knows_the_answers_scores_best(name):
    manifest = SCORED[name]
    tasks = offline().build(manifest, chosen(manifest), ROWS)
    found = scores(Oracle(tasks), tasks, limit=ROWS)
    assert len(found) == len({task.config.task for task in tasks.values()}) >= 2
    for task, results in found.items():
        metrics = [m for m in manifest.metrics if m.name not in ("language_consistency", "difficulty_weighted")]
        assert {m.name: value_of(results, m) for m in metrics} == {m.name: BEST.get(m.name, 1.0) for m in metrics}, task


@pytest.mark.parametrize(
    ("language", "sentence"), [("en", "the answer is ({})"), ("sw", "Jibu ni ({})"), ("zh", "答案是 ({})")]
)
def test_mmlu_prox_takes_the_letter_from_the_sentence_that_its_prompt_asks_for(language, sentence):
    manifest = SCORED["mmlu_prox_lite"]
    tasks = offline().build(manifest, [t for t in manifest.tasks if t.language == language], ROWS)
    model = AnsweringModel(answer=lambda doc: f"1 + 1 = 2. {sentence.format(doc['answer'])}.")
    (results,) = scores(model, tasks, limit=ROWS).values()
    assert value_of(results, manifest.metrics[0]) == 1.0


@pytest.mark.parametrize("name", CHOICES)
def test_who_guesses_scores_chance(name):
    manifest = CHOICES[name]
    tasks = offline().build(manifest, chosen(manifest, ("en", "sw")), 60)
    found = scores(Guessing(), tasks, limit=60)
    options = {len(task.doc_to_choice(doc)) for task in tasks.values() for doc in task.eval_docs}
    (number,) = options
    values = [value_of(results, manifest.metrics[0]) for results in found.values()]
    documents = 60 * len(values)
    chance = 1 / number
    spread = (chance * (1 - chance) / documents) ** 0.5
    assert abs(sum(values) / len(values) - chance) < 4 * spread


@pytest.mark.filterwarnings("ignore::lm_eval_moe.errors.RoutingWarning")
@pytest.mark.parametrize("name", [name for name, m in SCORED.items() if m.kind == "generation"])
def test_who_says_something_else_scores_nothing(name):
    manifest = SCORED[name]
    tasks = offline().build(manifest, chosen(manifest, ("en", "sw")), 4)
    found = scores(AnsweringModel(answer=lambda doc: "I would rather not say: -987654321."), tasks)
    for results in found.values():
        assert value_of(results, manifest.metrics[0]) == 0.0
