"""Results files and directories read as labelled runs; samples are read when they are asked for."""

from __future__ import annotations

import fnmatch
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.results.files import ResultsFile, find_results
from lm_eval_moe.results.labels import unique_labels
from lm_eval_moe.results.run import LabelledRun
from lm_eval_moe.results.schema import FIX, check_schema
from lm_eval_moe.results.values import is_number

__all__ = ["load_json", "load_results", "read_results"]


def read_results(
    paths: Sequence[Path], *, samples: bool = True, tasks: Sequence[str] = (), warn: Callable[[str], None] | None = None
) -> list[LabelledRun]:
    """Read the results files among files and directories, ours and stock lm-eval's.

    Every file becomes one run, several dates included (`latest` chooses among them), with a label made of model,
    steering and, where that is not enough, folder and date.

    Args:
        paths: Results JSON files, or directories that are searched recursively.
        samples: Attach the samples logs of the same folder and date; they are read when a score is asked for, and
            refused then if they are not those of the run.
        tasks: Globs of the tasks to keep; empty: all.
        warn: Is told what was left aside; by default a `RoutingWarning` each.

    Raises:
        UserError: A path does not exist, a directory holds no results, a file is not JSON (cut off) or has no table of
            results, or a score is not a finite number; with the file and the key.
    """
    tell = warn or (lambda text: warnings.warn(text, RoutingWarning, stacklevel=3))
    files = find_results(paths)
    runs = [_read(file, samples, tasks, tell) for file in files]
    matching_runs = [run for run in runs if run.results["results"]]
    if not matching_runs:
        all_tasks = sorted({task for file in files for task in load_results(file.path)["results"]})
        if not all_tasks:
            raise UserError("holds no results of any task", fix=FIX, where=", ".join(str(file.path) for file in files))
        fix = f"the results have {', '.join(all_tasks[:20])}"
        raise UserError(f"no task matches {', '.join(tasks)}", fix=fix, where="--tasks")
    return unique_labels(matching_runs)


def _read(file: ResultsFile, samples: bool, tasks: Sequence[str], tell: Callable[[str], None]) -> LabelledRun:
    results = load_results(file.path, tasks)
    logs = {}
    if samples:
        logs = {task: log for task, log in file.logs.items() if task in results["results"]}
        strangers = sorted(task for task in file.logs if task not in results["results"])
        if strangers and not tasks:
            tell(f"{file.path}: the samples logs of {', '.join(strangers)} are ignored: the results lack these tasks")
        if file.undated_logs:
            tell(
                f"{file.path}: its name has no date, so none of the {file.undated_logs} samples logs next to it can be "
                "matched to it; it is compared without samples"
            )
    return LabelledRun("", results, logs=logs, source=file.path, stem=file.stem, date=file.date, named=file.named)


def load_json(path: Path, fix: str = "evaluate again, or take the file out of the folder") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        fix: What to do where it cannot be read.

    Raises:
        UserError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", fix=fix, where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8: {error}", fix=fix, where=str(path)) from error
    except json.JSONDecodeError as error:
        cut = " (it is cut off)" if error.pos >= len(error.doc.rstrip()) - 1 else ""
        problem = f"is not valid JSON: {error.msg} in line {error.lineno}{cut}"
        raise UserError(problem, fix=fix, where=str(path)) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nested thousands of levels deep
        raise UserError(f"cannot be read: {error}", fix=fix, where=str(path)) from error


def load_results(path: Path, tasks: Sequence[str] = ()) -> dict[str, Any]:
    """Read one results JSON, and check the form of all that is read of it.

    Args:
        path: The file.
        tasks: Globs of the tasks to keep; empty: all.

    Raises:
        UserError: It cannot be read, is not JSON, holds no table of results, or a value of another kind; or a score is
            not a finite number. The error names the key.
    """
    results = load_json(path)
    if not isinstance(results, dict) or not isinstance(results.get("results"), dict):
        raise UserError("holds no table of results", fix=FIX, where=str(path))
    for task, scores in results["results"].items():
        if not isinstance(scores, dict):
            raise UserError(
                f"expected the task's scores, got {type(scores).__name__}",
                fix=FIX,
                where=f"{path}: results.{task[:60]}",
            )
    check_schema(results, path)
    if tasks:
        fitting = [task for task in results["results"] if any(fnmatch.fnmatchcase(task, glob) for glob in tasks)]
        scores_by_task = {task: results["results"][task] for task in fitting}
        results = {**results, "results": scores_by_task}
    _refuse_nan(results["results"], path)
    return results


def _refuse_nan(table: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    for task, scores in table.items():
        for key, value in scores.items():
            name, comma, _ = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, float) or is_number(value):
                continue
            raise UserError(
                f"the score is {value}",
                fix="evaluate the task again, or leave it out: compare --tasks",
                where=f"{path}: results.{task[:60]}.{key[:60]}",
            )
