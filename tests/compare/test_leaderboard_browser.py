"""The leaderboard of 62 languages and 8 runs in a real browser: what is seen at two widths, and what keys do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import CHROMIUM, Browser, open_browser
from support.large_study import LANGUAGES, large_runs
from support.written_runs import write_run

from lm_eval_moe.compare import Board, BoardSettings, build_board, choose_runs
from lm_eval_moe.compare.formats import render
from lm_eval_moe.multilingual.languages import by_tier, known_languages

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path")]

WIDTHS = (1200, 390)
IN_ORDER = ["en", *sorted(set(LANGUAGES) - {"en"})]
OUTSIDE = """[...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && !element.closest(".scroll") && (box.right > innerWidth + 1 || box.left < -1);
}).map(element => element.tagName + " " + element.textContent.slice(0, 40))"""
SHOWN = """[...document.querySelectorAll("tbody:last-of-type tr")].filter(row => row.offsetHeight)
  .map(row => row.cells[0].firstChild.textContent)"""


@pytest.fixture(scope="module")
def board() -> Board:
    return build_board(large_runs(), BoardSettings())


@pytest.fixture(scope="module")
def page(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("board") / "board.html"
    path.write_text(render(board, "html", title="Leaderboard"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(params=WIDTHS)
def tab(request: pytest.FixtureRequest, browser: Browser, page: Path) -> Iterator[Browser]:
    """The page at one of the two widths, which nothing has complained of when the test is over."""
    browser.open(page, request.param)
    yield browser
    assert browser.complaints == []


def values(board: Board, run: str) -> dict[str, float]:
    """Return a run's scores by language, as the board has them."""
    (section,) = board.sections
    row = next(row for row in section.rows if row.label == run)
    return {
        head.title: cell.estimate.value
        for head, cell in zip(section.heads, row.cells, strict=True)
        if head.kind == "value" and cell.estimate
    }


def tab_to(tab: Browser, text: str) -> None:
    """Press Tab until the focus is on the button with this text, or on an input of this type."""
    for _ in range(40):
        tab.press("Tab")
        focus = "(e => e.tagName === 'BUTTON' ? e.textContent : e.type || '')(document.activeElement)"
        if tab.ask(focus).startswith(text):
            return
    raise AssertionError(f"no Tab leads to {text}")


def test_nothing_sticks_out_and_the_table_scrolls_in_its_frame(tab: Browser) -> None:
    width = tab.ask("innerWidth")
    assert tab.ask("document.documentElement.scrollWidth") <= width
    assert tab.ask(OUTSIDE) == []
    frame: dict[str, Any] = tab.ask(
        """(frame => ({
          inner: frame.scrollWidth, outer: frame.clientWidth, tall: frame.scrollHeight > frame.clientHeight,
          hint: document.querySelector(".more").offsetHeight > 0,
        }))(document.querySelector(".scroll"))"""
    )
    assert frame["tall"]
    assert frame["hint"] == (frame["inner"] > frame["outer"]) == (width == 390)


def test_header_and_languages_stay_when_the_table_is_scrolled(tab: Browser) -> None:
    places = """(() => {
      const frame = document.querySelector(".scroll");
      frame.scrollIntoView();
      frame.scrollTo(FAR);
      const box = frame.getBoundingClientRect(), rows = [...document.querySelectorAll("tbody:last-of-type tr")];
      const inside = rows.map(row => row.cells[0]).filter(cell => {
        const own = cell.getBoundingClientRect();
        return own.top > box.top + 150 && own.bottom < Math.min(box.bottom, innerHeight);
      });
      const topmost = cell => {  // what is drawn at the middle of its text
        const range = document.createRange();
        range.selectNodeContents(cell.firstChild);
        const own = range.getBoundingClientRect();
        return document.elementFromPoint(own.left + own.width / 2, own.top + own.height / 2) === cell;
      };
      const head = document.querySelector("thead").getBoundingClientRect();
      return {left: inside.map(cell => Math.round(cell.getBoundingClientRect().left - box.left)), rows: inside.length,
        seen: inside.every(topmost), head: Math.round(head.top - box.top), moved: [frame.scrollLeft, frame.scrollTop]};
    })()"""
    for far in ("0, 0", "9999, 800"):
        found = tab.ask(places.replace("FAR", far))
        assert found["rows"] > 2
        assert set(found["left"]) == {0}
        assert found["seen"]
    assert found["moved"][1] == 800
    assert found["head"] == 0
    assert (found["moved"][0] > 0) == (tab.ask("innerWidth") == 390)


