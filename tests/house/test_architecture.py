"""The import contracts of pyproject.toml say what docs/architecture.md says, and see an import that breaks them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "lm_eval_moe"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
CONTRACTS: dict[str, dict[str, Any]] = {contract["id"]: contract for contract in SETTINGS["contracts"]}
LAYERS = [re.split(r"\s+[|:]\s+", layer.strip()) for layer in CONTRACTS["floors"]["layers"]]
ROOM = re.compile(r"`([a-z_]+)/`")


def without_brackets(layer: str) -> str:
    return layer.strip("()")


def is_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").is_file()


def is_there(name: str) -> bool:
    return is_module(name) or (PACKAGE / name).is_dir()


def on_the_page(text: str) -> set[str]:
    """Return the modules that are named in a sentence or cell and are there, as the contracts name them."""
    names = re.findall(r"`([a-z_]+(?:/[a-z_]*)+)`", text)
    return {f"lm_eval_moe.{name.rstrip('/').replace('/', '.')}" for name in names if is_there(name.rstrip("/"))}


def item(start: str) -> str:
    """Return the page's list item or table row that begins so."""
    [text] = [text for text in re.split(r"\n(?=- |\n|\| )", PAGE) if text.startswith(start)]
    return text


def test_the_floors_of_the_page_are_the_layers_of_the_contract() -> None:
    rows = [cells for line in PAGE.splitlines() if len(cells := line.split("|")) > 3 and cells[1].strip().isdecimal()]
    numbers = [int(cells[1]) for cells in rows]
    assert numbers == sorted(numbers, reverse=True)
    assert set(numbers) == set(range(7))
    rooms = [{name for name in map(without_brackets, layer) if not is_module(name)} for layer in LAYERS]
    assert [set(ROOM.findall(cells[2])) for cells in rows] == [layer for layer in rooms if layer]


def test_a_room_is_to_come_until_it_is_there() -> None:
    """A layer in parentheses may be missing; one that is there is not in parentheses."""
    optional = {name for layer in LAYERS for name in layer if name.startswith("(")}
    missing = {name for layer in LAYERS for name in map(without_brackets, layer) if not is_there(name)}
    assert set(map(without_brackets, optional)) == missing
    assert set(re.findall(r"`([a-z_]+)/` \*\(to come\)\*", PAGE)) == missing


@pytest.mark.parametrize("library", ["torch", "transformers", "lm_eval", "vllm"])
def test_a_library_is_known_to_whom_the_page_says(library: str) -> None:
    assert CONTRACTS[library]["protected_modules"] == [library]
    assert set(CONTRACTS[library]["allowed_importers"]) == on_the_page(item(f"| `{library}` |"))


def test_what_loads_no_model_is_what_the_page_says() -> None:
    assert set(CONTRACTS["light"]["source_modules"]) == on_the_page(item("- `compare/`"))


def test_what_the_page_says_beyond_the_floors_is_in_the_contracts() -> None:
    [beside] = [{f"lm_eval_moe.{name}" for name in layer} for layer in LAYERS if "analysis" in layer]
    allowed = on_the_page(item("- `report/`")) - {"lm_eval_moe.report"}
    assert set(CONTRACTS["report"]["forbidden_modules"]) == beside - allowed
    records = CONTRACTS["records"]
    named = on_the_page(item("- `multilingual/`"))
    assert {*records["source_modules"], *records["forbidden_modules"]} == named


# ---------------------------------------------------------------------- breaking them


BREAKING = {
    "errors": "lm_eval_moe.cli",
    "statistics": "lm_eval_moe.results",
    "gate": "lm_eval_moe.compare",
    "report": "lm_eval_moe.sweep",
    "results": "lm_eval_moe.routers",
    "metrics": "torch",
    "evaluation": "transformers",
    "recording": "lm_eval",
    "demo_model": "tools",
}
"""An import for every contract but that of circles, by the module or room that must not have it."""


@pytest.mark.parametrize("form", ["import {}", "def late():\n    import {}", "if TYPE_CHECKING:\n    import {}"])
def test_an_import_that_breaks_a_contract_is_seen(tmp_path: Path, form: str) -> None:
    pytest.importorskip("importlinter", reason="needs import-linter")
    shutil.copytree(PACKAGE, tmp_path / "lm_eval_moe", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    before = lint(tmp_path)
    imports = {**BREAKING, "routers.altered": "lm_eval_moe.routers.sites", "files": "lm_eval_moe.text_hash"}
    for module, imported in imports.items():
        path = tmp_path / "lm_eval_moe" / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\nfrom typing import TYPE_CHECKING\n{form.format(imported)}\n")
    after = lint(tmp_path)
    lines = {f"lm_eval_moe.{module} -> {imported} " for module, imported in BREAKING.items()}
    lines.add(".altered -> .sites ")
    assert {line for line in lines if line in before} == set()
    assert {line for line in lines if line not in after} == set()
    assert "lm_eval_moe.files -> lm_eval_moe.text_hash" not in after  # ground may know ground


def lint(folder: Path) -> str:
    """Return what import-linter says of the package in a folder."""
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert "Contracts:" in done.stdout, done.stderr
    return done.stdout


def test_what_reads_and_judges_results_runs_without_a_model_library() -> None:
    """What a contract cannot see: a package is run when one of its modules is imported."""
    code = (
        "import importlib, pkgutil, sys\n"
        "for room in sys.argv[1:]:\n"
        "    package = importlib.import_module(room)\n"
        "    for module in pkgutil.walk_packages(package.__path__, f'{room}.'):\n"
        "        importlib.import_module(module.name)\n"
        "print(*sorted({'torch', 'transformers', 'lm_eval'} & set(sys.modules)))"
    )
    rooms = CONTRACTS["light"]["source_modules"]
    done = subprocess.run([sys.executable, "-c", code, *rooms], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr
