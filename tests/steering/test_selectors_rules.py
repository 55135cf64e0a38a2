"""Every selection rule on examples whose numbers can be checked by eye; they are written out beside each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.written_profiles import SMALL, explained, selected, spec_of, write, write_dump

from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import resolve

ONE = RoutingShape(layers=(0,), experts=4, top_k=2, depth=1)


def once(found: dict[int, list[int]]) -> dict[int, dict[int, float]]:
    """Experts with the coefficient 1."""
    return {layer: dict.fromkeys(experts, 1.0) for layer, experts in found.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two task items and two baseline items, and two languages.

    ======== ====== ==================== ====================
    item     tokens counts in layer 1    counts in layer 2
    ======== ====== ==================== ====================
    t1       10     9 1 5 5              10 0 10 0
    t2       2      1 1 2 0              0 2 2 0
    b1       10     5 5 5 5              10 0 0 10
    b2       10     3 7 5 5              10 0 10 0
    ======== ====== ==================== ====================

    f of the task, layer 1: (0.9+0.5)/2=0.7, (0.1+0.5)/2=0.3, (0.5+1)/2=0.75, 0.25; layer 2: 0.5, 0.5, 1, 0
    f of the baseline, layer 1: 0.4, 0.6, 0.5, 0.5; layer 2: 1, 0, 0.5, 0.5
    Δ, layer 1: 0.3, -0.3, 0.25, -0.25; layer 2: -0.5, 0.5, 0.5, -0.5
    """
    write(
        tmp_path / "task.safetensors",
        [("t1", 10, [[9, 1, 5, 5], [10, 0, 10, 0]]), ("t2", 2, [[1, 1, 2, 0], [0, 2, 2, 0]])],
    )
    write(
        tmp_path / "base.safetensors",
        [("b1", 10, [[5, 5, 5, 5], [10, 0, 0, 10]]), ("b2", 10, [[3, 7, 5, 5], [10, 0, 10, 0]])],
    )
    return tmp_path


def task(threshold: float, **fields: Any) -> dict[str, Any]:
    """The rule ``task`` on the example's files."""
    return {"task": {"profile": "task.safetensors", "baseline": "base.safetensors", "threshold": threshold, **fields}}


def test_task_experts_exceed_the_threshold_in_the_mean_over_items(folder: Path) -> None:
    assert selected(task(0.2), folder) == once({1: [0, 2], 2: [1, 2]})
    assert selected(task(0.4), folder) == once({2: [1, 2]})
    assert selected(task(0.2), folder, layers=1) == once({1: [0, 2]})


def test_a_difference_that_equals_the_threshold_is_not_over_it(folder: Path) -> None:
    # Expert 0 of layer 1: 0.7 - 0.4 is 0.29999999999999993 in binary, and 0.8 - 0.5 would be 0.30000000000000004.
    assert selected(task(0.3), folder) == once({2: [1, 2]})
    write(folder / "task.safetensors", [("t1", 10, [[8, 0, 6, 6], [10, 0, 10, 0]])])
    write(folder / "base.safetensors", [("b1", 10, [[5, 3, 6, 6], [8, 2, 10, 0]])])
    assert selected(task(0.25), folder) == once({1: [0]})
    assert selected(task(0.29), folder) == once({1: [0]})
    with pytest.raises(Exception, match=r"the largest difference .* is 0\.3 \(layer 1, expert 0\)"):
        selected(task(0.3), folder)


def test_task_experts_say_why(folder: Path) -> None:
    first = explained(task(0.2), folder)[0]
    assert (first.layer, first.expert, first.coefficient) == (1, 0, 1.0)
    assert first.values == pytest.approx({"task": 0.7, "baseline": 0.4, "difference": 0.3})
    assert first.why == "task 0.7000 - baseline 0.4000 = 0.3000 > 0.2"


def test_a_profile_of_pooled_counts_has_a_mean_over_tokens(folder: Path) -> None:
    # The task's items together: 12 tokens, layer 1: 10 2 7 5, f = 0.833 0.167 0.583 0.417; Δ = 0.433 -0.433 0.083 …
    # layer 2: 10 2 12 0, f = 0.833 0.167 1 0; Δ = -0.167 0.167 0.5 …
    pooled = [[10, 2, 7, 5], [10, 2, 12, 0]]
    write_dump(folder / "task.json", 12, pooled)
    assert selected(task(0.2, profile="task.json"), folder) == once({1: [0], 2: [2]})
    write(folder / "pooled.safetensors", [("", 12, pooled)])
    assert selected(task(0.2, profile="pooled.safetensors"), folder) == once({1: [0], 2: [2]})


