"""The three tables of text: aligned, Markdown, CSV."""

from __future__ import annotations

import csv
import io

import pytest

from lm_eval_moe.tables import aligned, csv_text, markdown_table


def test_columns_are_aligned_and_nothing_trails() -> None:
    assert aligned([["a", "b", ""], ["long", "22", "x"]]) == ["  a      b", "  long  22  x"]
    assert aligned([["a", "b"], ["long", "22"]], left=2, indent="") == ["a     b", "long  22"]


def test_markdown_says_which_columns_are_numbers() -> None:
    rows = [["x", "1"], ["y", "22"]]
    assert markdown_table(["a", "b"], rows) == ["| a | b |", "| --- | ---: |", "| x | 1 |", "| y | 22 |"]
    assert markdown_table(["a", "b"], rows, pad=True) == [
        "| a   |   b |",
        "| --- | --: |",
        "| x   |   1 |",
        "| y   |  22 |",
    ]
    assert markdown_table(["a"], []) == ["| a |", "| --- |"]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1+1", "' =1+1"),
        ("\u3000\uff1d1+1", "'\u3000\uff1d1+1"),  # full width, as spreadsheets of East Asia read them
        ("\t=1+1", "'\\x09=1+1"),
        ("\rname", "'\\x0dname"),
        ("-1+1", "'-1+1"),
        ("-inf", "'-inf"),
        ("-x", "'-x"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("middle - early", "middle - early"),
        (-0.5, "-0.5"),
        (0.1 + 0.2, "0.30000000000000004"),
        (None, ""),
    ],
)
def test_no_cell_is_a_formula_and_numbers_stay_as_they_are(cell: str | float | None, written: str) -> None:
    text = csv_text(["name", "last"], [[cell, "end"]])
    assert list(csv.reader(io.StringIO(text))) == [["name", "last"], [written, "end"]]
    assert text.startswith("name,last\n")
