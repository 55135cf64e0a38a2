from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.report_profiles import write_profile
from support.written_results import BASELINE, CHOSEN, RANDOM, STEERED, PageReader, results_of
from support.written_sweeps import some_cells, write_sweep

from lm_eval_moe.cli import main

LANGUAGES = ["en", "de", "sw", "zh", "tr"]


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def page_of(*arguments: str, output: Path) -> tuple[str, PageReader]:
    assert main(["report", *arguments, "--output", str(output)]) == 0
    html = output.read_text(encoding="utf-8")
    return html, PageReader(html)


@dataclass(frozen=True)
class Reported:
    """A directory with three runs, a profile, a sweep and a model's weights, and the report on it."""

    given: Path
    html: str
    page: PageReader
    figures: Path
    stderr: str


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    tmp_path = tmp_path_factory.mktemp("report")
    folder = tmp_path / "all"
    write_json(folder / "a" / "results_1.json", results_of(STEERED, steering=CHOSEN))
    write_json(folder / "b" / "results_2.json", results_of(BASELINE))
    write_json(folder / "c" / "results_3.json", results_of(BASELINE, steering=RANDOM))
    write_profile(folder / "routing.safetensors", LANGUAGES, overlap=True)
    save_file({"weight": np.zeros((2, 2), dtype=np.float32)}, str(folder / "model.safetensors"))
    sweep = write_sweep(folder / "sweep", some_cells())
    write_json(sweep / "runs" / "results_baseline.json", results_of(BASELINE))
    output, figures = tmp_path / "page.html", tmp_path / "figures"
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        html, page = page_of(str(folder), "--figures", str(figures), output=output)
    return Reported(folder, html, page, figures, stderr.getvalue())


def titles(page: PageReader, html: str) -> list[str]:
    return [text.split("</h3>")[0] for text in html.split("<h3>")[1:]]


def test_a_directory_is_told_apart_by_content(
    reported: Reported,
) -> None:
    html, page = reported.html, reported.page
    assert "3 runs; the first, unsteered, is the baseline" in page.text
    assert "model.safetensors is left aside: it is not a routing profile" in page.text
    assert "model.safetensors is left aside" in reported.stderr
    for heading in ("sums", "Routing", "Sweep by-strength: sums", "Where the numbers come from"):
        assert f">{heading}</h2>" in html
    for title in (
        "Accuracy by language",
        "Change of accuracy against unsteered",
        "Gain over random experts",
        "Accuracy against divergence",
        "Divergence through the layers",
        "Entropy through the layers",
        "Overlap of neighbouring tokens&#39; experts",
        "Languages by the experts they use",
        "Which experts a language uses more or less",
        "Gain over the baseline",
    ):
        assert titles(page, html).count(title) == 1, title


def test_sections_are_there_only_where_there_are_data(tmp_path: Path) -> None:
    profile = write_profile(tmp_path / "p.safetensors", ["en", "sw"])
    html, page = page_of(str(profile), output=tmp_path / "page.html")
    assert titles(page, html) == [
        "Divergence through the layers",
        "Entropy through the layers",
        "Which experts a language uses more or less",
        "Not shown",
    ]
    assert "no profile holds the overlap of consecutive tokens; capture it with" in page.text
    assert "it compares at least 3 languages" in page.text


def test_the_unsteered_run_comes_first_and_controls_last_unless_a_baseline_is_named(tmp_path: Path) -> None:
    paths = {
        "dice": write_json(tmp_path / "results_1.json", results_of(BASELINE, steering=RANDOM)),
        "soft": write_json(tmp_path / "results_2.json", results_of(STEERED, steering=CHOSEN)),
        "plain": write_json(tmp_path / "results_3.json", results_of(BASELINE)),
    }
    given = [f"{name}={path}" for name, path in paths.items()]
    _, page = page_of(*given, output=tmp_path / "page.html")
    assert page.tables[0][0] == ["", "plain", "soft", "dice"]
    _, page = page_of(*given, "--baseline", "soft", output=tmp_path / "page.html")
    assert page.tables[0][0] == ["", "soft", "plain", "dice"]


