"""SIB-200 through lm-eval: on the real sentences, and on rows of the hub's columns (index_id, category, text)."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import lm_eval.tasks
import pytest
import yaml
from support.answering_models import (
    BENCH,
    AnsweringModel,
    evaluate,
    identity,
    item_keys,
    load_task,
    manager,
    needs_bench,
    prompt_of,
    write_rows,
)

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.sib200 import CATEGORIES

AFROBENCH = Path(lm_eval.tasks.__file__).parent / "afrobench" / "sib" / "prompt_1"


@pytest.fixture
def _hand_made(tmp_path, monkeypatch):
    rows = [
        {"index_id": 1523, "category": "science/technology", "text": "Mabadiliko huongeza utofauti mpya."},
        {"index_id": 7, "category": "travel", "text": "Hoteli iko karibu na kituo."},
    ]
    write_rows(tmp_path / "sib200", "swh_Latn.test", rows)
    write_rows(tmp_path / "sib200", "swh_Latn.validation", rows[1:])
    write_rows(tmp_path / "sib200", "wol_Latn.test", rows)
    monkeypatch.setenv("MOE_BENCH_DIR", str(tmp_path))


@pytest.fixture
def _real(monkeypatch):
    monkeypatch.setenv("MOE_BENCH_DIR", str(BENCH))


@pytest.mark.usefixtures("_hand_made")
def test_the_prompt_and_the_choices_are_those_of_afrobenchs_first_prompt():
    theirs = yaml.safe_load((AFROBENCH / "sib_swa.yaml").read_text(encoding="utf-8"))
    common = yaml.safe_load((AFROBENCH / "sib").read_text(encoding="utf-8").replace("!function", ""))
    task = load_task("moe_sib200_sw")
    doc = task.eval_docs[0]
    assert prompt_of("moe_sib200_sw") == theirs["doc_to_text"].replace("{{text}}", doc["text"])
    assert task.doc_to_choice(doc) == common["doc_to_choice"] == list(CATEGORIES)
    assert task.doc_to_target(doc) == "science/technology"


@pytest.mark.usefixtures("_hand_made")
def test_examples_come_from_the_validation_sentences():
    task = load_task("moe_sib200_sw")
    context = task.fewshot_context(task.eval_docs[0], num_fewshot=1)
    assert context.startswith(prompt_of("moe_sib200_sw", 1) + " travel\n\n")


@pytest.mark.usefixtures("_hand_made")
def test_any_language_of_the_dataset_can_be_run_without_validation_sentences():
    model = AnsweringModel(choice=lambda doc: doc["category"])
    assert evaluate(model, "moe_sib200_all_wo") == {"moe_sib200_all_wo": {"acc": 1.0}}


@pytest.mark.usefixtures("_hand_made")
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"index_id": 1, "category": "sport", "text": "."}, r"'sport' is not a category \(did you mean 'sports'\?\)"),
        ({"index_id": 1, "label": 3, "text": "."}, r"the column 'category' is missing(.|\n)*index_id, label, text"),
    ],
)
def test_data_of_another_form_are_refused(tmp_path, row, message):
    write_rows(tmp_path / "sib200", "swh_Latn.test", [row])
    with pytest.raises(UserError, match=message):
        load_task("moe_sib200_sw")


def test_all_configurations_of_the_dataset_have_a_task():
    from lm_eval_moe.multilingual.manifest import load_manifest
    from lm_eval_moe.resources import tasks_dir

    every, chosen = (load_manifest(tasks_dir() / name / "benchmark.yml").tasks for name in ("sib200_all", "sib200"))
    assert len({task.config for task in every}) == len(every) == 205
    assert {task.config for task in chosen} < {task.config for task in every}
    assert {task.name for task in every} <= set(manager().all_tasks)


@needs_bench
@pytest.mark.usefixtures("_real")
def test_real_sentences_pair_by_their_number():
    english, swahili = item_keys("moe_sib200_en"), item_keys("moe_sib200_sw")
    assert len(set(english)) == 204
    assert sorted(english) == sorted(swahili)
    assert identity("moe_sib200_sw") == ("sib200", "sw")


@needs_bench
@pytest.mark.usefixtures("_real")
def test_the_chosen_languages_are_those_of_the_local_data():
    """So that a run of the whole group ends with a folder of JSON lines, too."""
    from lm_eval_moe.multilingual.manifest import load_manifest
    from lm_eval_moe.resources import tasks_dir

    here = {path.name.partition(".")[0] for path in (BENCH / "sib200").glob("*.test.jsonl")}
    assert {task.config for task in load_manifest(tasks_dir() / "sib200" / "benchmark.yml").tasks} == here


@needs_bench
@pytest.mark.usefixtures("_real")
def test_the_right_topic_scores_one_in_every_language():
    scores = evaluate(AnsweringModel(choice=lambda doc: doc["category"]), "moe_sib200", limit=20)
    assert {row["acc"] for row in scores.values()} == {1.0}
    assert len(scores) > 31


@needs_bench
@pytest.mark.usefixtures("_real")
def test_a_guess_scores_chance():
    generator = random.Random(5)
    names = [f"moe_sib200_{language}" for language in ("en", "sw", "zh")]
    scores = evaluate(AnsweringModel(choice=lambda doc: _guess(doc, generator)), *names)
    # 612 guesses among seven topics: chance is .143, its standard error .014.
    assert sum(scores[name]["acc"] for name in names) / 3 == pytest.approx(1 / 7, abs=0.05)


_GUESSES: dict[tuple[int, str], str] = {}


def _guess(doc, generator):
    # The same for all choices of a document.
    return _GUESSES.setdefault((doc["index_id"], doc["text"]), generator.choice(CATEGORIES))


@needs_bench
@pytest.mark.usefixtures("_real")
def test_one_topic_for_all_scores_its_share():
    task = load_task("moe_sib200_de")
    share = Counter(task.eval_docs["category"])["travel"] / 204
    scores = evaluate(AnsweringModel(choice=lambda doc: "travel"), "moe_sib200_de")
    assert scores["moe_sib200_de"]["acc"] == pytest.approx(share)
