"""Every model argument of ours is explained, in `run --help` and on its page of the docs."""

from __future__ import annotations

import ast
import re

import pytest
from support.paths import ROOT

from lm_eval_moe.backends.argument_help import ARGUMENT_HELP
from lm_eval_moe.backends.registry import BACKENDS
from lm_eval_moe.cli import main

PAGE = ROOT / "docs" / "model_arguments.md"


def taken() -> dict[str, set[str]]:
    """Return the arguments that our own backends name, with the backends that do, from their source."""
    arguments: dict[str, set[str]] = {}
    for backend in ("hf-moe", "vllm-moe"):
        module, _, name = BACKENDS.look_up(backend, "--model").partition(":")
        tree = ast.parse((PAGE.parents[1] / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        [kind] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        [made] = [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        for argument in (*made.args.args[1:], *made.args.kwonlyargs):
            arguments.setdefault(argument.arg, set()).add(backend)
    return arguments


def test_all_are_explained_and_nothing_else() -> None:
    assert set(ARGUMENT_HELP) == set(taken())
    rows = re.findall(r"^\| `(\w+)` \|(?:[^|]*\|){2} ([^|]*) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == list(ARGUMENT_HELP)
    for name, where in rows:
        both = taken()[name] == {"hf-moe", "vllm-moe"}
        assert where.startswith("both" if both else "`hf-moe`"), name
        assert both or ARGUMENT_HELP[name].endswith("(hf-moe)"), name


def test_the_help_of_run_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    printed = capsys.readouterr().out
    for name, text in ARGUMENT_HELP.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", printed, re.MULTILINE), name
