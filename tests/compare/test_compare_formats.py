"""The leaderboard as text: readable at any width, and harmless whatever tasks and models are called."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.written_runs import write_run

from lm_eval_moe.compare import Board, BoardSettings, build_board, choose_runs
from lm_eval_moe.compare.formats import format_of, render
from lm_eval_moe.compare.formats.as_terminal import show
from lm_eval_moe.errors import UserError
from lm_eval_moe.escaping import csv_cell, markdown_cell, printable
from lm_eval_moe.number_text import MINUS

EVIL = "<script>alert(1)</script>\x1b[31m\u202ered|cell `x` [a](http://e.org)\n=1+1"
LANGUAGES = ["en", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh", "bn"]
FORTY = [
    "en",
    "de",
    "es",
    "fr",
    "ja",
    "ru",
    "sw",
    "te",
    "th",
    "zh",
    "bn",
    "ar",
    "hi",
    "tr",
    "vi",
    "id",
    "pt",
    "it",
    "nl",
    "pl",
    "cs",
    "uk",
    "el",
    "he",
    "fa",
    "ur",
    "ta",
    "ml",
    "mr",
    "gu",
    "kn",
    "si",
    "my",
    "km",
    "lo",
    "am",
    "yo",
    "ig",
    "ha",
    "zu",
]


def scores(languages: list[str], seed: int, items: int = 30) -> dict[str, list[float]]:
    generator = np.random.default_rng(seed)
    return {lang: (generator.random(items) < 0.3 + 0.05 * seed).astype(float).tolist() for lang in languages}


def board(folder: Path, languages: list[str] = LANGUAGES, model: str = "org/model") -> Board:
    far = {lang: values for lang, values in scores(languages, 3).items() if lang != "en"}
    write_run(folder / "a", scores(languages, 1), model=model, divergence=far)
    write_run(folder / "b", scores(languages, 8), model=model, divergence=far, steering="soft")
    return build_board(choose_runs([str(folder)]).runs, BoardSettings(sort="given"))


def terminal(shown: Board, width: int, *, intervals: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, markup=False, emoji=False)
    show(shown, console, intervals=intervals)
    return text.getvalue()


def test_eleven_languages_fit_a_terminal_of_120_columns(tmp_path: Path) -> None:
    text = terminal(board(tmp_path), 120)
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "columns 1 to" not in text
    header = next(line for line in text.splitlines() if line.startswith("run "))
    assert set(LANGUAGES) <= set(header.split())


@pytest.mark.parametrize("width", [60, 120])
def test_forty_languages_stand_in_rows(tmp_path: Path, width: int) -> None:
    shown = board(tmp_path, FORTY)
    text = terminal(shown, width, intervals=True)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "columns 1 to" not in text
    rows = [line.split() for line in text.splitlines()]
    order = [row[0] for row in rows if row and row[0] in FORTY]
    assert order == ["en", *sorted(set(FORTY) - {"en"})]
    (section,) = shown.sections
    for lang in FORTY:
        place = [head.title for head in section.heads].index(lang)
        before, after = (row.cells[place] for row in section.rows)
        assert before.estimate is not None
        assert after.estimate is not None
        assert after.change is not None
        row = next(row for row in rows if row and row[0] == lang)
        assert row[1:3] == [f"{100 * before.estimate.value:.1f}", f"{100 * after.estimate.value:.1f}"]
        assert float(row[3].replace(MINUS, "-").rstrip("▲▼")) == pytest.approx(
            100 * after.change.difference.value, abs=0.051
        )


@pytest.mark.parametrize("width", [60, 120])
def test_more_runs_than_a_line_holds_are_split_into_several_tables_that_say_so(tmp_path: Path, width: int) -> None:
    for number in range(13):
        write_run(tmp_path / str(number), scores(FORTY[:13], number), steering=f"steering-{number}" if number else None)
    text = terminal(build_board(choose_runs([str(tmp_path)]).runs, BoardSettings(sort="given")), width)
    assert max(len(line) for line in text.splitlines()) <= width
    parts = re.findall(r"columns (\d+) to (\d+) of (\d+)", text)
    assert len(parts) > 1
    assert [int(first) for first, _, _ in parts] == [1, *(int(last) + 1 for _, last, _ in parts[:-1])]
    assert parts[-1][1:] == ("13", "13")


def test_more_runs_than_languages_stay_in_rows(tmp_path: Path) -> None:
    for number in range(14):
        write_run(tmp_path / str(number), scores(FORTY[:13], number), steering=f"s{number}" if number else None)
    shown = build_board(choose_runs([str(tmp_path)]).runs, BoardSettings(sort="given"))
    lines = terminal(shown, 200).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("run "))
    assert [line.split()[0] for line in lines[start + 1 :] if line.strip()][:3] == ["unsteered", "(baseline)", "s1"]


def test_numbers_stand_under_their_language(tmp_path: Path) -> None:
    shown = board(tmp_path)
    (section,) = shown.sections
    lines = terminal(shown, 200).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("run "))
    for head, cell in zip(section.heads, section.rows[0].cells, strict=True):
        if head.title not in ("en", *LANGUAGES):
            continue
        # "en" is also the second line of "without en": the language is the last one.
        end = [match.end() for match in re.finditer(rf"(?<!\S){head.title}(?!\S)", lines[at])][-1]
        assert cell.estimate is not None
        assert lines[at + 1][:end].endswith(f" {100 * cell.estimate.value:.1f}")


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.cells:
            self.cells[-1] += data


def test_the_page_is_self_contained_and_accessible(tmp_path: Path) -> None:
    page = Page(render(board(tmp_path), "html", title="Board"))
    tags = [tag for tag, _ in page.tags]
    assert not {"link", "img", "iframe"} & {tag for tag, given in page.tags if given.get("href", "data:,") != "data:,"}
    assert not [given for _, given in page.tags if "src" in given]
    assert tags.count("caption") == tags.count("table") == 1
    scopes = [given.get("scope") for tag, given in page.tags if tag == "th"]
    assert scopes.count("col") == 15
    assert scopes.count("row") == 2
    assert ("html", {"lang": "en"}) in page.tags
    assert any(given.get("name") == "viewport" for _, given in page.tags)
    policy = next(given["content"] or "" for tag, given in page.tags if given.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_the_script_is_the_one_that_the_policy_allows(tmp_path: Path) -> None:
    import base64
    import hashlib

    html = render(board(tmp_path), "html", title="Board")
    script = html.split("<script>")[1].split("</script>")[0]
    allowed = re.search(r"sha256-([^']+)'", html)
    assert allowed is not None
    assert allowed[1] == base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def test_hostile_names_are_harmless_in_every_format(tmp_path: Path) -> None:
    path = write_run(tmp_path, scores(["en", "sw"], 1), model=EVIL, benchmark="mgsm_direct")
    results = json.loads(path.read_text())
    for table in ("results", "configs", "versions", "n-shot", "n-samples", "higher_is_better"):
        results[table][EVIL] = results[table]["mgsm_direct_sw"]
    results["results"]["=cmd|' /C calc'!A0"] = results["results"]["mgsm_direct_sw"]
    path.write_text(json.dumps(results))
    shown = build_board(choose_runs([str(tmp_path)], labels=["*=@evil" + EVIL]).runs, BoardSettings())
    assert len(shown.sections) == 2

    for text in (terminal(shown, 100), render(shown, "markdown"), render(shown, "csv"), render(shown, "html")):
        assert "\x1b" not in text
        assert "\u202e" not in text
    page = Page(render(shown, "html", title=EVIL))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert any("<script>alert(1)" in text for text in page.texts)  # as text
    markdown = render(shown, "markdown", title=EVIL)
    assert "<script" not in markdown
    assert "](http" not in markdown
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("| ")}
    assert widths == {5, 4}  # two averages and languages; two tasks: no cell was split
    rows = list(csv.reader(io.StringIO(render(shown, "csv"))))
    assert len({len(row) for row in rows}) == 1
    for row in rows[1:]:
        for value in row:
            assert not value.startswith(("=", "@", "\t", "\r"))
            if value.startswith(("-", "+")):
                float(value)  # a number, no formula
    values = json.loads(render(shown, "json"))["values"]
    assert values[0]["model"] == EVIL  # data is not altered, but escaped: ASCII only
    assert render(shown, "json").isascii()


def test_csv_and_json_hold_the_same_numbers_as_the_table(tmp_path: Path) -> None:
    shown = board(tmp_path)
    rows = list(csv.DictReader(io.StringIO(render(shown, "csv"))))
    values = json.loads(render(shown, "json"))["values"]
    assert len(rows) == len(values) == 2 * 14
    (section,) = shown.sections
    cells = [cell for row in section.rows for cell in row.cells]
    for row, value, cell in zip(rows, values, cells, strict=True):
        assert cell.estimate is not None
        assert float(row["value"]) == value["value"] == cell.estimate.value
        if cell.change is not None:
            assert float(row["p"]) == value["p"] == cell.change.p
            assert row["beyond_chance"] == str(cell.change.beyond)


def test_markdown_has_a_row_a_run(tmp_path: Path) -> None:
    lines = [line for line in render(board(tmp_path), "markdown").splitlines() if line.startswith("| ")]
    assert len(lines) == 4
    assert lines[2].startswith("| unsteered (baseline) | ")
    assert lines[3].startswith("| soft | ")


def test_a_files_suffix_says_its_format() -> None:
    assert [format_of(Path(name)).name for name in ("a.md", "b.CSV", "c.json", "d.htm")] == [
        "markdown",
        "csv",
        "json",
        "html",
    ]
    with pytest.raises(UserError, match=r"'.xlsx' belongs to no format"):
        format_of(Path("a.xlsx"))


@given(st.text())
def test_printable_text_has_one_line_and_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", shown)
    assert printable(shown) == shown


@given(st.text())
def test_no_text_is_a_formula(text: str) -> None:
    assert not csv_cell(text).startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "＠"))


@given(st.text(alphabet="|`<>[]()\\*_ab\n"))
def test_markdown_text_has_no_live_markup(text: str) -> None:
    without = re.sub(r"\\.", "", markdown_cell(text))
    assert not set(without) & set("|`<>[]()*_\n\\")


def test_names_in_other_scripts_stay_as_they_are() -> None:
    for name in ("हिन्दी", "中文", "العربية", "Kiswahili", "می‌خواهم"):
        assert printable(name) == csv_cell(name) == name


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH")
def test_clicking_a_header_sorts_in_a_browser(tmp_path: Path) -> None:
    # A script of the test's own clicks, for which the policy against other scripts is taken out.
    shown = board(tmp_path, ["en", "sw", "zh"])
    html = render(shown, "html", title="Board")
    clicks = """<script>
      const heads = [...document.querySelectorAll("thead th")];
      const state = () => heads.map((h) => h.getAttribute("aria-sort")).join() + " " +
        [...document.querySelectorAll("tbody tr")].map((r) => r.cells[4].dataset.value).join();
      const seen = [state()];
      for (let i = 0; i < 2; i++) { heads[4].querySelector("button").click(); seen.push(state()); }
      const wide = document.documentElement.scrollWidth > innerWidth;
      document.title = seen.join(" / ") + (wide ? " WIDE" : "");
    </script>"""
    clicked = re.sub(r"<meta http-equiv=[^>]*>", "", html).replace("</body>", clicks + "</body>")
    (tmp_path / "clicked.html").write_text(clicked, encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'browser'}",
            "--window-size=390,844",
            "--dump-dom",
            (tmp_path / "clicked.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    (section,) = shown.sections
    given_order = [row.cells[3].estimate.value for row in section.rows if row.cells[3].estimate]
    states = title[1].split(" / ")
    assert "WIDE" not in title[1]
    orders = [state.split(" ")[0].split(",")[4] for state in states]
    values = [[float(value) for value in state.split(" ")[1].split(",")] for state in states]
    assert orders == ["none", "descending", "ascending"]
    assert values == [given_order, sorted(given_order, reverse=True), sorted(given_order)]


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH")
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (500, 844)])
def test_the_page_is_drawn_in_a_browser(tmp_path: Path, width: int, height: int) -> None:
    from matplotlib.image import imread

    page, picture = tmp_path / "board.html", tmp_path / "board.png"
    page.write_text(render(board(tmp_path / "runs"), "html", title="Board"), encoding="utf-8")
    subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'browser'}",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (height, width)
    paper = pixels[-1, -1]
    drawn = np.abs(pixels - paper).max(axis=2) > 0.3
    assert drawn.mean() > 0.005  # there is ink
    # The phone's table goes on to the right under its own scroll bar: the page itself keeps its margin.
    assert not drawn[:, -12:].any()