def test_items_without_tokens_do_not_enter(folder: Path) -> None:
    nothing = ("t3", 0, [[0] * 4, [0] * 4])
    rows = [("t1", 10, [[9, 1, 5, 5], [10, 0, 10, 0]]), nothing, ("t2", 2, [[1, 1, 2, 0], [0, 2, 2, 0]])]
    write(folder / "task.safetensors", rows)
    assert selected(task(0.2), folder) == once({1: [0, 2], 2: [1, 2]})


def test_a_language_is_chosen_from_a_profile_of_several(folder: Path) -> None:
    rows = [
        ("t1", 10, [[9, 1, 5, 5], [10, 0, 10, 0]]),
        ("t1", 10, [[0, 0, 10, 10], [0, 0, 10, 10]]),
        ("t2", 2, [[1, 1, 2, 0], [0, 2, 2, 0]]),
    ]
    write(folder / "task.safetensors", rows, language=["en", "sw", "en"])
    assert selected(task(0.2, language="eng"), folder) == once({1: [0, 2], 2: [1, 2]})


LANGUAGES = {
    # 10 tokens each. f, layer 1 and layer 2:
    "en": [[9, 1, 5, 5], [10, 5, 5, 0]],
    "sw": [[5, 5, 5, 5], [10, 9, 1, 0]],
    "zh": [[9, 2, 0, 9], [10, 0, 5, 5]],
}


@pytest.fixture
def languages(tmp_path: Path) -> Path:
    for language, counts in LANGUAGES.items():
        write(tmp_path / f"{language}.safetensors", [("q1", 10, counts)], language=language)
    return tmp_path


def profiles(*codes: str) -> dict[str, str]:
    """The entry ``profiles`` for languages of the example."""
    return {code: f"{code}.safetensors" for code in codes}


def test_multilingual_experts_exceed_the_reference_in_any_language(languages: Path) -> None:
    # sw - en: layer 1: -.4 .4 0 0, layer 2: 0 .4 -.4 0; zh - en: layer 1: 0 .1 -.5 .4, layer 2: 0 -.5 0 .5
    rule = {"multilingual": {"profiles": profiles("zh", "en", "sw"), "threshold": 0.3}}
    assert selected(rule, languages) == once({1: [1, 3], 2: [1, 3]})
    rule["multilingual"]["threshold"] = 0.4
    assert selected(rule, languages) == once({2: [3]})
    first = explained({"multilingual": {"profiles": profiles("en", "sw"), "threshold": 0.3}}, languages)[0]
    assert first.why == "sw 0.5000: over en 0.1000 by more than 0.3"
    assert first.values == pytest.approx({"en": 0.1, "sw": 0.5, "difference": 0.4})


def test_multilingual_experts_against_another_reference(languages: Path) -> None:
    # en - sw: layer 1: .4 -.4 0 0, layer 2: 0 -.4 .4 0
    rule = {"multilingual": {"profiles": profiles("en", "sw"), "threshold": 0.3, "reference": "swh_Latn"}}
    assert selected(rule, languages) == once({1: [0], 2: [2]})


def test_shared_experts_are_those_that_no_language_dominates(languages: Path) -> None:
    # The top 2 of a layer, the lower index first where they are equal:
    # en: layer 1: .9 0 .5 0, layer 2: 1 .5 0 0;  zh: layer 1: .9 0 0 .9, layer 2: 1 0 .5 0
    # shares of en: layer 1: 1/2 - 1 0, layer 2: 1/2 1 0 -;  of zh: layer 1: 1/2 - 0 1, layer 2: 1/2 0 1 -
    rule = {"shared": {"profiles": profiles("en", "zh"), "top_m": 2, "threshold": 0.7}}
    assert selected(rule, languages) == {1: {0: pytest.approx(0.5)}, 2: {0: pytest.approx(0.5)}}


@pytest.mark.parametrize(
    ("source", "share"), [("en", 0.9 / 1.4), ("sw", 0.5 / 1.4), (None, 0.9 / 1.4)], ids=["en", "sw", "dominant"]
)
def test_a_shared_experts_coefficient_is_the_sources_share(source: str | None, share: float, languages: Path) -> None:
    rule = {"shared": {"profiles": profiles("en", "sw"), "top_m": 1, **({"source": source} if source else {})}}
    # top 1: en: layer 1: expert 0 (.9), layer 2: expert 0; sw: layer 1: expert 0 (.5, the first of four), layer 2: 0
    found = selected(rule, languages)
    assert found == {1: {0: pytest.approx(share)}, 2: {0: pytest.approx(0.5)}}
    assert found[1][0] == pytest.approx(share, abs=3e-10), "1e-10 stands in the denominator"


