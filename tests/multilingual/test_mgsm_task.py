"""MGSM through lm-eval's own task class: prompts, numbers, filters and items."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from support.answering_models import BENCH, AnsweringModel, load_task, manager, needs_bench, write_rows

from lm_eval_moe.multilingual.local_data import BENCH_DIR_VARIABLE
from lm_eval_moe.multilingual.manifest import load_manifest
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.resources import tasks_dir

LANGUAGES = ("en", "bn", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
LATIN = ("en", "de", "es", "fr", "sw")
BENGALI = str.maketrans("0123456789", "০১২৩৪৫৬৭৮৯")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows as on the hub: the exemplars, and they only, have the question's word in front."""
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(tmp_path))
    sums = [("২টি হাঁস ও ৩টি হাঁস মিলে কয়টি?", 5), ("১০০০টি ডিম ও ২০০টি ডিম মিলে কয়টি?", 1200)]
    exemplars = [("প্রশ্ন: ১টি ও ১টি মিলে কয়টি?", 2), ("প্রশ্ন: ৪টি ও ৪টি মিলে কয়টি?", 8)]
    for name, rows in (("bn", sums), ("bn.train", exemplars)):
        write_rows(tmp_path / "mgsm", name, [{"question": text, "answer_number": answer} for text, answer in rows])
    return tmp_path


@pytest.fixture
def _shared_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(BENCH))


def scores(answer: Callable[[Any], str], task: str) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        AnsweringModel(answer), tasks=[task], task_manager=manager(), bootstrap_iters=0, log_samples=False
    )
    assert found is not None
    return found["results"][task]


def test_prompt_and_target(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BENCH_DIR_VARIABLE)
    task = load_task("moe_mgsm_bn", bench_dir=str(bench))  # as --metadata gives it
    doc = task.eval_docs[0]
    assert task.fewshot_context(doc, num_fewshot=0) == "প্রশ্ন: ২টি হাঁস ও ৩টি হাঁস মিলে কয়টি?\nউত্তর:"
    assert task.doc_to_target(doc) == "5"


@pytest.mark.usefixtures("bench")
def test_exemplars_do_not_say_the_questions_word_twice() -> None:
    task = load_task("moe_mgsm_bn")
    context = task.fewshot_context(task.eval_docs[0], num_fewshot=2)
    assert context == (
        "প্রশ্ন: ১টি ও ১টি মিলে কয়টি?\nউত্তর: 2\n\nপ্রশ্ন: ৪টি ও ৪টি মিলে কয়টি?\nউত্তর: 8\n\n"
        "প্রশ্ন: ২টি হাঁস ও ৩টি হাঁস মিলে কয়টি?\nউত্তর:"
    )


@pytest.mark.usefixtures("bench")
def test_generation_stops_before_the_next_question() -> None:
    kwargs = load_task("moe_mgsm_bn").config.generation_kwargs
    assert kwargs["until"] == ["প্রশ্ন:", "</s>", "<|im_end|>"]
    assert kwargs["do_sample"] is False


ANSWERS = {
    "the number alone": (lambda gold: f" {gold}", 1, 1),
    "its own digits and a unit": (lambda gold: f" {gold.translate(BENGALI)}টি\n", 1, 1),
    "thousands and decimals": (lambda gold: f" {int(gold):,}.00", 1, 1),
    "a currency sign and a full stop": (lambda gold: f" ${gold}.", 1, 1),
    "a calculation": (lambda gold: f" 1 + {int(gold) - 1} = {gold}", 1, 0),
    "the number, then something else": (lambda gold: f" {gold}\nএবং ৭", 0, 1),
    "one too many": (lambda gold: f" {int(gold) + 1}", 0, 0),
    "no number": (lambda gold: " জানি না", 0, 0),
}


@pytest.mark.usefixtures("bench")
@pytest.mark.parametrize(("written", "flexible", "strict"), ANSWERS.values(), ids=ANSWERS)
def test_numbers_are_found_and_compared_as_numbers(written: Callable[[str], str], flexible: int, strict: int) -> None:
    found = scores(lambda doc: written(doc["answer"]), "moe_mgsm_bn")
    assert found["exact_match,flexible-extract"] == flexible
    assert found["exact_match,strict-match"] == strict


def test_the_words_around_a_question_are_in_its_language() -> None:
    manifest = load_manifest(tasks_dir() / "mgsm" / "benchmark.yml")
    assert manifest.languages == LANGUAGES
    words = {task.language: set(task.strings.values()) for task in manifest.tasks}
    for language in set(LANGUAGES) - set(LATIN):
        assert not re.search("[A-Za-z]", "".join(words[language]))
    for language in set(LATIN) - {"en"}:
        assert not words[language] & {"Question:", "Answer:"}


@needs_bench
@pytest.mark.usefixtures("_shared_data")
@pytest.mark.parametrize("language", ["en", "bn", "th", "zh"])
def test_an_oracle_is_right_on_the_benchmarks_own_rows(language: str) -> None:
    found = scores(lambda doc: f" {doc['answer']}", f"moe_mgsm_{language}")
    assert found["exact_match,flexible-extract"] == found["exact_match,strict-match"] == 1.0
    assert found["sample_len"] == 250


@needs_bench
@pytest.mark.usefixtures("_shared_data")
def test_item_i_is_the_same_problem_in_every_language() -> None:
    answers = {}
    for language in LANGUAGES:
        task = load_task(f"moe_mgsm_{language}")
        pairing = PairingRegistry.default().pairing(task.task_name, task.get_config("metadata"))
        assert pairing is not None
        assert (pairing.language, pairing.benchmark) == (language, "mgsm")
        answers[language] = {pairing.item_key(doc, -1): doc["answer"] for doc in task.eval_docs}

    same = [sum(answers["en"][key] == answers[lang][key] for key in answers["en"]) for lang in LANGUAGES]
    assert all(len(each) == 250 for each in answers.values())
    assert min(same) >= 248
