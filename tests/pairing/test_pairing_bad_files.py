"""A file of pairings that is wrong is refused in one message: what was given, where, and what to change."""

from __future__ import annotations

import re

import pytest

from lm_eval_moe.errors import UserError
from lm_eval_moe.pairing import PairingRegistry, load_entries

GOOD = "tasks: 'a_(?P<lang>..)', benchmark: a, item: row"
WITHOUT_ITEM = "tasks: 'a_(?P<lang>..)', benchmark: a"
FIXED = "tasks: a, benchmark: a, item: row"


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        PairingRegistry.default([path])
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": expected a mapping, got nothing"),
        ("- {tasks: a}", ": expected a mapping, got a list of 1\n"),
        ("version: 1", ": 'entries' is missing"),
        ("version: 1\nentries: {}", ": entries: expected a list, got a mapping of 0 keys"),
        ("version: 2\nentries: []", ": version: unknown version: 2"),
        ("version: true\nentries: []", ": version: expected an integer, got true"),
        ("entries: []", ": 'version' is missing"),
        (
            "version: 1\nentrys: []",
            ": entrys: unknown key 'entrys' (did you mean 'entries'?)\n  -> the keys allowed here are version, entries",
        ),
        ("version: 1\nentries:\n  - 7", ": entries.0: expected a mapping, got 7"),
        ("version: 1\nversion: 1", ": not valid YAML: key 'version' is given twice (line 2, column 1)"),
        ('version: 1\nentries:\n  - {tasks: "a\\d"}', ": not valid YAML: "),
        ("version: 1\nentries:\n  - {tasks: 'a'\n  - b", ": not valid YAML: "),
        ("version: !!python/object/apply:os.getcwd []", ": not valid YAML: the tag !!python/object/apply:os.getcwd is"),
        ("version: 2024-13-45\nentries: []", ": version: expected an integer, got '2024-13-45'"),
        ("\x00", ": not valid YAML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, text, message) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    refused = refusal(path)
    assert refused.startswith(f"{path}{message}")
    assert "\n  -> " in refused


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (f"{GOOD}, langage: sw", ".langage: unknown key 'langage' (did you mean 'language'?)"),
        (WITHOUT_ITEM, ": 'item' is missing"),
        ("tasks: '', benchmark: a, item: row", ".tasks: is blank"),
        ("tasks: 3, benchmark: a, item: row", ".tasks: expected text, got 3"),
        (
            "tasks: 'a_(?P<lang>..', benchmark: a, item: row",
            ".tasks: 'a_(?P<lang>..' is not a regular expression: missing )",
        ),
        ("tasks: 'a_(..)', benchmark: a, item: row", ".tasks: the regex 'a_(..)' has no group 'lang'"),
        (
            f"{GOOD}, language: sw",
            ".tasks: the regex 'a_(?P<lang>..)' names a group 'lang' although 'language' is given",
        ),
        (f"{FIXED}, language: false", ".language: expected a language code, got false\n  -> put the code in quotes"),
        (f"{FIXED}, language: english", ".language: 'english' is not a language code"),
        (f"{GOOD}, languages: {{jp: japan}}", ".languages.jp: 'japan' is not a language code"),
        (
            f"{GOOD}, languages: {{false: nb}}",
            ".languages.false: expected a spelling as text, got false",
        ),
        (f"{GOOD}, languages: [jp]", ".languages: expected a mapping, got a list of 1"),
        ("tasks: 'a_(?P<lang>..)', benchmark: [a], item: row", ".benchmark: expected text, got a list of 1"),
        (f"{WITHOUT_ITEM}, item: 3", ".item: expected 'row', a field or a list of fields, got 3"),
        (f"{WITHOUT_ITEM}, item: []", ".item: expected 'row', a field or a list of fields, got a list of 0"),
        (f"{WITHOUT_ITEM}, item: [x, 1]", ".item: expected 'row', a field or a list of fields, got a list of 2"),
        (f"{WITHOUT_ITEM}, item: [x, x]", ".item: a field is named twice"),
        (f"{GOOD}, note: 3", ".note: expected text, got 3"),
        (f"{GOOD}, lacks: [en]", ": 'lacks' needs a 'note' that says why"),
        (f"{GOOD}, lacks: en, note: x", ".lacks: expected a list, got 'en'"),
        (f"{GOOD}, lacks: [en, english], note: x", ".lacks.1: 'english' is not a language code"),
    ],
)
def test_a_bad_entry_is_refused_with_its_key_path(tmp_path, entry, message) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"version: 1\nentries:\n  - {{{GOOD}}}\n  - {{{entry}}}\n", encoding="utf-8")
    refused = refusal(path)
    assert refused.startswith(f"{path}: entries.1{message}")
    assert "\n  -> " in refused


def test_no_is_norwegian(tmp_path) -> None:
    """In YAML 1.1 it is false."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"version: 1\nentries:\n  - {{{FIXED}, language: no}}\n", encoding="utf-8")
    assert load_entries(path)[0].language == "no"


def test_a_long_value_is_shown_shortened(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"version: 1\nentries: {'x' * 999}", encoding="utf-8")
    assert re.search(r"entries: expected a list, got 'x{60}…'\n", refusal(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: cannot be read: No such file"):
        load_entries(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_entries(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"version: 1 # \xe9t\xe9")
    with pytest.raises(UserError, match=r"latin\.yaml: is not UTF-8 text \(byte 13\)"):
        load_entries(tmp_path / "latin.yaml")