def test_exclusive_experts_are_those_that_a_group_dominates(languages: Path) -> None:
    # The top 2 of a layer: en and zh as above, sw: layer 1: .5 .5 0 0, layer 2: 1 .9 0 0
    # shares, layer 1: expert 0: en .9/2.3 sw .5/2.3 zh .9/2.3; 1: sw 1; 2: en 1; 3: zh 1
    # layer 2: expert 0: 1/3 each; 1: en .5/1.4 sw .9/1.4; 2: zh 1; 3: none
    rule = {"exclusive": {"profiles": profiles("en", "sw", "zh"), "languages": ["sw"], "top_m": 2, "threshold": 0.6}}
    assert selected(rule, languages) == {1: {1: pytest.approx(1)}, 2: {1: pytest.approx(0.9 / 1.4)}}
    rule["exclusive"]["languages"] = ["zh", "sw"]
    assert selected(rule, languages) == {
        1: {0: pytest.approx(1.4 / 2.3), 1: pytest.approx(1), 3: pytest.approx(1)},
        2: {0: pytest.approx(2 / 3), 1: pytest.approx(0.9 / 1.4), 2: pytest.approx(1)},
    }
    assert explained(rule, languages)[0].why == "sw + zh has a share of 0.6087 >= 0.6"


def test_exclusive_reaches_the_threshold_where_shared_does_not(languages: Path) -> None:
    """A share of exactly θ is exclusive (≥) and not shared (<)."""
    both = {"profiles": profiles("en", "zh"), "top_m": 1}
    share = next(iter(explained({"shared": both}, languages))).values["en"]
    assert selected({"exclusive": {**both, "languages": ["en"], "threshold": share}}, languages)[1] == {0: share}
    with pytest.raises(Exception, match="selects no expert"):
        selected({"shared": {**both, "threshold": share}}, languages)


def test_a_threshold_of_zero_does_not_make_experts_that_nobody_uses_exclusive(languages: Path) -> None:
    rule = {"exclusive": {"profiles": profiles("en", "zh"), "languages": ["zh"], "top_m": 2, "threshold": 0}}
    # Shares of zh are 0 in layer 1 for experts 1 and 2, in layer 2 for 1 and 3.
    assert {layer: list(experts) for layer, experts in selected(rule, languages).items()} == {1: [0, 3], 2: [0, 2]}


def test_shares_pool_a_languages_items_by_tokens(tmp_path: Path) -> None:
    # en: 9 of 12 tokens for expert 0 pooled (0.75), though the mean over items is (1 + 1/4) / 2.
    write(tmp_path / "en.safetensors", [("q1", 8, [[8, 0, 8, 0]]), ("q2", 4, [[1, 3, 4, 0]])], shape=ONE)
    rows = [("q1", 4, [[1, 3, 4, 0]]), ("q2", 4, [[0, 4, 4, 0]])]
    write(tmp_path / "sw.safetensors", rows, shape=ONE, language="sw")
    rule = {"exclusive": {"profiles": profiles("en", "sw"), "languages": ["en"], "threshold": 0.8, "top_m": 4}}
    assert selected(rule, tmp_path, ONE) == {0: {0: pytest.approx(0.75 / (0.75 + 0.125))}}


