"""The verdict's files can be read by those who read them, whatever the names in the results."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from support.gate.evidence_of import changes, evidence, line_of, policy, verdict_of

from lm_eval_moe.gate.cells import tables_of
from lm_eval_moe.gate.evidence import DriftEvidence, NamedSide
from lm_eval_moe.gate.flips import Flip, Flips
from lm_eval_moe.gate.junit import junit_xml
from lm_eval_moe.gate.markdown import markdown_summary
from lm_eval_moe.gate.table import verdict_table
from lm_eval_moe.gate.verdict import Verdict

HOSTILE = "a|b<script>alert(1)</script>`x`\x1b[31m\n# no ]]>&amp; @team [l](http://e.vil) \u202e\x00\ufffe\ud800"

HOSTILE_FLIP = Flip(0, HOSTILE, 1.0, 0.0, HOSTILE, HOSTILE, HOSTILE)


@pytest.fixture
def mixed() -> Verdict:
    """A line of every kind."""
    given = policy(
        routing_drift={"middle": 0.05},
        allow=[{"language": "fr", "reason": "known", "until": "2027-01-01"}],
    )
    return verdict_of(
        given,
        evidence("sw", changes(60, 2, 200)),
        evidence("de", changes(20, 20, 200)),
        evidence("en", [0.0] * 200),
        evidence("fr", changes(60, 2, 200)),
        evidence("zh", [0.0] * 3),
        drift=[DriftEvidence("sums", "sw", "sums_sw", 200, {"middle": 0.2})],
        notes=["something else"],
    )


def hostile() -> Verdict:
    found = evidence("sw", changes(60, 2, 200), benchmark=HOSTILE)
    return verdict_of(
        policy(),
        found,
        evidence(None, [0.0] * 3, benchmark=HOSTILE + "2"),
        candidate=NamedSide(HOSTILE),
        notes=[HOSTILE],
    )


def test_junit_has_a_case_a_line_and_its_counts_agree(mixed: Verdict) -> None:
    root = ET.fromstring(junit_xml(mixed).encode())
    cases = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert cases == {
        "sw": ["failure"],
        "de": ["system-out"],
        "en": ["system-out"],
        "fr": ["skipped"],
        "zh": ["error"],
        "macro": ["error"],
        "routing drift sw": ["failure"],
    }
    assert root.tag == "testsuites"
    for element in (root, *root.iter("testsuite")):
        assert {key: element.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
            "tests": "7",
            "failures": "2",
            "errors": "2",
            "skipped": "1",
        }
    failure = root.find(".//failure")
    assert failure is not None
    assert "fell by 29.0 percentage points" in str(failure.get("message"))


def test_markdown_tables_have_as_many_cells_as_headers(mixed: Verdict) -> None:
    text = markdown_summary(mixed)
    assert text.startswith("## Gate: regression\n")
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert [len(table.splitlines()) for table in tables] == [2 + 6, 2 + 1]
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    bullets = [line for line in text.splitlines() if line.startswith("- ")]
    assert [line.split(":")[0] for line in bullets] == [
        "- **regression** sums sw",
        "- **drifted** sums routing drift sw",
        "- **cannot judge** sums zh",
        "- **cannot judge** sums macro",
        "- inconclusive sums de",
        "- allowed sums fr",
        "- something else",
    ]


def test_the_terminal_shows_outcome_and_reasons(mixed: Verdict) -> None:
    text = verdict_table(mixed)
    assert text.splitlines()[-1] == "Gate: regression. 7 checks: 2 failed, 2 cannot be judged, 1 to look at."
    assert re.search(r"^sw +regression +80\.0 % +51\.0 % +-29\.0 ", text, re.MULTILINE)
    assert "\x1b" not in text  # not a terminal: no colours


def test_a_narrow_terminal_shows_every_column(mixed: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval_moe.gate.table._LOG_WIDTH", 80)
    given = verdict_table(mixed).splitlines()
    assert given[:2] == ["baseline: baseline", "candidate: candidate"]
    lines = given[2:]
    assert lines[0] == "sums"
    assert re.sub(" +", " ", lines[1]) == "check result baseline candidate change at worst margin p corr. items"
    assert re.search(r"^sw +regression +80\.0 % +51\.0 % +-29\.0 +-3\d\.\d +5\.0 +<0\.0001 +200$", lines[2])
    assert max(len(line) for line in lines[:8]) <= 80


def test_where_lower_is_better_a_loss_is_a_rise() -> None:
    given = evidence("sw", [0.25] * 30 + [0.35] * 30, score=2.0, is_share=False, higher_is_better=False)
    text = verdict_table(verdict_of(policy(), given))
    assert re.search(r"^sw +regression +2\.000 +2\.300 +\+0\.3 +\+0\.311 +0\.05 ", text, re.MULTILINE)


def test_of_a_run_that_is_better_for_sure_nothing_is_lost_at_worst() -> None:
    given = evidence("sw", changes(0, 60, 200), score=0.6)
    line = line_of(verdict_of(policy(), given), "sw")
    assert line.upper is not None
    assert line.upper < 0
    ((_, ((_, cells),), _), _) = tables_of(verdict_of(policy(), given))
    assert cells[2:4] == ["+30.0", "0.0"]


def test_json_says_the_same(mixed: Verdict) -> None:
    given = json.loads(json.dumps(mixed.to_dict(), allow_nan=False))
    assert (given["schema_version"], given["exit_code"], given["outcome"], given["tests"]) == (1, 1, "regression", 5)
    assert [line["status"] for line in given["lines"]] == [
        "regression",
        "inconclusive",
        "held",
        "allowed",
        "unjudged",
        "unjudged",
        "drifted",
    ]


def test_hostile_names_do_nothing() -> None:
    verdict = replace(hostile(), flips=(Flips(HOSTILE, None, HOSTILE, "acc", True, 1, 0, {"lost": (HOSTILE_FLIP,)}),))
    root = ET.fromstring(junit_xml(verdict).encode())
    assert {suite.get("name", "")[:12] for suite in root.iter("testsuite")} == {"a|b<script>a"}
    assert "\\x1b[31m\\x0a# no" in root.find("testsuite").get("name", "")  # type: ignore[union-attr]

    markdown = markdown_summary(verdict)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert not re.findall(r"<(?!/?(?:h2|p|ul|li|strong|table|thead|tbody|tr|t[hd]|t[hd] style=[^>]*)>)", html)
    assert html.count("<tr>") == 3 + 2  # a header and two lines, and a flipped item below another
    assert "a|b&lt;script&gt;alert(1)&lt;/script&gt;`x`\\x1b[31m\\x0a# no" in html
    assert not {"\x1b", "\u202e"} & set(markdown)

    for character in ("\x1b", "\x00", "\u202e", "\ud800"):
        assert character not in verdict_table(verdict)
    json.dumps(verdict.to_dict()).encode()
