"""The report of 62 languages and 8 runs, in a real browser at two widths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser, open_browser
from support.large_study import large_study

from lm_eval_moe.report import write_report


@pytest.fixture(scope="session")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    study = large_study(folder)
    path = folder / "report.html"
    write_report(study.runs, path, title="A large study", profile_sets=study.profile_sets, sweeps=study.sweeps)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(params=[1200, 390])
def tab(request: pytest.FixtureRequest, browser: Browser, large_page: Path) -> Iterator[Browser]:
    browser.open(large_page, request.param)
    yield browser
    assert browser.complaints == []
