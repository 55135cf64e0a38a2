"""What makes two runs comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.written_runs import write_run

from lm_eval_moe.identity import Identity
from lm_eval_moe.results import Run, read_results, read_runs, setup_differences

SCORES = {"en": [1.0, 0.0, 1.0], "sw": [0.0, 1.0, 1.0]}


def two(tmp_path: Path, first: dict[str, Any], second: dict[str, Any]) -> list[Run]:
    paths = [write_run(tmp_path / name, **{"scores": SCORES, **how}) for name, how in (("a", first), ("b", second))]
    return list(read_runs(read_results(paths)))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {}, []),
        ({}, {"steering": "soft"}, []),
        ({}, {"version": 4.0}, [("task version", "3.0", "4.0", True)]),
        ({}, {"few_shot": 5}, [("few-shot count", "0", "5", True)]),
        ({}, {"scores": {"en": [1.0, 0.0], "sw": [0.0, 1.0]}}, [("documents", "3 of 250", "2 of 250", True)]),
        ({}, {"changes": {"system_instruction_sha": "ab" * 32}}, [("system instruction", "none", "ab" * 6, True)]),
        ({}, {"changes": {"chat_template_sha": "ab" * 32}}, [("chat template", "none", "ab" * 6, True)]),
        (
            {"changes": {"chat_template_sha": "ab" * 32}},
            {"changes": {"chat_template_sha": "cd" * 32}, "model": "org/other", "prompt": "<user>"},
            [("chat template", "ab" * 6, "cd" * 6, False)],  # a template of its own for each model is no mistake
        ),
        (
            {"samples": False},
            {"samples": False, "changes": {"configs": {t: {"doc_to_text": "Q"} for t in ("mgsm_direct_en",)}}},
            [("prompts", "doc_to_text {{question}}", "doc_to_text Q", True)],
        ),
    ],
)
def test_differences_in_setup(tmp_path: Path, first: Any, second: Any, expected: list[Any]) -> None:
    found = setup_differences(*two(tmp_path, first, second))
    of_english = [(m.kind, m.first, m.second, m.serious) for m in found if m.task == "mgsm_direct_en"]
    assert of_english == expected


def test_other_prompts_are_found_by_their_hash(tmp_path: Path) -> None:
    found = setup_differences(*two(tmp_path, {}, {"prompt": "Frage: "}))
    assert {(m.task, m.kind, m.serious) for m in found} == {(f"mgsm_direct_{k}", "prompts", True) for k in SCORES}


def test_what_only_one_file_says_is_no_serious_difference(tmp_path: Path) -> None:
    found = setup_differences(*two(tmp_path, {}, {"changes": {"versions": {}, "n-shot": {}}}))
    assert {m.kind for m in found} == {"task version", "few-shot count"}
    assert not any(m.serious for m in found)


def test_versions_of_libraries_and_dtype_are_worth_a_warning(tmp_path: Path) -> None:
    config = {"model": "hf", "model_args": {"pretrained": "org/model"}, "model_dtype": "torch.float32"}
    changes = {"lm_eval_version": "0.4.9", "config": config}
    other = {"config": {**config, "model_dtype": "torch.bfloat16"}}
    found = setup_differences(*two(tmp_path, {"changes": changes}, {"changes": other}))
    assert [(m.task, m.kind, m.serious) for m in found] == [("", "dtype", False), ("", "lm-eval version", False)]


def test_only_the_tasks_asked_for_are_compared(tmp_path: Path) -> None:
    first, second = two(tmp_path, {}, {"version": 4.0})
    assert {m.task for m in setup_differences(first, second, ["mgsm_direct_sw"])} == {"mgsm_direct_sw"}


def test_two_backends_are_worth_a_note(tmp_path: Path) -> None:
    changes = [
        {"routing": {"identity": Identity({"model.backend": name}).to_dict()}} for name in ("hf-moe", "vllm-moe")
    ]
    found = setup_differences(*two(tmp_path, {"changes": changes[0]}, {"changes": changes[1]}))
    [note] = [each for each in found if each.kind.startswith("backend")]
    assert (note.first, note.second, note.serious) == ("hf-moe", "vllm-moe", False)
