"""Global-MGSM and Global PIQA through lm-eval, on rows of the columns that their hub pages show."""

from __future__ import annotations

from pathlib import Path

import lm_eval.tasks
import pytest
import yaml
from support.answering_models import (
    AnsweringModel,
    evaluate,
    identity,
    item_keys,
    load_task,
    manager,
    prompt_of,
    write_rows,
)

from lm_eval_moe.errors import UserError

MGSM = {
    "en": (
        'Solve this math problem. Give the reasoning steps, then the final answer on the last line after "Answer:".',
        "Answer",
        ["What is six times seven?", "What is a thousand plus one?"],
    ),
    "de": (
        'Löse dieses Mathematikproblem. Gib die Schritte an, dann die Antwort in der letzten Zeile nach "Antwort:".',
        "Antwort",
        ["Was ist sechs mal sieben?", "Was ist tausend plus eins?"],
    ),
    "bn": (
        "এই গণিতের সমস্যাটি সমাধান করুন। ধাপগুলি দিন, তারপর শেষ লাইনে 'উত্তর:' এর পরে উত্তর দিন।",
        "উত্তর",
        ["ছয় গুণ সাত কত?", "এক হাজার যোগ এক কত?"],
    ),
}
STEPS = {
    "en": "I multiply the first number by the second one, and this is what comes out.",
    "de": "Ich multipliziere die erste Zahl mit der zweiten, und das kommt dabei heraus.",
    "bn": "আমি প্রথম সংখ্যাটিকে দ্বিতীয় সংখ্যা দিয়ে গুণ করি এবং এটিই ফলাফল পাই।",
}
SOLUTIONS = ("It floats", "It sinks", "It burns", "It flies")


def _piqa(number: int, language: str, order: tuple[int, ...]) -> dict[str, object]:
    words = {"en": SOLUTIONS, "de": ("Es schwimmt", "Es sinkt", "Es brennt", "Es fliegt")}[language]
    question = {"en": f"What does stone {number} do?", "de": f"Was tut Stein {number}?"}[language]
    return {
        "prompt": question,
        **{f"solution{place}": words[index] for place, index in enumerate(order)},
        "label": order.index(1),
        "language": {"en": "eng_latn", "de": "deu_latn"}[language],
        "eng_prompt": f"What does stone {number} do?",
        **{f"eng_solution{place}": SOLUTIONS[index] for place, index in enumerate(order)},
        "categories": "physics",
        "example_id": f"{language}_{number}",
        "supplement": "{}",
    }


@pytest.fixture(autouse=True)
def _rows(tmp_path, monkeypatch):
    for language, (instruction, prefix, questions) in MGSM.items():
        rows = [
            {"question": question, "answer": answer, "instruction": instruction, "answer_prefix": prefix}
            for question, answer in zip(questions, ["42", "1001"], strict=True)
        ]
        write_rows(tmp_path / "global_mgsm", language, rows)
    write_rows(tmp_path / "global_piqa", "en", [_piqa(0, "en", (0, 1, 2, 3)), _piqa(1, "en", (1, 0, 2, 3))])
    write_rows(tmp_path / "global_piqa", "de", [_piqa(1, "de", (3, 2, 1, 0)), _piqa(0, "de", (0, 1, 2, 3))])
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))


# --- Global-MGSM


@pytest.mark.parametrize("language", MGSM)
def test_the_prompt_is_the_rows_own_instruction_and_question(language):
    instruction, _, questions = MGSM[language]
    assert prompt_of(f"moe_global_mgsm_{language}") == f"{instruction}\n\n{questions[0]}"


def test_all_configurations_of_the_card_are_there():
    named = [name for name in manager().all_tasks if name.startswith("moe_global_mgsm_") and len(name) == 18]
    assert len(named) == 41


def test_problems_pair_by_their_row():
    assert item_keys("moe_global_mgsm_bn") == item_keys("moe_global_mgsm_en") == ["0", "1"]
    assert identity("moe_global_mgsm_bn") == ("global_mgsm", "bn")


