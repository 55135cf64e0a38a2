"""The routing corpora through lm-eval's own task class, on rows of the hub's columns, and on real sentences if there.

The columns, by dataset: openlanguagedata/flores_plus (id, text), facebook/belebele (link, question_number,
flores_passage), davidstap/NTREX (text) and lavita/AlpaCare-MedInstruct-52k (instruction, input, output) as on their
cards and in the hub's viewer; Mathoctopus/GSM8KInstruct_Parallel (prompt, chosen), whose card describes no columns, as
the public code of lucasbandarkar/xl_moe_alignment reads it.
"""

from __future__ import annotations

import datasets
import pytest
from support.answering_models import BENCH, item_keys, load_task, manager, needs_bench, write_rows

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.errors import UserError


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))
    return tmp_path


def texts(name):
    task = load_task(name)
    requests = [task.construct_requests(doc, "", metadata=(name, 0, 1)) for doc in task.eval_docs]
    assert {request.request_type for request in requests} == {"loglikelihood_rolling"}
    return [request.arguments for request in requests]


def test_flores_sentences_pair_by_their_id(bench):
    write_rows(bench / "flores", "en", [{"id": 1, "text": "One."}, {"id": 0, "text": "Zero."}])
    write_rows(bench / "flores", "sw", [{"id": 0, "text": "Sifuri."}, {"id": 1, "text": "Moja."}])
    assert texts("moe_flores_sw") == [("Sifuri.",), ("Moja.",)]
    pairs = dict(zip(item_keys("moe_flores_en"), texts("moe_flores_en"), strict=True))
    assert pairs == {"1": ("One.",), "0": ("Zero.",)}
    assert item_keys("moe_flores_sw") == ["0", "1"]


def test_belebele_passages_are_taken_once_from_the_first_question(bench):
    rows = [
        {"link": "https://b", "question_number": 2, "flores_passage": "b again"},
        {"link": "https://b", "question_number": 1, "flores_passage": "b"},
        {"link": "https://a", "question_number": 1, "flores_passage": "a"},
    ]
    write_rows(bench / "belebele_passages", "en", rows)
    write_rows(bench / "belebele_passages", "sw", rows[::-1])
    for name in ("moe_belebele_passages_en", "moe_belebele_passages_sw"):
        assert texts(name) == [("a",), ("b",)]
        assert item_keys(name) == ["https://a", "https://b"]


def test_ntrex_sentences_pair_by_their_line(bench):
    write_rows(bench / "ntrex", "swa", [{"text": "Moja."}, {"text": "Mbili."}])
    assert texts("moe_ntrex_sw") == [("Moja.",), ("Mbili.",)]
    assert item_keys("moe_ntrex_sw") == ["ntrex-0000", "ntrex-0001"]


def test_ntrex_lines_keep_their_number_in_an_excerpt(bench):
    write_rows(bench / "ntrex", "eng", [{"idx": 7, "text": "Seven."}, {"idx": 9, "text": "Nine."}])
    assert item_keys("moe_ntrex_en") == ["ntrex-0007", "ntrex-0009"]


def test_medical_instructions_have_their_input_where_there_is_one(bench):
    rows = [
        {"instruction": "Explain.", "input": "Fever", "output": "It is a rise of temperature."},
        {"instruction": "Name a bone. ", "input": "<noinput>", "output": "Femur"},
        {"instruction": "Name a muscle.", "input": "", "output": "Biceps"},
    ]
    write_rows(bench / "medinstruct", "en", rows)
    assert texts("moe_medinstruct_en") == [
        ("Explain.\nFever\nIt is a rise of temperature.",),
        ("Name a bone.\nFemur",),
        ("Name a muscle.\nBiceps",),
    ]
    assert item_keys("moe_medinstruct_en") == ["row:0", "row:1", "row:2"]


LANGUAGES = ("English", "Swahili", "Chinese", "Bengali", "German", "Spanish", "French", "Japanese", "Russian", "Thai")


def problem(number, language, answer=None):
    said = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request in "
    )
    return {
        "prompt": f"{said}{language}. Please answer in {language}.\n\n"
        f"### Instruction:\n{language} {number}?\n\n### Response:",
        "chosen": f"So many.\n#### {1000 + number if answer is None else answer}",
    }


