from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats
from support.written_results import BASELINE, CHOSEN, DIVERGENCE, RANDOM, STEERED, PageReader, results_of, stderr

from lm_eval_moe.errors import UserError
from lm_eval_moe.number_text import p_text
from lm_eval_moe.report import LabelledRun, write_report
from lm_eval_moe.statistics import correlation

MINUS, THIN = "\N{MINUS SIGN}", "\N{THIN SPACE}"


def written(path: Path, *runs: LabelledRun, title: str = "A title") -> tuple[str, PageReader]:
    write_report(runs, path / "page.html", title=title)
    html = (path / "page.html").read_text(encoding="utf-8")
    return html, PageReader(html)


def two_runs(**changes: Any) -> list[LabelledRun]:
    return [
        LabelledRun("plain", results_of(BASELINE)),
        LabelledRun("steered", results_of(STEERED, steering=CHOSEN, shift=-0.05) | changes),
    ]


def percent(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", MINUS)


def test_table_holds_the_scores_and_paired_differences(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    for lang in BASELINE:
        change = np.subtract(STEERED[lang], BASELINE[lang])
        row = page.row(lang)
        sign = "+" if change.mean() > 0 else ""
        assert row[1] == percent(np.mean(BASELINE[lang])) + percent(stderr(BASELINE[lang]))
        assert row[3] == percent(np.mean(STEERED[lang])) + percent(stderr(STEERED[lang]))
        assert row[4] == sign + percent(change.mean()) + percent(stats.sem(change))
        assert row[2].startswith(f"{DIVERGENCE[lang]:.3f}" if lang in DIVERGENCE else "–")


def test_languages_stand_in_order_of_the_baseline_after_the_reference(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    assert [row[0] for row in page.tables[0][2:7]] == ["enreference", "de", "tr", "zh", "sw"]


def test_averages_cluster_by_item(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    for name, languages in (("average", list(BASELINE)), ("without en", [lang for lang in BASELINE if lang != "en"])):
        before, after = (np.array([scores[lang] for lang in languages]) for scores in (BASELINE, STEERED))
        change = (after - before).mean(axis=0)
        row = page.row(name)
        assert row[1] == percent(before.mean()) + percent(stats.sem(before.mean(axis=0)))
        assert row[4] == "+" + percent(change.mean()) + percent(stats.sem(change))


def test_differences_are_unpaired_without_samples_and_the_page_says_so(tmp_path: Path) -> None:
    runs = two_runs()
    for run in runs:
        del run.results["samples"]
    _, page = written(tmp_path, *runs)
    error = math.hypot(stderr(BASELINE["sw"]), stderr(STEERED["sw"]))
    assert page.row("sw")[4] == "+20.0" + percent(error)
    assert "unpaired" in page.text
    assert "are paired" not in page.text


def test_other_documents_under_the_same_numbers_are_not_paired(tmp_path: Path) -> None:
    runs = two_runs()
    for sample in runs[1].results["samples"]["sums_sw"]:
        sample["doc_hash"] += "changed"
    _, page = written(tmp_path, *runs)
    error = math.hypot(stderr(BASELINE["sw"]), stderr(STEERED["sw"]))
    assert page.row("sw")[4] == "+20.0" + percent(error)
    assert page.row("zh")[4] == f"{MINUS}10.010.0"


def test_a_difference_within_noise_is_called_that(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    change = np.array([np.subtract(STEERED[lang], BASELINE[lang]) for lang in BASELINE]).mean(axis=0)
    said = f"Accuracy over 5 languages: +{percent(change.mean())} ± {percent(stats.sem(change))} percentage points, "
    assert said + "no difference beyond noise (3 of 50 values changed)" in page.text
    assert "In none of the 5 languages is the difference beyond noise." in page.text
    assert "beyond" not in {attributes.get("class") for tag, attributes in page.tags if tag == "td"}


def test_a_difference_beyond_noise_is_marked(tmp_path: Path) -> None:
    worse = {**BASELINE, "en": [0] * 10}
    _, page = written(tmp_path, LabelledRun("plain", results_of(BASELINE)), LabelledRun("worse", results_of(worse)))
    assert page.row("en")[4].endswith("*")
    assert "1 is beyond noise: en (" + MINUS + "90.0)" in page.text


def test_identical_runs_are_called_identical(tmp_path: Path) -> None:
    _, page = written(tmp_path, LabelledRun("a", results_of(BASELINE)), LabelledRun("b", results_of(BASELINE)))
    assert "no change in any of the 50 values" in page.text


def test_correlation_is_worded_by_its_p_and_has_the_interval_of_the_analyses(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    languages = list(DIVERGENCE)
    found = correlation([DIVERGENCE[k] for k in languages], [float(np.mean(BASELINE[k])) for k in languages])
    assert found is not None
    assert found.interval is not None
    r, low, high = (f"{value:+.2f}".replace("-", MINUS) for value in (found.r, *found.interval))
    said = f"Pearson r = {r} over n = 4 languages, 95 % interval {low} to {high} (Fisher's z), {p_text(found.p)}"
    assert said in page.text
    assert found.p >= 2 / 24  # four points can show nothing
    assert "That is within chance" in page.text


def test_divergence_by_layer_is_the_curve(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    table = next(number for number, rows in enumerate(page.tables) if rows[0] == ["language", *map(str, range(8))])
    assert page.row("zh", table) == ["zh", *(f"{0.45 + 0.02 * abs(layer - 3):.3f}" for layer in range(8))]
    assert "lowest in the middle layers; that holds in 4 of 4 languages" in page.text


def test_middle_divergence_comes_from_the_curve_where_the_field_was_not_asked_for(tmp_path: Path) -> None:
    results = results_of(BASELINE)
    for scores in results["results"].values():
        scores.pop("routing_divergence,none", None)
    _, page = written(tmp_path, LabelledRun("plain", results))
    assert page.row("zh")[2] == f"{0.45 + 0.02 * (1 + 0 + 1 + 2) / 4:.3f}"


def test_steered_runs_are_compared_with_a_random_control(tmp_path: Path) -> None:
    control = LabelledRun("dice", results_of(BASELINE, steering=RANDOM))
    _, page = written(tmp_path, *two_runs(), control)
    assert "steered against dice, which steers random experts" in page.text
    assert "without that control" not in page.text


def test_a_run_with_controls_of_its_own_lacks_none(tmp_path: Path) -> None:
    runs = two_runs()
    entry = {"steered": 0.6, "per_control": [0.5], "gain": 0.1, "stderr": 0.1, "low": -0.1, "high": 0.3}
    runs[1].results["routing"]["control"] = {"seeds": [1], "tasks": {"sums_sw": {"acc,none": entry}}, "groups": {}}
    _, page = written(tmp_path, *runs)
    assert "without that control" not in page.text
    assert "steered against 1 draw of random experts, in sw: +10.0 percentage points" in page.text


def test_a_missing_random_control_is_said(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    assert "No run steers random experts: without that control nothing can be said" in page.text


def test_provenance_names_model_steering_versions_and_documents(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    for text in ("some/model", "MoE layers 0-7 of 8, 16 experts, top 2", "ab" * 32, "0.4.13", "2023-11-14", "10 of 99"):
        assert text in page.text
    assert "c (hash abababababababab)" in page.text
    assert "experts:\n    ids:\n      2: [1, 5]" in page.text


def test_secrets_among_the_model_arguments_stay_out(tmp_path: Path) -> None:
    runs = two_runs(config={"model": "hf", "model_args": "pretrained=some/model,token=hf_SECRET,dtype=auto"})
    html, page = written(tmp_path, *runs)
    assert "hf_SECRET" not in html
    assert "token=(hidden), dtype=auto" in page.text


def test_runs_that_differ_in_more_than_steering_are_called_that(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs(lm_eval_version="0.5.0", versions={"sums_sw": 2.0}))
    assert "The runs differ in more than their steering" in page.text
    assert "lm-eval version: 0.4.13 in plain; 0.5.0 in steered" in page.text
    assert "version of sums_sw" in page.text
    _, alike = written(tmp_path, *two_runs())
    assert "differ in more" not in alike.text


def test_markup_in_labels_titles_and_specs_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&$x^2$"
    runs = [
        LabelledRun(evil, results_of(BASELINE)),
        LabelledRun("s", results_of(STEERED, steering={**CHOSEN, "name": evil})),
    ]
    runs[0].results["config"]["model_args"] = {"pretrained": evil}
    runs[0].results["results"][f"task {evil}"] = {f"{evil},none": 1.0}
    html, page = written(tmp_path, *runs, title=evil)
    assert "<script" not in html
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert page.text.count(evil) > 5
    assert any(evil in (attributes.get("aria-label") or "") for tag, attributes in page.tags if tag == "svg")


def test_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    html, page = written(tmp_path, *two_runs())
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action") and value
    ]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\((?!#)", html)


def test_figures_are_well_formed_described_and_coloured_by_the_page(tmp_path: Path) -> None:
    html, page = written(tmp_path, *two_runs())
    figures = [figure for figure in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if 'role="img"' in figure]
    assert len(figures) == 5
    for figure in figures:
        ElementTree.fromstring(figure)
        assert not re.search(r"#[0-9a-f]{6}\b", figure)
    described = [attributes["aria-label"] for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert [text.split()[0] for text in described if text] == ["Dot", "Dot", "Line", "Line", "Scatter"]
    assert {"en", "de", "sw", "zh", "tr"} <= set(re.findall(r">\s*([a-z]{2})</text>", figures[0]))


def test_ids_are_unique_and_references_lead_somewhere(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name == "aria-labelledby" or (name == "href" and (value or "").startswith("#"))
    ]
    assert wanted
    assert {(value or "").lstrip("#") for value in wanted} <= set(ids)


def test_tables_have_captions_and_header_cells(tmp_path: Path) -> None:
    _, page = written(tmp_path, *two_runs())
    assert page.captions == len(page.tables) > 3
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    first, _ = written(tmp_path, *two_runs())
    second, _ = written(tmp_path, *two_runs())
    assert first == second


def test_results_read_back_from_json_give_the_same_page(tmp_path: Path) -> None:
    runs = two_runs()
    first, _ = written(tmp_path, *runs)
    second, _ = written(tmp_path, *(LabelledRun(run.label, json.loads(json.dumps(run.results))) for run in runs))
    assert first == second


def test_tasks_without_language_or_the_benchmarks_metric_are_listed_plainly(tmp_path: Path) -> None:
    results = results_of(BASELINE)
    results["results"] |= {
        "riddles": {"acc,none": 0.25, "acc_stderr,none": "N/A"},
        "lines": {"alias": "lines"},
        "sums": {"acc,none": 0.5},  # a group
        "again": {"acc,none": 0.75, "acc_stderr,none": 0.05},
        "other": {"f1,none": 0.5},
        "nowhere": {"acc,none": 0.5},
    }
    results["groups"] = {"sums": {}}
    results["configs"]["nowhere"] = {
        "metadata": {"routing": {"language": "nonsense", "benchmark": "sums", "item": "row"}}
    }
    for task, lang in (("again", "sw"), ("other", "hi")):
        results["routing"]["tasks"][task] = {**results["routing"]["tasks"]["sums_sw"], "language": lang}
    _, page = written(tmp_path, LabelledRun("plain", results))
    rows = {row[0]: row[1:] for row in next(table for table in page.tables if "why here" in table[0])}
    thin = "\N{NARROW NO-BREAK SPACE}"
    assert rows["riddles"] == [f"acc,none 25.0{thin}%", "its language is not known"]
    assert rows["lines"] == ["–", "it has no metric with a number"]
    assert rows["again"] == [f"acc,none 75.0{thin}% ± 5.0", "sums_sw is already sums in sw"]
    assert rows["other"] == ["f1,none 0.500", "its main metric is not acc,none, which the rest of sums has"]
    assert rows["nowhere"][-1].startswith("'nonsense' is not a language code")
    assert "sums" not in rows


def test_generation_scores_under_their_filter_are_the_main_metric(tmp_path: Path) -> None:
    results = results_of(BASELINE)
    for task, scores in results["results"].items():
        scores["exact_match,number"], scores["exact_match_stderr,number"] = scores.pop("acc,none"), 0.1
        for sample in results["samples"][task]:
            sample["filter"], sample["exact_match"] = "number", sample.pop("acc")
    _, page = written(tmp_path, LabelledRun("plain", results))
    assert "Exact match (number) in %" in page.text
    assert page.row("de")[1:3] == [
        "80.010.0",
        f"{DIVERGENCE['de']:.3f}" + f"{stderr([0.01, -0.01] * 5):.3f}",
    ]


def test_scores_that_are_no_mean_over_items_are_not_paired(tmp_path: Path) -> None:
    def perplexities(factor: float) -> dict[str, Any]:
        results = results_of(BASELINE)
        for task, scores in results["results"].items():
            scores.pop("acc,none")
            scores["byte_perplexity,none"] = factor * (1.5 + 0.1 * len(results["results"]))
            results["higher_is_better"][task] = {"byte_perplexity": False}
            for sample in results["samples"][task]:
                sample.pop("acc")
                sample["byte_perplexity"] = [-12.5, 30]
        return results

    _, page = written(tmp_path, LabelledRun("a", perplexities(1.0)), LabelledRun("b", perplexities(1.1)))
    assert "lower is better" in page.text
    assert page.row("de")[4] == "+0.200"
    assert "no standard error that could tell" in page.text


def test_a_run_of_another_model_type_takes_its_languages_from_the_others(tmp_path: Path) -> None:
    stock = results_of(STEERED)
    del stock["routing"]
    for scores in stock["results"].values():
        scores.pop("routing_divergence,none", None)
    for config in stock["configs"].values():
        config["metadata"] = {}
    _, page = written(tmp_path, LabelledRun("plain", results_of(BASELINE)), LabelledRun("stock", stock))
    assert page.row("sw")[4] == "+20.0" + percent(stats.sem(np.subtract(STEERED["sw"], BASELINE["sw"])))
    assert page.row("sw")[5] == "–"


def test_languages_of_stock_results_are_known_from_the_tasks_names(tmp_path: Path) -> None:
    results = results_of({"sw": BASELINE["sw"]})
    for table in ("results", "samples", "n-samples"):
        results[table] = {"mgsm_direct_sw": results[table].pop("sums_sw")}
    del results["routing"], results["configs"]
    _, page = written(tmp_path, LabelledRun("stock", results))
    assert page.row("sw")[1].startswith("40.0")


def test_a_language_that_a_run_lacks_is_left_out_of_its_averages_alone(tmp_path: Path) -> None:
    fewer = {lang: values for lang, values in STEERED.items() if lang != "tr"}
    _, page = written(tmp_path, LabelledRun("plain", results_of(BASELINE)), LabelledRun("fewer", results_of(fewer)))
    assert page.row("tr")[3:5] == ["–", "–"]
    average = page.row("average")
    assert average[0] == "average5 languages"
    assert average[1].startswith(percent(np.mean(list(BASELINE.values()))))
    assert average[3].startswith(percent(np.mean(list(fewer.values()))))
    assert average[3].endswith("F")
    change = np.mean([np.subtract(fewer[lang], BASELINE[lang]) for lang in fewer])
    assert average[4].startswith(("+" if change > 0 else "") + percent(change))
    assert "F: over fewer languages than the column has: fewer (4 of 5 in average" in page.text
    assert "fewer lacks tr: its averages are over the languages that it has" in page.text


def test_many_languages_and_layers_fit(tmp_path: Path) -> None:
    codes = ["am", "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "es", "et", "fa", "fi", "fr", "gu", "ha", "he", "hi"]
    codes += [
        "hu",
        "id",
        "ig",
        "it",
        "ja",
        "ka",
        "kk",
        "km",
        "kn",
        "ko",
        "ky",
        "lo",
        "lt",
        "lv",
        "mk",
        "ml",
        "mn",
        "mr",
    ]
    scores = {"en": BASELINE["en"], **dict.fromkeys(codes, BASELINE["tr"])}
    results = results_of(scores)
    bands = {"early": list(range(1, 11)), "middle": list(range(11, 46)), "late": list(range(46, 61))}
    results["routing"]["model_shape"] |= {"layers": list(range(1, 61)), "depth": 61, "bands": bands}
    for number, code in enumerate(codes):
        entry = results["routing"]["tasks"][f"sums_{code}"]
        entry["curves"]["divergence"] = [0.3 + 0.001 * number, *[None] * 3, *[0.2 + 0.002 * number] * 56]
    html, page = written(tmp_path, LabelledRun("plain", results))
    assert len(page.tables[0]) == 2 + 37 + 2
    # Scores and divergence, each once more in a fold: all languages, by family. And accuracy by divergence.
    assert html.count('role="img"') == 5


def test_one_item_a_language_has_no_errors_but_a_page(tmp_path: Path) -> None:
    results = results_of({lang: values[:2] for lang, values in BASELINE.items()})
    for task, scores in results["results"].items():
        results["samples"][task] = results["samples"][task][:1]
        scores["acc,none"], scores["acc_stderr,none"] = results["samples"][task][0]["acc"], "N/A"
    _, page = written(tmp_path, LabelledRun("a", results), LabelledRun("b", results))
    assert page.row("en")[3:5] == ["100.0", "0.0"]


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "a report needs at least one run"),
        ([LabelledRun("a", {"results": {}}), LabelledRun("a", {"results": {}})], "'a' is given to several runs"),
        ([LabelledRun(" ", {"results": {}})], "' ' is empty"),
        ([LabelledRun("a", {})], "'a' has no table of results"),
        ([LabelledRun("a", None)], "'a' has no table of results"),  # simple_evaluate on another process than the first
    ],
)
def test_unusable_runs_are_refused(tmp_path: Path, runs: list[LabelledRun], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_report(runs, tmp_path / "page.html", title="t")
    assert not (tmp_path / "page.html").exists()


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}: cannot write the report: Is a directory"):
        write_report(two_runs(), tmp_path, title="t")


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write_report(two_runs(), tmp_path / "a" / "b.html", title="t")
    assert (tmp_path / "a" / "b.html").is_file()


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # the import statement then raises ImportError
    with pytest.raises(UserError, match=r'-> pip install "lm-eval-moe\[report\]"'):
        write_report(two_runs(), tmp_path / "page.html", title="t")


def test_importing_it_is_light() -> None:
    code = (
        "import sys, lm_eval_moe.report;"
        "print(*sorted({'torch', 'transformers', 'lm_eval', 'matplotlib', 'jinja2', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
