"""XQuAD answered directly through lm-eval, on rows of the dataset card's columns: id, context, question, answers."""

from __future__ import annotations

import pytest
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

ROWS = {
    "en": (
        "The Panthers defense gave up just 308 points.",
        "How many points did the defense give up?",
        "308",
        "Who gave them up?",
        "The Panthers",
    ),
    "de": (
        "Die Verteidigung der Panthers gab nur 308 Punkte ab.",
        "Wie viele Punkte gab die Verteidigung ab?",
        "308",
        "Wer gab sie ab?",
        "Die Panthers",
    ),
    "zh": ("黑豹队的防守只丢了 308 分。", "防守丢了多少分？", "308", "谁丢了分？", "黑豹队"),
    "th": ("แนวรับของแพนเธอร์สเสียไปเพียง 308 คะแนน", "แนวรับเสียไปกี่คะแนน", "308", "ใครเสียคะแนน", "แพนเธอร์ส"),
}


def _row(row_id: str, context: str, question: str, answer: str) -> dict[str, object]:
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"id": row_id, "context": context, "question": question, "answers": answers}


@pytest.fixture(autouse=True)
def _rows(tmp_path, monkeypatch):
    for language, (context, question, answer, other_question, other_answer) in ROWS.items():
        context = f"{context} {other_answer}"
        rows = [
            _row("56beb4343aeaaa14008c925b", context, question, answer),
            _row("56beb4343aeaaa14008c925c", context, other_question, other_answer),
        ]
        write_rows(tmp_path / "xquad", language, rows)
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("language", "instruction"),
    [
        ("en", "Please output the answer directly."),
        ("de", "Bitte geben Sie die Antwort direkt aus."),
        ("zh", "请直接输出答案。"),
        ("th", "กรุณาแสดงคำตอบโดยตรง"),
    ],
)
def test_the_prompt_is_passage_question_and_instruction(language, instruction):
    context, question, _, _, answer = ROWS[language]
    assert prompt_of(f"moe_xquad_direct_{language}") == f"{context} {answer}\n{question}\n{instruction}"
    task = load_task(f"moe_xquad_direct_{language}")
    assert task.doc_to_target(task.eval_docs[1]) == answer


def test_all_twelve_languages_are_there():
    languages = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
    assert {f"moe_xquad_direct_{language}" for language in languages} <= set(manager().all_tasks)


def test_questions_pair_by_their_id():
    keys = ["56beb4343aeaaa14008c925b", "56beb4343aeaaa14008c925c"]
    assert item_keys("moe_xquad_direct_th") == item_keys("moe_xquad_direct_en") == keys
    assert identity("moe_xquad_direct_th") == ("xquad_direct", "th")


@pytest.mark.parametrize("language", ROWS)
def test_right_answers_have_full_scores(language):
    name = f"moe_xquad_direct_{language}"
    scores = evaluate(AnsweringModel(lambda doc: doc["answers"]["text"][0]), name)
    assert scores[name] == {"contains_answer": 1.0, "exact_match": 1.0, "f1": 1.0}


@pytest.mark.parametrize(
    ("language", "said", "expected"),
    [
        # Two questions; the article does not count: "panthers" alone is the second answer, and 0 of the first.
        ("de", "Die Panthers.", {"contains_answer": 0.5, "exact_match": 0.5, "f1": 0.5}),
        # One word of five, and of the other answer one of five: 2 * .2 * 1 / 1.2 = 1/3 each.
        ("en", "308 points by Panthers defense", {"contains_answer": 0.5, "exact_match": 0.0, "f1": 1 / 3}),
        # Five characters and a number, one of them the first answer (2/7), three the second (2 * 3 / 9).
        ("zh", "是黑豹队吗 308", {"contains_answer": 1.0, "exact_match": 0.0, "f1": (2 / 7 + 6 / 9) / 2}),
        ("en", "", {"contains_answer": 0.0, "exact_match": 0.0, "f1": 0.0}),
    ],
)
def test_scores_are_those_worked_by_hand(language, said, expected):
    name = f"moe_xquad_direct_{language}"
    assert evaluate(AnsweringModel(lambda doc: said), name)[name] == pytest.approx(expected)


def test_a_long_answer_contains_the_right_one():
    model = AnsweringModel(lambda doc: f"The answer is, I believe, {doc['answers']['text'][0]}, as it says.")
    scores = evaluate(model, "moe_xquad_direct_en")["moe_xquad_direct_en"]
    assert (scores["contains_answer"], scores["exact_match"]) == (1.0, 0.0)


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path):
    write_rows(tmp_path / "xquad", "en", [{"id": "1", "context": "c", "question": "q", "answer": "a"}])
    with pytest.raises(UserError, match=r"the column 'answers' is missing(.|\n)*the columns are id, context, question"):
        load_task("moe_xquad_direct_en")
