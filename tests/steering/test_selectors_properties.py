"""What holds for any counts: thresholds, order, ties, and what the rules have to do with each other."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.written_profiles import Row, selected, write

from lm_eval_moe.errors import UserError
from lm_eval_moe.shape import RoutingShape

SHAPE = RoutingShape(layers=(1, 2), experts=6, top_k=2, depth=3)
Found = dict[int, dict[int, float]]
THRESHOLDS = st.integers(0, 20).map(lambda step: step / 20)


@st.composite
def rows(draw: st.DrawFn, most: int = 4) -> list[Row]:
    """Some items with up to 12 tokens, each of which selects two experts; few tokens make many ties."""
    items = []
    for number in range(draw(st.integers(1, most))):
        tokens = draw(st.integers(1, 12))
        generator = np.random.default_rng(draw(st.integers(0, 2**32)))
        concentration = draw(st.sampled_from([0.0, 2.0, 8.0]))
        logits = generator.normal(size=(len(SHAPE.layers), 1, SHAPE.experts)) * concentration
        noisy = logits + generator.gumbel(size=(len(SHAPE.layers), tokens, SHAPE.experts))
        chosen = np.argsort(-noisy, axis=-1)[..., : SHAPE.top_k]
        counts = [np.bincount(layer.ravel(), minlength=SHAPE.experts).tolist() for layer in chosen]
        items.append((f"q{number}", tokens, counts))
    return items


@contextmanager
def written(**profiles: list[Row]) -> Iterator[Path]:
    """A folder with these profiles; ``en``, ``sw`` and ``zh`` are languages, with the same items each."""
    with tempfile.TemporaryDirectory() as folder:
        for name, items in profiles.items():
            language = name if name in ("en", "sw", "zh") else "en"
            benchmark = name if name in ("task", "base") else "bench"
            write(Path(folder) / f"{name}.safetensors", items, shape=SHAPE, language=language, benchmark=benchmark)
        yield Path(folder)


def found(rule: dict[str, Any], folder: Path) -> Found:
    """What a rule selects; nothing, where it refuses an empty selection."""
    try:
        return selected(rule, folder, SHAPE)
    except UserError as error:
        assert "selects no expert" in error.problem  # noqa: PT017
        return {}


def pairs(selection: Found) -> set[tuple[int, int]]:
    return {(layer, expert) for layer, experts in selection.items() for expert in experts}


def languages(*codes: str) -> dict[str, str]:
    return {code: f"{code}.safetensors" for code in codes}


@settings(deadline=None)
@given(rows(), rows(), THRESHOLDS, THRESHOLDS)
def test_raising_the_threshold_never_adds_task_experts(
    task: list[Row], base: list[Row], one: float, other: float
) -> None:
    with written(task=task, base=base) as folder:
        rule = {"profile": "task.safetensors", "baseline": "base.safetensors"}
        low, high = (
            pairs(found({"task": {**rule, "threshold": threshold}}, folder)) for threshold in sorted((one, other))
        )
    assert high <= low


@settings(deadline=None)
@given(rows(), rows(), THRESHOLDS)
def test_an_expert_is_never_the_tasks_both_ways_round(task: list[Row], base: list[Row], threshold: float) -> None:
    with written(task=task, base=base) as folder:
        a, b = "task.safetensors", "base.safetensors"
        forwards = found({"task": {"profile": a, "baseline": b, "threshold": threshold}}, folder)
        backwards = found({"task": {"profile": b, "baseline": a, "threshold": threshold}}, folder)
    assert not pairs(forwards) & pairs(backwards)


@settings(deadline=None)
@given(st.data(), rows(8), rows(8), THRESHOLDS)
def test_the_order_of_items_changes_nothing(
    data: st.DataObject, task: list[Row], base: list[Row], threshold: float
) -> None:
    rule = {"task": {"profile": "task.safetensors", "baseline": "base.safetensors", "threshold": threshold}}
    shuffled = data.draw(st.permutations(task)), data.draw(st.permutations(base))
    with written(task=task, base=base) as folder:
        before = found(rule, folder)
    with written(task=shuffled[0], base=shuffled[1]) as folder:
        assert found(rule, folder) == before


def parallel(draw: st.DrawFn, count: int) -> list[list[Row]]:
    """The same number of items in several languages."""
    drawn = [draw(rows()) for _ in range(count)]
    fewest = min(map(len, drawn))
    return [items[:fewest] for items in drawn]


SETS = st.composite(lambda draw: parallel(draw, 3))()


@settings(deadline=None)
@given(SETS, THRESHOLDS, THRESHOLDS, st.integers(1, 8))
def test_shared_grows_and_exclusive_shrinks_as_the_threshold_rises(
    texts: list[list[Row]], one: float, other: float, top_m: int
) -> None:
    low, high = sorted((one, other))
    with written(en=texts[0], sw=texts[1], zh=texts[2]) as folder:
        both = {"profiles": languages("en", "sw", "zh"), "top_m": top_m}
        shared = [pairs(found({"shared": {**both, "threshold": each}}, folder)) for each in (low, high)]
        exclusive = [
            pairs(found({"exclusive": {**both, "languages": ["sw"], "threshold": each}}, folder))
            for each in (low, high)
        ]
    assert shared[0] <= shared[1]
    assert exclusive[1] <= exclusive[0]


@settings(deadline=None)
@given(SETS, st.integers(1, 20).map(lambda step: step / 20), st.integers(1, 8))
def test_every_expert_in_use_is_shared_or_exclusive_to_a_language_and_never_both(
    texts: list[list[Row]], threshold: float, top_m: int
) -> None:
    with written(en=texts[0], sw=texts[1], zh=texts[2]) as folder:
        both = {"profiles": languages("en", "sw", "zh"), "top_m": top_m}
        shared = pairs(found({"shared": {**both, "threshold": threshold}}, folder))
        exclusive = set()
        for each in ("en", "sw", "zh"):
            rule = {"exclusive": {**both, "languages": [each], "threshold": threshold}}
            exclusive |= pairs(found(rule, folder))
        in_use = pairs(found({"exclusive": {**both, "languages": ["en", "sw"], "threshold": 0}}, folder))
        in_use |= pairs(found({"exclusive": {**both, "languages": ["zh"], "threshold": 0}}, folder))
    assert not shared & exclusive
    assert shared | exclusive == in_use


@settings(deadline=None)
@given(SETS, st.integers(1, 8), st.sampled_from(["en", "sw", "zh"]))
def test_coefficients_are_shares(texts: list[list[Row]], top_m: int, source: str) -> None:
    with written(en=texts[0], sw=texts[1], zh=texts[2]) as folder:
        profiles = {"profiles": languages("en", "sw", "zh"), "top_m": top_m, "threshold": 1}
        selections = [found({"shared": {**profiles, "source": each}}, folder) for each in ("en", "sw", "zh")]
        dominant = found({"shared": profiles}, folder)
        assert found({"shared": {**profiles, "profiles": languages("zh", "sw", "en")}}, folder) == dominant
    for layer, experts in dominant.items():
        for expert, largest in experts.items():
            each = [selection[layer][expert] for selection in selections]
            assert max(each) == largest
            assert abs(sum(each) - 1) < 1e-6


@settings(deadline=None)
@given(SETS, THRESHOLDS)
def test_multilingual_experts_are_those_of_each_language_together(texts: list[list[Row]], threshold: float) -> None:
    with written(en=texts[0], sw=texts[1], zh=texts[2]) as folder:
        together, sw, zh = (
            pairs(found({"multilingual": {"profiles": languages("en", *codes), "threshold": threshold}}, folder))
            for codes in (("sw", "zh"), ("sw",), ("zh",))
        )
    assert together == sw | zh


@settings(deadline=None)
@given(st.composite(lambda draw: parallel(draw, 2))(), THRESHOLDS)
def test_risk_differences_change_their_sign_when_the_profiles_change_places(
    texts: list[list[Row]], threshold: float
) -> None:
    with written(a=texts[0], b=texts[1]) as folder:
        if (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes():
            return

        def risk(a: str, b: str, direction: str) -> Found:
            rule = {"profile_a": f"{a}.safetensors", "profile_b": f"{b}.safetensors", "threshold": threshold}
            return found({"risk_difference": {**rule, "direction": direction}}, folder)

        positive, negative, both = (risk("a", "b", each) for each in ("positive", "negative", "both"))
        assert pairs(positive) | pairs(negative) == pairs(both)
        assert not pairs(positive) & pairs(negative)
        assert all(len(experts) <= SHAPE.top_k for experts in positive.values())
        assert pairs(positive) <= pairs(risk("b", "a", "negative"))
        assert {place for place in pairs(both) if both[place[0]][place[1]] < 0} == pairs(negative)


@settings(deadline=None)
@given(rows(), rows(), st.sampled_from([0.05, 0.2, 0.4]), st.integers(0, 2**63 - 1))
def test_a_control_of_task_experts_is_matched_and_disjoint(
    task: list[Row], base: list[Row], threshold: float, seed: int
) -> None:
    like = {"task": {"profile": "task.safetensors", "baseline": "base.safetensors", "threshold": threshold}}
    with written(task=task, base=base) as folder:
        matched = found(like, folder)
        if not matched or max(map(len, matched.values())) > SHAPE.experts // 2:
            return
        control = found({"random": {"like": like, "seed": seed}}, folder)
    assert {layer: len(each) for layer, each in control.items()} == {
        layer: len(each) for layer, each in matched.items()
    }
    assert not pairs(control) & pairs(matched)
