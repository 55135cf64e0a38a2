"""Invented rows in the columns that benchmarks' data have: nobody's data are in this package.

They show the prompts in ``docs/tasks.md``, with ``<question>`` where the question stands, and the tests run them
through the harness. A benchmark has them in ``examples.py`` of its folder: ``rows(task, number)`` returns the files of
a task by their names in ``MOE_BENCH_DIR``, and for a benchmark that groups lm-eval's own tasks ``rows(number)`` the
splits on the hub. The columns are those of the datasets' cards, or of the code that reads the datasets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.manifest import BenchmarkTask, Manifest
from lm_eval_moe.resources import tasks_dir

__all__ = [
    "has_examples",
    "hub_splits",
    "mmlu_row",
    "per_language",
    "rows_of_benchmark",
    "splits",
    "splits_by",
    "texts",
    "write_examples",
]

Row = dict[str, Any]

_FILE = "examples.py"


def has_examples(manifest: Manifest) -> bool:
    """Whether there are rows for a benchmark."""
    return (manifest.path.parent / _FILE).is_file()


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
    make = _rows_in(manifest.path.parent)
    for task in tasks:
        for name, rows in make(task, number).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def hub_splits(manifest: Manifest, number: int) -> dict[str, list[Row]]:
    """Return rows for a benchmark that groups lm-eval's own tasks, in the hub's columns, by split.

    Raises:
        UserError: There are no rows for this benchmark.
    """
    made: dict[str, list[Row]] = _rows_in(manifest.path.parent)(number)
    return made


def rows_of_benchmark(name: str) -> Callable[..., Any]:
    """Return the ``rows`` of another benchmark of this package, whose data are the same."""
    return _rows_in(tasks_dir() / name)


def _rows_in(folder: Path) -> Callable[..., Any]:
    path = folder / _FILE
    spec = spec_from_file_location(f"lm_eval_moe_examples_of_{folder.name}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(
            f"there are no invented rows for {folder.name}",
            fix="add some in the columns of its dataset",
            where=str(path),
        )
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    rows: Callable[..., Any] = module.rows
    return rows


def texts(names: str, index: int, number: int) -> Row:
    """Return columns that hold their own name in angle brackets, numbered where there is more than one row."""
    return {name: f"<{name}>" if number == 1 else f"<{name} {index}>" for name in names.split()}


def per_language(
    file: str, row: Callable[[BenchmarkTask, int, int], Row]
) -> Callable[[BenchmarkTask, int], dict[str, list[Row]]]:
    """Return ``rows`` of one file per language; ``{file}`` and ``{variant}`` in its name are the task's."""
    return lambda task, number: {
        file.format(file=task.file, variant=task.variant): [row(task, index, number) for index in range(number)]
    }


def splits(names: str, row: Callable[[int, int], Row]) -> Callable[[int], dict[str, list[Row]]]:
    """Return ``rows`` of the same rows in each of the splits."""
    return lambda number: {name: [row(index, number) for index in range(number)] for name in names.split()}


def splits_by(
    column: str, values: Iterable[str], names: str, row: Callable[..., Row]
) -> Callable[[int], dict[str, list[Row]]]:
    """Return ``rows`` of rows for each of the values that lm-eval's tasks filter a column by."""
    return lambda number: {
        split: [
            row(index, number, **{column: value}, sample_id=f"{value}/{split}/{index}")
            for value in values
            for index in range(number)
        ]
        for split in names.split()
    }


def mmlu_row(index: int, number: int, **columns: Any) -> Row:
    """Return a row in the columns of Global-MMLU, with further columns."""
    named = texts("question option_a option_b option_c option_d", index, number)
    return {**named, "answer": "ABCD"[index % 4], **columns}
