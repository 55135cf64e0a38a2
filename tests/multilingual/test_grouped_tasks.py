"""Groups over tasks that lm-eval has: their names exist, their languages pair, and its task classes read such rows.

The rows are made by hand, with the columns and types of each dataset's card on the hub.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from support.answering_models import AnsweringModel, load_task, write_rows
from support.answering_models import manager as own_manager

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.global_mmlu import load as load_medical
from lm_eval_moe.multilingual.local_data import BENCH_DIR_VARIABLE
from lm_eval_moe.multilingual.manifest import Manifest, load_manifest
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.resources import tasks_dir

GROUPED = {
    "afrimgsm": 19,
    "belebele": 24,
    "belebele_all": 122,
    "global_mmlu_lite": 15,
    "global_mmlu_medical": 15,
    "mmlu_prox_lite": 29,
    "xnli": 15,
    "xstorycloze": 11,
}
"""The benchmarks, with how many languages each has."""

MEDICAL = (
    *("clinical_knowledge", "college_medicine", "human_aging", "medical_genetics", "nutrition"),
    *("professional_medicine", "virology"),
)


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    """The folders of lm-eval's tasks that the groups name, and our own: all of lm-eval's take 15 seconds."""
    installed = Path(lm_eval.__file__).parent / "tasks"
    folders = ("afrimgsm", "belebele", "global_mmlu", "mmlu_prox", "xnli", "xstorycloze")
    return TaskManager(
        include_path=[str(tasks_dir()), *(str(installed / folder) for folder in folders)], include_defaults=False
    )


@pytest.fixture(scope="module")
def registry() -> PairingRegistry:
    return PairingRegistry.default()


def manifest(name: str) -> Manifest:
    return load_manifest(tasks_dir() / name / "benchmark.yml")


def leaves(manager: TaskManager, name: str) -> Iterator[str]:
    """Yield the tasks of a group, as often as it names them."""
    entry = manager.task_index[name]  # KeyError: a group names what lm-eval does not have
    if entry.cfg is None or "group" not in entry.cfg:
        yield name
    else:
        for member in entry.cfg["task"]:
            yield from leaves(manager, member)


@pytest.mark.parametrize("name", GROUPED)
def test_every_task_of_a_group_exists_once_and_has_an_english_counterpart(
    manager: TaskManager, registry: PairingRegistry, name: str
) -> None:
    tasks = list(leaves(manager, f"moe_{name}"))
    assert len(tasks) == len(set(tasks))
    found = [registry.pairing(task) for task in tasks]
    known = [pairing for pairing in found if pairing is not None]
    assert len(known) == len(tasks)
    english = {pairing.benchmark for pairing in known if pairing.language == "en"}
    assert {pairing.benchmark for pairing in known} == english
    assert {pairing.item for pairing in known} == {manifest(name).item}
    # Every language has every subject.
    assert len(tasks) == GROUPED[name] * len(english)
    assert len({pairing.language for pairing in known}) == GROUPED[name] == len(manifest(name).languages)


BY_SIZE = ("global_mmlu_lite", "mmlu_prox_lite")


@pytest.mark.parametrize("name", GROUPED)
def test_languages_are_averaged_with_equal_weights(manager: TaskManager, name: str) -> None:
    for group, entry in manager.task_index.items():
        if entry.yaml_path is not None and entry.yaml_path.parent == tasks_dir() / name:
            metrics = entry.cfg["aggregate_metric_list"]
            # Where a language is several tasks of different sizes, all languages have the same sizes.
            assert all(metric["weight_by_size"] is (name in BY_SIZE) for metric in metrics), group
            scored = next(leaves(manager, group))
            assert {metric["metric"] for metric in metrics} <= {
                metric["metric"] for metric in manager.task_index[scored].cfg["metric_list"]
            }


def test_the_chosen_belebele_languages_are_among_all_and_cover_mgsm_and_global_mmlu_lite() -> None:
    chosen = set(manifest("belebele").languages)
    assert chosen < set(manifest("belebele_all").languages)
    assert set(manifest("mgsm").languages) | set(manifest("global_mmlu_lite").languages) < chosen


def test_the_medical_subjects_are_the_same_in_full_and_in_the_fixed_part() -> None:
    full = {
        task.name.removeprefix(f"global_mmlu_full_{task.language}_") for task in manifest("global_mmlu_medical").tasks
    }
    fixed = {tuple(task.strings["subjects"]) for task in manifest("global_mmlu_medical_60").tasks}
    assert full == set(MEDICAL)
    assert fixed == {MEDICAL}
    assert manifest("global_mmlu_medical").languages == manifest("global_mmlu_medical_60").languages


def option_row(key: str, sample_id: str, question: str, options: str, **more: Any) -> dict[str, Any]:
    named = {f"option_{letter}": text for letter, text in zip("abcd", options.split("|"), strict=True)}
    return {key: sample_id, "question": question, **named, **more}


def belebele_row(link: str, number: int, text: str, right: str) -> dict[str, Any]:
    answers = {f"mc_answer{n}": f"{text}{n}" for n in range(1, 5)}
    return {
        "link": link,
        "question_number": number,
        "flores_passage": text,
        "question": "?",
        **answers,
        "correct_answer_num": right,
        "dialect": "-",
        "ds": "2023-05-03",
    }


def story_row(story: str, words: str, right: int) -> dict[str, Any]:
    names = [*(f"input_sentence_{n}" for n in range(1, 5)), "sentence_quiz1", "sentence_quiz2"]
    return {"story_id": story, **dict(zip(names, words.split(), strict=True)), "answer_right_ending": right}


def prox_row(number: int, question: str, options: tuple[str, ...]) -> dict[str, Any]:
    filled = {f"option_{n}": options[n] if n < len(options) else None for n in range(10)}
    return {
        "question_id": number,
        "question": question,
        **filled,
        "answer": "B",
        "answer_index": 1,
        "cot_content": "",
        "category": "health",
    }


medical_row = partial(option_row, "sample_id", subject_category="Medical", answer="B")
virology_row = partial(option_row, "sample_id", subject="virology", answer="D")

# Of each task family: the split, the same two items in English and, in another order where the benchmark has another
# order, in Swahili; then the Swahili task's prompt and target of its first document.
FAMILIES: dict[str, tuple[str, str, str, list[dict[str, Any]], list[dict[str, Any]], str, Any]] = {
    "belebele": (
        "test",
        "belebele_eng_Latn",
        "belebele_swh_Latn",
        [belebele_row("w/1", 1, "sea", "2"), belebele_row("w/1", 2, "sky", "4")],
        [belebele_row("w/1", 2, "anga", "4"), belebele_row("w/1", 1, "bahari", "2")],
        "P: anga\nQ: ?\nA: anga1\nB: anga2\nC: anga3\nD: anga4\nAnswer:",
        3,
    ),
    "xstorycloze": (
        "eval",
        "xstorycloze_en",
        "xstorycloze_sw",
        [story_row("s1", "a b c d e f", 2), story_row("s2", "g h i j k l", 1)],
        [story_row("s2", "m n o p q r", 1), story_row("s1", "s t u v w x", 2)],
        "m n o p",
        0,
    ),
    "global_mmlu_lite": (
        "test",
        "global_mmlu_en_medical",
        "global_mmlu_sw_medical",
        [medical_row("virology/test/1", "What?", "a|b|c|d"), medical_row("virology/test/2", "Who?", "a|b|c|d")],
        [medical_row("virology/test/2", "Nani?", "e|f|g|h"), medical_row("virology/test/1", "Nini?", "e|f|g|h")],
        "Nani?\nA. e\nB. f\nC. g\nD. h\nAnswer:",
        1,
    ),
    "global_mmlu_medical": (
        "test",
        "global_mmlu_full_en_virology",
        "global_mmlu_full_sw_virology",
        [virology_row("virology/test/1", "What?", "a|b|c|d"), virology_row("virology/test/2", "Who?", "a|b|c|d")],
        [virology_row("virology/test/2", "Nani?", "e|f|g|h"), virology_row("virology/test/1", "Nini?", "e|f|g|h")],
        "Nani?\nA. e\nB. f\nC. g\nD. h\nAnswer:",
        3,
    ),
    "mmlu_prox_lite": (
        "test",
        "mmlu_prox_lite_en_health",
        "mmlu_prox_lite_sw_health",
        [prox_row(7, "What?", ("a", "b", "c")), prox_row(9, "Who?", ("a", "b", "c"))],
        [prox_row(9, "Nani?", ("d", "e", "f")), prox_row(7, "Nini?", ("d", "e", "f"))],
        "Swali:\nNani?\nChaguo:\nA. d\nB. e\nC. f\nJibu: Hebu tufikiria hatua kwa hatua.",
        "B",
    ),
    "xnli": (
        "validation",
        "xnli_en",
        "xnli_sw",
        [{"premise": "It rains", "hypothesis": "it is wet", "label": 0}] * 2,
        [{"premise": "Mvua inanyesha", "hypothesis": "kuna maji", "label": 0}] * 2,
        "",
        0,
    ),
    "afrimgsm": (
        "test",
        "afrimgsm_eng_prompt_1",
        "afrimgsm_swa_prompt_1",
        [{"question": "1 + 1?", "answer": None, "answer_number": 2, "equation_solution": None}] * 2,
        [{"question": "1 na 1?", "answer": None, "answer_number": 2, "equation_solution": None}] * 2,
        "Question: 1 na 1?\nAnswer:",
        "2",
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_lm_evals_task_reads_rows_of_the_cards_columns_and_they_pair(
    manager: TaskManager, registry: PairingRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    split, english, swahili, english_rows, swahili_rows, prompt, target = FAMILIES[family]
    keys = {}
    for name, rows in ((english, english_rows), (swahili, swahili_rows)):
        for each in {split, "dev", "validation", "test", "train"}:
            write_rows(tmp_path / name, each, rows)
        (tmp_path / name / "README.md").write_text(_card(split), encoding="utf-8")
        source = {"dataset_path": str(tmp_path / name), "dataset_name": None}
        task = manager.load([{"group": "of_these_rows", "task": [{"task": name, **source}]}])["tasks"][name]
        pairing = registry.pairing(name)
        assert pairing is not None
        keys[name] = [pairing.item_key(doc, row) for row, doc in enumerate(task.eval_docs)]
    doc = task.eval_docs[0]
    assert len(set(keys[english])) == 2
    assert set(keys[english]) == set(keys[swahili])
    assert keys[swahili] == (keys[english] if manifest(family).item is None else keys[english][::-1])
    assert task.doc_to_text(doc) == prompt
    assert task.doc_to_target(doc) in (target, "ABCD"[target] if isinstance(target, int) else target)


def _card(split: str) -> str:
    splits = {split, "dev", "validation", "test", "train"}
    lines = [f"  - {{split: {each}, path: {each}.jsonl}}" for each in sorted(splits)]
    return "\n".join(["---", "configs:", "- config_name: default", "  data_files:", *lines, "---", ""])


def medical_rows(language: str, subjects: tuple[str, ...] = MEDICAL, of_each: int = 70) -> list[dict[str, Any]]:
    rows = [
        option_row("sample_id", f"{s}/test/{n}", f"{language} {s} {n}?", "e|f|g|h", subject=s, answer="ABCD"[n % 4])
        for s, n in itertools.product((*subjects, "anatomy"), range(of_each))
    ]
    return rows if language == "en" else rows[::-1]  # the order is nothing to rely on


@pytest.fixture
def medical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(tmp_path))
    for language in ("en", "sw"):
        write_rows(tmp_path / "global_mmlu_medical_60", f"{language}.test", medical_rows(language))
        write_rows(tmp_path / "global_mmlu_medical_60", f"{language}.dev", medical_rows(language, of_each=5))
    return tmp_path


@pytest.mark.usefixtures("medical")
def test_the_sixty_questions_of_a_subject_are_the_same_in_every_language(registry: PairingRegistry) -> None:
    chosen = {}
    for language in ("en", "sw"):
        task = load_task(f"moe_global_mmlu_medical_60_{language}")
        pairing = registry.pairing(task.task_name, task.get_config("metadata"))
        assert pairing is not None
        assert pairing.language == language
        chosen[language] = {pairing.item_key(doc, -1) for doc in task.eval_docs}
        assert len(task.eval_docs) == 420
        assert set(task.eval_docs["subject"]) == set(MEDICAL)
        assert len(task.fewshot_docs()) == 35
    assert chosen["en"] == chosen["sw"]
    digests = {f"virology/test/{n}": hashlib.sha256(f"virology/test/{n}".encode()).hexdigest() for n in range(70)}
    smallest = set(sorted(digests, key=digests.__getitem__)[:60])
    assert {key for key in chosen["en"] if key.startswith("virology/")} == smallest


@pytest.mark.usefixtures("medical")
def test_prompt_and_scores_of_the_medical_questions() -> None:
    task = load_task("moe_global_mmlu_medical_60_sw")
    doc = task.eval_docs[0]
    assert task.fewshot_context(doc, num_fewshot=0) == f"{doc['question']}\nA. e\nB. f\nC. g\nD. h\nAnswer:"
    assert task.doc_to_choice(doc) == ["A", "B", "C", "D"]

    def accuracy(model: AnsweringModel) -> float:
        found = lm_eval.simple_evaluate(
            model, tasks=[task.task_name], task_manager=own_manager(), bootstrap_iters=0, log_samples=False, limit=100
        )
        assert found is not None
        return float(found["results"][task.task_name]["acc,none"])

    assert accuracy(AnsweringModel(choice=lambda doc: doc["answer"])) == 1.0
    always_a = [doc["answer"] == "A" for doc in task.eval_docs.select(range(100))]
    assert accuracy(AnsweringModel(choice=lambda doc: "A")) == pytest.approx(sum(always_a) / 100)


def test_a_subject_with_too_few_questions_is_named(medical: Path) -> None:
    write_rows(medical / "global_mmlu_medical_60", "sw.test", medical_rows("sw", of_each=59))
    moe = load_task("moe_global_mmlu_medical_60_en").get_config("metadata")["moe"]
    with pytest.raises(UserError, match=r"clinical_knowledge has 59 questions, but 60 are needed"):
        load_medical(moe={**moe, "file": "sw"})
