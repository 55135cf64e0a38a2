"""Every file is written whole or not at all by one function, and every YAML text is read by one reader."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lm_eval_moe

PACKAGE = Path(lm_eval_moe.__file__).parent

# What may write by itself, and why. An entry that is not needed any more is an error, too.
WRITERS = {
    ("files.py", "open"): "the one writer",
    ("tables.py", "csv.writer"): "writes into memory",
    ("drawing/picture.py", "savefig"): "writes into memory",
    ("report/svg.py", "savefig"): "writes into memory",
    ("doctor/sample.py", "savez"): "into a temporary folder, from one process of a comparison to the other",
    ("backends/cache/store.py", "sqlite3.connect"): "a database, whose transactions are whole or not at all",
}
# What may read YAML by other means, and why.
YAML_READERS = {
    ("harness/command.py", "load_yaml_config"): "lm-eval's own --config, read as lm-eval reads it",
    ("harness/task_files.py", "load_yaml"): "lm-eval's own task files, with its !function tags",
}
# These hold the one reader.
READER = ("strict_yaml.py", "yaml_limits.py")

WRITING_CALLS = {
    *("write_text", "write_bytes", "savefig", "save_file", "save_pretrained", "save_model", "tofile", "to_csv"),
    *("to_json", "to_parquet", "savez", "savez_compressed", "savetxt", "copyfile", "copy2", "copytree"),
    *("NamedTemporaryFile", "mkstemp"),
}
WRITING_NAMES = {
    *("json.dump", "csv.writer", "csv.DictWriter", "pickle.dump", "torch.save", "np.save", "shutil.copy"),
    *("sqlite3.connect", "os.write", "os.open"),
}
YAML_CALLS = {"load_yaml", "load_yaml_config", "safe_load", "safe_load_all", "full_load", "unsafe_load"}
YAML_NAMES = {"yaml.load", "yaml.load_all", "yaml.compose", "yaml.parse"}


def writing(call: ast.Call) -> str | None:
    """Return by what a call writes a file, None where it does not."""
    dotted = ast.unparse(call.func)
    name = dotted.rpartition(".")[2]
    if dotted in WRITING_NAMES:
        return dotted
    if name in WRITING_CALLS:
        return name
    if name == "open":
        modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        texts = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        if any(len(text) <= 3 and set(text) & set("wax+") for text in texts):
            return "open"
    return None


def reading_yaml(call: ast.Call) -> str | None:
    """Return by what a call reads YAML, None where it does not."""
    dotted = ast.unparse(call.func)
    name = dotted.rpartition(".")[2]
    return dotted if dotted in YAML_NAMES else name if name in YAML_CALLS else None


def calls(kind: Callable[[ast.Call], str | None], leave_out: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        if module not in leave_out:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and (name := kind(node)) is not None:
                    yield module, name


def test_files_are_written_by_the_one_writer() -> None:
    assert set(calls(writing)) == set(WRITERS)


def test_yaml_is_read_by_the_one_reader() -> None:
    assert set(calls(reading_yaml, READER)) == set(YAML_READERS)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("path.open('w')", "open"),
        ("open(path, mode='ab')", "open"),
        ("path.open('rb')", None),
        ("path.open(encoding='utf-8')", None),
        ("path.write_text(text)", "write_text"),
        ("json.dump(content, file)", "json.dump"),
        ("json.dumps(content)", None),
        ("write_whole(path, text)", None),
    ],
)
def test_the_search_sees_what_writes(text: str, name: str | None) -> None:
    (statement,) = ast.parse(text).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    assert writing(statement.value) == name
