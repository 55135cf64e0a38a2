"""The page in a real browser: nothing sticks out, nothing overlaps, nothing is fetched, nothing is complained of."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.report_profiles import write_profile
from support.written_results import BASELINE, CHOSEN, RANDOM, STEERED, PageReader, results_of
from support.written_sweeps import some_cells, write_sweep

from lm_eval_moe.analysis import read_inputs
from lm_eval_moe.report import LabelledRun, write_report
from lm_eval_moe.results.sweeps import read_sweep
from lm_eval_moe.shape import RoutingShape

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is on the path"),
]

DESKTOP, PHONE = 1280, 390
POLICY = '<meta http-equiv="Content-Security-Policy"'

# Says what it finds to the frame around the page, which --dump-dom then prints. A window is at least 500 pixels wide; a
# frame is not.
PROBE = """
<script>
const width = document.documentElement.clientWidth, outside = [], overlaps = [];
const scrolled = element => element.closest('.scroll, pre');
for (const element of document.querySelectorAll('body *')) {
  const box = element.getBoundingClientRect();
  if (box.width && !scrolled(element) && (box.right > width + 1 || box.left < -1))
    outside.push(element.tagName + ' ' + (element.textContent || '').trim().slice(0, 40));
}
for (const figure of document.querySelectorAll('svg[role=img]')) {
  const texts = [...figure.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  texts.forEach(([one, a], i) => texts.slice(i + 1).forEach(([two, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    const smaller = Math.min(a.width * a.height, b.width * b.height);
    if (across > 0 && down > 0 && across * down > 0.3 * smaller)
      overlaps.push([figure.ariaLabel.slice(0, 60), one.trim(), two.trim()].join(' | '));
  }));
}
const smallest = Math.min(...[...document.querySelectorAll('svg[role=img] text')].map(
  text => text.getBoundingClientRect().height));
parent.postMessage(JSON.stringify({
  inner: window.innerWidth, width, scroll: document.documentElement.scrollWidth, outside, overlaps, smallest,
  paper: getComputedStyle(document.body).backgroundColor, figures: document.querySelectorAll('svg[role=img]').length,
}), '*');
</script>
"""
FRAME = """<!DOCTYPE html><pre id="probe"></pre>
<script>addEventListener('message', event => { document.getElementById('probe').textContent = event.data; });</script>
<iframe src="probed.html" style="border: 0; width: WIDTHpx; height: 2000px"></iframe>
"""


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [
        BROWSER,
        *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
        f"--user-data-dir={folder / 'profile'}",
        *flags,
        page.resolve().as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r":CONSOLE[:(].*", done.stderr)


def probe(page: Path, folder: Path, width: int, *flags: str) -> dict[str, Any]:
    """Look at a copy of the page that may run a script, in a frame of this width."""
    html = page.read_text(encoding="utf-8")
    assert POLICY in html
    probed = re.sub(f"{POLICY}[^>]*>", "", html).replace("</body>", f"{PROBE}</body>")
    (folder / "probed.html").write_text(probed, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    size = "--window-size=1400,2100"
    done = browse(folder / "frame.html", folder, size, "--virtual-time-budget=5000", "--dump-dom", *flags)
    text = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text is not None
    found: dict[str, Any] = json.loads(unescape(text[1]))
    return found


def picture_of(page: Path, folder: Path, width: int) -> tuple[Path, list[str]]:
    """Take a screenshot of the page as it is; return it and what the console says."""
    picture = folder / f"{page.stem}_{width}.png"
    done = browse(page, folder, f"--window-size={width},2000", f"--screenshot={picture}")
    return picture, complaints(done)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section, long names, and a model of 48 layers of 128 experts."""
    folder = tmp_path_factory.mktemp("page")
    shape = RoutingShape(tuple(range(48)), 128, 8, 48)
    large = write_profile(
        folder / "large.safetensors",
        ["en", "bn", "de", "es", "fr", "sw", "te", "zh"],
        shape=shape,
        items=3,
        overlap=True,
    )
    small = write_profile(folder / "small.safetensors", list(BASELINE), overlap=True)
    long = "a-rather-long-name-of-a-steering-with-no-blank-in-it-" * 2
    write_report(
        [
            LabelledRun("plain", results_of(BASELINE)),
            LabelledRun(long, results_of(STEERED, steering=CHOSEN, shift=-0.05)),
            LabelledRun("dice", results_of(BASELINE, steering=RANDOM)),
        ],
        folder / "page.html",
        title="Everything",
        profile_sets=[read_inputs([str(small)]), read_inputs([str(large)])],
        sweeps=[read_sweep(write_sweep(folder / "sweep", some_cells()))],
    )
    return folder / "page.html"


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_page_fits(page: Path, tmp_path: Path, width: int) -> None:
    found = probe(page, tmp_path, width)
    assert found["inner"] == width
    assert found["figures"] == 15
    assert found["scroll"] <= found["width"]
    assert found["outside"] == []
    assert found["overlaps"] == []
    assert found["smallest"] >= 7  # pixels


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_browser_shows_it_without_a_complaint(page: Path, tmp_path: Path, width: int) -> None:
    path, console = picture_of(page, tmp_path, width)
    assert console == []
    with Image.open(path) as picture:
        assert picture.width == width
        assert len(picture.convert("L").getcolors() or []) > 20  # not blank


@pytest.mark.parametrize(
    ("scheme", "paper"), [(0, "rgb(21, 23, 26)"), (1, "rgb(252, 251, 248)")], ids=["dark", "light"]
)
def test_dark_screens_get_dark_paper_and_light_ones_light(page: Path, tmp_path: Path, scheme: int, paper: str) -> None:
    assert probe(page, tmp_path, PHONE, f"--blink-settings=preferredColorScheme={scheme}")["paper"] == paper


def test_nothing_is_fetched(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    tags = PageReader(html).tags
    links = [value for _, found in tags for name, value in found.items() if name in ("src", "href", "srcset") and value]
    assert all(link.startswith(("#", "data:")) for link in links)


def test_what_does_not_fit_or_is_forbidden_would_be_noticed(page: Path, tmp_path: Path) -> None:
    """That the tests above can fail."""
    altered = tmp_path / "altered.html"
    wide = '<div style="width: 3000px">x</div><script>1</script>'
    wide += '<svg role="img" aria-label="a"><text y="20">one</text><text y="20">two</text></svg>'
    altered.write_text(page.read_text(encoding="utf-8").replace("</main>", f"{wide}</main>"), encoding="utf-8")
    _, console = picture_of(altered, tmp_path, PHONE)
    assert any("Content Security Policy" in line for line in console)
    found = probe(altered, tmp_path, PHONE)
    assert found["scroll"] > found["width"]
    assert any(text.startswith("DIV") for text in found["outside"])
    assert found["overlaps"] == ["a | one | two"]
