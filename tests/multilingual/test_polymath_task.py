"""PolyMath through lm-eval, on rows of the documented columns: id, question, answer (QwenLM/PolyMath's README)."""

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
from lm_eval_moe.multilingual.polymath import LEVEL_WEIGHTS

LEVELS = ("low", "medium", "high", "top")
QUESTIONS = {
    "en": ["What is the sum of two and three?", "What is half of five fourths of two?"],
    "de": ["Was ist die Summe von zwei und drei?", "Was ist die Hälfte von fünf Vierteln von zwei?"],
    "sw": ["Jumla ya mbili na tatu ni nini?", "Nusu ya robo tano za mbili ni ngapi?"],
}
ANSWERS = ["5", r"$\frac{5}{4}$"]
REASONING = {
    "en": "First I add the two numbers that the problem gives, and then I write down what results: ",
    "de": "Zuerst addiere ich die beiden Zahlen aus der Aufgabe, und dann schreibe ich das Ergebnis auf: ",
    "sw": "Kwanza najumlisha namba mbili zilizotolewa katika swali, kisha naandika jibu lililopatikana: ",
}


@pytest.fixture(autouse=True)
def _rows(tmp_path, monkeypatch):
    for language, questions in QUESTIONS.items():
        for level in LEVELS:
            rows = [
                {"id": f"{level}-{language}-{number}", "question": question, "answer": answer}
                for number, (question, answer) in enumerate(zip(questions, ANSWERS, strict=True))
            ]
            write_rows(tmp_path / "polymath", f"{language}.{level}", rows)
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("language", "prompt"),
    [
        ("en", "What is the sum of two and three?\nNote: Please put the final answer in the $\\boxed{}$."),
        (
            "de",
            "Was ist die Summe von zwei und drei?\nHinweis: Bitte setzen Sie die endgültige Antwort in $\\boxed{}$.",
        ),
        ("sw", "Jumla ya mbili na tatu ni nini?\nKumbuka: Tafadhali weka jibu la mwisho katika $\\boxed{}$."),
    ],
)
def test_the_prompt_is_question_and_instruction_in_the_language(language, prompt):
    assert prompt_of(f"moe_polymath_low_{language}") == prompt


def test_the_language_of_the_thoughts_can_be_asked_for():
    prompt = prompt_of("moe_polymath_top_de", language_control=True)
    assert prompt.endswith("in $\\boxed{}$.\nVerwende Deutsch, um zu denken und zu antworten.")


def test_all_levels_and_languages_are_there():
    found = {name for name in manager().all_tasks if name.startswith("moe_polymath_")}
    languages = [
        *QUESTIONS,
        *("ar", "bn", "es", "fr", "id", "it", "ja", "ko", "ms", "pt", "ru", "te", "th", "vi", "zh"),
    ]
    assert {f"moe_polymath_{level}_{language}" for level in LEVELS for language in languages} <= found
    assert len({name for name in found if name.rpartition("_")[2] in languages}) == 72


def test_problems_pair_by_their_number_within_a_level():
    assert item_keys("moe_polymath_high_sw") == item_keys("moe_polymath_high_en") == ["high-0", "high-1"]
    assert identity("moe_polymath_high_sw") == ("polymath[high]", "sw")
    assert identity("moe_polymath_low_en")[0] != identity("moe_polymath_high_en")[0]


def test_right_answers_in_the_language_have_full_scores_at_every_level():
    model = AnsweringModel(lambda doc: REASONING[doc["answer_language"]] + rf"\boxed{{{doc['answer'].strip('$')}}}")
    scores = evaluate(model, *(f"moe_polymath_{level}_de" for level in LEVELS))
    for level in LEVELS:
        of_level = scores[f"moe_polymath_{level}_de"]
        assert of_level == {
            "exact_match": 1.0,
            "difficulty_weighted": pytest.approx(LEVEL_WEIGHTS[level]),
            "language_consistency": 1.0,
            "language_judged": 1.0,
        }


def test_the_mean_over_the_levels_is_the_difficulty_weighted_accuracy():
    right = {"low": 2, "medium": 1, "high": 1, "top": 0}  # of two problems
    model = AnsweringModel(
        lambda doc: rf"\boxed{{{doc['answer']}}}" if int(doc["item"][-1]) < right[doc["level"]] else r"\boxed{0}"
    )
    scores = evaluate(model, *(f"moe_polymath_{level}_en" for level in LEVELS))
    mean = sum(scores[f"moe_polymath_{level}_en"]["difficulty_weighted"] for level in LEVELS) / 4
    # The paper's formula: weights 1, 2, 4, 8 over 15; accuracies 1, 1/2, 1/2, 0.
    assert mean == pytest.approx((1 + 2 / 2 + 4 / 2 + 0) / 15)


def test_answers_in_english_are_caught_although_they_are_right():
    model = AnsweringModel(lambda doc: REASONING["en"] + rf"\boxed{{{doc['answer'].strip('$')}}}")
    scores = evaluate(model, "moe_polymath_low_en", "moe_polymath_low_de", "moe_polymath_low_sw")
    assert {name: row["exact_match"] for name, row in scores.items()} == dict.fromkeys(scores, 1.0)
    assert [scores[f"moe_polymath_low_{tag}"]["language_consistency"] for tag in ("en", "de", "sw")] == [1.0, 0.0, 0.0]


def test_english_thoughts_before_a_german_answer_are_consistent():
    thoughts = f"<think>{REASONING['en'] * 5}</think>"
    model = AnsweringModel(lambda doc: thoughts + REASONING["de"] + r"\boxed{5}")
    assert evaluate(model, "moe_polymath_low_de")["moe_polymath_low_de"]["language_consistency"] == 1.0


def test_bare_answers_are_not_judged_for_their_language():
    model = AnsweringModel(lambda doc: rf"\boxed{{{doc['answer']}}}")
    scores = evaluate(model, "moe_polymath_low_de")["moe_polymath_low_de"]
    assert scores["language_judged"] == 0.0
    assert "language_consistency" not in scores
    assert scores["exact_match"] == 1.0


def test_an_answer_without_a_box_is_wrong():
    scores = evaluate(AnsweringModel(lambda doc: f"{REASONING['en']} {doc['answer']}"), "moe_polymath_low_en")
    assert scores["moe_polymath_low_en"]["exact_match"] == 0.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": "low-en-0", "question": "?", "solution": "5"},
            "the column 'answer' is missing.*\n.*id, question, solu",
        ),
        ({"id": "seventeen", "question": "?", "answer": "5"}, "'seventeen' does not name a problem of the level 'low'"),
        ({"id": "top-en-0", "question": "?", "answer": "5"}, "'top-en-0' does not name a problem of the level 'low'"),
    ],
)
def test_data_of_another_form_are_refused(tmp_path, row, message):
    write_rows(tmp_path / "polymath", "en.low", [row])
    with pytest.raises(UserError, match=message):
        load_task("moe_polymath_low_en")
