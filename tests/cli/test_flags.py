"""Every flag that a page, an example or a message names exists, in the command that it is named for."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.paths import ROOT

from lm_eval_moe.cli.main import _COMMANDS, _parser

FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*")
PACKAGE = ROOT / "lm_eval_moe"
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
EXAMPLES = sorted([*ROOT.glob("docs/examples/*"), *ROOT.glob("steering_configs/*.yaml"), *PACKAGE.rglob("*.template")])

# What the results of an evaluation are told to have been made with, whoever reads them.
OF_EVALUATIONS = {
    *("--allow_leak", "--log_samples", "--output_path", "--predict_only", "--routing_profile", "--samples"),
}
# Flags of other programs, which our pages and messages name beside them.
FOREIGN = {
    "docs/serving.md": "vllm serve",
    "docs/vllm.md": "vllm serve",
    "docs/vllm_speed.md": "vllm serve",
    "lm_eval_moe/backends/vllm/serving.py": "vllm serve",
    "lm_eval_moe/backends/vllm/worker.py": "vllm serve",
    "lm_eval_moe/cli/main.py": "lm-eval-moe itself: --version",
}
# The command that a room, or a page, is about.
HOMES = {
    **{name: name for name in _COMMANDS if name not in ("ls", "validate", "demo")},
    **{"profiling": "profile", "analysis": "profile", "analyse": "profile", "experts": "experts"},
}
READERS = ("compare", "gate", "report")


@cache
def flags() -> dict[tuple[str, ...], frozenset[str]]:
    """The flags of every command and verb, as argparse has them."""
    found: dict[tuple[str, ...], frozenset[str]] = {}

    def collect(parser: argparse.ArgumentParser, name: tuple[str, ...]) -> None:
        own = {option for action in parser._actions for option in action.option_strings}
        found[name] = frozenset(option for option in own if option.startswith("--"))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for verb, sub in action.choices.items():
                    collect(sub, (*name, verb))

    for command in _COMMANDS:
        (subparsers,) = (each for each in _parser(command)._actions if isinstance(each, argparse._SubParsersAction))
        collect(subparsers.choices[command], (command,))
    return found


def of_command(command: str) -> set[str]:
    """The flags of a command and of its verbs."""
    return set().union(*(own for name, own in flags().items() if name[0] == command))


def unknown_in(text: str) -> Iterator[str]:
    """Yield the flags in a command line, or in a text with such, that their command does not have."""
    for part in re.split(r"&&|\|\||[;|`\n]", re.sub(r"\\\n", " ", text)):
        started = re.search(r"(?:\blm-eval-moe|-m lm_eval_moe)(?:\s+|$)(.*)", part)
        if started is None:
            continue
        words = started[1].split()
        command = words[0] if words and words[0] in _COMMANDS else "run"
        verb = next((word for word in words[1:2] if (command, word) in flags()), None)
        known = flags()[command, verb] if verb else flags()[command,]
        yield from (f"{command} {flag}" for flag in FLAG.findall(started[1]) if flag not in known)


def scripts_flags(text: str) -> Iterator[str]:
    """Yield the flags behind a script of the repository that does not have them."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        for match in re.finditer(r"python (benchmarks/\w+\.py)([^`|&;]*)", line):
            source = (ROOT / match[1]).read_text(encoding="utf-8")
            yield from (f"{match[1]} {flag}" for flag in FLAG.findall(match[2]) if f'"{flag}"' not in source)


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: path.name)
def test_pages_and_examples_name_flags_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = [*scripts_flags(text)]
    for code in re.findall(r"`([^`\n]+)`", text):
        command = code.split()[0] if code.split() else ""
        if command in _COMMANDS and "--" in code:
            wrong += unknown_in(f"lm-eval-moe {code}")
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if path.suffix == ".md" else [text]:
        wrong += unknown_in(
            re.sub(r"(?m)^\s*#? ?|#.*$", "", block) if path.suffix != ".md" else re.sub(r"(?m) #.*$", "", block)
        )
    if path.suffix == ".md":
        wrong += unknown_in("\n".join(re.findall(r"`(lm-eval-moe [^`]+)`", text)))
    # In a sentence a flag stands alone: on the page of a command it is that command's, or says how its input was made.
    home = HOMES.get(path.stem)
    scripts = " ".join(each.read_text(encoding="utf-8") for each in ROOT.glob("benchmarks/*.py"))
    every = set().union(*flags().values())
    known = set().union(*(of_command(each) for each in (home, "run", "profile"))) if home else every
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL) if path.suffix == ".md" else ""
    for code in re.findall(r"`(--[^`\n]+)`", prose):
        flag = FLAG.match(code)
        if flag and flag[0] not in known and f'"{flag[0]}"' not in scripts:
            wrong.append(flag[0])
    if str(path.relative_to(ROOT)) not in FOREIGN:
        assert wrong == []


def strings_of(path: Path) -> Iterator[str]:
    """Yield the texts of a module, f-strings with a word for every value."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(each) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(each.value) if isinstance(each, ast.Constant) else "VALUE" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_messages_name_flags_that_exist_where_they_are_said(path: Path) -> None:
    name = path.relative_to(PACKAGE)
    room = name.stem.lstrip("_").split("_")[0] if name.parts[0] == "cli" else name.parts[0]
    home = HOMES.get(room)
    every = set().union(*flags().values())
    some = set().union(*(of_command(reader) for reader in READERS))
    common = set.intersection(*(of_command(reader) for reader in READERS))
    wrong = []
    for text in strings_of(path):
        wrong += unknown_in(text)
        for match in FLAG.finditer(text):
            flag, before = match[0], text[: match.start()]
            named = re.search(rf"(?:^|[\s`(])({'|'.join(_COMMANDS)})(?: [\w-]+)? $", before)
            if flag in OF_EVALUATIONS or text == flag or "VALUE" in flag:  # the place of an error is where it was given
                continue
            if named:
                known = of_command(named[1])
            elif home:
                known = of_command(home)
            elif room == "results":  # several commands read them: what only some have needs the command's name
                known = common | (every - some)
            else:
                known = every
            if flag not in known:
                wrong.append(f"{flag} in {text[:80]!r}")
    if str(path.relative_to(ROOT)) not in FOREIGN:
        assert wrong == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("lm-eval-moe gate --baseline a --all-dates", ["gate --all-dates"]),
        ("lm-eval-moe gate init a -o b --juni x", ["gate --juni"]),
        ("lm-eval-moe --model_args a --tasks b", []),
        ("accelerate launch --num_processes 2 -m lm_eval_moe --model_args a --no-samples", ["run --no-samples"]),
        (
            "lm-eval-moe run --steering \\\n  x --bogus && lm-eval-moe compare a --bogus",
            ["run --bogus", "compare --bogus"],
        ),
        ("vllm serve x --worker-cls y", []),
    ],
)
def test_a_flag_that_does_not_exist_is_seen(text: str, wrong: list[str]) -> None:
    found = list(unknown_in(text))
    assert [each.replace("init ", "") for each in found] == wrong
