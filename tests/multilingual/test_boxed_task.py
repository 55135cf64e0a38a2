"""MGSM with boxed answers through lm-eval: on the real problems, and on rows of the hub's columns."""

from __future__ import annotations

import pytest
from support.answering_models import (
    BENCH,
    AnsweringModel,
    evaluate,
    identity,
    item_keys,
    load_task,
    needs_bench,
    prompt_of,
    write_rows,
)

from lm_eval_moe.errors import UserError

LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
REASONING = {
    "en": "She has nine eggs left after breakfast, and she sells them all at the market for two dollars each.",
    "sw": "Baada ya kifungua kinywa, anabaki na mayai tisa, naye anayauza yote sokoni kwa dola mbili kila moja.",
}
# The hub's columns, in its order, of a test row (juletxara/mgsm).
HUB_ROWS = [
    {"question": "Zwei plus drei?", "answer": None, "answer_number": 5, "equation_solution": None},
    {"question": "Tausend mal zwei?", "answer": None, "answer_number": 2000, "equation_solution": None},
]


@pytest.fixture
def _hub_rows(tmp_path, monkeypatch):
    write_rows(tmp_path / "mgsm", "de", HUB_ROWS)
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))


@pytest.fixture
def _real_rows(monkeypatch):
    monkeypatch.setenv("MOE_BENCH_DIR", str(BENCH))


@pytest.mark.usefixtures("_hub_rows")
def test_the_prompt_is_question_and_instruction():
    instruction = "Hinweis: Bitte setzen Sie die endgültige Antwort in $\\boxed{}$."
    assert prompt_of("moe_mgsm_boxed_de") == f"Zwei plus drei?\n{instruction}"


@pytest.mark.usefixtures("_hub_rows")
def test_rows_without_a_number_of_their_own_are_named_by_their_place():
    assert item_keys("moe_mgsm_boxed_de") == ["0", "1"]


@pytest.mark.usefixtures("_hub_rows")
@pytest.mark.parametrize("boxed", ["{}", "{} Euro", "${}$", r"{}\text{{ Eier}}", "x = {}"])
def test_numbers_are_right_whatever_is_around_them(boxed):
    model = AnsweringModel(lambda doc: "Also \\boxed{" + boxed.format(doc["answer_number"]) + "}")
    assert evaluate(model, "moe_mgsm_boxed_de")["moe_mgsm_boxed_de"]["exact_match"] == 1.0


@pytest.mark.usefixtures("_hub_rows")
def test_a_missing_column_is_named_with_those_that_there_are(tmp_path):
    write_rows(tmp_path / "mgsm", "de", [{"question": "Zwei plus drei?", "answer": "5"}])
    with pytest.raises(
        UserError, match=r"the column 'answer_number' is missing(.|\n)*the columns are question, answer"
    ):
        load_task("moe_mgsm_boxed_de")


@needs_bench
@pytest.mark.usefixtures("_real_rows")
@pytest.mark.parametrize("language", LANGUAGES)
def test_real_prompts_ask_in_their_own_language(language):
    task = load_task(f"moe_mgsm_boxed_{language}")
    assert len(task.eval_docs) == 250
    prompt = task.fewshot_context(task.eval_docs[0], num_fewshot=0)
    question, _, instruction = prompt.rpartition("\n")
    assert question == task.eval_docs[0]["question"]
    assert "\\boxed{}" in instruction
    assert language == "en" or "Please" not in instruction


@needs_bench
@pytest.mark.usefixtures("_real_rows")
def test_real_problems_pair_by_their_number():
    assert item_keys("moe_mgsm_boxed_sw") == item_keys("moe_mgsm_boxed_en") == [str(number) for number in range(250)]
    assert identity("moe_mgsm_boxed_sw") == ("mgsm_boxed", "sw")
    english, swahili = (load_task(f"moe_mgsm_boxed_{tag}").eval_docs for tag in ("en", "sw"))
    assert list(english["answer_number"]) == list(swahili["answer_number"])


@needs_bench
@pytest.mark.usefixtures("_real_rows")
def test_right_answers_score_one_in_every_language():
    model = AnsweringModel(lambda doc: rf"\boxed{{{doc['answer_number']}}}")
    scores = evaluate(model, "moe_mgsm_boxed", limit=40)
    assert {name: row["exact_match"] for name, row in scores.items()} == dict.fromkeys(scores, 1.0)
    assert {f"moe_mgsm_boxed_{language}" for language in LANGUAGES} < set(scores)


@needs_bench
@pytest.mark.usefixtures("_real_rows")
def test_a_model_that_repeats_the_question_is_consistent_and_wrong():
    """The questions themselves are real text of each language, numbers and all."""
    scores = evaluate(AnsweringModel(lambda doc: doc["question"]), "moe_mgsm_boxed", limit=40)
    for language in LANGUAGES:
        row = scores[f"moe_mgsm_boxed_{language}"]
        assert row["language_consistency"] > 0.97, language
        assert (row["exact_match"], row["language_judged"]) == (0.0, 1.0)


@needs_bench
@pytest.mark.usefixtures("_real_rows")
@pytest.mark.parametrize(("said", "consistent"), [("en", ["moe_mgsm_boxed_en"]), ("sw", ["moe_mgsm_boxed_sw"])])
def test_a_model_that_answers_in_one_language_is_caught_in_all_others(said, consistent):
    model = AnsweringModel(lambda doc: rf"{REASONING[said]} \boxed{{{doc['answer_number']}}}")
    scores = evaluate(model, *(f"moe_mgsm_boxed_{language}" for language in LANGUAGES), limit=5)
    assert [name for name, row in scores.items() if row["language_consistency"] == 1.0] == consistent
    assert {row["language_consistency"] for row in scores.values()} == {0.0, 1.0}
    assert {row["exact_match"] for row in scores.values()} == {1.0}
