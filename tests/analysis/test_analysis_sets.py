"""Sets of experts and clusters of languages: against the selection rules, SciPy, and by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial.distance import jensenshannon, squareform
from support.analysis_profiles import SHAPE, drawn, write_profile_of

from lm_eval_moe.analysis import AnalysisInputs, AnalysisSettings, NotPossible, read_inputs
from lm_eval_moe.analysis.clustering import LanguageClusters, adjusted_rand_index, family_agreement
from lm_eval_moe.analysis.exclusivity import Exclusivity
from lm_eval_moe.analysis.task_overlap import TaskOverlap, overlap_of_sets
from lm_eval_moe.errors import UserError
from lm_eval_moe.metrics import shares_of
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import parse_spec, resolve

LANGUAGES = ("en", "sw", "de", "zh", "nl")


def selected(folder: Path, rule: dict[str, Any]) -> set[tuple[int, int]]:
    """What a selection rule of a steering file selects, as layers and experts."""
    entry = {"layers": "all", "experts": rule, "action": {"soft": 0.5}}
    spec = parse_spec({"version": 1, "interventions": [entry]}, source="steer.yaml", base_dir=folder)
    targets = resolve(spec, SHAPE).interventions[0].targets
    return {(layer, expert) for layer, each in targets.items() for expert in each.experts}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, language in enumerate(LANGUAGES):
        lengths = np.random.default_rng(seed).integers(50, 200, 5)
        write_profile_of(tmp_path, language, drawn(seed, 5, sharpness=2.0), tokens=lengths)
    write_profile_of(tmp_path, "en", drawn(90, 4, sharpness=3.0), benchmark="maths", file="task.safetensors")
    write_profile_of(tmp_path, "en", drawn(91, 6, sharpness=2.0), benchmark="general", file="base.safetensors")
    return tmp_path


def inputs(folder: Path, *languages: str, **options: Any) -> AnalysisInputs:
    return read_inputs([str(folder / f"{each}.safetensors") for each in languages or LANGUAGES], **options)


def test_shares_by_hand() -> None:
    # Of each language the two most active of three experts are kept; the first expert is shared evenly.
    frequencies = np.array([[[0.8, 0.7, 0.5]], [[0.8, 0.3, 0.9]]])
    expected = [[[0.5, 1.0, 0.0]], [[0.5, 0.0, 1.0]]]
    np.testing.assert_allclose(shares_of(frequencies, 2), expected, atol=1e-9)


@pytest.mark.parametrize("top_m", [2, 4])
def test_exclusive_experts_are_those_of_the_selection_rule(folder: Path, top_m: int) -> None:
    settings = AnalysisSettings(top_m=top_m, shares=(0.3, 0.45))
    found = Exclusivity.of(inputs(folder, settings=settings))
    profiles = {language: f"{language}.safetensors" for language in LANGUAGES}
    for theta, language in product((0.3, 0.45), LANGUAGES):
        rule = {"profiles": profiles, "languages": [language], "top_m": top_m, "threshold": theta}
        experts = selected(folder, {"exclusive": rule})
        counts = [sum(1 for layer, _ in experts if layer == each) for each in SHAPE.layers]
        assert found.exclusive[theta][LANGUAGES.index(language)].tolist() == counts
        in_json = found.to_dict()["exclusive"][f"{theta:g}"][language]
        assert in_json["experts_by_layer"] == counts
        assert in_json["share_by_band"]["middle"] == pytest.approx(sum(counts[1:8]) / (7 * 6))


def test_sharing_counts_the_languages_of_every_expert(folder: Path) -> None:
    given = inputs(folder, settings=AnalysisSettings(top_m=2))
    found = Exclusivity.of(given)
    for row in range(len(SHAPE.layers)):
        users = np.zeros(6, dtype=int)
        for each in given.languages.values():
            users[np.argsort(-each.activity.pooled[row], kind="stable")[:2]] += 1
        assert found.shared_by[row].tolist() == [int((users == number).sum()) for number in range(6)]
    assert (found.shared_by.sum(1) == 6).all()


def test_default_top_m_is_the_published_share_of_experts() -> None:
    assert [
        AnalysisSettings().top_m_of(RoutingShape((0,), experts, top_k, 1))
        for experts, top_k in ((128, 8), (64, 8), (16, 2))
    ] == [15, 8, 2]


def test_task_and_multilingual_experts_are_those_of_the_selection_rules(folder: Path) -> None:
    pair = (str(folder / "task.safetensors"), str(folder / "base.safetensors"))
    thresholds = (0.05, 0.1, 0.2)
    found = TaskOverlap.of(inputs(folder, task=pair, settings=AnalysisSettings(thresholds=thresholds)))
    profiles = {language: f"{language}.safetensors" for language in LANGUAGES}
    for threshold in thresholds:
        task = {"profile": "task.safetensors", "baseline": "base.safetensors", "threshold": threshold}
        first = selected(folder, {"task": task})
        second = selected(folder, {"multilingual": {"profiles": profiles, "threshold": threshold}})
        assert first
        assert second
        for band, layers in (("early", {1}), ("middle", set(range(2, 9))), ("all", set(SHAPE.layers))):
            a, b = ({pair for pair in each if pair[0] in layers} for each in (first, second))
            each = found.overlaps[threshold][band]
            assert (each.first, each.second, each.both) == (len(a), len(b), len(a & b))
            if a | b:
                assert each.jaccard == pytest.approx(len(a & b) / len(a | b))


def test_thresholds_that_select_nothing_are_empty_sets(folder: Path) -> None:
    pair = (str(folder / "task.safetensors"), str(folder / "base.safetensors"))
    found = TaskOverlap.of(inputs(folder, task=pair, settings=AnalysisSettings(thresholds=(0.999,))))
    each = found.overlaps[0.999]["all"]
    assert (each.first, each.second, each.both, each.by_chance) == (0, 0, 0, 0.0)
    assert found.to_dict()["thresholds"][0]["all"]["jaccard"] is None


def test_chance_of_two_sets_is_that_of_random_draws() -> None:
    first = np.zeros((2, 5), dtype=bool)
    second = np.zeros((2, 5), dtype=bool)
    first[0, :3], second[0, :2] = True, True  # two in both
    first[1, :1], second[1, 1:3] = True, True  # none in both
    found = overlap_of_sets(first, second)
    generator = np.random.default_rng(0)
    draws = np.array(
        [
            sum(
                len(set(generator.permutation(5)[:one]) & set(generator.permutation(5)[:other]))
                for one, other in ((3, 2), (1, 2))
            )
            for _ in range(20_000)
        ]
    )
    assert (found.first, found.second, found.both, found.jaccard) == (4, 4, 2, pytest.approx(2 / 6))
    assert found.by_chance == pytest.approx(3 * 2 / 5 + 1 * 2 / 5)
    assert found.p_fewer == pytest.approx((draws <= 2).mean(), abs=0.02)
    assert found.p_more == pytest.approx((draws >= 2).mean(), abs=0.02)


def test_a_baseline_with_the_tasks_items_is_refused(folder: Path) -> None:
    pair = (str(folder / "task.safetensors"), str(folder / "copy.safetensors"))
    write_profile_of(folder, "en", drawn(92, 4), benchmark="maths", file="copy.safetensors")
    with pytest.raises(UserError, match="holds 4 of the items of"):
        TaskOverlap.of(inputs(folder, task=pair))


def test_task_overlap_without_a_task_is_not_possible(folder: Path) -> None:
    with pytest.raises(NotPossible, match="--task_profile and --baseline_profile"):
        TaskOverlap.of(inputs(folder))


def test_clusters_are_scipys_of_the_middle_layers(folder: Path) -> None:
    given = inputs(folder)
    found = LanguageClusters.of(given)
    languages = sorted(LANGUAGES)
    assert found.languages == tuple(languages)
    assert found.layers == tuple(range(2, 9))
    frequencies = [given.languages[language].activity.mean[1:8] for language in languages]
    distances = np.zeros((5, 5))
    for i, j in product(range(5), range(5)):
        # By layer, and the mean over layers of the squares.
        p, q = (frequencies[at] / frequencies[at].sum(-1, keepdims=True) for at in (i, j))
        distances[i, j] = np.sqrt(np.mean([jensenshannon(*each) ** 2 for each in zip(p, q, strict=True)]))
    # Frequencies of a layer sum to K but for rounding in these written profiles.
    np.testing.assert_allclose(found.distances, distances, atol=2e-3)
    tree = hierarchy.linkage(squareform(found.distances), "average")
    np.testing.assert_allclose(found.linkage, tree)
    assert list(found.leaves) == hierarchy.dendrogram(tree, labels=languages, no_plot=True)["ivl"]
    meeting = squareform(hierarchy.cophenet(tree))
    np.testing.assert_allclose(found.cophenetic, meeting)
    upper = np.triu_indices(5, 1)
    expected = np.corrcoef(found.distances[upper], meeting[upper])[0, 1]
    assert found.cophenetic_correlation == pytest.approx(expected)


def test_correlation_distance_is_one_less_r(folder: Path) -> None:
    given = inputs(folder, settings=AnalysisSettings(distance="correlation", layers="all"))
    found = LanguageClusters.of(given)
    vectors = [given.languages[language].activity.mean.ravel() for language in found.languages]
    np.testing.assert_allclose(found.distances, 1 - np.corrcoef(vectors), atol=1e-12)


def test_order_of_profiles_makes_no_difference(folder: Path) -> None:
    one, other = (LanguageClusters.of(inputs(folder, *order)) for order in (LANGUAGES, LANGUAGES[::-1]))
    assert one.to_dict() == other.to_dict()


def test_two_languages_make_no_tree(folder: Path) -> None:
    with pytest.raises(NotPossible, match="at least 3 languages, the profiles are of 2: en, sw"):
        LanguageClusters.of(inputs(folder, "en", "sw"))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 0, 1, 1], [5, 5, 7, 7], 1.0),
        # One pair is together in both, one in the first, two in the second, of six: (1 - 2/6) / (1.5 - 2/6).
        ([0, 0, 1, 2], [0, 0, 1, 1], 4 / 7),
        # None of two and two: (0 - 4/6) / (2 - 4/6).
        ([0, 1, 0, 1], [0, 0, 1, 1], -0.5),
    ],
)
def test_adjusted_rand_index_by_hand(first: list[int], second: list[int], expected: float) -> None:
    assert adjusted_rand_index(np.array(first), np.array(second)) == pytest.approx(expected)


def test_families_that_cluster_are_seen_and_others_are_not() -> None:
    languages = ["a", "b", "c", "d", "e", "f"]
    families = {"a": "X", "b": "X", "c": "X", "d": "Y", "e": "Y", "f": "Y"}
    places = np.array([0.0, 1.0, 2.1, 20.0, 21.0, 22.1])
    distances = np.abs(places[:, None] - places)
    tree = hierarchy.linkage(squareform(distances), "average")
    found = family_agreement(languages, distances, tree, families)
    assert found is not None
    assert found.rand_index == 1
    assert found.within == pytest.approx((1 + 2.1 + 1.1) / 3)
    # Two of the 20 ways to draw three of six are as good: this one and its mirror.
    assert found.p == pytest.approx(0.1, abs=0.02)
    mixed = family_agreement(languages, distances, tree, dict(zip(languages, "XYXYXY", strict=True)))
    assert mixed is not None
    assert mixed.p > 0.3
    assert mixed.rand_index < 0.1


def test_families_of_one_language_each_have_no_agreement() -> None:
    distances = np.array([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]])
    tree = hierarchy.linkage(squareform(distances), "average")
    assert family_agreement(["a", "b", "c"], distances, tree, {"a": "X", "b": "Y", "c": "Z"}) is None
    assert family_agreement(["a", "b", "c"], distances, tree, {"a": "X", "b": "X"}) is None


def test_languages_are_grouped_by_the_table_of_families(folder: Path) -> None:
    found = LanguageClusters.of(inputs(folder))
    groups = found.agreement["family"].groups
    assert groups["en"] == groups["de"] == groups["nl"]
    assert len({groups["en"], groups["sw"], groups["zh"]}) == 3
