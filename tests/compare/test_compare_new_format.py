"""A format is one module that registers itself, ours or anybody's: the command, its help and its errors know it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from written_runs import write_run

from lm_eval_moe.cli.main import main
from lm_eval_moe.compare.formats import Format, format_named, format_names, register
from lm_eval_moe.compare.formats._base import REGISTRY

GUIDE = Path(__file__).parents[2] / "docs" / "compare.md"
(LATEX,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = tmp_path / "a_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "latex.py").write_text(LATEX)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "a_plugin.latex"
    REGISTRY.pop("latex", None)
    for name in [name for name in sys.modules if name.startswith("a_plugin")]:
        del sys.modules[name]


def test_a_format_of_another_package_is_printed_and_written(
    tmp_path: Path, plugin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", {"en": [1.0, 0.0], "sw": [0.0, 0.0]})
    arguments = ["compare", str(tmp_path / "run"), "--output", str(tmp_path / "board.tex"), "--title", "Mine"]
    assert main(arguments) == 2, "not known yet"
    assert "'.tex' is of no format" in capsys.readouterr().err
    importlib.import_module(plugin)
    assert main([*arguments, "--format", "latex"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("% Mine\n")
    assert "& 0.25 &" in printed
    assert (tmp_path / "board.tex").read_text() == printed
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "latex" in capsys.readouterr().out


def test_what_the_help_lists_without_importing_it_is_what_registers_itself() -> None:
    assert format_names() == ["csv", "html", "json", "markdown", "terminal"]
    assert [format_named(name).name for name in format_names()] == format_names()
    assert sorted(REGISTRY) == format_names()


@pytest.mark.parametrize("form", [Format("csv", str), Format("another", str, (".md",))])
def test_a_second_format_of_a_name_or_suffix_is_refused(form: Format) -> None:
    format_named("csv")
    with pytest.raises(ValueError, match="already"):
        register(form)
