"""The demo's own report, and a report on what the demo and a real sweep have written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.report_profiles import write_profile
from support.written_results import PageReader

from lm_eval_moe.cli import main
from lm_eval_moe.profiles import read_profile

SWEEP = """
version: 1
name: two strengths
steering:
  version: 1
  interventions:
    - {layers: middle, experts: {ids: {2: [8], 4: [5]}}, action: {soft: 0.5}}
grid: {interventions.0.action.soft: [-0.5, 0.5]}
tasks: [demo_arith_en, demo_arith_sw]
controls: 1
evaluation: {limit: 3, batch_size: 8}
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    # Of an earlier demo: it would be read as the reference, not written.
    write_profile(folder / "routing_profile.safetensors", ["en", "sw"])
    assert main(["demo", "--limit", "4", "--output_path", str(folder)]) == 0
    return folder


def test_the_demo_ends_with_curves_heat_map_dendrogram_and_gains(demo: Path) -> None:
    html = (demo / "report.html").read_text(encoding="utf-8")
    for title in (
        "Change of accuracy against baseline",
        "Gain over random experts",
        "Divergence through the layers",
        "Entropy through the layers",
        "Languages by the experts they use",
        "Which experts a language uses more or less",
    ):
        assert f"<h3>{title}</h3>" in html
    # It has taken the place of an earlier one.
    profile = read_profile(demo / "routing_profile.safetensors")
    assert len(profile.items) == 8 * 4
    assert profile.header.steering is None


def test_a_report_on_the_demos_files_has_the_demos_numbers(demo: Path, tmp_path: Path) -> None:
    names = ("baseline", "steered", "random control")
    files = [f"{name}={demo / f'results_{name.replace(chr(32), chr(95))}.json'}" for name in names]
    given = [*files, str(demo / "routing_profile.safetensors")]
    assert main(["report", *given, "-o", str(tmp_path / "p.html"), "--title", "The lm-eval-moe demo"]) == 0
    own, again = (PageReader(path.read_text(encoding="utf-8")) for path in (demo / "report.html", tmp_path / "p.html"))
    assert own.tables[:4] == again.tables[:4]
    assert "Standard errors of differences are paired" in again.text


def test_the_demos_results_keep_no_prompts(demo: Path) -> None:
    samples = json.loads((demo / "results_steered.json").read_text(encoding="utf-8"))["samples"]["demo_arith_sw"]
    assert len(samples) == 4
    assert all(not {"arguments", "resps", "target"} & sample.keys() for sample in samples)


def test_a_real_sweep_is_read(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    folder = tmp_path / "out"
    given = [str(tmp_path / "sweep.yaml"), "--model_args", "pretrained=demo", "--output", str(folder)]
    assert main(["sweep", *given]) == 0
    assert main(["report", str(folder), "-o", str(tmp_path / "p.html")]) == 0
    page = PageReader((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert "Sweep two strengths: demo_arith" in page.text
    cells = json.loads((folder / "table.json").read_text(encoding="utf-8"))["benchmarks"][0]["cells"]
    expected = [f"{100 * cell['effects']['mean']['gain']['value']:+.1f}".replace("+0.0", "0.0") for cell in cells]
    rows = page.tables[0][1:]
    assert [row[0] for row in rows] == ["\N{MINUS SIGN}0.5", "0.5"]
    assert [row[2] for row in rows] == [text.replace("-0.0", "0.0").replace("-", "\N{MINUS SIGN}") for text in expected]
