"""The figures of 62 languages and 8 runs in a real browser, at two widths: legible, and a language brought out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.browser import CHROMIUM, Browser
from support.large_study import LANGUAGES

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path")]

DRAWINGS = "[...document.querySelectorAll('svg[role=img]')]"
UNFOLD = "document.querySelectorAll('figure details').forEach(details => details.open = true)"
OUTSIDE = f"""{DRAWINGS}.flatMap(svg => [...svg.querySelectorAll('text')]).map(text =>
  [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.right > innerWidth + 1 || box.left < -1)
  .map(([text]) => text)"""
OVERLAPS = f"""{DRAWINGS}.flatMap(svg => {{
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([one, a], i) => texts.slice(i + 1).filter(([, b]) => {{
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    return across > 1 && down > 1 && across * down > 0.2 * Math.min(a.width * a.height, b.width * b.height);
  }}).map(([two]) => [svg.ariaLabel.slice(0, 60), one.trim(), two.trim()].join(' | ')));
}})"""
SMALLEST = f"""Math.min(...{DRAWINGS}.flatMap(svg => [...svg.querySelectorAll('text')])
  .map(text => Math.min(text.getBoundingClientRect().height, text.getBoundingClientRect().width + 9)))"""
SHOWN = f"""{DRAWINGS}.map(svg => [...svg.querySelectorAll('text.chosen')].map(text => text.textContent))"""


def test_the_page_is_under_two_megabytes(large_page: Path) -> None:
    assert large_page.stat().st_size < 2_000_000


def test_every_figure_can_be_read_also_those_that_are_folded(tab: Browser) -> None:
    tab.ask(UNFOLD)
    assert tab.ask(f"{DRAWINGS}.length") == 17
    assert tab.ask(OUTSIDE) == []
    assert tab.ask("document.documentElement.scrollWidth") <= tab.ask("innerWidth")
    assert tab.ask(OVERLAPS) == []
    assert tab.ask(SMALLEST) >= 7  # pixels


def test_what_overlaps_or_sticks_out_would_be_noticed(tab: Browser) -> None:
    """That the test above can fail."""
    tab.ask(f"{DRAWINGS}[0].append({DRAWINGS}[0].querySelector('text').cloneNode(true))")
    assert len(tab.ask(OVERLAPS)) == 1
    tab.ask(f"{DRAWINGS}[0].lastChild.setAttribute('transform', 'translate(900 50)')")
    assert len(tab.ask(OUTSIDE)) == 1


def test_no_figure_is_higher_than_two_screens_unless_it_is_unfolded(tab: Browser) -> None:
    shown = f"{DRAWINGS}.filter(svg => !svg.closest('details'))"
    tall = tab.ask(f"{shown}.filter(svg => svg.clientHeight > 1800).map(svg => svg.ariaLabel.slice(0, 26))")
    assert set(tall) <= {"Dendrogram of 62 languages"}


def chosen_by_key(tab: Browser, presses: int) -> Any:
    tab.ask("document.querySelector('.choose select').focus()")
    for _ in range(presses):
        tab.press("ArrowDown")
    return tab.ask("document.querySelector('.choose select').selectedOptions[0].text")


def test_choosing_a_language_by_keyboard_brings_it_out_in_every_figure_that_has_it(tab: Browser) -> None:
    assert tab.ask("document.querySelectorAll('.choose:not([hidden])').length") == 4
    assert {name for names in tab.ask(SHOWN) for name in names} == set()
    title = chosen_by_key(tab, 2)
    assert title.split(" ")[0] in LANGUAGES
    shown = [names for names in tab.ask(SHOWN) if names]
    assert shown == [[title]] * 7  # the points; three figures of curves, and each by family
    inked = tab.ask(
        "[...document.querySelectorAll('g.chosen path, g.chosen use')].map(mark => getComputedStyle(mark).stroke)"
    )
    assert len(inked) >= 7
    assert set(inked) == {tab.ask("getComputedStyle(document.body).color")}
    tab.ask("document.querySelector('.choose select').value = ''")
    tab.ask("document.querySelector('.choose select').dispatchEvent(new Event('change'))")
    assert not any(tab.ask(SHOWN))


def test_pointing_at_a_line_brings_it_out_until_the_pointer_leaves(tab: Browser) -> None:
    x, y, title = tab.ask("""(() => {
      const line = document.querySelector('svg[aria-label^="Line plot"] [id$="-choice-7"]');
      const path = line.querySelector('path');
      line.closest('svg').scrollIntoView();
      const end = path.getPointAtLength(0).matrixTransform(path.getScreenCTM());
      return [end.x, end.y, line.querySelector('title').textContent];
    })()""")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert [names for names in tab.ask(SHOWN) if names] == [[title]]
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert not any(tab.ask(SHOWN))


def test_without_scripts_there_is_no_list_to_choose_from_and_the_figures_stand(large_page: Path) -> None:
    html = large_page.read_text(encoding="utf-8")
    assert html.count('<p class="choose" hidden>') == 4
    assert html.count("<script>") == 1