def test_a_problem_is_its_english_row_and_those_that_follow(bench):
    rows = [problem(0, language) for language in LANGUAGES]
    rows += [problem(1, language) for language in LANGUAGES if language != "Thai"]  # one language lacks it
    rows += [problem(2, language) for language in (*LANGUAGES[:1], "Telugu", *LANGUAGES[1:])]
    write_rows(bench / "gsm8k_instruct", "parallel", rows)
    assert texts("moe_gsm8k_instruct_sw") == [
        ("Swahili 0?\nSo many.\n#### 1000",),
        ("Swahili 2?\nSo many.\n#### 1002",),
    ]
    assert item_keys("moe_gsm8k_instruct_th") == item_keys("moe_gsm8k_instruct_en") == ["gsm8k-0000", "gsm8k-0002"]


def test_numbers_written_in_another_way_are_the_same_answer(bench):
    rows = [
        problem(0, language, {"German": "1.000", "Thai": "๑,๐๐๐", "Spanish": "1,000"}.get(language, "1000"))
        for language in LANGUAGES
    ]
    write_rows(bench / "gsm8k_instruct", "parallel", rows)
    assert len(texts("moe_gsm8k_instruct_th")) == 1


def shifted():
    return [problem(number + (language == "Swahili"), language) for number in range(40) for language in LANGUAGES]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            shifted(),
            r"40 of 40 answers in Swahili end in a different number than in English \(the first is problem 0\)",
        ),
        ([{"prompt": "What is 1 + 1?", "chosen": "2"}], "the prompt of row 0 names no language or has no question"),
        ([problem(0, "English"), problem(0, "Thai")], "none of 1 problems is in all of Bengali, Chinese"),
        ([{"query": "x", "response": "y"}], "the column 'prompt' is missing"),
    ],
)
def test_rows_that_are_not_parallel_are_refused(bench, rows, said):
    write_rows(bench / "gsm8k_instruct", "parallel", rows)
    with pytest.raises(UserError, match=said):
        load_task("moe_gsm8k_instruct_sw")


@pytest.mark.parametrize(
    ("folder", "file", "task", "columns"),
    [
        ("flores", "sw", "moe_flores_sw", "id, text"),
        ("belebele_passages", "sw", "moe_belebele_passages_sw", "link, question_number, flores_passage"),
        ("ntrex", "swa", "moe_ntrex_sw", "text"),
        ("medinstruct", "en", "moe_medinstruct_en", "instruction, input, output"),
    ],
)
def test_other_columns_are_refused_with_those_that_there_are(bench, folder, file, task, columns):
    write_rows(bench / folder, file, [{"sentence": "x", "number": 3}])
    with pytest.raises(UserError) as caught:
        load_task(task)
    assert f"needs {columns}; the columns are sentence, number" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "path", "config", "split", "rows"),
    [
        (
            "moe_flores_ak_akuapem",
            "openlanguagedata/flores_plus",
            "twi_Latn_akua1239",
            "devtest",
            [{"id": 0, "text": "x"}],
        ),
        ("moe_ntrex_zh_Hant", "davidstap/NTREX", "zho_Hant", "test", [{"text": "x"}]),
        (
            "moe_belebele_passages_zh",
            "facebook/belebele",
            "zho_Hans",
            "test",
            [{"link": "l", "question_number": 1, "flores_passage": "x"}],
        ),
    ],
)
def test_without_a_folder_the_hub_is_asked_for_the_languages_configuration(
    monkeypatch, task, path, config, split, rows
):
    monkeypatch.delenv("MOE_BENCH_DIR", raising=False)
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((*args, kwargs["split"]))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert texts(task) == [("x",)]
    assert asked == [(path, config, split)]


@needs_bench
def test_real_ntrex_sentences_pair_in_every_language_that_is_there(monkeypatch):
    monkeypatch.setenv("MOE_BENCH_DIR", str(BENCH))
    english = item_keys("moe_ntrex_en")
    assert len(english) == 200
    for name in ("moe_ntrex_sw", "moe_ntrex_zh", "moe_ntrex_am", "moe_ntrex_fa"):
        assert item_keys(name) == english


@needs_bench
def test_a_run_reports_divergence_from_english_on_real_sentences(monkeypatch):
    monkeypatch.setenv("MOE_BENCH_DIR", str(BENCH))
    lm = HFMoE(pretrained="demo", batch_size=4)
    found = simple_evaluate(
        lm, tasks=["moe_ntrex_en", "moe_ntrex_sw"], limit=3, task_manager=manager(), bootstrap_iters=0
    )
    assert found["results"]["moe_ntrex_sw"]["routing_divergence,none"] > 0
    assert "routing_divergence,none" not in found["results"]["moe_ntrex_en"]
    assert found["routing"]["tasks"]["moe_ntrex_sw"]["reference"] == "en"
