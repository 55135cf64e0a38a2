"""Plain idiomatic English: turns of phrase that a native reader stumbles over do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

COMPARED = (
    "longer|more|less|fewer|better|worse|larger|smaller|higher|lower|later|earlier|faster|slower|such|use|way|evidence"
)
PER = "rows?|lines?|columns?|files?|profiles?|figures?|texts?|items?|sentences?|requests?|times?|once"
EACH = "language|run|batch|item|line|benchmark|group|document|layer|token|cell|task|filter|process|pass|subject|count"
INSTEAD = {
    rf"(?<!here )\b(?:is|are) no (?!(?:{COMPARED})\b)[\w{{]": "'is not a folder', not 'is no folder'",
    rf"(?:\b(?:{PER})|\}}\}}?) an? (?:{EACH})\b(?!'s| that)": "'one row per language', not 'a row a language'",
    r"\b(?:goes|go|going) on where\b|\bgone on with\b|\bnot go on\b": "'resumes where it stopped', 'cannot be resumed'",
    r"\bover all 1 tests?\b": "'in the one test'",
    r"\b(?:says?|said|tells?|known?|knows|speaks?) (?:nothing|anything) of\b": "'nothing about'",
    r"\b(?:what|all that) (?:\w+ )?(?:is known|profiles say|results say) of\b": "'about', not 'of'",
    r"\b(?:heed(?:s|ed)?|mend(?:s|ed)?|anew)\b": "'uses', 'respects'; 'fixes'; 'again'",
    r"\b(?:exists?|there) already\b|\b(?:has|have|holds?) (?:an? |its )?\w+ already\b": "'already exists'",
    r"\bany more\b(?! (?:than|of))": "'no longer', not 'not any more'",
    r"\b(?:has|have) not (?:the|an?|its|their|been given)\b": "'does not have the shape'",
    r"\ban?other (?:\w+ )?than\b|\bother \w+ than\b": "'a different model from'",
    r"\b(?:does|do|did|can|cannot|could) (?:not )?tell (?:of|nothing|no|its|their)\b|\btold of\b": "'say', 'show'",
    r"\bsuch as of ": "'such as one of'",
    r"\b(?:takes?|taken) (?:\w+ )?as independent\b": "'treats languages as independent'",
    r"\bwith commas between\b": "'separated by commas'",
    r"\bgives? (?:it|them|that) up\b|\bgoes without\b|\blets? (?:it )?be\b": "'stops', 'does without'",
    r"\bnot as it was\b|\bcame out as\b": "'has changed since'",
    r"\b(?:further|more) (?:arrays|files|folders|task files) to\b|\bfurther task files\b": "'additional'",
}


def user_strings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of the strings of a module that are not docstrings; ``{}`` stands for what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    parts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
            texts = [str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values]
            yield node.lineno, "".join(texts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | parts:
            yield node.lineno, node.value


def findings(text: str) -> list[str]:
    """Return what to write instead of each turn of phrase in a text, with the words around it."""
    found = []
    for pattern, instead in INSTEAD.items():
        for match in re.finditer(pattern, text):
            around = text[max(match.start() - 30, 0) : match.end() + 30].replace("\n", " ")
            found.append(f"...{around}...: write {instead}")
    return found


def test_strings_of_the_package_are_plain_english() -> None:
    wrong, strings = [], 0
    package = ROOT / "lm_eval_moe"
    for path in sorted(package.rglob("*.py")):
        for line, text in user_strings(path):
            strings += 1
            wrong += [f"{path.relative_to(ROOT)}:{line}: {finding}" for finding in findings(text)]
    for path in sorted(package.rglob("*.jinja")):
        wrong += [f"{path.relative_to(ROOT)}: {finding}" for finding in findings(path.read_text(encoding="utf-8"))]
    assert strings > 2000
    assert not wrong, "\n".join(wrong)


def test_documentation_is_plain_english() -> None:
    wrong = []
    pages = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    assert len(pages) > 25
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for paragraph in re.finditer(r"(?:[^\n]+\n)+", text):
            line = text.count("\n", 0, paragraph.start()) + 1
            wrong += [f"{path.relative_to(ROOT)}:{line}: {finding}" for finding in findings(paragraph[0])]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("accent", "plain"),
    [
        ("'x' is no folder", "'x' is not a folder"),
        ("is no {}", "there is no {}, and a is no smaller than b"),
        ("a row a language", "one row per language"),
        ("cannot be gone on with", "cannot be resumed"),
        ("over all 1 tests together", "over all 11 tests together"),
        ("of another shape than this", "a different shape from this"),
        ("mend the module", "recommended"),
        ("is there already", "already exists"),
    ],
)
def test_the_patterns_see_the_accent_and_let_plain_english_be(accent: str, plain: str) -> None:
    assert len(findings(accent)) == 1
    assert findings(plain) == []
