"""The verdict as JUnit XML, which GitHub, GitLab and Jenkins show test by test."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from lm_eval_moe.escaping import printable
from lm_eval_moe.gate.verdict import Verdict, VerdictLine

__all__ = ["junit_xml"]


def junit_xml(verdict: Verdict) -> str:
    """Return one test suite a benchmark and one test case a line.

    A regression is a failure, what cannot be judged is an error, what is allowed is skipped; a line to look at passes,
    with its sentence as output.
    """
    root = ET.Element("testsuites", {"name": "lm-eval-moe gate", **_counts(verdict.lines)})
    for benchmark in dict.fromkeys(line.benchmark for line in verdict.lines):
        lines = [line for line in verdict.lines if line.benchmark == benchmark]
        suite = ET.SubElement(root, "testsuite", {"name": _text(benchmark), **_counts(lines)})
        for line in lines:
            _case(suite, line)
        output = ET.SubElement(suite, "system-out")
        output.text = "\n".join([verdict.headline, *(_text(note) for note in verdict.notes)])
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _counts(lines: tuple[VerdictLine, ...] | list[VerdictLine]) -> dict[str, str]:
    return {
        "tests": str(len(lines)),
        "failures": str(sum(line.effect == "fail" for line in lines)),
        "errors": str(sum(line.effect == "unjudged" for line in lines)),
        "skipped": str(sum(line.status == "allowed" for line in lines)),
        "time": "0",
    }


def _case(suite: ET.Element, line: VerdictLine) -> None:
    case = ET.SubElement(suite, "testcase", classname=_text(line.benchmark), name=_text(line.name), time="0")
    sentence = _text(line.sentence)
    if line.effect == "fail":
        ET.SubElement(case, "failure", message=sentence, type=line.status).text = sentence
    elif line.effect == "unjudged":
        ET.SubElement(case, "error", message=sentence, type="cannot judge").text = sentence
    elif line.status == "allowed":
        ET.SubElement(case, "skipped", message=sentence)
    else:
        ET.SubElement(case, "system-out").text = f"{line.status}: {sentence}"


def _text(text: str) -> str:
    """Return printable text without the two characters that no XML 1.0 document may hold."""
    return printable(text).replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