def test_json_counts_are_profiles_of_the_language_that_is_named(tmp_path: Path) -> None:
    def dump(shift: int) -> dict[str, Any]:
        layer = {
            str(e): {"activation_tokens": 10 + shift * (-1) ** e, "gate_values_sum": 5.0 + shift * (-1) ** e}
            for e in range(4)
        }
        return {str(i): {**layer, "total_tokens": 20} for i in range(6)}

    given = [f"{lang}={write_json(tmp_path / f'{lang}.json', dump(i))}" for i, lang in enumerate(("en", "sw", "de"))]
    _, page = page_of(*given, output=tmp_path / "page.html")
    assert "In the middle layers sw is routed most like en" in page.text
    assert "Pooled counts: it cannot be told what of it is noise." in page.text
    assert "Pooled over items" in page.text


def test_profiles_of_other_texts_have_sections_of_their_own(tmp_path: Path) -> None:
    paths = [
        write_profile(tmp_path / f"{benchmark}_{lang}.safetensors", [lang], benchmark=benchmark)
        for benchmark in ("sums", "news")
        for lang in ("en", "sw")
    ]
    html, page = page_of(*map(str, paths), output=tmp_path / "page.html")
    assert "Routing over sums</h2>" in html
    assert "Routing over news</h2>" in html
    assert page.text.count("2 languages, 144 tokens") == 2


