"""Curves over layers: against SciPy's distances and intervals, and by hand."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon
from support.analysis_profiles import SHAPE, drawn, write_profile_of

from lm_eval_moe.analysis import AnalysisInputs, LanguageCurve, MeanInterval, NotPossible, read_inputs
from lm_eval_moe.analysis.consecutive_overlap import ConsecutiveOverlap, overlap_by_chance
from lm_eval_moe.analysis.divergence import DivergenceCurves, shape_of
from lm_eval_moe.analysis.entropy import EntropyCurves
from lm_eval_moe.errors import UserError
from lm_eval_moe.shape import RoutingShape


def inputs(*paths: Path, **options: Any) -> AnalysisInputs:
    return read_inputs([str(path) for path in paths], **options)


def divergence(p: Any, q: Any) -> float:
    """D_HJS by SciPy."""
    room = np.log(len(p)) - (stats.entropy(p) + stats.entropy(q)) / 2
    return float(jensenshannon(p, q) ** 2 / max(room, 1e-6))


def by_scipy(p: Any, q: Any) -> Any:
    """``[items, L]``."""
    return np.array([[divergence(*each) for each in zip(a, b, strict=True)] for a, b in zip(p, q, strict=True)])


def check_mean(found: MeanInterval, values: Any) -> None:
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.stderr == pytest.approx(stats.sem(values))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.items == len(values)


def test_divergence_is_the_mean_over_paired_items(tmp_path: Path) -> None:
    # Rounded as a profile holds them; the second language has its items in another order, and others besides.
    en, sw = (drawn(seed, 9).astype(np.float32).astype(np.float64) for seed in (0, 1))
    order = [4, 2, 0, 7, 5, 1]
    paths = [
        write_profile_of(tmp_path, "en", en),
        write_profile_of(tmp_path, "sw", sw[order], names=[f"n{at}" for at in order[:5]] + ["other"]),
    ]
    found = DivergenceCurves.of(inputs(*paths))
    (curve,) = found.curves
    values = by_scipy(sw[order[:5]], en[order[:5]])
    assert (curve.language, curve.level, curve.items) == ("sw", "items", 5)
    assert found.unpaired == {"sw": (1, 4)}
    for row, layer in enumerate(SHAPE.layers):
        check_mean(curve.layers[layer], values[:, row])
    early, middle, late = values[:, :1].mean(1), values[:, 1:8].mean(1), values[:, 8:].mean(1)
    for band, expected in (("early", early), ("middle", middle), ("late", late), ("all", values.mean(1))):
        check_mean(curve.bands[band], expected)
    check_mean(curve.contrasts["middle - early"], middle - early)
    check_mean(curve.contrasts["middle - late"], middle - late)
    assert found.mean is None  # of one language there is none


def test_mean_over_languages_takes_an_item_as_one_cluster(tmp_path: Path) -> None:
    languages = ("en", "sw", "de", "zh")
    every = {name: drawn(seed, 12).astype(np.float32).astype(np.float64) for seed, name in enumerate(languages)}
    found = DivergenceCurves.of(inputs(*(write_profile_of(tmp_path, name, each) for name, each in every.items())))
    values = np.mean([by_scipy(every[name], every["en"]) for name in ("sw", "de", "zh")], axis=0)
    assert found.mean is not None
    check_mean(found.mean.layers[SHAPE.layers[3]], values[:, 3])
    check_mean(found.mean.contrasts["middle - late"], values[:, 1:8].mean(1) - values[:, 8:].mean(1))


def test_profiles_without_items_are_compared_as_a_whole(tmp_path: Path) -> None:
    en, sw = (drawn(seed, 3).astype(np.float32) for seed in (0, 1))
    tokens = [10, 20, 70]
    paths = [
        write_profile_of(tmp_path, "en", en, tokens=tokens),
        write_profile_of(tmp_path, "sw", sw, names=["", "", ""], tokens=tokens),
    ]
    (curve,) = DivergenceCurves.of(inputs(*paths)).curves
    pooled = [np.tensordot(tokens, each.astype(np.float64), axes=1) / 100 for each in (sw, en)]
    assert (curve.level, curve.items, curve.tokens) == ("pooled", 3, 100)
    values = by_scipy([pooled[0]], [pooled[1]])[0]
    for row, layer in enumerate(SHAPE.layers):
        assert curve.layers[layer].mean == pytest.approx(values[row])
        assert (curve.layers[layer].stderr, curve.layers[layer].low) == (None, None)
    assert curve.bands["middle"].mean == pytest.approx(values[1:8].mean())
    assert shape_of(curve).endswith("by its means")


def test_layers_that_all_tokens_skip_have_no_value(tmp_path: Path) -> None:
    en, sw = drawn(0, 4).astype(np.float32), drawn(1, 4).astype(np.float32)
    sw[1, 5] = 0  # one item at one layer
    sw[:, 2] = 0  # a whole layer
    paths = [write_profile_of(tmp_path, "en", en), write_profile_of(tmp_path, "sw", sw)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (curve,) = DivergenceCurves.of(inputs(*paths)).curves
    assert curve.layers[SHAPE.layers[5]].items == 3
    assert np.isnan(curve.layers[SHAPE.layers[2]].mean)
    assert curve.to_dict()["layers"]["3"]["mean"] is None
    used = [row for row in range(1, 8) if row != 2]
    values = [
        np.mean([divergence(sw[item, row], en[item, row]) for row in used if item != 1 or row != 5])
        for item in range(4)
    ]
    check_mean(curve.bands["middle"], values)


def curve_of(early: float, middle: float, late: float, noise: float) -> LanguageCurve:
    generator = np.random.default_rng(0)
    levels = np.array([early] + [middle] * 7 + [late] * 3)
    values = levels + generator.normal(0, noise, (50, 1)) * np.linspace(-1, 1, len(levels))
    return LanguageCurve.of("sw", values, SHAPE, tokens=1)


@pytest.mark.parametrize(
    ("levels", "noise", "shape"),
    [
        ((0.5, 0.2, 0.5), 0.01, "U"),
        ((0.5, 0.5, 0.2), 0.01, "not U"),
        ((0.2, 0.5, 0.9), 0.01, "not U"),
        ((0.5, 0.499, 0.5), 0.5, "undecided"),
        ((0.9, 0.5, 0.1), 0.01, "not U"),
    ],
)
def test_shape_is_decided_by_intervals(levels: tuple[float, float, float], noise: float, shape: str) -> None:
    assert shape_of(curve_of(*levels, noise)) == shape


def test_shape_of_a_model_without_early_layers_is_unknown() -> None:
    shape = RoutingShape(layers=(2, 3), experts=4, top_k=2, depth=4)
    curve = LanguageCurve.of("sw", np.random.default_rng(0).random((5, 2)), shape, tokens=1)
    assert set(curve.bands) == {"middle", "late", "all"}
    assert shape_of(curve) == "unknown"


def test_entropy_is_scipys_over_that_of_even_use(tmp_path: Path) -> None:
    sw = drawn(3, 6).astype(np.float32)
    paths = [write_profile_of(tmp_path, "en", drawn(2, 6)), write_profile_of(tmp_path, "sw", sw)]
    _, curve = EntropyCurves.of(inputs(*paths)).curves
    values = stats.entropy(sw.astype(np.float64), axis=-1) / np.log(6)
    for row, layer in enumerate(SHAPE.layers):
        check_mean(curve.layers[layer], values[:, row])
    check_mean(curve.contrasts["late - early"], values[:, 8:].mean(1) - values[:, 0])


def test_consecutive_overlap_leaves_out_items_of_one_token(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((5, 11)).astype(np.float32)
    values[2] = np.nan
    paths = [
        write_profile_of(tmp_path, "en", drawn(0, 5), extra={"consecutive_overlap": values}),
        write_profile_of(tmp_path, "sw", drawn(1, 5)),
    ]
    found = ConsecutiveOverlap.of(inputs(*paths))
    (curve,) = found.curves
    assert (curve.language, found.without) == ("en", ("sw",))
    check_mean(curve.layers[1], values[[0, 1, 3, 4], 0].astype(np.float64))
    assert any("not captured for sw" in line for line in found.lines())


def test_consecutive_overlap_that_nobody_captured_is_not_possible(tmp_path: Path) -> None:
    with pytest.raises(NotPossible, match="--arrays consecutive_overlap"):
        ConsecutiveOverlap.of(inputs(write_profile_of(tmp_path, "en", drawn(0, 2))))


def test_chance_overlap_is_that_of_random_sets() -> None:
    shape = RoutingShape((0,), 5, 2, 1)
    sets = [set(each) for each in combinations(range(5), 2)]
    expected = np.mean([len(a & b) / len(a | b) for a in sets for b in sets])
    assert overlap_by_chance(shape) == pytest.approx(expected)


def test_one_language_has_no_divergence_but_an_entropy(tmp_path: Path) -> None:
    given = inputs(write_profile_of(tmp_path, "en", drawn(0, 2)))
    with pytest.raises(NotPossible, match="at least 2 languages"):
        DivergenceCurves.of(given)
    assert [curve.language for curve in EntropyCurves.of(given).curves] == ["en"]


def test_an_item_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    paths = [
        write_profile_of(tmp_path, "en", drawn(0, 2)),
        write_profile_of(tmp_path, "sw", drawn(1, 3), names=["n0", "n1", "n0"]),
    ]
    with pytest.raises(UserError, match="holds the item n0 of news twice in sw"):
        DivergenceCurves.of(inputs(*paths))


def test_importance_that_is_no_distribution_is_a_damaged_profile(tmp_path: Path) -> None:
    broken = drawn(1, 2)
    broken[1, 4] *= 3
    paths = [write_profile_of(tmp_path, "en", drawn(0, 2)), write_profile_of(tmp_path, "sw", broken)]
    with pytest.raises(UserError, match=r"damaged profile \(an importance is not a distribution"):
        DivergenceCurves.of(inputs(*paths))
