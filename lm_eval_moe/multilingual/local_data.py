"""A task's rows: from a folder of JSON lines where one is given, else from the hub.

The folder has one JSON Lines file per language, ``<benchmark>/<file>.jsonl``, one row per line. It is named by the
environment variable ``MOE_BENCH_DIR``, or by ``--metadata '{"bench_dir": "..."}'``, which wins: lm-eval hands its
``--metadata`` to a task's ``custom_dataset`` function.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import datasets

__all__ = ["BENCH_DIR_VARIABLE", "has_local_file", "local_folder", "rows_of"]

BENCH_DIR_VARIABLE = "MOE_BENCH_DIR"
"""The environment variable that names the folder."""

_SHOWN = 12  # names in a message


def local_folder(bench_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder that rows are read from, or None where they come from the hub.

    Args:
        bench_dir: What the run says of it (``bench_dir`` in ``--metadata``); None: the environment decides.

    Raises:
        UserError: The folder does not exist.
    """
    name = os.fspath(bench_dir) if bench_dir is not None else os.environ.get(BENCH_DIR_VARIABLE, "")
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder",
            fix="give the folder that holds <benchmark>/<file>.jsonl, or leave it out to read from the hub",
            where=_where(bench_dir),
        )
    return folder


def has_local_file(benchmark: str, file: str, split: str, bench_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether rows are read from a folder that has this file: for splits that a task can do without.

    Without a folder the answer is True: the hub has every split.

    Raises:
        UserError: The folder does not exist.
    """
    folder = local_folder(bench_dir)
    return folder is None or _path(folder, benchmark, file, split).is_file()


def rows_of(
    moe: Mapping[str, Any],
    split: str,
    columns: Sequence[str],
    *,
    bench_dir: str | os.PathLike[str] | None = None,
    benchmark: str | None = None,
    file: str | None = None,
    config: str | None = None,
) -> datasets.Dataset:
    """Return one split of one language of a benchmark, with all the columns that it has.

    Args:
        moe: The task's ``metadata.moe``, which the manifest says: ``benchmark`` and ``file`` (without ``.jsonl``;
            ``{split}`` in it is the split's name) in the folder of JSON lines, ``dataset``, ``config`` and ``revision``
            on the hub.
        split: The split's name, on the hub as in file names.
        columns: The columns that the task reads.
        bench_dir: The run's own folder of JSON lines; None: ``MOE_BENCH_DIR`` decides.
        benchmark: Folder of the rows there, where it is not the benchmark's name.
        file: Name of the file there, where it is not what the manifest says.
        config: Configuration on the hub, where it is not what the manifest says.

    Raises:
        UserError: The folder or file is missing, a line is not a JSON object, a column is missing, or the dataset
            cannot be loaded from the hub.
    """
    folder = local_folder(bench_dir)
    benchmark, config = benchmark or moe["benchmark"], config or moe.get("config")
    if folder is None:
        rows = _from_hub(moe["dataset"], config, split, moe.get("revision"))
        where = f"{moe['dataset']}{f' ({config})' if config else ''}, split {split}"
    else:
        path = _path(folder, benchmark, file or moe["file"], split)
        rows = _from_file(path, folder, bench_dir)
        where = str(path)
    for column in columns:
        if column not in rows.column_names:
            raise UserError(
                f"the column {column!r} is missing{did_you_mean(column, rows.column_names)}",
                fix=f"{benchmark} needs {', '.join(columns)}; the columns are {', '.join(rows.column_names)}",
                where=where,
            )
    return rows


def _path(folder: Path, benchmark: str, file: str, split: str) -> Path:
    return folder / benchmark / f"{file.replace('{split}', split)}.jsonl"


def _where(bench_dir: object) -> str:
    return BENCH_DIR_VARIABLE if bench_dir is None else "--metadata bench_dir"


def _from_hub(dataset: str, config: str | None, split: str, revision: str | None) -> datasets.Dataset:
    import datasets

    try:
        return datasets.load_dataset(dataset, config, split=split, revision=revision)
    # OSError: no connection, no such dataset or no permission; ValueError: no such configuration or split;
    # RuntimeError: a dataset that is a script, which `datasets` no longer runs.
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the split {split!r}{f' of {config!r}' if config else ''} cannot be loaded: {first}",
            fix="check the connection to the hub (huggingface-cli login for gated datasets), or set "
            f"{BENCH_DIR_VARIABLE} to a folder of JSON lines",
            where=dataset,
        ) from error


def _from_file(path: Path, folder: Path, bench_dir: object) -> datasets.Dataset:
    import datasets

    if not path.is_file():
        raise UserError(
            f"{path} does not exist",
            fix=f"{_there_is(path.parent, folder)}; add the file, leave its language out, or unset the folder to read "
            "from the hub",
            where=_where(bench_dir),
        )
    rows: list[dict[str, Any]] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_row(line, f"{path}, line {number}"))
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 ({error.reason})", fix="save the file as UTF-8", where=str(path)) from error
    if not rows:
        raise UserError("holds no rows", fix="write one JSON object per line", where=str(path))
    return datasets.Dataset.from_list(rows)


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"is not JSON: {error.msg}", fix="write one JSON object per line", where=where) from error
    if not isinstance(row, dict):
        raise UserError(
            f"expected an object, got {line.strip()[:60]}", fix="write one JSON object per line", where=where
        )
    return row


def _there_is(benchmark_folder: Path, folder: Path) -> str:
    """Say what there is where a file was looked for."""
    if benchmark_folder.is_dir():
        return f"{benchmark_folder} has {_first_names(path.name for path in benchmark_folder.glob('*.jsonl'))}"
    return f"{folder} has the folders {_first_names(path.name for path in folder.iterdir() if path.is_dir())}"


def _first_names(names: Any) -> str:
    ordered = sorted(names)
    if not ordered:
        return "nothing"
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
