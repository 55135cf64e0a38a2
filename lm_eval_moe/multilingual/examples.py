"""Invented rows for every benchmark in the columns that its data have: nobody's data are in this package.

They show the prompts in ``docs/tasks.md``, with ``<question>`` where the question stands, and the tests run them
through the harness. The columns are those of the datasets' cards, or of the code that reads the datasets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_whole
from lm_eval_moe.multilingual.manifest import BenchmarkTask, Manifest

__all__ = ["has_examples", "hub_splits", "write_examples"]

Row = dict[str, Any]


def has_examples(manifest: Manifest) -> bool:
    """Whether there are rows for a benchmark."""
    return manifest.name in (_HUB if manifest.lm_eval else _LOCAL)


def write_examples(folder: Path, manifest: Manifest, tasks: Iterable[BenchmarkTask], number: int) -> None:
    """Write rows for tasks of a benchmark in the layout of ``MOE_BENCH_DIR``.

    Args:
        folder: What ``MOE_BENCH_DIR`` will name.
        manifest: The benchmark, one that does not group lm-eval's own tasks.
        tasks: Those to write rows for.
        number: Rows a file; with one, its texts are ``<question>``, with more ``<question 0>`` and so on.

    Raises:
        UserError: There are no rows for this benchmark.
    """
    make = _made(manifest, _LOCAL)
    for task in tasks:
        for name, rows in make(task, number).items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_whole(folder / name, text, "rows of an example")


def hub_splits(manifest: Manifest, number: int) -> dict[str, list[Row]]:
    """Return rows for a benchmark that groups lm-eval's own tasks, in the hub's columns, by split.

    Raises:
        UserError: There are no rows for this benchmark.
    """
    splits: dict[str, list[Row]] = _made(manifest, _HUB)(number)
    return splits


def _made(manifest: Manifest, table: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    if manifest.name not in table:
        raise UserError(
            f"there are no invented rows for {manifest.name}",
            fix="add some in the columns of its dataset",
            where=str(Path(__file__)),
        )
    return table[manifest.name]


def _texts(names: str, index: int, number: int) -> Row:
    """Return columns that hold their own name in angle brackets, numbered where there is more than one row."""
    return {name: f"<{name.lstrip('_')}>" if number == 1 else f"<{name.lstrip('_')} {index}>" for name in names.split()}


# ---------------------------------------------------------------------- this package's own tasks: files


def _of(
    file: str, row: Callable[[BenchmarkTask, int, int], Row]
) -> Callable[[BenchmarkTask, int], dict[str, list[Row]]]:
    """One file a language; ``{file}`` and ``{variant}`` in its name."""
    return lambda task, number: {
        file.format(file=task.file, variant=task.variant): [row(task, index, number) for index in range(number)]
    }


def _xcopa(task: BenchmarkTask, number: int) -> dict[str, list[Row]]:
    rows = [
        {
            **_texts("premise choice1 choice2", index, number),
            "premise": f"{_texts('premise', index, number)['premise']}.",
            "question_en": ("cause", "effect")[index % 2],
            "label": (0, 1, 1, 0)[index % 4],
            "idx": index,
        }
        for index in range(number)
    ]
    return {f"xcopa/{task.file}.{split}.jsonl": rows for split in ("test", "validation")}


def _sib200(task: BenchmarkTask, index: int, number: int) -> Row:
    from lm_eval_moe.multilingual.sib200 import CATEGORIES

    return {"index_id": index, "category": CATEGORIES[index % len(CATEGORIES)], **_texts("text", index, number)}


def _mmlu_row(index: int, number: int, **columns: Any) -> Row:
    texts = _texts("question option_a option_b option_c option_d", index, number)
    return {**texts, "answer": "ABCD"[index % 4], **columns}


def _medical_60(task: BenchmarkTask, number: int) -> dict[str, list[Row]]:
    rows = [
        _mmlu_row(index, number, subject=subject, sample_id=f"{subject}/test/{index}")
        for subject in task.strings["subjects"]
        for index in range(max(number, task.strings["questions"]))
    ]
    return {f"global_mmlu_medical_60/{task.file}.{split}.jsonl": rows for split in ("test", "dev")}


def _piqa(task: BenchmarkTask, index: int, number: int) -> Row:
    solutions = " ".join(f"solution{n}" for n in range(4))
    english = {f"eng_{name}": text for name, text in _texts(f"prompt {solutions}", index, number).items()}
    return {**_texts(f"prompt {solutions}", index, number), **english, "label": index % 4, "example_id": str(index)}


def _answered(text: str, index: int) -> Row:
    return {"text": [text], "answer_start": [index]}


def _xquad(task: BenchmarkTask, index: int, number: int) -> Row:
    texts = _texts("context question answer", index, number)
    answer = texts.pop("answer")
    return {"id": f"q{index}", **texts, "answers": _answered(answer, index)}


def _global_mgsm(task: BenchmarkTask, index: int, number: int) -> Row:
    return {**_texts("question", index, number), "answer": str(index + 1), "instruction": "<instruction>"} | {
        "answer_prefix": "<answer's word>"
    }


def _gsm8k_instruct(task: BenchmarkTask, number: int) -> dict[str, list[Row]]:
    languages = (
        "English",
        "Swahili",
        "Chinese",
        "Bengali",
        "German",
        "Spanish",
        "French",
        "Japanese",
        "Russian",
        "Thai",
    )
    rows = [
        {
            "prompt": "Below is an instruction that describes a task. Write a response that appropriately completes "
            f"the request in {language}. Please answer in {language}.\n\n"
            f"### Instruction:\n<{language} problem {index}>\n\n### Response:",
            "chosen": f"<{language} steps> {index + 1}",
        }
        for index in range(number)
        for language in languages
    ]
    return {f"gsm8k_instruct/{task.file}.jsonl": rows}


_LOCAL: dict[str, Callable[[BenchmarkTask, int], dict[str, list[Row]]]] = {
    "belebele_passages": _of(
        "belebele_passages/{file}.jsonl",
        lambda task, index, number: {
            "link": f"https://example.org/{index}",
            "question_number": 1,
            **_texts("flores_passage", index, number),
        },
    ),
    "flores": _of("flores/{file}.jsonl", lambda task, index, number: {"id": index, **_texts("text", index, number)}),
    "flores_en_x": lambda task, number: {
        f"flores/{file}.jsonl": [{"id": index, **_texts(text, index, number)} for index in range(number)]
        for file, text in (("en", "text"), (task.file, "text"))
    },
    "global_mgsm": _of("global_mgsm/{file}.jsonl", _global_mgsm),
    "global_mmlu_medical_60": _medical_60,
    "global_piqa": _of("global_piqa/{file}.jsonl", _piqa),
    "gsm8k_instruct": _gsm8k_instruct,
    "medinstruct": _of(
        "medinstruct/{file}.jsonl", lambda task, index, number: _texts("instruction input output", index, number)
    ),
    "mgsm": _of(
        "mgsm/{file}.jsonl",
        lambda task, index, number: {**_texts("question", index, number), "answer_number": index + 1},
    ),
    "mgsm_boxed": _of(
        "mgsm/{file}.jsonl",
        lambda task, index, number: {**_texts("question", index, number), "answer_number": index + 1},
    ),
    "ntrex": _of("ntrex/{file}.jsonl", lambda task, index, number: _texts("text", index, number)),
    "polymath": _of(
        "polymath/{file}.{variant}.jsonl",
        lambda task, index, number: {
            "id": f"{task.variant}-{task.config}-{index}",
            **_texts("question", index, number),
            "answer": str(index + 1),
        },
    ),
    "sib200": lambda task, number: {
        f"sib200/{task.file.format(split='test')}.jsonl": [_sib200(task, index, number) for index in range(number)]
    },
    "sib200_all": lambda task, number: {
        f"sib200/{task.file.format(split='test')}.jsonl": [_sib200(task, index, number) for index in range(number)]
    },
    "xcopa": _xcopa,
    "xquad_direct": _of("xquad/{file}.jsonl", _xquad),
}


# ---------------------------------------------------------------------- lm-eval's own tasks: the hub's splits


def _splits(names: str, row: Callable[[int, int], Row]) -> Callable[[int], dict[str, list[Row]]]:
    return lambda number: {name: [row(index, number) for index in range(number)] for name in names.split()}


def _belebele(index: int, number: int) -> Row:
    texts = _texts("flores_passage question mc_answer1 mc_answer2 mc_answer3 mc_answer4", index, number)
    return {
        "link": f"https://example.org/{index}",
        "question_number": 1,
        **texts,
        "correct_answer_num": "1234"[index % 4],
    }


def _afrimgsm(index: int, number: int) -> Row:
    return {**_texts("question", index, number), "answer": None, "answer_number": index + 1, "equation_solution": None}


def _in_each(column: str, values: Iterable[str], splits: str, row: Callable[..., Row]) -> Callable[[int], Any]:
    """Rows for each of the values that lm-eval's tasks filter a column by."""
    return lambda number: {
        split: [
            row(index, number, **{column: value}, sample_id=f"{value}/{split}/{index}")
            for value in values
            for index in range(number)
        ]
        for split in splits.split()
    }