def test_every_figure_is_a_png_an_svg_and_a_csv_in_real_colours(reported: Reported) -> None:
    folder, html = reported.figures, reported.html
    stems = {path.stem for path in folder.iterdir()}
    assert len(stems) == html.count('role="img"') == 10
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}.{end}" for stem in stems for end in ("png", "svg", "csv")
    }
    for stem in stems:
        assert (folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG\r\n")
        svg = (folder / f"{stem}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(svg)
        assert "var(" not in svg
        assert "#0100" not in svg
        rows = list(csv.reader((folder / f"{stem}.csv").open(encoding="utf-8", newline="")))
        assert len(rows) > 2
        assert len({len(row) for row in rows}) == 1


def test_the_same_files_give_the_same_bytes(reported: Reported, tmp_path: Path) -> None:
    html, _ = page_of(str(reported.given), "--figures", str(tmp_path / "f"), output=tmp_path / "page.html")
    assert html == reported.html
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (reported.figures, tmp_path / "f")
    )
    assert first == second


def test_data_on_the_page_are_those_of_the_csv_files(reported: Reported) -> None:
    tags = [attributes for name, attributes in reported.page.tags if name == "a" and "download" in attributes]
    links = {attributes["download"]: attributes["href"] for attributes in tags}
    assert len(links) == 10
    for name, link in links.items():
        assert name is not None
        assert link is not None
        assert base64.b64decode(link.partition("base64,")[2]) == (reported.figures / name).read_bytes()


EVIL = "<script>alert(1)</script>\x1b[31m\u202e\" onload '&"


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    results = results_of(STEERED, steering={**CHOSEN, "name": EVIL})
    results["config"]["model_args"] = {"pretrained": EVIL}
    results["lm_eval_version"] = EVIL
    for table in ("results", "versions", "n-samples", "higher_is_better", "samples", "configs"):
        results[table][EVIL] = results[table].pop("sums_sw")
    results["routing"]["tasks"][EVIL] = {**results["routing"]["tasks"].pop("sums_sw"), "language": EVIL}
    write_json(tmp_path / "results_1.json", results)
    write_json(tmp_path / "results_2.json", results_of(BASELINE))
    profile = write_profile(tmp_path / "p.safetensors", ["en", "sw", "de"], benchmark=EVIL, model=EVIL)
    cells = [({EVIL: EVIL}, effects) for _, effects in some_cells()[:1]]
    sweep = write_sweep(tmp_path / "sweep", cells, name=EVIL, benchmark=EVIL, languages=("en", EVIL))
    html, page = page_of(
        f"{EVIL}={tmp_path / 'results_1.json'}",
        str(tmp_path / "results_2.json"),
        str(profile),
        str(sweep),
        "--title",
        EVIL,
        "--figures",
        str(tmp_path / "figures"),
        output=tmp_path / "page.html",
    )
    assert not [tag for tag, _ in page.tags if tag in ("img", "script")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert page.text.count("<script>alert(1)</script>\\x1b[31m\\u202e") > 8
    for path in (tmp_path / "figures").iterdir():
        assert path.parent == tmp_path / "figures"
        assert path.name.isascii()
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text(encoding="utf-8"))


def test_formulas_in_names_are_none_in_the_data(tmp_path: Path) -> None:
    given = [
        f"=1+1={write_json(tmp_path / 'results_1.json', results_of(BASELINE))}",
    ]
    folder = tmp_path / "figures"
    assert main(["report", *given, "-o", str(tmp_path / "p.html"), "--figures", str(folder)]) == 2  # an empty name
    write_json(tmp_path / "results_2.json", results_of(STEERED, steering={**CHOSEN, "name": "x"}))
    runs = [f"@SUM(A1)={tmp_path / 'results_1.json'}", str(tmp_path / "results_2.json")]
    assert main(["report", *runs, "-o", str(tmp_path / "p.html"), "--figures", str(folder)]) == 0
    rows = list(csv.DictReader((folder / "sums_scores.csv").open(encoding="utf-8", newline="")))
    assert {row["run"] for row in rows} == {"'@SUM(A1)", "x"}


def truncated(path: Path) -> list[str]:
    whole = json.dumps(results_of(BASELINE))
    (path / "results_1.json").write_text(whole[: len(whole) // 2], encoding="utf-8")
    return [str(path / "results_1.json")]


def empty(path: Path) -> list[str]:
    (path / "nothing").mkdir()
    return [str(path / "nothing")]


def without_reference(path: Path) -> list[str]:
    return [str(write_profile(path / "sw.safetensors", ["sw", "de"]))]


def damaged_sweep(path: Path) -> list[str]:
    folder = write_sweep(path / "sweep", some_cells())
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    del table["benchmarks"][0]["cells"][0]["effects"]["en"]["gain"]
    write_json(folder / "table.json", table)
    return [str(folder)]


def newer_sweep(path: Path) -> list[str]:
    folder = write_sweep(path / "sweep", some_cells())
    write_json(folder / "table.json", {"schema_version": 2, "benchmarks": []})
    return [str(folder)]


def unknown_baseline(path: Path) -> list[str]:
    return [f"plain={write_json(path / 'results_1.json', results_of(BASELINE))}", "--baseline", "plian"]


def counts_without_language(path: Path) -> list[str]:
    layer = {"0": {"activation_tokens": 1, "gate_values_sum": 1.0}, "total_tokens": 1}
    return [str(write_json(path / "counts.json", {"0": layer}))]


def no_results(path: Path) -> list[str]:
    return [str(write_json(path / "x.json", {"a": 1}))]


def a_folder_as_output(path: Path) -> list[str]:
    return [str(write_profile(path / "p.safetensors", ["en", "sw"])), "--output", str(path)]


def a_named_sweep(path: Path) -> list[str]:
    return [f"x={write_sweep(path / 'sweep', some_cells())}"]


def missing(path: Path) -> list[str]:
    return [str(path / "not_there.json")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated, "is cut off"),
        (empty, "no results, profile or sweep in this directory: it is empty"),
        (without_reference, "there is no profile of en"),
        (damaged_sweep, "table.json: is damaged"),
        (newer_sweep, "is of schema version 2"),
        (unknown_baseline, "no run is called 'plian' (did you mean 'plain'?)"),
        (counts_without_language, "write en="),
        (no_results, "holds no table of results"),
        (a_folder_as_output, "is a folder"),
        (a_named_sweep, "a name is given to a directory with a sweep"),
        (missing, "there is no such file or directory"),
    ],
)
def test_mistakes_are_one_message(
    make: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = make(tmp_path)
    assert main(["report", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "report.html").exists()


def test_neither_torch_nor_lm_eval_is_imported(reported: Reported, tmp_path: Path) -> None:
    code = (
        "import sys; from lm_eval_moe.cli import main; "
        f"code = main(['report', {str(reported.given)!r}, '-o', {str(tmp_path / 'p.html')!r}]); "
        "print(code, sorted({'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lm_eval_moe.cli import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'scipy', 'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "page.pdf"], "--output page.pdf: the report is an HTML page"),
        (["--reference", "swahili"], "--reference: 'swahili' is not a language code"),
    ],
)
def test_an_option_that_cannot_apply_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "nowhere", *arguments]) == 2
    assert message in capsys.readouterr().err
