"""The tasks of `endtoend.py`: topics of sentences, four choices each, and problems whose answers are generated."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

__all__ = ["LANGUAGES", "write_tasks"]

LANGUAGES = {"en": "eng_Latn", "de": "deu_Latn", "fr": "fra_Latn", "id": "ind_Latn"}
_PROBLEMS = {"en": "en", "de": "de", "fr": "fr", "id": "es"}
_TOPICS = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")
_SHOTS = {"zero": (0, None), "five-same": (5, "first_n"), "five-drawn": (5, "default")}


def write_tasks(folder: Path, data: Path | None, tokens: int) -> None:
    """Write task files with their data.

    Args:
        folder: Where they go.
        data: A folder with ``sib200`` and ``mgsm``; None: texts are made up.
        tokens: How many are generated as an answer.
    """
    for language, code in LANGUAGES.items():
        for split in ("test", "validation"):
            rows = [_with_choices(row) for row in _sentences(data, code, split)]
            _write_rows(folder / f"topics_{language}_{split}.jsonl", rows)
        problems = _problems(data, _PROBLEMS[language])
        _write_rows(folder / f"problems_{language}_test.jsonl", problems[8:])
        _write_rows(folder / f"problems_{language}_validation.jsonl", problems[:8])
        for name, (shots, sampler) in _SHOTS.items():
            _write_task(folder, f"endtoend_{name}_{language}", {
                **_source(folder, "topics", language),
                "output_type": "multiple_choice",
                "num_fewshot": shots,
                **({"fewshot_config": {"sampler": sampler}} if sampler else {}),
                "doc_to_text": "Text: {{text}}\nTopic:",
                "doc_to_choice": "choices",
                "doc_to_target": "label",
                "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
                "metadata": _metadata(language, name),
            })  # fmt: skip
        _write_task(folder, f"endtoend_generation_{language}", {
            **_source(folder, "problems", language),
            "output_type": "generate_until",
            "num_fewshot": 8,
            "fewshot_config": {"sampler": "first_n"},
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_target": "{{answer_number}}",
            "generation_kwargs": {
                "until": ["<never>"], "max_gen_toks": tokens, "min_new_tokens": tokens, "do_sample": False
            },
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            "metadata": _metadata(language, "generation"),
        })  # fmt: skip


def _source(folder: Path, kind: str, language: str) -> dict[str, Any]:
    files = {split: str(folder / f"{kind}_{language}_{split}.jsonl") for split in ("test", "validation")}
    return {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "datasets")},
        "test_split": "test",
        "fewshot_split": "validation",
    }


def _metadata(language: str, name: str) -> dict[str, Any]:
    return {"version": 1.0, "routing": {"language": language, "benchmark": f"endtoend_{name}", "item": "row"}}


def _sentences(data: Path | None, code: str, split: str) -> list[dict[str, Any]]:
    if data is not None:
        lines = (data / "sib200" / f"{code}.{split}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    draw = random.Random(f"{code} {split}")
    return [
        {"index_id": number, "text": _made_up(draw, code, 22).capitalize() + ".", "category": draw.choice(_TOPICS)}
        for number in range(204)
    ]


def _problems(data: Path | None, code: str) -> list[dict[str, Any]]:
    if data is not None:
        lines = (data / "mgsm" / f"{code}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    draw = random.Random(f"problems {code}")
    return [
        {"question": _made_up(draw, code, 40).capitalize() + "?", "answer_number": draw.randrange(100)}
        for _ in range(250)
    ]


def _made_up(draw: random.Random, code: str, words: int) -> str:
    """Return words of a language that nobody speaks; each code has its own."""
    letters = random.Random(code).sample("abcdefghijklmnopqrstuvwxyz", 16)
    return " ".join("".join(draw.choices(letters, k=draw.randrange(2, 9))) for _ in range(words))


def _with_choices(row: dict[str, Any]) -> dict[str, Any]:
    """Return a sentence with its topic among three others, the same in every language."""
    draw = random.Random(row["index_id"])
    others = [topic for topic in _TOPICS if topic != row["category"]]
    choices = [*draw.sample(others, 3), row["category"]]
    draw.shuffle(choices)
    return {**row, "choices": choices, "label": choices.index(row["category"])}


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


def _write_task(folder: Path, name: str, config: dict[str, Any]) -> None:
    text = yaml.safe_dump({"task": name, **config}, allow_unicode=True, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