def test_one_file_may_hold_all_languages(languages: Path) -> None:
    codes = list(LANGUAGES)
    write(languages / "all.safetensors", [("q1", 10, LANGUAGES[code]) for code in codes], language=codes)
    together = dict.fromkeys(codes, "all.safetensors")
    for fields in ({"shared": {}}, {"exclusive": {"languages": ["sw"]}}, {"multilingual": {"threshold": 0.3}}):
        ((name, rest),) = fields.items()
        apart = selected({name: {"profiles": profiles(*codes), **rest}}, languages)
        assert selected({name: {"profiles": together, **rest}}, languages) == apart


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A and B, paired by item.

    Both items together, 10 tokens on each side, layer 1 and layer 2: A 9 1 8 2, 10 0 5 5; B 2 8 5 5, 5 5 5 5
    RD, layer 1: 0.7 -0.7 0.3 -0.3; layer 2: 0.5 -0.5 0 0
    """
    write(
        tmp_path / "a.safetensors",
        [("q2", 6, [[5, 1, 5, 1], [6, 0, 3, 3]]), ("q1", 4, [[4, 0, 3, 1], [4, 0, 2, 2]])],
    )
    write(
        tmp_path / "b.safetensors",
        [("q1", 5, [[1, 4, 2, 3], [3, 2, 3, 2]]), ("q2", 5, [[1, 4, 3, 2], [2, 3, 2, 3]])],
    )
    return tmp_path


def risk(**fields: Any) -> dict[str, Any]:
    """The rule ``risk_difference`` on the example's files."""
    return {"risk_difference": {"profile_a": "a.safetensors", "profile_b": "b.safetensors", **fields}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top": 1}, {1: {0: 1.0}}),
        ({"top": 2}, {1: {0: 1.0}, 2: {0: 1.0}}),
        ({"top": 3, "direction": "positive"}, {1: {0: 1.0, 2: 1.0}, 2: {0: 1.0}}),
        ({"top": 2, "direction": "negative"}, {1: {1: 1.0}, 2: {1: 1.0}}),
        ({"top": 1, "direction": "both"}, {1: {0: 1.0}}),  # 0.7 and -0.7: the lower expert goes first
        ({"top": 3, "direction": "both"}, {1: {0: 1.0, 1: -1.0}, 2: {0: 1.0}}),
        ({"threshold": 0.3}, {1: {0: 1.0}, 2: {0: 1.0}}),
        ({"threshold": 0.3, "direction": "both"}, {1: {0: 1.0, 1: -1.0}, 2: {0: 1.0, 1: -1.0}}),
    ],
)
def test_risk_difference_takes_the_largest(
    fields: dict[str, Any], expected: dict[int, dict[int, float]], pairs: Path
) -> None:
    assert selected(risk(**fields), pairs) == expected


def test_risk_difference_says_why(pairs: Path) -> None:
    assert [choice.why for choice in explained(risk(top=2, direction="both"), pairs)] == [
        "A 0.9000 - B 0.2000 = +0.7000: number 1 of 2",
        "A 0.1000 - B 0.8000 = -0.7000: number 2 of 2",
    ]