def _mmlu_prox(index: int, number: int, category: str, sample_id: str) -> Row:
    options = " ".join(f"option_{n}" for n in range(10))
    return {
        **_texts(f"question {options} cot_content", index, number),
        "question_id": index,
        "answer": "ABCDEFGHIJ"[index % 10],
        "answer_index": index % 10,
        "category": category,
    }


def _xnli(index: int, number: int) -> Row:
    return {**_texts("premise hypothesis", index, number), "label": index % 3}


def _storycloze(index: int, number: int) -> Row:
    sentences = " ".join(f"input_sentence_{n}" for n in range(1, 5))
    texts = _texts(f"{sentences} sentence_quiz1 sentence_quiz2", index, number)
    return {"story_id": f"s{index}", **texts, "answer_right_ending": index % 2 + 1}


_MEDICAL = (
    *("clinical_knowledge", "college_medicine", "human_aging", "medical_genetics", "nutrition"),
    *("professional_medicine", "virology"),
)
_PROX = (
    *("biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law"),
    *("math", "other", "philosophy", "physics", "psychology"),
)
_LITE = ("Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences")

_HUB: dict[str, Callable[[int], dict[str, list[Row]]]] = {
    "afrimgsm": _splits("test train", _afrimgsm),
    "belebele": _splits("test", _belebele),
    "belebele_all": _splits("test", _belebele),
    "global_mmlu_lite": _in_each("subject_category", _LITE, "test dev", _mmlu_row),
    "global_mmlu_medical": _in_each("subject", _MEDICAL, "test dev", _mmlu_row),
    "mmlu_prox_lite": _in_each("category", _PROX, "test validation", _mmlu_prox),
    "xnli": _splits("train validation", _xnli),
    "xstorycloze": _splits("train eval", _storycloze),
}