@pytest.mark.parametrize(
    ("answer", "exact", "flexible"),
    [
        ("{steps}\n{prefix}: {gold}", 1.0, 1.0),
        ("{steps}\n{prefix}: 7\n{prefix}: {gold}.", 1.0, 1.0),
        ("{steps}\n**{prefix}:** ${gold}$", 1.0, 1.0),
        ("{steps} {gold}", 0.0, 1.0),
        ("{prefix}: {gold}\n{steps}\n{prefix}:", 0.0, 1.0),
        ("{prefix}: {gold}\n{steps} 7", 0.0, 0.0),
        ("{steps}", 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("language", MGSM)
def test_the_number_after_the_answers_word_counts(language, answer, exact, flexible):
    name = f"moe_global_mgsm_{language}"
    model = AnsweringModel(
        lambda doc: answer.format(steps=STEPS[language], prefix=doc["answer_prefix"], gold=doc["answer"])
    )
    scores = evaluate(model, name)[name]
    assert scores == {
        "exact_match": exact,
        "flexible_match": flexible,
        "language_consistency": 1.0,
        "language_judged": 1.0,
    }


def test_numbers_in_the_languages_own_digits_are_right():
    digits = str.maketrans("0123456789", "০১২৩৪৫৬৭৮৯")
    model = AnsweringModel(lambda doc: f"{STEPS['bn']}\nউত্তর: {doc['answer'].translate(digits)}")
    assert evaluate(model, "moe_global_mgsm_bn")["moe_global_mgsm_bn"]["exact_match"] == 1.0


def test_steps_in_english_are_caught():
    model = AnsweringModel(lambda doc: f"{STEPS['en']}\n{doc['answer_prefix']}: {doc['answer']}")
    scores = evaluate(model, "moe_global_mgsm_en", "moe_global_mgsm_de", "moe_global_mgsm_bn")
    assert {name[-2:]: row["language_consistency"] for name, row in scores.items()} == {"en": 1.0, "de": 0.0, "bn": 0.0}


def test_a_missing_column_of_global_mgsm_is_named(tmp_path):
    write_rows(tmp_path / "global_mgsm", "en", [{"question": "?", "answer": "5", "prompt": "Solve."}])
    with pytest.raises(
        UserError, match=r"column 'instruction' is missing(.|\n)*the columns are question, answer, prompt"
    ):
        load_task("moe_global_mgsm_en")


# --- Global PIQA


def test_prompt_and_choices_are_those_of_lm_evals_own_task():
    folder = Path(lm_eval.tasks.__file__).parent / "global_piqa" / "parallel_cloze"
    theirs = yaml.safe_load((folder / "_template").read_text(encoding="utf-8"))
    task = load_task("moe_global_piqa_de")
    keys = ("output_type", "doc_to_text", "doc_to_target", "doc_to_choice")
    assert {key: getattr(task.config, key) for key in keys} == {key: theirs[key] for key in keys}
    assert prompt_of("moe_global_piqa_de") == "Was tut Stein 1?"
    assert task.doc_to_choice(task.eval_docs[0]) == ["Es fliegt", "Es brennt", "Es sinkt", "Es schwimmt"]
    assert task.doc_to_target(task.eval_docs[0]) == 2


def test_items_pair_by_their_english_original_in_whatever_order_they_stand():
    english, german = item_keys("moe_global_piqa_en"), item_keys("moe_global_piqa_de")
    assert german == english[::-1]
    assert len(set(english)) == 2
    assert identity("moe_global_piqa_de") == ("global_piqa", "de")


def test_an_english_row_without_its_own_original_pairs_all_the_same(tmp_path):
    paired = item_keys("moe_global_piqa_en")
    bare = [
        {**_piqa(number, "en", order), "eng_prompt": "", **dict.fromkeys([f"eng_solution{n}" for n in range(4)], "")}
        for number, order in ((0, (0, 1, 2, 3)), (1, (1, 0, 2, 3)))
    ]
    write_rows(tmp_path / "global_piqa", "en", bare)
    assert item_keys("moe_global_piqa_en") == paired


def test_the_right_solution_scores_one():
    model = AnsweringModel(choice=lambda doc: doc[f"solution{doc['label']}"])
    scores = evaluate(model, "moe_global_piqa_en", "moe_global_piqa_de")
    assert scores == {name: {"acc": 1.0, "acc_norm": 1.0} for name in scores}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([_piqa(0, "en", (0, 1, 2, 3))] * 2, "the rows 0, 1 have the same English original"),
        (
            [{key: value for key, value in _piqa(0, "en", (0, 1, 2, 3)).items() if key != "eng_prompt"}],
            "the column 'eng_prompt' is missing",
        ),
    ],
)
def test_rows_that_cannot_be_paired_are_refused(tmp_path, rows, message):
    write_rows(tmp_path / "global_piqa", "en", rows)
    with pytest.raises(UserError, match=message):
        load_task("moe_global_piqa_en")
