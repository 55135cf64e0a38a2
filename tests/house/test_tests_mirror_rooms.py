"""Tests lie where the code does that they test; helpers have one home and are imported in one way."""

from __future__ import annotations

import ast
from pathlib import Path

from support.paths import ROOT, TESTS

PACKAGE = ROOT / "lm_eval_moe"

# Folders of tests that stand for no room of the package, and why. CONTRIBUTING.md names them, too.
NO_ROOM = {
    "conformance": "every family through every room, with several versions of transformers",
    "extending": "what docs/extending.md shows, written by a stranger to the package",
    "hostile": "every reader of files, with documents that mean harm",
    "house": "the package, its pages and its tests as a whole",
    "on_vllm": "needs an environment of its own, with vLLM",
    "support": "no tests: what they share",
}
SUPPORT = TESTS / "support"


def folders(top: Path) -> set[str]:
    """Return the folders that hold Python files, at any depth, with those above them."""
    inside = {file.parent.relative_to(top) for file in top.rglob("*.py")}
    return {str(part) for folder in inside for part in (folder, *folder.parents)} - {"."}


def test_every_folder_is_that_of_a_room_or_has_a_reason() -> None:
    here, rooms = folders(TESTS), folders(PACKAGE)
    beside_rooms = {folder for folder in here if folder.split("/")[0] not in NO_ROOM}
    assert beside_rooms <= rooms
    assert NO_ROOM.keys() <= here, "a reason for a folder that is gone"
    assert not NO_ROOM.keys() & rooms
    paragraph = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [folder for folder in NO_ROOM if f"`{folder}`" not in paragraph]


def test_every_room_has_tests() -> None:
    """But for the declarations of result fields, which `tests/metrics` and `tests/evaluation` run."""
    rooms = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert rooms - folders(TESTS) == {"routing_fields"}


def test_what_is_beside_tests_is_a_conftest_or_in_support() -> None:
    beside = {file for file in TESTS.rglob("*.py") if not file.name.startswith("test_") and SUPPORT not in file.parents}
    assert {file.name for file in beside} == {"conftest.py"}


def test_tests_import_from_support_and_leave_the_path_alone() -> None:
    """Neither from each other, nor from a `conftest`."""
    own = {file.stem for file in TESTS.rglob("*.py")}
    for file in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: a relative import"
                assert node.module not in own - {"support"}, f"{file}: {node.module}"
            elif isinstance(node, ast.Import):
                assert not own & {alias.name for alias in node.names}, file
            elif isinstance(node, ast.Call):
                assert not ast.unparse(node.func).startswith("sys.path."), f"{file}: changes sys.path"


def test_the_makefile_names_tests_that_exist() -> None:
    words = (ROOT / "Makefile").read_text(encoding="utf-8").split()
    named = {word for word in words if word.startswith("tests/")}
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
