"""The report's tables of 62 languages and 8 runs in a real browser, at two widths."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import CHROMIUM, Browser
from support.large_study import large_runs
from support.written_results import PageReader

from lm_eval_moe.report import write_report

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path")]

OUTSIDE = """[...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && !element.closest(".scroll, pre") && (box.right > innerWidth + 1 || box.left < -1);
}).map(element => element.tagName + " " + element.textContent.slice(0, 40))"""
SCROLLED = """(() => {
  const frame = document.querySelector(".scroll"), table = frame.querySelector("table");
  frame.scrollIntoView();
  frame.scrollTo(FAR);
  const box = frame.getBoundingClientRect(), head = table.tHead.getBoundingClientRect();
  const names = [...table.tBodies[0].rows].map(row => row.cells[0]).filter(cell => {
    const own = cell.getBoundingClientRect();
    return own.top > head.bottom && own.bottom < Math.min(box.bottom, innerHeight);
  });
  const topmost = cell => {
    const own = cell.getBoundingClientRect();
    return cell.contains(document.elementFromPoint(own.left + 12, own.top + own.height / 2));
  };
  return {left: names.map(cell => Math.round(cell.getBoundingClientRect().left - box.left)), rows: names.length,
    seen: names.every(topmost), head: Math.round(head.top - box.top), moved: frame.scrollLeft,
    corner: [...table.tHead.rows].map(row => Math.round(row.cells[0].getBoundingClientRect().left - box.left)),
    inner: frame.scrollWidth, outer: frame.clientWidth, edge: box.right};
})()"""


def test_nothing_sticks_out_of_the_page(tab: Browser) -> None:
    assert tab.ask("document.documentElement.scrollWidth") <= tab.ask("innerWidth")
    assert tab.ask(OUTSIDE) == []


def test_the_table_scrolls_in_its_frame_and_its_languages_stay(tab: Browser) -> None:
    for far in ("0, 300", "99999, 900"):
        found = tab.ask(SCROLLED.replace("FAR", far))
        assert found["inner"] > found["outer"], "eight runs are wider than the frame"
        assert found["edge"] <= tab.ask("innerWidth")
        assert found["rows"] > 10
        assert set(found["left"]) == set(found["corner"]) == {0}
        assert found["seen"]
        assert found["head"] == 0
    assert found["moved"] == found["inner"] - found["outer"]
    assert "The table scrolls sideways to all 8 runs." in tab.ask("document.querySelector('caption').textContent")


def test_the_keyboard_scrolls_the_table(tab: Browser) -> None:
    tab.ask("document.querySelector('.scroll').focus()")
    assert tab.ask("document.activeElement.className") == "scroll"
    tab.press("ArrowRight")
    assert tab.ask("new Promise(done => setTimeout(() => done(document.querySelector('.scroll').scrollLeft), 400))") > 0


def test_the_page_says_the_shared_model_once_before_its_provenance(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(large_runs(), path, title="A large study")
    html = path.read_text(encoding="utf-8")
    above, provenance = html.split('<section aria-labelledby="provenance">')
    assert above.count("some-moe-model-name") == 1
    assert "some-moe-model-name" in provenance
    heads = PageReader(html).tables[0][0]
    assert heads == ["", *(run.label for run in large_runs())]
    assert not any("#" in head for head in heads)
