"""XCOPA with English through lm-eval's own task class: connectors, relations, choices and items."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import lm_eval
import pytest
from support.answering_models import BENCH, AnsweringModel, load_task, manager, needs_bench, write_rows

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.local_data import BENCH_DIR_VARIABLE
from lm_eval_moe.multilingual.manifest import load_manifest
from lm_eval_moe.multilingual.xcopa import load
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.resources import tasks_dir

LANGUAGES = ("en", "et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh")
# Columns as the dataset's card has them: premise, choice1, choice2, question, label, idx, changed.
ROWS = {
    "en": [
        ("The item was packaged in bubble wrap.", "It was fragile.", "It was small.", "cause", 0),
        ("I emptied my pockets.", "I retrieved a ticket stub.", "I found a weapon.", "effect", 0),
    ],
    "et": [
        ("Ese oli mullikilesse mässitud.", "See oli õrn.", "See oli väike.", "cause", 0),
        ("Tühjendasin taskud.", "Sain kätte piletikontsu.", "Leidsin relva.", "effect", 0),
    ],
    "th": [
        ("สิ่งของถูกห่อไว้ในพลาสติก", "มันบอบบาง", "มันเล็ก", "effect", 0),  # wrong in the release
        ("ฉันล้างกระเป๋า", "ฉันเอาต้นขั้วตั๋วออกมา", "ฉันพบอาวุธ", "effect", 0),
    ],
}


@pytest.fixture
def _shared_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BENCH_DIR_VARIABLE, str(BENCH))


def rows(language: str) -> list[dict[str, Any]]:
    names = ("premise", "choice1", "choice2", "question", "label")
    return [dict(zip(names, row, strict=True), idx=idx, changed=False) for idx, row in enumerate(ROWS[language])]


def lm_evals(name: str) -> ModuleType:
    """Return the utilities of lm-eval's own task."""
    path = Path(lm_eval.__file__).parent / "tasks" / name / "utils.py"
    spec = importlib.util.spec_from_file_location(f"lm_evals_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prompt_choices_and_target(tmp_path: Path) -> None:
    for split in ("validation", "test"):
        corrected = [row | {"question_en": ROWS["en"][row["idx"]][3]} for row in rows("th")]
        write_rows(tmp_path / "xcopa", f"th.{split}", corrected)
    task = load_task("moe_xcopa_th", bench_dir=str(tmp_path))
    first, second = task.eval_docs
    assert task.fewshot_context(first, num_fewshot=0) == "สิ่งของถูกห่อไว้ในพลาสติก เพราะ"
    assert task.fewshot_context(second, num_fewshot=0) == "ฉันล้างกระเป๋า ดังนั้น"
    assert task.doc_to_choice(first) == ["มันบอบบาง", "มันเล็ก"]
    assert task.doc_to_target(first) == 0


@needs_bench
@pytest.mark.usefixtures("_shared_data")
@pytest.mark.parametrize("language", [lang for lang in LANGUAGES if lang != "en"])
def test_prompts_are_lm_evals_but_for_wrong_relations_and_cut_letters(language: str) -> None:
    stock = lm_evals("xcopa")
    to_text = getattr(stock, f"doc_to_text_{language}")
    task = load_task(f"moe_xcopa_{language}")
    lines = (BENCH / "xcopa" / f"{language}.test.jsonl").read_text(encoding="utf-8").splitlines()
    wrong = cut = 0
    for doc, row in zip(task.eval_docs, map(json.loads, lines), strict=True):
        assert doc["choices"] == stock.doc_to_choice(row)
        # lm-eval drops the last character, which is a letter or a vowel's sign where there is no full stop.
        stopped = row["premise"].strip().endswith((".", "。"))
        marked = row if stopped else row | {"premise": row["premise"].strip() + "."}
        cut += not stopped
        assert doc["prompt"] == to_text(marked | {"question": row["question_en"]})
        wrong += doc["prompt"] != to_text(marked)
    assert wrong == {"th": 250, "tr": 51, "sw": 37, "id": 4, "it": 4}.get(language, 0)
    assert cut == {"th": 500, "ta": 499}.get(language, 0)


@needs_bench
@pytest.mark.usefixtures("_shared_data")
def test_english_prompts_are_those_of_lm_evals_copa() -> None:
    stock = lm_evals("super_glue/copa")
    task = load_task("moe_xcopa_en")
    lines = (BENCH / "xcopa" / "en.test.jsonl").read_text(encoding="utf-8").splitlines()
    for doc, row in zip(task.eval_docs, map(json.loads, lines), strict=True):
        assert doc["prompt"] == stock.doc_to_text(row)
        # lm-eval's choices have the space in front that the target's delimiter is here.
        assert [f" {choice}" for choice in doc["choices"]] == stock.doc_to_choice(row)


def accuracy(model: AnsweringModel) -> dict[str, float]:
    found = lm_eval.simple_evaluate(
        model,
        tasks=[f"moe_xcopa_{language}" for language in ("en", "qu", "th", "zh")],
        task_manager=manager(),
        bootstrap_iters=0,
        log_samples=False,
    )
    assert found is not None
    return {task: scores["acc,none"] for task, scores in found["results"].items()}


@needs_bench
@pytest.mark.usefixtures("_shared_data")
def test_an_oracle_is_right_and_a_random_model_at_chance() -> None:
    assert set(accuracy(AnsweringModel(choice=lambda doc: doc["choices"][doc["label"]])).values()) == {1.0}
    draws = {key: random.Random(key).randrange(2) for key in range(500)}
    at_random = accuracy(AnsweringModel(choice=lambda doc: doc["choices"][draws[doc["idx"]]]))
    # The same draws for every language: 500 fair ones, 4 standard errors wide.
    assert all(abs(value - 0.5) < 4 * (0.25 / 500) ** 0.5 for value in at_random.values())


@needs_bench
@pytest.mark.usefixtures("_shared_data")
def test_items_pair_with_english_ones_of_the_same_answer() -> None:
    found = {}
    for language in LANGUAGES:
        task = load_task(f"moe_xcopa_{language}")
        pairing = PairingRegistry.default().pairing(task.task_name, task.get_config("metadata"))
        assert pairing is not None
        assert (pairing.language, pairing.benchmark) == (language, "xcopa")
        found[language] = {pairing.item_key(doc, -1): (doc["relation"], doc["label"]) for doc in task.eval_docs}
    assert len(found["en"]) == 500
    assert all(found[language] == found["en"] for language in LANGUAGES)


def test_only_english_prompts_have_english_connectors() -> None:
    manifest = load_manifest(tasks_dir() / "xcopa" / "benchmark.yml")
    connectors = {task.language: (task.strings["cause"], task.strings["effect"]) for task in manifest.tasks}
    assert tuple(connectors) == LANGUAGES
    assert connectors["en"] == ("because", "therefore")
    assert all(not {"because", "therefore"} & set(pair) for lang, pair in connectors.items() if lang != "en")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The datasets as the hub has them: XCOPA with a configuration a language, English COPA in a file a split."""
    monkeypatch.delenv(BENCH_DIR_VARIABLE, raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    configs = []
    for language in ("et", "th"):
        files = []
        for split in ("validation", "test"):
            write_rows(tmp_path / "xcopa", f"{language}/{split}", rows(language))
            files.append(f"  - {{split: {split}, path: {language}/{split}.jsonl}}")
        configs += [f"- config_name: {language}", "  data_files:", *files]
    (tmp_path / "xcopa" / "README.md").write_text("\n".join(["---", "configs:", *configs, "---"]), encoding="utf-8")
    for split in ("validation", "test"):
        write_rows(tmp_path / "copa", split, [{k: v for k, v in row.items() if k != "idx"} for row in rows("en")])
    return tmp_path


def moe(hub: Path, language: str) -> dict[str, Any]:
    strings: dict[str, Any] = {"cause": "because", "effect": "therefore"}
    if language == "en":
        strings |= {f"english_{split}": {"dataset": str(hub / "copa")} for split in ("validation", "test")}
    return {"benchmark": "xcopa", "dataset": str(hub / "xcopa"), "config": language, "file": "x", "strings": strings}


def test_the_hubs_wrong_relations_are_taken_from_the_language_that_has_them_right(hub: Path) -> None:
    found = load(moe=moe(hub, "th"), routing={"language": "th"})
    assert found["test"]["relation"] == ["cause", "effect"]
    assert found["test"]["prompt"][0].endswith(" because")


def test_english_comes_from_copa_in_xcopas_order(hub: Path) -> None:
    found = load(moe=moe(hub, "en"), routing={"language": "en"})
    assert found["test"]["idx"] == [0, 1]
    assert found["test"]["prompt"] == ["The item was packaged in bubble wrap because", "I emptied my pockets therefore"]


def test_english_items_in_another_order_are_refused(hub: Path) -> None:
    write_rows(hub / "copa", "test", [{k: v for k, v in row.items() if k != "idx"} for row in reversed(rows("en"))])
    with pytest.raises(UserError, match=r"copa: the test items are not those of .* in its order"):
        load(moe=moe(hub, "en"), routing={"language": "en"})
