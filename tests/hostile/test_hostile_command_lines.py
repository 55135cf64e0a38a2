"""Command lines of every subcommand, of the parsers' own flags and values of all kinds: each ends in its own words."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile.boundary import TRIED, hostile
from support.written_profiles import Row, write
from support.written_runs import write_run

from lm_eval_moe.cli import main
from lm_eval_moe.cli.main import _COMMANDS, _parser

ROWS: list[Row] = [("0", 4, [[4, 2, 1, 1], [2, 2, 2, 2]]), ("1", 2, [[1, 1, 1, 1], [0, 2, 2, 0]])]
STEERING = """version: 1
model: {layers: 3, experts: 4, top_k: 2}
interventions: [{layers: all, experts: {ids: {all: [1]}}, action: {soft: 0.5}}]
"""

ENDS = {
    # Whatever else is said, nothing that takes long begins: there is no such model, or no such limit.
    "run": ["--model_args", "pretrained=nowhere"],
    "doctor": ["--model_args", "pretrained=nowhere"],
    "profile": ["--model_args", "pretrained=nowhere"],
    "sweep": ["--model_args", "pretrained=nowhere"],
    "demo": ["--limit", "0"],
}

WORDS = [
    "", " ", "0", "1", "-1", "3", "0.5", "nan", "1e999", "9" * 400, "x", "en", "sw", "klingonese", "all", "soft=0.5",
    "mask", "random:2", "random:0", "none", "true", "a=b", "a=", "=b", "en=en.txt", "en=nowhere.txt",
    "sw=sw.safetensors", "en=hf:x:y:z", "steer.yaml", "broken.yaml", "nowhere.yaml", "en.safetensors",
    "sw.safetensors", "noise.safetensors", "runs", "runs/other", "runs/nowhere", "empty", "out", "out.yaml",
    "out.html", "out.csv", "out.json", "out.png", "en.txt", ".", "/dev/null/x", "demo_arith_sw", "demo_arith_*",
    "layers=3,experts=4,top_k=2", "layers=x", "interventions.0.action.soft=0.25", "interventions.9=1", "acc",
    "exact_match", "markdown", "json", "csv", "table", "cpu", "cuda:99", "float9", "auto", "early", "0-2", "7-1", "{",
    "[1, 2]", '{"a": 1}', "\udce9", "\u202eabc", "$(touch x)", "a" * 3000, "%s", "{0}", "--",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a file of every kind that a command reads, which is the working directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "steer.yaml").write_text(STEERING)
        (home / "broken.yaml").write_text("version: [1")
        (home / "noise.safetensors").write_bytes(bytes(range(256)))
        (home / "en.txt").write_text("One text.\nAnother one.\n")
        (home / "empty").mkdir()
        for language in ("en", "sw"):
            write(home / f"{language}.safetensors", ROWS, language=language)
        write_run(home / "runs", {"en": [1.0, 0.0], "sw": [1.0, 1.0]})
        write_run(home / "runs" / "other", {"en": [1.0, 0.0], "sw": [0.0, 1.0]}, model="org/other")
        os.chdir(home)
        yield home
        os.chdir(before)


def parsers(command: str) -> list[tuple[list[str], argparse.ArgumentParser]]:
    """Return the parser of a command and those of its own subcommands, with the words that lead to them."""
    [subparsers] = [a for a in _parser(command)._actions if isinstance(a, argparse._SubParsersAction)]
    found = [([command], subparsers.choices[command])]
    for action in found[0][1]._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [([command, verb], parser) for verb, parser in action.choices.items()]
    return found


PARSERS = [each for command in _COMMANDS for each in parsers(command)]


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Draw a command, some of its flags, each with as many values as it takes, and something that is none of it."""
    words, parser = draw(st.sampled_from(PARSERS))
    # What a shell can hand on: no null characters, and bytes that are not UTF-8 as Python reads them.
    text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=6)
    value = st.sampled_from(WORDS) | text
    line = list(words)
    flags = [action for action in parser._actions if action.option_strings]
    required = [action for action in flags if action.required and draw(st.integers(0, 9))]
    for action in [*required, *draw(st.lists(st.sampled_from(flags), max_size=4))]:
        name = draw(st.sampled_from(action.option_strings))
        line.append(name if draw(st.integers(0, 19)) else name[:-1])
        if action.nargs != 0 or not draw(st.integers(0, 19)):
            choices = list(action.choices or ())
            kind = st.sampled_from(choices).map(str) | value if choices else value
            line += draw(st.lists(kind, min_size=1, max_size=3 if action.nargs in ("+", "*") else 1))
    for action in parser._actions:
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            kind = st.sampled_from(list(action.choices)).map(str) | value if action.choices else value
            line += draw(st.lists(kind, max_size=2))
    if not draw(st.integers(0, 9)):
        line.insert(draw(st.integers(1, len(line))), draw(value | st.just("--nothing")))
    return [*line, *ENDS.get(line[0], ())] if line[1:2] not in (["show"], ["merge"], ["diff"], ["analyse"]) else line


@given(line=command_lines())
@hostile(250)
def test_every_command_line_ends_in_its_own_words(folder: Path, line: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    code: Any
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line)
        except SystemExit as stop:
            code = stop.code
    said = err.getvalue()
    assert code in (0, 1, 2), said
    assert "Traceback" not in said + out.getvalue()
    if code == 2:
        assert "error: " in said
        assert len(said.partition("error: ")[2].strip()) > 10
    TRIED[f"command {line[0]}", "refused" if code == 2 else "accepted"] += 1
