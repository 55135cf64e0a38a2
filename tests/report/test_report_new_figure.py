"""A figure is one module that declares itself, ours or anybody's: the page and the folder of figures have it."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_profiles import write_profile
from written_results import BASELINE, results_of

from lm_eval_moe.cli.main import main
from lm_eval_moe.report.figures import BENCHMARK, PROFILES

GUIDE = Path(__file__).parents[2] / "docs" / "report.md"
DOCUMENTS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)[-1]
MISSING = """
from lm_eval_moe.analysis import NotPossible
from lm_eval_moe.report.figures import PROFILES


@PROFILES.figure("never", order=15, title="A figure of another kind")
def never(given):
    raise NotPossible("it needs a moon", "give one")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = tmp_path / "b_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "figures.py").write_text(DOCUMENTS + MISSING)
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in (BENCHMARK, PROFILES):  # as they were before, afterwards
        monkeypatch.setattr(place, "_declared", dict(place._declared))
    importlib.import_module("b_plugin.figures")
    yield
    for name in [name for name in sys.modules if name.startswith("b_plugin")]:
        del sys.modules[name]


@pytest.mark.usefixtures("plugin")
def test_a_figure_of_another_package_stands_on_the_page_and_in_the_folder(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    results.write_text(json.dumps(results_of(BASELINE)))
    profile = write_profile(tmp_path / "p.safetensors", ["en", "de"])
    page, folder = tmp_path / "report.html", tmp_path / "figures"
    assert main(["report", str(results), str(profile), "--output", str(page), "--figures", str(folder)]) == 0
    text = page.read_text(encoding="utf-8")
    titles = ["Accuracy by language", "Documents by language", "Which experts a language uses more or less"]
    places = [text.index(f"<h3>{title}</h3>") for title in titles]
    assert places == sorted(places)
    assert "A figure of another kind: it needs a moon; give one." in text
    (data,) = folder.glob("*_documents.csv")
    assert data.read_text().splitlines()[:2] == ["language,documents", f"en,{len(BASELINE['en'])}"]
    assert data.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_two_figures_of_a_place_have_two_names() -> None:
    with pytest.raises(ValueError, match="already"):
        BENCHMARK.figure("scores", order=1, title="Again")(lambda given: None)
