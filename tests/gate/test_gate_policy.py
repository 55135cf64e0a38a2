"""A policy file says what it means, or is refused with file, key and remedy."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from lm_eval_moe.errors import UserError
from lm_eval_moe.gate.policy import Margin, load_policy

GOOD = """
version: 1
name: release
alpha: 0.01
correction: bonferroni
test: margin
inconclusive: fail
samples: preferred
minimum_items: 100
margins: {language: 0.05, macro: {relative: 0.02}, languages: {swh_Latn: 0.1}}
benchmarks:
  mgsm_direct:
  xcopa: {minimum_items: 50, metric: "acc,none", languages: [sw, zh], margins: {macro: 0.01, languages: {zh: 0.2}}}
routing_drift: {middle: 0.05, exceeded: warn}
allow:
  - {benchmark: xcopa, language: zh, reason: new tokenizer, until: 2026-12-31, checks: [score, drift]}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_whole_policy_is_read(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, GOOD))
    assert (policy.name, policy.alpha, policy.correction, policy.test) == ("release", 0.01, "bonferroni", "margin")
    assert (policy.inconclusive, policy.samples) == ("fail", "preferred")
    plain, own = policy.of("mgsm_direct"), policy.of("xcopa")
    assert plain is not None
    assert own is not None
    assert policy.of("belebele") is None
    assert plain.minimum_items == 100
    assert plain.margins.of_language("sw") == Margin(0.1)  # swh_Latn is sw
    assert plain.margins.macro.of(0.5) == pytest.approx(0.01)
    assert (own.minimum_items, own.metric, own.languages) == (50, "acc,none", ("sw", "zh"))
    assert [own.margins.of_language(each).value for each in ("sw", "zh", "de")] == [0.1, 0.2, 0.05]
    assert own.margins.macro == Margin(0.01)
    assert policy.routing_drift is not None
    assert (policy.routing_drift.limits, policy.routing_drift.exceeded) == ({"middle": 0.05}, "warn")
    (allowed,) = policy.allow
    assert allowed.until == datetime.date(2026, 12, 31)
    assert not allowed.expired(datetime.date(2026, 12, 31))
    assert allowed.expired(datetime.date(2027, 1, 1))
    assert allowed.covers("drift", "xcopa_zh", "xcopa", "zh")
    assert not allowed.covers("score", "xcopa_sw", "xcopa", "sw")


def test_defaults_are_the_careful_ones(tmp_path: Path) -> None:
    policy = load_policy(write(tmp_path, "version: 1\nmargins: {language: 0.05, macro: 0.02}\nminimum_items: 100\n"))
    assert (policy.name, policy.alpha, policy.correction, policy.test) == ("policy.yaml", 0.05, "holm", "drop")
    assert (policy.inconclusive, policy.samples, policy.benchmarks) == ("warn", "required", None)
    assert policy.of("anything") == policy.default


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("version: 1", "version: 2", "version", "unknown version: 2"),
        ("alpha: 0.01", "alpah: 0.01", "alpah", r"unknown key 'alpah' \(did you mean 'alpha'\?\)"),
        ("alpha: 0.01", "alpha: 0", "alpha", "at 0 nothing would ever count as a regression"),
        ("alpha: 0.01", "alpha: 5", "alpha", "expected a number, got 5"),
        ("bonferroni", "bonferoni", "correction", "did you mean 'bonferroni'"),
        ("test: margin", "test: superiority", "test", "write drop or margin"),
        ("minimum_items: 100", "minimum_items: 0", "minimum_items", "expected an integer, got 0"),
        ("language: 0.05", "language: -0.05", "margins.language", "expected a number"),
        ("language: 0.05", "language: 5%", "margins.language", "expected a number, got '5%'"),
        ("{relative: 0.02}", "{relativ: 0.02}", "margins.macro.relativ", "did you mean 'relative'"),
        ("language: 0.05, macro", "macro", "margins", "'language' is missing"),
        ("swh_Latn: 0.1", "xx-nothing: 0.1", "margins.languages.xx-nothing", "is not a language code"),
        ("swh_Latn: 0.1", "sw: 0.1, swa: 0.2", "margins.languages.swa", "'sw' already has a margin"),
        ('"acc,none"', "acc", "benchmarks.xcopa.metric", "'acc' does not name a filter"),
        ("[sw, zh]", "[]", "benchmarks.xcopa.languages", "the list is empty"),
        ("{middle: 0.05, exceeded: warn}", "{exceeded: warn}", "routing_drift", "no band has a limit"),
        ("{middle: 0.05", "{midle: 0.05", "routing_drift.midle", "did you mean 'middle'"),
        ("until: 2026-12-31", "until: 31.12.2026", "allow.0.until", "'31.12.2026' is not a date"),
        ("until: 2026-12-31", "until: 2026-02-30", "allow.0.until", "not a calendar date"),
        ("until: 2026-12-31, ", "", "allow.0", "'until' is missing"),
        ("reason: new tokenizer", "reason: ''", "allow.0.reason", "is blank"),
        ("benchmark: xcopa, language: zh, ", "", "allow.0", "does not say what it allows"),
        ("name: release", "name: release\nname: again", "", "key 'name' is given twice"),
        ("name: release", "name: !!python/object:os.system x", "", "is not allowed, only plain values"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, old: str, new: str, key: str, message: str) -> None:
    assert GOOD.count(old) >= 1
    file = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        load_policy(file)
    assert caught.value.where == (f"{file}: {key}" if key else str(file))
    assert caught.value.fix


def test_a_policy_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("gate init BASELINE -o policy.yaml")):
        load_policy(tmp_path / "none.yaml")
