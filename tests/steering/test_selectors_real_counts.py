"""The rules on published counts of Qwen3-30B-A3B, against the formulas written out with plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.real_counts import FOLDER, Found, frequencies, oracle_exclusive, oracle_shared
from support.written_profiles import explained, selected

from lm_eval_moe.shape import RoutingShape

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs ../shared/data/routing-qwen3-30b-a3b-mgsm")


def same(found: Found, expected: Found) -> bool:
    """Whether the experts are the same and the coefficients agree to rounding."""
    assert {layer: sorted(each) for layer, each in found.items()} == {
        layer: sorted(each) for layer, each in expected.items()
    }
    for layer, each in expected.items():
        assert found[layer] == pytest.approx(each, rel=1e-14)
    return bool(expected)


def profiles(*languages: str) -> dict[str, str]:
    return {language: f"mgsm_{language}.json" for language in languages}


@pytest.mark.parametrize("source", ["en", "zh"])
@pytest.mark.parametrize(("first", "last"), [(10, 39), (0, 7), (40, 47)])
def test_shared_experts_as_published(source: str, first: int, last: int, qwen3: RoutingShape) -> None:
    rule = {"shared": {"profiles": profiles("en", "zh"), "top_m": 20, "threshold": 0.7, "source": source}}
    expected = oracle_shared(("en", "zh"), 20, 0.7, source, range(first, last + 1))
    assert same(selected(rule, FOLDER, qwen3, f"{first}-{last}"), expected)


@pytest.mark.parametrize(
    ("languages", "group"),
    [
        (("en", "zh"), ("en",)),
        (("en", "zh"), ("zh",)),
        (("en", "zh", "sw", "ja"), ("sw",)),
        (("en", "zh", "sw", "ja"), ("ja", "zh")),
    ],
)
@pytest.mark.parametrize(("top_m", "theta"), [(20, 0.7), (15, 0.4)])
def test_exclusive_experts_at_both_published_settings(
    languages: tuple[str, ...], group: tuple[str, ...], top_m: int, theta: float, qwen3: RoutingShape
) -> None:
    rule: dict[str, Any] = {"profiles": profiles(*languages), "languages": list(group)}
    rule |= {"top_m": top_m, "threshold": theta}
    expected = oracle_exclusive(languages, group, top_m, theta, range(48))
    assert same(selected({"exclusive": rule}, FOLDER, qwen3), expected)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_multilingual_experts(threshold: float, qwen3: RoutingShape) -> None:
    f = frequencies(("en", "zh", "sw", "ja"))
    expected: Found = {}
    for layer in range(8, 36):
        for expert in range(128):
            if any(f[each][layer][expert] - f["en"][layer][expert] > threshold for each in ("zh", "sw", "ja")):
                expected.setdefault(layer, {})[expert] = 1.0
    rule = {"multilingual": {"profiles": profiles("en", "zh", "sw", "ja"), "threshold": threshold}}
    assert same(selected(rule, FOLDER, qwen3, "8-35"), expected)


def test_task_experts_of_pooled_counts(qwen3: RoutingShape) -> None:
    f = frequencies(("sw", "ja"))
    expected: Found = {}
    for layer in range(48):
        for expert in range(128):
            if f["sw"][layer][expert] - f["ja"][layer][expert] > 0.4:
                expected.setdefault(layer, {})[expert] = 1.0
    rule = {"task": {"profile": "mgsm_sw.json", "baseline": "mgsm_ja.json", "threshold": 0.4}}
    assert same(selected(rule, FOLDER, qwen3), expected)


@pytest.mark.parametrize("direction", ["positive", "negative", "both"])
def test_risk_difference(direction: str, qwen3: RoutingShape) -> None:
    f = frequencies(("en", "zh"))
    signed = [
        (f["en"][layer][expert] - f["zh"][layer][expert], layer, expert)
        for layer in range(10, 40)
        for expert in range(128)
    ]
    sign = {"positive": [1], "negative": [-1], "both": [1, -1]}[direction]
    wanted = [entry for entry in signed if (entry[0] > 0) - (entry[0] < 0) in sign]
    expected: Found = {}
    for rd, layer, expert in sorted(wanted, key=lambda entry: (-abs(entry[0]), *entry[1:]))[:60]:
        active = sum(1 for each in expected.get(layer, {}).values() if each > 0) if direction != "negative" else 0
        if direction == "negative" or rd < 0 or active < 8:
            expected.setdefault(layer, {})[expert] = -1.0 if direction == "both" and rd < 0 else 1.0
    rule = {"risk_difference": {"profile_a": "mgsm_en.json", "profile_b": "mgsm_zh.json", "top": 60}}
    rule["risk_difference"]["direction"] = direction
    assert same(selected(rule, FOLDER, qwen3, "10-39"), expected)


def test_the_order_of_languages_makes_no_difference(qwen3: RoutingShape) -> None:
    codes = ("en", "zh", "sw", "ja")
    forwards, backwards = (
        selected({"shared": {"profiles": profiles(*order)}}, FOLDER, qwen3) for order in (codes, codes[::-1])
    )
    assert forwards == backwards


def test_an_explanation_of_every_shared_expert(qwen3: RoutingShape, tmp_path: Path) -> None:
    rule = {"shared": {"profiles": profiles("en", "zh"), "source": "en"}}
    choices = explained(rule, FOLDER, qwen3, "10-39")
    assert len(choices) == sum(map(len, selected(rule, FOLDER, qwen3, "10-39").values()))
    for choice in choices:
        assert choice.coefficient == choice.values["en"]
        assert sum(choice.values.values()) == pytest.approx(1, abs=1e-6)