def test_risk_difference_activates_at_most_as_many_experts_as_the_model_selects(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", [("q", 20, [[12, 11, 10, 7]])], shape=ONE)
    write(tmp_path / "b.safetensors", [("q", 20, [[2, 5, 5, 20]])], shape=ONE)
    # RD: 0.5 0.3 0.25 -0.65, and K is 2
    assert selected(risk(top=3), tmp_path, ONE) == {0: {0: 1.0, 1: 1.0}}
    assert selected(risk(threshold=0.1), tmp_path, ONE) == {0: {0: 1.0, 1: 1.0}}
    assert selected(risk(top=4, direction="both"), tmp_path, ONE) == {0: {0: 1.0, 1: 1.0, 3: -1.0}}
    swapped = {"risk_difference": {"profile_a": "b.safetensors", "profile_b": "a.safetensors", "top": 3}}
    swapped["risk_difference"]["direction"] = "negative"
    assert selected(swapped, tmp_path, ONE) == {0: {0: 1.0, 1: 1.0, 2: 1.0}}, "to deactivate, there is no such limit"


def test_items_without_a_partner_are_left_out_and_said_to_be(pairs: Path) -> None:
    before = selected(risk(top=3), pairs)
    rows = [
        ("q9", 100, [[100, 0, 0, 100], [100, 0, 0, 100]]),
        ("q2", 6, [[5, 1, 5, 1], [6, 0, 3, 3]]),
        ("q1", 4, [[4, 0, 3, 1], [4, 0, 2, 2]]),
    ]
    write(pairs / "a.safetensors", rows)
    with pytest.warns(RoutingWarning, match="of 3 and 2 items, 2 are in both profiles; only those are compared"):
        assert selected(risk(top=3), pairs) == before


def test_pairs_may_be_of_two_languages_or_within_each_of_several(pairs: Path) -> None:
    before = selected(risk(top=3), pairs)
    rows = [("q1", 5, [[1, 4, 2, 3], [3, 2, 3, 2]]), ("q2", 5, [[1, 4, 3, 2], [2, 3, 2, 3]])]
    write(pairs / "b.safetensors", rows, language="sw")
    assert selected(risk(top=3), pairs) == before
    a = [("q1", 6, [[5, 1, 5, 1], [6, 0, 3, 3]]), ("q1", 4, [[4, 0, 3, 1], [4, 0, 2, 2]])]
    b = [("q1", 5, [[1, 4, 2, 3], [3, 2, 3, 2]]), ("q1", 5, [[1, 4, 3, 2], [2, 3, 2, 3]])]
    write(pairs / "a.safetensors", a, language=["en", "sw"])
    write(pairs / "b.safetensors", b, language=["en", "sw"])
    assert selected(risk(top=3), pairs) == before


def test_pooled_counts_are_compared_as_they_are(tmp_path: Path) -> None:
    write_dump(tmp_path / "a.json", 10, [[9, 1, 8, 2], [10, 0, 5, 5]])
    write_dump(tmp_path / "b.json", 10, [[2, 8, 5, 5], [5, 5, 5, 5]])
    rule = {"risk_difference": {"profile_a": "a.json", "profile_b": "b.json", "top": 3}}
    assert selected(rule, tmp_path) == {1: {0: 1.0, 2: 1.0}, 2: {0: 1.0}}


def test_languages_of_different_items_are_warned_about(languages: Path) -> None:
    rows = [("q1", 10, LANGUAGES["sw"]), ("q2", 10, LANGUAGES["sw"])]
    write(languages / "sw.safetensors", rows, language="sw")
    rule = {"shared": {"profiles": profiles("en", "sw")}}
    with pytest.warns(RoutingWarning, match=r"shared\.profiles: .* not hold the same items: en has 1, sw has 2, 1 are"):
        assert selected(rule, languages)


RULES: dict[str, dict[str, Any]] = {
    "task": task(0.2),
    "multilingual": {"multilingual": {"profiles": profiles("en", "sw"), "threshold": 0.3}},
    "shared": {"shared": {"profiles": profiles("en", "sw"), "top_m": 1}},
    "exclusive": {"exclusive": {"profiles": profiles("en", "zh"), "languages": ["zh"], "top_m": 1, "threshold": 0.1}},
    "risk_difference": risk(top=3, direction="both"),
    "ids": {"ids": {1: {0: 0.5, 3: 0.25}}},
}


@pytest.mark.parametrize("name", RULES)
def test_a_random_control_matches_every_rule(name: str, folder: Path, languages: Path, pairs: Path) -> None:
    rule = RULES[name]
    like = selected(rule, folder)
    for seed in range(20):
        control = selected({"random": {"like": rule, "seed": seed}}, folder)
        assert control.keys() == like.keys()
        for layer, experts in control.items():
            assert not experts.keys() & like[layer].keys()
            assert Counter(experts.values()) == Counter(like[layer].values())
    choices = explained({"random": {"like": rule, "seed": 0}}, folder)
    assert all(choice.why.startswith("drawn from") for choice in choices)


@pytest.mark.parametrize("name", [*RULES, "random"])
def test_a_plan_holds_what_the_rule_explains(name: str, folder: Path, languages: Path, pairs: Path) -> None:
    rule = RULES.get(name, {"random": {"like": RULES["task"]}})
    choices = explained(rule, folder)
    told: dict[int, dict[int, float]] = {}
    for choice in choices:
        told.setdefault(choice.layer, {})[choice.expert] = choice.coefficient
    assert told == selected(rule, folder)
    places = [(choice.layer, choice.expert) for choice in choices]
    assert places == sorted(set(places))
    assert all(choice.why and choice.values.keys() == choices[0].values.keys() for choice in choices)


def test_the_hash_covers_what_is_selected_and_not_how(folder: Path, languages: Path) -> None:
    def hashed(rule: dict[str, Any]) -> str:
        return resolve(spec_of(rule, folder), SMALL).hash

    assert hashed(task(0.2)) == hashed(task(0.24)) == hashed({"ids": {1: [0, 2], 2: [1, 2]}})
    assert hashed(task(0.2)) != hashed(task(0.4))
    sources = [{"shared": {"profiles": profiles("en", "sw"), "top_m": 1, "source": each}} for each in ("en", "sw")]
    assert hashed(sources[0]) != hashed(sources[1]), "the same experts, other coefficients"
    before = hashed(task(0.2))
    rows = [("t1", 10, [[9, 1, 5, 5], [10, 0, 10, 0]]), ("t2", 2, [[0, 2, 2, 0], [0, 2, 2, 0]])]
    write(folder / "task.safetensors", rows)
    assert hashed(task(0.2)) != before, "the same file name, other contents"
