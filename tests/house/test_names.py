"""Names say what they are: no two public classes of the package share one."""

from __future__ import annotations

import ast
from collections import defaultdict

from support.paths import ROOT


def test_a_class_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in (ROOT / "lm_eval_moe").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert len(places) > 200
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_variables_are_nouns() -> None:
    """A local, a loop variable or a parameter is called by what it holds: not ``each``, ``found`` or ``given``."""
    adjectives = {"asked", "each", "found", "given", "kept", "known", "own", "said", "seen", "shown", "told", "wanted"}
    wrong, names = [], 0
    for path in sorted((ROOT / "lm_eval_moe").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        fields = {
            id(statement.target)
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for statement in node.body
            if isinstance(statement, ast.AnnAssign)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in fields:
                name = node.id
            elif isinstance(node, ast.arg):
                name = node.arg
            else:
                continue
            names += 1
            if name in adjectives:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert names > 5000
    assert wrong == []
