"""Only `harness/` reaches into lm-eval; everything else uses the public names that are listed here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import lm_eval_moe

PACKAGE = Path(lm_eval_moe.__file__).parent
PUBLIC = {
    "lm_eval",  # simple_evaluate, evaluate
    "lm_eval.api.instance.Instance",
    "lm_eval.api.registry.get_model",
    "lm_eval.api.registry.register_model",
    "lm_eval.api.task.ConfigurableTask",
    "lm_eval.models.huggingface.HFLM",
    "lm_eval.models.vllm_causallms.VLLM",
    "lm_eval.tasks.TaskManager",
}


def imported(source: str) -> Iterator[str]:
    """Yield what a module imports of lm-eval, wherever in the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "lm_eval")


def test_modules_outside_import_public_names_only() -> None:
    private = {
        str(place): names
        for file in PACKAGE.rglob("*.py")
        if (place := file.relative_to(PACKAGE)).parts[0] != "harness"
        and (names := set(imported(file.read_text(encoding="utf-8"))) - PUBLIC)
    }
    assert private == {}


def test_the_harness_knows_lm_eval_and_the_ground_only() -> None:
    ground = {"errors", "files", "replacing", "resources", "harness"}
    for file in (PACKAGE / "harness").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lm_eval_moe"):
                assert (node.module or "").split(".")[1] in ground, file.name


def test_what_would_break_the_rule_is_seen() -> None:
    source = "import lm_eval.evaluator\ndef f():\n    from lm_eval.tasks._yaml_loader import load_yaml\n"
    assert list(imported(source)) == ["lm_eval.evaluator", "lm_eval.tasks._yaml_loader.load_yaml"]
