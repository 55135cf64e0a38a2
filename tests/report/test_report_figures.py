"""The data of the figures, and what is said of them, against SciPy, statsmodels and hand-worked numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import jensenshannon, pdist
from statsmodels.stats.multitest import multipletests
from support.report_profiles import write_profile
from support.score_oracle import score_interval
from support.written_results import BASELINE, CHOSEN, RANDOM, results_of
from support.written_sweeps import effect, some_cells, write_sweep

from lm_eval_moe.analysis import AnalysisInputs, read_inputs
from lm_eval_moe.analysis.divergence import DivergenceCurves
from lm_eval_moe.drawing.palette import file_colours
from lm_eval_moe.report.controls import gains_of, in_words
from lm_eval_moe.report.figures import BenchmarkSubject, ProfilesSubject, ReportFigure
from lm_eval_moe.report.figures._curve_figure import curve_figure
from lm_eval_moe.report.figures._curves import Curves, Line
from lm_eval_moe.report.figures.alignment import alignment_figure
from lm_eval_moe.report.figures.control_gains import control_gains_figure
from lm_eval_moe.report.figures.differences import differences_figure
from lm_eval_moe.report.figures.divergence import divergence_of_profiles
from lm_eval_moe.report.figures.experts import expert_heat_map
from lm_eval_moe.report.figures.families import families_figure
from lm_eval_moe.report.figures.sweep import sweep_heat_map
from lm_eval_moe.results import Benchmark, LabelledRun, Run, arrange
from lm_eval_moe.results.sweeps import gains_to_draw, read_sweep

LANGUAGES = ["en", "de", "sw", "zh"]
ITEMS = 40


def data(figure: ReportFigure | None) -> list[dict[str, str]]:
    assert figure is not None
    return list(csv.DictReader(io.StringIO(figure.csv, newline="")))


def benchmark_of(**runs: dict[str, Any]) -> Benchmark:
    (benchmark,), _ = arrange([Run(LabelledRun(label, results)) for label, results in runs.items()])
    return benchmark


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_profile(tmp_path_factory.mktemp("profile") / "p.safetensors", LANGUAGES, items=ITEMS)


@pytest.fixture(scope="module")
def inputs(profile: Path) -> AnalysisInputs:
    return read_inputs([str(profile)])


def of_language(path: Path, array: str, language: str) -> np.ndarray:
    at = LANGUAGES.index(language) * ITEMS
    return load_file(path)[array][at : at + ITEMS].astype(float)


def test_divergence_is_scipys_normalised_by_entropy(profile: Path, inputs: AnalysisInputs) -> None:
    figure = divergence_of_profiles(ProfilesSubject(inputs))
    p, q = of_language(profile, "importance", "sw"), of_language(profile, "importance", "en")
    room = np.log(16) - (stats.entropy(p, axis=-1) + stats.entropy(q, axis=-1)) / 2
    expected = jensenshannon(p, q, axis=-1) ** 2 / room
    shown = [row for row in data(figure) if row["language"] == "sw"]
    np.testing.assert_allclose([float(row["mean"]) for row in shown], expected.mean(0), rtol=1e-6)
    low, high = stats.t.interval(0.95, ITEMS - 1, expected.mean(0), stats.sem(expected, axis=0))
    np.testing.assert_allclose([float(row["low"]) for row in shown], low, rtol=1e-6)
    np.testing.assert_allclose([float(row["high"]) for row in shown], high, rtol=1e-6)


def test_every_run_has_a_strip_of_the_layers_that_it_steers_with_its_name(inputs: AnalysisInputs) -> None:
    steered = Run(LabelledRun("steered", results_of(BASELINE, steering=CHOSEN)))
    other = results_of(BASELINE, steering=CHOSEN)
    other["routing"]["steering"]["experts"] = {"4": [1], "5": [2], "7": [3]}
    figure = divergence_of_profiles(ProfilesSubject(inputs, [None, steered, Run(LabelledRun("other", other))]))
    strips = figure.draw(file_colours()).axes[1]
    assert [text.get_text() for text in strips.texts] == ["steered", "other"]
    blue, orange = (11 / 255, 106 / 255, 168 / 255), (196 / 255, 87 / 255, 10 / 255)
    bars = {
        colour: [
            (bar.get_x(), bar.get_width()) for bar in strips.patches if bar.get_facecolor()[:3] == pytest.approx(colour)
        ]
        for colour in (blue, orange)
    }
    assert bars == {blue: [(1.5, 1)], orange: [(3.5, 2), (6.5, 1)]}  # layer 2; layers 4 and 5, and 7


@pytest.mark.parametrize(("least", "from_zero"), [(0.19, True), (0.21, False)])
def test_an_axis_begins_at_zero_where_little_of_it_would_be_empty(least: float, from_zero: bool) -> None:
    points = {layer: (value, None, None) for layer, value in enumerate((0.6, least, 0.4))}
    bands = {"early": [0], "middle": [1], "late": [2]}
    curves = Curves([0, 1, 2], bands, [Line("sw", points)], ["sw"], "divergence")
    figure = curve_figure(curves, "t", "What.", "it")
    low, high = figure.draw(file_colours()).axes[0].get_ylim()
    assert (low == 0) == from_zero
    assert ("The axis does not begin at 0." in figure.caption) != from_zero
    assert 0 <= low <= least
    assert high > 0.6


def many_curves() -> Curves:
    """Twenty languages of all tiers; that of number n is at n / 100 in every layer, and one has a peak."""
    languages = ["de", "fr", "es", "it", "pt", "nl", "sv", "da", "uk", "bg", "el", "ro", "lt"]
    languages += ["sw", "yo", "zu", "xh", "ha", "am", "pcm"]
    lines = [
        Line(lang, dict.fromkeys(range(4), ((number + 1) / 100, None, None))) for number, lang in enumerate(languages)
    ]
    lines[9].points[0] = (0.9, None, None)
    return Curves(range(4), {"early": [0], "middle": [1, 2], "late": [3]}, lines, languages, "divergence")


def test_many_curves_are_drawn_as_medians_of_tiers_with_the_extremes_named() -> None:
    curves = many_curves()
    figure = curve_figure(curves, "t", "What.", "it")
    axes = figure.draw(file_colours()).axes[0]
    medians = {round(float(line.get_ydata()[1]), 6) for line in axes.lines if line.get_linewidth() > 2}
    # High: de to sv; mid: da to lt; low: sw to am; nothing is known of pcm.
    assert medians == {0.04, 0.105, 0.165, 0.2}
    names = {text.get_text().strip() for text in axes.texts}
    assert {"de", "fr", "am", "pcm", "bg"} <= names  # the lowest, the highest, and that with the peak
    assert not {"it", "sw", "el"} & names
    assert {"high (7)", "mid (6)", "low (6)", "unknown (1)"} <= names
    low, high = np.percentile(np.arange(8, 14) / 100, [10, 90])
    bands = [patch.get_paths()[0].vertices for patch in axes.collections]
    ends = [sorted({round(float(y), 6) for x, y in band if x == 1}) for band in bands]
    assert [round(float(low), 6), round(float(high), 6)] in ends
    assert [(row["language"], row["layer"]) for row in data(figure)][:2] == [("de", "0"), ("de", "1")]
    assert len(data(figure)) == 80


def test_every_choice_of_a_figure_is_drawn_once_under_its_number() -> None:
    figure = curve_figure(many_curves(), "t", "What.", "it")
    assert figure.choices == tuple(sorted(many_curves().languages))
    for draw in (figure.draw, figure.folded[0].draw):
        lines = [line for axes in draw(file_colours()).axes for line in axes.lines]
        drawn = {line.get_gid(): line.get_ydata()[1] for line in lines if line.get_gid()}
        expected = {f"choice-{figure.choices.index(line.language)}": line.points[1][0] for line in many_curves().lines}
        assert drawn == expected


def test_panels_by_family_hold_every_language_once() -> None:
    panels = curve_figure(many_curves(), "t", "What.", "it").folded[0].draw(file_colours()).axes
    titles = [text.get_text() for axes in panels for text in axes.texts if text.get_text().endswith(")")]
    assert "Indo-European (14)" in titles
    assert "Atlantic-Congo (4)" in titles
    assert "other families (2)" in titles  # Hausa and Amharic are two of a family


def test_expert_differences_are_paired_t_tests_with_holms_correction(profile: Path, inputs: AnalysisInputs) -> None:
    rows = [row for row in data(expert_heat_map(ProfilesSubject(inputs))) if row["language"] == "zh"]
    tokens = 12
    a, b = (of_language(profile, "counts", lang).reshape(ITEMS, -1) / tokens for lang in ("zh", "en"))
    values = {
        quantity: np.array(
            [[float(row[f"expert_{e}"]) for e in range(16)] for row in rows if row["quantity"] == quantity]
        )
        for quantity in ("difference", "beyond_noise")
    }
    np.testing.assert_allclose(values["difference"].ravel(), (a - b).mean(0), atol=6e-6)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = stats.ttest_rel(a, b).pvalue
    constant = np.ptp(a - b, axis=0) < 1e-12
    p[constant] = np.where(np.abs((a - b).mean(0)[constant]) > 1e-9, 2 / 2**ITEMS, 1.0)
    expected = multipletests(p, 0.05, method="holm")[0]
    assert 0 < expected.sum() < len(expected)
    assert values["beyond_noise"].ravel().tolist() == expected.tolist()
    figure = expert_heat_map(ProfilesSubject(inputs))
    assert figure is not None
    assert f"{expected.sum()} (zh)" in figure.finding or "(zh)" not in figure.finding


def test_dendrogram_is_drawn_at_scipys_heights(profile: Path, inputs: AnalysisInputs) -> None:
    figure = families_figure(ProfilesSubject(inputs))
    vectors = [of_language(profile, "counts", lang)[:, 2:6].mean(0).ravel() for lang in sorted(LANGUAGES)]
    heights = linkage(pdist(np.array(vectors), "jensenshannon"), "average")[:, 2]
    axes = figure.draw(file_colours()).axes[0]
    drawn = [max(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 4]
    np.testing.assert_allclose(sorted(drawn), heights, rtol=1e-6)
    assert {"en", "de", "sw", "zh", "Indo-European"} <= {text.get_text() for text in axes.texts}


def scores(ones: int, count: int = 12) -> list[int]:
    return [1] * ones + [0] * (count - ones)


def test_gain_is_over_the_mean_of_the_control_runs_of_the_same_size() -> None:
    plain, other = {"en": scores(6), "sw": scores(5)}, {"en": scores(8), "sw": scores(11)}
    larger = results_of(plain, steering=RANDOM)
    larger["routing"]["steering"]["experts"] = {"2": [0, 1, 2]}
    benchmark = benchmark_of(
        plain=results_of(plain),
        soft=results_of(other, steering=CHOSEN),
        dice=results_of(plain, steering=RANDOM),
        dice2=results_of({"en": scores(7), "sw": scores(5)}, steering=RANDOM),
        larger=larger,
    )
    (gains,) = gains_of(benchmark)
    assert gains.controls == ("dice", "dice2")
    assert gains.by_language["en"].gain == pytest.approx((8 - 6.5) / 12)
    assert gains.by_language["sw"].gain == pytest.approx(6 / 12)
    assert gains.average is not None
    assert gains.average.gain == pytest.approx((1.5 + 6) / 24)
    assert data(control_gains_figure(BenchmarkSubject(benchmark)))[0]["draws"] == "2"


@pytest.mark.parametrize(("changed", "beyond"), [(5, False), (6, True)])
def test_a_gain_of_few_items_needs_the_exact_test(changed: int, beyond: bool) -> None:
    """Of n items changed in one direction the exact test has p = 2 / 2**n; the score interval always leaves out 0."""
    benchmark = benchmark_of(
        plain=results_of({"en": scores(2, 60)}),
        soft=results_of({"en": scores(2 + changed, 60)}, steering=CHOSEN),
        dice=results_of({"en": scores(2, 60)}, steering=RANDOM),
    )
    assert (2 / 2**changed < 0.05) == beyond
    (gains,) = gains_of(benchmark)
    gain = gains.by_language["en"]
    low, high = score_interval(changed, 0, 60, 0.95)
    assert gain.high == pytest.approx(high)
    assert gain.low is not None
    assert low > 0
    assert gain.low == pytest.approx(low) if beyond else gain.low <= 0
    assert gain.differs_from_mean == beyond
    # One draw tells nothing of random sets.
    assert not gain.differs_from_draw
    assert "without an interval that could tell whether it is better than a random set" in in_words(gains, benchmark)


def test_own_controls_of_a_run_go_before_control_runs() -> None:
    results = results_of({"en": scores(8), "sw": scores(9)}, steering=CHOSEN)
    entry = {"steered": 0.7, "per_control": [0.6, 0.6, 0.6], "gain": 0.1, "stderr": 0.02, "low": 0.05, "high": 0.15}
    results["routing"]["control"] = {
        "kind": "random",
        "seeds": [1, 2, 3],
        "tasks": {f"sums_{lang}": {"acc,none": entry} for lang in ("en", "sw")},
        "groups": {},
    }
    benchmark = benchmark_of(plain=results_of({"en": scores(6), "sw": scores(6)}), soft=results)
    (gains,) = gains_of(benchmark)
    assert (gains.draws, gains.controls) == (3, ())
    assert gains.by_language["sw"].gain == 0.1
    assert "after Holm's correction: better in en and sw beyond noise" in in_words(gains, benchmark)
    assert "One draw" not in in_words(gains, benchmark)


def test_differences_have_the_score_interval() -> None:
    before, after = scores(4), [1, 0, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1]
    benchmark = benchmark_of(plain=results_of({"en": before}), other=results_of({"en": after}))
    (row,) = data(differences_figure(BenchmarkSubject(benchmark)))
    better, worse = (sum(change == side for change in np.subtract(after, before)) for side in (1, -1))
    assert float(row["difference"]) == pytest.approx(np.mean(after) - np.mean(before))
    assert (float(row["low"]), float(row["high"])) == pytest.approx(score_interval(better, worse, 12, 0.95), abs=1e-6)


def test_alignment_of_results_without_routing_is_by_the_profiles(inputs: AnalysisInputs) -> None:
    results = results_of({lang: BASELINE[lang] for lang in LANGUAGES})
    del results["routing"]
    for table in results["results"].values():
        table.pop("routing_divergence,none", None)
    figure = alignment_figure(BenchmarkSubject(benchmark_of(stock=results), [inputs]))
    curves = {curve.language: curve.bands["middle"].mean for curve in inputs.result(DivergenceCurves).curves}
    languages = list(curves)
    assert figure is not None
    assert figure.finding == "Too few languages (3) for a correlation."
    assert {row[1]: row[2:5:2] for row in figure.rows} == {
        lang: (pytest.approx(curves[lang]), pytest.approx(np.mean(BASELINE[lang]))) for lang in languages
    }
    assert "by the profiles" in figure.caption


def sweep_figure(folder: Path, cells: Sequence[Any]) -> ReportFigure:
    (benchmark,) = read_sweep(write_sweep(folder, cells)).benchmarks
    figure = sweep_heat_map(benchmark)
    assert figure is not None
    return figure


def test_a_sweep_within_noise_is_called_that(tmp_path: Path) -> None:
    figure = sweep_figure(tmp_path / "s", some_cells()[:1])
    said = (
        "Largest gain over random controls: early, -0.5, -1.0 percentage points (95 % intervals -4.0 to +2.0 against "
        "the mean of random sets). Whether it is better than a random set cannot be told from 1 draw. Of 1 cell, none "
        "differs from a random set beyond noise."
    )
    assert figure.finding == said.replace("-", "\N{MINUS SIGN}")


def test_a_sweep_counts_the_cells_beyond_their_controls(tmp_path: Path) -> None:
    worse = effect(-0.1, 0.0, -0.12, -0.08, draws=3)
    cells = [
        *some_cells(draws=3),
        ({"interventions.0.layers": "late", "interventions.0.action.soft": 1}, {"mean": worse}),
    ]
    figure = sweep_figure(tmp_path / "s", cells)
    assert "Largest gain over random controls: middle, 0.5, +9.0 percentage points" in figure.finding
    assert "+5.0 to +13.0 against the mean of random sets" in figure.finding
    assert "which do not allow for its being the best of 3 cells" in figure.finding
    assert "The table has no p of that difference corrected over the cells" in figure.finding
    assert (
        "after Holm's correction over the cells; its rank p = 0.25, which can reach 0.05 only with 19" in figure.finding
    )
    assert "Of 3 cells, 1 is better and 1 worse than a random set beyond noise" in figure.finding
    rows = data(figure)
    assert [(row["layers"], row["soft"], row["language"]) for row in rows[:2]] == [
        ("early", "-0.5", "en"),
        ("early", "-0.5", "sw"),
    ]
    assert [float(row["gain_over_control"]) for row in rows if row["language"] == "mean"] == pytest.approx(
        [-0.01, 0.09, -0.1]
    )


def test_the_best_cell_of_a_sweep_stands_beside_its_corrected_p(tmp_path: Path) -> None:
    cells = [(settings, {"mean": of["mean"] | {"corrected_p": 0.031}}) for settings, of in some_cells(draws=3)]
    (benchmark,) = read_sweep(write_sweep(tmp_path / "s", cells)).benchmarks
    figure = sweep_heat_map(benchmark)
    assert figure is not None
    assert "over cells and languages, it differs from the mean of its controls with p = 0.031" in figure.finding
    assert {row["corrected_p"] for row in data(figure)} == {"0.031"}


def test_a_sweep_without_controls_claims_nothing(tmp_path: Path) -> None:
    alone = {**effect(0.1, 0.0, 0.0, 0.0), "control": None, "over_control": None}
    figure = sweep_figure(tmp_path / "s", [({"a.soft": 1.0}, {"mean": alone})])
    assert figure.finding == "The cells have no random controls, so nothing can be said about the choice of experts."


def test_a_sweeps_frames_are_holms_over_all_gains_and_its_scale_is_twice_the_noise(tmp_path: Path) -> None:
    gains = [[0.001, 0.02, 0.03], [-0.035, 0.012, 0.0], [0.024, -0.021, 0.04]]
    names = ("en", "sw", "mean")
    cells = [
        ({"soft": soft}, {name: effect(gain, 0.0, -1, 1) for name, gain in zip(names, row, strict=True)})
        for soft, row in enumerate(gains)
    ]
    exact = 0.004  # of one gain the exact test is known, and counts
    for _, effects in cells:
        for each in effects.values():
            each["gain"]["exact_p"] = None
    cells[0][1]["en"]["gain"]["exact_p"] = exact
    (benchmark,) = read_sweep(write_sweep(tmp_path / "sweep", cells)).benchmarks
    drawn = gains_to_draw(benchmark)
    p = 2 * stats.norm.sf(np.abs(gains) / 0.01)
    p[0, 0] = exact
    expected = multipletests(p.ravel(), 0.05, method="holm")[0].reshape(p.shape)
    assert 0 < expected.sum() < expected.size
    assert drawn.beyond is not None
    assert drawn.beyond.tolist() == expected.tolist()
    assert drawn.noise == pytest.approx(100 * stats.norm.ppf(0.975) * 0.01)
    figure = sweep_heat_map(benchmark)
    assert figure is not None
    assert "Framed: beyond noise against the baseline" in figure.caption
