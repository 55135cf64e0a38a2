"""Finding results files and the samples logs that belong to them, by lm-eval's names.

lm-eval writes ``<output>/<model>/results_<date>.json``, or ``<stem>_<date>.json`` for ``--output_path <stem>.json``,
and beside it ``samples_<task>_<date>.jsonl`` with the same date to the microsecond. A log belongs to the results file
of the same folder and date, and to no other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_moe.errors import UserError

__all__ = ["ResultsFile", "contents_of", "find_results"]

_DATE = r"\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?"
_DATED = re.compile(rf"(?P<stem>.+)_(?P<date>{_DATE})\.json")
_LOG = re.compile(rf"samples_(?P<task>.+)_(?P<date>{_DATE})\.jsonl")
_RESULTS = re.compile(r"results(_.*)?\.json")


@dataclass(frozen=True)
class ResultsFile:
    """A results file, and the samples logs that its name claims.

    Attributes:
        path: The file.
        stem: Its name without the date.
        date: The date in its name, as written; empty if there is none.
        named: Whether it was given by itself, not found in a directory.
        logs: The logs of the same folder and date, by task.
        undated_logs: How many logs lie beside a file that has no date in its name, so that none can be attributed.
    """

    path: Path
    stem: str
    date: str
    named: bool
    logs: dict[str, Path]
    undated_logs: int = 0


def find_results(paths: Sequence[Path]) -> list[ResultsFile]:
    """Return the results files among files and directories (searched recursively), each once, in order of name.

    Raises:
        UserError: A path does not exist, is not JSON file, or a directory holds no results.
    """
    results: dict[Path, ResultsFile] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*.json") if _looks_like_results(file))
            if not inside:
                raise UserError(
                    f"no results in this directory: {contents_of(path)}",
                    fix="give the folder that `run --output_path` wrote: results_<date>.json lies in it or in a "
                    "folder below it",
                    where=str(path),
                )
            files = [(file, False) for file in inside]
        elif path.is_file():
            if path.suffix == ".jsonl":
                raise UserError(
                    "this is a samples log", fix="give the results JSON next to it, or their folder", where=str(path)
                )
            files = [(path, True)]
        else:
            raise UserError("there is no such file or directory", fix="give results files or folders", where=str(path))
        for file, is_named in files:
            results.setdefault(file.resolve(), _results_file(file, is_named))
    return list(results.values())


def _looks_like_results(path: Path) -> bool:
    return path.is_file() and bool(_RESULTS.fullmatch(path.name) or _DATED.fullmatch(path.name))


def _results_file(path: Path, is_named: bool) -> ResultsFile:
    match = _DATED.fullmatch(path.name)
    logs = list(_logs_beside(path))
    if match is None:
        return ResultsFile(path, path.stem, "", is_named, {}, undated_logs=len(logs))
    same = {task: log for task, date, log in logs if date == match["date"]}
    return ResultsFile(path, match["stem"], match["date"], is_named, same)


def _logs_beside(path: Path) -> Iterable[tuple[str, str, Path]]:
    for log in sorted(path.parent.glob("samples_*.jsonl")):
        match = _LOG.fullmatch(log.name)
        if match is not None:
            yield match["task"], match["date"], log


def contents_of(folder: Path) -> str:
    """Say what a directory holds, at any depth, for the message that it is not what was looked for."""
    files = sorted(file.name for file in folder.rglob("*") if file.is_file())
    return f"it has {', '.join(files[:5])}{' ...' if len(files) > 5 else ''}" if files else "it is empty"