def test_languages_are_found_by_code_and_shown_in_its_order(tab: Browser) -> None:
    assert tab.ask(SHOWN) == IN_ORDER
    averages = tab.ask("[...document.querySelector('tbody').rows].map(row => row.cells[0].textContent)")
    assert averages == ["average", "without en", "routing divergence", "vs random control"]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("sw", ["sv", "sw"]),  # Swedish and Swahili by name, too
        ("EN", ["en"]),
        ("turkic", ["kk", "tr", "uz"]),
        ("yo, zu", ["yo", "zu"]),
        ("low", [lang for lang in IN_ORDER if lang in by_tier(LANGUAGES)["low"]]),
        ("xx", []),
    ],
)
def test_the_keyboard_filters_languages(tab: Browser, typed: str, shown: list[str]) -> None:
    tab_to(tab, "search")
    tab.type(typed)
    assert tab.ask(SHOWN) == shown
    assert tab.ask("document.querySelector('tbody').offsetHeight") > 0, "averages stay"
    assert tab.ask("document.getElementById('status').textContent") == f"{len(shown)} of 62 languages"
    tab.press("Escape")
    assert tab.ask(SHOWN) == IN_ORDER


def test_the_keyboard_sorts_languages(tab: Browser, board: Board) -> None:
    (section,) = board.sections
    run = section.rows[2].label
    scores = values(board, run)
    tab_to(tab, run)
    tab.press("Enter")
    assert tab.ask(SHOWN) == sorted(IN_ORDER, key=lambda lang: -scores[lang]), "best first, equal ones as before"
    tab.press("Enter")
    down = tab.ask(SHOWN)
    assert [scores[lang] for lang in down] == sorted(scores.values())
    assert tab.ask("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    tab.ask("document.activeElement.blur()")
    tab_to(tab, "tier")
    tab.press("Enter")
    tiers = by_tier(LANGUAGES)
    rank = {lang: number for number, members in enumerate(tiers.values()) for lang in members}
    assert [rank.get(lang, 9) for lang in tab.ask(SHOWN)] == sorted(rank.get(lang, 9) for lang in IN_ORDER)
    tab.ask("document.activeElement.blur()")
    tab_to(tab, "language")
    tab.press("Enter")
    assert tab.ask(SHOWN) == sorted(LANGUAGES, key=str.lower)


def test_the_page_says_the_shared_model_once(page: Path, board: Board) -> None:
    html = page.read_text(encoding="utf-8")
    assert html.count("some-moe-model-name") == 1
    assert "All runs: org/some-moe-model-name." in html
    (section,) = board.sections
    digests = [row.steering_hash[:8] for row in section.rows if row.steering_hash]
    assert not any(digest in html for digest in digests), "no hash tells runs apart that have other names"
    assert len(html) < 200_000


def test_languages_in_columns_are_filtered_as_well(browser: Browser, tmp_path: Path) -> None:
    languages = IN_ORDER[:13]
    generator = np.random.default_rng(0)
    for number in range(14):  # more runs than languages
        scores = {lang: generator.integers(0, 2, 12).astype(float).tolist() for lang in languages}
        write_run(tmp_path / str(number), scores, steering=f"s{number}" if number else None)
    path = tmp_path / "board.html"
    shown = build_board(choose_runs([str(tmp_path)]).runs, BoardSettings())
    path.write_text(render(shown, "html", title="Leaderboard"), encoding="utf-8")
    browser.open(path, 1200)
    heads = "[...document.querySelectorAll('thead th')].filter(e => e.offsetWidth).map(e => e.textContent)"
    cells = "[...document.querySelector('tbody tr').cells].filter(cell => cell.offsetWidth).length"
    before = browser.ask(heads)
    tab_to(browser, "search")
    browser.type("am ar")
    after = browser.ask(heads)
    named = {f"{lang}{known_languages()[lang].name}": lang for lang in languages}
    assert [named[head] for head in before if head in named] == languages
    assert after == [head for head in before if named.get(head, "am") in ("am", "ar")]
    assert browser.ask(cells) == len(after)
    assert browser.complaints == []
